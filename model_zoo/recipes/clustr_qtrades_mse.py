"""`clustr-qtrades-mse`: QTRADES by the squared error (Bhardwaj et al. 2022, section 4.1).

loss = Magnet + lambda MSE(p(f(x)), p(f(x_adv))), lambda = 8; x_adv: one step up the same error from uniform noise.
Readings of what is open: `stability.py`. D: all clusters, where the paper takes 10 of 20.
"""

from dataclasses import dataclass

from model_zoo.magnet import MagnetClassifier
from model_zoo.recipes.data import TrainingData
from model_zoo.recipes.loop import TrainingRun
from model_zoo.recipes.stability import StabilitySettings, fit_stable


@dataclass(frozen=True)
class Settings(StabilitySettings):
    divergence: str = "mse"
    climbed: str = "mse"


def train(data: TrainingData, settings: Settings, run: TrainingRun) -> MagnetClassifier:
    return fit_stable(data, settings, run, "clustr-qtrades-mse")
