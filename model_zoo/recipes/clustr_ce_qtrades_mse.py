"""`clustr-ce-qtrades-mse`: squared error, and cross entropy on the clean image (Bhardwaj et al. 2022, section 4.1).

loss = Magnet + lambda MSE(p(f(x)), p(f(x_adv))) + lambda' CE(p(f(x)), y), lambda = 8, lambda' = 2. Readings of what is
open: `stability.py`. D: all clusters, where the paper takes 10 of 20.
"""

from dataclasses import dataclass

from model_zoo.magnet import MagnetClassifier
from model_zoo.recipes import clustr_ce_qtrades
from model_zoo.recipes.data import TrainingData
from model_zoo.recipes.loop import TrainingRun
from model_zoo.recipes.stability import fit_stable


@dataclass(frozen=True)
class Settings(clustr_ce_qtrades.Settings):
    divergence: str = "mse"
    climbed: str = "mse"


def train(data: TrainingData, settings: Settings, run: TrainingRun) -> MagnetClassifier:
    return fit_stable(data, settings, run, "clustr-ce-qtrades-mse")
