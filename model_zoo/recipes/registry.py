"""Recipes by name: RECIPES maps a training method to its file."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from torch import nn

from model_zoo.errors import ModelError
from model_zoo.recipes import (
    clustr,
    clustr_1lip,
    clustr_adv,
    clustr_at,
    clustr_ce_qtrades,
    clustr_ce_qtrades_mse,
    clustr_e_qtrades,
    clustr_e_qtrades_mse,
    clustr_fuzzy,
    clustr_grouped,
    clustr_learned_map,
    clustr_qtrades,
    clustr_qtrades_mse,
    clustr_trades_1,
    clustr_trades_2,
    clustr_triplet,
    free_at,
    kmeans,
    kmeans_adv,
    magnet,
    nearest_neighbor,
    nominal,
    nominal_kmeans_head,
    pgd_at,
    pgd_at_grouped,
    prototype_margin,
    qtrades,
    trades,
)
from model_zoo.recipes.data import TrainingData
from model_zoo.recipes.loop import TrainingRun


@dataclass(frozen=True)
class Recipe:
    """A training method: its settings class and its function (data, settings, run) -> model."""

    name: str
    summary: str
    settings: type[Any]
    train: Callable[[TrainingData, Any, TrainingRun], nn.Module]


def _recipe(name: str, module: ModuleType) -> Recipe:
    first_line = (module.__doc__ or "").strip().splitlines()[0]
    summary = first_line.split(": ", 1)[1].rstrip(".")
    return Recipe(name, summary, module.Settings, module.train)


RECIPES: dict[str, Recipe] = {
    name: _recipe(name, module)
    for name, module in {
        "kmeans": kmeans,
        "kmeans-adv": kmeans_adv,
        "nearest-neighbor": nearest_neighbor,
        "prototype-margin": prototype_margin,
        "nominal": nominal,
        "nominal-kmeans-head": nominal_kmeans_head,
        "pgd-at": pgd_at,
        "pgd-at-grouped": pgd_at_grouped,
        "clustr": clustr,
        "clustr-qtrades": clustr_qtrades,
        "clustr-1lip": clustr_1lip,
        "free-at": free_at,
        "trades": trades,
        "qtrades": qtrades,
        "magnet": magnet,
        "clustr-qtrades-mse": clustr_qtrades_mse,
        "clustr-ce-qtrades": clustr_ce_qtrades,
        "clustr-ce-qtrades-mse": clustr_ce_qtrades_mse,
        "clustr-e-qtrades": clustr_e_qtrades,
        "clustr-e-qtrades-mse": clustr_e_qtrades_mse,
        "clustr-trades-1": clustr_trades_1,
        "clustr-trades-2": clustr_trades_2,
        "clustr-adv": clustr_adv,
        "clustr-at": clustr_at,
        "clustr-grouped": clustr_grouped,
        "clustr-fuzzy": clustr_fuzzy,
        "clustr-learned-map": clustr_learned_map,
        "clustr-triplet": clustr_triplet,
    }.items()
}


def settings_from(recipe: Recipe, assignments: list[str]) -> Any:
    """The recipe's settings with `key=value` strings applied; ModelError names a key or value it refuses.

    Numbers may be written as fractions, like 8/255.
    """
    fields = {field.name: field for field in dataclasses.fields(recipe.settings)}
    changes: dict[str, Any] = {}
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator or key not in fields:
            raise ModelError(
                f"recipe {recipe.name}: cannot set {assignment!r}; accepted: {', '.join(f'{k}=...' for k in fields)}"
            )
        changes[key] = _parse(recipe.name, key, text, getattr(recipe.settings(), key))
    return recipe.settings(**changes)


def _parse(recipe: str, key: str, text: str, default: Any) -> Any:
    """A value of the default's type; a whole number may be 0 only where that is the default."""
    if isinstance(default, str):
        return text
    if isinstance(default, bool):
        if text not in ("0", "1"):
            raise ModelError(f"recipe {recipe}: {key} must be 0 or 1, got {text!r}")
        return text == "1"
    numerator, _, denominator = text.partition("/")
    try:
        value = float(numerator) / float(denominator) if denominator else float(numerator)
    except (ValueError, ZeroDivisionError):
        value = math.nan
    if isinstance(default, int):
        least = min(default, 1)
        if not math.isfinite(value) or value != int(value) or value < least:
            raise ModelError(f"recipe {recipe}: {key} must be a whole number of at least {least}, got {text!r}")
        return int(value)
    if not 0 <= value < math.inf:
        raise ModelError(f"recipe {recipe}: {key} must be a number or fraction of at least 0, got {text!r}")
    return value
