"""The adversarial images of training: random starts and ascents, made for speed."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from attacks.hardware import has_bfloat16
from attacks.pgd import climb
from attacks.threat import Threat


def uniform_start(x: Float[Tensor, "n c h w"], threat: Threat, generator: torch.Generator) -> Float[Tensor, "n c h w"]:
    """x + U(-eps, eps) per pixel, projected; an l2 ball is reached by the projection.

    One generator an epoch, as speed matters more than a sample's identity here.
    """
    noise = (2.0 * torch.rand(x.shape, generator=generator) - 1.0) * threat.eps
    return threat.project(x, x + noise.to(x.device))


def ascend(
    loss: Callable[[Tensor], Tensor],
    x: Float[Tensor, "n c h w"],
    start: Float[Tensor, "n c h w"],
    threat: Threat,
    *,
    steps: int,
    step_size: float,
) -> Float[Tensor, "n c h w"]:
    """`attacks.pgd.climb`, the passes in bfloat16 where the hardware multiplies it: half the time of float32.

    `loss` must compute in float32 what is small; a network's outputs come as bfloat16.
    """

    def cheaply(images: Tensor) -> Tensor:
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=has_bfloat16(x.device)):
            return loss(images)

    return climb(cheaply, x, start, threat, steps=steps, step_size=step_size)
