"""Paired comparisons to text: tables for people (percentage points), CSV and JSON for machines (fractions)."""

import dataclasses
import json
from collections.abc import Callable, Sequence

import pandas as pd

from results.notes import show_eps
from results.paired import Comparison, Pair
from results.printable import in_cell

LEGEND = (
    "Difference in percentage points on the same samples, with its 95 % interval. kept: samples that stand with this "
    "classifier alone; lost: with the other alone; p: exact McNemar test. clean: unattacked; robust: after all attacks "
    "of the run."
)


def _tables(comparisons: Sequence[Comparison], form: str) -> str:
    titles = dict.fromkeys((c.dataset, c.norm, c.eps, c.robust.n, c.against) for c in comparisons)
    parts = []
    for title in titles:
        dataset, norm, eps, n, against = title
        lines = [
            {"classifier": c.group} | _columns("clean", c.clean) | _columns("robust", c.robust)
            for c in comparisons
            if (c.dataset, c.norm, c.eps, c.robust.n, c.against) == title
        ]
        cell = in_cell if form == "pipe" else str
        frame = pd.DataFrame([{name: cell(text) for name, text in line.items()} for line in lines], dtype=str)
        table = frame.to_markdown(
            index=False, disable_numparse=True, tablefmt=form, colalign=["left", *["right"] * (frame.shape[1] - 1)]
        )
        parts.append(f"{dataset}, {norm} eps = {show_eps(eps)}, n = {n}, against {against}\n\n{table}\n")
    return "\n".join([*parts, LEGEND, ""])


def _columns(name: str, found: Pair) -> dict[str, str]:
    low, high = 100 * found.low, 100 * found.high
    return {
        name: f"{100 * found.difference:+.2f} ({low:+.2f} to {high:+.2f})",
        f"{name} kept, lost": f"{found.kept}, {found.lost}",
        f"{name} p": f"{found.p:.2g}",
    }


def _records(comparisons: Sequence[Comparison]) -> list[dict[str, object]]:
    return [dataclasses.asdict(comparison) for comparison in comparisons]


FORMATS: dict[str, Callable[[Sequence[Comparison]], str]] = {
    "terminal": lambda comparisons: _tables(comparisons, "simple"),
    "md": lambda comparisons: _tables(comparisons, "pipe"),
    "csv": lambda comparisons: pd.json_normalize(_records(comparisons)).to_csv(index=False),
    "json": lambda comparisons: json.dumps(_records(comparisons), indent=2) + "\n",
}
