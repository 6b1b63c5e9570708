"""p_c(f(x)) of ClusTR eq. 4 as training losses use it."""

from jaxtyping import Float, Int
from torch import Tensor

from model_zoo.clusters import by_class, class_index, pairwise_squared_distances


def log_probabilities(
    features: Float[Tensor, "b d"],
    centroids: Float[Tensor, "k d"],
    labels: Int[Tensor, " k"],
    variance: float,
    num_classes: int,
) -> Float[Tensor, "b c"]:
    """log p_c of eq. 4 over all clusters, stable in the log domain."""
    index, real = class_index(labels.cpu(), num_classes)
    exponents = -pairwise_squared_distances(features, centroids) / (2.0 * variance)
    per_class = by_class(exponents, index.to(features.device), real.to(features.device))
    return per_class.logsumexp(dim=2).log_softmax(dim=1)
