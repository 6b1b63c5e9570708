"""Values per cluster, reduced to values per class."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

EXCLUDED_OFFSET = 1.0e4
"""How far below every other value an excluded cluster lies: finite, so that losses stay defined, and far
enough that exp underflows to exactly 0."""


def class_index(labels: Int[Tensor, " k"], num_classes: int) -> tuple[Int[Tensor, "c m"], Bool[Tensor, "c m"]]:
    """The clusters of each class, padded to the largest class, and which places are real."""
    members = [torch.nonzero(labels == c).flatten() for c in range(num_classes)]
    width = max(1, max(len(m) for m in members))
    index = torch.zeros(num_classes, width, dtype=torch.int64)
    real = torch.zeros(num_classes, width, dtype=torch.bool)
    for c, m in enumerate(members):
        index[c, : len(m)] = m
        real[c, : len(m)] = True
    return index, real


def by_class(
    values: Float[Tensor, "n k"], index: Int[Tensor, "c m"], real: Bool[Tensor, "c m"]
) -> Float[Tensor, "n c m"]:
    """Values of each class's clusters; a padded place holds a value far below all of the sample's."""
    floor = values.detach().amin(dim=1)[:, None, None] - EXCLUDED_OFFSET
    gathered = values.index_select(1, index.flatten()).unflatten(1, index.shape)  # its gradient is a fast index_add
    return torch.where(real, gathered, floor)


def keep_nearest(
    values: Float[Tensor, "n k"], nearest: int | None, closeness: Float[Tensor, "n k"] | None = None
) -> Float[Tensor, "n k"]:
    """Push all but each sample's `nearest` largest values far below the rest, gradients kept.

    Largest by `closeness`, where that is given: values that round alike need not be equally near.
    """
    if nearest is None or nearest >= values.shape[1]:
        return values
    kept = torch.zeros_like(values, dtype=torch.bool).scatter_(
        1, (values if closeness is None else closeness).topk(nearest, dim=1).indices, True
    )
    return torch.where(kept, values, values - EXCLUDED_OFFSET)


def check_clusters(centroids: Tensor, labels: Tensor, num_classes: int) -> None:
    """Raise ValueError unless `labels` (k,) names a class for each of the k centroids."""
    if labels.shape != centroids.shape[:1]:
        raise ValueError(f"labels must have shape ({len(centroids)},), one a centroid, got {tuple(labels.shape)}")
    if len(labels) == 0:
        raise ValueError("a clustering classifier needs at least one centroid")
    if not (int(labels.min()) >= 0 and int(labels.max()) < num_classes):
        raise ValueError(f"labels must lie in 0..{num_classes - 1}, got {int(labels.min())}..{int(labels.max())}")


def pairwise_squared_distances(a: Float[Tensor, "n d"], b: Float[Tensor, "k d"]) -> Float[Tensor, "n k"]:
    """||a_i - b_j||^2 by one matrix product; exact to about 1e-5 for vectors of length 10 in float32.

    Always in float32: it is a small difference of large terms, which autocast would ruin.
    """
    with torch.autocast(a.device.type, enabled=False):
        a = a.to(torch.promote_types(a.dtype, torch.float32))
        return (a * a).sum(dim=1, keepdim=True) + (b * b).sum(dim=1) - 2.0 * (a @ b.T)
