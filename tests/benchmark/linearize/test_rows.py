"""Rows are gradients of the linearised classifier, and differences of distances are affine along them."""

from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmark.linearize.changes import NotLinearizable
from benchmark.linearize.rewrite import BatchNorm, Linearized, linearize
from benchmark.linearize.rows import BOUND, SelfCheck, checked_jacobian, class_rows
from model_zoo.adapter import LogitsModel
from model_zoo.kmeans import KMeansClassifier
from model_zoo.learned_map import LearnedMap, LearnedMapClassifier
from model_zoo.magnet import HEADS, MagnetClassifier
from model_zoo.registry import load
from tests.benchmark.linearize.networks import Function, Mixed

SHAPE = (2, 6, 5)
LABELS = torch.tensor([2, 0, 1, 1, 0, 1])


def clusters(seed: int = 3) -> Tensor:
    return torch.randn(len(LABELS), 4, generator=torch.Generator().manual_seed(seed))


def magnet(nearest: int | None = None, fuzzifier: float | None = None) -> MagnetClassifier:
    return MagnetClassifier(Mixed(), clusters(), LABELS, 0.7, 3, nearest=nearest, fuzzifier=fuzzifier)


def slopes_of_differences(model: MagnetClassifier, bn: BatchNorm) -> np.ndarray:
    """(k, k, d): by how much score i gains on score j along each pixel, by steps of the linearised features."""
    features = linearize(model.backbone, SHAPE, bn).module
    x = torch.rand(SHAPE, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    steps = torch.eye(x.numel(), dtype=torch.float64).reshape(-1, *SHAPE)
    h = 0.1
    with torch.no_grad():
        scores = [
            -torch.cdist(features(x + sign * h * steps), model.centroids.double()).square() / (2 * model.variance)
            for sign in (1, -1)
        ]
    slope = ((scores[0] - scores[1]) / (2 * h)).T
    return (slope[:, None] - slope[None, :]).numpy()


@pytest.mark.parametrize("bn", ["drop", "fold"])
def test_cluster_rows_are_slopes_of_differences_of_distances(bn: BatchNorm) -> None:
    model = magnet()
    rows = class_rows(model, torch.rand(SHAPE), bn)
    expected = slopes_of_differences(model, bn)
    np.testing.assert_allclose(rows.rows[:, None] - rows.rows[None, :], expected, atol=1e-8 * np.abs(expected).max())
    assert rows.centred
    assert rows.labels.tolist() == LABELS.tolist()
    assert rows.check.holds


def test_a_class_has_the_mean_of_its_clusters_rows_counted_from_the_mean_class_row() -> None:
    rows = class_rows(magnet(), torch.rand(SHAPE), "drop")
    for c, members in enumerate(([1, 4], [2, 3, 5], [0])):
        np.testing.assert_allclose(rows.classes[c], rows.rows[members].mean(axis=0), rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(rows.classes.mean(axis=0), 0.0, atol=1e-12 * np.abs(rows.classes).max())


def test_heads_nearest_and_kernel_do_not_change_the_rows() -> None:
    image = torch.rand(SHAPE)
    rows = class_rows(magnet(), image, "drop").rows
    for model in (*(magnet().seen_through(head) for head in HEADS), magnet(nearest=2), magnet(fuzzifier=2.0)):
        np.testing.assert_array_equal(class_rows(model, image, "drop").rows, rows)


def test_an_origin_elsewhere_leaves_the_rows_alone() -> None:
    """Features and centroids moved by the same vector: the same classifier."""
    moved = torch.tensor([3.0, -1.0, 2.0, 5.0])
    image, model = torch.rand(SHAPE), magnet()
    elsewhere = MagnetClassifier(
        Function(lambda x, network: network(x) + moved, Mixed()), clusters() + moved, LABELS, 0.7, 3
    )
    np.testing.assert_allclose(
        class_rows(elsewhere, image, "drop").rows, class_rows(model, image, "drop").rows, rtol=1e-5, atol=1e-5
    )


def test_the_head_of_a_clustering_classifier_is_its_centroids() -> None:
    rows = class_rows(magnet(), torch.rand(SHAPE), "drop")
    means = np.stack([clusters()[c == LABELS].double().mean(dim=0).numpy() for c in range(3)]) / 0.7
    np.testing.assert_allclose(rows.head, means - means.mean(axis=0), rtol=1e-12)
    features = checked_jacobian(linearize(Mixed(), SHAPE, "drop"), torch.rand(SHAPE))[0]
    np.testing.assert_allclose(rows.classes, rows.head @ features, rtol=1e-9, atol=1e-13)


def test_k_means_rows_are_its_centroids() -> None:
    model = KMeansClassifier(torch.rand(6, *SHAPE), LABELS, 3, variance=2.0)
    rows = class_rows(model, torch.rand(SHAPE), "drop")
    centroids = model.centroids.double().numpy() / 2.0
    np.testing.assert_allclose(rows.rows - rows.rows[0], centroids - centroids[0], rtol=1e-12, atol=1e-15)
    assert rows.head.shape == (0, 0)
    assert rows.changes == ()


def test_learned_map_rows_are_the_logits_gradients_in_the_middle_of_the_clusters() -> None:
    learned = LearnedMap(LABELS, 3)
    nn.init.normal_(learned.weight, generator=torch.Generator().manual_seed(1))
    model = LearnedMapClassifier(Mixed(), clusters(), LABELS, 0.7, learned)
    rows = class_rows(model, torch.rand(SHAPE), "drop")

    def logits(features: Tensor) -> Tensor:
        distances = (features - clusters().double()).square().sum(dim=1)
        return cast(Tensor, learned.double()(distances[None], 0.7))[0]

    at_middle = torch.autograd.functional.jacobian(logits, clusters().double().mean(dim=0))
    features = checked_jacobian(linearize(Mixed(), SHAPE, "drop"), torch.rand(SHAPE))[0]
    np.testing.assert_allclose(rows.head, at_middle.numpy(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(rows.classes, at_middle.numpy() @ features, rtol=1e-9, atol=1e-12)
    assert "mean distance to all clusters" in {change.operation for change in rows.changes}
    assert rows.labels.tolist() == [0, 1, 2]


def test_a_learned_map_with_equal_sums_leaves_nothing_out() -> None:
    """Its logits' differences are affine, with the rows' differences as slopes."""
    labels = torch.tensor([0, 0, 1, 1])
    model = LearnedMapClassifier(Mixed(), clusters()[:4], labels, 0.7, LearnedMap(labels, 2))
    rows = class_rows(model, torch.rand(SHAPE), "drop")
    assert "mean distance to all clusters" not in {change.operation for change in rows.changes}
    features = linearize(Mixed(), SHAPE, "drop").module
    a, b = torch.rand(2, *SHAPE, dtype=torch.float64)
    with torch.no_grad():
        scores = -torch.cdist(features(torch.stack([a, b])), model.centroids.double()).square() / 1.4
    gains = scores[:, :2].sum(dim=1) - scores[:, 2:].sum(dim=1)
    slope = (rows.classes[0] - rows.classes[1]) @ (a - b).flatten().numpy()
    assert float(gains[0] - gains[1]) == pytest.approx(slope, rel=1e-9)


def test_a_class_without_a_cluster_has_no_row() -> None:
    model = MagnetClassifier(Mixed(), clusters(), LABELS, 0.7, 4)
    with pytest.raises(NotLinearizable, match="class 3 has no cluster"):
        class_rows(model, torch.rand(SHAPE), "drop")


def test_a_leftover_that_is_not_linear_fails_the_self_check() -> None:
    bent = Linearized(Function(lambda x: x.flatten(1)[:, :3] + 1e-4 * x.flatten(1)[:, 3:6] ** 2), ())
    with pytest.raises(NotLinearizable, match="is not linear: Jacobians at two images differ by"):
        checked_jacobian(bent, torch.rand(SHAPE))
    kinked = Linearized(Function(lambda x: (x - 1.5).relu().flatten(1) + x.flatten(1)), ())
    with pytest.raises(NotLinearizable, match="is not linear"):
        checked_jacobian(kinked, torch.rand(SHAPE))


@pytest.mark.parametrize(("jacobians", "additivity"), [(2 * BOUND, 0.0), (0.0, 2 * BOUND), (float("nan"), 0.0)])
def test_both_checks_must_hold(jacobians: float, additivity: float) -> None:
    assert SelfCheck(BOUND, BOUND).holds
    assert not SelfCheck(jacobians, additivity).holds


def test_the_row_of_a_logit_is_its_gradient_where_nothing_is_dropped() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(60, 3)
    rows = class_rows(LogitsModel(nn.Sequential(nn.Flatten(), layer)), torch.rand(SHAPE), "fold")
    np.testing.assert_array_equal(rows.rows, layer.weight.detach().double().numpy())
    np.testing.assert_array_equal(rows.head, rows.classes)
    assert not rows.centred


def test_a_network_without_a_last_linear_layer_has_no_head() -> None:
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert class_rows(network, torch.rand(SHAPE), "drop").head.shape == (0, 0)


@pytest.mark.parametrize(
    ("name", "count", "width"),
    [
        ("nominal", 10, 64),
        ("pgd-at", 10, 64),
        ("clustr-qtrades", 20, 64),
        ("clustr-qtrades@scores", 20, 64),
        ("kmeans", 856, 0),
        ("clustr-learned-map", 10, 64),
        ("clustr-1lip", 10, 128),
    ],
)
@pytest.mark.parametrize("bn", ["drop", "fold"])
def test_models_of_the_zoo(name: str, count: int, width: int, bn: BatchNorm) -> None:
    rows = class_rows(load(name, fold=False).model, torch.rand(1, 28, 28), bn)
    assert rows.rows.shape == (count, 784)
    assert rows.classes.shape == (10, 784)
    assert rows.head.shape == ((10, width) if width else (0, 0))
    assert rows.check.holds
    assert np.linalg.norm(rows.classes, axis=1).min() > 0
    assert all(np.isfinite(values).all() for values in (rows.rows, rows.classes, rows.head))
