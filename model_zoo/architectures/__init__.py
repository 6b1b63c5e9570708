"""Networks by name. A network has `features(x)`, its penultimate layer, and `forward(x)`, its logits."""

from collections.abc import Callable
from typing import Protocol, cast, runtime_checkable

from torch import Tensor, nn

from model_zoo.architectures.small_resnet import SmallResNet


@runtime_checkable
class FeatureNetwork(Protocol):
    """What clustering recipes need of a network."""

    feature_dim: int

    def features(self, x: Tensor) -> Tensor: ...


ARCHITECTURES: dict[str, Callable[[int, int], nn.Module]] = {
    "small-resnet": lambda channels, num_classes: SmallResNet(channels, num_classes),
}


def build(name: str, channels: int, num_classes: int) -> nn.Module:
    """A freshly initialised network for images of `channels` channels."""
    if name not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {name!r}; known: {', '.join(sorted(ARCHITECTURES))}")
    return ARCHITECTURES[name](channels, num_classes)


def as_feature_network(network: nn.Module) -> FeatureNetwork:
    """The same network, seen as a source of features."""
    if not callable(getattr(network, "features", None)):
        raise TypeError(f"{type(network).__name__} has no features(x)")
    return cast(FeatureNetwork, network)
