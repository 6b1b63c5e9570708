"""The training losses against their equations, gradients against finite differences."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attacks.threat import NORMS, Norm, Threat
from model_zoo.adapter import LogitsModel
from model_zoo.architectures import build
from model_zoo.magnet import MagnetClassifier
from model_zoo.recipes import cluster_training
from model_zoo.recipes.cluster_index import cluster_features
from model_zoo.recipes.cluster_training import ClusterBatch, fit_classifier
from model_zoo.recipes.loop import TrainingRun
from model_zoo.recipes.magnet_training import MagnetSettings, fit_magnet, magnet_loss
from model_zoo.recipes.perturb import uniform_start
from model_zoo.recipes.soft_assignment import log_probabilities
from model_zoo.recipes.stability import StabilitySettings, stability_term
from tests.model_zoo.builders import Array, brute_squared_distances, digits_data, images, no_index

CLUSTERS, PER_CLUSTER = torch.tensor([4, 0, 7, 2]), 5
LABELS = torch.tensor([2, 0, 3, 0])
"""The second and the fourth cluster are of one class: neither counts as wrong for the other."""


def rippel(features: Array, alpha: float, fixed: float | None = None) -> Array:
    """Rippel et al. 2016, eq. 5, one image at a time: means and variance of the batch, variance over n - 1."""
    groups = features.reshape(4, PER_CLUSTER, -1)
    means = [group.sum(axis=0) / PER_CLUSTER for group in groups]
    variance = sum(((r - mean) ** 2).sum() for group, mean in zip(groups, means, strict=True) for r in group)
    variance = variance / (4 * PER_CLUSTER - 1) if fixed is None else fixed
    losses = []
    for m, group in enumerate(groups):
        for r in group:
            numerator = -((r - means[m]) ** 2).sum() / (2 * variance) - alpha
            wrong = [np.exp(-((r - means[k]) ** 2).sum() / (2 * variance)) for k in range(4) if LABELS[k] != LABELS[m]]
            losses.append(max(0.0, -numerator + np.log(sum(wrong))))
    return np.array(losses)


def batch_features(spread: float) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    centres = torch.randn(4, 1, 3, generator=generator, dtype=torch.float64)
    noise = torch.randn(4, PER_CLUSTER, 3, generator=generator, dtype=torch.float64)
    return (centres + spread * noise).reshape(-1, 3)


@pytest.mark.parametrize(("spread", "alpha"), [(0.5, 1.0), (0.5, 12.5), (0.2, 0.0), (2.0, 0.3)])
def test_the_magnet_loss_is_equation_5_with_its_hinge(spread: float, alpha: float) -> None:
    features = batch_features(spread)
    expected = rippel(features.numpy(), alpha)
    mean, per_cluster = magnet_loss(features, CLUSTERS, LABELS, alpha)
    assert mean.item() == pytest.approx(expected.mean(), rel=1e-9, abs=1e-12)
    np.testing.assert_allclose(per_cluster.numpy(), expected.reshape(4, -1).mean(axis=1), rtol=1e-9, atol=1e-12)
    assert not per_cluster.requires_grad


@pytest.mark.parametrize("fixed", [0.05, 0.5, 4.0])
def test_a_fixed_variance_takes_the_place_of_the_batchs(fixed: float) -> None:
    features = batch_features(0.5).requires_grad_(True)
    loss, per_cluster = magnet_loss(features, CLUSTERS, LABELS, 3.0, fixed)
    expected = rippel(features.detach().numpy(), 3.0, fixed)
    assert loss.item() == pytest.approx(expected.mean(), rel=1e-9)
    np.testing.assert_allclose(per_cluster.numpy(), expected.reshape(4, -1).mean(axis=1), rtol=1e-9, atol=1e-12)
    (gradient,) = torch.autograd.grad(loss, features)
    slopes = finite_differences(lambda f: float(rippel(f, 3.0, fixed).mean()), features.detach().numpy())
    np.testing.assert_allclose(gradient.numpy(), slopes, rtol=0, atol=1e-7)


def test_the_hinge_closes_for_some_images_and_not_for_others() -> None:
    """Of the cases above, alpha 0 at spread 0.2 shows both sides; no image's loss is negative."""
    features = batch_features(0.2)
    expected = rippel(features.numpy(), 2.0)
    assert 0 < (expected == 0).sum() < len(expected), "the case must show both sides"
    assert magnet_loss(features, CLUSTERS, LABELS, 2.0)[0].item() == pytest.approx(expected.mean(), rel=1e-9)
    closed = magnet_loss(batch_features(0.01), CLUSTERS, LABELS, 2.0)
    assert closed[0].item() == 0.0
    assert closed[1].tolist() == [0.0] * 4


