"""The gradient step that all white-box attacks share."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attacks.contract import Classifier, Outputs, outputs


@dataclass(frozen=True)
class Slope:
    """A loss (n,) at images, its gradient (n, c, h, w), the margin (n,) of the judged head there, and which
    gradients were zero or not finite (those hold zeros instead)."""

    loss: Float[Tensor, " n"]
    gradient: Float[Tensor, "n *image"]
    margin: Float[Tensor, " n"]
    stalled: Bool[Tensor, " n"]


def slope(
    model: Classifier,
    x: Float[Tensor, "n *image"],
    y: Tensor,
    loss: Callable[[Outputs], Tensor],
    draws: int = 1,
) -> Slope:
    """One forward and one backward pass of a per-sample loss; the mean of `draws` for a randomised model."""
    images = x.detach().requires_grad_(True)
    seen = outputs(model, images)
    value = loss(seen)
    (gradient,) = torch.autograd.grad(value.sum(), images)
    for _ in range(draws - 1):  # expectation over transformations (Athalye et al. 2018)
        again = loss(outputs(model, images))
        gradient = gradient + torch.autograd.grad(again.sum(), images)[0]
        value = value.detach() + again.detach()
    if draws > 1:
        value, gradient = value / draws, gradient / draws
    size = gradient.flatten(1).abs().sum(dim=1)
    finite = size.isfinite()
    if not bool(finite.all()):
        gradient = gradient.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    return Slope(value.detach(), gradient, seen.margin(y), ~finite | (size == 0))
