"""The gallery shows the first broken samples, with what their records say of them."""

from pathlib import Path

import pytest

from results.gallery import CleanImages, Gallery, galleries
from results.loaded import load_runs
from results.pictures import data_uri, difference
from results.store import StoreError
from tests.results.run_folders import Cells, adversarial, clean_images, write_run

CELLS: Cells = {
    ("net", "clean"): "SSSSSSSSSM",
    ("net", "pgd20"): "SBSBSBSBSM",
    ("net", "autoattack"): "BBBBBBBBSM",
}
EPS, MUCH = 8 / 255, 10**9


def _find(name: str, sha256: str) -> CleanImages | str:
    assert (name, sha256) == ("digits", "d" * 64)
    return clean_images(10)


def _missing(name: str, sha256: str) -> CleanImages | str:
    return f"data set {name} is not here"


def _gallery(folder: Path, budget: int = MUCH, per_attack: int = 6) -> Gallery:
    (run,) = load_runs([folder])
    (found,) = galleries(run, _find, budget, per_attack)
    return found


def test_the_first_broken_samples_of_each_attack(tmp_path: Path) -> None:
    found = _gallery(write_run(tmp_path / "run", CELLS))
    shown = {shelf.attack: ([e.sample for e in shelf.examples], shelf.broken) for shelf in found.shelves}
    assert shown == {"pgd20": ([1, 3, 5, 7], 4), "autoattack": ([0, 1, 2, 3, 4, 5], 8)}
    assert found.note == ""


def test_an_example_is_what_record_and_files_say(tmp_path: Path) -> None:
    found = _gallery(write_run(tmp_path / "run", CELLS, winners={"autoattack": "square"}))
    example = found.shelves[1].examples[3]
    assert (example.sample, example.label, example.prediction, example.winner) == (3, "zero (0)", "one (1)", "square")
    assert example.distance == EPS
    clean, broken = clean_images(10).images[3], adversarial(3, EPS)
    changed, factor = difference(clean, broken)
    assert (example.clean, example.adversarial) == (data_uri(clean), data_uri(broken))
    assert (example.changed, example.factor) == (data_uri(changed), factor)
    assert example.factor == pytest.approx(0.5 / EPS, rel=1e-4)


def test_without_the_data_set_adversarial_images_stand_alone_and_it_is_said(tmp_path: Path) -> None:
    (run,) = load_runs([write_run(tmp_path / "run", CELLS)])
    (found,) = galleries(run, _missing, MUCH)
    assert found.note == "Without clean images: data set digits is not here"
    example = found.shelves[0].examples[0]
    assert (example.clean, example.changed, example.factor) == (None, None, None)
    assert (example.adversarial, example.label) == (data_uri(adversarial(1, EPS)), "class 0")


def test_a_small_budget_is_shared_by_the_attacks_and_told(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", CELLS)
    size = _gallery(folder).shelves[0].examples[0].size
    found = _gallery(folder, budget=int(4.5 * size))
    assert [[e.sample for e in shelf.examples] for shelf in found.shelves] == [[1, 3], [0, 1]]
    assert all("limit" in shelf.missing for shelf in found.shelves)
    assert not any(shelf.missing for shelf in _gallery(folder).shelves)


def test_images_that_are_gone_are_told_and_damaged_ones_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", CELLS)
    paths = sorted((folder / "units").glob("*.safetensors"))
    paths[0].unlink()
    shelves = _gallery(folder).shelves
    assert sorted(bool(shelf.examples) for shelf in shelves) == [False, True]
    assert [s.missing for s in shelves if not s.examples] == ["its adversarial images are not in the run's folder"]
    paths[1].write_bytes(paths[1].read_bytes()[:-1] + b"x")
    with pytest.raises(StoreError, match=paths[1].name):
        _gallery(folder)


def test_images_that_cannot_be_drawn_are_told(tmp_path: Path) -> None:
    (run,) = load_runs([write_run(tmp_path / "run", CELLS, channels=2)])
    (found,) = galleries(run, _missing, MUCH)
    assert {shelf.missing for shelf in found.shelves} == {
        "an image of shape (2, 6, 6) has neither one nor three channels"
    }


def test_nothing_broken_is_no_gallery(tmp_path: Path) -> None:
    (run,) = load_runs([write_run(tmp_path / "run", {("net", "clean"): "SM", ("net", "pgd20"): "SM"})])
    assert galleries(run, _find, MUCH) == []
