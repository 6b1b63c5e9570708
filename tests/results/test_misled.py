"""Shares inside groups by hand, and their test by enumeration."""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from results.misled import misled, shares

LABELS = [0, 0, 0, 1, 1, 2]


def counts(seed: int = 0) -> NDArray[np.int64]:
    found = np.random.default_rng(seed).poisson(4, size=(6, 6))
    np.fill_diagonal(found, 0)
    return found


def test_shares_by_hand() -> None:
    found = np.zeros((6, 6), dtype=np.int64)
    found[0, 1], found[0, 3], found[5, 0], found[3, 4] = 3, 2, 1, 4
    inside, expected = shares(found, LABELS)
    assert inside == 7
    assert expected == pytest.approx((5 * 2 / 5 + 1 * 0 / 5 + 4 * 1 / 5) / 10)


def test_the_test_compares_the_excess_over_chance() -> None:
    found = counts()
    result = misled("pgd20", 200, 190, found, LABELS, seed=0)

    def excess(labels: tuple[int, ...]) -> float:
        inside, expected = shares(found, labels)
        return inside / int(found.sum()) - expected

    every = {labels: excess(labels) for labels in set(itertools.permutations(LABELS))}
    seen = every[tuple(LABELS)]
    assert result.test is not None
    assert result.test.p == pytest.approx(np.mean([value >= seen - 1e-12 for value in every.values()]))


def test_the_statistic_counts_both_ways_of_a_pair_whatever_the_order_of_the_classes() -> None:
    found = counts()
    random = found - found.sum(axis=1, keepdims=True) / 5
    pairs = list(itertools.permutations(range(6), 2))
    inside, across = (
        np.mean([random[i, j] for i, j in pairs if (LABELS[i] == LABELS[j]) == same]) for same in (True, False)
    )
    for order in ([0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [3, 0, 5, 1, 4, 2]):
        test = misled("pgd20", 200, 190, found[np.ix_(order, order)], [LABELS[i] for i in order], seed=0).test
        assert test is not None
        assert test.statistic == pytest.approx(inside - across)


def test_errors_inside_groups_are_found_and_even_ones_are_not() -> None:
    same = np.array(LABELS)[:, None] == np.array(LABELS)[None, :]
    blocks = 50 * (same & ~np.eye(6, dtype=bool)).astype(np.int64)
    found = misled("pgd20", 500, 400, blocks, LABELS, seed=0)
    assert found.test is not None
    assert found.share == 1.0
    assert found.test.p == found.test.least == 1 / 60
    even = misled("pgd20", 500, 400, 7 * (1 - np.eye(6, dtype=np.int64)), LABELS, seed=0)
    assert even.test is not None
    assert even.share == pytest.approx(even.expected)
    assert even.test.p == 1.0


def test_nothing_misclassified_is_undefined() -> None:
    found = misled("pgd20", 10, 9, np.zeros((6, 6), dtype=np.int64), LABELS, seed=0)
    assert (found.inside, found.share, found.expected, found.test) == (None, None, None, None)
