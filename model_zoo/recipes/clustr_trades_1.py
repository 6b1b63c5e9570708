"""`clustr-trades-1`: TRADES examples, cross entropy in the loss (Bhardwaj et al. 2022, section 4.3, "TRADES 1").

loss = Magnet + lambda CE(p(f(x_adv)), p(f(x))), x_adv by ten steps up the KL divergence. lambda = 6 and a step of 2/255
are those of section 4.2 and of TRADES; section 4.3 names none. Readings: `stability.py`. D: all clusters.
"""

from dataclasses import dataclass

from model_zoo.magnet import MagnetClassifier
from model_zoo.recipes.data import TrainingData
from model_zoo.recipes.loop import TrainingRun
from model_zoo.recipes.stability import StabilitySettings, fit_stable


@dataclass(frozen=True)
class Settings(StabilitySettings):
    weight: float = 6.0
    steps: int = 10
    step_size: float = 2 / 255
    climbed: str = "kl"


def train(data: TrainingData, settings: Settings, run: TrainingRun) -> MagnetClassifier:
    return fit_stable(data, settings, run, "clustr-trades-1")
