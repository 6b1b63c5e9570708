"""What our attacks cost beside the model's passes: time outside the model.

    python -m benchmark.performance.overhead

One thread, the zoo's small residual network, 256 searches at a time, in float32 and in its bfloat16 copy. Each figure
is the median of processes of their own.
"""

import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch

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


def measure(task: tuple[str, str]) -> float:
    """Share of the time outside the model, in percent, of one search."""
    name, arithmetic = task
    torch.set_num_threads(1)
    keep_freed_memory()
    data, model = datasets.load("fashion-mnist"), load("pgd-at", "cpu").model
    searched = prepare_search(model, data.x, data.y, CPU, arithmetic, LANES)
    prepared = instrument(searched.model, CPU)
    prepared.lanes, prepared.slack, prepared.shapes = LANES, searched.slack, (LANES,)
    x, y, ids = data.x[:LANES], data.y[:LANES], torch.arange(LANES)
    started = time.perf_counter()
    search(prepared, methods()[name], x, y, THREAT, seed=0, sample_ids=ids)
    return 100 * (1 - prepared.seconds / (time.perf_counter() - started))


def main() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        for arithmetic in ("float32", "auto"):
            for name in methods():
                outside = statistics.median(pool.map(measure, [(name, arithmetic)] * ROUNDS))
                print(f"{arithmetic:8s} {name:18s} {outside:4.1f} % of the time outside the model")  # noqa: T201


if __name__ == "__main__":
    main()
