"""Which attack broke what, counted by hand."""

from typing import Any

from results.breaks import AttackBreaks, Breaks, breaks
from results.records import UnitRecord, WorkUnit
from tests.results.builders import record, results_of, unit

CELLS = {
    ("net", "clean"): "SSSSSM",
    ("net", "pgd20"): "BBSSSM",
    ("net", "autoattack"): "BSBBSM",
    ("net@scores", "pgd20"): "SSSBSM",
}


def _by_attack(found: Breaks) -> dict[tuple[str, str], AttackBreaks]:
    return {(attack.option(found.group), attack.attack): attack for attack in found.attacks}


def test_what_each_attack_broke_and_what_it_alone_broke() -> None:
    (found,) = breaks(*results_of(CELLS))
    assert (found.group, found.n, found.right, found.broken, found.complete) == ("net", 6, 5, 4, True)
    counts = {name: (attack.broken, attack.alone) for name, attack in _by_attack(found).items()}
    assert counts == {("", "pgd20"): (2, 1), ("", "autoattack"): (3, 1), ("scores", "pgd20"): (1, 0)}


def test_the_parts_of_an_ensemble_are_counted_by_what_won() -> None:
    units, records = results_of(CELLS)
    records[2] = _with(records[2], winners=["square", None, "apgd-ce", "apgd-ce", None, None])
    (found,) = breaks(units, records)
    assert _by_attack(found)["", "autoattack"].winners == {"apgd-ce": 2, "square": 1}
    assert _by_attack(found)["", "pgd20"].winners == {"pgd20": 2}


def test_nothing_is_said_to_be_broken_alone_before_all_is_done() -> None:
    units, records = results_of(CELLS)
    (found,) = breaks(units, records[:2])
    assert not found.complete
    assert {name: (a.done, a.n, a.broken, a.alone) for name, a in _by_attack(found).items()} == {
        ("", "pgd20"): (6, 6, 2, None),
        ("", "autoattack"): (0, 6, 0, None),
        ("scores", "pgd20"): (0, 6, 0, None),
    }
    (nothing,) = breaks(units, [])
    assert nothing.right is None


def test_a_verifier_is_there_where_it_broke_something() -> None:
    units = [unit(attack="exact", proves=True), unit(attack="certify", proves=True), unit()]
    (found,) = breaks(units, [record(units[0], "BCCM"), record(units[1], "SCSM"), record(units[2], "SSSM")])
    assert {a.attack: a.alone for a in found.attacks} == {"exact": 1, "pgd20": 0}


def test_threats_and_parts_of_a_plan_are_told_apart() -> None:
    units: list[WorkUnit] = [unit(stop=2), unit(start=2, stop=4), unit(eps=0.1)]
    first, second = breaks(units, [record(units[0], "SB"), record(units[1], "BB"), record(units[2], "BBBB")])
    assert (first.eps, first.broken, first.n) == (8 / 255, 3, 4)
    assert (second.eps, second.broken) == (0.1, 4)
    assert first.right is None  # nothing was told of clean images


def _with(of: UnitRecord, **changes: Any) -> UnitRecord:
    return UnitRecord.model_validate(of.model_dump() | changes)
