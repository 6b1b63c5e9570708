"""What is asked of `bench reproduce`, checked before any work."""

import functools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark import datasets
from benchmark.datasets import DATASETS, DEFAULT_ROOT, Dataset
from benchmark.errors import RequestError

Advance = Callable[[int, int], Callable[[], None]]
"""(units, units done before) to what is called after each further one."""


@dataclass(frozen=True)
class Options:
    """`weights` is a folder of RECIPE.safetensors files trained on `dataset`; without one, the zoo's are taken.

    `samples` test images are attacked, from the first on; `seeds` are those of the synthetic experiments.
    """

    seeds: Sequence[int] = (0, 1, 2, 3, 4)
    dataset: str = "fashion-mnist"
    data_root: Path | None = None
    weights: Path | None = None
    samples: int = 1000
    workers: int = 0


@dataclass(frozen=True)
class Report:
    """What is printed; `complete` is False where a unit of work failed."""

    text: str
    complete: bool = True


@dataclass(frozen=True)
class Work:
    """An experiment whose request is checked. `identity` is what its folder belongs to; None: to nothing, it is written
    anew each time."""

    run: Callable[[Path, Advance], Report]
    identity: Mapping[str, Any] | None = None


Experiment = Callable[[Options], Work]


def check(options: Options) -> None:
    """RequestError, one line, for the first option that cannot be meant."""
    if not options.seeds or min(options.seeds) < 0 or len(set(options.seeds)) < len(options.seeds):
        raise RequestError(f"seeds must be different and not negative, got {', '.join(map(str, options.seeds))}")
    if options.samples < 1:
        raise RequestError(f"samples must be at least 1, got {options.samples}")
    if options.workers < 0:
        raise RequestError(f"workers must be at least 0 (0: one a core), got {options.workers}")
    if options.weights is not None and not any(options.weights.glob("*.safetensors")):
        raise RequestError(f"--weights {options.weights} is not a folder with weight files (RECIPE.safetensors)")
    data = images_of(options)
    if isinstance(data, Dataset) and options.samples > len(data.x):
        raise RequestError(f"samples: {data.name} has {len(data.x)} test images, got {options.samples}")


def make_folder(folder: Path) -> None:
    """The folder, made and tried; RequestError where it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RequestError(f"--out {folder} cannot be written: {error.strerror}; choose another folder") from None


def identity(paper: str, item: str, options: Options) -> dict[str, Any]:
    """What the numbers of an item depend on besides weights and data, which each unit of work names itself."""
    return {
        "paper": paper,
        "item": item,
        "dataset": options.dataset,
        "weights": None if options.weights is None else str(options.weights),
        "samples": options.samples,
    }


def images_of(options: Options) -> Dataset | str:
    """The data set to measure on, or why a known one cannot be had; RequestError for an unknown or unreadable one."""
    return _load(options.dataset, options.data_root)


@functools.cache
def _load(name: str, root: Path | None) -> Dataset | str:
    try:
        return datasets.load(name, root)
    except RequestError as error:
        if name in DATASETS:
            return str(error)
        raise


_ARCHIVES = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "svhn": "SVHN"}


@functools.cache
def at_hand(name: str, root: Path | None) -> bool:
    """Whether a paper's data set lies in the data folder already; nothing is downloaded to find out."""
    import torchvision.datasets  # slow to import, and only this needs it

    selector: dict[str, Any] = {"split": "test"} if name == "svhn" else {"train": False}
    try:
        getattr(torchvision.datasets, _ARCHIVES[name])(root or DEFAULT_ROOT, download=False, **selector)
    except Exception:  # absent or damaged, and torchvision raises several kinds
        return False
    return True
