"""Paired comparison of two classifiers on the same samples."""

import json
import math

import pytest

from results.paired import compare, pair
from results.records import UnitRecord, WorkUnit
from results.render_paired import FORMATS
from tests.results.builders import record, unit


def stands(letters: str) -> dict[int, bool]:
    return {i: letter == "S" for i, letter in enumerate(letters)}


def test_the_pair_counts_who_stands_alone() -> None:
    found = pair(stands("SSSSBB"), stands("SBBBSB"))
    assert (found.n, found.kept, found.lost) == (6, 3, 1)
    assert found.difference == pytest.approx(2 / 6)


@pytest.mark.parametrize(("kept", "lost"), [(0, 0), (1, 0), (0, 5), (7, 3), (12, 12), (30, 9)])
def test_p_is_the_exact_two_sided_tail_of_a_fair_coin(kept: int, lost: int) -> None:
    found = pair(stands("S" * kept + "B" * lost + "SB"), stands("B" * kept + "S" * lost + "SB"))
    tosses = kept + lost
    tail = sum(math.comb(tosses, i) for i in range(min(kept, lost) + 1)) / 2**tosses
    assert found.p == pytest.approx(min(1.0, 2 * tail))


def test_the_interval_is_that_of_agresti_and_min() -> None:
    found = pair(stands("S" * 30 + "B" * 9 + "S" * 61), stands("B" * 30 + "S" * 9 + "S" * 61))
    b, c, n = 30.5, 9.5, 102
    half = 1.959964 * math.sqrt((b + c) - (b - c) ** 2 / n) / n
    assert (found.low, found.high) == pytest.approx(((b - c) / n - half, (b - c) / n + half), rel=1e-6)
    assert found.low > 0.0
    assert found.p < 0.05


def test_other_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="the samples must be the same"):
        pair(stands("SS"), stands("S"))
    with pytest.raises(ValueError, match="at least one"):
        pair({}, {})


def run() -> tuple[list[WorkUnit], list[UnitRecord]]:
    """Two classifiers, clean and two attacks; one of them through another head too."""
    told = [
        (unit(model="a", group="a", attack="clean"), "SSSM"),
        (unit(model="a", group="a"), "SSBM"),
        (unit(model="a", group="a", attack="magnet100"), "SSSM"),
        (unit(model="b", group="b", attack="clean"), "SSMS"),
        (unit(model="b", group="b"), "SBMS"),
        (unit(model="b@scores", group="b", attack="magnet100"), "BSMS"),
    ]
    return [of for of, _ in told], [record(of, verdicts) for of, verdicts in told]


def test_classifiers_are_compared_by_their_worst_case() -> None:
    units, records = run()
    (found,) = compare(units, records, "a")
    assert (found.group, found.against, found.norm) == ("b", "a", "linf")
    assert (found.clean.kept, found.clean.lost, found.clean.n) == (1, 1, 4)
    assert (found.robust.kept, found.robust.lost) == (1, 2)


def test_what_cannot_be_compared_is_refused() -> None:
    units, records = run()
    with pytest.raises(ValueError, match="no classifier 'c' in the run; it has a, b"):
        compare(units, records, "c")
    with pytest.raises(ValueError, match="the run is incomplete"):
        compare(units, records[:-1], "a")


def test_formats_hold_the_same_numbers() -> None:
    found = compare(*run(), against="a")
    for form in ("terminal", "md"):
        text = FORMATS[form](found)
        assert "digits, linf eps = 8/255, n = 4, against a" in text
        assert "-25.00 (" in text
        assert "1, 2" in text
    assert json.loads(FORMATS["json"](found))[0]["robust"]["lost"] == 2
    assert "robust.lost" in FORMATS["csv"](found).splitlines()[0]
