"""The exact distance of each sample to the decision boundary of a nearest-centroid classifier, inside the box."""

import dataclasses
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from attacks.centroid_bounds import Balls, Centroids, narrowed, radius_bounds, rounding
from attacks.centroid_solvers import Problem, Solution, furthest, nearest
from attacks.contract import AttackResult, Classifier
from attacks.exact import centroids_of, exact, flattened, lead_bound, nearest_centroid, problem_of
from attacks.threat import Threat

RADIUS_TOLERANCE = 1e-6
"""Absolute: a reported radius is proven, and a tied or breaking image was found at most this much further away."""
_BISECTIONS = 60
_STUCK = 1e-12


def exact_radius(
    model: Classifier,
    x: Float[Tensor, "n *image"],
    y: Int[Tensor, " n"],
    threat: Threat,
    *,
    seed: int,
    sample_ids: Int[Tensor, " n"],
) -> AttackResult:
    """`exact`, and the distance of each sample to the nearest image of the box that ties or breaks it.

    `radii` are proven lower bounds in real arithmetic (`exact` allows for rounding besides), at most
    RADIUS_TOLERANCE below the truth; infinite where no image of the box breaks. Raises what `exact` raises.
    """
    decided = exact(model, x, y, threat, seed=seed, sample_ids=sample_ids)
    centroids = centroids_of(nearest_centroid(model, threat))
    found = [_radius(centroids, image, int(label), threat) for image, label in zip(flattened(x), y, strict=True)]
    loose = sum(radius.gap > RADIUS_TOLERANCE for radius in found)
    flags = decided.flags + ((f"{loose} radii are lower bounds only: no image was found close by",) if loose else ())
    radii = torch.tensor([radius.lower for radius in found], dtype=torch.float64)
    return dataclasses.replace(decided, radii=radii, flags=flags)


@dataclass(frozen=True)
class _Radius:
    """No image within `lower` ties or breaks, one within lower + `gap` does."""

    lower: float
    gap: float


@dataclass(frozen=True)
class _Pair:
    """One sample against one rival."""

    centroids: Centroids
    image: Float64[Tensor, "1 d"]
    own: Int[Tensor, " m"]
    rival: int
    threat: Threat

    @cached_property
    def problem(self) -> Problem:
        """The rival against all own centroids in the whole box."""
        return problem_of(self.centroids, self.ball(self.threat.upper - self.threat.lower), self.own, self.rival)

    def ball(self, eps: float) -> Balls:
        return Balls.around(self.image, self.threat.norm, eps, self.threat.lower, self.threat.upper)

    def furthest(self, eps: float) -> Solution:
        ball = self.ball(eps)
        return furthest(dataclasses.replace(self.problem, lower=ball.lower[0].numpy(), upper=ball.upper[0].numpy()))

    def bound(self, solution: Solution, ball: Balls) -> float:
        return lead_bound(self.centroids, ball, self.own, self.rival, solution)


def _radius(centroids: Centroids, image: Float64[Tensor, " d"], label: int, threat: Threat) -> _Radius:
    """Rivals in the order of their bounds, until a bound exceeds the best radius found.

    At each better one those are left out that an own centroid alone excludes within it, inside the box.
    """
    distances = centroids.squared_distances(image[None]).squeeze(0)
    box = Balls.around(image[None], threat.norm, threat.upper - threat.lower, threat.lower, threat.upper)
    bounds = radius_bounds(centroids, threat.norm, distances, label, rounding(centroids, box)[0])
    own, rivals = centroids.split(label)
    if not len(own) or bool((distances[rivals] <= distances[own].min()).any()):
        return _Radius(0.0, 0.0)  # not predicted as it is
    best = _Radius(float("inf"), 0.0)
    left = rivals[bounds[rivals].argsort()]
    while len(left) and max(0.0, float(bounds[left[0]])) < best.lower:
        pair, left = _Pair(centroids, image[None], own, int(left[0]), threat), left[1:]
        start = max(0.0, float(bounds[pair.rival]))
        found = _linf_radius(pair, start, best.lower) if threat.norm == "linf" else _l2_radius(pair)
        if found.lower < best.lower:
            best, left = found, left[bounds[left] < found.lower]
            left = left[_possible(centroids, pair.ball(best.lower), label, left)]
    return best


def _possible(centroids: Centroids, ball: Balls, label: int, some: Int[Tensor, " p"]) -> Bool[Tensor, " p"]:
    """Which of some rivals no own centroid alone excludes inside a single ball."""
    rivals = torch.zeros(1, len(centroids.labels), dtype=torch.bool)
    rivals[0, some] = True
    exactly = torch.zeros(rivals.shape, dtype=torch.float64)
    return narrowed(centroids, ball, torch.tensor([label]), exactly, rivals)[0, some]


def _linf_radius(pair: _Pair, start: float, best: float) -> _Radius:
    """Newton's method from below, infinite where the rival does not win within `best`.

    The weights that are best at one eps bound the rival's lead at every eps. Where that bound is 0 is a radius
    within which the rival does not win: the next eps.
    """
    never = _Radius(float("inf"), 0.0)
    most = pair.threat.upper - pair.threat.lower
    if best < most and pair.bound(pair.furthest(best), pair.ball(best)) < 0:
        return never
    eps = start
    while True:
        solution = pair.furthest(eps)
        if pair.bound(solution, pair.ball(most)) < 0:
            return never
        low, high = eps, most
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if pair.bound(solution, pair.ball(middle)) < 0 else (low, middle)
        if low - eps <= RADIUS_TOLERANCE / 10:  # a short step, yet the last one only if the rival wins close by
            if pair.furthest(low + RADIUS_TOLERANCE / 2).lead >= 0:
                return _Radius(low, RADIUS_TOLERANCE / 2)
            if low - eps <= _STUCK:
                return _Radius(low, float("inf"))
        eps = low


def _l2_radius(pair: _Pair) -> _Radius:
    """The quadratic programme: its weights' bound is the radius, its point the witness."""
    box = dataclasses.replace(pair.ball(pair.threat.upper - pair.threat.lower), eps=0.0)
    solution = nearest(pair.problem, 0.0)
    if solution.z is None:
        blocked = solution.weights.sum() > 0 and pair.bound(solution, box) < 0  # without a price of the ball
        return _Radius(float("inf"), 0.0) if blocked else _Radius(0.0, float("inf"))
    # The bound at eps is its value at 0 plus multiplier eps^2.
    at_zero = pair.bound(solution, box)
    lower = max(0.0, -at_zero / solution.multiplier) ** 0.5 if solution.multiplier > 0 else 0.0
    return _Radius(lower, float(np.linalg.norm(solution.z - pair.problem.x)) - lower)
