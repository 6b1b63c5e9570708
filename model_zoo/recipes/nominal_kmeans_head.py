"""`nominal-kmeans-head`: k-means on the penultimate features of an undefended network (ClusTR appendix E.1).

The paper asks whether a distance-based last layer alone gives robustness. Reading taken: clusters are found
in each class, as in ClusTR itself, and classify by eq. 4; the paper's 21.6 % clean accuracy on CIFAR-10
suggests that it did otherwise, but not what. D: all clusters.
"""

from model_zoo.adapter import FeatureExtractor
from model_zoo.magnet import MagnetClassifier
from model_zoo.recipes.cluster_index import all_features, cluster_features
from model_zoo.recipes.cluster_training import fit_classifier
from model_zoo.recipes.data import TrainingData
from model_zoo.recipes.loop import TrainingRun
from model_zoo.recipes.magnet_training import MagnetSettings
from model_zoo.recipes.warm_start import warm_start

Settings = MagnetSettings


def train(data: TrainingData, settings: Settings, run: TrainingRun) -> MagnetClassifier:
    start = warm_start(data, settings, run)
    backbone = FeatureExtractor(start.network, data.mean, data.std)
    backbone.normalise = start.normalise
    backbone.eval()
    features = all_features(backbone, data.x, run.device)
    index = cluster_features(features, data.y, data.num_classes, settings.clusters_per_class, run.seed)
    return fit_classifier(backbone, data, settings, index, run.device)
