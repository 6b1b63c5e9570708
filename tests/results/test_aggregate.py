"""Intervals against the equation that defines them; verdicts against what the words mean."""

import itertools
import math

import pytest
from scipy.stats import binomtest, norm

from results.aggregate import UnsoundError, certified, standing, verdicts_by_sample, wilson, worst_case
from results.records import Verdict
from tests.results.builders import LETTERS, B, C, M, S, record, unit

Z = float(norm.ppf(0.975))


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (1, 1), (0, 200), (1, 200), (88, 200), (199, 200), (200, 200)])
def test_wilson_agrees_with_scipy(successes: int, n: int) -> None:
    expected = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    found = wilson(successes, n)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert found.value == successes / n
    assert found.n == n


@pytest.mark.parametrize(("successes", "n"), [(1, 3), (5, 10), (123, 1000)])
def test_the_bounds_are_where_the_score_test_rejects(successes: int, n: int) -> None:
    found = wilson(successes, n)
    for bound in (found.low, found.high):
        score = (successes / n - bound) / math.sqrt(bound * (1 - bound) / n)
        assert abs(score) == pytest.approx(Z, abs=1e-9)


@pytest.mark.parametrize("n", [1, 7, 200, 10_000])
def test_none_and_all_have_their_exact_end(n: int) -> None:
    """Closed form at the ends: z^2 / (n + z^2) away from 0 and from 1."""
    width = Z**2 / (n + Z**2)
    none, every = wilson(0, n), wilson(n, n)
    assert none.low == 0.0
    assert every.high == 1.0
    assert none.high == pytest.approx(width, abs=1e-12)
    assert every.low == pytest.approx(1 - width, abs=1e-12)


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 10), (11, 10), (1, -1)])
def test_an_impossible_count_is_refused_and_told(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"got {successes} of {n}"):
        wilson(successes, n)


@pytest.mark.parametrize(
    ("seen", "worst"),
    [
        ("S", S),
        ("B", B),
        ("C", C),
        ("M", M),
        ("SB", B),
        ("SC", C),
        ("SS", S),
        ("MS", M),
        ("MB", M),
        ("MC", M),
        ("SSB", B),
        ("SCS", C),
    ],
)
def test_the_worst_verdict_wins_in_any_order(seen: str, worst: Verdict) -> None:
    for order in set(itertools.permutations(seen)):
        assert worst_case({7: LETTERS[letter]} for letter in order) == {7: worst}


@pytest.mark.parametrize("seen", ["BC", "CB", "SBC", "CSSB"])
def test_broken_and_certified_at_once_is_unsound_and_names_the_sample(seen: str) -> None:
    sound = {3: S}
    with pytest.raises(UnsoundError, match="sample 41 is both broken and certified"):
        worst_case([sound, *({41: LETTERS[letter]} for letter in seen)])


def test_broken_and_certified_samples_side_by_side_are_sound() -> None:
    assert worst_case([{0: B, 1: S}, {0: S, 1: C}]) == {0: B, 1: C}


def test_attacks_over_different_samples_are_joined() -> None:
    assert worst_case([{0: S}, {1: B}]) == {0: S, 1: B}


def test_parts_of_an_attack_are_put_together_by_sample() -> None:
    first, second = unit(start=0, stop=2), unit(start=2, stop=4)
    assert verdicts_by_sample([record(second, "MC"), record(first, "SB")]) == {0: S, 1: B, 2: M, 3: C}


def test_standing_are_those_neither_wrong_nor_broken() -> None:
    verdicts = dict(enumerate([M, B, S, C, S]))
    assert standing(verdicts) == 3
    assert certified(verdicts) == 1
