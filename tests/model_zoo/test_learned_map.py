"""LearnedMapClassifier: its formula, and what attacks and verifiers take it for."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attacks.contract import ClusteringClassifier, EmbeddingClassifier
from attacks.magnet import magnet_pgd
from attacks.registry import resolve
from attacks.threat import Threat
from benchmark.cheap_copy import in_bfloat16
from benchmark.instrument import instrument
from benchmark.resolve import applies
from model_zoo.learned_map import LearnedMap, LearnedMapClassifier
from model_zoo.registry import LoadedModel
from tests.model_zoo.builders import brute_squared_distances, images, tiny_learned_map

LABELS = torch.tensor([0, 1, 2, 0, 1])


def centroids() -> Tensor:
    return images(5, seed=4).flatten(1)


def test_the_map_starts_as_the_sums_over_a_classs_clusters() -> None:
    squared = images(4).flatten(1)[:, :5]
    logits = LearnedMap(LABELS, 4)(squared, 2.0)
    scaled = -squared / 4.0
    expected = torch.stack([scaled[:, c == LABELS].sum(dim=1) for c in range(4)], dim=1)
    torch.testing.assert_close(logits, expected)


def test_logits_are_the_map_of_the_distances_in_numpy() -> None:
    learned = LearnedMap(LABELS, 3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        learned.weight.copy_(torch.randn(3, 5, generator=generator))
        learned.bias.copy_(torch.randn(3, generator=generator))
    model, x = LearnedMapClassifier(nn.Flatten(), centroids(), LABELS, 1.7, learned), images(9)
    a, b = learned.weight.detach().double().numpy(), learned.bias.detach().double().numpy()
    expected = -brute_squared_distances(x, centroids()) / (2 * 1.7) @ a.T + b
    np.testing.assert_allclose(model(x).detach().numpy(), expected, rtol=0, atol=2e-5)


def test_attacks_take_it_for_a_clustering_classifier_and_verifiers_do_not() -> None:
    model = tiny_learned_map()
    assert isinstance(model, ClusteringClassifier)
    assert not isinstance(model, EmbeddingClassifier)
    loaded = LoadedModel("mine", "mine", model, "0" * 64)
    assert {name: applies(resolve(name), loaded) for name in ("pgd20", "magnet100", "certify", "exact")} == {
        "pgd20": True,
        "magnet100": True,
        "certify": False,
        "exact": False,
    }
    x = images(5)
    assert torch.equal(model.logits_from_distances(model.squared_distances(x)), model(x))


def test_the_magnet_attack_breaks_it_through_its_distances() -> None:
    labels, clusters = torch.arange(6) % 3, images(6, seed=4).flatten(1)
    classifier = LearnedMapClassifier(nn.Flatten(), clusters, labels, 0.5, LearnedMap(labels, 3))
    model, x = instrument(classifier.requires_grad_(False), torch.device("cpu")), images(12)
    y = model(x).argmax(dim=1)
    result = magnet_pgd(
        model, x, y, Threat("linf", 0.3), seed=0, sample_ids=torch.arange(12), steps=10, restarts=1, step_size=None
    )
    assert bool((model(result.x_adv).argmax(dim=1) != y).any())


def test_a_bfloat16_copy_keeps_the_map_in_float32() -> None:
    model, x = tiny_learned_map().requires_grad_(False), images(8)
    copied = in_bfloat16(model, x[:1])
    assert isinstance(copied, ClusteringClassifier)
    squared = model.squared_distances(x)
    assert torch.equal(copied.logits_from_distances(squared), model.logits_from_distances(squared))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.logits_from_distances(squared), copied.logits_from_distances(squared))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": torch.tensor([0, 1])}, r"labels must have shape \(5,\)"),
        ({"labels": torch.arange(5)}, r"labels must lie in 0..2, got 0..4"),
        ({"variance": 0.0}, "variance must be positive, got 0.0"),
        ({"learned_map": LearnedMap(torch.tensor([0, 1, 2, 0]), 3)}, "must have 5 columns, one a cluster, got 4"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes: dict[str, object], message: str) -> None:
    parts = {"centroids": centroids(), "labels": LABELS, "variance": 1.0, "learned_map": LearnedMap(LABELS, 3)}
    with pytest.raises(ValueError, match=message):
        LearnedMapClassifier(nn.Flatten(), **(parts | changes))  # type: ignore[arg-type]
