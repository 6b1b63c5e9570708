"""`clustr-e-qtrades-mse`: "extended" QTRADES by the squared error (Bhardwaj et al. 2022, section 4.2).

loss = Magnet + lambda MSE(p(f(x)), p(f(x_adv))), lambda = 6, one cluster a class, 10 clusters a batch. Ten steps of
2/255, where the paper names no size. Readings of what is open: `stability.py`. D: all clusters (the paper: 10 of 10).
"""

from dataclasses import dataclass

from model_zoo.magnet import MagnetClassifier
from model_zoo.recipes import clustr_e_qtrades
from model_zoo.recipes.data import TrainingData
from model_zoo.recipes.loop import TrainingRun
from model_zoo.recipes.stability import fit_stable


@dataclass(frozen=True)
class Settings(clustr_e_qtrades.Settings):
    divergence: str = "mse"
    climbed: str = "mse"


def train(data: TrainingData, settings: Settings, run: TrainingRun) -> MagnetClassifier:
    return fit_stable(data, settings, run, "clustr-e-qtrades-mse")
