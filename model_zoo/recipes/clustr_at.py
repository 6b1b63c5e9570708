"""`clustr-at`: adversarial training through ClusTR's eq. 4: cross entropy of the soft nearest cluster on PGD examples.

loss = -log p_y(f(x_adv)), p of eq. 4 over all clusters by its stable head. It is a loss of ClusTR's eq. 2: F the soft
distance to the own clusters, G that to all, H their difference. x_adv: ten steps of 2/255 up the same loss from
uniform noise within linf 8/255, made in eval mode. The centroids are k-means of the features of the training images,
anew before each epoch, and fixed within it. D: all clusters.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from attacks.losses import cross_entropy
from attacks.threat import Threat
from model_zoo.magnet import MagnetClassifier
from model_zoo.recipes.cluster_index import ClusterIndex
from model_zoo.recipes.cluster_training import BatchLosses, ClusterBatch, ClusterSettings, fit_clusters
from model_zoo.recipes.data import TrainingData
from model_zoo.recipes.loop import TrainingRun, shuffled_batches
from model_zoo.recipes.perturb import ascend, uniform_start
from model_zoo.recipes.soft_assignment import log_probabilities
from model_zoo.recipes.warm_start import warm_start


@dataclass(frozen=True)
class Settings(ClusterSettings):
    """`variance` is sigma^2 in the loss; 0 takes that of the epoch's clusters."""

    learning_rate: float = 2e-3
    batch_size: int = 128
    variance: float = 0.0
    eps: float = 8 / 255
    step_size: float = 2 / 255
    steps: int = 10


def adversarial_loss(settings: Settings, num_classes: int) -> BatchLosses:
    """-log p_y(f(x_adv)) of a batch."""
    threat = Threat("linf", settings.eps)

    def losses(batch: ClusterBatch) -> dict[str, Tensor]:
        def log_p(images: Tensor) -> Tensor:
            return log_probabilities(
                batch.backbone(images),
                batch.centroids,
                batch.labels,
                settings.variance or batch.variance,
                num_classes,
            )

        batch.backbone.eval()
        x_adv = ascend(
            lambda images: cross_entropy(log_p(images), batch.y),
            batch.x,
            uniform_start(batch.x, threat, batch.generator),
            threat,
            steps=settings.steps,
            step_size=settings.step_size,
        )
        batch.backbone.train()
        return {"cross entropy": functional.nll_loss(log_p(x_adv), batch.y)}

    return losses


def train(data: TrainingData, settings: Settings, run: TrainingRun) -> MagnetClassifier:
    steps = max(1, len(data.x) // settings.batch_size)

    def ordinary(index: ClusterIndex, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        none = torch.zeros(0, dtype=torch.int64)
        for images in shuffled_batches(len(data.x), settings.batch_size, generator):
            yield none, images

    loss = adversarial_loss(settings, data.num_classes)
    return fit_clusters(data, settings, run, "clustr-at", warm_start(data, settings, run), ordinary, steps, loss)
