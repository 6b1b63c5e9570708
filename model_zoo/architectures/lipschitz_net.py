"""A network with an l2 Lipschitz constant of 1: orthonormal linear layers and the activation MaxMin.

MaxMin (Anil, Lucas & Grosse 2019, arXiv 1811.05381, section 4: GroupSort in groups of two) sorts pairs of numbers:
unlike ReLU it keeps the gradient's norm, so that a network under the constraint can still bend. Matrices are held
orthonormal in training by deel-torchlip (Serrurier et al. 2021, arXiv 2006.06520): spectral normalisation, then Bjorck
iterations. What ships is a plain network of `nn.Linear` layers: its constant is at most the product of their largest
singular values, which anybody can compute, and nothing of torchlip is needed to run it.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

INPUTS = 28 * 28
WIDTHS = (256, 256, 128)


class MaxMin(nn.Module):
    """Sorts channel i with channel i + half: all maxima, then all minima. 1-Lipschitz, a permutation of its input."""

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=1)
        return torch.cat([torch.maximum(a, b), torch.minimum(a, b)], dim=1)


class LipschitzMLP(nn.Module):
    """Linear layers of the given widths with MaxMin between them; the last one's outputs are the features.

    A state dict that is loaded brings its own numbers of inputs, layers and widths. `linear` makes a layer
    from its numbers of inputs and outputs. Plain layers are not constrained: an orthonormal network comes
    from `orthonormal` and, once trained, from `exported`. The classifier is zero until it is trained.
    """

    def __init__(
        self,
        inputs: int = INPUTS,
        num_classes: int = 10,
        widths: Sequence[int] = WIDTHS,
        linear: Callable[[int, int], nn.Module] = nn.Linear,
    ):
        super().__init__()
        if not widths or any(width % 2 for width in widths[:-1]):
            raise ValueError(f"widths must name the features, and before them even numbers, got {list(widths)}")
        self.shape = (inputs, *widths)
        self.feature_dim = widths[-1]
        layers: list[nn.Module] = [nn.Flatten()]
        for i, (n, m) in enumerate(zip(self.shape[:-1], widths, strict=True)):
            layers += [linear(n, m)] if i == 0 else [MaxMin(), linear(n, m)]
        self.layers = nn.Sequential(*layers)
        self.classifier = nn.Linear(self.feature_dim, num_classes)
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)
        self.register_load_state_dict_pre_hook(_take_shape)  # type: ignore[no-untyped-call]

    def features(self, x: Tensor) -> Tensor:
        """Features (n, feature_dim) of images (n, channels, h, w)."""
        return cast(Tensor, self.layers(x))

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.classifier(self.features(x)))


def _take_shape(module: nn.Module, state: Mapping[str, Any], prefix: str, *_: object) -> None:
    """Before loading: plain layers of the shapes that the weights have."""
    network = cast(LipschitzMLP, module)
    shapes: list[tuple[int, int]] = []
    while (weight := state.get(f"{prefix}layers.{2 * len(shapes) + 1}.weight")) is not None:
        outputs, inputs = weight.shape
        shapes.append((inputs, outputs))
    if shapes and (shapes[0][0], *(outputs for _, outputs in shapes)) != network.shape:
        fitting = LipschitzMLP(shapes[0][0], network.classifier.out_features, [outputs for _, outputs in shapes])
        network.shape, network.feature_dim = fitting.shape, fitting.feature_dim
        network.layers, network.classifier = fitting.layers, fitting.classifier


def orthonormal(inputs: int, num_classes: int, widths: Sequence[int]) -> LipschitzMLP:
    """The network for training: every matrix orthonormal after each forward pass, by torchlip's SpectralLinear.

    In eval mode its layers hold the matrices of the last forward pass in training mode.
    """
    from deel.torchlip import SpectralLinear  # needed for training alone

    class Float32(SpectralLinear):  # type: ignore[misc]
        """Outside autocast: in bfloat16 Bjorck's iteration ends up to 0.4 % a layer from orthonormal."""

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast(x.device.type, enabled=False):
                return cast(Tensor, super().forward(x.to(torch.promote_types(x.dtype, torch.float32))))

    return LipschitzMLP(inputs, num_classes, widths, linear=Float32)


def exported(network: LipschitzMLP) -> LipschitzMLP:
    """A plain copy that computes what `network`, made by `orthonormal`, computes in eval mode, which it is put in."""
    network.eval()
    plain = LipschitzMLP(network.shape[0], network.classifier.out_features, network.shape[1:])
    plain.layers = nn.Sequential(*(_plain(layer) for layer in network.layers))
    plain.classifier.load_state_dict(network.classifier.state_dict())
    return plain.eval()


def _plain(layer: nn.Module) -> nn.Module:
    export = getattr(layer, "vanilla_export", None)
    return copy.deepcopy(layer if export is None else cast(nn.Module, export()))  # an export shares its bias
