"""`pgd-at`: adversarial training (Madry et al. 2018, eq. 2.1): cross entropy on PGD examples only.

10 steps of 2/255 from a random start within linf 8/255. The examples are made in eval mode, so that batch
norm's running statistics see each batch once, as adversarial images.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from attacks.losses import cross_entropy
from attacks.threat import Threat
from model_zoo.adapter import LogitsModel
from model_zoo.recipes.data import TrainingData
from model_zoo.recipes.loop import TrainingRun
from model_zoo.recipes.perturb import ascend, uniform_start
from model_zoo.recipes.supervised import Supervised, fit


@dataclass(frozen=True)
class Settings(Supervised):
    epochs: int = 12
    eps: float = 8 / 255
    step_size: float = 2 / 255
    steps: int = 10


def adversarial_images(
    model: nn.Module, x: Tensor, y: Tensor, threat: Threat, settings: Settings, generator: torch.Generator
) -> Tensor:
    """PGD examples of a batch; the model is left in training mode."""
    model.eval()
    x_adv = ascend(
        lambda images: cross_entropy(model(images).float(), y),
        x,
        uniform_start(x, threat, generator),
        threat,
        steps=settings.steps,
        step_size=settings.step_size,
    )
    model.train()
    return x_adv


def train(data: TrainingData, settings: Settings, run: TrainingRun) -> LogitsModel:
    threat = Threat("linf", settings.eps)

    def adversarial_loss(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        return functional.cross_entropy(model(adversarial_images(model, x, y, threat, settings, generator)), y)

    return fit(data, settings, run, "pgd-at", adversarial_loss)
