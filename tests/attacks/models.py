"""Small models whose robustness is known in closed form, and images to attack them on."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from attacks.contract import fooled
from attacks.threat import Threat

Array = npt.NDArray[np.float64]


class Linear(nn.Module):
    """Logits W x + b of the flattened image."""

    def __init__(self, weight: Tensor, bias: Tensor):
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.weight: Tensor
        self.bias: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T + self.bias


class Curved(nn.Module):
    """A random two-layer network, for claims that hold for any differentiable model."""

    def __init__(self, features: int, classes: int, seed: int):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.first = torch.randn(features, 32, generator=generator) * 2.0 / features**0.5
        self.second = torch.randn(32, classes, generator=generator) / 2.0

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh((x.flatten(1) - 0.5) @ self.first * 4.0) @ self.second


class Flat(nn.Module):
    """Constant logits, through a graph whose gradient is zero."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.0 * x.flatten(1)[:, :2] + torch.tensor([1.0, 0.0])


@dataclass(frozen=True)
class Problem:
    """Images, the classes a model gives them, and that model."""

    model: Linear
    x: Tensor
    y: Tensor

    @property
    def sample_ids(self) -> Tensor:
        return torch.arange(len(self.x))


def linear_problem(classes: int, samples: int, seed: int, low: float = 0.0, high: float = 1.0) -> Problem:
    """Uniform 4x4 images in [low, high] and a random linear model centred on them; y is its prediction."""
    generator = torch.Generator().manual_seed(seed)
    x = low + (high - low) * torch.rand(samples, 1, 4, 4, generator=generator)
    weight = torch.randn(classes, 16, generator=generator)
    model = Linear(weight, -weight.sum(dim=1) * (low + high) / 2)
    return Problem(model, x, model(x).argmax(dim=1))


def best_margin(problem: Problem, threat: Threat) -> Array:
    """Largest (wrong logit - true logit) within the threat, over all wrong classes, in closed form.

    linf with the box: every pixel moves to the end of its interval that the sign of w_c - w_y asks for. l1 with
    the box: pixels move to the end of the box, the steepest first, until eps is used up. l2: x + eps d / |d|,
    which is the optimum only where the box does not bind; the caller sees to that.
    """
    weight, bias = problem.model.weight.double().numpy(), problem.model.bias.double().numpy()
    x = problem.x.double().flatten(1).numpy()
    best = np.full(len(x), -np.inf)
    for i, true in enumerate(problem.y.tolist()):
        for c in range(len(weight)):
            if c == true:
                continue
            d = weight[c] - weight[true]
            if threat.norm == "linf":
                z = np.clip(x[i] + threat.eps * np.sign(d), threat.lower, threat.upper)
            elif threat.norm == "l1":
                z, left = x[i].copy(), threat.eps
                for pixel in np.argsort(-np.abs(d)):
                    end = threat.upper if d[pixel] > 0 else threat.lower
                    move = np.clip(end - z[pixel], -left, left)
                    z[pixel] += move
                    left -= abs(move)
            else:
                z = x[i] + threat.eps * d / np.sqrt((d**2).sum())
                assert z.min() > threat.lower, "the box must not bind for l2"
                assert z.max() < threat.upper, "the box must not bind for l2"
            best[i] = max(best[i], d @ z + bias[c] - bias[true])
    return best


def broken_by(model: nn.Module, y: Tensor, x_adv: Tensor) -> Tensor:
    """Which images fool the model."""
    with torch.no_grad():
        return fooled(model(x_adv), y)


def assert_allowed(threat: Threat, x: Tensor, x_adv: Tensor) -> None:
    """In the box exactly, in the ball up to 1e-6, measured in float64."""
    delta = (x_adv.double() - x.double()).flatten(1)
    distance = {
        "linf": delta.abs().amax(dim=1),
        "l2": delta.square().sum(dim=1).sqrt(),
        "l1": delta.abs().sum(dim=1),
    }[threat.norm]
    assert bool(torch.isfinite(x_adv).all())
    assert float(x_adv.min()) >= threat.lower
    assert float(x_adv.max()) <= threat.upper
    assert float(distance.max()) <= threat.eps + 1e-6


def digits(samples: int, classes: int = 10) -> tuple[Tensor, Tensor]:
    """The first scikit-learn digits of the first classes, as (n, 1, 8, 8) in [0, 1]."""
    x, y = load_digits(return_X_y=True)
    kept = np.flatnonzero(y < classes)[:samples]
    return torch.tensor(x[kept] / 16.0, dtype=torch.float32).reshape(-1, 1, 8, 8), torch.tensor(y[kept])
