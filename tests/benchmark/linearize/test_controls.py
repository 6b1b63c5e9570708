"""Controls of the clustering effect: random starts, true features, the standard model."""

import dataclasses
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from benchmark import datasets
from benchmark.datasets import Dataset
from benchmark.linearize import controls
from model_zoo.external import fingerprint
from model_zoo.kmeans import KMeansClassifier
from model_zoo.magnet import MagnetClassifier
from model_zoo.registry import LoadedModel, load


@pytest.fixture(scope="module")
def clothes() -> Dataset:
    return datasets.load("fashion-mnist")


def with_card(like: str, name: str, **changes: object) -> LoadedModel:
    """A model of the zoo as if it were another's."""
    one = load(like, fold=False)
    assert one.card is not None
    return dataclasses.replace(one, name=name, card=one.card.model_copy(update=changes))


def test_the_standard_model_is_sought_among_those_named_then_in_the_zoo() -> None:
    elsewhere = {"dataset": "cifar10-q75"}
    robust = with_card("pgd-at", "q75/pgd-at", **elsewhere, seed=2)
    others = [with_card("nominal", f"q75/nominal-{seed}", **elsewhere, seed=seed) for seed in (3, 0, 2)]
    wider = with_card("nominal", "q75/wide", **elsewhere, architecture="resnet18", seed=2)

    def found(*given: LoadedModel) -> str | None:
        standard = controls.standard_of(robust, (robust, *given))
        return None if standard is None else standard.name

    assert found(*others, wider) == "q75/nominal-2"  # of the same seed
    assert found(*others[:2]) == "q75/nominal-0"  # else of the least
    with pytest.raises(controls.NoControl, match=r"nor the zoo have a small-resnet trained by nominal on cifar10-q75;"):
        found(wider)
    own = controls.standard_of(load("pgd-at", fold=False), ())
    assert own is not None
    assert own.name == "nominal"
    assert controls.standard_of(others[0], others) is None


def test_random_starts_are_other_networks_of_the_same_shape(clothes: Dataset) -> None:
    loaded = load("nominal", fold=False)
    before = fingerprint(loaded.model)
    first, again, other = (controls.random_start(loaded, clothes, seed) for seed in (1, 1, 2))
    assert fingerprint(first) == fingerprint(again) != fingerprint(other)
    assert fingerprint(loaded.model) == before
    shapes = [{k: v.shape for k, v in one.state_dict().items()} for one in (first, loaded.model)]
    assert shapes[0] == shapes[1]
    pixels = [one.state_dict()["normalise.mean"] for one in (first, loaded.model)]
    assert torch.equal(*pixels)


def test_random_starts_of_a_clustering_classifier_are_clustered_anew(clothes: Dataset) -> None:
    loaded = load("clustr-qtrades", fold=False)
    start = controls.random_start(loaded, clothes, 1)
    assert isinstance(start, MagnetClassifier)
    assert isinstance(loaded.model, MagnetClassifier)
    assert torch.equal(start.labels.sort().values, loaded.model.labels.sort().values)
    with torch.no_grad():
        features = start.features(clothes.x[:2000])
        nearest = start.squared_distances(clothes.x[:2000]).masked_fill(
            start.labels[None] != clothes.y[:2000, None], torch.inf
        )
    for cluster in (0, 13):  # k-means: each centroid is the mean of its members
        members = features[nearest.argmin(dim=1) == cluster]
        assert torch.allclose(members.mean(dim=0), start.centroids[cluster], atol=1e-3)


class Prototypes(nn.Module):
    """A user's clustering classifier: its centroids are trained, and no parameters."""

    variance, nearest = 0.5, None
    centroids: Tensor
    cluster_labels: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Flatten(), nn.Linear(784, 8))
        self.register_buffer("centroids", torch.randn(10, 8))
        self.register_buffer("cluster_labels", torch.arange(10))

    def squared_distances(self, x: Tensor) -> Tensor:
        return torch.cdist(self.backbone(x), self.centroids).square()

    def logits_from_distances(self, squared_distances: Tensor) -> Tensor:
        return -squared_distances

    def forward(self, x: Tensor) -> Tensor:
        return self.logits_from_distances(self.squared_distances(x))


