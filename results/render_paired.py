"""Paired comparisons to text: tables for people (percentage points), CSV and JSON for machines (fractions)."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import TypeVar

import pandas as pd

from results.notes import show_eps
from results.paired import Comparison, Pair
from results.printable import in_cell
from results.seeds import FamilyComparison

_Compared = TypeVar("_Compared", Comparison, FamilyComparison)

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


def formats(
    tables: Callable[[Sequence[_Compared], str], str],
) -> dict[str, Callable[[Sequence[_Compared]], str]]:
    """By name: `tables` for people, called with tabulate's format, and every field for machines."""
    return {
        "terminal": lambda found: tables(found, "simple"),
        "md": lambda found: tables(found, "pipe"),
        "csv": lambda found: (
            pd.json_normalize([dataclasses.asdict(one) for one in found]).map(_listed).to_csv(index=False)
        ),
        "json": lambda found: json.dumps([dataclasses.asdict(one) for one in found], indent=2) + "\n",
    }


def _listed(value: object) -> object:
    return " ".join(map(str, value)) if isinstance(value, tuple) else value


FORMATS = formats(_tables)
