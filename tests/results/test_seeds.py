"""Families of seeds on the same samples: both tests against enumeration, one seed each against McNemar's."""

import itertools
import json
import math
import random
import statistics

import pytest

from results.paired import pair
from results.records import UnitRecord, WorkUnit
from results.render_seeds import FORMATS
from results.seeds import MOST_DEALT, compare_families, difference, family_of, flip_signs, permute_seeds
from tests.results.builders import record, unit


def stands(letters: str) -> dict[int, bool]:
    return {i: letter == "S" for i, letter in enumerate(letters)}


@pytest.mark.parametrize(
    ("classifier", "family"),
    [
        ("clustr-at", "clustr-at"),
        ("clustr-at-seed2", "clustr-at"),
        ("runs/mine-seed10.safetensors", "runs/mine.safetensors"),
        ("clustr-seed1@nearest=4", "clustr@nearest=4"),
        ("seed1", "seed1"),
        ("a-seed1-b", "a-seed1-b"),
        ("a-seeds", "a-seeds"),
    ],
)
def test_a_family_is_a_name_without_its_seed(classifier: str, family: str) -> None:
    assert family_of(classifier) == family


@pytest.mark.parametrize("differences", [(), (0, 0), (3,), (1, 1, -1), (2, -1, 3, 3, -2, 0, 1), (6, 6, -6, 9, 1, 1, 1)])
def test_sign_flips_are_counted_exactly(differences: tuple[int, ...]) -> None:
    flips = itertools.product((1, -1), repeat=len(differences))
    sums = [abs(sum(map(math.prod, zip(differences, signs, strict=True)))) for signs in flips]
    expected = sum(one >= abs(sum(differences)) for one in sums) / len(sums)
    assert flip_signs(differences) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("kept", "lost"), [(0, 0), (1, 0), (7, 3), (12, 12), (300, 90)])
def test_one_seed_each_is_mcnemars_test(kept: int, lost: int) -> None:
    first, second = stands("S" * kept + "B" * lost + "SSB"), stands("B" * kept + "S" * lost + "SSB")
    found, known = difference([first], [second]), pair(first, second)
    assert found.n == known.n
    assert found.difference == pytest.approx(known.difference)
    assert (found.low, found.high) == pytest.approx((known.low, known.high))
    assert found.p == pytest.approx(known.p, rel=1e-6, abs=1e-14)
    assert (found.p_seeds, found.least) == (1.0, 1.0)


def test_several_seeds_are_held_by_their_means() -> None:
    found = difference([stands("SSSB"), stands("SSBB"), stands("SSBB")], [stands("SBSB"), stands("BBSB")])
    assert found.accuracies == pytest.approx((0.75, 0.5, 0.5))
    assert found.accuracies_against == pytest.approx((0.5, 0.25))
    assert found.difference == pytest.approx(statistics.mean((0.75, 0.5, 0.5)) - statistics.mean((0.5, 0.25)))
    # by sample 1/2, 1, -2/3, 0, together 5/6; with other signs 13/6, 1/6 or 7/6
    assert found.p == pytest.approx(3 / 4)


@pytest.mark.parametrize(
    ("first", "second", "least"),
    [
        ((90, 80, 85), (70, 60, 65), 2 / 20),
        ((90, 85), (70,), 1 / 3),
        ((80, 70), (70, 80), 2 / 6),
        ((90, 60, 85), (70, 80, 65), 2 / 20),
        ((81, 82), (81, 82, 80, 79), 1 / 15),
        ((90,), (70,), 1.0),
    ],
)
def test_seeds_are_dealt_in_every_way(first: tuple[int, ...], second: tuple[int, ...], least: float) -> None:
    pooled, share = [*first, *second], len(first) / len(second)
    sums = [sum(dealt) for dealt in itertools.combinations(pooled, len(first))]
    seen = abs(sum(first) - share * sum(second))
    expected = sum(abs(one - share * (sum(pooled) - one)) >= seen - 1e-9 for one in sums) / len(sums)
    found = permute_seeds(first, second)
    assert found[0] == pytest.approx(expected)
    assert found[1] == pytest.approx(least)
    assert found[0] >= found[1] - 1e-12


def test_of_too_many_ways_to_deal_seeds_some_are_drawn() -> None:
    p, least = permute_seeds(range(80, 92), range(60, 72))  # 2.7 million ways
    assert p == least == 1 / (MOST_DEALT + 1)
    assert permute_seeds([80, 81] * 6, [81, 80] * 6)[0] == 1.0


def _drawn(chance: random.Random, shares: list[float]) -> dict[int, bool]:
    return {i: chance.random() < share for i, share in enumerate(shares)}


def test_no_difference_is_seldom_significant() -> None:
    chance = random.Random(0)
    ps = []
    for _ in range(400):
        shares = [chance.random() for _ in range(60)]
        first, second = ([_drawn(chance, shares) for _ in range(seeds)] for seeds in (2, 3))
        ps.append(difference(first, second).p)
    assert 0.01 < statistics.mean(p <= 0.05 for p in ps) < 0.08


def run() -> tuple[list[WorkUnit], list[UnitRecord]]:
    told = {
        "a": ("SSSM", "SSBM"),
        "a-seed1": ("SSSS", "SSSB"),
        "b-seed1": ("SSMS", "SBMS"),
        "b-seed2": ("SSMS", "BBMB"),
    }
    of = [
        (unit(model=name, group=name, attack=attack), verdicts)
        for name, both in told.items()
        for attack, verdicts in zip(("clean", "pgd20"), both, strict=True)
    ]
    return [one for one, _ in of], [record(one, verdicts) for one, verdicts in of]


def test_a_run_is_compared_by_family() -> None:
    units, records = run()
    for name in ("a", "a-seed1"):
        (found,) = compare_families(units, records, name)
        assert (found.family, found.members) == ("b", ("b-seed1", "b-seed2"))
        assert (found.against, found.members_against) == ("a", ("a", "a-seed1"))
        assert found.robust.accuracies == (0.5, 0.0)
        assert found.robust.accuracies_against == (0.5, 0.75)
        assert found.clean.difference == pytest.approx(0.75 - 0.875)
    with pytest.raises(ValueError, match="no classifier 'c' in the run; it has a, a-seed1"):
        compare_families(units, records, "c")
    with pytest.raises(ValueError, match="the run is incomplete"):
        compare_families(units, records[:-1], "a")
    with pytest.raises(ValueError, match="no family of classifiers but a"):
        compare_families(units[:4], records[:4], "a")


def test_formats_hold_the_same_numbers() -> None:
    found = compare_families(*run(), against="a")
    for form in ("terminal", "md"):
        text = FORMATS[form](found)
        assert "digits, linf eps = 8/255, n = 4, against a" in text
        assert "25.00 (0.00 to 50.00)" in text
        assert "62.50 (50.00 to 75.00)" in text
        assert "-37.50 (" in text
        assert "a: a, a-seed1; b: b-seed1, b-seed2" in text
    assert json.loads(FORMATS["json"](found))[0]["robust"]["accuracies"] == [0.5, 0.0]
    header, line = FORMATS["csv"](found).splitlines()
    cells = dict(zip(header.split(","), line.split(","), strict=True))
    assert (cells["members"], cells["robust.accuracies"]) == ("b-seed1 b-seed2", "0.5 0.0")
    assert float(cells["robust.p_seeds"]) == found[0].robust.p_seeds
