"""Each branch of the rule, and what must stand beside it."""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from results.clustering_effect import Effect, Test
from results.clustering_verdict import Mode, Ruling, judge

STARTS = tuple(np.linspace(-0.3, 0.3, 39).tolist())


def outcome(p: float, s: float = 0.5, least: float = 0.0004) -> Test:
    return Test(s, p, least, 2520, True)


def mode(
    bn: str,
    p: float,
    s: float = 0.5,
    least: float = 0.0004,
    starts: tuple[float, ...] | None = STARTS,
    images: float = 0.001,
    standard: float | None = None,
) -> Mode:
    effect = Effect(np.eye(2), outcome(p, s, least), np.zeros((1, 4)), None, 0.0)
    over = None if standard is None else outcome(standard)
    return Mode(bn, (1.0, 1.0), effect, effect, starts, outcome(images), over)


def test_shows_where_every_mode_passes() -> None:
    found = judge([mode("drop", 0.05), mode("fold", 0.001)], None)
    assert found.ruling is Ruling.SHOWS
    assert found.beside == ()


@pytest.mark.parametrize("alone", [0, 1])
def test_depends_where_one_passes_after_correction(alone: int) -> None:
    ps = [0.06, 0.06]
    ps[alone] = 0.025
    found = judge([mode("drop", ps[0]), mode("fold", ps[1])], None)
    assert found.ruling is Ruling.DEPENDS
    assert found.beside == (f"only with batch norm {('dropped', 'folded')[alone]}",)


def test_one_mode_of_two_that_passes_only_uncorrected_is_not_shown() -> None:
    assert judge([mode("drop", 0.03), mode("fold", 0.06)], None).ruling is Ruling.NOT_SHOWN
    assert judge([mode("drop", 0.03)], None).ruling is Ruling.SHOWS  # asked alone, there is nothing to correct


def test_what_random_initialisations_reach_is_not_shown() -> None:
    modes = [mode("drop", 0.001, s=0.2), mode("fold", 0.001, s=0.2)]
    found = judge(modes, None)
    reached = sum(start >= 0.2 for start in STARTS)
    assert found.ruling is Ruling.NOT_SHOWN
    assert found.beside == (f"random initialisations show as much: {reached} of 39 (drop), {reached} of 39 (fold)",)
    assert modes[0].p == pytest.approx((1 + reached) / 40)


def test_exceeding_all_of_39_starts_is_enough_for_one_mode_after_correction() -> None:
    assert mode("fold", 0.001).p == 1 / 40
    assert judge([mode("drop", 0.5), mode("fold", 0.001)], None).ruling is Ruling.DEPENDS


def test_underpowered_where_no_p_could_be_small() -> None:
    found = judge([mode("drop", 1 / 15, least=1 / 15), mode("fold", 1 / 15, least=1 / 15)], None)
    assert found.ruling is Ruling.UNDERPOWERED
    assert found.beside == ("with groups of these sizes no p is below 0.067",)
    both = judge([mode("drop", 0.1, least=0.1, starts=(0.0,) * 4)], None)
    assert both.beside == ("with groups of these sizes no p is below 0.1",), "more initialisations would not help"
    few = judge([mode("drop", 0.001, starts=(0.0,) * 9)], None)
    assert few.ruling is Ruling.UNDERPOWERED
    assert few.beside == ("with 9 random initialisations no p is below 0.1",)


def test_a_verdict_without_random_initialisations_says_so() -> None:
    found = judge([mode("drop", 0.001, starts=None)], None, "its layers cannot be drawn anew")
    assert found.ruling is Ruling.SHOWS
    assert found.beside == ("not held against random initialisations: its layers cannot be drawn anew",)


def test_images_that_explain_it_stand_beside_the_verdict() -> None:
    both = judge([mode("drop", 0.001, images=0.3), mode("fold", 0.001, images=0.2)], None)
    one = judge([mode("drop", 0.001, images=0.3), mode("fold", 0.001)], None)
    assert both.ruling is one.ruling is Ruling.SHOWS
    assert both.beside == ("class-mean images explain it",)
    assert one.beside == ("class-mean images explain it (drop)",)


def test_the_standard_model_stands_beside_the_verdict() -> None:
    same = judge([mode("drop", 0.001, standard=0.4), mode("fold", 0.001, standard=0.4)], "nominal")
    more = judge([mode("drop", 0.001, standard=0.01), mode("fold", 0.001, standard=0.01)], "nominal")
    assert same.beside == ("no more than nominal shows",)
    assert more.beside == ()


def test_chance_shows_or_depends_no_more_often_than_the_rule_says() -> None:
    """Over all labelings of two matrices at most 5 % shows; that and depends may be a little more, as it is here."""
    first, second = (_every_p(one + one.T) for one in np.random.default_rng(2).normal(size=(2, 9, 9)))
    rulings = [judge([mode("drop", p), mode("fold", q)], None).ruling for p, q in zip(first, second, strict=True)]
    shows, depends = (np.mean([one is ruling for one in rulings]) for ruling in (Ruling.SHOWS, Ruling.DEPENDS))
    assert 0 < shows <= 0.05 < shows + depends <= 0.075


def _every_p(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """p of each way to deal out labels to 9 classes in groups of 4, 3 and 2."""
    ways = [
        (four, three, tuple(set(range(9)) - set(four) - set(three)))
        for four in itertools.combinations(range(9), 4)
        for three in itertools.combinations(sorted(set(range(9)) - set(four)), 3)
    ]
    sums = np.array([sum(matrix[i, j] for group in way for i, j in itertools.combinations(group, 2)) for way in ways])
    found: NDArray[np.float64] = (sums[None, :] >= sums[:, None]).mean(axis=1)
    return found
