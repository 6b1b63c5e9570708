"""VGG-11 with batch norm for images of about 32x32 pixels: 512 features.

torchvision's convolutions (Simonyan & Zisserman 2015, configuration A) and, in place of its three fully connected
layers for 7x7 places, a single linear one on what the last pooling leaves: 9.2 million parameters. Five poolings need
32 pixels a side: a smaller image gets a frame of zeros, which after normalisation is the training images' mean.
"""

from typing import cast

from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.vgg import cfgs, make_layers

LEAST_SIDE = 32


class VGG11(nn.Module):
    """Convolutional network for images (n, channels, h, w) of any size."""

    def __init__(self, channels: int = 3, num_classes: int = 10):
        super().__init__()
        self.layers: nn.Sequential = make_layers(cfgs["A"], batch_norm=True)
        self.layers[0] = nn.Conv2d(channels, 64, 3, padding=1)
        for layer in self.layers:  # as torchvision's, whose constructor would make 120 million more weights
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(cast(Tensor, layer.bias))
        self.feature_dim = 512
        self.classifier = nn.Linear(self.feature_dim, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Penultimate features (n, 512): what the last pooling leaves, averaged over space."""
        return cast(Tensor, self.layers(_framed(x)).mean(dim=(2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.classifier(self.features(x)))


def _framed(x: Tensor) -> Tensor:
    """The image in the middle of zeros, where it has fewer than LEAST_SIDE rows or columns."""
    down, across = (max(0, LEAST_SIDE - side) for side in x.shape[2:])
    return functional.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2))
