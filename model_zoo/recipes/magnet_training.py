"""Magnet-loss fine-tuning, shared by all ClusTR recipes: the batch loss, the epoch, the final classifier."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from model_zoo.adapter import FeatureExtractor, LogitsModel, channels_last
from model_zoo.clusters import pairwise_squared_distances
from model_zoo.magnet import MagnetClassifier, fit_variance, nearest_own_cluster
from model_zoo.recipes.cluster_index import ClusterIndex, all_features, cluster_features, draw_batch
from model_zoo.recipes.data import TrainingData, augment
from model_zoo.recipes.loop import TrainingRun, check_finite, one_cycle, set_learning_rate, train_epochs
from model_zoo.recipes.supervised import accuracy


@dataclass(frozen=True)
class MagnetSettings:
    """Settings of Magnet fine-tuning; the defaults are ClusTR's for CIFAR-10 where it names them.

    `warm_start` is a model of the zoo or a weight file to start from; without one, `nominal` is trained
    first. `nearest` is D, the clusters that count at inference (0: all). Deviations: 10 epochs where the
    paper has 30, and Adam's rate falls in a line from 5e-4 to 0 where the paper keeps 1e-4: at a constant
    rate the validation accuracy of this small network swings by three points from epoch to epoch.
    """

    architecture: str = "small-resnet"
    warm_start: str = ""
    epochs: int = 10
    learning_rate: float = 5e-4
    alpha: float = 12.5
    clusters_per_class: int = 2
    batch_clusters: int = 12
    samples_per_cluster: int = 20
    nearest: int = 0


@dataclass(frozen=True)
class MagnetBatch:
    """What an extra term of the loss may use: the batch, its features, the current clusters and those drawn."""

    backbone: nn.Module
    x: Float[Tensor, "b c h w"]
    y: Int[Tensor, " b"]
    features: Float[Tensor, "b d"]
    centroids: Float[Tensor, "k d"]
    labels: Int[Tensor, " k"]
    chosen: Int[Tensor, " m"]
    variance: float
    generator: torch.Generator


ExtraTerm = Callable[[MagnetBatch], Tensor]


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
    grouped = features.reshape(len(clusters), -1, features.shape[1])
    means = grouped.mean(dim=1)
    distances = pairwise_squared_distances(features, means)
    cluster_of = torch.arange(len(clusters), device=features.device).repeat_interleave(grouped.shape[1])
    own = distances.gather(1, cluster_of[:, None]).squeeze(1)
    scale = 2.0 * (own.sum() / max(1, len(features) - 1) if variance is None else variance)
    scaled = distances / scale
    same_class = labels[cluster_of][:, None] == labels[None, :]
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
) -> MagnetClassifier:
    """Fine-tune `start` without its last layer by the Magnet loss plus an optional extra term.

    An epoch passes as many images as the data set has (ClusTR appendix D); clusters are recomputed at its
    end. The loss takes the batch's variance, or the fixed one that is given; images are augmented unless
    told otherwise; the rate rises over the first `warm_up` of the training. The classifier's centroids and
    variance come from the features of all training images.
    """
    check_batch(data, settings)
    backbone = FeatureExtractor(start.network, data.mean, data.std)
    backbone.normalise = start.normalise
    channels_last(backbone.to(run.device))
    optimiser = torch.optim.Adam(backbone.parameters(), lr=settings.learning_rate)
    steps = max(1, len(data.x) // (settings.batch_clusters * settings.samples_per_cluster))

    def clusters(epoch: int) -> ClusterIndex:
        return cluster_features(
            all_features(backbone, data.x, run.device),
            data.y,
            data.num_classes,
            settings.clusters_per_class,
            run.seed + epoch,
        )

    def one_epoch(epoch: int) -> dict[str, float]:
        generator = run.generator(stage, epoch)
        index = clusters(epoch)
        centroids, labels = index.centroids.to(run.device), index.labels.to(run.device)
        totals = {"magnet": 0.0, "extra": 0.0}
        backbone.train()
        for step in run.progress(range(steps), f"{stage} {epoch + 1}/{settings.epochs}"):
            progress = (epoch + step / steps) / settings.epochs
            set_learning_rate(optimiser, one_cycle(progress, settings.learning_rate, warm_up))
            chosen, images = draw_batch(index, settings.batch_clusters, settings.samples_per_cluster, generator)
            x = data.x[images].to(run.device)
            if augmented:
                x = augment(x, data.name, generator)
            features = backbone(x)
            loss, per_cluster = magnet_loss(features, chosen.to(run.device), labels[chosen], settings.alpha, variance)
            check_finite(loss, "Magnet loss", epoch * steps + step)
            totals["magnet"] += loss.item()
            index.losses[chosen] = 0.9 * index.losses[chosen] + 0.1 * per_cluster.cpu()
            if extra is not None:
                term = extra(
                    MagnetBatch(
                        backbone=backbone,
                        x=x,
                        y=data.y[images].to(run.device),
                        features=features,
                        centroids=centroids,
                        labels=labels,
                        chosen=chosen.to(run.device),
                        variance=index.variance,
                        generator=generator,
                    )
                )
                check_finite(term, "extra term", epoch * steps + step)
                totals["extra"] += term.item()
                loss = loss + term
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        figures = {name: total / steps for name, total in totals.items()}
        figures["validation"] = accuracy(classifier(epoch + 1), data.x_val, data.y_val)
        return figures

    def classifier(epoch: int) -> MagnetClassifier:
        return fit_classifier(backbone, data, settings, clusters(epoch), run.device)

    train_epochs(run, stage, backbone, optimiser, settings.epochs, one_epoch)
    return classifier(settings.epochs)


def fit_classifier(
    backbone: nn.Module,
    data: TrainingData,
    settings: MagnetSettings,
    index: ClusterIndex,
    device: torch.device,
) -> MagnetClassifier:
    """The classifier of ClusTR eq. 4: k-means centroids, and sigma^2 with mu(x) the nearest own centroid."""
    features = all_features(backbone, data.x, device)
    nearest = nearest_own_cluster(features, data.y, index.centroids, index.labels)
    variance = fit_variance(features, index.centroids, nearest)
    return MagnetClassifier(
        backbone,
        index.centroids.to(device),
        index.labels.to(device),
        variance,
        data.num_classes,
        nearest=settings.nearest or None,
    ).to(device)
