"""The zoo's small residual network: small enough that complete AutoAttack on 200 images takes two minutes on a core.

A 5x5 stem of stride 3 and three stages (16, 32, 64 channels, one block each): 78,010 parameters, 64 features. The
stride is for speed: `python -m benchmark.performance.gradients` measures it beside stride 2.
"""

from typing import cast

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval


class SmallResNet(nn.Module):
    """Residual network for 28x28 to 32x32 images (n, channels, h, w)."""

    def __init__(
        self, channels: int = 1, num_classes: int = 10, widths: tuple[int, ...] = (16, 32, 64), stride: int = 3
    ):
        super().__init__()
        self.feature_dim = widths[-1]
        self.stem = nn.Sequential(
            nn.Conv2d(channels, widths[0], 5, stride=stride, padding=2, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
        )
        inputs = (widths[0], *widths[:-1])
        self.stages = nn.Sequential(
            *(ResidualBlock(i, o, stride=1 if i == o else 2) for i, o in zip(inputs, widths, strict=True))
        )
        self.classifier = nn.Linear(self.feature_dim, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Penultimate features (n, 64): the last stage averaged over space."""
        return cast(Tensor, self.stages(self.stem(x)).mean(dim=(2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.classifier(self.features(x)))

    def fold_batch_norm(self) -> None:
        """Put batch norm's eval-mode scale and shift into the convolutions; the same function, a fifth faster."""
        convolution, norm, activation = self.stem
        self.stem = nn.Sequential(_folded(convolution, norm), activation)
        for block in self.stages:
            cast(ResidualBlock, block).fold_batch_norm()


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2016, fig. 2)."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm1: nn.Module = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2: nn.Module = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def fold_batch_norm(self) -> None:
        """See SmallResNet.fold_batch_norm."""
        self.conv1, self.norm1 = _folded(self.conv1, self.norm1), nn.Identity()
        self.conv2, self.norm2 = _folded(self.conv2, self.norm2), nn.Identity()
        if isinstance(self.shortcut, nn.Sequential):
            self.shortcut = _folded(*self.shortcut)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))
        return functional.relu(residual + self.shortcut(x))


def _folded(convolution: nn.Module, norm: nn.Module) -> nn.Conv2d:
    return fuse_conv_bn_eval(cast(nn.Conv2d, convolution), cast(nn.BatchNorm2d, norm))