class Held(nn.Module):
    """A linear layer of somebody else's training, held as a buffer."""

    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.randn(784, 10))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight


class Scaled(nn.Linear):
    """Learns more than the layer that it is derived from, which knows nothing of that."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.scale = nn.Parameter(torch.ones(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.scale


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (Prototypes(), "how a Prototypes begins is not known"),
        (nn.Sequential(nn.Flatten(), Scaled(784, 10)), r"reset_parameters of 1 \(Scaled\) leaves some as they are"),
        (
            nn.Sequential(nn.Flatten(), nn.utils.spectral_norm(nn.Linear(784, 10))),
            r"reset_parameters of 1 \(Linear\) leaves some as they are",
        ),
        (Held(), "it has no weights that are drawn at random"),
        (nn.Sequential(Held(), nn.BatchNorm1d(10)), "it has no weights that are drawn at random"),
        (
            MagnetClassifier(nn.Flatten(), torch.rand(10, 784), torch.arange(10), 1.0, 10),
            "it has no weights that are drawn at random",
        ),
    ],
    ids=["centroids", "subclass", "spectral norm", "buffers", "buffers and batch norm", "pixels"],
)
def test_no_random_start_keeps_what_was_trained(clothes: Dataset, model: nn.Module, why: str) -> None:
    loaded = LoadedModel("mine", "mine", model.requires_grad_(False).eval(), "")
    with pytest.raises(controls.NoControl, match=why):
        controls.random_start(loaded, clothes, 1)


def test_random_starts_of_users_networks_draw_every_layer(clothes: Dataset) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.PReLU(), nn.Flatten(), nn.Linear(4 * 26 * 26, 10))
    loaded = LoadedModel("mine", "mine", model.requires_grad_(False).eval(), "")
    first, again, other = (controls.random_start(loaded, clothes, seed) for seed in (1, 1, 2))
    assert fingerprint(first) == fingerprint(again) != fingerprint(other)
    assert all(bool(value.isfinite().all()) for value in first.state_dict().values())


def test_random_starts_of_k_means_are_images_of_the_class(clothes: Dataset) -> None:
    model = KMeansClassifier(torch.rand(4, 784), torch.tensor([0, 0, 1, 2]), 3)
    three = dataclasses.replace(clothes, x=clothes.x[clothes.y < 3], y=clothes.y[clothes.y < 3])
    start = controls.random_start(LoadedModel("k", "k", model, ""), three, 0)
    assert isinstance(start, KMeansClassifier)
    assert start.labels.tolist() == [0, 0, 1, 2]
    for centroid, label in zip(start.centroids, start.labels, strict=True):
        assert bool((three.x[three.y == label].flatten(1) == centroid).all(dim=1).any())
    with pytest.raises(controls.NoControl, match="class 0 has 1 images for 2 clusters"):
        controls.random_start(
            LoadedModel("k", "k", model, ""), dataclasses.replace(three, x=three.x[:1], y=torch.tensor([0])), 0
        )


def test_features_of_users_networks_are_what_the_last_layer_is_given(clothes: Dataset) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 20), nn.ReLU(), nn.Linear(20, 10)).eval()
    few = dataclasses.replace(clothes, x=clothes.x[:300], y=clothes.y[:300])
    found = controls.features_of(model, few)
    assert found is not None
    assert torch.allclose(found, model[:3](few.x), atol=1e-6)
    assert controls.features_of(nn.Sequential(nn.Conv2d(1, 10, 28), nn.Flatten()), few) is None


class Normalised(nn.Module):
    """A user's network, whose backbone is not given the image itself."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Flatten(), nn.Linear(784, 20), nn.ReLU())
        self.last = nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.last(self.backbone((x - 0.5) / 0.2)))


def test_features_of_a_users_backbone_are_of_what_it_is_given(clothes: Dataset) -> None:
    model = Normalised().eval()
    few = dataclasses.replace(clothes, x=clothes.x[:300], y=clothes.y[:300])
    found = controls.features_of(model, few)
    assert found is not None
    assert torch.allclose(found, model.backbone((few.x - 0.5) / 0.2), atol=1e-5)
