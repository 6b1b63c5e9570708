"""Which rival centroid can win inside a ball: bounds in closed form, for nearest-centroid classifiers in input space.

A sample x of class y breaks inside a ball exactly when, for some centroid j of another class (a rival), a point z of
the ball and the box has lead(z) >= 0 over every centroid i of class y, where

    lead_ij(z) = ||z - c_i||^2 - ||z - c_j||^2 = 2 (c_j - c_i) . z + ||c_i||^2 - ||c_j||^2

is linear in z. So for weights w_i >= 0 of sum 1 the largest value over the ball of sum_i w_i lead_ij bounds from above
what rival j can reach, and a negative bound proves that it never wins. Since the classifier computes its distances in
float32, `error` (n, k) is added: the most by which each of them can be off. The bounds are computed in float64, and
`rounding` is added for that. Comparisons are made so that NaN proves nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from attacks.threat import Norm

_CHUNK = 4_000_000
"""Float64 numbers held at a time."""
_KEPT = 4_000
"""Up to so many centroids, all their distances from one another are computed once and kept."""
_PAIRS, _CLOSE = 1_000_000, 1_000
"""Of so many centroids that the pairs are more, _TRIED_QUICKLY own ones bound the radii of the closest rivals."""
_TRIED_QUICKLY, _TRIED_IN_BOX = 16, 6
"""Own centroids tried alone against each rival, without the box and inside it."""
_BISECTIONS = 40


_DUAL_ORDER = {"linf": 1.0, "l2": 2.0, "l1": torch.inf}


@dataclass(frozen=True)
class Centroids:
    """Centroids `points` (k, d) in float64 and their classes `labels` (k,)."""

    points: Float64[Tensor, "k d"]
    labels: Int[Tensor, " k"]

    @cached_property
    def squared_norms(self) -> Float64[Tensor, " k"]:
        return self.points.square().sum(dim=1)

    @cached_property
    def _dual_distances(self) -> dict[Norm, Float64[Tensor, "k k"]]:
        return {}

    def dual_distances(self, norm: Norm, some: Int[Tensor, " p"]) -> Float64[Tensor, "p k"]:
        """||c_i - c_j|| in the dual norm, of some centroids from all: how fast a lead can grow, halved."""
        if len(self.labels) > _KEPT:
            return self._distances_from(self.points[some], norm)
        return self._kept(norm)[some]

    def dual_distances_of_pairs(
        self, norm: Norm, one: Int[Tensor, " p"], other: Int[Tensor, " p"]
    ) -> Float64[Tensor, " p"]:
        """The same for pairs of centroids."""
        if len(self.labels) <= _KEPT:
            return self._kept(norm)[one, other]
        parts = zip(*(side.split(max(1, _CHUNK // self.points.shape[1])) for side in (one, other)), strict=True)
        lengths = [
            torch.linalg.vector_norm(self.points[i] - self.points[j], ord=_DUAL_ORDER[norm], dim=1) for i, j in parts
        ]
        return torch.cat(lengths)

    def _kept(self, norm: Norm) -> Float64[Tensor, "k k"]:
        if norm not in self._dual_distances:
            self._dual_distances[norm] = self._distances_from(self.points, norm)
        return self._dual_distances[norm]

    def _distances_from(self, points: Float64[Tensor, "p d"], norm: Norm) -> Float64[Tensor, "p k"]:
        mode = "donot_use_mm_for_euclid_dist"
        distances: Tensor = torch.cdist(points, self.points, p=_DUAL_ORDER[norm], compute_mode=mode)
        return distances

    def of(self, rows: Int[Tensor, " p"]) -> "Centroids":
        """Some of the centroids: sums over few of them round less often."""
        return Centroids(self.points[rows], self.labels[rows])

    def squared_distances(self, x: Float64[Tensor, "n d"]) -> Float64[Tensor, "n k"]:
        """||x - c||^2."""
        return x.square().sum(dim=1, keepdim=True) + self.squared_norms - 2.0 * x @ self.points.T

    def split(self, label: int) -> tuple[Int[Tensor, " own"], Int[Tensor, " rivals"]]:
        """The centroids of a class, and all others."""
        own = self.labels == label
        return torch.nonzero(own).flatten(), torch.nonzero(~own).flatten()


@dataclass(frozen=True)
class Balls:
    """The allowed images of `x` (n, d): within `eps` in `norm` and inside the box, so between `lower` and `upper`."""

    norm: Norm
    eps: float
    x: Float64[Tensor, "n d"]
    lower: Float64[Tensor, "n d"]
    upper: Float64[Tensor, "n d"]

    @classmethod
    def around(cls, x: Float64[Tensor, "n d"], norm: Norm, eps: float, low: float = 0.0, high: float = 1.0) -> "Balls":
        """Every norm's ball lies inside the linf ball of its radius."""
        return cls(norm, eps, x, (x - eps).clamp(low, high), (x + eps).clamp(low, high))

    def of(self, rows: Tensor | slice) -> "Balls":
        """The balls of some samples."""
        return Balls(self.norm, self.eps, self.x[rows], self.lower[rows], self.upper[rows])


