"""Random starts of training-time attacks: one generator an epoch, as speed matters more than identity there."""

import torch
from jaxtyping import Float
from torch import Tensor

from attacks.threat import Threat


def uniform_start(x: Float[Tensor, "n c h w"], threat: Threat, generator: torch.Generator) -> Float[Tensor, "n c h w"]:
    """x + U(-eps, eps) per pixel, projected; an l2 ball is reached by the projection."""
    noise = (2.0 * torch.rand(x.shape, generator=generator) - 1.0) * threat.eps
    return threat.project(x, x + noise.to(x.device))
