"""The stand-ins of the cheap copy: the layers they replace, forward and backward."""

import pytest
import torch
from torch import Tensor, nn

from benchmark.fast_layers import (
    FirstConvolution,
    StridedPointwise,
    has_phases,
    is_strided_pointwise,
    phase_kernels,
)


def _gradient(layer: nn.Module, x: Tensor, weights: Tensor) -> Tensor:
    images = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad((layer(images).float() * weights).sum(), images)
    return gradient


@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "padding", "height", "width"),
    [(1, 5, 3, 2, 28, 28), (3, 7, 2, 3, 32, 32), (3, 3, 2, 1, 9, 14), (2, 2, 2, 0, 7, 5), (1, 3, 5, 0, 19, 18)],
)
def test_a_first_convolution_has_the_gradient_of_its_layer(
    channels: int, kernel: int, stride: int, padding: int, height: int, width: int
) -> None:
    """In float32 to rounding; in bfloat16, as it runs, to bfloat16's."""
    torch.manual_seed(0)
    layer = nn.Conv2d(channels, 12, kernel, stride, padding)
    assert has_phases(layer)
    x = torch.rand(4, channels, height, width)
    weights = torch.randn_like(layer(x))
    expected, output = _gradient(layer, x, weights), layer(x).detach()
    fast = FirstConvolution(layer)
    assert torch.equal(fast(x).detach(), output.bfloat16())
    close = float((_gradient(fast, x, weights) - expected).norm() / expected.norm())
    assert close < 0.01
    fast.phases = phase_kernels(layer)
    exact_weights = weights.bfloat16().float()  # the output's gradient passes through bfloat16 in any case
    torch.testing.assert_close(
        _gradient(fast, x, exact_weights), _gradient(layer, x, exact_weights), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("stride", [2, (1, 3)])
def test_a_strided_pointwise_convolution_skips_what_its_layer_skips(stride: int | tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 5, 1, stride)
    assert is_strided_pointwise(layer)
    x = torch.randn(3, 6, 9, 8)
    weights = torch.randn_like(layer(x))
    torch.testing.assert_close(StridedPointwise(layer)(x), layer(x))
    torch.testing.assert_close(
        _gradient(StridedPointwise(layer), x, weights), _gradient(layer, x, weights), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(1, 4, 3),
        nn.Conv2d(2, 4, 3, 2, groups=2),
        nn.Conv2d(1, 4, 3, 2, dilation=2),
        nn.Conv2d(1, 4, 3, 2, padding_mode="reflect", padding=1),
        nn.Conv2d(1, 4, (3, 5), 2),
        nn.Conv2d(1, 4, 3, (2, 1)),
        nn.Linear(3, 4),
    ],
)
def test_other_geometries_are_left_alone(layer: nn.Module) -> None:
    assert not has_phases(layer)
    assert not is_strided_pointwise(layer)
