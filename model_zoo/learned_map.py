"""A classifier that learned how distances to clusters become logits (Bhardwaj et al. 2022, sections 4.2 and 5.1)."""

from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from model_zoo.centroids import CentroidClassifier


class LearnedMap(nn.Module):
    """logits = A (-d^2 / (2 sigma^2)) + b for squared distances d^2 (n, k) to the clusters of classes `labels` (k,).

    A is (classes, k). It starts as class membership: a class has the sum over its clusters; b starts at 0.
    """

    def __init__(self, labels: Int[Tensor, " k"], num_classes: int):
        super().__init__()
        self.weight = nn.Parameter(functional.one_hot(labels.long(), num_classes).T.float())
        self.bias = nn.Parameter(torch.zeros(num_classes))

    def forward(self, squared_distances: Float[Tensor, "n k"], variance: float) -> Float[Tensor, "n classes"]:
        with torch.autocast(squared_distances.device.type, enabled=False):  # differences of large terms
            return functional.linear(-squared_distances / (2.0 * variance), self.weight, self.bias)


class LearnedMapClassifier(CentroidClassifier):
    """`learned_map` of the squared distances of the images' features to all clusters.

    `backbone` maps images in [0, 1] to features (n, d); `centroids` (k, d), `labels` (k,), `variance` the sigma^2 of
    ClusTR eq. 3 over the training set. It is a clustering classifier for attacks. Neither the nearest cluster nor
    a sum over a class's clusters decides, so it has no `nearest`, by which verifiers know those that do.
    """

    def __init__(
        self,
        backbone: nn.Module,
        centroids: Float[Tensor, "k d"],
        labels: Int[Tensor, " k"],
        variance: float,
        learned_map: LearnedMap,
    ):
        classes, clusters = learned_map.weight.shape
        super().__init__(backbone, centroids, labels, variance, classes)
        if len(centroids) != clusters:
            raise ValueError(f"the map must have {len(centroids)} columns, one a cluster, got {clusters}")
        self.learned_map = learned_map
        self.eval()

    def logits_from_distances(self, squared_distances: Float[Tensor, "n k"]) -> Float[Tensor, "n classes"]:
        return cast(Tensor, self.learned_map(squared_distances, self.variance))
