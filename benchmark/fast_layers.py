"""Convolutions with a cheaper backward pass, for the copy that attacks search in.

oneDNN's gradient of a strided convolution with one input channel costs as much as all other layers of a small
network together; written as a convolution of stride 1 and a rearrangement of pixels it costs a quarter of that. The
same sums in another order, so that gradients differ by rounding alone.
"""

import math
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

_VECTOR = 16
"""Output channels that oneDNN computes at once."""


class FirstConvolution(nn.Module):
    """The convolution that sees the image: float32 forward, its output and its gradient in bfloat16."""

    def __init__(self, layer: nn.Conv2d):
        super().__init__()
        self.layer = layer
        layer.weight = nn.Parameter(layer.weight.contiguous(memory_format=torch.contiguous_format), False)
        self.register_buffer("phases", phase_kernels(layer).bfloat16())

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n o p q"]:
        with torch.autocast(x.device.type, enabled=False):
            features = cast(Tensor, _PhasedGradient.apply(x.float(), self.layer, self.phases))  # type: ignore[no-untyped-call]
            return features.bfloat16().contiguous(memory_format=torch.channels_last)


class StridedPointwise(nn.Module):
    """A strided 1x1 convolution on the pixels that it does not skip."""

    def __init__(self, layer: nn.Conv2d):
        super().__init__()
        self.layer = layer

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n o p q"]:
        kept = cast(Tensor, _EveryOther.apply(x, *self.layer.stride))  # type: ignore[no-untyped-call]
        return functional.conv2d(kept, self.layer.weight, self.layer.bias)


def phase_kernels(layer: nn.Conv2d) -> Float[Tensor, "phases o t t"]:
    """The layer's transpose as stride**2 convolutions, one for each phase (row, column) of its input's pixels.

    With i + padding = stride q + r, the gradient at input pixel i is the sum over t of the gradient at output
    pixel q - t times the kernel's entry r + stride t; entry T - 1 - t of phase r's kernel is that one.
    """
    o, c, k, _ = layer.weight.shape
    stride = layer.stride[0]
    taps = math.ceil(k / stride)
    rest = taps * stride - k
    entries = functional.pad(layer.weight, (0, rest, 0, rest)).view(o, c, taps, stride, taps, stride)
    kernels = entries.flip(2, 4).permute(1, 3, 5, 0, 2, 4).reshape(c * stride**2, o, taps, taps)
    kernels = functional.pad(kernels, (0, 0, 0, 0, 0, 0, 0, -len(kernels) % _VECTOR))
    return kernels.contiguous(memory_format=torch.channels_last)


def has_phases(layer: nn.Module) -> bool:
    """Whether a layer is a convolution that FirstConvolution can stand for."""
    return (
        isinstance(layer, nn.Conv2d)
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and layer.dilation == (1, 1)
        and layer.stride[0] > 1
        and all(len(set(pair)) == 1 for pair in (layer.kernel_size, layer.stride, layer.padding))
    )


def is_strided_pointwise(layer: nn.Module) -> bool:
    """Whether a layer is a convolution that StridedPointwise can stand for."""
    return (
        isinstance(layer, nn.Conv2d)
        and layer.kernel_size == (1, 1)
        and layer.stride != (1, 1)
        and layer.groups == 1
        and layer.padding in ((0, 0), "valid")
    )


class _PhasedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: nn.Conv2d, phases: Tensor) -> Tensor:
        ctx.layer, ctx.phases, ctx.size = layer, phases, x.shape
        return cast(Tensor, layer(x))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (n, c, h, w), stride, padding = ctx.size, ctx.layer.stride[0], ctx.layer.padding[0]
        with torch.autocast(gradients[0].device.type, enabled=False):
            by_phase = functional.conv2d(
                gradients[0].to(ctx.phases.dtype), ctx.phases, padding=ctx.phases.shape[-1] - 1
            )
        by_phase = by_phase.permute(0, 2, 3, 1)[..., : c * stride**2].float()
        p, q = by_phase.shape[1:3]
        pixels = by_phase.reshape(n, p, q, c, stride, stride).permute(0, 3, 1, 4, 2, 5)
        pixels = pixels.reshape(n, c, p * stride, q * stride)
        lacking = (max(0, padding + w - q * stride), max(0, padding + h - p * stride))
        if any(lacking):  # pixels that no window reaches
            pixels = functional.pad(pixels, (0, lacking[0], 0, lacking[1]))
        return pixels[:, :, padding : padding + h, padding : padding + w].contiguous(), None, None


class _EveryOther(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: int, columns: int) -> Tensor:
        ctx.rows, ctx.columns, ctx.size = rows, columns, x.shape
        return x[:, :, ::rows, ::columns].contiguous(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        spread = torch.zeros(ctx.size, dtype=gradients[0].dtype, device=gradients[0].device).contiguous(
            memory_format=torch.channels_last
        )
        spread[:, :, :: ctx.rows, :: ctx.columns] = gradients[0]
        return spread, None, None
