"""Training a backbone whose features are clustered anew each epoch: what all clustering recipes share."""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from model_zoo.adapter import FeatureExtractor, LogitsModel, channels_last
from model_zoo.magnet import MagnetClassifier, fit_variance, nearest_own_cluster
from model_zoo.recipes.cluster_index import ClusterIndex, all_features, cluster_features
from model_zoo.recipes.data import TrainingData, augment
from model_zoo.recipes.loop import LossLog, TrainingRun, one_cycle, set_learning_rate, train_epochs
from model_zoo.recipes.supervised import accuracy


@dataclass(frozen=True)
class ClusterSettings:
    """`warm_start` is a model of the zoo or a weight file to start from; without one, `nominal` is trained first.

    `nearest` is D, the clusters that count at inference (0: all).
    """

    architecture: str = "small-resnet"
    warm_start: str = ""
    epochs: int = 10
    learning_rate: float = 5e-4
    clusters_per_class: int = 2
    nearest: int = 0


@dataclass(frozen=True)
class ClusterBatch:
    """What a loss may use: the images, the epoch's clusters and, of a neighbourhood, the clusters it was drawn from.

    `centroids`, `labels` and `variance` are those of `index`, on the device of the images.
    """

    backbone: nn.Module
    x: Float[Tensor, "b c h w"]
    y: Int[Tensor, " b"]
    centroids: Float[Tensor, "k d"]
    labels: Int[Tensor, " k"]
    chosen: Int[Tensor, " m"]
    variance: float
    index: ClusterIndex
    generator: torch.Generator

    @functools.cached_property
    def features(self) -> Float[Tensor, "b d"]:
        """Those of the clean images, by the backbone in the mode it is in at the first use."""
        features: Tensor = self.backbone(self.x)
        return features


Draw = Callable[[ClusterIndex, torch.Generator], Iterator[tuple[Tensor, Tensor]]]
"""(clusters, generator) to an epoch's batches: the clusters drawn from (none: an ordinary batch) and the images."""

BatchLosses = Callable[[ClusterBatch], Mapping[str, Tensor]]
"""A batch to the terms of its loss by name; their sum is minimised."""

Infer = Callable[[MagnetClassifier], nn.Module]
"""The classifier of the epoch's clusters to the model that the recipe makes of it."""


class _Beside(nn.Module):
    """What a checkpoint holds where more is learned than the backbone: that too, and the epoch's centroids."""

    centroids: Tensor

    def __init__(self, backbone: nn.Module, beside: nn.Module, centroids: Float[Tensor, "k d"]):
        super().__init__()
        self.backbone, self.beside = backbone, beside
        self.register_buffer("centroids", centroids)


def fit_clusters(
    data: TrainingData,
    settings: ClusterSettings,
    run: TrainingRun,
    stage: str,
    start: LogitsModel,
    draw: Draw,
    steps: int,
    losses: BatchLosses,
    *,
    augmented: bool = True,
    warm_up: float = 0.0,
    beside: nn.Module | None = None,
    infer: Infer = lambda classifier: classifier,
) -> MagnetClassifier:
    """Fine-tune `start` without its last layer by Adam, `steps` batches an epoch, on the sum of `losses`.

    The features of all training images are clustered before each epoch. Images are augmented unless told
    otherwise; the rate rises over the first `warm_up` of the training and falls in a line to 0. The
    classifier's centroids and variance come from the features of all training images. The logged validation
    accuracy is that of what `infer` makes of it.

    `beside` is learned with the backbone. As it may hold parameters of single clusters, each k-means but the
    first then begins at the centroids of the one before it, so that a cluster keeps its place.
    """
    data = data.on(run.device)
    backbone = FeatureExtractor(start.network, data.mean, data.std)
    backbone.normalise = start.normalise
    channels_last(backbone.to(run.device))
    learned = backbone if beside is None else _with(beside, backbone, data, settings, run.device)
    optimiser = torch.optim.Adam(learned.parameters(), lr=settings.learning_rate)

    def clusters(epoch: int) -> ClusterIndex:
        return cluster_features(
            all_features(backbone, data.x, run.device),
            data.y,
            data.num_classes,
            settings.clusters_per_class,
            run.seed + epoch,
            learned.centroids if isinstance(learned, _Beside) and epoch > 0 else None,
        )

    def one_epoch(epoch: int) -> dict[str, float]:
        generator = run.generator(stage, epoch)
        index = clusters(epoch)
        if isinstance(learned, _Beside):
            learned.centroids.copy_(index.centroids)
        centroids, labels = index.centroids.to(run.device), index.labels.to(run.device)
        log = LossLog(epoch * steps, every=1)  # before the next batch is drawn by the losses
        backbone.train()
        batches = draw(index, generator)
        for step in run.progress(range(steps), f"{stage} {epoch + 1}/{settings.epochs}"):
            progress = (epoch + step / steps) / settings.epochs
            set_learning_rate(optimiser, one_cycle(progress, settings.learning_rate, warm_up))
            chosen, images = next(batches)
            x = data.x[images]
            if augmented:
                x = augment(x, data.name, generator)
            with run.autocast():
                terms = losses(
                    ClusterBatch(
                        backbone=backbone,
                        x=x,
                        y=data.y[images],
                        centroids=centroids,
                        labels=labels,
                        chosen=chosen.to(run.device),
                        variance=index.variance,
                        index=index,
                        generator=generator,
                    )
                )
            log.add(terms)
            optimiser.zero_grad(set_to_none=True)
            torch.stack(list(terms.values())).sum().backward()
            optimiser.step()
        figures = log.means()
        figures["validation"] = accuracy(infer(classifier(epoch + 1)), data.x_val, data.y_val)
        return figures

    def classifier(epoch: int) -> MagnetClassifier:
        return fit_classifier(backbone, data, settings, clusters(epoch), run.device)

    train_epochs(run, stage, learned, optimiser, settings.epochs, one_epoch)
    return classifier(settings.epochs)


def _with(
    beside: nn.Module, backbone: nn.Module, data: TrainingData, settings: ClusterSettings, device: torch.device
) -> _Beside:
    """Both, with a place for the centroids."""
    clusters = data.num_classes * settings.clusters_per_class
    dimension = all_features(backbone, data.x[:1], device).shape[1]
    return _Beside(backbone, beside, torch.zeros(clusters, dimension)).to(device)


def fit_classifier(
    backbone: nn.Module,
    data: TrainingData,
    settings: ClusterSettings,
    index: ClusterIndex,
    device: torch.device,
) -> MagnetClassifier:
    """The classifier of ClusTR eq. 4: k-means centroids, and sigma^2 with mu(x) the nearest own centroid."""
    features = all_features(backbone, data.x, device)
    nearest = nearest_own_cluster(features, data.y.cpu(), index.centroids, index.labels)
    variance = fit_variance(features, index.centroids, nearest)
    return MagnetClassifier(
        backbone,
        index.centroids.to(device),
        index.labels.to(device),
        variance,
        data.num_classes,
        nearest=settings.nearest or None,
    ).to(device)
