"""ClusTR's figure 3: curves, certificates against a random search and the steepest slope, the command."""

import csv
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from benchmark.reproduce.clustr_fig3 import CONTROL, DATASETS, RANDOM, STARTS, WARM, Certified, Settings, experiment
from benchmark.reproduce.clustr_fig3_figure import RADII, fig3, verdict
from benchmark.reproduce.request import Options, Report, Work
from tests.benchmark.conftest import Bench

QUICK = Settings(points=200, cross_entropy_steps=100, magnet_steps=200, grid=60)
KINDS = (*STARTS, CONTROL)
Results = dict[tuple[str, str, int], Certified]


@pytest.fixture(scope="module")
def results() -> Results:
    return experiment([0, 1], QUICK)


def test_the_networks_learn_and_every_start_has_its_run(results: Results) -> None:
    assert set(results) == {(dataset, start, seed) for dataset in DATASETS for start in KINDS for seed in (0, 1)}
    for run in results.values():
        assert run.certified_accuracy(0.0) > 0.9
        assert 0.0 < run.slope <= run.lipschitz


def test_a_curve_starts_at_the_clean_accuracy_and_never_rises(results: Results) -> None:
    for run in results.values():
        right = (run.margins(run.x) > 0) == (run.y == 0)
        assert run.certified_accuracy(0.0) == pytest.approx(float(right.double().mean()))
        curve = [run.certified_accuracy(r) for r in RADII]
        assert all(later <= earlier for earlier, later in pairwise(curve))
        assert curve[-1] < curve[0]


def test_the_radius_is_theorem_1s(results: Results) -> None:
    for run in results.values():
        between = (run.centroids[0] - run.centroids[1]).norm()
        lead = torch.where(run.y == 0, 1.0, -1.0) * run.margins(run.x)
        expected = (lead / (2.0 * run.lipschitz * between)).clamp_min(0.0)
        torch.testing.assert_close(run.radii, expected, rtol=1e-6, atol=1e-9)


def test_no_perturbation_within_its_radius_changes_a_prediction(results: Results) -> None:
    random = torch.Generator().manual_seed(0)
    for run in results.values():
        assert bool((run.reached >= run.radii).all())
        certified = run.radii > 0
        x, radii, signs = run.x[certified], run.radii[certified], torch.where(run.y[certified] == 0, 1.0, -1.0)
        for _ in range(200):
            step = torch.randn(x.shape, generator=random, dtype=x.dtype)
            step *= (radii * torch.rand(len(x), generator=random, dtype=x.dtype).sqrt() / step.norm(dim=1))[:, None]
            assert bool((signs * run.margins(x + step) > 0).all())


def test_the_same_seed_gives_the_same_result_whatever_other_seeds_are_run(results: Results) -> None:
    again = experiment([1], QUICK)
    assert {key[2] for key in again} == {1}
    for key, run in again.items():
        assert torch.equal(run.radii, results[key].radii)
        assert torch.equal(run.x, results[key].x)
    assert not torch.equal(results["moons", WARM, 0].x, results["moons", WARM, 1].x)


def test_the_verdict_follows_the_figures(results: Results) -> None:
    warm = {key: results[key[0], WARM, key[2]] for key in results}
    assert "NOT reproduced" in verdict(warm, "moons", [0, 1])
    run = results["circles", WARM, 0]
    right = replace(run, radii=torch.full_like(run.radii, 0.05))
    wider = replace(run, radii=torch.full_like(run.radii, 0.06))
    better = {("circles", RANDOM, 0): right, ("circles", WARM, 0): wider, ("circles", CONTROL, 0): run}
    assert ": REPRODUCED." in verdict(better, "circles", [0])
    assert "One seed proves little" in verdict(better, "circles", [0])
    mixed = {**better, ("circles", RANDOM, 1): right, ("circles", WARM, 1): right, ("circles", CONTROL, 1): run}
    assert "ON AVERAGE ONLY" in verdict(mixed, "circles", [0, 1])
    poor = replace(run, radii=torch.where(torch.arange(len(run.radii)) % 20 == 0, 0.0, 0.06))
    assert "misses the paper's 99 %" in verdict({**better, ("circles", WARM, 0): poor}, "circles", [0])


def test_the_report_states_what_was_chosen_and_the_files_hold_the_curves(tmp_path: Path) -> None:
    text = fig3(tmp_path, [3], QUICK)
    for stated in ("200 points", "200 steps", "alpha 12.5", "0 to 0.2 ", "seeds     3;", "spectral norms", "fig3.png"):
        assert stated in text
    with (tmp_path / "curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(DATASETS) * len(KINDS) * len(RADII)
    assert all(0.0 <= float(row["certified_accuracy"]) <= 1.0 and row["seed"] == "3" for row in rows)
    assert (tmp_path / "fig3.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "fig3.svg").read_text()


def test_a_command_prints_the_report(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmark import reproduce as package

    def fake(options: Options) -> Work:
        return Work(lambda folder, _: Report(f"{folder}: {list(options.seeds)}"))

    monkeypatch.setitem(package.PAPERS, "clustr", {"fig3": fake})
    done = bench("reproduce", "clustr", "fig3", "--seed", "2", "--seed", "7", "--out", "here")
    assert (done.code, done.out) == (0, "here: [2, 7]\n")
    assert bench("reproduce", "clustr").out == f"{Path('runs/reproduce-clustr-fig3')}: [0, 1, 2, 3, 4]\n"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nope"], "clustr"),
        (["clustr", "fig99"], "fig3"),
        (["clustr", "fig3", "--seed", "-1"], "-1"),
        (["clustr", "fig3", "--seed", "4", "--seed", "4"], "different"),
    ],
)
def test_a_wrong_request_gets_one_line(bench: Bench, arguments: list[str], named: str) -> None:
    assert named in bench("reproduce", *arguments).refused()


def test_a_folder_that_cannot_be_written_gets_one_line_before_any_work(bench: Bench, workdir: Path) -> None:
    (workdir / "file").write_text("")
    assert "file" in bench("reproduce", "clustr", "fig3", "--out", "file/x").refused()
