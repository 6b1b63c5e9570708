"""Adversarial misclassifications by class: how many stay inside the true class's group?

Beside the share stands what it would be if each image's wrong class were drawn at random from the other classes. The
test holds the share's excess over that against the excess under every other way of dealing out the groups' labels: it
asks whether these groups are special, not whether wrong classes are evenly spread, which they never are. Images of one
class are no independent witnesses of that, classes are few, and a binomial test over images would find any grouping
significant that holds a pair of classes which are often confused.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from results.clustering_effect import Matrix, Test, permutation_test


@dataclass(frozen=True)
class Misled:
    """Of `images`, `right` were classified correctly, `counts[true, predicted]` of these no longer under attack.

    `inside` of them within the true class's group, where `expected` (a fraction) would be by a random wrong class; both
    and the test are None where nothing was misclassified.
    """

    attack: str
    images: int
    right: int
    counts: NDArray[np.int64]
    inside: int | None
    expected: float | None
    test: Test | None

    @property
    def broken(self) -> int:
        return int(self.counts.sum())

    @property
    def share(self) -> float | None:
        return None if self.inside is None else self.inside / self.broken


def misled(attack: str, images: int, right: int, counts: NDArray[np.int64], labels: Sequence[int], seed: int) -> Misled:
    """`counts` (classes, classes) as in `Misled`, its diagonal 0; `labels` the groups of the classes."""
    if not counts.any():
        return Misled(attack, images, right, counts, None, None, None)
    inside, expected = shares(counts, labels)
    return Misled(attack, images, right, counts, inside, expected, permutation_test(excess(counts), labels, seed))


def shares(counts: NDArray[np.int64], labels: Sequence[int]) -> tuple[int, float]:
    """How many stay inside a group, and the expected share."""
    groups = np.asarray(labels)
    same = (groups[:, None] == groups[None, :]) & ~np.eye(len(groups), dtype=bool)
    others = same.sum(axis=1) / (len(groups) - 1)
    return int(counts[same].sum()), float((counts.sum(axis=1) * others).sum() / counts.sum())


def excess(counts: NDArray[np.int64]) -> Matrix:
    """Each pair's count less what a random wrong class would give: its sum within groups is what the test compares."""
    found: Matrix = counts - counts.sum(axis=1, keepdims=True) / (len(counts) - 1)
    np.fill_diagonal(found, 0.0)
    return found
