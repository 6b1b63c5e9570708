"""The Magnet loss and its neighbourhood batches, shared by the ClusTR recipes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from model_zoo.adapter import LogitsModel
from model_zoo.clusters import pairwise_squared_distances
from model_zoo.magnet import MagnetClassifier
from model_zoo.recipes.cluster_index import ClusterIndex, draw_batch
from model_zoo.recipes.cluster_training import ClusterBatch, ClusterSettings, Infer, fit_clusters
from model_zoo.recipes.data import TrainingData
from model_zoo.recipes.loop import TrainingRun


@dataclass(frozen=True)
class MagnetSettings(ClusterSettings):
    """Settings of Magnet fine-tuning; the defaults are ClusTR's for CIFAR-10 where it names them.

    Deviations: 10 epochs where the paper has 30, and Adam's rate falls in a line from 5e-4 to 0 where the
    paper keeps 1e-4: at a constant rate the validation accuracy of this small network swings by three
    points from epoch to epoch.
    """

    alpha: float = 12.5
    batch_clusters: int = 12
    samples_per_cluster: int = 20


ExtraTerm = Callable[[ClusterBatch], Tensor]

NeighbourhoodLoss = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(features, clusters, labels) as `magnet_loss` takes them, to the mean loss and each cluster's (detached)."""


def batch_distances(
    features: Float[Tensor, "b d"], labels: Int[Tensor, " m"]
) -> tuple[Float[Tensor, "b m"], Float[Tensor, " b"], Bool[Tensor, "b m"]]:
    """What losses of a neighbourhood are made of, for the same number of features of each of the m clusters in turn.

    Squared distances to the batch's means of all clusters, to that of the own, and which are of the own class.
    """
    grouped = features.reshape(len(labels), -1, features.shape[1])
    means = grouped.mean(dim=1)
    distances = pairwise_squared_distances(features, means)
    cluster_of = torch.arange(len(labels), device=features.device).repeat_interleave(grouped.shape[1])
    own = distances.gather(1, cluster_of[:, None]).squeeze(1)
    return distances, own, labels[cluster_of][:, None] == labels[None, :]


def magnet_loss(
    features: Float[Tensor, "b d"],
    clusters: Int[Tensor, " m"],
    labels: Int[Tensor, " m"],
    alpha: float,
    variance: float | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, " m"]]:
    """The stochastic Magnet loss of a neighbourhood (Rippel et al. 2016, eq. 5; ClusTR eq. 3 with its hinge).

    `features` hold the same number of images for each of the m clusters, cluster by cluster. Means and
    variance are those of the batch, as in the papers' code, and gradients flow through both; a `variance`
    that is given stays fixed instead. Returns the mean loss and each cluster's mean loss (detached).
    """
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    distances, own, same_class = batch_distances(features, labels)
    scale = 2.0 * (own.sum() / max(1, len(features) - 1) if variance is None else variance)
    scaled = distances / scale
    wrong = (-scaled).masked_fill(same_class, -torch.inf).logsumexp(dim=1)
    losses = (alpha + own / scale + wrong).clamp_min(0.0)
    return losses.mean(), losses.detach().reshape(len(clusters), -1).mean(dim=1)


def check_batch(data: TrainingData, settings: MagnetSettings) -> None:
    """Raise ValueError for a data set smaller than one batch."""
    if len(data.x) < settings.batch_clusters * settings.samples_per_cluster:
        raise ValueError(
            f"data set {data.name} has {len(data.x)} training images, fewer than one batch of "
            f"{settings.batch_clusters} clusters x {settings.samples_per_cluster} samples"
        )


def fit_magnet(
    data: TrainingData,
    settings: MagnetSettings,
    run: TrainingRun,
    stage: str,
    start: LogitsModel,
    extra: ExtraTerm | None = None,
    variance: float | None = None,
    augmented: bool = True,
    warm_up: float = 0.0,
    loss: NeighbourhoodLoss | None = None,
    beside: nn.Module | None = None,
    infer: Infer = lambda classifier: classifier,
) -> MagnetClassifier:
    """`fit_clusters` by the Magnet loss, or another `loss` of its neighbourhoods, plus an optional extra term.

    An epoch passes as many images as the data set has (ClusTR appendix D). The Magnet loss takes the batch's
    variance, or the fixed one that is given.
    """
    check_batch(data, settings)

    def neighbourhoods(index: ClusterIndex, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield draw_batch(index, settings.batch_clusters, settings.samples_per_cluster, generator)

    def magnet(features: Tensor, clusters: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return magnet_loss(features, clusters, labels, settings.alpha, variance)

    name, clustering = ("Magnet loss", magnet) if loss is None else ("clustering loss", loss)

    def losses(batch: ClusterBatch) -> dict[str, Tensor]:
        value, per_cluster = clustering(batch.features, batch.chosen, batch.labels[batch.chosen])
        chosen, running = batch.chosen.cpu(), batch.index.losses
        running[chosen] = 0.9 * running[chosen] + 0.1 * per_cluster.cpu()
        return {name: value} | ({} if extra is None else {"extra term": extra(batch)})

    steps = max(1, len(data.x) // (settings.batch_clusters * settings.samples_per_cluster))
    return fit_clusters(
        data,
        settings,
        run,
        stage,
        start,
        neighbourhoods,
        steps,
        losses,
        augmented=augmented,
        warm_up=warm_up,
        beside=beside,
        infer=infer,
    )
