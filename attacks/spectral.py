"""Proven upper bounds of the spectral norms of linear layers, in float64."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

ROUNDING = 1.0 + 1e-6
"""Far more than the relative error of a largest singular value in float64, which is about its side times 1e-16."""

_DENSE_SIDES = (1024, 2048)


def matrix_norm(matrix: Float[Tensor, "r c"]) -> float:
    """The largest singular value of a matrix; it is the same for the transpose."""
    matrix = matrix.double()
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    return math.sqrt(max(0.0, float(torch.linalg.eigvalsh(gram)[-1]))) * ROUNDING


def convolution_norm(
    weight: Float[Tensor, "o i kh kw"], stride: tuple[int, int], padding: tuple[int, int], size: tuple[int, int]
) -> float:
    """An upper bound of the norm of a zero-padded convolution of images (i, *size); dilation and groups are 1.

    The smaller of `lattice_norm` and, where the matrix of the convolution is small, its norm.
    """
    weight = weight.double()
    bound = lattice_norm(weight, stride)
    inputs = weight.shape[1] * size[0] * size[1]
    places = math.prod(
        (n + 2 * p - k) // s + 1 for n, p, k, s in zip(size, padding, weight.shape[2:], stride, strict=True)
    )
    sides = sorted((inputs, weight.shape[0] * places))
    if all(side <= most for side, most in zip(sides, _DENSE_SIDES, strict=True)):
        basis = torch.eye(inputs, dtype=torch.float64, device=weight.device).reshape(inputs, -1, *size)
        columns = functional.conv2d(basis, weight, stride=stride, padding=padding).flatten(1)
        bound = min(bound, matrix_norm(columns))
    return bound


def lattice_norm(weight: Float[Tensor, "o i kh kw"], stride: tuple[int, int] = (1, 1)) -> float:
    """An upper bound of a convolution's norm on images of any size with any zero padding.

    A padded image is one on the infinite lattice that is zero outside, and the output a part of that lattice's, so
    the norm there bounds every finite one. There it is the supremum over frequencies of the largest singular value of
    the symbol, the kernel's Fourier series (Sedghi et al. 2019, section 2, on the torus). With stride s the image is
    cut into its s x s phases first: they are the input channels of a convolution of stride 1 with ceil(k / s) taps.

    Between grid points: u* symbol v along an axis is, up to a phase, a trigonometric polynomial of degree
    n = (taps - 1) / 2. Around the place of its largest value it stays above that value times cos(n distance) (M. Riesz
    1914; half a degree needs only a doubled angle), and the nearest of N > 2 n grid points is at most pi / N away: the
    supremum is at most the grid's maximum divided by cos(pi n / N), once an axis (Ehlich & Zeller 1964).
    """
    weight = weight.double()
    outputs, inputs, *kernel = weight.shape
    taps = [math.ceil(k / s) for k, s in zip(kernel, stride, strict=True)]
    missing = [t * s - k for t, s, k in zip(taps, stride, kernel, strict=True)]
    padded = functional.pad(weight, (0, missing[1], 0, missing[0]))
    phases = padded.reshape(outputs, inputs, taps[0], stride[0], taps[1], stride[1]).permute(0, 1, 3, 5, 2, 4)
    phases = phases.reshape(outputs, -1, *taps)
    side = min(phases.shape[:2])
    finer = 16 if side <= 64 else 8 if side <= 128 else 4
    points = [max(1, finer * (t - 1)) for t in taps]
    # Real kernels: the symbols at a frequency and at its negative are conjugate, and rfft leaves one of them out.
    symbols = torch.fft.rfft2(phases, s=points).permute(2, 3, 0, 1)
    largest = max(float(torch.linalg.eigvalsh(_gram(row))[:, -1].max()) for row in symbols)
    between = math.prod(math.cos(math.pi * (t - 1) / 2 / n) for t, n in zip(taps, points, strict=True))
    return math.sqrt(max(0.0, largest)) / between * ROUNDING


def _gram(matrices: Tensor) -> Tensor:
    """A A* or A* A of each matrix, whichever is smaller: the squares of its singular values are the eigenvalues."""
    return matrices @ matrices.mH if matrices.shape[1] <= matrices.shape[2] else matrices.mH @ matrices
