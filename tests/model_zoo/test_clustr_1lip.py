"""The 1-Lipschitz recipe: what its model promises, and that the promise holds under attack."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attacks.lipschitz import lipschitz_bound
from model_zoo.architectures.lipschitz_net import LipschitzMLP
from model_zoo.magnet import MagnetClassifier
from model_zoo.recipes import cluster_training, clustr_1lip
from model_zoo.recipes.clustr_1lip import Settings
from model_zoo.recipes.data import TrainingData
from model_zoo.recipes.loop import TrainingRun
from model_zoo.weights import load_model, save_model
from tests.model_zoo.builders import CARD, digits_data

CPU = torch.device("cpu")
SMALL = Settings(width=32, features=16, epochs=6, samples_per_cluster=8)


def trained(data: TrainingData, settings: Settings = SMALL) -> MagnetClassifier:
    return clustr_1lip.train(data, settings, TrainingRun(0, CPU, None, ""))


@pytest.fixture(scope="module")
def data() -> TrainingData:
    return digits_data()


@pytest.fixture(scope="module")
def model(data: TrainingData) -> MagnetClassifier:
    return trained(data)


def test_the_backbone_is_proven_1_lipschitz(model: MagnetClassifier) -> None:
    assert lipschitz_bound(model.backbone, (1, 8, 8)) == pytest.approx(1.0, abs=1e-3)


def test_centroids_are_the_means_of_the_classes_features(model: MagnetClassifier, data: TrainingData) -> None:
    features = model.features(data.x).detach().double()
    assert model.labels.tolist() == list(range(10))
    for c in range(10):
        np.testing.assert_allclose(model.centroids[c], features[data.y == c].mean(dim=0), atol=1e-5)
    spread = (features - model.centroids[data.y].double()).square().sum() / (len(data.y) - 1)
    assert model.variance == pytest.approx(float(spread), rel=1e-5)
    assert model.nearest is None


def theorem_1(model: MagnetClassifier, x: Tensor, y: Tensor, bound: float) -> Tensor:
    """min over c of (d_c^2 - d_y^2) / (2 L ||mu_c - mu_y||) for one cluster a class, in float64."""
    distances = (model.features(x).detach().double()[:, None] - model.centroids.double()).square().sum(dim=2)
    apart = torch.cdist(model.centroids.double(), model.centroids.double())[y].clamp_min(1e-9)
    gains = (distances - distances.gather(1, y[:, None])) / (2.0 * bound * apart)
    return gains.scatter(1, y[:, None], torch.inf).amin(dim=1)


def test_no_image_breaks_within_the_certified_radius(model: MagnetClassifier, data: TrainingData) -> None:
    """Gradient steps towards each wrong class, on the sphere of the radius; beyond it some do break."""
    x, y = data.x_val, data.y_val
    bound = lipschitz_bound(model.backbone, (1, 8, 8))
    radii = theorem_1(model, x, y, bound)
    sure = radii > 0
    assert torch.equal(model(x).argmax(dim=1) == y, sure), "positive exactly where the prediction is right"
    assert float(sure.double().mean()) > 0.5
    x, y, radii = x[sure], y[sure], radii[sure].float()
    broken = dict.fromkeys((0.999, 3.0), 0)
    for factor in broken:
        for target in range(10):
            z = x.clone()
            for _ in range(20):
                z.requires_grad_(True)
                logits = model(z)
                gain = (logits[:, target] - logits.gather(1, y[:, None]).squeeze(1)).sum()
                (slope,) = torch.autograd.grad(gain, z)
                step = z.detach() + 0.3 * slope / slope.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None, None]
                delta = (step - x).flatten(1)
                delta = delta * (factor * radii / delta.norm(dim=1).clamp_min(1e-12)).clamp_max(1.0)[:, None]
                z = x + delta.reshape(x.shape)
            broken[factor] += int((model(z).argmax(dim=1) != y).count_nonzero())
    assert broken[0.999] == 0
    assert broken[3.0] > 0


def test_the_model_is_saved_and_rebuilt_for_other_shapes_of_images(tmp_path: Path) -> None:
    """Three channels, six classes; the network takes its shape from the weights."""
    digits = digits_data()
    kept, kept_val = digits.y < 6, digits.y_val < 6
    colour = dataclasses.replace(
        digits,
        num_classes=6,
        x=digits.x[kept].repeat(1, 3, 1, 1)[..., :6],
        y=digits.y[kept],
        x_val=digits.x_val[kept_val].repeat(1, 3, 1, 1)[..., :6],
        y_val=digits.y_val[kept_val],
    )
    settings = dataclasses.replace(SMALL, hidden_layers=1, epochs=1)
    model, x = trained(colour, settings), colour.x_val
    path = tmp_path / "colour.safetensors"
    card = CARD | {"architecture": settings.architecture, "num_classes": 6, "input_shape": (3, 8, 6)}
    save_model(path, model, card)
    loaded, _ = load_model(path, CPU)
    assert torch.equal(loaded(x), model(x))
    assert isinstance(loaded, MagnetClassifier)
    network = loaded.backbone.get_submodule("network")
    assert isinstance(network, LipschitzMLP)
    assert network.shape == (3 * 8 * 6, 32, 16)
    assert lipschitz_bound(loaded.backbone, (3, 8, 6)) == pytest.approx(1.0, abs=1e-3)


def test_the_model_holds_nothing_of_the_training(model: MagnetClassifier) -> None:
    assert not any(isinstance(part, nn.utils.parametrize.ParametrizationList) for part in model.modules())
    assert not any(part.training for part in model.modules())


def test_images_are_not_augmented(data: TrainingData, monkeypatch: pytest.MonkeyPatch) -> None:
    def unwanted(*_: object) -> None:
        raise AssertionError("augmented")

    monkeypatch.setattr(cluster_training, "augment", unwanted)
    trained(dataclasses.replace(data, name="fashion-mnist"), dataclasses.replace(SMALL, epochs=1))


def test_the_rate_rises_and_falls_to_0(data: TrainingData, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    monkeypatch.setattr(cluster_training, "set_learning_rate", lambda _, rate: rates.append(rate))
    trained(data, dataclasses.replace(SMALL, epochs=20, learning_rate=0.004))
    assert len(rates) == 20 * (320 // 80)
    peak = rates.index(max(rates))
    assert (rates[0], peak) == (0.0, 8)
    assert rates[peak] == pytest.approx(0.004)
    np.testing.assert_allclose(np.diff(rates[: peak + 1]), 0.004 / 8, rtol=1e-6)
    np.testing.assert_allclose(np.diff(rates[peak:]), -0.004 / 72, rtol=1e-6)


def test_another_network_is_refused(data: TrainingData) -> None:
    with pytest.raises(ValueError, match="architecture must be lipschitz-mlp, got 'small-resnet'"):
        trained(data, dataclasses.replace(SMALL, architecture="small-resnet"))


def test_too_few_images_for_a_batch_are_refused(data: TrainingData) -> None:
    with pytest.raises(ValueError, match="fewer than one batch of 10 clusters x 40 samples"):
        trained(data, dataclasses.replace(SMALL, samples_per_cluster=40))
