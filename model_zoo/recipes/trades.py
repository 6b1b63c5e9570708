"""`trades`: cross entropy plus the distance of p(x_adv) from p(x) (Zhang et al. 2019, eq. 5).

loss = CE(p(x), y) + beta KL(p(x) || p(x_adv)), beta = 6. x_adv: ten steps of 2/255 up the same divergence from
x + 0.001 N(0, 1), inside linf 8/255. The examples are made in eval mode.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from attacks.threat import Threat
from model_zoo.adapter import LogitsModel
from model_zoo.recipes.data import TrainingData
from model_zoo.recipes.loop import TrainingRun
from model_zoo.recipes.perturb import ascend
from model_zoo.recipes.stability import kl_divergence
from model_zoo.recipes.supervised import Supervised, fit

_START = 1e-3


@dataclass(frozen=True)
class Settings(Supervised):
    epochs: int = 12
    learning_rate: float = 0.1
    beta: float = 6.0
    eps: float = 8 / 255
    step_size: float = 2 / 255
    steps: int = 10


def trades_loss(
    model: nn.Module,
    x: Float[Tensor, "b c h w"],
    y: Int[Tensor, " b"],
    start: Float[Tensor, "b c h w"],
    threat: Threat,
    divergence: Callable[[Tensor, Tensor], Tensor],
    *,
    weight: float,
    steps: int,
    step_size: float,
) -> Float[Tensor, ""]:
    """CE(p(x), y) + weight D(p(x_adv), p(x)), x_adv by steps up the same divergence D from `start`."""
    model.eval()
    with torch.no_grad():
        clean = model(x).log_softmax(dim=1)
    x_adv = ascend(
        lambda images: divergence(model(images).float().log_softmax(dim=1), clean),
        x,
        start,
        threat,
        steps=steps,
        step_size=step_size,
    )
    model.train()
    logits = model(x)
    distance = divergence(model(x_adv).log_softmax(dim=1), logits.log_softmax(dim=1)).mean()
    return functional.cross_entropy(logits, y) + weight * distance


def train(data: TrainingData, settings: Settings, run: TrainingRun) -> LogitsModel:
    threat = Threat("linf", settings.eps)

    def loss(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        start = threat.project(x, x + _START * torch.randn(x.shape, generator=generator).to(x.device))
        return trades_loss(
            model,
            x,
            y,
            start,
            threat,
            kl_divergence,
            weight=settings.beta,
            steps=settings.steps,
            step_size=settings.step_size,
        )

    return fit(data, settings, run, "trades", loss)
