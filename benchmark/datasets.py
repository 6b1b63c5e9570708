"""Data sets by name: images in [0, 1] as float32, labels, and a checksum of both."""

import difflib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from benchmark.errors import RequestError
from benchmark.image_files import Arrays, Split, read_folder, read_idx_pair, read_npz
from model_zoo.recipes.data import shuffled, training_samples

EMBEDDED = Path(__file__).parent / "data"
DEBIAN = Path("/usr/share/datasets")
DEFAULT_ROOT = Path.home() / ".cache" / "clustrbench" / "data"

_MOST_CLASSES = 100_000
"""Beyond this a label is taken for damage, and not for a class that a model needs an output for."""


@dataclass(frozen=True)
class Dataset:
    """`x` (n, c, h, w) float32 in [0, 1], `y` (n,), `sha256` over both before conversion."""

    name: str
    x: Float[Tensor, "n c h w"]
    y: Int[Tensor, " n"]
    num_classes: int
    sha256: str
    class_names: tuple[str, ...] = ()


_CLOTHES = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


def load(name: str, root: Path | None = None, split: Split = "test") -> Dataset:
    """Load a data set; RequestError, one line, when it is unknown, unreachable or corrupt.

    `name` is one of DATASETS, `npz:FILE` (arrays `images` and `labels`) or `folder:DIR` (one folder of
    images a class). One of DATASETS may be followed by `:validation`, the images that every recipe holds out of the
    training set: what is chosen there is not chosen on the test images; or by `:without=6,8`, its images but for those
    of some classes, the others numbered anew in their order. `root` is where images are looked for and downloaded to.
    """
    base, suffix, part = name.partition(":")
    if absent := left_out(name):
        return _without(base, absent, root, split)
    if base in DATASETS and suffix:
        if part != "validation":
            raise RequestError(
                f"data set {name!r}: known are {base}:validation and {base}:without=CLASS,CLASS..., not both at once"
            )
        if split == "train":
            raise RequestError(f"data set {name!r} is to attack and not to train on: it is held out of every training")
        images, labels = DATASETS[base](root or DEFAULT_ROOT, "train")
        cut = training_samples(len(labels))
        order = shuffled(labels)
        if order is not None and len(images) == len(labels):
            images, labels = images[order], labels[order]
        return from_arrays(name, images[cut:], labels[cut:], _class_names(base))
    if name.startswith("npz:"):
        path = Path(name.removeprefix("npz:"))
        return from_arrays(f"npz:{path.name}", *read_npz(path))
    if name.startswith("folder:"):
        path = Path(name.removeprefix("folder:"))
        images, labels, names = read_folder(path)
        return from_arrays(f"folder:{path.name}", images, labels, names)
    if name not in DATASETS:
        close = difflib.get_close_matches(name, DATASETS)
        hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(DATASETS)}"
        raise RequestError(f"unknown data set {name!r}; {hint} (or npz:FILE, folder:DIR)")
    images, labels = DATASETS[name](root or DEFAULT_ROOT, split)
    return from_arrays(name, images, labels, _class_names(name))


def is_named(name: str) -> bool:
    """Whether training and test images are known: one of DATASETS, as it is or without some classes."""
    base, suffix, part = name.partition(":")
    return base in DATASETS and (not suffix or part.startswith("without="))


def left_out(name: str) -> tuple[int, ...]:
    """The classes that a name leaves out, by their numbers in the whole data set; RequestError for what is no number.

    Those that are left have other numbers than in the whole data set.
    """
    base, _, part = name.partition(":")
    if base not in DATASETS or not part.startswith("without="):
        return ()
    words = part.removeprefix("without=").split(",")
    if not all(word.isascii() and word.isdecimal() and len(word) < 10 for word in words):
        raise RequestError(
            f"data set {name}: expected class numbers, as in without=6,8, and nothing after them (no :validation)"
        )
    return tuple(sorted({int(word) for word in words}))


def _without(base: str, absent: tuple[int, ...], root: Path | None, split: Split) -> Dataset:
    name = f"{base}:without={','.join(map(str, absent))}"
    images, labels = DATASETS[base](root or DEFAULT_ROOT, split)
    classes = int(labels.max()) + 1
    if absent[-1] >= classes or classes - len(absent) < 2:
        raise RequestError(f"data set {name}: {base} has the classes 0 to {classes - 1}, of which two must be left")
    numbers = np.cumsum(~np.isin(np.arange(classes), absent)) - 1
    kept = ~np.isin(labels, absent)
    names = tuple(n for c, n in enumerate(_class_names(base)) if c not in absent)
    return from_arrays(name, images[kept], numbers[labels[kept]], names)


def _class_names(name: str) -> tuple[str, ...]:
    return _CLOTHES if name == "fashion-mnist" else ()


