"""Comparisons of families to text: tables for people (percentage points), CSV and JSON for machines (fractions)."""

import statistics
from collections.abc import Sequence

import pandas as pd

from results.notes import show_eps
from results.printable import in_cell
from results.render_paired import formats
from results.seeds import Difference, FamilyComparison

LEGEND = (
    "NAME, NAME-seed1, ... are one family: the mean of its seeds and, in brackets, the lowest to the highest. "
    "difference: of the means, in percentage points on the same samples, with its 95 % interval over samples. p: do "
    "these networks differ on images like these (exact sign flips of samples)? p seeds: do the trainings differ (exact "
    "permutation of seeds between the two families)? In brackets the least p that so many seeds can give. clean: "
    "unattacked; robust: after all attacks of the run."
)


def _tables(comparisons: Sequence[FamilyComparison], form: str) -> str:
    cell = in_cell if form == "pipe" else str
    titles = dict.fromkeys((c.dataset, c.norm, c.eps, c.robust.n, c.against) for c in comparisons)
    parts = []
    for key in titles:
        dataset, norm, eps, n, against = key
        under = [c for c in comparisons if (c.dataset, c.norm, c.eps, c.robust.n, c.against) == key]
        lines = [_line(against, under[0].clean.accuracies_against, under[0].robust.accuracies_against)]
        lines += [_line(c.family, c.clean.accuracies, c.robust.accuracies, c) for c in under]
        frame = pd.DataFrame([{name: cell(text) for name, text in line.items()} for line in lines], dtype=str)
        table = frame.to_markdown(
            index=False, disable_numparse=True, tablefmt=form, colalign=["left", *["right"] * (frame.shape[1] - 1)]
        )
        families = {against: under[0].members_against} | {c.family: c.members for c in under}
        named = "; ".join(f"{family}: {', '.join(members)}" for family, members in families.items() if len(members) > 1)
        title = f"{dataset}, {norm} eps = {show_eps(eps)}, n = {n}, against {against}"
        parts.append("\n\n".join(part for part in (title, table, named) if part) + "\n")
    return "\n".join([*parts, LEGEND, ""])


def _line(
    family: str, clean: Sequence[float], robust: Sequence[float], found: FamilyComparison | None = None
) -> dict[str, str]:
    return {
        "family": family,
        "seeds": str(len(robust)),
        "clean": _mean(clean),
        **_compared("clean", found.clean if found else None),
        "robust": _mean(robust),
        **_compared("robust", found.robust if found else None),
    }


def _compared(name: str, found: Difference | None) -> dict[str, str]:
    shown = {"difference": "", "p": "", "p seeds": ""}
    if found is not None:
        low, high = 100 * found.low, 100 * found.high
        shown = {
            "difference": f"{100 * found.difference:+.2f} ({low:+.2f} to {high:+.2f})",
            "p": f"{found.p:.2g}",
            "p seeds": f"{found.p_seeds:.2g} ({found.least:.2g})",
        }
    return {f"{name} {column}": text for column, text in shown.items()}


def _mean(accuracies: Sequence[float]) -> str:
    shown = f"{100 * statistics.mean(accuracies):.2f}"
    return shown if len(accuracies) == 1 else f"{shown} ({100 * min(accuracies):.2f} to {100 * max(accuracies):.2f})"


FORMATS = formats(_tables)
