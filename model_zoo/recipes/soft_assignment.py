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
    head: str = "log_sum_exp",
) -> Float[Tensor, "b c"]:
    """log p_c of eq. 4 over all clusters: exact (`log_sum_exp`), or log-softmax of the raw sums (`scores`).

    The second is what the papers' code trains with: as the sums lie in (0, clusters a class], it is never
    far from uniform.
    """
    index, real = class_index(labels.cpu(), num_classes)
    exponents = -pairwise_squared_distances(features, centroids) / (2.0 * variance)
    per_class = by_class(exponents, index.to(features.device), real.to(features.device))
    if head == "scores":
        return per_class.exp().sum(dim=2).log_softmax(dim=1)
    return per_class.logsumexp(dim=2).log_softmax(dim=1)
