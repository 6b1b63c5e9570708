"""How near the network's passes come to what the processor can do: the floor under every attack's time.

    python -m benchmark.performance.floor

One thread, pgd-at, 250 images at a time; each figure is the fastest of many calls, taken in turns. Writes floor.md
beside this file.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmark import datasets, provenance
from benchmark.cheap_copy import in_bfloat16
from benchmark.executors.memory import keep_freed_memory
from model_zoo.registry import load

BATCH, CALLS, SIDE = 250, 60, 1024
OUT = Path(__file__).with_suffix(".md")


def main() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    x = datasets.load("fashion-mnist", None).x[:BATCH]
    model = load("pgd-at", "cpu").model
    twin = in_bfloat16(model, x[:1]).eval()
    squares = {dtype: torch.randn(SIDE, SIDE).to(dtype) for dtype in (torch.float32, torch.bfloat16)}
    calls: dict[str, Callable[[], object]] = {
        "float32 matrix product": lambda: squares[torch.float32] @ squares[torch.float32],
        "bfloat16 matrix product": lambda: squares[torch.bfloat16] @ squares[torch.bfloat16],
        "float32 forward": lambda: forward(model, x),
        "bfloat16 copy, forward": lambda: forward(twin, x),
        "float32 gradient": lambda: gradient(model, x),
        "bfloat16 copy, gradient": lambda: gradient(twin, x),
    }
    seconds = _fastest(calls)
    lines = [
        "# The floor",
        "",
        f"`python -m benchmark.performance.floor` on {time.strftime('%Y-%m-%d')}, commit {provenance.commit()[:10]}, "
        f"{provenance.machine(torch.device('cpu'))}; torch {torch.__version__}.",
        "",
        "| what | ms | images a second | GFLOP/s | share of the matrix product's |",
        "|---|---|---|---|---|",
    ]
    with FlopCounterMode(display=False) as counter:
        forward(model, x)
    counted_forward = int(counter.get_total_flops())
    operations = {"forward": counted_forward, "gradient": 2 * counted_forward}  # the same products again, transposed
    for name, taken in seconds.items():
        kind, precision = name.split()[-1], name.split()[0]
        counted = operations.get(kind, 2 * SIDE**3)
        share = seconds[f"{precision} matrix product"] / (2 * SIDE**3) * counted / taken
        rate = f"{BATCH / taken:.0f}" if kind in operations else "–"
        lines.append(f"| {name} | {1e3 * taken:.2f} | {rate} | {counted / taken / 1e9:.0f} | {100 * share:.0f} % |")
    OUT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.stdout.write(OUT.read_text(encoding="utf-8"))


@torch.no_grad()
def forward(model: nn.Module, x: Tensor) -> Tensor:
    """Logits alone, as Square asks for."""
    logits: Tensor = model(x)
    return logits


def gradient(model: nn.Module, x: Tensor) -> Tensor:
    """The input gradient of a logit, as the other attacks ask for."""
    images = x.clone().requires_grad_(True)
    return torch.autograd.grad(model(images)[:, 0].sum(), images)[0]


def _fastest(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    seconds = dict.fromkeys(calls, float("inf"))
    for _ in range(CALLS):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            seconds[name] = min(seconds[name], time.perf_counter() - started)
    return seconds


if __name__ == "__main__":
    main()
