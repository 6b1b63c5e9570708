"""What an analysis is asked for, looked up and tried before any work and before any file is written."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmark import datasets
from benchmark.config import build_config
from benchmark.datasets import DATASETS, Dataset
from benchmark.errors import RequestError
from benchmark.linearize.controls import STARTS, NoControl, standard_of
from benchmark.linearize.rewrite import BatchNorm, NotLinearizable
from benchmark.linearize.rows import ClassRows, class_rows
from benchmark.resolve import Request, check_model, check_request
from model_zoo.adapter import judged_by
from model_zoo.errors import ModelError
from model_zoo.registry import LoadedModel, load
from results.clustering_effect import cosines
from results.groups import Groups, GroupsError, find_groups, fitted, shipped
from results.printable import has_controls
from results.records import PROTOCOL

ATTACK = "pgd20"
DEFAULT_DATASET = "fashion-mnist"
"""For models without a card."""
CPU = torch.device("cpu")

Rows = Mapping[BatchNorm, ClassRows]


@dataclass(frozen=True)
class Options:
    """As the command line gives them.

    `dataset` None is that of the models' cards, `groups` None those that ship, `standard` None for each model the one
    that `controls.standard_of` finds.
    """

    models: tuple[str, ...]
    dataset: str | None = None
    groups: Path | None = None
    modes: tuple[BatchNorm, ...] = ("drop", "fold")
    samples: int = 1000
    starts: int = STARTS
    seed: int = 0
    norm: str = "linf"
    eps: str = "8/255"
    device: torch.device = CPU
    data_root: Path | None = None
    standard: str | None = None


@dataclass(frozen=True)
class Subject:
    """A model on the CPU as it was trained, batch norm not folded, under the head that is judged; its rows and those of
    the standard model `standard`; `missing` says why there is none."""

    loaded: LoadedModel
    rows: Rows
    standard: str | None = None
    standard_rows: Rows | None = None
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prepared:
    """`attacked` is the request that `bench run` would make of the same models and attack."""

    attacked: Request
    device: torch.device
    groups: Groups
    modes: tuple[BatchNorm, ...]
    starts: int
    subjects: tuple[Subject, ...]

    @property
    def dataset(self) -> Dataset:
        return self.attacked.dataset

    def identity(self) -> dict[str, Any]:
        """All that the numbers depend on, as plain data."""
        return {
            "configuration": self.attacked.config.identity(),
            "weights": {one.loaded.name: one.loaded.sha256 for one in self.subjects},
            "standards": {one.loaded.name: one.standard for one in self.subjects},
            "data_sha256": self.dataset.sha256,
            "classes": list(self.groups.classes),
            "groups": dict(zip(self.groups.classes, (self.groups.names[g] for g in self.groups.labels), strict=True)),
            "bn": list(self.modes),
            "random_initialisations": self.starts,
            "protocol": PROTOCOL,
        }

    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:8]


def prepare(options: Options) -> Prepared:
    """Load and linearise everything that is named; RequestError, one line, for the first thing that does not work."""
    for name in (*options.models, options.dataset, options.standard):
        if name is not None and has_controls(name):
            raise RequestError(f"names cannot hold control characters, got {name!r}")
    if options.starts < 0:
        raise RequestError(f"--starts must be 0 or more, got {options.starts}")
    content = {
        "models": list(options.models),
        "dataset": options.dataset or "",
        "samples": options.samples,
        "threats": [{"norm": options.norm, "eps": options.eps}],
        "attacks": [ATTACK],
        "seed": options.seed,
    }
    build_config({}, content)
    plain = [_loaded(name, fold=False) for name in options.models]
    standard = None if options.standard is None else _loaded(options.standard, fold=False)
    content["dataset"] = _dataset_of(plain) if options.dataset is None else options.dataset
    config = build_config({}, content)
    for one in plain if standard is None else [*plain, standard]:
        _check_classes(one, config.dataset)
    if config.dataset.partition(":")[0] not in (*DATASETS, "npz", "folder"):
        datasets.load(config.dataset, options.data_root)  # says what is known
    try:
        file = find_groups(config.dataset, options.groups)  # before anything is downloaded
        dataset = datasets.load(config.dataset, options.data_root)
        groups = fitted(file, dataset.name, dataset.class_names, dataset.num_classes)
    except GroupsError as error:
        raise RequestError(str(error)) from None
    folded = tuple(_on(one, options.device) for one in plain)
    attacked = check_request(config, dataset, folded, options.device)
    named = plain if standard is None else [*plain, standard]
    rows = {one.name: _with_directions(one, dataset, groups, options.modes) for one in named}
    subjects = tuple(_subject(one, plain, standard, rows, dataset, options.modes) for one in plain)
    return Prepared(attacked, options.device, groups, options.modes, options.starts, subjects)


def rows_of(loaded: LoadedModel, dataset: Dataset, modes: Sequence[BatchNorm]) -> Rows:
    """The rows in each mode; RequestError names the model and the operation that has no linear stand-in."""
    try:
        return {bn: class_rows(judged_by(loaded.model), dataset.x[0], bn) for bn in modes}
    except NotLinearizable as error:
        raise RequestError(f"model {loaded.name} cannot be linearised: {error}") from error


def _with_directions(loaded: LoadedModel, dataset: Dataset, groups: Groups, modes: Sequence[BatchNorm]) -> Rows:
    """The rows of a model that was named; RequestError unless there is one a class and each has a direction."""
    classes = check_model(loaded, dataset, CPU)  # told before its rows, one pass each, are computed
    if classes != len(groups.classes):
        raise RequestError(
            f"groups {groups.source} are for {len(groups.classes)} classes, model {loaded.name} has {classes}"
        )
    rows = rows_of(loaded, dataset, modes)
    for bn, found in rows.items():
        try:
            for centred in (False, True):
                cosines(found.classes, centred)
        except ValueError as error:
            raise RequestError(f"model {loaded.name}, batch norm {bn}: {error}, and has no cosines") from None
    return rows


def _subject(
    loaded: LoadedModel,
    given: Sequence[LoadedModel],
    named: LoadedModel | None,
    rows: dict[str, Rows],
    dataset: Dataset,
    modes: Sequence[BatchNorm],
) -> Subject:
    """A model of `given` beside the standard model that was `named`, or else that can be found."""
    subject = Subject(dataclasses.replace(loaded, model=judged_by(loaded.model)), rows[loaded.name])
    try:
        standard = named or standard_of(loaded, given)
        if standard is None or standard.name == loaded.name:
            return subject
        if standard.name not in rows:
            rows[standard.name] = rows_of(standard, dataset, modes)
        return dataclasses.replace(subject, standard=standard.name, standard_rows=rows[standard.name])
    except (NoControl, RequestError) as error:
        return dataclasses.replace(subject, missing=(str(error),))


def _loaded(name: str, fold: bool) -> LoadedModel:
    try:
        return load(name, "cpu", fold)
    except ModelError as error:
        raise RequestError(str(error)) from error


def _on(plain: LoadedModel, device: torch.device) -> LoadedModel:
    """The model to attack: batch norm folded where it is the zoo's, which is faster and judges the same."""
    if plain.card is not None:
        return load(plain.name, device)
    if device.type == "cpu":
        return plain
    return load(plain.name, device)


def _dataset_of(models: Sequence[LoadedModel]) -> str:
    named = {one.card.dataset: one.name for one in reversed(models) if one.card is not None}
    if len(named) > 1:
        told = ", ".join(f"{model} on {dataset}" for dataset, model in named.items())
        raise RequestError(f"the models were trained on several data sets ({told}); analyse those of one at a time")
    return next(iter(named), DEFAULT_DATASET)


def _check_classes(loaded: LoadedModel, dataset: str) -> None:
    """Other images may be attacked, but not with other classes: rows and groups would not belong together."""
    if loaded.card is None:
        return
    base, trained = (name.partition(":")[0] for name in (dataset, loaded.card.dataset))
    alike = base == trained or any({base, trained} <= set(content.datasets) for _, content in shipped())
    same = alike and datasets.left_out(dataset) == datasets.left_out(loaded.card.dataset)
    if base in DATASETS and not same:
        raise RequestError(
            f"model {loaded.name} was trained on {loaded.card.dataset}, whose classes are not those of {dataset}"
        )
