"""Nearest-centroid problems whose exact radius is found by independent means."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linprog, nnls
from torch import Tensor

from attacks.threat import Norm
from model_zoo.kmeans import KMeansClassifier

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CentroidProblem:
    """A classifier of float32 centroids (k, d), images (n, 1, 1, d) and their classes."""

    centroids: Tensor
    labels: Tensor
    x: Tensor
    y: Tensor
    classes: int

    @property
    def model(self) -> KMeansClassifier:
        return KMeansClassifier(self.centroids, self.labels, self.classes)

    @property
    def ids(self) -> Tensor:
        return torch.arange(len(self.x)) + 100


def random_problem(
    seed: int, d: int, clusters: int, classes: int = 3, samples: int = 4, steps: int | None = None
) -> CentroidProblem:
    """Uniform centroids and images in the unit box, on a grid of `steps` if given (ties, duplicates, faces).

    y is the class of the nearest centroid, for one sample in four any class.
    """
    generator = torch.Generator().manual_seed(seed)
    centroids = torch.rand(clusters, d, generator=generator)
    x = torch.rand(samples, d, generator=generator)
    if steps is not None:
        centroids, x = (centroids * steps).round() / steps, (x * steps).round() / steps
    labels = torch.randint(classes, (clusters,), generator=generator)
    y = labels[torch.cdist(x.double(), centroids.double()).argmin(dim=1)]
    y[::4] = torch.randint(classes, y[::4].shape, generator=generator)
    return CentroidProblem(centroids, labels, x[:, None, None], y, classes)


def guarded_problem(seed: int = 0, samples: int = 20) -> CentroidProblem:
    """Images around the middle of two own centroids, which exclude the rivals together but not alone.

    In six dimensions: own centroids m +- 0.25 e_1, rivals m +- 0.3 e_i for two other i, images m plus noise. At m a
    rival wins at l2 and linf distance (0.3^2 - 0.25^2) / 0.6 = 0.046; one own centroid alone proves 0.035 and 0.025.
    """
    eye = torch.eye(6)
    own, rivals = 0.25 * eye[[1, 1]], 0.3 * eye[[0, 2, 2]]
    own[1], rivals[2] = -own[1], -rivals[2]
    noise = 0.02 * (torch.rand(samples, 1, 1, 6, generator=torch.Generator().manual_seed(seed)) - 0.5)
    labels = torch.tensor([0, 0, 1, 1, 2])
    return CentroidProblem(0.5 + torch.cat([own, rivals]), labels, 0.5 + noise, torch.zeros(samples).long(), 3)


def true_radii(problem: CentroidProblem, norm: Norm, lead: float = 0.0) -> Array:
    """The distance of each image to the nearest one of the box where another class leads by `lead`.

    For every rival all constraints at once: linf as one linear programme in (z, t), l2 as Lawson and Hanson's
    least-distance programme. Infinite where there is no such image in the box.
    """
    solve = _linf_distance if norm == "linf" else _l2_distance
    centroids, labels = problem.centroids.double().numpy(), problem.labels.numpy()
    radii = np.full(len(problem.x), np.inf)
    for n, (x, label) in enumerate(zip(problem.x.flatten(1).double().numpy(), problem.y.tolist(), strict=True)):
        own = centroids[labels == label]
        for rival in centroids[labels != label]:
            # ||z - rival||^2 + lead <= ||z - c||^2 for every own c, at z = x + u
            gap = 2.0 * (rival - own)
            least = lead + ((x - rival) ** 2).sum() - ((x - own) ** 2).sum(axis=1)
            radii[n] = min(radii[n], solve(gap, least, x))
    return radii


def _linf_distance(gap: Array, least: Array, x: Array) -> float:
    """min t: gap u >= least, -t <= u <= t, 0 <= x + u <= 1."""
    d = len(x)
    column, eye = np.ones((d, 1)), np.eye(d)
    left = np.vstack(
        [np.hstack([-gap, np.zeros((len(gap), 1))]), np.hstack([eye, -column]), np.hstack([-eye, -column])]
    )
    right = np.concatenate([-least, np.zeros(2 * d)])
    bounds = [*zip(-x, 1.0 - x, strict=True), (0.0, None)]
    result = linprog(np.eye(d + 1)[d], A_ub=left, b_ub=right, bounds=bounds, method="highs-ipm")
    return float(result.fun) if result.status == 0 else np.inf


def _l2_distance(gap: Array, least: Array, x: Array) -> float:
    """min ||u||: gap u >= least, u >= -x, -u >= x - 1 (Lawson and Hanson 1974, chapter 23)."""
    eye = np.eye(len(x))
    rows, right = np.vstack([gap, eye, -eye]), np.concatenate([least, -x, x - 1.0])
    weights, norm = nnls(np.vstack([rows.T, right]), np.eye(len(x) + 1)[-1])
    if norm < 1e-7:
        return np.inf
    residual = np.vstack([rows.T, right]) @ weights - np.eye(len(x) + 1)[-1]
    return float(np.linalg.norm(residual[:-1] / residual[-1]))
