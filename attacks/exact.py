"""Exact robustness of nearest-centroid classifiers in input space: every sample is decided, with evidence.

Rivals that no single own centroid excludes (`centroid_bounds`) are attacked by steps from centroid to centroid, and
what stands is solved rival by rival (`centroid_solvers`). A broken sample has an image for the judge, a certified one
the weights by which anyone can compute the bounds again (`exact_proofs`). Prior art: Wang et al. 2019 (arXiv
1906.03972), quadratic programmes for 1-NN; Yang et al. 2020 (AISTATS), over Voronoi cells; here inside the box.
"""

import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from attacks.centroid_bounds import Balls, Centroids, narrowed, pair_bound, radius_bounds, rivals_without_box
from attacks.centroid_solvers import Array, Problem, Solution, furthest, nearest
from attacks.contract import AttackResult, Classifier, NearestCentroidClassifier, best_other, decision
from attacks.exact_proofs import Proofs, certified_by
from attacks.threat import TOLERANCE, Threat

_STEPS = 60
_HELD = 4_000_000
"""Distances of samples to centroids that are held at a time."""


def exact(
    model: Classifier,
    x: Float[Tensor, "n *image"],
    y: Int[Tensor, " n"],
    threat: Threat,
    *,
    seed: int,
    sample_ids: Int[Tensor, " n"],
) -> AttackResult:
    """Decide every sample: an image that breaks it, or a proof for all images within eps + TOLERANCE.

    The proofs allow for float32 rounding in the classifier; a sample closer to the boundary than that is left
    undecided, which a flag says. Raises ValueError for a model that is no NearestCentroidClassifier, and
    for l1.
    """
    del seed
    proofs = Proofs()
    parts = [
        _decided(model, x[rows], y[rows], threat, sample_ids[rows.cpu()], proofs)
        for rows in _parts(x, centroids_of(nearest_centroid(model, threat)))
    ]
    x_adv, certified, broken = (torch.cat(marks) for marks in zip(*parts, strict=True))
    undecided = bool((~certified & ~broken).any())
    flags = ("undecided samples lie nearer to the boundary than rounding allows to prove",) if undecided else ()
    return AttackResult(
        x_adv,
        certified=certified.to(x.device),
        claimed=broken.to(x.device),
        flags=flags,
        proofs=proofs.tensors(),
    )


