"""clustr-fuzzy, clustr-learned-map and clustr-triplet against their formulas, and what their settings refuse."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from model_zoo.adapter import LogitsModel
from model_zoo.architectures import build
from model_zoo.learned_map import LearnedMap
from model_zoo.magnet import MagnetClassifier
from model_zoo.recipes import clustr_learned_map, clustr_triplet
from model_zoo.recipes.cluster_index import cluster_features
from model_zoo.recipes.cluster_training import ClusterBatch
from model_zoo.recipes.data import TrainingData
from model_zoo.recipes.loop import TrainingRun
from model_zoo.recipes.registry import RECIPES
from model_zoo.recipes.stability import StabilitySettings, stability_term
from tests.model_zoo.builders import Array, brute_squared_distances, digits_data, images, no_index

LABELS = torch.tensor([2, 0, 3, 0])
SMALL = {"epochs": 1, "batch_clusters": 6, "samples_per_cluster": 6}


@pytest.fixture(scope="module")
def data() -> TrainingData:
    return digits_data(300)


def training_run() -> TrainingRun:
    return TrainingRun(seed=0, device=torch.device("cpu"), folder=None, identity="")


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every recipe here starts from the same random network."""

    def start(*_: object) -> LogitsModel:
        torch.manual_seed(3)
        return LogitsModel(build("small-resnet", 1, 10))

    for name in ("clustr", "clustr_fuzzy", "clustr_learned_map", "clustr_triplet"):
        monkeypatch.setattr(f"model_zoo.recipes.{name}.warm_start", start)


def trained(recipe: str, data: TrainingData, **changes: object) -> Any:
    settings = dataclasses.replace(RECIPES[recipe].settings(), **(SMALL | changes))
    return RECIPES[recipe].train(data, settings, training_run())


def triplet(features: Array, alpha: float) -> Array:
    """{alpha + (F - G) / T}_+, one image at a time: the own mean, the nearest of another class, the spread."""
    groups = features.reshape(4, 5, -1)
    means = [group.sum(axis=0) / 5 for group in groups]
    middle = features.sum(axis=0) / len(features)
    spread = sum(((f - middle) ** 2).sum() for f in features) / len(features)
    losses = []
    for m, group in enumerate(groups):
        for f in group:
            own = ((f - means[m]) ** 2).sum()
            wrong = min(((f - means[k]) ** 2).sum() for k in range(4) if LABELS[k] != LABELS[m])
            losses.append(max(0.0, alpha + (own - wrong) / spread))
    return np.array(losses)


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_the_triplet_loss_is_its_formula_at_every_scale(alpha: float) -> None:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(4, 1, 3, generator=generator, dtype=torch.float64)
    features = (features + 0.5 * torch.randn(4, 5, 3, generator=generator, dtype=torch.float64)).reshape(-1, 3)
    expected = triplet(features.numpy(), alpha)
    assert 0 < (expected == 0).sum() < 20, "the case must show both sides of the hinge"
    for scale in (1.0, 1e-3, 1e4):
        scaled = (scale * features).requires_grad_(True)
        mean, per_cluster = clustr_triplet.triplet_loss(scaled, torch.tensor([4, 0, 7, 2]), LABELS, alpha)
        assert mean.item() == pytest.approx(expected.mean(), rel=1e-9)
        np.testing.assert_allclose(per_cluster.numpy(), expected.reshape(4, -1).mean(axis=1), rtol=1e-9, atol=1e-12)
        assert not per_cluster.requires_grad
        (gradient,) = torch.autograd.grad(mean, scaled)
        assert float((gradient * scaled.detach()).sum()) == pytest.approx(0, abs=1e-12), "no reward for a larger scale"