def finite_differences(function: Callable[[Array], float], at: Array, step: float = 1e-6) -> Array:
    gradient = np.zeros_like(at)
    for place in np.ndindex(*at.shape):
        shift = np.zeros_like(at)
        shift[place] = step
        gradient[place] = (function(at + shift) - function(at - shift)) / (2 * step)
    return gradient


def test_gradients_flow_through_the_batchs_means_and_variance() -> None:
    features = batch_features(0.5).requires_grad_(True)
    (gradient,) = torch.autograd.grad(magnet_loss(features, CLUSTERS, LABELS, 3.0)[0], features)
    expected = finite_differences(lambda f: float(rippel(f, 3.0).mean()), features.detach().numpy())
    np.testing.assert_allclose(gradient.numpy(), expected, rtol=0, atol=1e-8)


CENTROID_LABELS = torch.tensor([0, 1, 1, 3, 0, 3, 1])


def equation_4(features: Tensor, centroids: Tensor, variance: float, head: str) -> Array:
    """p_c of four classes: the normalised class sums, or softmax of the raw ones as the papers' code has it."""
    exponentials = np.exp(-brute_squared_distances(features, centroids) / (2 * variance))
    sums = np.stack([exponentials[:, CENTROID_LABELS.numpy() == c].sum(axis=1) for c in range(4)], axis=1)
    weights = np.exp(sums) if head == "scores" else sums
    probabilities: Array = weights / weights.sum(axis=1, keepdims=True)
    return probabilities


def test_log_probabilities_are_equation_4() -> None:
    """Class 2 has no cluster: its probability is 0, its logarithm finite."""
    features, centroids = images(12).flatten(1), images(7, seed=1).flatten(1)
    log_p = log_probabilities(features, centroids, CENTROID_LABELS, 2.0, 4)
    expected = equation_4(features, centroids, 2.0, "log_sum_exp")
    np.testing.assert_allclose(log_p.exp().numpy(), expected, rtol=2e-5, atol=1e-30)
    assert bool(torch.isfinite(log_p).all())
    assert log_p[:, 2].exp().count_nonzero() == 0


def test_through_the_published_head_they_are_the_log_softmax_of_the_raw_sums() -> None:
    features, centroids = images(12).flatten(1), images(7, seed=1).flatten(1)
    log_p = log_probabilities(features, centroids, CENTROID_LABELS, 8.0, 4, "scores")
    expected = equation_4(features, centroids, 8.0, "scores")
    np.testing.assert_allclose(log_p.exp().numpy(), expected, rtol=2e-5, atol=0)


def test_log_probabilities_stay_finite_far_from_every_cluster() -> None:
    features = (100 * images(6).flatten(1)).requires_grad_(True)
    log_p = log_probabilities(features, images(7, seed=1).flatten(1), CENTROID_LABELS, 0.5, 4)
    (gradient,) = torch.autograd.grad(log_p.sum(), features)
    assert bool(torch.isfinite(log_p).all())
    assert bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize("norm", NORMS)
def test_training_starts_lie_in_the_threat_and_differ(norm: Norm) -> None:
    eps, x = 0.2, images(30)
    threat = Threat(norm, eps)
    start = uniform_start(x, threat, torch.Generator().manual_seed(100))
    assert float(threat.distance(x, start).max()) <= eps + 1e-6
    assert float(start.min()) >= 0.0
    assert float(start.max()) <= 1.0
    assert not torch.equal(start, uniform_start(x, threat, torch.Generator().manual_seed(1)))
    if norm == "linf":
        inner = (x > eps) & (x < 1 - eps)
        offsets = ((start - x)[inner] / eps).double()
        assert float(offsets.mean()) == pytest.approx(0, abs=4 / np.sqrt(3 * len(offsets)))
        assert float(offsets.square().mean()) == pytest.approx(1 / 3, abs=4 * np.sqrt(4 / 45 / len(offsets)))


