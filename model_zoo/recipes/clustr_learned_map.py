"""`clustr-learned-map`: ClusTR and QTRADES through logits that are a learned map of the distances to the clusters.

loss = Magnet + lambda CE(p(x_adv), p(x)) + lambda' CE(p(x), y), p = softmax(A (-d^2 / (2 sigma^2)) + b), lambda = 8,
lambda' = 2. Bhardwaj et al. (2022), section 4.2, suspect "the static formulae for converting embeddings to logits" and
propose a learnable conversion without giving one. Readings taken:

- A is (classes, clusters), of all clusters and all classes; it starts as class membership, b at 0, and both are learned
  with the backbone, by the same Adam, from all terms but the Magnet loss, which has no logits.
- the other terms are those of `clustr-ce-qtrades`: x_adv is uniform noise of eps, then one step up CE(p(.), p(x)).
  d and sigma^2 are those of the epoch's clusters, as in `stability.py`. lambda' is what gives A its classes.
- a column of A belongs to a cluster. Each k-means but the first begins at the centroids of the one before, so that
  clusters keep their places, the last one included: the classifier's centroids are k-means of the final features.

The head trained is the map. D: all clusters.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from model_zoo.clusters import pairwise_squared_distances
from model_zoo.learned_map import LearnedMap, LearnedMapClassifier
from model_zoo.magnet import MagnetClassifier
from model_zoo.recipes.cluster_training import ClusterBatch
from model_zoo.recipes.data import TrainingData
from model_zoo.recipes.loop import TrainingRun
from model_zoo.recipes.magnet_training import check_batch, fit_magnet
from model_zoo.recipes.stability import SoftAssignment, StabilitySettings, stability_term
from model_zoo.recipes.warm_start import warm_start


@dataclass(frozen=True)
class Settings(StabilitySettings):
    """The map takes all clusters, and is the only head: `nearest` and `head` stay as they are."""

    cross_entropy_weight: float = 2.0
    head: str = "learned_map"


def mapped_by(learned_map: LearnedMap) -> SoftAssignment:
    """log p, the log-softmax of the map of a batch's distances to the epoch's clusters."""

    def assignment(batch: ClusterBatch, features: Tensor) -> Tensor:
        distances = pairwise_squared_distances(features, batch.centroids)
        logits: Tensor = learned_map(distances, batch.variance)
        return logits.log_softmax(dim=1)

    return assignment


def train(data: TrainingData, settings: Settings, run: TrainingRun) -> LearnedMapClassifier:
    check_batch(data, settings)  # before the warm start is trained
    if settings.head != "learned_map":
        raise ValueError(f"head must be learned_map, got {settings.head!r}")
    if settings.nearest:
        raise ValueError(f"nearest must be 0, as the map takes all clusters, got {settings.nearest}")
    labels = torch.arange(data.num_classes).repeat_interleave(settings.clusters_per_class)
    learned_map = LearnedMap(labels, data.num_classes)

    def mapped(classifier: MagnetClassifier) -> LearnedMapClassifier:
        return LearnedMapClassifier(
            classifier.backbone, classifier.centroids, classifier.labels, classifier.variance, learned_map
        ).to(run.device)

    term = stability_term(settings, data.num_classes, mapped_by(learned_map))
    start = warm_start(data, settings, run)
    return mapped(fit_magnet(data, settings, run, "clustr-learned-map", start, term, beside=learned_map, infer=mapped))
