"""MagnetClassifier against ClusTR eq. 4 in float64."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model_zoo.adapter import judged_by
from model_zoo.magnet import HEADS, Head, MagnetClassifier, fit_variance, nearest_own_cluster
from tests.model_zoo.builders import Array, brute_squared_distances, images, plain_magnet, tiny_magnet

LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
VARIANCE = 3.0


def centroids() -> Tensor:
    return images(8, seed=4).flatten(1)


def log_class_sums(x: Tensor, nearest: int | None = None) -> Array:
    """Logarithm of eq. 4's numerators: per class, the sum of exp(-d^2 / (2 sigma^2)) over its clusters.

    Only the nearest D clusters of any class count; a class without one has minus infinity.
    """
    sums = np.full((len(x), 3), -np.inf)
    for i, row in enumerate(brute_squared_distances(x, centroids())):
        for j in np.argsort(row)[: nearest or len(row)]:
            sums[i, LABELS[j]] = np.logaddexp(sums[i, LABELS[j]], -row[j] / (2 * VARIANCE))
    return sums


def class_sums(x: Tensor, nearest: int | None = None) -> Array:
    sums: Array = np.exp(log_class_sums(x, nearest))
    return sums


@pytest.mark.parametrize("nearest", [None, 8, 3, 1])
def test_every_head_is_equation_4(nearest: int | None) -> None:
    x = images(25)
    sums = class_sums(x, nearest)
    expected: dict[Head, Array] = {"scores": sums, "probabilities": sums / sums.sum(axis=1, keepdims=True)}
    for head, values in expected.items():
        logits = plain_magnet(centroids(), LABELS, VARIANCE, 3, nearest, head)(x)
        np.testing.assert_allclose(logits.numpy(), values, rtol=2e-5, atol=1e-12)
    stable = plain_magnet(centroids(), LABELS, VARIANCE, 3, nearest)(x).double().numpy()
    present = sums > 0
    np.testing.assert_allclose(stable[present], np.log(sums[present]), rtol=0, atol=2e-5)


@pytest.mark.parametrize("nearest", [None, 3])
def test_the_three_heads_agree_on_the_prediction_where_nothing_underflows(nearest: int | None) -> None:
    x = images(200)
    predictions = [plain_magnet(centroids(), LABELS, VARIANCE, 3, nearest, head)(x).argmax(dim=1) for head in HEADS]
    expected = class_sums(x, nearest).argmax(axis=1)
    for prediction in predictions:
        np.testing.assert_array_equal(prediction.numpy(), expected)
    assert len(set(expected.tolist())) == 3


@pytest.mark.parametrize("nearest", [None, 3])
@pytest.mark.parametrize("scale", [10.0, 100.0])
def test_far_away_the_stable_heads_stay_finite_and_the_scores_underflow(nearest: int | None, scale: float) -> None:
    x = scale * images(20)
    for head in HEADS:
        far = x.clone().requires_grad_(True)
        logits = plain_magnet(centroids(), LABELS, VARIANCE, 3, nearest, head)(far)
        (gradient,) = torch.autograd.grad(logits.sum(), far)
        assert bool(torch.isfinite(logits).all())
        assert bool(torch.isfinite(gradient).all())
        if head == "scores":
            assert logits.count_nonzero() == 0
        if head == "probabilities":
            np.testing.assert_allclose(logits.detach().sum(dim=1).numpy(), 1.0, rtol=1e-6)
        if head == "log_sum_exp":
            expected = log_class_sums(x, nearest)
            present = np.isfinite(expected)
            values = logits.detach().double().numpy()
            np.testing.assert_allclose(values[present], expected[present], rtol=1e-5)
            ordered = np.sort(expected, axis=1)
            decided = ordered[:, 2] - ordered[:, 1] > 0.2
            assert decided.sum() > 10
            np.testing.assert_array_equal(values.argmax(axis=1)[decided], expected.argmax(axis=1)[decided])


def test_a_class_without_a_kept_cluster_has_probability_0_and_a_finite_logit() -> None:
    x = images(30)
    absent = torch.from_numpy(class_sums(x, 3) == 0)
    assert int(absent.sum()) > 10
    stable = plain_magnet(centroids(), LABELS, VARIANCE, 3, 3)(x)
    assert bool(torch.isfinite(stable).all())
    assert bool((stable.amax(dim=1, keepdim=True) - stable)[absent].gt(1000).all())
    for head in HEADS[1:]:
        logits = plain_magnet(centroids(), LABELS, VARIANCE, 3, 3, head)(x)
        assert logits[absent].count_nonzero() == 0
        assert bool((logits[~absent] > 0).all())


def test_a_class_without_a_centroid_is_never_predicted() -> None:
    labels = torch.tensor([0, 2, 2, 0, 4, 2, 0, 4])
    for head in HEADS:
        logits = plain_magnet(centroids(), labels, VARIANCE, 5, head=head)(images(40))
        assert bool(torch.isfinite(logits).all())
        assert set(logits.argmax(dim=1).tolist()) <= {0, 2, 4}
    assert (
        plain_magnet(centroids(), labels, VARIANCE, 5, head="probabilities")(images(9))[:, [1, 3]].count_nonzero() == 0
    )


def test_the_nearest_1_is_the_class_of_the_nearest_centroid() -> None:
    x = images(60)
    expected = LABELS[torch.from_numpy(brute_squared_distances(x, centroids()).argmin(axis=1))]
    assert torch.equal(plain_magnet(centroids(), LABELS, VARIANCE, 3, 1)(x).argmax(dim=1), expected)


def test_unmasked_shows_all_clusters_and_is_judged_with_the_mask() -> None:
    x = images(30)
    shown = plain_magnet(centroids(), LABELS, VARIANCE, 3, 2, unmasked=True)
    assert torch.equal(shown(x), plain_magnet(centroids(), LABELS, VARIANCE, 3)(x))
    assert torch.equal(judged_by(shown)(x), plain_magnet(centroids(), LABELS, VARIANCE, 3, 2)(x))


@pytest.mark.parametrize("head", HEADS)
def test_predictions_are_judged_by_the_stable_head_whichever_is_attacked(head: Head) -> None:
    x = 10 * images(20)  # far enough for the scores to underflow
    shown = plain_magnet(centroids(), LABELS, VARIANCE, 3, 3, head)
    judged = judged_by(shown)
    assert torch.equal(judged(x), plain_magnet(centroids(), LABELS, VARIANCE, 3, 3)(x))
    assert (judged is shown) == (head == "log_sum_exp")


def test_another_head_shares_the_weights() -> None:
    model = tiny_magnet(nearest=4)
    other = model.seen_through("scores", unmasked=True)
    assert other.backbone is model.backbone
    assert other.centroids.data_ptr() == model.centroids.data_ptr()
    assert (other.head, other.unmasked) == ("scores", True)
    assert (other.nearest, other.variance, other.num_classes) == (4, model.variance, 3)
    assert torch.equal(other.labels, model.labels)
    assert (model.head, model.unmasked) == ("log_sum_exp", False)


def test_attacks_see_distances_of_features_and_the_same_logits() -> None:
    model, x = tiny_magnet(nearest=4, head="probabilities"), images(5)
    with torch.no_grad():
        expected = brute_squared_distances(model.features(x), model.centroids)
        np.testing.assert_allclose(model.squared_distances(x).numpy(), expected, rtol=0, atol=1e-4)
        assert torch.equal(model.logits_from_distances(model.squared_distances(x)), model(x))
    assert model.cluster_labels.tolist() == [0, 1, 2, 0, 1, 2]


def bezdek(x: Tensor, fuzzifier: float, nearest: int | None = None) -> Array:
    """Bezdek et al. 1984: u_j = 1 / sum_k (d_j / d_k)^(2 / (m - 1)), over the nearest D clusters, summed by class."""
    classes = np.zeros((len(x), 3))
    for i, row in enumerate(np.sqrt(brute_squared_distances(x, centroids()))):
        kept = np.argsort(row)[: nearest or len(row)]
        for j in kept:
            classes[i, LABELS[j]] += 1 / sum((row[j] / row[k]) ** (2 / (fuzzifier - 1)) for k in kept)
    return classes


@pytest.mark.parametrize("nearest", [None, 3, 1])
@pytest.mark.parametrize("fuzzifier", [1.2, 2.0, 3.5])
def test_a_fuzzy_classifiers_probabilities_are_sums_of_bezdeks_memberships(
    fuzzifier: float, nearest: int | None
) -> None:
    x = images(25)
    expected = bezdek(x, fuzzifier, nearest)
    np.testing.assert_allclose(expected.sum(axis=1), 1.0, rtol=1e-12)
    heads = {head: plain_magnet(centroids(), LABELS, VARIANCE, 3, nearest, head, False, fuzzifier)(x) for head in HEADS}
    np.testing.assert_allclose(heads["probabilities"].numpy(), expected, rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(heads["probabilities"].sum(dim=1).numpy(), 1.0, rtol=1e-6)
    torch.testing.assert_close(heads["log_sum_exp"].softmax(dim=1), heads["probabilities"])
    sums = heads["scores"] / heads["scores"].sum(dim=1, keepdim=True)
    torch.testing.assert_close(sums, heads["probabilities"], rtol=1e-4, atol=1e-6)
    assert set(expected.argmax(axis=1).tolist()) >= {0, 1}


def test_memberships_do_not_depend_on_the_variance() -> None:
    x = images(10)
    first, other = (
        plain_magnet(centroids(), LABELS, variance, 3, head="probabilities", fuzzifier=2.0)(x)
        for variance in (0.5, 30.0)
    )
    torch.testing.assert_close(first, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("fuzzifier", [1.001, 1.1, 2.0, 1000.0])
def test_on_a_centroid_and_far_away_a_fuzzy_classifier_is_finite(head: Head, fuzzifier: float) -> None:
    at = torch.cat([centroids().reshape(-1, 1, 8, 8), 1000 * images(4)]).requires_grad_(True)
    logits = plain_magnet(centroids(), LABELS, VARIANCE, 3, head=head, fuzzifier=fuzzifier)(at)
    (gradient,) = torch.autograd.grad(logits.sum(), at)
    assert bool(logits.isfinite().all())
    assert bool(gradient.isfinite().all())
    if head != "scores" and fuzzifier < 1000:
        assert torch.equal(logits[:8].argmax(dim=1), LABELS)


def test_of_the_nearest_1_a_fuzzy_classifier_predicts_as_the_gaussian_one() -> None:
    x = images(60)
    gaussian, fuzzy = (plain_magnet(centroids(), LABELS, VARIANCE, 3, 1, fuzzifier=m)(x) for m in (None, 2.0))
    assert torch.equal(fuzzy.argmax(dim=1), gaussian.argmax(dim=1))


def test_every_head_of_a_fuzzy_classifier_is_fuzzy() -> None:
    shown = plain_magnet(centroids(), LABELS, VARIANCE, 3, 3, "scores", fuzzifier=2.0)
    assert shown.seen_through("probabilities", unmasked=True).fuzzifier == 2.0
    x = images(20)
    assert torch.equal(judged_by(shown)(x), plain_magnet(centroids(), LABELS, VARIANCE, 3, 3, fuzzifier=2.0)(x))


def test_a_classifier_is_made_in_eval_mode() -> None:
    backbone = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64)).train()
    model = MagnetClassifier(backbone, centroids(), LABELS, VARIANCE, 3)
    assert not any(part.training for part in model.modules())


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": torch.arange(8)}, r"labels must lie in 0..2, got 0..7"),
        ({"labels": torch.tensor([0, 1])}, r"labels must have shape \(8,\), one a centroid, got \(2,\)"),
        ({"variance": 0.0}, "variance must be positive, got 0.0"),
        ({"variance": -1.0}, "variance must be positive, got -1.0"),
        ({"head": "softmax"}, "head must be one of log_sum_exp, scores, probabilities, got 'softmax'"),
        ({"fuzzifier": 1.0}, r"fuzzifier must be greater than 1 \(from 1.001 to 1000\), got 1$"),
        ({"fuzzifier": -2.0}, "fuzzifier must be greater than 1 .*, got -2"),
        ({"fuzzifier": float("nan")}, "fuzzifier must be greater than 1 .*, got nan"),
        ({"fuzzifier": float("inf")}, "fuzzifier must be greater than 1 .*, got inf"),
        ({"nearest": 0}, r"nearest must lie in 1..8 \(the number of clusters\), got 0"),
        ({"nearest": 9}, r"nearest must lie in 1..8 \(the number of clusters\), got 9"),
    ],
)
def test_settings_that_make_no_classifier_are_refused(changes: dict[str, object], message: str) -> None:
    settings = {"labels": LABELS, "variance": VARIANCE, "num_classes": 3} | changes
    with pytest.raises(ValueError, match=message):
        plain_magnet(centroids(), **settings)  # type: ignore[arg-type]


def test_the_variance_is_equation_3s() -> None:
    features, means = images(30).flatten(1), centroids()
    assignments = torch.arange(30) % 8
    total = sum(
        float(((f.double().numpy() - means[a].double().numpy()) ** 2).sum())
        for f, a in zip(features, assignments.tolist(), strict=True)
    )
    assert fit_variance(features, means, assignments) == pytest.approx(total / 29, rel=1e-12)


def test_the_nearest_own_cluster_is_found_by_brute_force() -> None:
    x, y = images(40), torch.arange(40) % 3
    squared = brute_squared_distances(x, centroids())
    expected = []
    for row, true in zip(squared, y.tolist(), strict=True):
        own = [j for j, label in enumerate(LABELS.tolist()) if label == true]
        expected.append(min(own, key=lambda j: row[j]))
    assert nearest_own_cluster(x.flatten(1), y, centroids(), LABELS).tolist() == expected
