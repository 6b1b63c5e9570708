"""Who is broken, on models whose predictions can be read off the page."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from attacks.threat import TOLERANCE, Norm, Threat
from benchmark.judge import ModelFault, judge, predict
from tests.benchmark.builders import Threshold

ALWAYS_WRONG = torch.tensor([[0.0, 1.0]])


def _wrong(x: Tensor) -> Tensor:
    """Class 1 for every image."""
    return ALWAYS_WRONG.repeat(len(x), 1)


def _zeros(n: int = 1, size: int = 2) -> tuple[Tensor, Tensor]:
    return torch.zeros(n, 1, size, size), torch.zeros(n, dtype=torch.int64)


@pytest.mark.parametrize(("excess", "allowed"), [(0.0, True), (0.9e-6, True), (1.1e-6, False), (1e-3, False)])
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("eps", [8 / 255, 0.5])
def test_the_radius_is_eps_plus_a_millionth_in_float64(norm: Norm, eps: float, excess: float, allowed: bool) -> None:
    x, y = _zeros()
    step = (eps + excess) / (2.0 if norm == "l2" else 1.0)
    x_adv = torch.full(x.shape, step, dtype=torch.float64)
    judgement = judge(_wrong, x, y, x_adv, Threat(norm, eps))
    assert judgement.distances.dtype == torch.float64
    assert judgement.distances.item() == pytest.approx(eps + excess, abs=1e-12)
    assert judgement.allowed.item() is allowed
    assert judgement.broken.item() is allowed


def test_the_float32_image_must_be_allowed_as_well() -> None:
    """It is what the model sees and what is kept; rounding took it beyond the tolerance."""
    x, y = _zeros()
    x_adv = torch.full(x.shape, 0.5 + 0.99e-6, dtype=torch.float64)
    assert float(x_adv.float()[0, 0, 0, 0]) > 0.5 + TOLERANCE
    assert not judge(_wrong, x, y, x_adv, Threat("linf", 0.5)).allowed.item()


def test_the_tolerance_is_the_one_of_the_architecture() -> None:
    assert TOLERANCE == 1e-6


def test_rounding_to_float32_never_pushes_a_step_of_eps_out_of_the_ball() -> None:
    x = torch.from_numpy(np.random.default_rng(0).random((200, 3, 8, 8), dtype=np.float32))
    y = torch.zeros(200, dtype=torch.int64)
    for eps in (8 / 255, 1 / 255, 0.3):
        x_adv = (x + eps * torch.sign(torch.randn(x.shape, generator=torch.Generator().manual_seed(0)))).clamp(0, 1)
        judgement = judge(_wrong, x, y, x_adv, Threat("linf", eps))
        assert bool(judgement.allowed.all())
    assert float((x_adv.double() - x.double()).abs().max()) > 0.3


@pytest.mark.parametrize(
    ("pixel", "allowed"), [(0.0, True), (1.0, True), (-1e-9, False), (1.0 + 1e-7, False), (-0.0, True), (1.5, False)]
)
def test_the_box_is_exact(pixel: float, allowed: bool) -> None:
    x, y = torch.full((1, 1, 2, 2), 0.5), torch.zeros(1, dtype=torch.int64)
    x_adv = x.double()
    x_adv[0, 0, 1, 1] = pixel
    judgement = judge(_wrong, x, y, x_adv, Threat("linf", 0.9))
    assert judgement.allowed.item() is allowed
    assert judgement.broken.item() is allowed


@pytest.mark.parametrize("pixel", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_image_that_is_not_finite_breaks_nothing_and_harms_no_neighbour(norm: Norm, pixel: float) -> None:
    x, y = _zeros(3)
    x_adv = x + 0.1
    x_adv[1, 0, 0, 0] = pixel
    judgement = judge(_wrong, x, y, x_adv, Threat(norm, 0.5))
    assert judgement.allowed.tolist() == [True, False, True]
    assert judgement.broken.tolist() == [True, False, True]


def test_a_refused_image_is_not_shown_to_the_model() -> None:
    shown: list[Tensor] = []

    def model(x: Tensor) -> Tensor:
        shown.append(x.clone())
        return _wrong(x)

    x, y = _zeros(3)
    judge(model, x, y, x + torch.tensor([0.1, 0.9, float("nan")])[:, None, None, None], Threat("linf", 0.5))
    (images,) = shown
    assert images.flatten(1).amax(dim=1).tolist() == pytest.approx([0.1, 0.0, 0.0])


def test_a_tie_between_the_true_class_and_another_is_broken() -> None:
    x, y = torch.full((3, 1, 2, 2), 0.25), torch.zeros(3, dtype=torch.int64)
    x_adv = torch.tensor([0.4, 0.5, 0.6])[:, None, None, None].expand(3, 1, 2, 2)
    judgement = judge(Threshold(), x, y, x_adv, Threat("linf", 0.5))
    assert judgement.broken.tolist() == [False, True, True]
    assert judgement.predictions.tolist() == [0, 1, 1]


@pytest.mark.parametrize("logits", list(itertools.product([0.0, 1.0], repeat=3)))
@pytest.mark.parametrize("y", [0, 1, 2])
def test_a_sample_is_right_only_where_its_class_beats_all_others(logits: tuple[float, ...], y: int) -> None:
    """Every pattern of ties of three classes."""
    right, predictions = predict(lambda x: torch.tensor([logits]), torch.zeros(1, 1, 1, 1), torch.tensor([y]))
    others = [value for index, value in enumerate(logits) if index != y]
    assert right.item() == (logits[y] > max(others))
    assert (predictions.item() == y) == bool(right.item())
    if not right.item():
        assert logits[int(predictions.item())] == max(others)


def test_predictions_on_random_logits_are_the_argmax() -> None:
    logits = torch.randn(500, 7, generator=torch.Generator().manual_seed(0))
    y = torch.randint(7, (500,), generator=torch.Generator().manual_seed(1))
    right, predictions = predict(lambda x: logits, torch.zeros(500, 1, 1, 1), y)
    assert torch.equal(predictions, logits.argmax(dim=1))
    assert torch.equal(right, logits.argmax(dim=1) == y)


def test_no_prediction_needs_a_gradient() -> None:
    x = torch.full((1, 1, 2, 2), 0.25, requires_grad=True)
    judgement = judge(Threshold(), x, torch.zeros(1, dtype=torch.int64), x, Threat("linf", 0.5))
    assert not judgement.predictions.requires_grad


@pytest.mark.parametrize("shape", [(3,), (2, 4), (4, 4), (3, 4, 1), (1, 4)])
def test_outputs_that_are_no_logits_are_a_fault_that_tells_the_shape(shape: tuple[int, ...]) -> None:
    x, y = _zeros(3)
    with pytest.raises(ModelFault, match="3 images") as caught:
        predict(lambda _: torch.zeros(shape), x, y)
    assert str(shape) in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_are_not_finite_are_a_fault(value: float) -> None:
    def model(x: Tensor) -> Tensor:
        return torch.tensor([[1.0, 0.0], [0.0, value]])

    x, y = _zeros(2)
    with pytest.raises(ModelFault, match="NaN or infinite"):
        judge(model, x, y, x, Threat("linf", 0.5))
