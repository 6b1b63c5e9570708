"""Attack losses against float64 transcriptions of their formulas, one sample at a time."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from attacks.losses import cross_entropy, magnet, magnet_published, margin

LABELS = torch.tensor([0, 1, 0, 2, 1, 2])
VARIANCE = 1.7
ALPHA = 2.5


def squared_distances(samples: int = 12) -> Tensor:
    return 6.0 * torch.rand(samples, len(LABELS), generator=torch.Generator().manual_seed(3))


def labels(samples: int = 12) -> Tensor:
    return torch.arange(samples) % 3


def own_and_wrong(row: Tensor, y: int) -> tuple[float, float]:
    """The two parts of ClusTR eq. 3: d(x, mu(x))^2 / (2 sigma^2), and the sum over other classes' clusters."""
    scaled = [value / (2 * VARIANCE) for value in row.double().tolist()]
    own = min(s for s, label in zip(scaled, LABELS.tolist(), strict=True) if label == y)
    wrong = math.fsum(math.exp(-s) for s, label in zip(scaled, LABELS.tolist(), strict=True) if label != y)
    return own, wrong


def test_cross_entropy_is_minus_the_log_of_the_softmax() -> None:
    logits = 5 * torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    y = torch.arange(8) % 4
    expected = []
    for row, true in zip(logits.double().numpy(), y.tolist(), strict=True):
        expected.append(-math.log(math.exp(row[true]) / np.exp(row).sum()))
    assert cross_entropy(logits, y).tolist() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_margin_is_the_best_wrong_logit_minus_the_true_one() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.5], [3.0, 1.0, 2.5], [-1.0, -1.0, -4.0]])
    assert margin(logits, torch.tensor([0, 1, 0])).tolist() == [-0.5, 2.0, 0.0]


def test_magnet_is_equation_3_without_hinge_and_alpha() -> None:
    distances, y = squared_distances(), labels()
    expected = []
    for row, true in zip(distances, y.tolist(), strict=True):
        own, wrong = own_and_wrong(row, true)
        expected.append(own + math.log(wrong))
    assert magnet(distances, y, LABELS, VARIANCE).tolist() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_magnet_published_has_the_hinge_and_the_second_saturation() -> None:
    distances, y = squared_distances(), labels()
    expected = []
    for row, true in zip(distances, y.tolist(), strict=True):
        own, wrong = own_and_wrong(row, true)
        expected.append(max(0.0, ALPHA + own + math.log(wrong + 1e-8)))
    published = magnet_published(distances, y, LABELS, VARIANCE, ALPHA)
    assert published.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_the_two_forms_differ_by_alpha_where_nothing_saturates() -> None:
    distances, y = squared_distances(), labels()
    gap = magnet_published(distances, y, LABELS, VARIANCE, 50.0) - magnet(distances, y, LABELS, VARIANCE)
    torch.testing.assert_close(gap, torch.full_like(gap, 50.0), rtol=0, atol=1e-4)


def test_only_the_published_form_hides_the_gradient_of_a_well_separated_sample() -> None:
    """Own clusters at distance 0.1 and 1, all wrong ones hundreds away: loss 0 on the published side."""
    row = torch.tensor([[0.1, 900.0, 1.0, 800.0, 700.0, 950.0]])
    gradients = {}
    for form in ("published", "stable"):
        distances = row.clone().requires_grad_(True)
        y = torch.tensor([0])
        if form == "published":
            loss = magnet_published(distances, y, LABELS, VARIANCE, 12.5)
        else:
            loss = magnet(distances, y, LABELS, VARIANCE)
        (gradients[form],) = torch.autograd.grad(loss.sum(), distances)
    assert gradients["published"].count_nonzero() == 0
    nearest_wrong = [0.0, 0.0, 0.0, 0.0, -1 / (2 * VARIANCE), 0.0]
    expected = [1 / (2 * VARIANCE), *nearest_wrong[1:]]
    assert gradients["stable"][0].tolist() == pytest.approx(expected, abs=1e-6)


def test_without_the_hinge_log_plus_epsilon_still_hides_the_wrong_clusters() -> None:
    """A large alpha opens the hinge; log(. + 1e-8) flattens the pull towards wrong clusters all the same."""
    distances = torch.tensor([[0.1, 900.0, 1.0, 800.0, 700.0, 950.0]], requires_grad=True)
    loss = magnet_published(distances, torch.tensor([0]), LABELS, VARIANCE, 100.0)
    (gradient,) = torch.autograd.grad(loss.sum(), distances)
    assert gradient[0, 0].item() == pytest.approx(1 / (2 * VARIANCE), abs=1e-6)
    assert gradient[0, LABELS != 0].count_nonzero() == 0


def test_far_from_every_cluster_magnet_stays_finite_with_a_finite_gradient() -> None:
    distances = (1e6 + squared_distances()).requires_grad_(True)
    loss = magnet(distances, labels(), LABELS, VARIANCE)
    (gradient,) = torch.autograd.grad(loss.sum(), distances)
    assert bool(torch.isfinite(loss).all())
    assert bool(torch.isfinite(gradient).all())
    assert bool((gradient.abs().sum(dim=1) > 0.1).all())
