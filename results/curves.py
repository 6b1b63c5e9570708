"""Robust accuracy against eps, from the radii that verifiers leave: one pass for all eps."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from results.notes import show_eps
from results.records import UnitRecord, Verdict

LADDERS: dict[str, tuple[float, ...]] = {
    "linf": (0.0, 1 / 255, 2 / 255, 4 / 255, 8 / 255, 16 / 255, 0.1, 0.15, 0.2, 0.3),
    "l2": (0.0, 36 / 255, 72 / 255, 0.5, 1.0, 1.5, 2.0, 3.0),
    "l1": (0.0, 1.0, 3.0, 6.0, 12.0, 24.0),
}
"""The radii shown to people; the file holds every step of the curve."""


@dataclass(frozen=True)
class Curve:
    """Radii of one verifier on one model, one a sample, 0 for a misclassified one.

    For `exact-radius` a sample breaks beyond its radius; for a certificate it may hold further.
    """

    model: str
    attack: str
    norm: str
    radii: dict[int, float]

    def accuracy(self, eps: float) -> float:
        """The share of samples that no image within eps breaks (proven)."""
        return sum(radius > eps for radius in self.radii.values()) / len(self.radii)


EQ_3 = {"eq3_lower": "eq. 3 from below*", "eq3_upper": "eq. 3 from above*"}
EQ_3_NOTE = (
    "* Bhardwaj et al. (2022), eq. 3, as printed: bounds of Theorem 1's quantity for the two nearest centroids. They "
    "prove nothing about the model: not even the lower one is a certificate with several clusters a class."
)


def curves(records: Iterable[UnitRecord], proofs: Callable[[UnitRecord], Mapping[str, NDArray[Any]]]) -> list[Curve]:
    """One curve for each model, verifier and norm that left radii; the same radii hold at every eps.

    `proofs` reads a record's proofs, in which certificates keep the bounds of eq. 3.
    """
    by_verifier: dict[tuple[str, str, str], list[UnitRecord]] = {}
    for record in records:
        by_verifier.setdefault((record.unit.model, record.unit.attack, record.unit.norm), []).append(record)
    found: list[Curve] = []
    for (model, attack, norm), parts in by_verifier.items():
        if all(radius is None for record in parts for radius in record.radii):
            continue
        curve = Curve(model, attack, norm, {})
        others: dict[str, Curve] = {}
        for record in parts:
            curve.radii.update(zip(record.sample_ids, map(_known, record.radii), strict=True))
            kept = proofs(record) if record.proofs_sha256 is not None else {}
            for name in EQ_3.keys() & kept.keys():
                bounds = others.setdefault(name, Curve(model, EQ_3[name], norm, {}))
                bounds.radii.update(zip(_tried(record), map(_known, kept[name].tolist()), strict=True))
        found.append(curve)
        for name in EQ_3:
            if name in others:
                radii = dict.fromkeys(curve.radii, 0.0) | others[name].radii
                found.append(Curve(model, EQ_3[name], norm, radii))
    return found


def _known(radius: float | None) -> float:
    """0 where nothing is known: of a misclassified sample, or one the verifier gave NaN."""
    return 0.0 if radius is None or math.isnan(radius) else radius


def _tried(record: UnitRecord) -> list[int]:
    """The samples a verifier was given: those that are classified correctly."""
    pairs = zip(record.sample_ids, record.verdicts, strict=True)
    return [sample for sample, verdict in pairs if verdict is not Verdict.MISCLASSIFIED]


def curves_table(shown: Sequence[Curve]) -> str:
    """Proven accuracy in % over a ladder of eps, a table for each norm."""
    console = Console(file=StringIO(), force_terminal=False, width=10_000, legacy_windows=False)
    for norm in dict.fromkeys(curve.norm for curve in shown):
        of_norm = [curve for curve in shown if curve.norm == norm]
        table = Table(title=f"proven accuracy in % within eps, {norm}", title_justify="left")
        table.add_column("model", no_wrap=True)
        table.add_column("by", no_wrap=True)
        table.add_column("n", justify="right")
        for eps in LADDERS[norm]:
            table.add_column(show_eps(eps), justify="right")
        for curve in of_norm:
            cells = [f"{100 * curve.accuracy(eps):.2f}" for eps in LADDERS[norm]]
            table.add_row(*map(Text, (curve.model, curve.attack, str(len(curve.radii)), *cells)))
        console.print(table)
        if any(curve.attack in EQ_3.values() for curve in of_norm):
            console.print(EQ_3_NOTE, width=140)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def radii_csv(shown: Sequence[Curve]) -> str:
    """One line a model, verifier and sample, with its radius in the norm."""
    lines = [
        {"model": curve.model, "by": curve.attack, "norm": curve.norm, "sample": sample, "radius": radius}
        for curve in shown
        for sample, radius in sorted(curve.radii.items())
    ]
    return pd.DataFrame(lines, columns=["model", "by", "norm", "sample", "radius"]).to_csv(index=False)
