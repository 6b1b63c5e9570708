"""Curves from radii written by hand, where every share can be counted on the page."""

import csv
import math
from collections.abc import Mapping
from io import StringIO
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from results.curves import EQ_3, LADDERS, Curve, curves, curves_table, radii_csv
from results.records import UnitRecord
from tests.results.builders import record, unit

Proofs = Mapping[str, NDArray[Any]]


def _verified(verdicts: str, radii: list[float | None], sha256: str | None = None, **changes: Any) -> UnitRecord:
    start = changes.pop("start", 0)
    of = unit(
        attack=changes.pop("attack", "exact-radius"), proves=True, start=start, stop=start + len(verdicts), **changes
    )
    made = record(of, verdicts).model_dump() | {"radii": radii, "proofs_sha256": sha256}
    return UnitRecord.model_validate(made)


def _none(record: UnitRecord) -> Proofs:
    raise AssertionError("there are no proofs to be read")


def test_the_accuracy_at_an_eps_is_the_share_of_larger_radii() -> None:
    (curve,) = curves([_verified("MBCC", [None, 0.02, 0.05, 0.3])], _none)
    assert curve == Curve("net", "exact-radius", "linf", {0: 0.0, 1: 0.02, 2: 0.05, 3: 0.3})
    shares = {0.0: 3, 0.01: 3, 0.02: 2, 0.049: 2, 0.05: 1, 0.29: 1, 0.3: 0, 1.0: 0}
    assert {eps: 4 * curve.accuracy(eps) for eps in shares} == shares


def test_no_radius_is_a_radius_of_zero() -> None:
    (curve,) = curves([_verified("MSSC", [None, None, 0.0, 0.1])], _none)
    assert curve.radii == {0: 0.0, 1: 0.0, 2: 0.0, 3: 0.1}
    assert curve.accuracy(0.0) == 0.25


def test_a_part_without_any_radius_counts_in_the_share() -> None:
    """The second unit holds misclassified samples only; left out, 100 % would be proven."""
    parts = [_verified("CC", [0.1, 0.2]), _verified("MM", [None, None], start=2), _verified("CM", [0.3, None], start=4)]
    for order in (parts, parts[::-1], [parts[1], parts[0], parts[2]]):
        (curve,) = curves(order, _none)
        assert dict(sorted(curve.radii.items())) == {0: 0.1, 1: 0.2, 2: 0.0, 3: 0.0, 4: 0.3, 5: 0.0}
        assert curve.accuracy(0.0) == 0.5


def test_verifiers_without_radii_have_no_curve() -> None:
    assert curves([_verified("CCBB", [None] * 4, attack="exact")], _none) == []
    assert curves([], _none) == []


def test_models_verifiers_and_norms_have_their_own_curves_and_eps_share_one() -> None:
    records = [
        _verified("CB", [0.1, 0.01]),
        _verified("CC", [0.1, 0.01], eps=0.001),
        _verified("CB", [0.3, 0.02], norm="l2", eps=0.1),
        _verified("CB", [0.2, 0.02], model="other", group="other"),
        _verified("CS", [0.05, 0.0], attack="certify"),
    ]
    found = curves(records, _none)
    assert [(c.model, c.attack, c.norm, c.radii) for c in found] == [
        ("net", "exact-radius", "linf", {0: 0.1, 1: 0.01}),
        ("net", "exact-radius", "l2", {0: 0.3, 1: 0.02}),
        ("other", "exact-radius", "linf", {0: 0.2, 1: 0.02}),
        ("net", "certify", "linf", {0: 0.05, 1: 0.0}),
    ]


def _certified() -> tuple[list[UnitRecord], dict[str, Proofs]]:
    """Two parts with bounds of eq. 3, one of a sample that a verifier knows nothing of, and one of none."""
    records = [
        _verified("MCS", [None, 0.1, None], "p1", attack="certify"),
        _verified("CC", [0.2, 0.3], "p2", attack="certify", start=3),
        _verified("MM", [None, None], attack="certify", start=5),
    ]
    proofs: dict[str, Proofs] = {
        records[0].key: {"eq3_lower": np.array([0.15, math.nan]), "eq3_upper": np.array([0.4, math.nan])},
        records[1].key: {"eq3_lower": np.array([0.25, 0.35]), "eq3_upper": np.array([0.5, 0.6])},
    }
    return records, proofs


def test_the_bounds_of_eq_3_stand_beside_the_certificates_over_the_same_samples() -> None:
    records, proofs = _certified()
    certified, lower, upper = curves(records, lambda r: proofs[r.key])
    assert (certified.attack, lower.attack, upper.attack) == ("certify", *EQ_3.values())
    assert certified.radii == {0: 0.0, 1: 0.1, 2: 0.0, 3: 0.2, 4: 0.3, 5: 0.0, 6: 0.0}
    assert lower.radii == {0: 0.0, 1: 0.15, 2: 0.0, 3: 0.25, 4: 0.35, 5: 0.0, 6: 0.0}
    assert upper.radii == {0: 0.0, 1: 0.4, 2: 0.0, 3: 0.5, 4: 0.6, 5: 0.0, 6: 0.0}


def test_proofs_without_bounds_of_eq_3_add_nothing() -> None:
    (curve,) = curves([_verified("CB", [0.1, 0.01], "p")], lambda r: {"weight": np.zeros(3)})
    assert curve.attack == "exact-radius"


def test_the_file_holds_every_radius_bit_for_bit() -> None:
    radii = {3: 0.1 + 0.2, 0: 0.0, 1: 1e-17, 2: float(np.nextafter(8 / 255, 1.0))}
    lines = list(csv.DictReader(StringIO(radii_csv([Curve("net", "exact-radius", "linf", radii)]))))
    assert [int(line["sample"]) for line in lines] == [0, 1, 2, 3]
    assert {int(line["sample"]): float(line["radius"]) for line in lines} == radii
    assert {(line["model"], line["by"], line["norm"]) for line in lines} == {("net", "exact-radius", "linf")}


def test_the_table_shows_percentages_over_the_ladder_of_each_norm() -> None:
    shown = [Curve("net", "exact-radius", norm, {0: 0.0, 1: 0.05, 2: 40.0}) for norm in LADDERS]
    text = curves_table(shown)
    assert [text.count(f"proven accuracy in % within eps, {norm}") for norm in LADDERS] == [1, 1, 1]
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "exact-radius" in line]
    linf = rows[0]
    assert linf[:3] == ["net", "exact-radius", "3"]
    expected = [66.67 if eps < 0.05 else 33.33 for eps in LADDERS["linf"]]
    assert [float(cell) for cell in linf[3:]] == expected
    assert "They prove nothing about the model" not in text


def test_the_table_says_that_eq_3_proves_nothing() -> None:
    records, proofs = _certified()
    text = " ".join(curves_table(curves(records, lambda r: proofs[r.key])).split())
    for name in EQ_3.values():
        assert name in text
    assert "They prove nothing about the model" in text


@pytest.mark.parametrize("name", ["weights[a]/net.safetensors", "[/x]", "x" * 150])
def test_the_table_shows_names_literally_and_whole(name: str) -> None:
    text = curves_table([Curve(name, "exact-radius", "linf", {0: 0.05})])
    assert name in text
    assert "100.00" in text
    assert "…" not in text
