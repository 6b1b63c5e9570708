"""`clustr-trades-2`: TRADES examples, KL divergence in the loss (Bhardwaj et al. 2022, section 4.3, "TRADES 2").

loss = Magnet + lambda KL(p(f(x)) || p(f(x_adv))), x_adv by ten steps up the same divergence. lambda = 6 and a step of
2/255 are those of section 4.2 and of TRADES; section 4.3 names none. Readings: `stability.py`. D: all clusters.
"""

from dataclasses import dataclass

from model_zoo.magnet import MagnetClassifier
from model_zoo.recipes import clustr_trades_1
from model_zoo.recipes.data import TrainingData
from model_zoo.recipes.loop import TrainingRun
from model_zoo.recipes.stability import fit_stable


@dataclass(frozen=True)
class Settings(clustr_trades_1.Settings):
    divergence: str = "kl"


def train(data: TrainingData, settings: Settings, run: TrainingRun) -> MagnetClassifier:
    return fit_stable(data, settings, run, "clustr-trades-2")