DIVERGENCES: dict[str, Callable[[Array, Array], Array]] = {
    "ce": lambda q, p: -(p * np.log(q)).sum(axis=1),
    "mse": lambda q, p: ((q - p) ** 2).mean(axis=1),
    "kl": lambda q, p: (p * np.log(p / q)).sum(axis=1),
}
"""Transcribed: q of the attacked image, p of the clean one."""


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("divergence", "climbed", "head", "labelled", "steps"),
    [
        ("ce", "ce", "scores", 0.0, 1),
        ("ce", "ce", "log_sum_exp", 0.0, 1),
        ("mse", "mse", "scores", 0.0, 1),
        ("ce", "ce", "scores", 2.0, 1),
        ("mse", "mse", "scores", 2.0, 1),
        ("ce", "ce", "scores", 0.0, 2),
        ("ce", "kl", "scores", 0.0, 2),
        ("kl", "kl", "scores", 0.0, 1),
    ],
)
def test_the_stability_term_is_the_papers(
    divergence: str, climbed: str, head: str, labelled: float, steps: int
) -> None:
    """weight D(p(x_adv), p(x)) + labelled CE(p(x), y), x_adv by sign steps from uniform noise, in NumPy."""
    settings = StabilitySettings(
        weight=3.0,
        cross_entropy_weight=labelled,
        divergence=divergence,
        climbed=climbed,
        eps=0.1,
        step_size=0.12 / steps,
        steps=steps,
        head=head,
    )
    x, centroids, variance = images(6), images(7, seed=1).flatten(1), 2.0
    y = torch.tensor([0, 1, 3, 0, 1, 3])
    backbone = nn.Flatten().train()
    batch = ClusterBatch(
        backbone=backbone,
        x=x,
        y=y,
        centroids=centroids,
        labels=CENTROID_LABELS,
        chosen=torch.arange(3),
        variance=variance,
        index=no_index(),
        generator=torch.Generator().manual_seed(8),
    )
    noise = (2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(8)) - 1) * 0.1
    image = x.double().numpy()
    start = np.clip(image + noise.double().numpy(), 0, 1)
    p = equation_4(x, centroids, variance, head)
    present = p.min(axis=0) > 0  # through eq. 4 itself, class 2 has probability 0 and adds nothing

    def distances(name: str, at: Array) -> Array:
        q = equation_4(torch.from_numpy(at), centroids, variance, head)
        return DIVERGENCES[name](q[:, present], p[:, present])

    x_adv = start
    for _ in range(steps):
        slope = finite_differences(lambda at: float(distances(climbed, at).sum()), x_adv, 1e-5)
        x_adv = x_adv + settings.step_size * np.sign(slope)
        x_adv = np.clip(np.clip(x_adv, image - 0.1, image + 0.1), 0, 1)
    natural = -labelled * np.log(p[np.arange(6), y.numpy()]).mean() if labelled else 0.0
    expected = 3.0 * distances(divergence, x_adv).mean() + natural
    moved = 3.0 * (distances(divergence, x_adv) - distances(divergence, start)).mean()
    assert moved > 1e-6, "the steps must show"
    found = stability_term(settings, 4)(batch).item()
    assert found == pytest.approx(expected, abs=max(moved / 100, 2e-6))
    assert backbone.training


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": "probabilities"}, "head must be scores or log_sum_exp, got 'probabilities'"),
        ({"climbed": "l2"}, "divergence and climbed must be one of ce, mse, kl, got 'l2'"),
    ],
)
def test_the_term_knows_two_heads_and_three_divergences(changes: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stability_term(StabilitySettings(**changes), 4)  # type: ignore[arg-type]


def test_the_learning_rate_falls_in_a_line_to_0(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    monkeypatch.setattr(cluster_training, "set_learning_rate", lambda _, rate: rates.append(rate))
    settings = MagnetSettings(epochs=2, learning_rate=0.01, batch_clusters=10, samples_per_cluster=8)
    run = TrainingRun(seed=0, device=torch.device("cpu"), folder=None, identity="")
    fit_magnet(digits_data(), settings, run, "stage", LogitsModel(build("small-resnet", 1, 10)))
    assert rates == pytest.approx([0.01 * (1 - step / 8) for step in range(8)])


def test_the_final_classifier_is_that_of_the_training_features() -> None:
    """sigma^2 with mu(x) the nearest own centroid, and D from the settings."""
    data = digits_data(200)
    features = data.x.flatten(1)
    index = cluster_features(features, data.y, 10, 2, seed=0)
    device = torch.device("cpu")
    model = fit_classifier(nn.Flatten(), data, MagnetSettings(nearest=5), index, device)
    assert isinstance(model, MagnetClassifier)
    squared = brute_squared_distances(features, index.centroids)
    own = index.labels.numpy()[None, :] == data.y.numpy()[:, None]
    total = np.where(own, squared, np.inf).min(axis=1).sum()
    assert model.variance == pytest.approx(total / (len(features) - 1), rel=1e-6)
    assert model.nearest == 5
    assert torch.equal(model.centroids, index.centroids)
    assert fit_classifier(nn.Flatten(), data, MagnetSettings(nearest=0), index, device).nearest is None
