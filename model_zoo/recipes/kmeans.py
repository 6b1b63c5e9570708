"""`kmeans`: k-means in pixel space, each cluster labelled by the majority of its members (arXiv 2312.09533).

K = 856 as in the paper. scikit-learn does the Lloyd iterations. A class that is the majority nowhere has no
centroid; all its samples are then misclassified.
"""

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.cluster import KMeans

from model_zoo.kmeans import KMeansClassifier, majority_labels
from model_zoo.magnet import fit_variance
from model_zoo.recipes.data import TrainingData
from model_zoo.recipes.loop import TrainingRun


@dataclass(frozen=True)
class Settings:
    clusters: int = 856
    iterations: int = 100


def train(data: TrainingData, settings: Settings, run: TrainingRun) -> KMeansClassifier:
    if settings.clusters > len(data.x):
        raise ValueError(f"clusters must be at most the {len(data.x)} training images, got {settings.clusters}")
    flat = data.x.flatten(1)
    fitted = KMeans(settings.clusters, n_init=1, max_iter=settings.iterations, random_state=run.seed).fit(flat.numpy())
    assignments = torch.from_numpy(fitted.labels_.astype(np.int64))
    centroids = torch.from_numpy(fitted.cluster_centers_).float()
    labels = majority_labels(assignments, data.y, settings.clusters, data.num_classes)
    variance = fit_variance(flat, centroids, assignments)
    return KMeansClassifier(centroids, labels, data.num_classes, variance).to(run.device)
