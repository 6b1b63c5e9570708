"""`kmeans`: k-means in pixel space, each cluster labelled by the majority of its members (arXiv 2312.09533).

K = 856 as in the paper. scikit-learn does the Lloyd iterations. A cluster that is empty at the end has no majority: it
is left out of the classifier, so that no image is given a class by it. A class that is the majority nowhere has no
centroid; all its samples are then misclassified. The card tells of both.
"""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from model_zoo.kmeans import KMeansClassifier, majority_labels
from model_zoo.magnet import fit_variance
from model_zoo.recipes.data import TrainingData
from model_zoo.recipes.loop import TrainingRun
from model_zoo.recipes.plusplus import greedy_plusplus


@dataclass(frozen=True)
class Settings:
    clusters: int = 856
    iterations: int = 100


@dataclass(frozen=True)
class Clustering:
    """Centroids (k, d), the majority's class of each (-1: empty), and sigma^2 of ClusTR eq. 3."""

    centroids: Float[Tensor, "k d"]
    labels: Int[Tensor, " k"]
    variance: float


def train(data: TrainingData, settings: Settings, run: TrainingRun) -> KMeansClassifier:
    check_count(settings.clusters, len(data.x))
    found = cluster(
        data.x.flatten(1),
        data.y,
        data.num_classes,
        clusters=settings.clusters,
        iterations=settings.iterations,
        seed=run.seed,
    )
    run.notes.extend(remarks(found, data.num_classes))
    return classifier(found, data.num_classes).to(run.device)


def check_count(clusters: int, images: int) -> None:
    """Raise ValueError for more clusters than images."""
    if clusters > images:
        raise ValueError(f"clusters must be at most the {images} training images, got {clusters}")


def cluster(
    flat: Float[Tensor, "n d"],
    y: Int[Tensor, " n"],
    num_classes: int,
    *,
    clusters: int,
    iterations: int,
    seed: int,
    start: Float[Tensor, "k d"] | None = None,
) -> Clustering:
    """At most so many Lloyd iterations, from `start` or from k-means++, and what its clusters stand for."""
    init = greedy_plusplus if start is None else start.numpy()
    with warnings.catch_warnings():  # of clusters without members the card tells
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = KMeans(clusters, init=init, n_init=1, max_iter=iterations, random_state=seed).fit(flat.numpy())
    assignments = torch.from_numpy(fitted.labels_.astype(np.int64))
    centroids = torch.from_numpy(fitted.cluster_centers_).float()
    labels = majority_labels(assignments, y, clusters, num_classes)
    return Clustering(centroids, labels, fit_variance(flat, centroids, assignments))


def classifier(found: Clustering, num_classes: int) -> KMeansClassifier:
    """The classifier by the clusters that have members."""
    filled = found.labels >= 0
    return KMeansClassifier(found.centroids[filled], found.labels[filled], num_classes, found.variance)


def remarks(found: Clustering, num_classes: int) -> list[str]:
    """What whoever reads the numbers of the classifier must know, a sentence each."""
    told = []
    empty = int((found.labels < 0).sum())
    if empty:
        told.append(f"{empty} of {len(found.labels)} clusters had no member at the end and are left out")
    absent = sorted(set(range(num_classes)) - set(found.labels.tolist()))
    if absent:
        told.append(f"no cluster stands for class {', '.join(map(str, absent))}: all its samples are misclassified")
    return told
