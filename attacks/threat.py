"""The set of allowed images, and everything that differs from norm to norm."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Float64
from torch import Tensor

Norm = Literal["linf", "l2"]
FloatArray = npt.NDArray[np.float32]
NORMS: tuple[Norm, ...] = get_args(Norm)

_TINY = 1e-12


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

    def project(self, x: Float[Tensor, "n *image"], x_adv: Float[Tensor, "n *image"]) -> Tensor:
        """The allowed image nearest to `x_adv` (linf), or the clamped scaling towards `x` (l2).

        For l2, clamping to the box moves every pixel towards `x`, so the result stays in the ball.
        """
        if self.norm == "linf":
            inside = torch.minimum(torch.maximum(x_adv, x - self.eps), x + self.eps)
            return inside.clamp(self.lower, self.upper)
        delta = x_adv - x
        length = _per_sample_l2(delta).clamp_min(_TINY)
        return (x + delta * (self.eps / length).clamp_max(1.0)).clamp(self.lower, self.upper)

    def steepest(self, gradient: Float[Tensor, "n *image"]) -> Tensor:
        """The direction of norm 1 that raises a linear function fastest; zero where the gradient is."""
        if self.norm == "linf":
            return gradient.sign()
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
        return delta.abs().amax(dim=1) if self.norm == "linf" else torch.linalg.vector_norm(delta, dim=1)

    def _uniform_in_ball(self, generator: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
        if self.norm == "linf":
            noise: FloatArray = generator.uniform(-self.eps, self.eps, shape).astype(np.float32)
            return noise
        direction = generator.standard_normal(shape)
        radius = self.eps * generator.random() ** (1.0 / direction.size)
        point: FloatArray = (direction * (radius / np.linalg.norm(direction))).astype(np.float32)
        return point


def _per_sample_l2(delta: Float[Tensor, "n *image"]) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(delta.flatten(1), dim=1)
    return length.reshape(-1, *[1] * (delta.ndim - 1))
