"""ResNet-18 for images of about 32x32 pixels, as ClusTR trains it (appendix D): 512 features.

torchvision's network (He et al. 2016) with a 3x3 stem of stride 1 and without max pooling: the usual changes for small
images, after which the last stage still sees 4x4 places of a 32x32 image. 11.2 million parameters, and about 176,000
with a base width of 8 instead of 64: a surrogate that trains on a CPU.
"""

from typing import Any, cast

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.resnet import BasicBlock, ResNet

_WIDTH = 64
"""torchvision's base width."""


class ResNet18(ResNet):  # type: ignore[misc]
    """Residual network for images (n, channels, h, w); its last layer is torchvision's `fc`.

    `width` is the number of channels of the stem and the first stage; each further stage doubles it.
    """

    def __init__(self, channels: int = 3, num_classes: int = 10, width: int = _WIDTH):
        self._width = width  # read by _make_layer, which the constructor calls
        super().__init__(BasicBlock, [2, 2, 2, 2], num_classes=num_classes)
        self.feature_dim: int = 8 * width
        if width != _WIDTH:
            self.bn1: nn.Module = nn.BatchNorm2d(width)
            self.fc = nn.Linear(self.feature_dim, num_classes)
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's others
        self.maxpool = nn.Identity()

    def _make_layer(self, block: type[nn.Module], planes: int, *others: Any, **more: Any) -> nn.Sequential:
        if planes == _WIDTH:  # the first stage, whose input is the stem's output
            self.inplanes = self._width
        return cast(nn.Sequential, super()._make_layer(block, planes * self._width // _WIDTH, *others, **more))

    def features(self, x: Tensor) -> Tensor:
        """Penultimate features (n, 8 width): the last stage averaged over space."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x.mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.fc(self.features(x)))

    def fold_batch_norm(self) -> None:
        """Put batch norm's eval-mode scale and shift into the convolutions; the same function in fewer operations."""
        self.conv1 = fuse_conv_bn_eval(self.conv1, cast(nn.BatchNorm2d, self.bn1))
        self.bn1 = nn.Identity()
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in stage:
                block.conv1, block.bn1 = fuse_conv_bn_eval(block.conv1, block.bn1), nn.Identity()
                block.conv2, block.bn2 = fuse_conv_bn_eval(block.conv2, block.bn2), nn.Identity()
                if block.downsample is not None:
                    block.downsample = fuse_conv_bn_eval(*block.downsample)
