"""What our attacks cost beside the model's passes: time outside the model, and memory.

    python -m benchmark.performance.overhead

One thread, the zoo's small residual network, 256 searches at a time, in float32 and in its bfloat16 copy. Each figure
comes from a process of its own. Memory is the peak of the resident set above what the process held before: one
forward and backward pass of 256 samples, against a whole attack with as many lanes.
"""

import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch
from torch.nn import functional

from attacks.autoattack import ENSEMBLES
from attacks.losses import cross_entropy
from attacks.pgd import Ascent
from attacks.search import Method, search
from attacks.threat import Threat
from benchmark import datasets
from benchmark.cheap_copy import prepare_search
from benchmark.executors.memory import keep_freed_memory
from benchmark.instrument import instrument
from model_zoo.registry import load

LANES = 256
THREAT = Threat("linf", 8 / 255)
CPU = torch.device("cpu")
ROUNDS = 3


def methods() -> dict[str, Method]:
    """The zoo's searches by name."""
    standard = {part.name: part.make("linf", 10) for part in ENSEMBLES["standard"]}
    pgd = Ascent("pgd", lambda out, y: cross_entropy(out.logits, y), 20, 10, THREAT.eps / 4)
    return {"pgd20": pgd, **standard}


def measure(task: tuple[str, str]) -> tuple[float, float]:
    """Share of the time outside the model in percent, and MB above the start, of one search or one pass."""
    name, arithmetic = task
    torch.set_num_threads(1)
    keep_freed_memory()
    data, model = datasets.load("fashion-mnist"), load("pgd-at", "cpu").model
    searched = prepare_search(model, data.x, data.y, CPU, arithmetic, LANES)
    prepared = instrument(searched.model, CPU)
    prepared.lanes, prepared.slack = LANES, searched.slack
    prepared.shapes = (LANES,)
    x, y = data.x[:LANES].clone(), data.y[:LANES].clone()
    del data
    before, started = _resident(), time.perf_counter()
    if name == "one pass":
        images = x.requires_grad_(True)
        torch.autograd.grad(functional.cross_entropy(prepared(images), y), images)
    else:
        method = methods()[name]
        search(prepared, method, x, y, THREAT, seed=0, sample_ids=torch.arange(LANES))
    seconds = time.perf_counter() - started
    return 100 * (1 - prepared.seconds / seconds), _resident() - before


def _resident() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        for arithmetic in ("float32", "auto"):
            names = ("one pass", *methods())
            found = {name: list(pool.map(measure, [(name, arithmetic)] * ROUNDS)) for name in names}
            one = statistics.median(memory for _, memory in found["one pass"])
            shown = "float32" if arithmetic == "float32" else "bfloat16 copy"
            print(f"{shown}: one pass of {LANES} samples takes {one:.0f} MB")  # noqa: T201
            for name in methods():
                outside, memory = (statistics.median(values) for values in zip(*found[name], strict=True))
                print(f"  {name:18s} {outside:4.1f} % outside the model, {memory:4.0f} MB: {memory / one:.2f} passes")  # noqa: T201


if __name__ == "__main__":
    main()
