"""Trainings as data: what a study trains, on which surrogate, and where its weights lie."""

import dataclasses
import hashlib
import json
import logging
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmark.errors import RequestError
from benchmark.training import train
from model_zoo.recipes.registry import RECIPES, settings_from
from model_zoo.weights import ModelCard, card_path, read_card

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """A recipe on a data set. A setting that is a training stands for the model it leaves."""

    recipe: str
    dataset: str
    settings: tuple[tuple[str, "str | Training"], ...] = ()
    seed: int = 0

    @property
    def about(self) -> dict[str, Any]:
        settings = {name: value if isinstance(value, str) else value.about for name, value in self.settings}
        return {"recipe": self.recipe, "dataset": self.dataset, "seed": self.seed, "settings": settings}

    @property
    def key(self) -> str:
        """A name that can be a file's, unique to what is trained."""
        digest = hashlib.sha256(json.dumps(self.about, sort_keys=True).encode()).hexdigest()
        return f"{self.recipe}-{re.sub('[^a-z0-9.-]', '-', self.dataset)}-{digest[:10]}"

    @property
    def needs(self) -> tuple["Training", ...]:
        """The trainings that its settings name."""
        return tuple(value for _, value in self.settings if isinstance(value, Training))

    def weights(self, folder: Path) -> Path:
        return folder / "trained" / f"{self.key}.safetensors"

    def card(self, folder: Path) -> ModelCard | None:
        """What is known of it, if it is done: the card is written last."""
        path = self.weights(folder)
        return read_card(path) if card_path(path).exists() else None

    def assignments(self, folder: Path) -> list[str]:
        """Settings as `--set` takes them."""
        return [f"{name}={value if isinstance(value, str) else value.weights(folder)}" for name, value in self.settings]

    def command(self, folder: Path) -> str:
        parts = ["bench", "train", self.recipe, "--dataset", self.dataset, "--seed", str(self.seed)]
        parts += [part for assignment in self.assignments(folder) for part in ("--set", assignment)]
        return shlex.join([*parts, "--out", str(self.weights(folder))])


def in_order(trainings: Iterable[Training]) -> Iterator[Training]:
    """Each once, what it needs before it."""
    seen = set[Training]()

    def visit(training: Training) -> Iterator[Training]:
        if training not in seen:
            for needed in training.needs:
                yield from visit(needed)
            seen.add(training)
            yield training

    for training in trainings:
        yield from visit(training)


def carry_out(training: Training, folder: Path, data_root: Path | None, device: torch.device) -> ModelCard:
    """Train what is not there yet; a training that was stopped goes on from its checkpoint.

    RequestError for weights that were trained with other settings, as when a recipe's defaults have changed since.
    """
    card = training.card(folder)
    if card is not None:
        _check(training, card, folder)
        return card
    logger.info("training %s: %s", training.key, training.command(folder))
    return train(
        training.recipe,
        training.dataset,
        training.weights(folder),
        assignments=training.assignments(folder),
        seed=training.seed,
        device=device,
        data_root=data_root,
        command=training.command(folder),
        progress=lambda steps, _: steps,
    )


def _check(training: Training, card: ModelCard, folder: Path) -> None:
    wanted = dataclasses.asdict(settings_from(RECIPES[training.recipe], training.assignments(folder)))
    for name, value in wanted.items():
        if card.settings.get(name) != value:
            raise RequestError(
                f"{training.weights(folder)} was trained with {name}={card.settings.get(name)}, wanted is {value}: "
                "remove it and its card, or give another --out"
            )
