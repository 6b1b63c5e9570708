"""Runs read for a report: what must not be mixed is refused in one line."""

from pathlib import Path

import pytest

from results.aggregate import UnsoundError
from results.loaded import load_runs
from results.store import Store, StoreError
from tests.results.builders import unit
from tests.results.run_folders import write_run

CELLS = {("net", "clean"): "SSSM", ("net", "pgd20"): "SBBM"}


def test_a_run_is_its_plan_records_and_rows(tmp_path: Path) -> None:
    (run,) = load_runs([write_run(tmp_path / "run", CELLS, configured="npz:/data/mine.npz")])
    assert (run.name, run.dataset, run.complete) == ("run", "npz:/data/mine.npz", True)
    (row,) = run.rows
    assert row.robust_upper is not None
    assert (row.robust_upper.value, len(run.units), len(run.records)) == (0.25, 2, 2)


def test_an_incomplete_run_is_read_and_says_so(tmp_path: Path) -> None:
    (run,) = load_runs([write_run(tmp_path / "run", CELLS, left_out=(("net", "pgd20"),))])
    assert not run.complete
    assert run.rows[0].robust_upper is None


@pytest.mark.parametrize("form", ["one run", "two runs"])
def test_protocols_are_not_mixed(tmp_path: Path, form: str) -> None:
    folders = [write_run(tmp_path / "new", CELLS)]
    if form == "two runs":
        folders.append(write_run(tmp_path / "old", CELLS, protocol=2))
    else:
        Store(folders[0]).write_plan([unit(), unit(protocol=2)])
    with pytest.raises(StoreError, match="cannot mix protocols 2, 3") as told:
        load_runs(folders)
    assert "\n" not in str(told.value)


def test_a_run_is_not_given_twice(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", CELLS)
    with pytest.raises(StoreError, match="twice"):
        load_runs([folder, tmp_path / "run" / ".." / "run"])


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not a run folder"):
        load_runs([tmp_path])
    folder = write_run(tmp_path / "run", CELLS)
    Store(folder).write_plan([])
    with pytest.raises(StoreError, match="no units"):
        load_runs([folder])


def test_runs_that_contradict_one_another_are_unsound(tmp_path: Path) -> None:
    broken = write_run(tmp_path / "a", CELLS)
    certified = write_run(tmp_path / "b", {("net", "exact"): "CCCM"}, proves=("exact",))
    with pytest.raises(UnsoundError, match="sample 1 is both broken and certified"):
        load_runs([broken, certified])
