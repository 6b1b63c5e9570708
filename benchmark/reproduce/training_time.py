"""Training times of a paper as ratios: every recipe's epoch timed side by side in one run."""

import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from benchmark.datasets import Dataset
from benchmark.reproduce.request import Advance
from benchmark.threads import one_thread
from model_zoo.recipes.data import TrainingData
from model_zoo.recipes.loop import TrainingRun
from model_zoo.recipes.registry import RECIPES

WARM_START = "nominal"


@dataclass(frozen=True)
class Settings:
    """`images` are trained on, in each of `rounds`; the fastest round counts. `full_epoch`: images of a real epoch."""

    images: int = 1440
    rounds: int = 3
    full_epoch: int = 55_000


@dataclass(frozen=True)
class Timed:
    """Seconds of an epoch of `full_epoch` images, epochs, and whether cross entropy came first."""

    seconds: float
    epochs: int
    warm_start: bool


class _Enough(Exception):
    """Ends a training whose epoch has been timed."""


class _Stopwatch:
    """A training's `progress` that notes when an epoch of the recipe begins, and ends the training at the second.

    From one beginning to the next there lies all that an epoch costs: its steps, the clustering of all features, and
    the validation. Processor time is read, which other programs on the machine disturb less. The
    steps of another stage, a warm start, are left out, since `nominal` is timed by itself.
    """

    def __init__(self, stage: str):
        self.stage, self.began, self.others = stage, list[float](), set[str]()

    def __call__(self, steps: Iterable[Any], description: str) -> Iterable[Any]:
        stage = description.rpartition(" ")[0]
        if stage != self.stage:
            self.others.add(stage)
            return ()
        self.began.append(time.process_time())
        if len(self.began) == 2:
            raise _Enough
        return steps


@one_thread()
def timed(recipes: Sequence[str], data: Dataset, settings: Settings, advance: Advance) -> dict[str, Timed]:
    """Each recipe in turn, round by round; with a warm start, `nominal` is timed too."""
    named = list(dict.fromkeys((WARM_START, *recipes)))
    tick = advance(settings.rounds * len(named), 0)
    taken = training_data(data, settings.images)
    seconds: dict[str, float] = {}
    warm: dict[str, bool] = {}
    with threadpool_limits(1):  # of k-means, which does not ask torch
        for _, name in itertools.product(range(settings.rounds), named):
            spent, others = _epoch_seconds(name, taken)
            seconds[name] = min(spent, seconds.get(name, spent))
            warm[name] = WARM_START in others
            tick()
    scale = settings.full_epoch / len(taken.x)
    return {name: Timed(scale * seconds[name], RECIPES[name].settings().epochs, warm[name]) for name in named}


def _epoch_seconds(name: str, data: TrainingData) -> tuple[float, set[str]]:
    watch = _Stopwatch(name)
    try:
        RECIPES[name].train(data, RECIPES[name].settings(), TrainingRun(0, torch.device("cpu"), None, "", watch))
    except _Enough:
        return watch.began[1] - watch.began[0], watch.others
    raise RuntimeError(f"recipe {name} does not show two epochs of a stage {name!r}")


def training_data(data: Dataset, images: int) -> TrainingData:
    """Images to time on: the first of the data set, and an eleventh as many for validation, as in a real training."""
    held = max(1, min(images, len(data.x) - 1) // 11)
    x, y = data.x[: images + held], data.y[: images + held]
    return TrainingData(data.name, data.sha256, data.num_classes, x[:-held], y[:-held], x[-held:], y[-held:])


def minutes(measured: dict[str, Timed], recipes: Sequence[str]) -> dict[str, float]:
    """Minutes of a whole training by each recipe, its warm start included."""
    return {name: sum(_parts(measured, name)) / 60 for name in recipes}


def _parts(measured: dict[str, Timed], name: str) -> Iterator[float]:
    yield measured[name].epochs * measured[name].seconds
    if measured[name].warm_start:
        yield measured[WARM_START].epochs * measured[WARM_START].seconds
