"""`qtrades`: the quick TRADES of ClusTR on an ordinary network (ClusTR section 4.2, Table 1 row "QTRADES").

loss = CE(p(x), y) + lambda CE(p(x_adv), p(x)), lambda = 8. x_adv: uniform noise of eps, then one step up the same
cross entropy, 10/255 as in the published code. The examples are made in eval mode. Reading taken: p(x) is the label in
the second term, and gets no gradient from it. With one, that term also lowers the entropy of p(x), and the network ends
up predicting one class for all images (10.4 % of the validation images of Fashion-MNIST, from the first epoch on).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attacks.threat import Threat
from model_zoo.adapter import LogitsModel
from model_zoo.recipes.data import TrainingData
from model_zoo.recipes.loop import TrainingRun
from model_zoo.recipes.perturb import uniform_start
from model_zoo.recipes.stability import cross_entropy
from model_zoo.recipes.supervised import Supervised, fit
from model_zoo.recipes.trades import trades_loss


@dataclass(frozen=True)
class Settings(Supervised):
    epochs: int = 15
    learning_rate: float = 0.1
    weight: float = 8.0
    eps: float = 8 / 255
    step_size: float = 10 / 255


def labelled_cross_entropy(log_q: Float[Tensor, "b c"], log_p: Float[Tensor, "b c"]) -> Float[Tensor, " b"]:
    """CE(q, p) with p as a label, which gradients do not reach."""
    return cross_entropy(log_q, log_p.detach())


def train(data: TrainingData, settings: Settings, run: TrainingRun) -> LogitsModel:
    threat = Threat("linf", settings.eps)

    def loss(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        return trades_loss(
            model,
            x,
            y,
            uniform_start(x, threat, generator),
            threat,
            labelled_cross_entropy,
            weight=settings.weight,
            steps=1,
            step_size=settings.step_size,
        )

    return fit(data, settings, run, "qtrades", loss)
