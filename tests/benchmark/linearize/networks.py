"""Small networks whose linear part is known."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional


class Function(nn.Module):
    """A forward of its own; `parts` are modules that it uses."""

    def __init__(self, function: Callable[..., Tensor], *parts: nn.Module):
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.parts)


def random_batch_norm(channels: int) -> nn.BatchNorm2d:
    """With statistics, scale and shift that are not those of a fresh one."""
    norm = nn.BatchNorm2d(channels)
    for tensor in (norm.running_var, norm.weight):
        nn.init.uniform_(cast(Tensor, tensor), 0.5, 2.0)
    for tensor in (norm.running_mean, norm.bias):
        nn.init.normal_(cast(Tensor, tensor))
    return norm


class Mixed(nn.Module):
    """Convolution, batch norm, functional and in-place ReLUs, padded max pooling, a residual sum, a concatenation,
    dropout and a linear layer, for images (n, 2, 6, 5)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv2d(2, 3, 3, padding=1), random_batch_norm(3)
        self.pool = nn.MaxPool2d(3, 2, padding=1)
        self.inner, self.side = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 2, 1)
        self.dropout, self.last = nn.Dropout(0.5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu_(self.norm(self.first(x)))
        x = self.pool(x)
        x = torch.relu(x + functional.gelu(self.inner(x)))
        x = torch.cat([x, functional.leaky_relu(self.side(x), 0.2)], dim=1)
        return cast(Tensor, self.last(self.dropout(x.mean(dim=(2, 3)))))