def from_arrays(
    name: str,
    images: NDArray[Any],
    labels: NDArray[Any],
    class_names: tuple[str, ...] = (),
    channels_first: bool = False,
) -> Dataset:
    """Check, checksum and convert raw arrays: uint8 or [0, 1] floats; (n, h, w), (n, h, w, c) or (n, c, h, w).

    `channels_first` says that (n, h, w, c) is out of the question.
    """
    if images.ndim not in (3, 4):
        raise RequestError(f"data set {name}: images must have 3 or 4 dimensions, got shape {images.shape}")
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or (labels < 0).any():
        raise RequestError(f"data set {name}: labels must be non-negative integers of shape (n,)")
    if len(images) != len(labels) or len(images) == 0:
        raise RequestError(f"data set {name}: {len(images)} images and {len(labels)} labels")
    if images.size == 0:
        raise RequestError(f"data set {name}: images have no pixels, their shape is {images.shape}")
    if int(labels.max()) >= _MOST_CLASSES:
        raise RequestError(f"data set {name}: labels must be below {_MOST_CLASSES}, got {int(labels.max())}")
    digest = hashlib.sha256(f"{images.dtype.str}{images.shape}".encode())
    digest.update(np.ascontiguousarray(images).tobytes())
    digest.update(labels.astype("<i8").tobytes())
    if images.dtype == np.uint8:
        x = torch.from_numpy(images.astype(np.float32) / 255.0)
    elif np.issubdtype(images.dtype, np.floating):
        x = torch.from_numpy(images.astype(np.float32))
    else:
        raise RequestError(f"data set {name}: images must be uint8 or float, got {images.dtype}")
    if not (torch.isfinite(x).all() and float(x.min()) >= 0.0 and float(x.max()) <= 1.0):
        raise RequestError(f"data set {name}: images must lie in [0, 1] (or be uint8), got {x.min():g}..{x.max():g}")
    if x.ndim == 3:
        x = x[:, None]
    elif not channels_first and x.shape[1] not in (1, 3) and x.shape[3] in (1, 3):
        x = x.permute(0, 3, 1, 2)
    y = torch.from_numpy(labels.astype(np.int64))
    return Dataset(name, x.contiguous(), y, int(y.max()) + 1, digest.hexdigest(), class_names)


def _fashion_mnist(root: Path, split: Split) -> Arrays:
    folders = [EMBEDDED / "fashion-mnist"] if split == "test" else []
    folders += [root / "FashionMNIST" / "raw", root, DEBIAN / "fashion-mnist"]
    return read_idx_pair(folders, split) or _torchvision("FashionMNIST", root, split)


def _mnist(root: Path, split: Split) -> Arrays:
    return read_idx_pair([root / "MNIST" / "raw"], split) or _torchvision("MNIST", root, split)


def _cifar10_q75(root: Path, split: Split) -> Arrays:
    """CIFAR-10 recompressed as JPEG at quality 75: other pixels than CIFAR-10's, and so another name."""
    path = root / "cifar10-q75" / f"{split}.npz"
    if not path.is_file():
        raise RequestError(
            f"data set cifar10-q75: no file {path}; put its train.npz and test.npz there or name another folder "
            "with --data-root"
        )
    return read_npz(path)


def _digits(root: Path, split: Split) -> Arrays:
    """scikit-learn's 1,797 digits of 8x8 pixels; the last 500 are the test images."""
    from sklearn.datasets import load_digits  # slow to import, and only this needs it

    bunch = load_digits()
    images, labels = (bunch.images / 16.0).astype(np.float32), bunch.target.astype(np.int64)
    part = slice(-500, None) if split == "test" else slice(None, -500)
    return images[part], labels[part]


def _torchvision_set(class_name: str) -> Callable[[Path, Split], Arrays]:
    return lambda root, split: _torchvision(class_name, root, split)


DATASETS: dict[str, Callable[[Path, Split], Arrays]] = {
    "fashion-mnist": _fashion_mnist,
    "mnist": _mnist,
    "cifar10": _torchvision_set("CIFAR10"),
    "cifar100": _torchvision_set("CIFAR100"),
    "svhn": _torchvision_set("SVHN"),
    "cifar10-q75": _cifar10_q75,
    "digits": _digits,
}


def _torchvision(class_name: str, root: Path, split: Split) -> Arrays:
    """Through torchvision, which downloads and checks its archives' checksums."""
    import torchvision.datasets  # slow to import, and only downloads need it

    dataset_class = getattr(torchvision.datasets, class_name)
    selector: dict[str, Any] = {"split": split} if class_name == "SVHN" else {"train": split == "train"}
    try:
        data = dataset_class(root, download=True, **selector)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise RequestError(
            f"data set {class_name}: not under {root} and not to be downloaded ({reason}); "
            "put torchvision's files there or name another folder with --data-root"
        ) from error
    if class_name == "SVHN":
        return np.transpose(data.data, (0, 2, 3, 1)), np.asarray(data.labels, dtype=np.int64)
    return np.asarray(data.data), np.asarray(data.targets, dtype=np.int64)
