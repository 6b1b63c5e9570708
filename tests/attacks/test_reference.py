"""AutoAttack against `pyautoattack` called directly."""

import logging
import sys
from types import FrameType

import numpy as np
import pyautoattack
import pytest
import torch
from torch import Tensor, nn

from attacks.reference import autoattack_reference
from attacks.threat import NORMS, Norm, Threat
from tests.attacks.models import Linear, assert_allowed, broken_by, digits


def nearest_mean(classes: int, samples: int) -> tuple[Linear, Tensor, Tensor]:
    """The nearest-class-mean classifier of digits, a linear model, and images it gets right."""
    x, y = digits(1000, classes)
    means = torch.stack([x[y == c].flatten(1).mean(dim=0) for c in range(classes)])
    model = Linear(2 * means, -(means * means).sum(dim=1))
    right = torch.nonzero(model(x).argmax(dim=1) == y).flatten()[:samples]
    return model, x[right], y[right]


def reference(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, targets: int = 9) -> tuple[Tensor, Tensor]:
    torch.manual_seed(987)  # the reference seeds itself; another global state must not matter
    attack = pyautoattack.AutoAttack(
        model,
        norm={"linf": "Linf", "l2": "L2", "l1": "L1"}[threat.norm],
        eps=threat.eps,
        version="standard",
        seed=3,
        device="cpu",
    )
    attack.apgd_targeted.n_target_classes = targets
    attack.fab.n_target_classes = targets
    x_adv, y_adv = attack.run_standard_evaluation(x, y, batch_size=len(x))
    return x_adv, y_adv


@pytest.mark.parametrize(("norm", "eps", "samples", "survivors"), [("linf", 0.2, 11, True), ("l2", 1.2, 7, False)])
def test_images_and_verdicts_are_the_references(norm: Norm, eps: float, samples: int, survivors: bool) -> None:
    """Where some survive, all four attacks have run."""
    model, x, y = nearest_mean(10, samples)
    y = torch.cat([y[:-1], (y[-1:] + 1) % 10])  # the last sample is misclassified from the start
    threat = Threat(norm, eps)
    x_adv, y_adv = reference(model, x, y, threat)
    result = autoattack_reference(model, x, y, threat, seed=3, sample_ids=torch.arange(samples))
    assert torch.equal(result.x_adv, x_adv)
    assert result.claimed is not None
    assert torch.equal(result.claimed, y_adv != y)
    assert torch.equal(result.claimed, broken_by(model, y, result.x_adv))
    assert int(result.claimed.sum()) > 3
    assert bool(result.claimed.all()) != survivors
    assert torch.equal(result.x_adv[-1], x[-1])
    assert_allowed(threat, x, result.x_adv)
    assert result.flags == ()


@pytest.mark.parametrize("norm", NORMS)
def test_below_ten_classes_it_aims_at_the_others_and_says_so(norm: Norm) -> None:
    model, x, y = nearest_mean(5, 4)
    threat = Threat(norm, {"linf": 0.3, "l2": 1.4, "l1": 8.0}[norm])
    result = autoattack_reference(model, x, y, threat, seed=3, sample_ids=torch.arange(4))
    x_adv, y_adv = reference(model, x, y, threat, targets=4)
    assert torch.equal(result.x_adv, x_adv)
    assert result.claimed is not None
    assert torch.equal(result.claimed, y_adv != y)
    assert result.flags == ("non-standard AutoAttack: 4 targets, for 5 classes",)


@pytest.mark.parametrize("classes", [2, 3])
def test_below_four_classes_it_is_refused(classes: int) -> None:
    model, x, y = nearest_mean(classes, 2)
    with pytest.raises(ValueError, match=f"autoattack-reference needs at least 4 classes, the model has {classes}"):
        autoattack_reference(model, x, y, Threat("linf", 0.1), seed=0, sample_ids=torch.arange(2))


class Stairs(nn.Module):
    """A classifier of images rounded to eighths, whose gradient is therefore zero."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model((8 * x).round() / 8)
        return logits


class Softmax(nn.Module):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.model(x), dim=1)


def test_the_references_warnings_become_flags_and_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Without gradients only Square succeeds, which the reference warns of."""
    model, x, y = nearest_mean(10, 4)
    result = autoattack_reference(Stairs(model), x, y, Threat("linf", 0.35), seed=0, sample_ids=torch.arange(4))
    assert result.claimed is not None
    assert bool(result.claimed.all())
    assert len(set(result.flags)) == len(result.flags)
    assert any(f.startswith("autoattack warns: there are 4 points with zero gradient!") for f in result.flags)
    assert any(f.startswith("autoattack warns: Square Attack has decreased") for f in result.flags)
    assert not any("flags_doc" in flag for flag in result.flags)
    assert caplog.messages == []


def test_probabilities_in_place_of_logits_are_flagged() -> None:
    model, x, y = nearest_mean(10, 3)
    result = autoattack_reference(Softmax(model), x, y, Threat("linf", 0.4), seed=0, sample_ids=torch.arange(3))
    assert any("the output is a probability distribution" in flag for flag in result.flags)


def test_global_state_is_left_as_it_was() -> None:
    """Random generators of torch, NumPy and Python, the logger, and the trace function of a debugger."""
    model, x, y = nearest_mean(10, 3)
    log = logging.getLogger("auto-attack")

    def trace(frame: FrameType, event: str, argument: object) -> None:
        return None

    previous = sys.gettrace()
    torch.manual_seed(11)
    before = torch.get_rng_state()
    numpy_before = np.random.get_state()[1].copy()  # type: ignore[index]
    logger_before = (log.propagate, list(log.handlers), log.level)
    sys.settrace(trace)
    try:
        autoattack_reference(model, x, y, Threat("linf", 0.4), seed=3, sample_ids=torch.arange(3))
        assert sys.gettrace() is trace
    finally:
        sys.settrace(previous)
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)  # type: ignore[index]
    assert (log.propagate, list(log.handlers), log.level) == logger_before


def test_global_state_is_left_as_it_was_when_the_model_raises() -> None:
    model, x, y = nearest_mean(10, 3)
    log = logging.getLogger("auto-attack")
    before, logger_before = torch.get_rng_state(), (log.propagate, list(log.handlers))
    calls = []

    def tiring(images: Tensor) -> Tensor:
        calls.append(len(images))
        if len(calls) > 20:
            raise RuntimeError("out of memory")
        return model(images)  # type: ignore[no-any-return]

    with pytest.raises(RuntimeError, match="out of memory"):
        autoattack_reference(tiring, x, y, Threat("linf", 0.1), seed=3, sample_ids=torch.arange(3))
    assert torch.equal(torch.get_rng_state(), before)
    assert (log.propagate, list(log.handlers)) == logger_before
