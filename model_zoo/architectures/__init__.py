"""Networks by name. A network has `features(x)`, its penultimate layer, and `forward(x)`, its logits."""

from collections.abc import Callable

from torch import nn

from model_zoo.architectures.lipschitz_net import LipschitzMLP
from model_zoo.architectures.small_resnet import SmallResNet

ARCHITECTURES: dict[str, Callable[[int, int], nn.Module]] = {
    "small-resnet": lambda channels, num_classes: SmallResNet(channels, num_classes),
    "lipschitz-mlp": lambda channels, num_classes: LipschitzMLP(channels * 28 * 28, num_classes),
}


def build(name: str, channels: int, num_classes: int) -> nn.Module:
    """A freshly initialised network for images of `channels` channels."""
    if name not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {name!r}; known: {', '.join(sorted(ARCHITECTURES))}")
    return ARCHITECTURES[name](channels, num_classes)
