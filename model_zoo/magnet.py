"""The soft nearest-cluster classifier of Magnet-loss networks (Rippel et al. 2016; ClusTR eq. 4)."""

from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from model_zoo.centroids import CentroidClassifier
from model_zoo.clusters import (
    by_class,
    class_index,
    keep_nearest,
    pairwise_squared_distances,
)

Head = Literal["log_sum_exp", "scores", "probabilities"]
HEADS: tuple[Head, ...] = get_args(Head)

_SOFTENED = 1.0e-6
"""Added to squared distances in units of 2 sigma^2, so that a logarithm and its gradient are finite at 0."""
_LARGEST_EXPONENT = 80.0
"""Its exponential is still finite in float32."""


class MagnetClassifier(CentroidClassifier):
    """p_c(x) proportional to the sum over class c's clusters of exp(-||f(x) - mu||^2 / (2 sigma^2)).

    `backbone` maps images in [0, 1] to features (n, d); `centroids` (k, d), `labels` (k,), `variance` the
    sigma^2 of eq. 3 over the training set; `nearest` is D, the number of clusters (of any class) that count
    for a sample, None for all.

    Three heads show one classifier to an attack:

    - `log_sum_exp`: the logarithm of the class sums. Stable; predictions are always judged by it.
    - `scores`: the raw class sums, which the papers' evaluation feeds to cross entropy as if they were
      logits. They lie in (0, clusters a class], underflow and flatten the loss.
    - `probabilities`: the normalised sums of eq. 4.

    With `nearest` set, a class whose clusters are all excluded has probability 0, and a gradient that never
    crosses the mask: `unmasked=True` shows attacks all clusters while judging keeps the mask.

    A `fuzzifier` m makes p_c the sum of fuzzy c-means' memberships in class c's clusters (Bezdek et al. 1984): the
    kernel is d^(-2 / (m - 1)) in place of the Gaussian, in all heads. Distances are taken in units of sqrt(2) sigma,
    which cancel in a membership; a millionth added to their squares, which does not, keeps a centroid itself finite.
    """

    index: Tensor
    real: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        centroids: Float[Tensor, "k d"],
        labels: Int[Tensor, " k"],
        variance: float,
        num_classes: int,
        nearest: int | None = None,
        head: Head = "log_sum_exp",
        unmasked: bool = False,
        fuzzifier: float | None = None,
    ):
        super().__init__(backbone, centroids, labels, variance, num_classes)
        if head not in HEADS:
            raise ValueError(f"head must be one of {', '.join(HEADS)}, got {head!r}")
        if nearest is not None and not 1 <= nearest <= len(centroids):
            raise ValueError(f"nearest must lie in 1..{len(centroids)} (the number of clusters), got {nearest}")
        if fuzzifier is not None:
            check_fuzzifier(fuzzifier)
        self.nearest, self.head, self.unmasked = nearest, head, unmasked
        self.fuzzifier = fuzzifier
        index, real = class_index(self.labels, num_classes)
        self.register_buffer("index", index, persistent=False)
        self.register_buffer("real", real, persistent=False)
        self.eval()

    def log_kernel(self, squared_distances: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        """The logarithm of what a cluster adds to its class's sum; it falls as the distance grows."""
        scaled = squared_distances / (2.0 * self.variance)
        if self.fuzzifier is None:
            return -scaled
        return -(scaled.clamp_min(0.0) + _SOFTENED).log() / (self.fuzzifier - 1.0)

    def logits_from_distances(self, squared_distances: Float[Tensor, "n k"]) -> Float[Tensor, "n classes"]:
        exponents = self.log_kernel(squared_distances)
        if not self.unmasked:
            exponents = keep_nearest(exponents, self.nearest, None if self.fuzzifier is None else -squared_distances)
        per_class = by_class(exponents, self.index, self.real)
        if self.head == "scores":
            if self.fuzzifier is not None:
                per_class = per_class.clamp_max(_LARGEST_EXPONENT)
            return per_class.exp().sum(dim=2)
        log_sums = per_class.logsumexp(dim=2)
        return log_sums.softmax(dim=1) if self.head == "probabilities" else log_sums

    @property
    def masks(self) -> bool:
        """Whether some clusters are left out of a prediction."""
        return self.nearest is not None and self.nearest < len(self.centroids)

    def seen_through(self, head: Head, unmasked: bool = False) -> "MagnetClassifier":
        """The same classifier (shared weights) under another head."""
        return MagnetClassifier(
            self.backbone,
            self.centroids,
            self.labels,
            self.variance,
            self.num_classes,
            self.nearest,
            head,
            unmasked,
            self.fuzzifier,
        ).to(self.centroids.device)

    @property
    def judged(self) -> "MagnetClassifier":
        """The head that decides a prediction, whichever head the attack saw."""
        return self if self.head == "log_sum_exp" and not self.unmasked else self.seen_through("log_sum_exp")


def check_fuzzifier(fuzzifier: float) -> None:
    """Raise ValueError for an m that fuzzy c-means does not have, or whose memberships float32 does not hold."""
    if not 1.001 <= fuzzifier <= 1000.0:
        raise ValueError(f"fuzzifier must be greater than 1 (from 1.001 to 1000), got {fuzzifier:g}")


def fit_variance(
    features: Float[Tensor, "n d"], centroids: Float[Tensor, "k d"], assignments: Int[Tensor, " n"]
) -> float:
    """sigma^2 of ClusTR eq. 3: sum of ||f(x_i) - mu(x_i)||^2 over the training set, divided by n - 1."""
    total = (features.double() - centroids.double()[assignments]).square().sum()
    return float(total / max(1, len(features) - 1))


def nearest_own_cluster(
    features: Float[Tensor, "n d"],
    y: Int[Tensor, " n"],
    centroids: Float[Tensor, "k d"],
    labels: Int[Tensor, " k"],
) -> Int[Tensor, " n"]:
    """mu(x) of eq. 3: the nearest of the clusters of a sample's own class."""
    distances = pairwise_squared_distances(features, centroids)
    return distances.masked_fill(labels[None, :] != y[:, None], torch.inf).argmin(dim=1)
