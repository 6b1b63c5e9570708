"""Two classifiers on the same samples: who keeps what the other loses."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from scipy.stats import binomtest

from results.aggregate import Z_95, verdicts_by_sample, worst_case
from results.leaderboard import classifier_of
from results.records import UnitRecord, Verdict, WorkUnit


@dataclass(frozen=True)
class Pair:
    """`kept` samples stand with the first classifier alone, `lost` with the second alone, of `n` that both were shown.

    `difference` is (kept - lost) / n, with its 95 % interval [low, high]; `p` is of the exact McNemar test.
    """

    n: int
    kept: int
    lost: int
    difference: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Comparison:
    """A classifier against another under one threat: `clean` before, `robust` after all attacks."""

    group: str
    against: str
    dataset: str
    norm: str
    eps: float
    clean: Pair
    robust: Pair


def pair(first: Mapping[int, bool], second: Mapping[int, bool]) -> Pair:
    """Compare by sample; ValueError unless both know the same samples.

    Exact McNemar test: under equal accuracy, the samples that differ fall to either side like a fair coin
    (McNemar 1947; two-sided).
    """
    if first.keys() != second.keys() or not first:
        raise ValueError(f"the samples must be the same and at least one, got {len(first)} and {len(second)}")
    n = len(first)
    kept = sum(first[i] and not second[i] for i in first)
    lost = sum(second[i] and not first[i] for i in first)
    p = float(binomtest(kept, kept + lost).pvalue) if kept + lost else 1.0
    return Pair(n, kept, lost, (kept - lost) / n, *interval(n, float(kept - lost), float(kept + lost)), p)


def interval(n: int, total: float, squares: float) -> tuple[float, float]:
    """95 % of the mean of n paired differences in [-1, 1], given their sum and the sum of their squares.

    Half a sample is added of each, 1, -1 and twice 0, as Agresti & Min (2005) do for pairs of two verdicts.
    """
    center = total / (n + 2)
    half = Z_95 * math.sqrt((squares + 1) / (n + 2) - center**2) / math.sqrt(n + 2)
    return center - half, center + half


def p_of_loss(found: Pair) -> float:
    """The exact McNemar test against a loss: how often a fair coin would lose as many of the samples that differ."""
    apart = found.kept + found.lost
    return float(binomtest(found.lost, apart, alternative="greater").pvalue) if apart else 1.0


def holm(ps: Sequence[float]) -> list[float]:
    """Each p adjusted for all of them (Holm 1979): rejecting those at most alpha errs once or more with at most alpha.

    The smallest of m counts m times, the next m - 1 times, and so on, and none less than a smaller one. This holds
    however the tests depend on one another.
    """
    adjusted = [1.0] * len(ps)
    floor = 0.0
    for place, index in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        floor = max(floor, min(1.0, (len(ps) - place) * ps[index]))
        adjusted[index] = floor
    return adjusted


def compare(units: Sequence[WorkUnit], records: Iterable[UnitRecord], against: str) -> list[Comparison]:
    """Every classifier of a finished run against one of them, under each threat, in the order of the plan.

    Raises ValueError where `against` is not in the run, or a classifier is not done.
    """
    comparisons = []
    for (dataset, norm, eps), groups in standings(units, records).items():
        if against not in groups:
            raise ValueError(f"no classifier {against!r} in the run; it has {', '.join(groups)}")
        other = groups[against]
        comparisons += [
            Comparison(
                group, against, dataset, norm, eps, pair(stands.clean, other.clean), pair(stands.robust, other.robust)
            )
            for group, stands in groups.items()
            if group != against
        ]
    return comparisons


@dataclass(frozen=True)
class Standing:
    """Whether each sample stands: `clean` before any attack, `robust` after all of them."""

    clean: Mapping[int, bool]
    robust: Mapping[int, bool]


def standings(
    units: Sequence[WorkUnit], records: Iterable[UnitRecord]
) -> dict[tuple[str, str, float], dict[str, Standing]]:
    """By threat (data set, norm, eps) and classifier, in the order of the plan; ValueError unless the run is done."""
    done = {record.key: record for record in records}
    planned: dict[tuple[str, str, float], dict[str, list[WorkUnit]]] = defaultdict(lambda: defaultdict(list))
    for unit in units:
        if unit.key not in done:
            raise ValueError("the run is incomplete; the same bench run command goes on with it")
        group, _, dataset, _, norm, eps = classifier_of(unit)
        planned[dataset, norm, eps][group].append(unit)
    return {
        threat: {
            group: Standing(*(_standing(done, of, clean) for clean in (True, False))) for group, of in groups.items()
        }
        for threat, groups in planned.items()
    }


def _standing(done: Mapping[str, UnitRecord], units: Sequence[WorkUnit], clean: bool) -> dict[int, bool]:
    """Whether each sample stands: before any attack, or after all of them."""
    records = [[done[unit.key]] for unit in units if not clean or unit.attack == "clean"]
    worst = worst_case(verdicts_by_sample(part) for part in records)
    return {sample: verdict in (Verdict.SURVIVED, Verdict.CERTIFIED) for sample, verdict in worst.items()}
