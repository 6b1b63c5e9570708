"""`clustr-adv`: adversarial training by the Magnet loss (Bhardwaj et al. 2022, section 4.4, "ClusTR+ADV").

loss = Magnet(f(x), y) + lambda Magnet(f(x_adv), y), lambda = 8. The paper's formula has the loss of probabilities
against probabilities, which is ill-typed; taken here as what it must mean: x_adv climbs Magnet(f(x'), y). The hinge
is left out of the attack, because it is flat where a sample is well separated. Ten steps of 2/255 from uniform noise,
made in eval mode; the paper names neither steps nor size. D: all clusters.
"""

from dataclasses import dataclass

from torch import Tensor

from attacks.threat import Threat
from model_zoo.magnet import MagnetClassifier
from model_zoo.recipes.cluster_training import ClusterBatch
from model_zoo.recipes.data import TrainingData
from model_zoo.recipes.loop import TrainingRun
from model_zoo.recipes.magnet_training import (
    ExtraTerm,
    MagnetSettings,
    check_batch,
    fit_magnet,
    magnet_loss,
)
from model_zoo.recipes.perturb import ascend, uniform_start
from model_zoo.recipes.warm_start import warm_start

_NO_HINGE = 1e6


@dataclass(frozen=True)
class Settings(MagnetSettings):
    weight: float = 8.0
    eps: float = 8 / 255
    step_size: float = 2 / 255
    steps: int = 10


def adversarial_term(settings: Settings) -> ExtraTerm:
    """weight Magnet(f(x_adv), y) of a batch."""
    threat = Threat("linf", settings.eps)

    def term(batch: ClusterBatch) -> Tensor:
        def magnet(images: Tensor, alpha: float) -> Tensor:
            return magnet_loss(batch.backbone(images), batch.chosen, batch.labels[batch.chosen], alpha)[0]

        batch.backbone.eval()
        x_adv = ascend(
            lambda images: magnet(images, _NO_HINGE),
            batch.x,
            uniform_start(batch.x, threat, batch.generator),
            threat,
            steps=settings.steps,
            step_size=settings.step_size,
        )
        batch.backbone.train()
        return settings.weight * magnet(x_adv, settings.alpha)

    return term


def train(data: TrainingData, settings: Settings, run: TrainingRun) -> MagnetClassifier:
    check_batch(data, settings)  # before the warm start is trained
    start = warm_start(data, settings, run)
    return fit_magnet(data, settings, run, "clustr-adv", start, adversarial_term(settings))
