"""What attacks raise, per sample; larger means closer to a wrong prediction."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from attacks.contract import best_other

_TINY = 1e-12


def cross_entropy(logits: Float[Tensor, "n c"], y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Cross entropy of softmax(logits) against the true class."""
    return functional.cross_entropy(logits, y, reduction="none")


def margin(logits: Float[Tensor, "n c"], y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Best wrong logit minus the true one (Carlini & Wagner 2017, f_6 without its floor)."""
    return best_other(logits, y) - logits.gather(1, y[:, None]).squeeze(1)


def margin_targeted(
    logits: Float[Tensor, "n c"], y: Int[Tensor, " n"], target: Int[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """The target class's logit minus the true one."""
    pair = logits.gather(1, torch.stack([target, y], dim=1))
    return pair[:, 0] - pair[:, 1]


def dlr(logits: Float[Tensor, "n c"], y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Difference of logits ratio (Croce & Hein 2020b, eq. 6); needs 3 classes.

    The margin over the distance of the first to the third logit: no scaling of the logits changes it.
    """
    top = logits.topk(3, dim=1).values
    return margin(logits, y) / (top[:, 0] - top[:, 2] + _TINY)


def dlr_targeted(logits: Float[Tensor, "n c"], y: Int[Tensor, " n"], target: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Targeted DLR (Croce & Hein 2020b, eq. 7); needs 4 classes."""
    top = logits.topk(4, dim=1).values
    return margin_targeted(logits, y, target) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + _TINY)


def magnet(
    squared_distances: Float[Tensor, "n k"],
    y: Int[Tensor, " n"],
    cluster_labels: Int[Tensor, " k"],
    variance: float,
) -> Float[Tensor, " n"]:
    """Magnet loss without its hinge, in log-sum-exp form (ClusTR eq. 3, alpha left out).

    d(x, nearest centroid of the true class)^2 / (2 sigma^2) + log sum over wrong clusters of
    exp(-d^2 / (2 sigma^2)). The hinge would give samples well inside their cluster loss and gradient 0,
    and alpha is a constant once the hinge is gone.
    """
    own, exponents = _own_and_wrong(squared_distances, y, cluster_labels, variance)
    return own + exponents.logsumexp(dim=1)


def magnet_published(
    squared_distances: Float[Tensor, "n k"],
    y: Int[Tensor, " n"],
    cluster_labels: Int[Tensor, " k"],
    variance: float,
    alpha: float,
) -> Float[Tensor, " n"]:
    """Magnet loss as the papers' code attacks it: hinge at 0 and log(. + 1e-8), both of which mask.

    Kept to show what the masking is worth; an evaluation that uses it says so in a flag.
    """
    own, exponents = _own_and_wrong(squared_distances, y, cluster_labels, variance)
    return (alpha + own + (exponents.exp().sum(dim=1) + 1e-8).log()).clamp_min(0.0)


def _own_and_wrong(
    squared_distances: Tensor, y: Tensor, cluster_labels: Tensor, variance: float
) -> tuple[Tensor, Tensor]:
    """Scaled distance to the true class's nearest centroid, and the wrong clusters' exponents.

    A class without a centroid has own distance inf; its samples are misclassified and never attacked.
    """
    scaled = squared_distances / (2.0 * variance)
    is_own = cluster_labels[None, :] == y[:, None]
    own = scaled.masked_fill(~is_own, torch.inf).amin(dim=1)
    return own, (-scaled).masked_fill(is_own, -torch.inf)
