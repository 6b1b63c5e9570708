"""`clustr-qtrades`: ClusTR plus the one-step TRADES term (ClusTR eq. 5, appendix D "QTRADES").

loss = Magnet + lambda CE(p(f(x_adv)), p(f(x))), where CE(q, p) = -sum_c p_c log q_c and p is eq. 4. x_adv: uniform
noise of eps, then one step up the same cross entropy. Readings of what is open: `stability.py`. D: all clusters.
"""

from dataclasses import dataclass

from model_zoo.magnet import MagnetClassifier
from model_zoo.recipes.data import TrainingData
from model_zoo.recipes.loop import TrainingRun
from model_zoo.recipes.stability import StabilitySettings, fit_stable


@dataclass(frozen=True)
class Settings(StabilitySettings):
    weight: float = 8.0


def train(data: TrainingData, settings: Settings, run: TrainingRun) -> MagnetClassifier:
    return fit_stable(data, settings, run, "clustr-qtrades")
