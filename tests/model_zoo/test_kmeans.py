"""KMeansClassifier against distances by differences in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model_zoo.kmeans import KMeansClassifier, majority_labels
from tests.model_zoo.builders import brute_squared_distances, images, tiny_kmeans

LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0])


def test_logits_are_minus_the_squared_distance_to_the_classs_nearest_centroid() -> None:
    x, centroids = images(20), images(7, seed=1)
    squared = brute_squared_distances(x, centroids)
    expected = np.stack([-squared[:, LABELS.numpy() == c].min(axis=1) for c in range(3)], axis=1)
    model = KMeansClassifier(centroids, LABELS, 3)
    np.testing.assert_allclose(model(x).numpy(), expected, rtol=0, atol=1e-4)
    np.testing.assert_allclose(model.squared_distances(x).numpy(), squared, rtol=0, atol=1e-4)


def test_an_offset_common_to_all_images_does_not_cost_precision() -> None:
    """Images and centroids around 1000: squares of 6.4e7 whose difference is of order 10."""
    x, centroids = images(5).double() + 1000, images(7, seed=1).double() + 1000
    squared = brute_squared_distances(x.float(), centroids.float())
    model = KMeansClassifier(centroids.float(), LABELS, 3)
    np.testing.assert_allclose(model.squared_distances(x.float()).numpy(), squared, rtol=0, atol=1e-2)


def test_the_gradient_of_a_logit_is_minus_twice_the_way_from_the_nearest_centroid() -> None:
    x, centroids = images(8).requires_grad_(True), images(7, seed=1)
    logits = KMeansClassifier(centroids, LABELS, 3)(x)
    squared = brute_squared_distances(x.detach(), centroids)
    for c in range(3):
        (gradient,) = torch.autograd.grad(logits[:, c].sum(), x, retain_graph=True)
        own = np.flatnonzero(LABELS.numpy() == c)
        nearest = own[squared[:, own].argmin(axis=1)]
        expected = -2 * (x.detach().double() - centroids[torch.from_numpy(nearest)].double())
        torch.testing.assert_close(gradient.double(), expected, rtol=0, atol=1e-5)


def test_centroids_as_images_and_as_vectors_are_the_same_classifier() -> None:
    x, centroids = images(9), images(7, seed=1)
    assert torch.equal(KMeansClassifier(centroids, LABELS, 3)(x), KMeansClassifier(centroids.flatten(1), LABELS, 3)(x))


@pytest.mark.parametrize("offset", [0.0, 50.0])
def test_a_class_without_a_centroid_is_never_predicted_and_stays_finite(offset: float) -> None:
    x = images(10) + offset
    logits = KMeansClassifier(images(4, seed=1), torch.tensor([0, 2, 2, 4]), 5)(x)
    assert bool(torch.isfinite(logits).all())
    assert set(logits.argmax(dim=1).tolist()) <= {0, 2, 4}
    others = logits[:, [0, 2, 4]].amin(dim=1)
    assert bool((logits[:, 1] < others - 1000).all())
    assert bool((logits[:, 3] < others - 1000).all())


def test_an_absent_class_leaves_gradients_finite() -> None:
    x = images(4).requires_grad_(True)
    logits = KMeansClassifier(images(4, seed=1), torch.tensor([0, 2, 2, 4]), 5)(x)
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 3]))
    (gradient,) = torch.autograd.grad(loss, x)
    assert bool(torch.isfinite(gradient).all())


def test_attacks_see_labels_variance_and_the_same_logits() -> None:
    model, x = KMeansClassifier(images(7, seed=1), LABELS, 3, variance=2.5), images(4)
    assert model.cluster_labels.tolist() == LABELS.tolist()
    assert model.variance == 2.5
    assert torch.equal(model.logits_from_distances(model.squared_distances(x)), model(x))
    assert KMeansClassifier(images(7, seed=1), LABELS, 3).variance == 0.5


def test_a_classifier_is_made_in_eval_mode() -> None:
    """As the other classifiers of the zoo: a harness flags models that come in training mode."""
    assert not KMeansClassifier(images(7, seed=1), LABELS, 3).training


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("labels", "classes", "variance", "message"),
    [
        ([0, 1, 3], 3, 1.0, r"labels must lie in 0..2, got 0..3"),
        ([-1, 1, 2], 3, 1.0, r"labels must lie in 0..2, got -1..2"),
        ([0, 1], 3, 1.0, r"labels must have shape \(3,\), one a centroid, got \(2,\)"),
        ([0, 1, 2, 2], 3, 1.0, r"labels must have shape \(3,\), one a centroid, got \(4,\)"),
        ([0, 1, 2], 3, 0.0, r"variance must be positive, got 0.0"),
        ([0, 1, 2], 3, float("nan"), r"variance must be positive, got nan"),
    ],
)
def test_wrong_labels_and_variances_are_refused(labels: list[int], classes: int, variance: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KMeansClassifier(images(3), torch.tensor(labels), classes, variance)


def test_a_classifier_without_a_centroid_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one centroid"):
        KMeansClassifier(images(0), torch.zeros(0, dtype=torch.int64), 3)


def test_majority_labels_are_the_most_frequent_class_and_the_lower_one_of_a_tie() -> None:
    """Cluster 0 holds classes 2, 2, 1; cluster 1 holds 1 and 0 (a tie); cluster 2 holds 3; cluster 3 is empty."""
    assignments, y = torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([2, 1, 2, 1, 0, 3])
    assert majority_labels(assignments, y, 4, 4).tolist() == [2, 0, 3, -1]


def test_majority_labels_agree_with_counting() -> None:
    generator = torch.Generator().manual_seed(0)
    assignments = torch.randint(9, (300,), generator=generator)
    y = torch.randint(4, (300,), generator=generator)
    expected = []
    for cluster in range(9):
        members = [c for a, c in zip(assignments.tolist(), y.tolist(), strict=True) if a == cluster]
        expected.append(max(range(4), key=lambda c: (members.count(c), -c)))
    assert majority_labels(assignments, y, 9, 4).tolist() == expected


def observed_error(model: KMeansClassifier, x: Tensor) -> Tensor:
    """How far float32 distances are off against differences in long doubles, what all clusters share included."""
    images, centroids = (part.detach().flatten(1).numpy().astype(np.longdouble) for part in (x, model.centroids))
    true = np.stack([((images - c) ** 2).sum(axis=1) for c in centroids], axis=1)
    return torch.from_numpy((model.squared_distances(x).numpy() - true).astype(np.float64))


def assert_error_covered(model: KMeansClassifier, x: Tensor) -> None:
    """For every pair of clusters, the difference of the distances is off by at most the sum of their bounds."""
    flat = x.flatten(1).double()
    bound, off = model.distance_error(flat, flat), observed_error(model, x)
    assert bool((bound >= 0).all())
    # (off_i - off_j) <= bound_i + bound_j for all i, j
    assert bool(((off - bound).amax(dim=1) <= (off + bound).amin(dim=1)).all())


@given(
    seed=st.integers(0, 2**31 - 1),
    side=st.sampled_from([1, 2, 8, 28]),
    samples=st.sampled_from([1, 2, 7, 33]),
    kind=st.sampled_from(["uniform", "faces", "constant", "close", "far", "tiny", "duplicates", "centroids"]),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_the_error_of_a_distance_stays_within_its_bound(seed: int, side: int, samples: int, kind: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(samples, 1, side, side, generator=generator)
    centroids = torch.rand(6, 1, side, side, generator=generator)
    if kind == "faces":
        x, centroids = x.round(), centroids.round()
    elif kind == "constant":  # every rounding in the same direction
        x, centroids = x[:, :, :1, :1].expand_as(x), centroids[:, :, :1, :1].expand_as(centroids)
    elif kind == "close":
        centroids, x = 0.7 + 1e-6 * centroids, 0.7 + 1e-6 * x
    elif kind == "far":
        centroids = 300.0 * centroids
    elif kind == "tiny":
        centroids, x = 1e-21 * centroids, 1e-21 * x
    elif kind == "duplicates":
        centroids = centroids[:1].expand_as(centroids)
    elif kind == "centroids":
        x = centroids[torch.arange(samples) % 6]
    assert_error_covered(KMeansClassifier(centroids.contiguous(), torch.arange(6) % 3, 4), x.contiguous())


@pytest.mark.parametrize("samples", [1, 3])
def test_the_error_of_many_pixels_and_of_one_centroid_stays_within_its_bound(samples: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(samples, 1, 200, 200, generator=generator)
    assert_error_covered(KMeansClassifier(x[:1], torch.tensor([0]), 2), x)
    assert_error_covered(KMeansClassifier(x.flip(2, 3).round(), torch.arange(samples), samples), x)


def test_the_bound_of_a_box_covers_the_images_in_it() -> None:
    x, model = images(30), tiny_kmeans()
    lower, upper = (x - 0.1).clamp(0, 1).flatten(1).double(), (x + 0.1).clamp(0, 1).flatten(1).double()
    bound = model.distance_error(lower, upper)
    assert bound.shape == (30, 7)
    for corner in (lower, upper, (lower + upper) / 2):
        assert bool((model.distance_error(corner, corner) <= bound).all())
    assert float(bound.max()) < 1e-3


def test_the_bound_covers_a_start_of_the_sum_that_is_added_first() -> None:
    """A matrix product may add its d products to ||x||^2 + ||c||^2 one by one, each sum rounded in the same way."""
    pixels = 4096
    centroids = torch.tensor([0.487, 0.513])[:, None].expand(2, pixels).reshape(2, 1, 64, 64)
    model, x = KMeansClassifier(centroids, torch.tensor([0, 1]), 2), torch.full((1, 1, 64, 64), 1.0)
    a = (x.flatten() - model.center).numpy()
    total = np.float32((a * a).sum(dtype=np.float32) + model.norms[0].numpy())
    exactly = float((a.astype(np.float64) ** 2).sum() + model.norms[0].item())
    for one, offset in zip(a, model.offsets[0].numpy(), strict=True):
        total = np.float32(total - np.float32(2.0 * one * offset))
        exactly -= 2.0 * float(one) * float(offset)
    flat = x.flatten(1).double()
    assert abs(float(total) - exactly) <= float(model.distance_error(flat, flat)[0, 0])


def test_offsets_that_no_longer_belong_to_the_centroids_count_as_error() -> None:
    """A verifier reads the centroids, the classifier decides by the offsets."""
    model, x = tiny_kmeans(), images(5)
    model.centroids.add_(0.25)
    assert_error_covered(model, x)
    flat = x.flatten(1).double()
    assert float(model.distance_error(flat, flat).min()) > 1.0


def test_no_bound_where_float32_overflows_or_loses_a_class_without_a_centroid() -> None:
    flat = images(2).flatten(1).double()
    for far in (1e6, 1e30):
        centroids = torch.stack([torch.full((64,), far), torch.full((64,), -far)])
        assert bool(KMeansClassifier(centroids, torch.tensor([0, 1]), 3).distance_error(flat, flat).isinf().all())