@pytest.mark.usefixtures("unchecked")
def test_the_terms_of_the_learned_map_are_those_of_its_formula() -> None:
    """lambda CE(p(x_adv), p(x)) + lambda' CE(p(x), y), x_adv one sign step from uniform noise, in NumPy."""
    settings = StabilitySettings(weight=3.0, cross_entropy_weight=2.0, eps=0.1, step_size=0.12)
    x, centroids, variance, y = images(6), images(4, seed=1).flatten(1), 2.0, torch.tensor([0, 2, 3, 0, 2, 3])
    learned = LearnedMap(LABELS, 4)
    with torch.no_grad():
        learned.weight.add_(0.5 * torch.randn(4, 4, generator=torch.Generator().manual_seed(2)))
        learned.bias.add_(torch.tensor([0.3, -0.2, 0.1, 0.0]))
    learned = learned.double()
    a, b = learned.weight.detach().double().numpy(), learned.bias.detach().double().numpy()
    means = centroids.double().numpy()

    def log_p(at: Array) -> Array:
        logits = -((at.reshape(6, 1, -1) - means) ** 2).sum(axis=2) / (2 * variance) @ a.T + b
        result: Array = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return result

    def cross_entropy(at: Array) -> float:
        return float(-(np.exp(log_p(image)) * log_p(at)).sum(axis=1).mean())

    batch = ClusterBatch(
        backbone=nn.Flatten().train(),
        x=x.double(),
        y=y,
        centroids=centroids.double(),
        labels=LABELS,
        chosen=torch.arange(3),
        variance=variance,
        index=no_index(),
        generator=torch.Generator().manual_seed(8),
    )
    image = x.double().numpy()
    noise = (2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(8)) - 1) * 0.1
    start = np.clip(image + noise.double().numpy(), 0, 1)
    slope = np.zeros_like(start)
    for place in np.ndindex(*start.shape):
        shift = np.zeros_like(start)
        shift[place] = 1e-5
        slope[place] = cross_entropy(start + shift) - cross_entropy(start - shift)
    x_adv = np.clip(np.clip(start + 0.12 * np.sign(slope), image - 0.1, image + 0.1), 0, 1)
    moved = 3.0 * (cross_entropy(x_adv) - cross_entropy(start))
    assert moved > 1e-3, "the step must show"
    expected = 3.0 * cross_entropy(x_adv) - 2.0 * log_p(image)[np.arange(6), y.numpy()].mean()
    term = stability_term(settings, 4, clustr_learned_map.mapped_by(learned))(batch)
    assert term.item() == pytest.approx(expected, rel=1e-9)
    gradients = torch.autograd.grad(term, [learned.weight, learned.bias])
    assert all(bool(gradient.abs().sum() > 0) for gradient in gradients)


def test_k_means_from_given_centroids_keeps_their_places() -> None:
    features, y = torch.randn(60, 3, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 2
    features[::4, 0] += 8.0
    features[1::4, 1] += 8.0
    first = cluster_features(features, y, 2, 2, seed=0)
    swapped = first.centroids[torch.tensor([1, 0, 3, 2])]
    again = cluster_features(features + 0.01, y, 2, 2, seed=5, start=swapped)
    torch.testing.assert_close(again.centroids, swapped + 0.01, rtol=0, atol=1e-4)
    assert again.labels.tolist() == [0, 0, 1, 1]
    assert torch.equal(again.assignments, first.assignments ^ 1)


@pytest.mark.usefixtures("untrained")
def test_a_learned_maps_clusters_are_k_means_of_the_training_features(data: TrainingData) -> None:
    model = trained("clustr-learned-map", data, epochs=3, learning_rate=0.01)
    with torch.no_grad():
        features = model.features(data.x)
    assert model.labels.tolist() == [c for c in range(10) for _ in range(2)]
    squared = brute_squared_distances(features, model.centroids)
    own = np.where(model.labels.numpy()[None, :] == data.y.numpy()[:, None], squared, np.inf)
    means = np.stack([features.numpy()[own.argmin(axis=1) == j].mean(axis=0) for j in range(20)])
    np.testing.assert_allclose(model.centroids.numpy(), means, rtol=0, atol=1e-2 * np.sqrt(model.variance))
    assert model.variance == pytest.approx(own.min(axis=1).sum() / (len(features) - 1), rel=1e-4)
    start = LearnedMap(model.labels, 10)
    assert bool((model.learned_map.weight - start.weight).abs().gt(1e-4).all()), "every column has learned"
    assert bool(model.learned_map.bias.abs().gt(0).all())


@pytest.mark.usefixtures("untrained")
def test_a_fuzzy_training_is_that_of_clustr_and_its_inference_is_not(data: TrainingData) -> None:
    plain, fuzzy = trained("clustr", data), trained("clustr-fuzzy", data, fuzzifier=1.7)
    assert isinstance(fuzzy, MagnetClassifier)
    assert (plain.fuzzifier, fuzzy.fuzzifier, fuzzy.variance) == (None, 1.7, plain.variance)
    ours, theirs = fuzzy.state_dict(), plain.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    assert not torch.equal(fuzzy(data.x_val), plain(data.x_val))


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        ("clustr-fuzzy", {"fuzzifier": 1.0}, "fuzzifier must be greater than 1 .*, got 1"),
        ("clustr-learned-map", {"head": "scores"}, "head must be learned_map, got 'scores'"),
        ("clustr-learned-map", {"nearest": 3}, "nearest must be 0, as the map takes all clusters, got 3"),
        ("clustr-learned-map", {"divergence": "l2"}, "divergence and climbed must be one of"),
        ("clustr-triplet", {"samples_per_cluster": 900}, "fewer than one batch"),
    ],
)
def test_settings_are_refused_before_a_start_is_trained(
    recipe: str, changes: dict[str, object], message: str, data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"model_zoo.recipes.{recipe.replace('-', '_')}.warm_start", lambda *_: pytest.fail("too late"))
    with pytest.raises(ValueError, match=message):
        trained(recipe, data, **changes)
