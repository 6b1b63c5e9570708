"""The clusters of the training features during Magnet training, and the batches drawn from them."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.cluster import KMeans
from torch import Tensor, nn

from model_zoo.clusters import pairwise_squared_distances
from model_zoo.magnet import fit_variance


@dataclass
class ClusterIndex:
    """k-means clusters of each class's features.

    `centroids` (k, d), `labels` (k,) the clusters' classes, `assignments` (n,) each image's cluster,
    `variance` the sigma^2 of ClusTR eq. 3, `losses` (k,) a running mean of each cluster's Magnet loss.
    """

    centroids: Float[Tensor, "k d"]
    labels: Int[Tensor, " k"]
    assignments: Int[Tensor, " n"]
    variance: float
    losses: Float[Tensor, " k"]


def cluster_features(
    features: Float[Tensor, "n d"],
    y: Int[Tensor, " n"],
    num_classes: int,
    clusters_per_class: int,
    seed: int,
    start: Float[Tensor, "k d"] | None = None,
) -> ClusterIndex:
    """k-means++ and Lloyd in each class (ClusTR appendix D, "Magnet Loss").

    Lloyd begins at the centroids `start` where they are given, each of which then keeps its place.
    Raises ValueError for a class with fewer images than clusters, FloatingPointError for features that are
    not finite.
    """
    if not bool(features.isfinite().all()):
        raise FloatingPointError("features of training images are not finite; the last good checkpoint is kept")
    y = y.cpu()
    centroids: list[Tensor] = []
    labels: list[int] = []
    assignments = torch.zeros(len(features), dtype=torch.int64)
    for c in range(num_classes):
        members = torch.nonzero(y == c).flatten()
        if len(members) < clusters_per_class:
            raise ValueError(f"class {c} has {len(members)} training images, fewer than {clusters_per_class} clusters")
        rows = slice(len(labels), len(labels) + clusters_per_class)
        init = "k-means++" if start is None else start[rows].cpu().numpy()
        fitted = KMeans(clusters_per_class, init=init, n_init=1, random_state=seed).fit(features[members].numpy())
        assignments[members] = torch.from_numpy(fitted.labels_.astype(np.int64)) + len(labels)
        centroids.append(torch.from_numpy(fitted.cluster_centers_).float())
        labels += [c] * clusters_per_class
    stacked = torch.cat(centroids)
    variance = fit_variance(features, stacked, assignments)
    return ClusterIndex(stacked, torch.tensor(labels), assignments, variance, torch.ones(len(labels)))


@torch.no_grad()
def all_features(
    backbone: nn.Module, x: Float[Tensor, "n c h w"], device: torch.device, batch_size: int = 500
) -> Float[Tensor, "n d"]:
    """Features of all images, in eval mode, on the CPU."""
    training = backbone.training
    backbone.eval()
    features = torch.cat([backbone(part.to(device)).float() for part in x.split(batch_size)])
    backbone.train(training)
    return features.cpu()


def draw_batch(
    index: ClusterIndex, clusters: int, samples_per_cluster: int, generator: torch.Generator
) -> tuple[Int[Tensor, " m"], Int[Tensor, " b"]]:
    """A neighbourhood of clusters and images drawn from each (Rippel et al. 2016, section 3.2).

    A seed cluster is drawn in proportion to its loss; the others are the nearest to it among the clusters
    of other classes. Returns the clusters (m,) and m * samples_per_cluster image indices, cluster by
    cluster, drawn with replacement only from clusters that are smaller than that.
    """
    inhabited = torch.bincount(index.assignments, minlength=len(index.labels)) > 0
    weights = index.losses.clamp_min(1e-6) * inhabited
    seed = int(torch.multinomial(weights, 1, generator=generator))
    distances = pairwise_squared_distances(index.centroids[seed : seed + 1], index.centroids)[0]
    distances[(index.labels == index.labels[seed]) | ~inhabited] = torch.inf
    available = int(torch.isfinite(distances).sum())
    impostors = distances.topk(min(clusters - 1, available), largest=False).indices
    chosen = torch.cat([torch.tensor([seed]), impostors])
    images = []
    for cluster in chosen.tolist():
        members = torch.nonzero(index.assignments == cluster).flatten()
        if len(members) >= samples_per_cluster:
            picked = torch.randperm(len(members), generator=generator)[:samples_per_cluster]
        else:
            picked = torch.randint(len(members), (samples_per_cluster,), generator=generator)
        images.append(members[picked])
    return chosen, torch.cat(images)