def largest(
    slopes: Float64[Tensor, "p d"], balls: Balls, multiplier: Float64[Tensor, " p"] | None = None
) -> Float64[Tensor, " p"]:
    """An upper bound of slopes . z over each ball (one a row), exact for linf.

    For l2 the ball's constraint is priced by a `multiplier` v >= 0 (any one gives a bound, by weak duality; a
    negative one counts as 0): max over the box of slopes . z - v (||z - x||^2 - eps^2), which is separable. Without
    one, v is found by bisection. Raises ValueError for l1.
    """
    if balls.norm == "linf":
        return torch.where(slopes > 0, balls.upper * slopes, balls.lower * slopes).sum(dim=1)
    if balls.norm != "l2":
        raise ValueError(f"bounds are known for linf and l2, not for {balls.norm}")
    multiplier = _ball_multiplier(slopes, balls) if multiplier is None else multiplier.clamp_min(0)
    z = _box_maximiser(slopes, balls, multiplier)
    outside = (z - balls.x).square().sum(dim=1) - balls.eps**2
    return (slopes * z).sum(dim=1) - multiplier * outside


def rounding(centroids: Centroids, balls: Balls) -> Float64[Tensor, "n k"]:
    """What float64 rounding takes from a bound, a share for each centroid that it uses.

    The terms of a bound are at most (||z|| + ||c||)^2 in sum of absolute values, with less than d + k + 64 roundings
    each; 8 times that leaves room.
    """
    clusters, pixels = centroids.points.shape
    furthest = torch.maximum(balls.lower.abs(), balls.upper.abs()).norm(dim=1)
    size: Tensor = (furthest[:, None] + centroids.squared_norms.sqrt()).square()
    return size * (8.0 * (pixels + clusters + 64) * 2.0**-53)


def weighted_bound(
    centroids: Centroids,
    balls: Balls,
    error: Float64[Tensor, "p k"],
    rival: Int[Tensor, " p"],
    weights: Float64[Tensor, "p k"],
    multiplier: Float64[Tensor, " p"] | None = None,
) -> Float64[Tensor, " p"]:
    """The most that a `rival` can lead by inside the ball in the mean over own centroids weighted by `weights`.

    One problem a row; negative weights count as 0, and the rest is made to sum to 1 (NaN where nothing is left).
    Below 0: the rival never wins there.
    """
    weights = weights.clamp_min(0)
    weights = weights / weights.amax(dim=1, keepdim=True)  # first: the sum of huge weights would overflow
    weights = weights / weights.sum(dim=1, keepdim=True)
    error = error + rounding(centroids, balls)
    slopes = 2.0 * (centroids.points[rival] - weights @ centroids.points)
    constant = weights @ centroids.squared_norms - centroids.squared_norms[rival]
    slack = (weights * error).sum(dim=1) + error.gather(1, rival[:, None]).squeeze(1)
    return constant + slack + largest(slopes, balls, multiplier)


def pair_bound(
    centroids: Centroids,
    ball: Balls,
    rival: int,
    own: Int[Tensor, " m"],
    weights: Float64[Tensor, " m"],
    multiplier: float,
    error: Float64[Tensor, "1 k"] | None = None,
) -> float:
    """`weighted_bound` of one rival in a single ball, from the centroids alone that it uses."""
    used = torch.cat([own, own.new_tensor([rival])])
    few = torch.zeros(1, len(used), dtype=torch.float64) if error is None else error[:, used]
    padded = torch.cat([weights, weights.new_zeros(1)])[None]
    last = own.new_tensor([len(own)])
    price = torch.tensor([multiplier], dtype=torch.float64)
    return float(weighted_bound(centroids.of(used), ball, few, last, padded, price))


def possible_rivals(
    centroids: Centroids, balls: Balls, y: Int[Tensor, " n"], error: Float64[Tensor, "n k"]
) -> Bool[Tensor, "n k"]:
    """The rivals that no single own centroid excludes."""
    return narrowed(centroids, balls, y, error, rivals_without_box(centroids, balls, y, error))


def rivals_without_box(
    centroids: Centroids, balls: Balls, y: Int[Tensor, " n"], error: Float64[Tensor, "n k"]
) -> Bool[Tensor, "n k"]:
    """The rivals left by a quick bound: the own centroids nearest to the sample, each alone, without the box.

    The nearest own centroid meets every rival, the others those that are left.
    """
    error = error + rounding(centroids, balls)
    squared = centroids.squared_distances(balls.x)
    least = squared - error
    possible = centroids.labels[None] != y[:, None]
    for place, (alone, distance) in enumerate(_nearest_own(centroids, squared, y, _TRIED_QUICKLY)):
        start = distance + error.gather(1, alone[:, None]).squeeze(1)
        if place == 0:
            growth = 2.0 * balls.eps * centroids.dual_distances(balls.norm, alone)
            possible &= ~(start[:, None] + growth < least)
        else:
            row, rival = torch.nonzero(possible).unbind(dim=1)
            growth = 2.0 * balls.eps * centroids.dual_distances_of_pairs(balls.norm, alone[row], rival)
            possible[row, rival] = ~(start[row] + growth < least[row, rival])
    return possible


