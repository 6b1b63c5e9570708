"""`bench train`: load the data, run a recipe, measure the result, write weights and card."""

import contextlib
import dataclasses
import difflib
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from attacks.hardware import has_bfloat16
from benchmark import datasets, provenance
from benchmark.datasets import Dataset
from benchmark.errors import RequestError
from model_zoo.architectures import ARCHITECTURES
from model_zoo.errors import ModelError
from model_zoo.recipes.check import check_settings
from model_zoo.recipes.data import TrainingData, hold_out
from model_zoo.recipes.groups import write_groups
from model_zoo.recipes.loop import Progress, TrainingRun, read_history
from model_zoo.recipes.registry import RECIPES, settings_from
from model_zoo.recipes.supervised import accuracy
from model_zoo.recipes.warm_start import foreign_start
from model_zoo.registry import LoadedModel, load
from model_zoo.weights import ModelCard, card_path, read_card, save_model
from results.groups import GroupsError, groups_of
from results.printable import printable


def train(
    recipe_name: str,
    dataset: str,
    out: Path,
    *,
    assignments: list[str],
    seed: int,
    device: torch.device,
    data_root: Path | None,
    command: str,
    progress: Progress,
) -> ModelCard:
    """Train and save; checkpoints lie beside `out` and are removed at the end.

    The model sees the test images once, after the last weight is fixed, for the card's clean accuracy. An
    `npz:` or `folder:` data set is training data only, and its card has no clean accuracy. What can be known
    to fail is tried before any work, and raises RequestError, one line.
    """
    if recipe_name not in RECIPES:
        close = difflib.get_close_matches(recipe_name, RECIPES)
        hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(RECIPES)}"
        raise RequestError(f"unknown recipe {recipe_name!r}; {hint}")
    recipe = RECIPES[recipe_name]
    settings = settings_from(recipe, assignments)
    _check_names(settings, out)
    named = getattr(settings, "warm_start", "")
    start, surrogate = _loaded("warm_start", named), _loaded("surrogate", getattr(settings, "surrogate", ""))
    data, test = _load(dataset, data_root)
    if getattr(settings, "groups", None) == "":
        settings = dataclasses.replace(settings, groups=_groups(recipe_name, data))
    _refuse_foreign(out, recipe_name, settings, data, seed)
    try:
        check_settings(settings, data)
    except ValueError as error:
        raise RequestError(f"recipe {recipe_name}: {error}") from error
    foreign = None if start is None else foreign_start(named, start.card, data)
    folder = out.with_suffix(".training")
    result_depends_on = [
        recipe_name,
        dataclasses.asdict(settings),
        data.sha256,
        seed,
        "" if start is None else start.sha256,
        provenance.versions()["torch"],
    ]
    if not datasets.is_named(dataset):  # a file with the images of a named set is not augmented as that is
        result_depends_on.append(data.name)
    if surrogate is not None:
        result_depends_on.append(surrogate.sha256)
    arithmetic = "bfloat16" if has_bfloat16(device) else "float32"  # of `TrainingRun.autocast` and `perturb.ascend`
    result_depends_on.append(f"{device.type}, {arithmetic}")
    identity = hashlib.sha256(json.dumps(result_depends_on).encode()).hexdigest()
    run = TrainingRun(seed, device, folder, identity, progress)
    started = time.monotonic() - _spent(folder)
    torch.manual_seed(seed)
    try:
        model = recipe.train(data, settings, run)
    except ValueError as error:  # a recipe's word on settings or data that do not fit
        raise RequestError(f"recipe {recipe_name}: {' '.join(str(error).split())}") from error
    minutes = (time.monotonic() - started) / 60
    card: dict[str, Any] = {
        "name": out.stem,
        "summary": recipe.summary,
        "recipe": recipe_name,
        "settings": dataclasses.asdict(settings),
        "command": command,
        "trained_head": getattr(settings, "head", None),
        "architecture": getattr(settings, "architecture", None),
        "input_shape": tuple(data.x.shape[1:]),
        "num_classes": data.num_classes,
        "dataset": data.name,
        "data_sha256": data.sha256,
        "seed": seed,
        "minutes": round(minutes, 1),
        "machine": f"{provenance.machine(device)}, {arithmetic}",
        "versions": provenance.versions(),
        "validation_accuracy": accuracy(model, data.x_val, data.y_val),
        "notes": (*([] if foreign is None else [foreign]), *run.notes),
    }
    if test is not None:
        card |= {"clean_accuracy": accuracy(model, test.x, test.y), "clean_samples": len(test.x)}
    written = save_model(out, model, card)
    for checkpoint in folder.glob("*.checkpoint.safetensors"):
        checkpoint.unlink()
    if folder.exists():
        folder.rmdir()
    return written