def _parts(x: Float[Tensor, "n *image"], centroids: Centroids) -> tuple[Int[Tensor, " p"], ...]:
    """Rows of samples that are worked on together."""
    parts: tuple[Tensor, ...] = torch.arange(len(x), device=x.device).split(max(1, _HELD // len(centroids.labels)))
    return parts


def _decided(
    model: Classifier,
    x: Float[Tensor, "n *image"],
    y: Int[Tensor, " n"],
    threat: Threat,
    sample_ids: Int[Tensor, " n"],
    proofs: Proofs,
) -> tuple[Float[Tensor, "n *image"], Bool[Tensor, " n"], Bool[Tensor, " n"]]:
    """Images, and which samples are certified and which broken; weights that certify are added to `proofs`."""
    classifier = nearest_centroid(model, threat)
    centroids, flat, labels = centroids_of(classifier), flattened(x), y.cpu()
    balls, searched = balls_for(flat, threat, TOLERANCE), balls_for(flat, threat, 0.0)
    error = classifier.distance_error(balls.lower, balls.upper).cpu()
    rivals = rivals_without_box(centroids, balls, labels, error)
    x_adv, broken = x.clone(), torch.zeros(len(x), dtype=torch.bool)
    rows = torch.nonzero(rivals.any(dim=1)).flatten()
    x_adv[rows] = _images(_between_centroids(centroids, searched.of(rows), labels[rows], error[rows], threat), x[rows])
    broken[rows] = _broken(model, x_adv[rows], x[rows], y[rows], threat)
    rows = rows[~broken[rows]]
    rivals[rows] = narrowed(centroids, balls.of(rows), labels[rows], error[rows], rivals[rows])
    certified = ~rivals.any(dim=1) & ~broken
    for row in torch.nonzero(~certified & ~broken & error.isfinite().all(dim=1)).flatten().tolist():
        one = slice(row, row + 1)
        pairs = _Pairs(centroids, searched.of(one), balls.of(one), int(labels[row]), error[one])
        solved: list[tuple[int, Solution]] = []
        for rival, solution in pairs.solutions(rivals[row]):
            for z in pairs.points(rival, solution):
                image = _images(torch.from_numpy(z)[None], x[one])
                if bool(_broken(model, image, x[one], y[one], threat)):
                    x_adv[one], broken[row] = image, True
                    break
            if broken[row]:
                break
            solved.append((rival, solution))
        if not broken[row] and all(pairs.excluded(rival, solution) for rival, solution in solved):
            certified[row] = True
            for rival, solution in solved:
                proofs.add(int(sample_ids[row]), rival, pairs.own, solution)
    return x_adv, certified, broken


def proven(
    model: Classifier,
    x: Float[Tensor, "n *image"],
    y: Int[Tensor, " n"],
    threat: Threat,
    sample_ids: Int[Tensor, " n"],
    proofs: Mapping[str, Tensor],
) -> Bool[Tensor, " n"]:
    """Which samples the proofs of `exact` certify, computed again in float64 and without any solver."""
    classifier = nearest_centroid(model, threat)
    centroids, parts = centroids_of(classifier), []
    for rows in _parts(x, centroids):
        balls = balls_for(flattened(x[rows]), threat, TOLERANCE)
        error = classifier.distance_error(balls.lower, balls.upper).cpu()
        parts.append(certified_by(proofs, centroids, balls, y[rows].cpu(), error, sample_ids[rows.cpu()]))
    return torch.cat(parts)


@dataclass(frozen=True)
class _Pairs:
    """One sample against its rivals: `searched` is the threat's ball, `balls` the one that proofs cover."""

    centroids: Centroids
    searched: Balls
    balls: Balls
    label: int
    error: Float64[Tensor, "1 k"]

    @property
    def own(self) -> Int[Tensor, " m"]:
        return self.centroids.split(self.label)[0]

    def solutions(self, rivals: Bool[Tensor, " k"]) -> Iterator[tuple[int, Solution]]:
        """Rivals, the nearest first, each with the solution of its problem, rounding in the rival's favour."""
        distances = self.centroids.squared_distances(self.balls.x).squeeze(0)
        bounds = radius_bounds(self.centroids, self.balls.norm, distances, self.label, self.error[0])
        for rival in sorted(torch.nonzero(rivals).flatten().tolist(), key=lambda j: float(bounds[j])):
            problem = problem_of(self.centroids, self.balls, self.own, rival, self.error)
            yield rival, furthest(problem) if self.balls.norm == "linf" else nearest(problem, 0.0)

    def points(self, rival: int, solution: Solution) -> Iterator[Array]:
        """Points of the searched ball where the rival may win, those that rounding is least likely to undo first."""
        if solution.z is None or solution.lead < 0:
            return
        if self.balls.norm == "linf":
            yield np.clip(solution.z, self.searched.lower[0].numpy(), self.searched.upper[0].numpy())
            return
        problem = problem_of(self.centroids, self.searched, self.own, rival)
        if np.linalg.norm(solution.z - problem.x) > self.balls.eps:
            return
        most = float(self.error.max())
        for lead in (4.0 * most, most, most / 8, 0.0):
            z = nearest(problem, lead).z
            if z is not None and np.linalg.norm(z - problem.x) <= self.searched.eps:
                yield z

    def excluded(self, rival: int, solution: Solution) -> bool:
        """Whether the solution's weights prove that the rival never wins in the ball."""
        bound = lead_bound(self.centroids, self.balls, self.own, rival, solution, self.error)
        return bound < 0  # not for NaN: a solver may give no weights


def nearest_centroid(model: object, threat: Threat) -> NearestCentroidClassifier:
    """The model as what can be verified; ValueError says what cannot."""
    if not isinstance(model, NearestCentroidClassifier):
        raise ValueError("exact verification needs a nearest-centroid classifier in input space")
    if threat.norm == "l1":
        raise ValueError("exact verification knows linf and l2, not l1")
    return model


_CENTROIDS: "weakref.WeakKeyDictionary[NearestCentroidClassifier, Centroids]" = weakref.WeakKeyDictionary()


def centroids_of(model: NearestCentroidClassifier) -> Centroids:
    """A model's centroids in float64, and what is computed from them once."""
    points, labels = model.centroids.detach().to("cpu", torch.float64, copy=True), model.cluster_labels.cpu().clone()
    kept = _CENTROIDS.get(model)
    if kept is None or not (torch.equal(kept.points, points) and torch.equal(kept.labels, labels)):
        kept = _CENTROIDS[model] = Centroids(points, labels)
    return kept


def flattened(x: Float[Tensor, "n *image"]) -> Float64[Tensor, "n d"]:
    """Images as rows of float64 numbers."""
    return x.detach().flatten(1).cpu().double()


def balls_for(x: Float64[Tensor, "n d"], threat: Threat, beyond: float) -> Balls:
    """The threat's balls, `beyond` larger."""
    return Balls.around(x, threat.norm, threat.eps + beyond, threat.lower, threat.upper)


def problem_of(
    centroids: Centroids,
    ball: Balls,
    own: Int[Tensor, " m"],
    rival: int,
    error: Float64[Tensor, "1 k"] | None = None,
) -> Problem:
    """The rival against all own centroids inside a single ball; `error` is added to its leads."""
    gap = centroids.points[own].sub_(centroids.points[rival]).mul_(-2.0)  # in place: the own centroids may be many
    constant = centroids.squared_norms[own] - centroids.squared_norms[rival]
    if error is not None:
        constant = constant + error[0, own] + error[0, rival]
    parts = (gap, constant, ball.x[0], ball.lower[0], ball.upper[0])
    return Problem(*(part.numpy() for part in parts))


def lead_bound(
    centroids: Centroids,
    ball: Balls,
    own: Int[Tensor, " m"],
    rival: int,
    solution: Solution,
    error: Float64[Tensor, "1 k"] | None = None,
) -> float:
    """The most that the rival can lead by in a single ball, by the weights of a solution."""
    used = np.nonzero(solution.weights > 0)[0]
    weights = torch.from_numpy(solution.weights[used])
    return pair_bound(centroids, ball, rival, own[torch.from_numpy(used)], weights, solution.multiplier, error)


def _between_centroids(
    centroids: Centroids, balls: Balls, y: Int[Tensor, " n"], error: Float64[Tensor, "n k"], threat: Threat
) -> Float64[Tensor, "n d"]:
    """Steps from the nearest own centroid towards the nearest rival; the point of the largest lead.

    A sample stops where the lead is beyond rounding.
    """
    kept, best = balls.x.clone(), torch.full((len(y),), -torch.inf, dtype=torch.float64)
    safe = 2.0 * error.amax(dim=1)
    rows, z = torch.arange(len(y)), balls.x
    for step in range(_STEPS + 1):
        own = centroids.labels[None] == y[rows, None]
        distances = centroids.squared_distances(z)
        to_own, i = distances.masked_fill(~own, torch.inf).min(dim=1)
        to_rival, j = distances.masked_fill(own, torch.inf).min(dim=1)
        lead = to_own - to_rival
        better = lead > best[rows]
        kept[rows[better]], best[rows[better]] = z[better], lead[better]
        going = best[rows] <= safe[rows]
        rows, z, i, j = rows[going], z[going], i[going], j[going]
        if not len(rows):
            break
        direction = threat.steepest(centroids.points[j] - centroids.points[i])
        z = threat.project(balls.x[rows], z + 2.0 * balls.eps * (1 - step / _STEPS) * direction)
    return kept


def _images(z: Float64[Tensor, "n d"], x: Tensor) -> Tensor:
    return z.to(x).reshape(x.shape)


def _broken(model: Classifier, images: Tensor, x: Tensor, y: Tensor, threat: Threat) -> Bool[Tensor, " n"]:
    """Whether the classifier does not predict y for an allowed image, ties and rounding counted as the judge does."""
    with torch.no_grad():
        logits = decision(model, images)
    wrong = best_other(logits, y) >= logits.gather(1, y[:, None]).squeeze(1)
    in_box = ((images >= threat.lower) & (images <= threat.upper)).flatten(1).all(dim=1)
    return (wrong & in_box & (threat.distance(x, images) <= threat.eps + TOLERANCE)).cpu()
