"""Networks by name.

A network has `features(x)`, its penultimate layer of `feature_dim` numbers, and `forward(x)`, its logits: those of the
linear layer `classifier` (torchvision's name: `fc`) on the features.
"""

from collections.abc import Callable, Sequence

from torch import nn

from model_zoo.architectures.lipschitz_net import LipschitzMLP
from model_zoo.architectures.small_resnet import SmallResNet

Size = Sequence[int]
"""Height and width of an image."""


def _resnet18(channels: int, num_classes: int, size: Size) -> nn.Module:
    from model_zoo.architectures.resnet18 import ResNet18  # torchvision takes seconds to import

    return ResNet18(channels, num_classes)


def _resnet18_w8(channels: int, num_classes: int, size: Size) -> nn.Module:
    from model_zoo.architectures.resnet18 import ResNet18

    return ResNet18(channels, num_classes, width=8)


def _vgg11(channels: int, num_classes: int, size: Size) -> nn.Module:
    from model_zoo.architectures.vgg11 import VGG11

    return VGG11(channels, num_classes)


def _efficientnet_b0(channels: int, num_classes: int, size: Size) -> nn.Module:
    from model_zoo.architectures.efficientnet import EfficientNetB0

    return EfficientNetB0(channels, num_classes)


ARCHITECTURES: dict[str, Callable[[int, int, Size], nn.Module]] = {
    "lipschitz-mlp": lambda channels, num_classes, size: LipschitzMLP(channels * size[0] * size[1], num_classes),
    "small-resnet": lambda channels, num_classes, size: SmallResNet(channels, num_classes),
    "resnet18": _resnet18,
    "resnet18-w8": _resnet18_w8,
    "vgg11": _vgg11,
    "efficientnet-b0": _efficientnet_b0,
}


def build(name: str, channels: int, num_classes: int, size: Size = (28, 28)) -> nn.Module:
    """A freshly initialised network for images of `channels` channels.

    `size` matters to lipschitz-mlp alone, and not where weights are loaded, which bring their own shape.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {name!r}; known: {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name](channels, num_classes, size)
