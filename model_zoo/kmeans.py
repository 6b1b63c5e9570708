"""k-means in pixel space as a classifier."""

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn

from model_zoo.clusters import by_class, check_clusters, class_index

_CHUNK = 4_000_000
"""Float64 numbers of centroids held at a time."""
_LARGEST = 1.0e10
"""Squared distances of this size are still proven: 1e4 below them is not lost in float32."""


class KMeansClassifier(nn.Module):
    """Nearest labelled centroid in pixel space; logits = -(squared distance to the class's nearest centroid).

    `centroids` (k, c, h, w) or (k, d), `labels` (k,). A class without a centroid gets a finite logit far
    below the others and is never predicted. `variance` is the sigma^2 of ClusTR eq. 3 on the training set,
    which the Magnet attack scales distances with; without one, 1/2 leaves them as they are.
    """

    centroids: Tensor
    labels: Tensor
    center: Tensor
    offsets: Tensor
    norms: Tensor
    index: Tensor
    real: Tensor

    def __init__(
        self,
        centroids: Float[Tensor, "k *image"],
        labels: Int[Tensor, " k"],
        num_classes: int,
        variance: float = 0.5,
    ):
        super().__init__()
        check_clusters(centroids, labels, num_classes)
        if not variance > 0:
            raise ValueError(f"variance must be positive, got {variance}")
        flat = centroids.detach().flatten(1).float()
        self.num_classes, self.variance = num_classes, float(variance)
        self.backbone, self.nearest = nn.Flatten(), 1
        self.register_buffer("centroids", flat)
        self.register_buffer("labels", labels.detach().long())
        # Distances are taken from the centroids' mean: shorter vectors, smaller rounding errors.
        self.register_buffer("center", flat.mean(dim=0), persistent=False)
        offsets = flat - self.center
        self.register_buffer("offsets", offsets, persistent=False)
        self.register_buffer("norms", (offsets * offsets).sum(dim=1), persistent=False)
        index, real = class_index(self.labels, num_classes)
        self.register_buffer("index", index, persistent=False)
        self.register_buffer("real", real, persistent=False)
        self.eval()

    @property
    def cluster_labels(self) -> Int[Tensor, " k"]:
        return self.labels

    def squared_distances(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k"]:
        """Squared euclidean distances of images to all centroids."""
        with torch.autocast(x.device.type, enabled=False):  # a small difference of large terms
            a = x.flatten(1) - self.center
            return torch.addmm(self.norms + (a * a).sum(dim=1, keepdim=True), a, self.offsets.T, alpha=-2.0)

    def distance_error(self, lower: Float[Tensor, "n d"], upper: Float[Tensor, "n d"]) -> Float64[Tensor, "n k"]:
        """A proven bound of the rounding error of `squared_distances` for float32 images between lower and upper.

        Up to a term that is the same for all centroids: the error of ||x - center||^2, added to each. A distance is
        then a sum of d + 2 terms, which the matrix product may add in any order, its start included. So its error is
        at most gamma = m u / (1 - m u) with m = d + 16 relative to the sum of absolute values (Higham 2002, section
        3.1; m covers the roundings of x - center, of the factors and of what is added). To that come the errors of
        offsets and norms, which are known, and underflow. Infinite where float32 could overflow, or
        lose the distance at which a class without a centroid is kept. Holds for float32 products, torch's default:
        not for TF32 or bfloat16 ones.
        """
        unit = 2.0**-24
        roundings = (lower.shape[1] + 16) * unit
        gamma = roundings / (1 - 2.0 * roundings) if roundings < 0.25 else torch.inf  # 2: the terms are rounded too
        center = self.center.double()
        lower, upper = lower.to(center), upper.to(center)
        furthest = torch.maximum((lower - center).abs(), (upper - center).abs())
        length = furthest.square().sum(dim=1, keepdim=True)
        underflow = 4.0 * lower.shape[1] * 2.0**-126
        errors = []
        for part in torch.arange(len(self.labels), device=center.device).split(max(1, _CHUNK // lower.shape[1])):
            offsets, norms = self.offsets[part].double(), self.norms[part].double()
            true_offsets = self.centroids[part].double() - center
            squares = length + norms
            rounded = gamma * (squares + 2.0 * furthest @ offsets.abs().T)
            known = 2.0 * furthest @ (offsets - true_offsets).abs().T
            known += (norms - true_offsets.square().sum(dim=1)).abs()
            errors.append(torch.where(squares < _LARGEST, rounded + known + underflow, torch.inf))
        return torch.cat(errors, dim=1)

    def logits_from_distances(self, squared_distances: Float[Tensor, "n k"]) -> Float[Tensor, "n classes"]:
        return by_class(-squared_distances, self.index, self.real).amax(dim=2)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        return self.logits_from_distances(self.squared_distances(x))


def majority_labels(
    assignments: Int[Tensor, " n"], y: Int[Tensor, " n"], clusters: int, num_classes: int
) -> Int[Tensor, " clusters"]:
    """Each cluster's most frequent class among its members (ties to the lower class), -1 for one without members."""
    counts = torch.zeros(clusters, num_classes, dtype=torch.int64)
    counts.index_put_((assignments, y), torch.ones_like(y), accumulate=True)
    return counts.argmax(dim=1).where(counts.sum(dim=1) > 0, -1)