def narrowed(
    centroids: Centroids,
    balls: Balls,
    y: Int[Tensor, " n"],
    error: Float64[Tensor, "n k"],
    possible: Bool[Tensor, "n k"],
) -> Bool[Tensor, "n k"]:
    """Of the possible rivals, those left by the own centroids nearest to the sample, each alone, inside the box."""
    left = possible.clone()
    error = error + rounding(centroids, balls)
    squared = centroids.squared_distances(balls.x)
    for alone, distance in _nearest_own(centroids, squared, y, _TRIED_IN_BOX):
        for row, rival in _pairs(left & distance[:, None].isfinite(), balls.x.shape[1]):
            own = alone[row]
            slopes = 2.0 * (centroids.points[rival] - centroids.points[own])
            bound = largest(slopes, balls.of(row)) + centroids.squared_norms[own] - centroids.squared_norms[rival]
            left[row, rival] = ~(bound + error[row, own] + error[row, rival] < 0)
    return left


def _nearest_own(
    centroids: Centroids, squared: Float64[Tensor, "n k"], y: Int[Tensor, " n"], most: int
) -> Iterator[tuple[Int[Tensor, " n"], Float64[Tensor, " n"]]]:
    """Each sample's nearest own centroid and its squared distance, then the next; infinite where there is none."""
    own = centroids.labels[None] == y[:, None]
    distances, nearest = squared.masked_fill(~own, torch.inf).topk(min(most, squared.shape[1]), dim=1, largest=False)
    for column in range(nearest.shape[1]):
        yield nearest[:, column], distances[:, column]


def radius_bounds(
    centroids: Centroids,
    norm: Norm,
    squared_distances: Float64[Tensor, " k"],
    label: int,
    error: Float64[Tensor, " k"],
) -> Float64[Tensor, " k"]:
    """For each rival, a radius within which it does not win: max_i (d_j^2 - d_i^2) / (2 ||c_i - c_j||_dual).

    Each own centroid gives one. The nearest meets all rivals, the others those that it leaves the smallest radii; of
    many centroids only the nearest are tried. The squared distances may be off by `error`. Infinite for own
    centroids; -infinite for rivals where the class has no centroid.
    """
    own, rivals = centroids.split(label)
    bounds = torch.full_like(squared_distances, torch.inf)
    bounds[rivals] = -torch.inf
    if not len(own) or not len(rivals):
        return bounds
    tried = min(len(own), max(_TRIED_QUICKLY, _PAIRS // len(bounds)))
    own = own[squared_distances[own].topk(tried, largest=False).indices]

    def radii(i: Tensor, j: Tensor, between: Tensor) -> Tensor:
        lead, rate = (squared_distances - error)[j] - (squared_distances + error)[i], 2.0 * between
        return torch.where(rate > 0, lead / rate.clamp_min(1e-300), 0.0)  # a duplicate of an own centroid ties

    bounds[rivals] = radii(own[:1], rivals, centroids.dual_distances(norm, own[:1])[0, rivals])
    close = rivals[bounds[rivals].topk(min(_CLOSE, len(rivals)), largest=False).indices]
    i, j = own.repeat_interleave(len(close)), close.repeat(len(own))
    found = radii(i, j, centroids.dual_distances_of_pairs(norm, i, j)).reshape(len(own), len(close))
    bounds[close] = found.amax(dim=0)
    return bounds


def _pairs(mask: Bool[Tensor, "n m"], size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The places of True, in parts that hold at most _CHUNK numbers at `size` a place."""
    for part in torch.nonzero(mask).split(max(1, _CHUNK // size)):
        if len(part):
            yield part[:, 0], part[:, 1]


def _box_maximiser(slopes: Tensor, balls: Balls, multiplier: Tensor) -> Tensor:
    """The z in the box that maximises slopes . z - multiplier ||z - x||^2."""
    step = slopes / (2.0 * multiplier[:, None]).clamp_min(1e-300)
    return torch.minimum(torch.maximum(balls.x + step, balls.lower), balls.upper)


def _ball_multiplier(slopes: Tensor, balls: Balls) -> Float64[Tensor, " p"]:
    """The multiplier at which the maximiser lies on the sphere, or a tiny one where the box lies inside the ball."""
    high = slopes.square().sum(dim=1).sqrt() / (2.0 * balls.eps) + 1e-12  # inside: the box only shortens steps
    low = high * 1e-9
    for _ in range(_BISECTIONS):
        middle = (low * high).sqrt()
        inside = (_box_maximiser(slopes, balls, middle) - balls.x).square().sum(dim=1) <= balls.eps**2
        low, high = torch.where(inside, low, middle), torch.where(inside, middle, high)
    return high
