"""`free-at`: free adversarial training (Shafahi et al. 2019, algorithm 1), 8 replays of each batch.

Every backward pass moves the weights and the perturbation, which is carried from batch to batch and starts from 0 in
each epoch (the paper's: in the first), so that a resumed training is the same. Its step is eps; it is clipped to eps,
and the images it is added to, not itself, to the box. One epoch here costs as many passes as 8 of `nominal`. The
perturbation sees the model in training mode, as in the paper.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from attacks.threat import Threat
from model_zoo.adapter import LogitsModel
from model_zoo.recipes.data import TrainingData
from model_zoo.recipes.loop import TrainingRun
from model_zoo.recipes.supervised import Supervised, fit


@dataclass(frozen=True)
class Settings(Supervised):
    epochs: int = 6
    learning_rate: float = 0.1
    eps: float = 8 / 255
    replays: int = 8


class _Perturbation:
    """One perturbation for all batches; a new epoch, known by its generator, starts from 0."""

    def __init__(self, threat: Threat):
        self.threat = threat
        self.epoch: torch.Generator | None = None
        self.delta = torch.zeros(0)

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        if self.epoch is not generator or self.delta.shape != x.shape:
            self.epoch, self.delta = generator, torch.zeros_like(x)
        eps = self.threat.eps
        images = self.threat.project(x, x + self.delta).requires_grad_(True)

        def move(gradient: Tensor) -> None:
            self.delta = (self.delta + eps * self.threat.steepest(gradient)).clamp(-eps, eps)

        images.register_hook(move)
        return functional.cross_entropy(model(images), y)


def train(data: TrainingData, settings: Settings, run: TrainingRun) -> LogitsModel:
    perturbation = _Perturbation(Threat("linf", settings.eps))
    return fit(data, settings, run, "free-at", perturbation.loss, replays=settings.replays)
