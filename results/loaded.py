"""Folders of runs, read for a report: plans, records, rows and curves, checked against one another."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from results.curves import Curve, curves
from results.leaderboard import Row, check_sound, leaderboard
from results.planned import check_plan
from results.probed import read_diagnosis
from results.records import UnitRecord, WorkUnit
from results.store import Store, StoreError


@dataclass(frozen=True)
class LoadedRun:
    """A run as its records tell it. `dataset` is what its configuration calls the data set, such as npz:FILE."""

    store: Store
    dataset: str
    units: list[WorkUnit]
    records: list[UnitRecord]
    rows: list[Row]
    curves: list[Curve]

    @property
    def name(self) -> str:
        return self.store.folder.resolve().name

    @property
    def complete(self) -> bool:
        return len(self.records) == len(self.units)


def load_runs(folders: Sequence[Path]) -> list[LoadedRun]:
    """The runs of a report.

    StoreError, one line, for a folder that is no run or given twice, and for runs that no report may mix; UnsoundError
    where a sample that one run breaks is certified in another.
    """
    if len({folder.resolve() for folder in folders}) != len(folders):
        raise StoreError("a run is given twice")
    runs = [_load(folder) for folder in folders]
    protocols = sorted({unit.protocol for run in runs for unit in run.units})
    if len(protocols) > 1:
        raise StoreError(f"a report cannot mix protocols {', '.join(map(str, protocols))}")
    check_sound([record for run in runs for record in run.records])
    return runs


def _load(folder: Path) -> LoadedRun:
    store = Store(folder)
    units = store.read_plan()
    if not units:
        raise StoreError(f"{folder / 'plan.json'} has no units")
    records = store.read(units)
    probed = read_diagnosis(folder).findings
    try:
        rows = leaderboard(units, records, probed)
    except ValueError as error:
        raise StoreError(f"{folder}: {error}") from None
    check_plan(folder, units)
    radii = curves((record for record in records if record.unit.proves), lambda record: {})  # without eq. 3
    return LoadedRun(store, store.dataset(units[0]), units, records, rows, radii)
