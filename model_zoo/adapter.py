"""The interface every classifier is put behind: images in [0, 1] in, logits out."""

from collections.abc import Sequence
from functools import cached_property
from typing import Protocol, TypeVar, cast, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Normalise(nn.Module):
    """(x - mean) / std per channel, as part of the model, so that attacks act on [0, 1] images."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        if len(mean) != len(std) or not all(s > 0 for s in std):
            raise ValueError(f"mean and std need one positive std a channel, got {list(mean)} and {list(std)}")
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).reshape(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class LogitsModel(nn.Module):
    """A network with its input normalisation inside.

    `network` maps normalised images (n, c, h, w) to logits (n, classes). The model is put in eval mode:
    in training mode batch norm would let one sample's prediction depend on its neighbours.
    """

    def __init__(self, network: nn.Module, mean: Sequence[float] = (0.0,), std: Sequence[float] = (1.0,)):
        super().__init__()
        self.normalise = Normalise(mean, std)
        self.network = network
        self.eval()

    def features(self, x: Float[Tensor, "n c h w"]) -> Tensor:
        """Penultimate features (n, d) of images in [0, 1]."""
        return cast(Tensor, self.network.features(self.normalise(x)))  # type: ignore[operator]

    @cached_property
    def backbone(self) -> "FeatureExtractor":
        """`features` as a module, which shares its layers with this one and adds no weights to it."""
        extractor = FeatureExtractor(self.network)
        extractor.normalise, extractor.training = self.normalise, self.training
        return extractor

    @property
    def last_layer(self) -> nn.Linear | None:
        """The linear layer from `features` to the logits, of a network that follows `model_zoo.architectures`."""
        network = self.network
        layer = getattr(network, "classifier", getattr(network, "fc", None))
        known = isinstance(layer, nn.Linear) and layer.in_features == getattr(network, "feature_dim", None)
        return layer if known else None

    def forward(self, x: Float[Tensor, "n c h w"]) -> Tensor:
        return cast(Tensor, self.network(self.normalise(x)))


class FeatureExtractor(nn.Module):
    """The features of a network, normalisation inside: the backbone of a clustering classifier."""

    def __init__(self, network: nn.Module, mean: Sequence[float] = (0.0,), std: Sequence[float] = (1.0,)):
        super().__init__()
        self.normalise = Normalise(mean, std)
        self.network = network

    def forward(self, x: Float[Tensor, "n c h w"]) -> Tensor:
        return cast(Tensor, self.network.features(self.normalise(x)))  # type: ignore[operator]


@runtime_checkable
class FoldsBatchNorm(Protocol):
    """A network that can fold its batch norm into its convolutions, all parts included."""

    feature_dim: int

    def fold_batch_norm(self) -> None: ...


M = TypeVar("M", bound=nn.Module)


def channels_last(model: M) -> M:
    """The same model with its convolutions in channels-last layout: up to twice as fast on a CPU."""
    moved: M = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved


def fold_batch_norm(model: nn.Module) -> None:
    """Fold batch norm in every network that knows how; for evaluation only, the model can no longer be trained."""
    for network in [part for part in model.modules() if isinstance(part, FoldsBatchNorm)]:
        network.fold_batch_norm()
    channels_last(model.requires_grad_(False).eval())  # folding leaves parts that are new


def judged_by(model: nn.Module) -> nn.Module:
    """The model whose prediction decides; differs from `model` only where that is one of several heads."""
    twin = getattr(model, "judged", None)
    return twin if isinstance(twin, nn.Module) else model
