"""Robust accuracy against eps: points of one line are of one classifier, and no line says too much."""

from pathlib import Path
from typing import Any

import pytest

from results.loaded import load_runs
from results.series import Series, axis_end, drawable, labelled, series
from tests.results.run_folders import Cells, write_run

CELLS: Cells = {("net", "clean"): "SSSM", ("net", "pgd20"): "SSBM"}
WEAKER: Cells = {("net", "clean"): "SSSM", ("net", "pgd20"): "SBBM"}


def _series(*folders: Path) -> list[Series]:
    return series(load_runs(folders))


def _values(one: Series) -> list[tuple[float, float]]:
    return [(eps, point.value) for eps, point in one.upper]


def test_a_ladder_begins_with_clean_accuracy_and_rises_in_eps(tmp_path: Path) -> None:
    (one,) = _series(write_run(tmp_path / "run", CELLS, eps=(0.2, 0.1)))
    assert _values(one) == [(0.0, 0.75), (0.1, 0.5), (0.2, 0.5)]
    assert (one.group, one.dataset, one.norm, one.n, one.lower, one.joined) == ("net", "digits", "linf", 4, (), True)


def test_one_eps_is_no_curve(tmp_path: Path) -> None:
    assert _series(write_run(tmp_path / "run", CELLS)) == []


def test_runs_of_the_same_weights_images_and_attacks_make_one_line(tmp_path: Path) -> None:
    (one,) = _series(write_run(tmp_path / "a", CELLS, eps=(0.1,)), write_run(tmp_path / "b", WEAKER, eps=(0.2,)))
    assert _values(one) == [(0.0, 0.75), (0.1, 0.5), (0.2, 0.25)]


@pytest.mark.parametrize(
    "other",
    [{"weights_sha256": "v" * 64}, {"data_sha256": "e" * 64}, {"norm": "l2"}, {"dataset": "mnist"}],
)
def test_what_differs_is_not_joined(tmp_path: Path, other: dict[str, Any]) -> None:
    changed = write_run(tmp_path / "b", WEAKER, eps=(0.2,), **other)
    assert _series(write_run(tmp_path / "a", CELLS, eps=(0.1,)), changed) == []


def test_other_attacks_are_not_joined(tmp_path: Path) -> None:
    more = {**WEAKER, ("net", "noise"): "SSSM"}
    assert _series(write_run(tmp_path / "a", CELLS, eps=(0.1,)), write_run(tmp_path / "b", more, eps=(0.2,))) == []


def test_an_incomplete_eps_is_left_out(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", CELLS, eps=(0.1, 0.2), left_out=(("net", "pgd20"),))
    assert _series(folder) == []


VERIFIED: Cells = {("net", "clean"): "SSSM", ("net", "exact-radius"): "CCBM"}


def _verified(folder: Path, radii: list[float | None]) -> Series:
    (one,) = _series(write_run(folder, VERIFIED, eps=(0.1,), proves=("exact-radius",), radii={"exact-radius": radii}))
    return one


def test_radii_are_a_curve_at_one_eps(tmp_path: Path) -> None:
    one = _verified(tmp_path / "run", [0.3, 0.2, 0.05, None])
    (curve,) = one.radii
    assert [one.proven(curve, eps).value for eps in (0.0, 0.05, 0.1, 0.25, 0.3)] == [0.75, 0.5, 0.5, 0.25, 0.0]
    assert [(eps, point.value) for eps, point in one.lower] == [(0.1, 0.5)]


def test_points_are_not_joined_below_what_radii_prove(tmp_path: Path) -> None:
    """From 75 % to 50 %: at 0.08 the straight line has 55 %, and 75 % are proven."""
    assert not _verified(tmp_path / "a", [0.3, 0.2, 0.09, None]).joined
    assert _verified(tmp_path / "b", [0.3, 0.2, 1e-9, None]).joined


def test_steps_of_what_is_proven_are_needed_where_radii_tell_less(tmp_path: Path) -> None:
    """Of two proven at 0.1, the first radii prove both and the second one."""
    assert not _verified(tmp_path / "a", [0.3, 0.2, None, None]).stepped
    assert _verified(tmp_path / "b", [0.3, 0.1, None, None]).stepped


def test_what_proves_nothing_is_not_drawn(tmp_path: Path) -> None:
    one = _verified(tmp_path / "a", [0.11, 0.101, 0.09, None])
    assert drawable(one, 0.2) == one
    assert drawable(one, 100.0).radii == ()


def test_labels_keep_apart_and_the_measured_come_first(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", CELLS, eps=(0.1, 0.2, 0.205, 0.4))
    found = _series(folder)
    end = axis_end(found)
    assert end == pytest.approx(0.416)
    assert labelled(found, end, 0.1) == [0.0, 0.1, 0.205, 0.4]
