"""Why the zoo's network has a stem of stride 3: gradients a second, beside stride 2.

    python -m benchmark.performance.gradients

One thread a process, one process a core, as `bench run` works; input gradients of the cross entropy at the
batch shape of the harness, batch norm folded. Medians of 5 rounds in which the variants take turns.
"""

import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch
from torch.nn import functional

from benchmark.instrument import CPU_SHAPE
from model_zoo.adapter import LogitsModel, fold_batch_norm
from model_zoo.architectures.small_resnet import SmallResNet

STRIDES = (3, 2)
ROUNDS = 5
SECONDS = 2.0


def measure(stride: int) -> float:
    """Gradients a second in this process, on one thread."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = LogitsModel(SmallResNet(stride=stride))
    fold_batch_norm(model)
    x, y = torch.rand(CPU_SHAPE, 1, 28, 28), torch.randint(10, (CPU_SHAPE,))

    def gradient() -> None:
        images = x.clone().requires_grad_(True)
        torch.autograd.grad(functional.cross_entropy(model(images), y), images)

    gradient()
    started, passes = time.perf_counter(), 0
    while time.perf_counter() - started < SECONDS:
        gradient()
        passes += 1
    return passes * CPU_SHAPE / (time.perf_counter() - started)


def main() -> None:
    cores = os.cpu_count() or 1
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn")) as pool:
        rounds = [{s: sum(pool.map(measure, [s] * cores)) for s in STRIDES} for _ in range(ROUNDS)]
    for stride in STRIDES:
        rate = statistics.median(r[stride] for r in rounds)
        ratio = statistics.median(r[stride] / r[2] for r in rounds)
        print(f"stem stride {stride}: {rate:8.0f} gradients a second on {cores} cores, {ratio:.2f} x stride 2")  # noqa: T201


if __name__ == "__main__":
    main()
