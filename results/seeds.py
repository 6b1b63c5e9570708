"""Two families of classifiers on the same samples, a family being one training under several seeds.

NAME, NAME-seed1, NAME-seed2, ... are one family. Two questions are kept apart: do these networks differ on images like
these (the samples are random, the networks given), and do the trainings differ (another seed gives another network)?
"""

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.signal import convolve
from scipy.stats import binom

from results.paired import Standing, interval, standings
from results.records import UnitRecord, WorkUnit

_SEED = re.compile(r"-seed\d+(?=$|[@.:])")
MOST_DEALT = 99_999
"""Ways to deal seeds to two families that are gone through one by one: nine seeds against nine, say, are fewer."""


@dataclass(frozen=True)
class Difference:
    """The mean accuracy over a family's seeds less that over another's, on `n` samples that all were shown.

    `accuracies` and `accuracies_against` have one number a seed. [`low`, `high`] is the 95 % interval over samples.
    `p`: exact sign-flip test over samples; `p_seeds`: exact permutation of the seeds between the families, two-sided,
    of which `least` is the smallest that so many seeds can give.
    """

    n: int
    accuracies: tuple[float, ...]
    accuracies_against: tuple[float, ...]
    difference: float
    low: float
    high: float
    p: float
    p_seeds: float
    least: float


@dataclass(frozen=True)
class FamilyComparison:
    """A family against another under one threat: `clean` before, `robust` after all attacks.

    `members` and `members_against` are the classifiers, in the order of the accuracies.
    """

    family: str
    members: tuple[str, ...]
    against: str
    members_against: tuple[str, ...]
    dataset: str
    norm: str
    eps: float
    clean: Difference
    robust: Difference


def family_of(classifier: str) -> str:
    return _SEED.sub("", classifier)


def compare_families(units: Sequence[WorkUnit], records: Iterable[UnitRecord], against: str) -> list[FamilyComparison]:
    """Every family of a finished run against that of the classifier `against`, under each threat.

    Raises ValueError where that family is not in the run, or a classifier is not done.
    """
    reference = family_of(against)
    found = []
    for (dataset, norm, eps), groups in standings(units, records).items():
        families: dict[str, dict[str, Standing]] = {}
        for group, stands in groups.items():
            families.setdefault(family_of(group), {})[group] = stands
        if reference not in families:
            raise ValueError(f"no classifier {against!r} in the run; it has {', '.join(groups)}")
        others = families.pop(reference)
        if not families:
            raise ValueError(f"the run has no family of classifiers but {reference}")
        for family, members in families.items():
            of, against_of = members.values(), others.values()
            clean = difference([one.clean for one in of], [one.clean for one in against_of])
            robust = difference([one.robust for one in of], [one.robust for one in against_of])
            named = (family, tuple(members), reference, tuple(others))
            found.append(FamilyComparison(*named, dataset, norm, eps, clean, robust))
    return found


def difference(first: Sequence[Mapping[int, bool]], second: Sequence[Mapping[int, bool]]) -> Difference:
    """Compare by sample; ValueError unless all know the same samples."""
    samples = first[0].keys()
    if not samples or any(one.keys() != samples for one in (*first, *second)):
        raise ValueError("the samples must be the same and at least one")
    ours, theirs = (np.array([[one[i] for i in samples] for one in side], dtype=np.int64) for side in (first, second))
    n = len(samples)
    by_sample = len(second) * ours.sum(axis=0) - len(first) * theirs.sum(axis=0)
    each = by_sample / (len(first) * len(second))
    accuracies, others = ours.mean(axis=1).tolist(), theirs.mean(axis=1).tolist()
    return Difference(
        n,
        tuple(accuracies),
        tuple(others),
        float(each.mean()),
        *interval(n, float(each.sum()), float((each**2).sum())),
        flip_signs(by_sample.tolist()),
        *permute_seeds(ours.sum(axis=1).tolist(), theirs.sum(axis=1).tolist()),
    )


def flip_signs(differences: Sequence[int]) -> float:
    """How often |sum| is at least as large when each difference falls to either side like a fair coin: exactly.

    Of differences 1, 0 and -1 it is the exact McNemar test. Those of one size v, c of them, sum to v (2 B - c), B
    binomial; sizes are convolved.
    """
    common = math.gcd(*differences) or 1
    sizes, counts = np.unique([abs(one) // common for one in differences if one], return_counts=True)
    chances = np.ones(1)
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        steps = np.zeros(size * count + 1)
        steps[::size] = binom.pmf(np.arange(count + 1), count, 0.5)
        chances = convolve(chances, steps, method="direct")
    total = int((sizes * counts).sum())
    sums = np.abs(2 * np.arange(total + 1) - total)
    p = float(chances[sums >= abs(sum(differences)) // common].clip(0.0).sum())
    return min(1.0, float(f"{p:.12g}"))


def permute_seeds(first: Sequence[int], second: Sequence[int]) -> tuple[float, float]:
    """How often a difference of means is at least as large over all ways to deal the seeds to two families.

    `first` and `second` have a whole number a seed, such as its samples that stand. Two-sided, and with it the least p
    that so many seeds can give. Where there are more than MOST_DEALT ways, so many are drawn, and the seen one is
    counted with them.
    """
    ours, theirs, pooled = len(first), len(second), np.array([*first, *second], dtype=np.int64)
    ways = math.comb(ours + theirs, ours)
    if ways <= MOST_DEALT:
        sums = np.array([sum(dealt) for dealt in itertools.combinations(pooled.tolist(), ours)])
        least = min(1.0, (2 if ours == theirs else 1) / ways)
    else:
        drawn = np.random.default_rng(0).permuted(np.tile(pooled, (MOST_DEALT, 1)), axis=1)
        sums = np.append(drawn[:, :ours].sum(axis=1), sum(first))
        least = 1 / len(sums)
    apart = np.abs(theirs * sums - ours * (pooled.sum() - sums))  # whole numbers, so that ties are ties
    return float(np.mean(apart >= abs(theirs * sum(first) - ours * sum(second)))), least
