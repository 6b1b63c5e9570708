"""Small classifiers, cards and data shared by the model tests."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from model_zoo.adapter import FeatureExtractor, LogitsModel
from model_zoo.architectures import build
from model_zoo.kmeans import KMeansClassifier
from model_zoo.learned_map import LearnedMap, LearnedMapClassifier
from model_zoo.magnet import Head, MagnetClassifier
from model_zoo.recipes.cluster_index import ClusterIndex
from model_zoo.recipes.data import TrainingData, hold_out

Array = npt.NDArray[np.float64]

CARD: dict[str, Any] = {
    "name": "tiny",
    "summary": "for tests",
    "input_shape": (1, 8, 8),
    "num_classes": 3,
    "recipe": "none",
    "settings": {},
    "command": "none",
    "dataset": "noise",
    "data_sha256": "0" * 64,
    "seed": 0,
    "minutes": 0.0,
    "machine": "test",
    "versions": {},
    "validation_accuracy": 0.0,
}
"""What `save_model` must be told of a model."""


def images(samples: int = 6, seed: int = 0) -> Tensor:
    """Uniform images (n, 1, 8, 8) in [0, 1]."""
    return torch.rand(samples, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def no_index() -> ClusterIndex:
    """The index of a batch whose loss does not read it."""
    return ClusterIndex(torch.zeros(1, 1), torch.tensor([0]), torch.tensor([0]), 1.0, torch.ones(1))


def tiny_kmeans() -> KMeansClassifier:
    return KMeansClassifier(images(7, seed=1), torch.tensor([0, 1, 2, 0, 1, 2, 0]), 3, variance=2.5)


def tiny_network() -> LogitsModel:
    """A small-resnet with random weights and batch statistics that are not the initial ones."""
    torch.manual_seed(5)
    model = LogitsModel(build("small-resnet", 1, 3), [0.3], [0.4])
    model.train()
    with torch.no_grad():
        model(images(64, seed=2))
    return model.eval()


def tiny_magnet(nearest: int | None = None, head: Head = "log_sum_exp") -> MagnetClassifier:
    """A Magnet classifier on the features of `tiny_network`, its six centroids features of images."""
    network = tiny_network()
    backbone = FeatureExtractor(network.network, [0.3], [0.4]).eval()
    with torch.no_grad():
        centroids = backbone(images(6, seed=3))
    return MagnetClassifier(backbone, centroids, torch.tensor([0, 1, 2, 0, 1, 2]), 0.7, 3, nearest=nearest, head=head)


def tiny_learned_map() -> LearnedMapClassifier:
    """The same features and clusters, their logits a map that is not the initial one."""
    magnet = tiny_magnet()
    learned = LearnedMap(magnet.labels, 3)
    with torch.no_grad():
        learned.weight.add_(0.3 * torch.randn(3, 6, generator=torch.Generator().manual_seed(6)))
        learned.bias.add_(torch.tensor([0.2, 0.0, -0.1]))
    return LearnedMapClassifier(magnet.backbone, magnet.centroids, magnet.labels, magnet.variance, learned)


def plain_magnet(
    centroids: Tensor,
    labels: Tensor,
    variance: float,
    num_classes: int,
    nearest: int | None = None,
    head: Head = "log_sum_exp",
    unmasked: bool = False,
    fuzzifier: float | None = None,
) -> MagnetClassifier:
    """A Magnet classifier whose features are the pixels."""
    return MagnetClassifier(nn.Flatten(), centroids, labels, variance, num_classes, nearest, head, unmasked, fuzzifier)


def brute_squared_distances(points: Tensor, centroids: Tensor) -> Array:
    """||a - b||^2 in float64, by differences."""
    a, b = points.double().flatten(1).numpy(), centroids.double().flatten(1).numpy()
    return np.array([[((p - c) ** 2).sum() for c in b] for p in a])


def digits_data(samples: int = 400, name: str = "digits") -> TrainingData:
    """The first scikit-learn digits (n, 1, 8, 8) in [0, 1], the last fifth of them held out."""
    x, y = load_digits(return_X_y=True)
    pixels = torch.tensor(x[:samples] / 16.0, dtype=torch.float32).reshape(-1, 1, 8, 8)
    return hold_out(name, "0" * 64, 10, pixels, torch.tensor(y[:samples]))
