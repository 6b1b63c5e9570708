"""What an attack holds in memory beside a single pass: peak resident memory above that of the loaded model and data.

    python -m benchmark.performance.memory      (Linux)

The zoo's small residual network, 250 images at a time, one thread; every figure is a process of its own, whose peak is
reset (`/proc/self/clear_refs`) after model, data and libraries are loaded. Writes memory.md beside this file.
"""

import ctypes
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from attacks.registry import call, resolve
from attacks.threat import Threat
from benchmark import datasets, provenance
from benchmark.cheap_copy import prepare_search
from benchmark.executors.memory import keep_freed_memory
from benchmark.instrument import LANES, instrument
from model_zoo.registry import load

BATCH = 250
CPU = torch.device("cpu")
ATTACKS = ("pgd20", "pgd100", "autoattack-fast", "screen")
THREAT = Threat("linf", 8 / 255)
OUT = Path(__file__).with_suffix(".md")


def main() -> None:
    measured = {what: _in_a_process(what) for what in ("a pass", *ATTACKS)}
    one_pass = measured["a pass"]
    lines = [
        "# Memory",
        "",
        f"`python -m benchmark.performance.memory` on {time.strftime('%Y-%m-%d')}, commit {provenance.commit()[:10]}, "
        f"{provenance.machine(CPU)}; torch {torch.__version__}.",
        f"pgd-at, {BATCH} images, float32. Peak above what is held before: {one_pass:.0f} MiB for one forward and "
        "backward pass.",
        "",
        "| attack | peak, MiB | times one pass |",
        "|---|---|---|",
        *(f"| {a} | {measured[a]:.0f} | {measured[a] / one_pass:.2f} |" for a in ATTACKS),
    ]
    OUT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.stdout.write(OUT.read_text(encoding="utf-8"))


def peak(what: str) -> float:
    """Peak resident memory of this process in MiB, above that before a pass or an attack."""
    torch.set_num_threads(1)
    keep_freed_memory()
    data, model = datasets.load("fashion-mnist", None), load("pgd-at", "cpu").model
    attacked = instrument(model, CPU)
    x, y = data.x[:BATCH], data.y[:BATCH]
    _touch(model, x[:1])
    if what != "a pass":
        searched = prepare_search(model, data.x, data.y, CPU, "float32", LANES)
        attacked.shapes = searched.shapes or attacked.shapes
        attack = call(resolve(what), None)
        attack(attacked, x[:2], y[:2], THREAT, seed=0, sample_ids=torch.arange(2))  # imports, first allocations
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _kibibytes("VmHWM")
    if what == "a pass":
        _touch(model, x)
    else:
        attack(attacked, x, y, THREAT, seed=0, sample_ids=torch.arange(BATCH))
    return (_kibibytes("VmHWM") - before) / 1024


def _kibibytes(name: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(name)))


def _touch(model: torch.nn.Module, x: torch.Tensor) -> None:
    images = x.clone().requires_grad_(True)
    torch.autograd.grad(model(images).sum(), images)


def _in_a_process(what: str) -> float:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(peak, what).result()


if __name__ == "__main__":
    main()
