"""`clustr`: warm start by cross entropy, then the Magnet loss on the penultimate features (ClusTR section 3.3).

No adversarial example is seen in training. Reading taken: cluster means and variance of the loss are those
of the batch, as in the published code; the classifier's are those of the training set. D: all clusters.
"""

from model_zoo.magnet import MagnetClassifier
from model_zoo.recipes.data import TrainingData
from model_zoo.recipes.loop import TrainingRun
from model_zoo.recipes.magnet_training import MagnetSettings, check_batch, fit_magnet
from model_zoo.recipes.warm_start import warm_start

Settings = MagnetSettings


def train(data: TrainingData, settings: Settings, run: TrainingRun) -> MagnetClassifier:
    check_batch(data, settings)  # before the warm start is trained
    return fit_magnet(data, settings, run, "clustr", warm_start(data, settings, run))
