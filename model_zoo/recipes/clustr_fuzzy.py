"""`clustr-fuzzy`: ClusTR with the memberships of fuzzy c-means at inference (Bezdek et al. 1984).

p_c(x) = sum of u_j(x) over class c's clusters, u_j = d_j^(-2 / (m - 1)) / sum_k d_k^(-2 / (m - 1)), d the distance of
the features to a centroid; Bhardwaj et al. (2022), section 5.1, name fuzzy c-means as a further direction. Reading
taken: inference alone is fuzzy. The training is that of `clustr`, by the Magnet loss, with the same random numbers, and
the centroids are those of k-means, not of fuzzy c-means: the model is `clustr@fuzzy=M` of the same seed and settings.
m = 2, Bezdek's own range being 1.5 to 3. No head is trained through. D: all clusters.
"""

from dataclasses import dataclass

from model_zoo.magnet import MagnetClassifier, check_fuzzifier
from model_zoo.recipes.data import TrainingData
from model_zoo.recipes.loop import TrainingRun
from model_zoo.recipes.magnet_training import MagnetSettings, check_batch, fit_magnet
from model_zoo.recipes.warm_start import warm_start


@dataclass(frozen=True)
class Settings(MagnetSettings):
    """`fuzzifier` is m, greater than 1; towards 1 the nearest cluster decides."""

    fuzzifier: float = 2.0


def train(data: TrainingData, settings: Settings, run: TrainingRun) -> MagnetClassifier:
    check_batch(data, settings)  # before the warm start is trained
    check_fuzzifier(settings.fuzzifier)

    def fuzzy(classifier: MagnetClassifier) -> MagnetClassifier:
        classifier.fuzzifier = settings.fuzzifier
        return classifier

    return fuzzy(fit_magnet(data, settings, run, "clustr", warm_start(data, settings, run), infer=fuzzy))
