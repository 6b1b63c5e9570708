"""`bench train`: load the data, run a recipe, measure the result, write weights and card."""

import dataclasses
import difflib
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import torch

from benchmark import datasets, provenance
from benchmark.errors import RequestError
from model_zoo.errors import ModelError
from model_zoo.recipes.data import hold_out
from model_zoo.recipes.loop import Progress, TrainingRun
from model_zoo.recipes.registry import RECIPES, settings_from
from model_zoo.recipes.supervised import accuracy
from model_zoo.registry import load
from model_zoo.weights import ModelCard, save_model


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

    The test images are seen once, after the last weight is fixed, for the card's clean accuracy. An
    `npz:` or `folder:` data set is training data only, and its card has no clean accuracy.
    """
    if recipe_name not in RECIPES:
        close = difflib.get_close_matches(recipe_name, RECIPES)
        hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(RECIPES)}"
        raise RequestError(f"unknown recipe {recipe_name!r}; {hint}")
    recipe = RECIPES[recipe_name]
    settings = settings_from(recipe, assignments)
    if out.suffix != ".safetensors":
        raise RequestError(f"--out must end in .safetensors, got {str(out)!r}")
    source = datasets.load(dataset, data_root, "train")
    try:
        data = hold_out(source.name, source.sha256, source.num_classes, source.x, source.y)
    except ValueError as error:
        raise RequestError(str(error)) from None
    named = getattr(settings, "warm_start", "")
    try:
        start = load(named).sha256 if named else ""
    except ModelError as error:
        raise RequestError(f"warm_start: {error}") from error
    folder = out.with_suffix(".training")
    identity = json.dumps(
        [recipe_name, dataclasses.asdict(settings), source.sha256, seed, start, provenance.versions()["torch"]]
    )
    run = TrainingRun(seed, device, folder, hashlib.sha256(identity.encode()).hexdigest(), progress)
    started = time.monotonic() - _spent(folder)
    torch.manual_seed(seed)
    try:
        model = recipe.train(data, settings, run)
    except ValueError as error:  # a recipe's word on settings or data that do not fit
        raise RequestError(f"recipe {recipe_name}: {error}") from error
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
        "dataset": source.name,
        "data_sha256": source.sha256,
        "seed": seed,
        "minutes": round(minutes, 1),
        "machine": provenance.machine(device),
        "versions": provenance.versions(),
        "validation_accuracy": accuracy(model, data.x_val, data.y_val),
    }
    if dataset in datasets.DATASETS:
        test = datasets.load(dataset, data_root, "test")
        card |= {"clean_accuracy": accuracy(model, test.x, test.y), "clean_samples": len(test.x)}
    written = save_model(out, model, card)
    for checkpoint in folder.glob("*.checkpoint.safetensors"):
        checkpoint.unlink()
    if folder.exists():
        folder.rmdir()
    return written


def _spent(folder: Path) -> float:
    """Seconds that earlier, interrupted runs of this training have logged."""
    from safetensors import safe_open

    total = 0.0
    for checkpoint in folder.glob("*.checkpoint.safetensors"):
        with safe_open(checkpoint, framework="pt") as file:
            total += sum(epoch["seconds"] for epoch in json.loads((file.metadata() or {})["history"]))
    return total