def _loaded(setting: str, name: str) -> LoadedModel | None:
    """The model that a setting names, if it names one."""
    try:
        return load(name) if name else None
    except ModelError as error:
        raise RequestError(f"{setting}: {error}") from error


def _load(name: str, root: Path | None) -> tuple[TrainingData, Dataset | None]:
    """What is trained on, and the test images of a data set that has some: a missing file is told at once."""
    source = datasets.load(name, root, "train")
    try:
        data = hold_out(source.name, source.sha256, source.num_classes, source.x, source.y)
    except ValueError as error:
        raise RequestError(str(error)) from None
    if not datasets.is_named(name):
        return data, None
    test = datasets.load(name, root, "test")
    shape, shape_of_test = tuple(source.x.shape[1:]), tuple(test.x.shape[1:])
    if shape != shape_of_test or test.num_classes > source.num_classes:
        raise RequestError(
            f"data set {name}: training images have shape {shape} and {source.num_classes} classes, "
            f"test images {shape_of_test} and {test.num_classes}"
        )
    return data, test


def _groups(recipe: str, data: TrainingData) -> str:
    """The groups that ship for the data set, its classes numbered as they are in the training."""
    absent = datasets.left_out(data.name)
    try:
        known = groups_of(data.name, (), data.num_classes + len(absent))
    except GroupsError:
        raise RequestError(
            f"recipe {recipe}: no groups of classes ship for data set {data.name}; give them by --set groups=0,2,3/1,4"
        ) from None
    return write_groups([group for number, group in enumerate(known.labels) if number not in absent])


def _check_names(settings: Any, out: Path) -> None:
    """Refuse what is wrong whatever the data are: the architecture's name, the weight file's."""
    architecture = getattr(settings, "architecture", None)
    if architecture is not None and architecture not in ARCHITECTURES:
        raise RequestError(f"unknown architecture {architecture!r}; known: {', '.join(ARCHITECTURES)}")
    if out.suffix != ".safetensors":
        raise RequestError(f"--out must end in .safetensors, got {str(out)!r}")
    folder = next(part for part in out.absolute().parents if part.exists())
    if out.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise RequestError(f"--out {out} cannot be written: it is a folder, or {folder} is none that may be written to")


def _refuse_foreign(out: Path, recipe: str, settings: Any, data: TrainingData, seed: int) -> None:
    """Weights that are there are trained again only by what trained them; a kill may leave some without a card."""
    if not out.exists() or (not card_path(out).exists() and out.with_suffix(".training").exists()):
        return
    try:
        card = read_card(out)
    except ModelError:
        raise RequestError(f"--out {out} exists and is no training of {recipe}; choose another --out") from None
    trained = (card.recipe, card.dataset, card.data_sha256, card.seed)
    if trained != (recipe, data.name, data.sha256, seed) or card.settings != dataclasses.asdict(settings):
        raise RequestError(f"--out {out} holds another training ({printable(card.command)}); choose another --out")


def _spent(folder: Path) -> float:
    """Seconds that earlier, interrupted runs of this training have logged."""
    total = 0.0
    for checkpoint in folder.glob("*.checkpoint.safetensors"):
        with contextlib.suppress(SafetensorError):  # the recipe refuses a corrupt one
            total += sum(epoch["seconds"] for epoch in read_history(checkpoint))
    return total
