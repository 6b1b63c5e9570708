"""A plan that does not say all that was run: named in one line by whatever reads it, and an honest one let through."""

from pathlib import Path

import pytest

from results.checksums import write_sums
from results.loaded import load_runs
from results.planned import check_plan
from results.records import WorkUnit
from results.store import Store, StoreError
from tests.results.builders import unit
from tests.results.run_folders import write_run

WHOLE = [unit(attack=attack, start=start, stop=start + 4) for attack in ("clean", "pgd20") for start in (0, 4)]


def test_a_whole_plan_passes_with_and_without_checksums(tmp_path: Path) -> None:
    check_plan(tmp_path, WHOLE)
    folder = write_run(tmp_path / "run", {("net", "clean"): "SS", ("net", "pgd20"): "SB"})
    write_sums(folder)
    check_plan(folder, Store(folder).read_plan())


@pytest.mark.parametrize("left", range(len(WHOLE)))
def test_a_unit_left_out_is_named_by_its_attack(tmp_path: Path, left: int) -> None:
    gone = WHOLE[left]
    with pytest.raises(StoreError, match=f"leaves out 4 of 8 samples of net under {gone.attack}; bench verify"):
        check_plan(tmp_path, [one for one in WHOLE if one is not gone])


def test_a_unit_named_twice_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="names a unit twice"):
        check_plan(tmp_path, [*WHOLE, WHOLE[0]])


def test_a_plan_changed_since_the_run_ended_is_refused_by_a_report(tmp_path: Path) -> None:
    store = Store(write_run(tmp_path / "run", {("net", "clean"): "SS", ("net", "pgd20"): "SB", ("net", "cw100"): "BB"}))
    write_sums(store.folder)
    assert load_runs([store.folder])[0].rows[0].robust_upper
    kept: list[WorkUnit] = [one for one in store.read_plan() if one.attack != "cw100"]
    store.write_plan(kept)
    with pytest.raises(StoreError, match=r"plan\.json is not as the run left it: SHA256SUMS has another sha256"):
        load_runs([store.folder])
