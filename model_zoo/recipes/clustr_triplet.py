"""`clustr-triplet`: ClusTR by a triplet of each image, its own cluster's mean and the nearest of another class.

ClusTR eq. 2 with F the squared distance to the own cluster's mean, G that to the nearest mean of another class, and
H = {alpha + (F - G) / T}_+. Readings taken: neighbourhood batches and means of the batch, as for the Magnet loss. The
margin alpha is in units of T, the mean squared distance of the batch's features to their mean, so that neither the loss
nor its minimum changes with the scale of the features; gradients flow through T, which else would reward a larger
scale. Many clusters that are points and equally far from one another have G = 2 T at F = 0: alpha = 1 is half of what
there is. No head is trained through. D: all clusters.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from model_zoo.magnet import MagnetClassifier
from model_zoo.recipes.data import TrainingData
from model_zoo.recipes.loop import TrainingRun
from model_zoo.recipes.magnet_training import MagnetSettings, batch_distances, check_batch, fit_magnet
from model_zoo.recipes.warm_start import warm_start


@dataclass(frozen=True)
class Settings(MagnetSettings):
    """`alpha` is the margin, in units of the features' mean squared distance to their mean."""

    alpha: float = 1.0


def triplet_loss(
    features: Float[Tensor, "b d"], clusters: Int[Tensor, " m"], labels: Int[Tensor, " m"], alpha: float
) -> tuple[Float[Tensor, ""], Float[Tensor, " m"]]:
    """H of a neighbourhood: its mean, and each cluster's mean (detached), of images given cluster by cluster."""
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    distances, own, same_class = batch_distances(features, labels)
    spread = (features - features.mean(dim=0)).square().sum(dim=1).mean()
    wrong = distances.masked_fill(same_class, torch.inf).amin(dim=1)
    losses = (alpha + (own - wrong) / spread).clamp_min(0.0)
    return losses.mean(), losses.detach().reshape(len(clusters), -1).mean(dim=1)


def train(data: TrainingData, settings: Settings, run: TrainingRun) -> MagnetClassifier:
    check_batch(data, settings)  # before the warm start is trained
    return fit_magnet(
        data,
        settings,
        run,
        "clustr-triplet",
        warm_start(data, settings, run),
        loss=lambda features, clusters, labels: triplet_loss(features, clusters, labels, settings.alpha),
    )
