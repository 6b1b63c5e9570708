"""`bench run`: plan, resume, execute, store, and the leaderboard of what is there."""

import dataclasses
import functools
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from attacks.registry import resolve as resolve_attack
from benchmark import datasets
from benchmark.cheap_copy import Searched, prepare_search
from benchmark.config import RunConfig
from benchmark.datasets import Dataset
from benchmark.diagnostics import model_flags
from benchmark.executors.local import Failure, execute
from benchmark.plan import pending, plan
from benchmark.resolve import Request, choose_device
from benchmark.runner import Outcome, run_unit
from model_zoo.registry import LoadedModel, load
from results.aggregate import standing, verdicts_by_sample
from results.checksums import remove_sums, write_sums
from results.curves import Curve, curves, radii_csv
from results.leaderboard import Row, check_sound, classifier_of, leaderboard
from results.records import UnitRecord, WorkUnit, certified_samples
from results.render import FORMATS
from results.store import Store, write_whole

logger = logging.getLogger(__name__)

Advance = Callable[[], None]


@dataclass(frozen=True)
class Report:
    """The rows of all finished units, the units that failed, and the curves of verifiers that left radii."""

    rows: list[Row]
    failures: list[Failure]
    curves: list[Curve]


@dataclass(frozen=True)
class Worker:
    """What a worker process needs to carry out any unit; it loads models and data by name, once each."""

    dataset: str
    data_root: Path | None
    device: str
    batch_size: int
    certified: "Certified" = field(default_factory=lambda: Certified({}))

    def __call__(self, unit: WorkUnit) -> Outcome:
        device = torch.device(self.device)
        data = _dataset(self.dataset, self.data_root)
        model = _model(unit.model, self.device)
        if (data.sha256, model.sha256) != (unit.data_sha256, unit.weights_sha256):
            raise RuntimeError(
                "the data or the weights are not those the run was planned with "
                "(were files changed, or does the factory return other weights each time?)"
            )
        told = _flags(unit.model, model.sha256, self.dataset, self.data_root, self.device)
        model = dataclasses.replace(model, flags=(*model.flags, *told), checked=True)
        named = unit.params.get("surrogate")
        surrogate = _model(named, self.device).model if isinstance(named, str) else None
        searched = None
        if resolve_attack(unit.attack).entry.searches:
            searched = _searched(unit.model, unit.search, self.dataset, self.data_root, self.device, self.batch_size)
        return run_unit(
            unit,
            data,
            model,
            surrogate,
            device=device,
            batch_size=self.batch_size,
            searched=searched,
            certified=self.certified.by(unit),
        )


@dataclass(frozen=True)
class Certified:
    """The samples that verifiers' units certify, by the units' keys."""

    samples: Mapping[str, frozenset[int]]

    def by(self, unit: WorkUnit) -> frozenset[int]:
        """Those that a unit relies on; RuntimeError where a verifier's unit is not done."""
        missing = [key for key in unit.certificates if key not in self.samples]
        if missing:
            raise RuntimeError("a verifier's unit that says which samples to leave alone failed")
        return frozenset().union(*(self.samples[key] for key in unit.certificates))


@functools.cache
def _dataset(name: str, root: Path | None) -> Dataset:
    return datasets.load(name, root)


@functools.cache
def _model(name: str, device: str) -> LoadedModel:
    return load(name, device)


@functools.cache
def _flags(name: str, sha256: str, dataset: str, root: Path | None, device: str) -> tuple[str, ...]:
    """What the checks of a model see, once a process; `sha256` tells apart models of one name."""
    del sha256
    return tuple(model_flags(_model(name, device), _dataset(dataset, root), torch.device(device)))


@functools.cache
def _searched(name: str, search: str, dataset: str, root: Path | None, device: str, batch_size: int) -> Searched:
    data, model = _dataset(dataset, root), _model(name, device).model
    return prepare_search(model, data.x, data.y, torch.device(device), search, batch_size)


def run(request: Request, store: Store, data_root: Path | None, advance: Callable[[int, int], Advance]) -> Report:
    """Carry out what a request asks for: its plan, by `run_units`."""
    return run_units(plan(request), request.config, store, data_root, advance)


def run_units(
    units: Sequence[WorkUnit],
    config: RunConfig,
    store: Store,
    data_root: Path | None,
    advance: Callable[[int, int], Advance],
) -> Report:
    """Carry out the pending units, verifiers first, and write leaderboard and checksums into the run's folder.

    Of `config` the data set, device, workers and batch size count. `advance(total, done)` is called once and returns
    what is called after each unit. Raises UnsoundError, with both pieces of evidence, as soon as a sample is broken
    and certified, also by records that were there before.
    """
    remove_sums(store.folder)
    store.write_plan(units)
    records = store.read(units)
    check_sound(records)
    todo = pending(units, [record.key for record in records])
    tick = advance(len(units), len(units) - len(todo))
    device = choose_device(config.device)
    workers = config.workers or (1 if device.type == "cuda" else os.cpu_count() or 1)
    failures, number = [], 0
    relying = [unit for unit in todo if unit.certificates]
    for phase in ([unit for unit in todo if not unit.certificates], relying):
        certified = Certified({record.key: certified_samples(record) for record in records if record.unit.proves})
        worker = Worker(config.dataset, data_root, device.type, config.batch_size, certified)
        for outcome in execute(worker, _longest_first(phase), workers):
            number += 1
            if isinstance(outcome, Failure):
                failures.append(outcome)
                logger.error("unit failed: %s: %s", outcome.unit, outcome.reason)
            else:
                store.write(outcome.record, outcome.adversarial, outcome.proofs)
                logger.info("unit %d of %d: %s", number, len(todo), _told(outcome.record))
                records.append(outcome.record)
                about = classifier_of(outcome.record.unit)
                check_sound([record for record in records if classifier_of(record.unit) == about])
            tick()
    report = Report(write_leaderboard(units, store), failures, write_radii(units, store))
    write_sums(store.folder)
    return report


def write_leaderboard(units: Sequence[WorkUnit], store: Store) -> list[Row]:
    """leaderboard.md and leaderboard.csv in the run's folder, from the records that are there."""
    rows = leaderboard(units, store.read(units))
    for form in ("md", "csv"):
        write_whole(store.folder / f"leaderboard.{form}", FORMATS[form](rows).encode())
    return rows


def write_radii(units: Sequence[WorkUnit], store: Store) -> list[Curve]:
    """radii.csv in the run's folder, where a verifier left radii."""
    found = curves(store.read(unit for unit in units if unit.proves), store.read_proofs)
    if found:
        write_whole(store.folder / "radii.csv", radii_csv(found).encode())
    return found


def _longest_first(units: Sequence[WorkUnit]) -> list[WorkUnit]:
    """Verifiers, then ensembles before single attacks, so that no core is left alone with a long unit at the end."""
    ranks = ("autoattack-reference", "autoattack-plus", "autoattack")
    return sorted(units, key=lambda u: -1 if u.proves else ranks.index(u.attack) if u.attack in ranks else len(ranks))


def _told(record: UnitRecord) -> str:
    left = standing(verdicts_by_sample([record]))
    return f"{record.unit}: {left} of {len(record.verdicts)} stand ({record.seconds:.1f} s)"
