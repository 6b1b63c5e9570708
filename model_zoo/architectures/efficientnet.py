"""EfficientNet-B0 for small images: 1280 features, 4.0 million parameters.

torchvision's network (Tan & Le 2019) with its stem on any number of channels, its strides unchanged: an image of 32
pixels or fewer ends in a single place. No dropout and no stochastic depth: their random numbers would come from torch's
own generator, and a training that was killed could not end with the weights of an uninterrupted one.
"""

from typing import cast

from torch import Tensor, nn
from torchvision.models import efficientnet_b0


class EfficientNetB0(nn.Module):
    """Convolutional network for images (n, channels, h, w) of any size."""

    def __init__(self, channels: int = 3, num_classes: int = 10):
        super().__init__()
        network = efficientnet_b0(stochastic_depth_prob=0.0)
        stem = nn.Conv2d(channels, 32, 3, stride=2, padding=1, bias=False)
        nn.init.kaiming_normal_(stem.weight, mode="fan_out")  # as torchvision's others
        network.features[0][0] = stem
        self.layers: nn.Sequential = network.features
        self.feature_dim = 1280
        self.classifier = nn.Linear(self.feature_dim, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Penultimate features (n, 1280): the last stage averaged over space."""
        return cast(Tensor, self.layers(x).mean(dim=(2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.classifier(self.features(x)))
