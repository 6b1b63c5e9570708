"""`bench run`: plan, resume, execute, store, and the leaderboard of what is there."""

import functools
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from attacks.registry import resolve as resolve_attack
from benchmark import datasets
from benchmark.cheap_copy import Searched, prepare_search
from benchmark.datasets import Dataset
from benchmark.executors.local import Failure, execute
from benchmark.plan import pending, plan
from benchmark.resolve import Request, choose_device
from benchmark.runner import Outcome, run_unit
from model_zoo.registry import LoadedModel, load
from results.aggregate import standing, verdicts_by_sample
from results.leaderboard import Row, leaderboard
from results.records import UnitRecord, WorkUnit
from results.render import FORMATS
from results.store import Store, write_whole

logger = logging.getLogger(__name__)

Advance = Callable[[], None]


@dataclass(frozen=True)
class Report:
    """The rows of all finished units, and the units that failed."""

    rows: list[Row]
    failures: list[Failure]


@dataclass(frozen=True)
class _Worker:
    """What a worker process needs to carry out any unit; it loads models and data by name, once each."""

    dataset: str
    data_root: Path | None
    device: str
    batch_size: int

    def __call__(self, unit: WorkUnit) -> Outcome:
        device = torch.device(self.device)
        data = _dataset(self.dataset, self.data_root)
        model = _model(unit.model, self.device)
        if (data.sha256, model.sha256) != (unit.data_sha256, unit.weights_sha256):
            raise RuntimeError(
                "the data or the weights are not those the run was planned with "
                "(were files changed, or does the factory return other weights each time?)"
            )
        named = unit.params.get("surrogate")
        surrogate = _model(named, self.device).model if isinstance(named, str) else None
        searched = None
        if resolve_attack(unit.attack).entry.searches:
            searched = _searched(unit.model, self, unit.search)
        return run_unit(unit, data, model, surrogate, device=device, batch_size=self.batch_size, searched=searched)


@functools.cache
def _dataset(name: str, root: Path | None) -> Dataset:
    return datasets.load(name, root)


@functools.cache
def _model(name: str, device: str) -> LoadedModel:
    return load(name, device)


@functools.cache
def _searched(name: str, worker: _Worker, search: str) -> Searched:
    data, model = _dataset(worker.dataset, worker.data_root), _model(name, worker.device).model
    return prepare_search(model, data.x, data.y, torch.device(worker.device), search, worker.batch_size)


def run(request: Request, store: Store, data_root: Path | None, advance: Callable[[int, int], Advance]) -> Report:
    """Carry out the pending units of a request and write the leaderboard into the run's folder.

    `advance(total, done)` is called once and returns what is called after each unit.
    """
    config = request.config
    units = plan(request)
    store.write_plan(units)
    todo = pending(units, store.keys())
    tick = advance(len(units), len(units) - len(todo))
    device = choose_device(config.device)
    worker = _Worker(config.dataset, data_root, device.type, config.batch_size)
    workers = config.workers or (1 if device.type == "cuda" else os.cpu_count() or 1)
    failures = []
    for number, outcome in enumerate(execute(worker, _longest_first(todo), workers), start=1):
        if isinstance(outcome, Failure):
            failures.append(outcome)
            logger.error("unit failed: %s: %s", outcome.unit, outcome.reason)
        else:
            store.write(outcome.record, outcome.adversarial)
            logger.info("unit %d of %d: %s", number, len(todo), _told(outcome.record))
        tick()
    return Report(write_leaderboard(units, store), failures)


def write_leaderboard(units: Sequence[WorkUnit], store: Store) -> list[Row]:
    """leaderboard.md and leaderboard.csv in the run's folder, from the records that are there."""
    rows = leaderboard(units, store.read(units))
    for form in ("md", "csv"):
        write_whole(store.folder / f"leaderboard.{form}", FORMATS[form](rows).encode())
    return rows


def _longest_first(units: Sequence[WorkUnit]) -> list[WorkUnit]:
    """Ensembles before single attacks, so that no core is left alone with a long unit at the end."""
    ranks = ("autoattack-reference", "autoattack-plus", "autoattack")
    return sorted(units, key=lambda unit: ranks.index(unit.attack) if unit.attack in ranks else len(ranks))


def _told(record: UnitRecord) -> str:
    left = standing(verdicts_by_sample([record]))
    return f"{record.unit}: {left} of {len(record.verdicts)} stand ({record.seconds:.1f} s)"
