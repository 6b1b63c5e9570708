"""Robust accuracy against eps: measured at the threats of runs, and proven from the radii that verifiers left."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from results.aggregate import Proportion, wilson
from results.curves import LADDERS, Curve
from results.leaderboard import Row
from results.loaded import LoadedRun

_VISIBLE = 0.01


@dataclass(frozen=True)
class Series:
    """One classifier under one norm.

    `upper` and `lower` are what stands and what is proven at each measured eps; `upper` begins with clean accuracy at
    eps 0. `radii` are the curves of verifiers, one value for every eps.
    """

    group: str
    dataset: str
    norm: str
    n: int
    upper: tuple[tuple[float, Proportion], ...]
    lower: tuple[tuple[float, Proportion], ...]
    radii: tuple[Curve, ...]

    @property
    def joined(self) -> bool:
        """Whether straight lines between the points of `upper` run nowhere visibly below what radii prove."""
        for (left, high), (right, low) in pairwise(self.upper):
            for curve in self.radii:
                places = [radius for radius in curve.radii.values() if left < radius <= right]
                slope = (low.value - high.value) / (right - left)
                if any(high.value + slope * (eps - left) < _before(curve, eps) - _VISIBLE for eps in places):
                    return False
        return True

    @property
    def stepped(self) -> bool:
        """Whether `lower` proves more than radii do; where it does not, their curves tell it all."""
        return any(all(p.value > curve.accuracy(eps) for curve in self.radii) for eps, p in self.lower)

    def proven(self, curve: Curve, eps: float) -> Proportion:
        """What a verifier proves within eps, with its interval."""
        return wilson(sum(radius > eps for radius in curve.radii.values()), len(curve.radii))


_Key = tuple[str, str, str, str, str, int, frozenset[str]]


def series(runs: Sequence[LoadedRun]) -> list[Series]:
    """Every complete classifier with at least two eps or a curve of radii, the best first.

    Points of one line are of the same weights, images and attacks; they may come from several runs.
    """
    measured: dict[_Key, dict[float, Row]] = defaultdict(dict)
    radii: dict[_Key, dict[str, Curve]] = defaultdict(dict)
    for run in runs:
        about = {unit.group: unit for unit in run.units}
        group_of = {unit.model: unit.group for unit in run.units}
        for row in run.rows:
            if row.robust_upper is None or row.clean is None:
                continue
            unit = about[row.group]
            key = (row.group, unit.weights_sha256, row.dataset, unit.data_sha256, row.norm, row.n, _attacks(run, row))
            measured[key].setdefault(row.eps, row)  # the first row of a classifier is the one it is judged through
            for curve in run.curves:
                if (group_of[curve.model], curve.norm, len(curve.radii)) == (row.group, row.norm, row.n):
                    radii[key].setdefault(curve.attack, curve)
    found = [
        _series(key, [by_eps[eps] for eps in sorted(by_eps)], tuple(radii[key].values()))
        for key, by_eps in measured.items()
        if len(by_eps) > 1 or radii[key]
    ]
    return sorted(found, key=lambda one: (one.dataset, one.norm, -_mean(one), one.group))


def _attacks(run: LoadedRun, row: Row) -> frozenset[str]:
    """All that was tried on the classifier under the row's threat, through any head."""
    rows = [other for other in run.rows if (other.group, other.norm, other.eps) == (row.group, row.norm, row.eps)]
    return frozenset(f"{other.model} {name}" for other in rows for name in other.attacks)


def _series(key: _Key, rows: Sequence[Row], radii: tuple[Curve, ...]) -> Series:
    group, _, dataset, _, norm, n, _ = key
    upper = [(row.eps, row.robust_upper) for row in rows if row.robust_upper is not None]
    lower = [(row.eps, row.robust_lower) for row in rows if row.robust_lower is not None and row.proofs]
    start = [(0.0, rows[0].clean)] if rows[0].clean is not None else []
    return Series(group, dataset, norm, n, (*start, *upper), tuple(lower), radii)


def _mean(one: Series) -> float:
    return sum(point.value for _, point in one.upper) / len(one.upper)


def _before(curve: Curve, eps: float) -> float:
    """The share proven at any radius just below eps."""
    return sum(radius >= eps for radius in curve.radii.values()) / len(curve.radii)


def drawable(one: Series, end: float) -> Series:
    """Without what proves nothing on an axis up to `end`; a table of numbers still tells it."""
    radii = tuple(curve for curve in one.radii if curve.accuracy(end / 100) > 0)
    return replace(one, lower=one.lower if any(p.value > 0 for _, p in one.lower) else (), radii=radii)


def axis_end(members: Sequence[Series]) -> float:
    """Where an eps axis ends: beyond what was measured, and, where that is little, where only 2 % are proven."""
    measured = sorted({eps for one in members for eps, _ in one.upper})
    proven = [_exceeded(curve, 0.02) for one in members for curve in one.radii if len(measured) < 4]
    return 1.04 * max(*measured, *proven)


def labelled(members: Sequence[Series], end: float, apart: float) -> list[float]:
    """The eps to label an axis with, `apart` of its length or more: 0, what was measured, the usual radii."""
    measured = sorted({eps for one in members for eps, _ in one.upper if eps > 0}, reverse=True)
    usual = [eps for eps in LADDERS.get(members[0].norm, ()) if 0 < eps <= end]
    known = len(measured) < 4 and any(one.radii for one in members)
    kept: list[float] = []
    for eps in (0.0, *measured, *(usual[::-1] if known else ())):
        if all(abs(eps - other) >= apart * end for other in kept):
            kept.append(eps)
    return sorted(kept)


def _exceeded(curve: Curve, share: float) -> float:
    """The radius that only `share` of the samples exceed."""
    radii = sorted(curve.radii.values())
    return radii[min(len(radii) - 1, int((1 - share) * len(radii)))]
