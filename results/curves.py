"""Robust accuracy against eps, from the radii that verifiers leave: one pass for all eps."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from results.records import UnitRecord
from results.render import show_eps

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
    found: dict[tuple[str, str, str], dict[int, float]] = {}

    def add(record: UnitRecord, by: str, samples: Iterable[int], values: Iterable[float | None]) -> None:
        radii = found.setdefault((record.unit.model, by, record.unit.norm), {})
        radii |= {
            sample: value if value and value == value else 0.0 for sample, value in zip(samples, values, strict=True)
        }

    for record in records:
        if not any(radius is not None for radius in record.radii):
            continue
        add(record, record.unit.attack, record.sample_ids, record.radii)
        kept = proofs(record)
        for name, title in EQ_3.items():
            if name in kept:
                add(record, title, record.sample_ids, [0.0] * len(record.sample_ids))
                tried = [s for s, radius in zip(record.sample_ids, record.radii, strict=True) if radius is not None]
                add(record, title, tried, kept[name].tolist())
    return [Curve(*key, radii) for key, radii in found.items()]


def curves_table(shown: Sequence[Curve]) -> str:
    """Proven accuracy in % over a ladder of eps, a table for each norm."""
    console = Console(file=StringIO(), force_terminal=False, width=140, legacy_windows=False)
    for norm in dict.fromkeys(curve.norm for curve in shown):
        of_norm = [curve for curve in shown if curve.norm == norm]
        table = Table(title=f"proven accuracy in % within eps, {norm}", title_justify="left")
        table.add_column("model")
        table.add_column("by")
        table.add_column("n", justify="right")
        for eps in LADDERS[norm]:
            table.add_column(show_eps(eps), justify="right")
        for curve in of_norm:
            cells = [f"{100 * curve.accuracy(eps):.2f}" for eps in LADDERS[norm]]
            table.add_row(curve.model, curve.attack, str(len(curve.radii)), *cells)
        console.print(table)
        if any(curve.attack in EQ_3.values() for curve in of_norm):
            console.print(EQ_3_NOTE)
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
