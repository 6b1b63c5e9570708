"""What a recipe is given to train on."""

import dataclasses
import itertools
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

VALIDATION_SAMPLES = 5000
"""The last training images are held out, in every recipe: all choices are made on them."""

_SHOWN = 10
"""Absent classes that are named; a label far out of range leaves millions of them."""


@dataclass(frozen=True)
class TrainingData:
    """Images in [0, 1] as float32 (n, c, h, w) and labels (n,), the validation images held out."""

    name: str
    sha256: str
    num_classes: int
    x: Float[Tensor, "n c h w"]
    y: Int[Tensor, " n"]
    x_val: Float[Tensor, "m c h w"]
    y_val: Int[Tensor, " m"]

    @property
    def mean(self) -> list[float]:
        return [float(v) for v in self.x.mean(dim=(0, 2, 3))]

    @property
    def std(self) -> list[float]:
        return [float(v) for v in self.x.std(dim=(0, 2, 3)).clamp_min(1e-6)]

    def on(self, device: torch.device) -> "TrainingData":
        """The same data on a device."""
        if device.type == "cpu":
            return self
        tensors = {name: getattr(self, name).to(device) for name in ("x", "y", "x_val", "y_val")}
        return dataclasses.replace(self, **tensors)


def training_samples(n: int) -> int:
    """How many of n images are trained on; the rest, the last ones and at most a fifth, is held out."""
    return n - min(VALIDATION_SAMPLES, n // 5)


def shuffled(y: Int[Tensor, " n"] | NDArray[Any]) -> Int[Tensor, " n"] | None:
    """The order in which images that come class by class, as those of a folder do, are split; None: as they come."""
    if not bool((y[1:] >= y[:-1]).all()):
        return None
    return torch.randperm(len(y), generator=torch.Generator().manual_seed(0))


def hold_out(name: str, sha256: str, num_classes: int, x: Tensor, y: Tensor) -> TrainingData:
    """Split off the last images (at most a fifth of them) for validation.

    Images that come class by class are `shuffled` first. Raises ValueError where that leaves none to validate on, a
    single class, or a class without a training image.
    """
    cut = training_samples(len(x))
    if cut == len(x):
        raise ValueError(f"data set {name} has {len(x)} images; at least 5 are needed, a fifth to validate on")
    if num_classes < 2:
        raise ValueError(f"data set {name} has a single class; a classifier needs at least two")
    order = shuffled(y)
    if order is not None:
        x, y = x[order], y[order]
    present = set(y[:cut].unique().tolist())
    absent = list(itertools.islice((c for c in range(num_classes) if c not in present), _SHOWN))
    if absent:
        count = num_classes - len(present)
        shown = ", ".join(map(str, absent)) + (f" ... ({count} classes)" if count > _SHOWN else "")
        raise ValueError(f"data set {name}: no training image of class {shown}")
    return TrainingData(name, sha256, num_classes, x[:cut], y[:cut], x[cut:], y[cut:])


_MIRRORED = ("fashion-mnist", "cifar10", "cifar10-q75", "cifar100")
_SHIFT = {"fashion-mnist": 2, "mnist": 2, "cifar10": 4, "cifar10-q75": 4, "cifar100": 4}


def augment(x: Float[Tensor, "n c h w"], dataset: str, generator: torch.Generator) -> Float[Tensor, "n c h w"]:
    """Random shifts (zero padding), and mirror images where left and right mean nothing.

    4 pixels on 32x32 images as in ClusTR appendix D, 2 on 28x28; none for SVHN and unknown data sets. What follows
    a colon in the name says which images of a data set are meant, not of what kind they are.
    """
    n, _, h, w = x.shape
    dataset = dataset.split(":")[0]
    if dataset in _MIRRORED:
        flip = torch.rand(n, generator=generator).to(x.device, non_blocking=True) < 0.5
        x = torch.where(flip[:, None, None, None], x.flip(3), x)
    shift = _SHIFT.get(dataset, 0)
    if shift == 0:
        return x
    padded = torch.nn.functional.pad(x, (shift,) * 4)
    rows = torch.randint(2 * shift + 1, (n, 1), generator=generator) + torch.arange(h)
    columns = torch.randint(2 * shift + 1, (n, 1), generator=generator) + torch.arange(w)
    sample = torch.arange(n)[:, None, None]
    places = (part.to(x.device, non_blocking=True) for part in (sample, rows[:, :, None], columns[:, None, :]))
    picked = padded[next(places), :, next(places), next(places)]
    return picked.permute(0, 3, 1, 2).contiguous()
