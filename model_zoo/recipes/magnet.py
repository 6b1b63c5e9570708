"""`magnet`: the Magnet loss from a random initialisation (Rippel et al. 2016), ClusTR without its warm start.

ClusTR Table 1, row "Magnet Loss". Deviations: 25 epochs, those of `nominal` and `clustr` together, where the papers
train to convergence; the rate falls in a line from 2e-3. D: all clusters.
"""

from dataclasses import dataclass

import torch

from model_zoo.adapter import LogitsModel
from model_zoo.architectures import build
from model_zoo.magnet import MagnetClassifier
from model_zoo.recipes.data import TrainingData
from model_zoo.recipes.loop import TrainingRun
from model_zoo.recipes.magnet_training import MagnetSettings, check_batch, fit_magnet


@dataclass(frozen=True)
class Settings(MagnetSettings):
    epochs: int = 25
    learning_rate: float = 2e-3


def train(data: TrainingData, settings: Settings, run: TrainingRun) -> MagnetClassifier:
    check_batch(data, settings)
    if settings.warm_start:
        raise ValueError("magnet starts from a random initialisation; clustr is the recipe with a warm start")
    torch.manual_seed(run.seed)
    network = build(settings.architecture, data.x.shape[1], data.num_classes, (data.x.shape[2], data.x.shape[3]))
    start = LogitsModel(network, data.mean, data.std).to(run.device)
    return fit_magnet(data, settings, run, "magnet", start)
