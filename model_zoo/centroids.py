"""What classifiers that decide by distances of features to labelled centroids have in common."""

from abc import ABC, abstractmethod
from typing import cast

from jaxtyping import Float, Int
from torch import Tensor, nn

from model_zoo.clusters import check_clusters, pairwise_squared_distances


class CentroidClassifier(nn.Module, ABC):
    """`backbone` maps images in [0, 1] to features (n, d); `centroids` (k, d), `labels` (k,) their classes.

    `variance` is the sigma^2 of ClusTR eq. 3 over the training set.
    """

    centroids: Tensor
    labels: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        centroids: Float[Tensor, "k d"],
        labels: Int[Tensor, " k"],
        variance: float,
        num_classes: int,
    ):
        super().__init__()
        check_clusters(centroids, labels, num_classes)
        if not variance > 0:
            raise ValueError(f"variance must be positive, got {variance}")
        self.backbone = backbone
        self.variance, self.num_classes = float(variance), num_classes
        self.register_buffer("centroids", centroids.detach().float())
        self.register_buffer("labels", labels.detach().long())

    @property
    def cluster_labels(self) -> Int[Tensor, " k"]:
        return self.labels

    def features(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        return cast(Tensor, self.backbone(x))

    def squared_distances(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k"]:
        """Squared distances of the images' features to all centroids."""
        return pairwise_squared_distances(self.features(x), self.centroids)

    @abstractmethod
    def logits_from_distances(self, squared_distances: Float[Tensor, "n k"]) -> Float[Tensor, "n classes"]: ...

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        return self.logits_from_distances(self.squared_distances(x))
