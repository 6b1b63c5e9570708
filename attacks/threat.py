"""The set of allowed images, and everything that differs from norm to norm."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Float64
from torch import Tensor

Norm = Literal["linf", "l2", "l1"]
FloatArray = npt.NDArray[np.float32]
NORMS: tuple[Norm, ...] = get_args(Norm)

TOLERANCE = 1e-6
"""How far beyond eps an image is still allowed (absolute, in the threat's norm), and up to which verifiers prove:
float32 rounding of x +- eps exceeds eps by up to 3e-8 on many pixels."""

_TINY = 1e-12
_L1_SHARE = 0.05
_ROUNDING = 2.0**-24
"""A float32 number in [0, 1] is stored with an error of at most this."""


@dataclass(frozen=True)
class Threat:
    """Images within `eps` of the original in `norm` and inside the box [lower, upper].

    `eps` is in input units, images being in [0, 1].
    """

    norm: Norm
    eps: float
    lower: float = 0.0
    upper: float = 1.0

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise ValueError(f"threat.norm must be one of {', '.join(NORMS)}, got {self.norm!r}")
        if not self.eps >= 0:
            raise ValueError(f"threat.eps must be at least 0, got {self.eps}")

    def diameter(self, pixels: int) -> float:
        """The largest distance of two images of so many pixels inside the box."""
        width = self.upper - self.lower
        return {"linf": width, "l2": width * math.sqrt(pixels), "l1": width * pixels}[self.norm]

    def project(self, x: Float[Tensor, "n *image"], x_adv: Float[Tensor, "n *image"]) -> Tensor:
        """The allowed image nearest to `x_adv` (linf, l1), or the clamped scaling towards `x` (l2).

        For l2, clamping to the box moves every pixel towards `x`, so the result stays in the ball.
        """
        if self.norm == "linf":
            inside = torch.minimum(torch.maximum(x_adv, x - self.eps), x + self.eps)
            return inside.clamp(self.lower, self.upper)
        if self.norm == "l1":
            return self.project_l1(x, x_adv, x.new_full((len(x),), self.eps))
        delta = x_adv - x
        length = _per_sample_l2(delta).clamp_min(_TINY)
        return (x + delta * (self.eps / length).clamp_max(1.0)).clamp(self.lower, self.upper)

    def project_l1(
        self, x: Float[Tensor, "n *image"], x_adv: Float[Tensor, "n *image"], radius: Float[Tensor, " n"]
    ) -> Tensor:
        """The nearest image in the box within `radius` of `x` in l1."""
        delta = x_adv - x
        room = torch.where(delta >= 0, self.upper - x, x - self.lower)
        return (x + _shrink_l1(delta, room, radius)).clamp(self.lower, self.upper)

    def steepest(self, gradient: Float[Tensor, "n *image"]) -> Tensor:
        """The direction of norm 1 that raises a linear function fastest; zero where the gradient is.

        For l1 that is a single pixel, and an attack would hardly move: the largest 5 % of the pixels move by
        the same amount instead (Tramèr & Boneh 2019, section 4, their q).
        """
        if self.norm == "linf":
            return gradient.sign()
        if self.norm == "l1":
            return sparse_sign(gradient, gradient.new_full((len(gradient),), _L1_SHARE))
        # Scaled first: squaring a tiny gradient underflows, and a direction would be lost.
        largest = gradient.abs().flatten(1).amax(dim=1).reshape(-1, *[1] * (gradient.ndim - 1))
        scaled = gradient / largest.clamp_min(torch.finfo(gradient.dtype).tiny)
        return scaled / _per_sample_l2(scaled).clamp_min(_TINY)

    def random_start(
        self, x: Float[Tensor, "n *image"], generators: Sequence[np.random.Generator]
    ) -> Float[Tensor, "n *image"]:
        """A point drawn uniformly from each sample's ball, then clamped to the box."""
        offsets = np.stack([self._uniform_in_ball(g, tuple(x.shape[1:])) for g in generators])
        return (x + torch.from_numpy(offsets).to(x)).clamp(self.lower, self.upper)

    def distance(self, x: Float[Tensor, "n *image"], x_adv: Float[Tensor, "n *image"]) -> Float64[Tensor, " n"]:
        """Distances in this norm, computed in float64."""
        delta = (x_adv.double() - x.double()).flatten(1)
        order = {"linf": torch.inf, "l2": 2.0, "l1": 1.0}[self.norm]
        length: Tensor = torch.linalg.vector_norm(delta, ord=order, dim=1)
        return length

    def _uniform_in_ball(self, generator: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
        if self.norm == "linf":
            noise: FloatArray = generator.uniform(-self.eps, self.eps, shape).astype(np.float32)
            return noise
        if self.norm == "l1":
            share = generator.standard_exponential(int(np.prod(shape)) + 1)
            signs = generator.choice([-1.0, 1.0], share.size - 1)
            corner: FloatArray = (self.eps * signs * share[:-1] / share.sum()).reshape(shape).astype(np.float32)
            return corner
        direction = generator.standard_normal(shape)
        radius = self.eps * generator.random() ** (1.0 / direction.size)
        point: FloatArray = (direction * (radius / np.linalg.norm(direction))).astype(np.float32)
        return point


def _per_sample_l2(delta: Float[Tensor, "n *image"]) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(delta.flatten(1), dim=1)
    return length.reshape(-1, *[1] * (delta.ndim - 1))


def sparse_sign(gradient: Float[Tensor, "n *image"], share: Float[Tensor, " n"]) -> Tensor:
    """Signs of the largest `share` of each sample's entries (at least one), of l1 norm 1 together."""
    flat = gradient.flatten(1)
    kept = (share * flat.shape[1]).long().clamp(1, flat.shape[1])
    threshold = flat.abs().sort(dim=1, descending=True).values.gather(1, kept[:, None] - 1)
    signs = flat.sign() * (flat.abs() >= threshold)
    return (signs / signs.abs().sum(dim=1, keepdim=True).clamp_min(1.0)).reshape(gradient.shape)


def _shrink_l1(delta: Tensor, room: Tensor, radius: Tensor) -> Tensor:
    """The nearest delta (n, ...) with sum |delta_i| <= radius and |delta_i| <= room_i (Croce & Hein 2021, prop. 2.2).

    Its entries are min(max(|delta_i| - t, 0), room_i) with the smallest t >= 0 that fits; the sum is piecewise
    linear in t, so t is found among the sorted places where its slope changes. The ball is shrunk by what
    rounding the image to float32 can add.
    """
    size, most = delta.abs().flatten(1).double(), room.flatten(1).clamp_min(0).double()
    radius = (radius.double() - size.shape[1] * _ROUNDING).clamp_min(0)[:, None]
    knots, order = torch.cat([size, size - most], dim=1).sort(dim=1, descending=True)
    slopes = torch.where(order < size.shape[1], 1.0, -1.0).to(size).cumsum(dim=1)
    sums = torch.zeros_like(knots)
    sums[:, 1:] = (slopes[:, :-1] * (knots[:, :-1] - knots[:, 1:])).cumsum(dim=1)
    segment = (sums <= radius).sum(dim=1, keepdim=True) - 1  # sums rise from 0: the last knot that still fits
    slope = slopes.gather(1, segment)
    beyond = (radius - sums.gather(1, segment)) / slope.clamp_min(1.0)
    t = torch.where(slope > 0.5, knots.gather(1, segment) - beyond, knots.gather(1, segment)).clamp_min(0)
    shrunk = torch.minimum((size - t).clamp_min(0), most).reshape(delta.shape)
    return (shrunk * delta.sign()).to(delta)
