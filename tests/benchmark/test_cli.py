"""The command line: what it prints, what it writes, its exit codes, and one line for every wrong request."""

import csv
import dataclasses
import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor

import benchmark
from attacks.contract import AttackResult
from attacks.registry import ATTACKS
from benchmark.config import CONFIGS
from benchmark.datasets import DATASETS, Dataset, load
from model_zoo.recipes.registry import RECIPES
from model_zoo.registry import zoo_cards
from results.records import UnitRecord
from results.render import FORMATS
from results.store import Store
from tests.benchmark.builders import kmeans_for, records_of, save
from tests.benchmark.conftest import Bench, Finished

WriteModule = Callable[[str], str]

FAST = "pgd20@steps=2,restarts=1"


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load("digits", split="train")


@pytest.fixture
def kmeans(tmp_path: Path, digits: Dataset) -> Path:
    """A weight file with its card, outside the working directory."""
    return save(tmp_path / "kmeans.safetensors", kmeans_for(digits), digits)


@pytest.fixture
def small(kmeans: Path) -> list[str]:
    """A request that takes a moment."""
    request = ["run", "--model", str(kmeans), "--dataset", "digits", "--attack", FAST, "--attack", "noise@draws=2"]
    return [*request, "--samples", "25", "--eps", "0.15", "--workers", "1"]


def _with(request: list[str], option: str, value: str | Path) -> list[str]:
    """The request with another value for an option."""
    place = request.index(option)
    return [*request[: place + 1], str(value), *request[place + 2 :]]


@pytest.mark.parametrize("dataset", ["digits:without=8", "digits:without=0,9", "digits"])
def test_a_model_of_classes_numbered_otherwise_is_refused(bench: Bench, tmp_path: Path, dataset: str) -> None:
    """Its outputs would be held against other classes, without a word."""
    for trained in ("digits", "digits:without=3", "digits:without=1,2"):
        data = load(trained, split="train")
        path = save(tmp_path / f"of-{data.num_classes}.safetensors", kmeans_for(data), data)
        arguments = ("run", "--model", path, "--dataset", dataset, "--attack", "clean", "--samples", "20", "--out", "r")
        if trained != dataset:
            said = f"was trained on {trained}, whose classes are not numbered as those of {dataset}"
            assert said in bench(*arguments).refused()


def test_classes_numbered_anew_are_those_of_a_model_without_a_card(
    bench: Bench, user_module: Callable[[str], str], tmp_path: Path
) -> None:
    layer = "from torch import nn\n\n\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, {}))\n"
    arguments = ("--dataset", "digits:without=8", "--attack", "clean", "--samples", "20", "--workers", "1")
    ten = bench("run", "--model", f"{user_module(layer.format(10))}:make", *arguments)
    assert ten.refused().endswith("has 10 classes, digits:without=8 has 9, which are numbered anew")
    assert bench("run", "--model", f"{user_module(layer.format(9))}:make", *arguments).code == 0
    data = load("digits:without=8", split="train")
    path = save(tmp_path / "nine.safetensors", kmeans_for(data), data)
    assert bench("run", "--model", path, *arguments).code == 0


def test_a_run_prints_the_leaderboard_and_says_where_it_lies(bench: Bench, workdir: Path, small: list[str]) -> None:
    done = bench(*small, "--out", "here/run")
    assert done.code == 0, done.err
    for name in ("leaderboard.md", "leaderboard.csv"):
        assert str(Path("here/run") / name) in done.out
        assert (workdir / "here/run" / name).read_text()
    records = records_of(workdir / "here/run").values()
    standing = {r.unit.attack: sum(v in ("survived", "certified") for v in r.verdicts) for r in records}
    assert set(standing) == {"clean", FAST, "noise@draws=2"}
    assert 0 < standing[FAST] < standing["clean"]
    for count in standing.values():
        assert f"{100 * count / 25:.2f}" in done.out


def test_without_a_folder_the_run_goes_under_runs(bench: Bench, small: list[str]) -> None:
    done = bench(*small)
    assert done.code == 0, done.err
    assert all(path == "runs" or path.startswith("runs/quick-") for path in done.created)


def test_the_same_command_goes_on_and_repeats_nothing(bench: Bench, workdir: Path, small: list[str]) -> None:
    first = bench(*small, "--out", "run")
    times = {path: path.stat().st_mtime_ns for path in (workdir / "run/units").iterdir()}
    again = bench(*small, "--out", "run", "--batch-size", "3")
    assert (again.code, again.out) == (0, first.out)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert again.created == []


def test_progress_goes_to_stderr_as_plain_lines(bench: Bench, small: list[str]) -> None:
    done = bench(*small, "--out", "run")
    lines = done.err.splitlines()
    assert len(lines) == 3
    assert [f"unit {number} of 3: " in line for number, line in enumerate(lines, start=1)] == [True] * 3
    assert "\r" not in done.err
    assert "\x1b" not in done.err


def test_a_configuration_file_is_an_argument_or_an_option(
    bench: Bench, tmp_path: Path, kmeans: Path, small: list[str]
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        f"models: [{kmeans}]\ndataset: digits\nsamples: 25\nthreats: [{{norm: linf, eps: 0.15}}]\n"
        f'attacks: ["{FAST}", "noise@draws=2"]\nworkers: 1\n'
    )
    by_options = bench(*small, "--out", "options")
    for number, arguments in enumerate(([str(path)], ["--config", str(path)])):
        done = bench("run", *arguments, "--out", f"file{number}")
        assert (done.code, done.out.replace(f"file{number}", "options")) == (0, by_options.out)


def test_several_radii_make_several_tables(bench: Bench, small: list[str]) -> None:
    done = bench(*small, "--eps", "8/255", "--out", "run")
    assert done.code == 0, done.err
    assert "linf eps = 0.15, n = 25" in done.out
    assert "linf eps = 8/255, n = 25" in done.out


SOMETIMES = """
from pathlib import Path

from attacks.contract import AttackResult


def attack(model, x, y, threat, *, seed, sample_ids):
    if Path("broken").exists() and 3 in sample_ids:
        raise RuntimeError("out of\\nluck")
    return AttackResult(x)
"""


def test_a_crash_is_no_verdict_and_the_next_run_tries_again(
    bench: Bench, workdir: Path, small: list[str], user_module: WriteModule
) -> None:
    attack = f"{user_module(SOMETIMES)}:attack"
    (workdir / "broken").touch()
    failed = bench(*small, "--attack", attack, "--out", "run")
    assert failed.code == 1
    assert "1 units failed" in failed.err
    assert "RuntimeError: out of luck" in failed.err
    assert attack in failed.err
    assert "Traceback" not in failed.err
    assert attack not in {record.unit.attack for record in records_of(workdir / "run").values()}
    assert len(records_of(workdir / "run")) == 3
    (row,) = json.loads(bench("report", "run", "--format", "json").out)
    assert row["done"] < row["n"] == 25
    assert (row["rank"], row["robust_upper"]) == (None, None)

    (workdir / "broken").unlink()
    done = bench(*small, "--attack", attack, "--out", "run")
    assert done.code == 0, done.err
    assert "unit 1 of 1: " in done.err
    assert len(records_of(workdir / "run")) == 4


UNSOUND = """
import torch

from attacks.contract import AttackResult


def attack(model, x, y, threat, *, seed, sample_ids):
    x_adv = (x + threat.eps * torch.sign(0.5 - x)).clamp(0, 1)
    return AttackResult(x_adv, certified=torch.ones(len(x), dtype=torch.bool))
"""


def test_a_sample_broken_and_certified_stops_the_run(
    bench: Bench, workdir: Path, small: list[str], user_module: WriteModule
) -> None:
    attack = f"{user_module(UNSOUND)}:attack"
    stopped = bench(*_with(small, "--eps", "0.5"), "--attack", attack, "--out", "run")
    assert stopped.code == 1
    last = stopped.err.splitlines()[-1]
    assert last.startswith("unsound: ")
    assert attack in last
    assert "both broken and certified" in last
    assert stopped.out == ""
    assert attack not in {record.unit.attack for record in records_of(workdir / "run").values()}


def test_verifiers_give_both_bounds_and_a_curve_whether_attacks_skip_or_not(
    bench: Bench, workdir: Path, small: list[str]
) -> None:
    small += ["--attack", "exact", "--attack", "certify"]
    done = bench(*small, "--out", "run")
    assert done.code == 0, done.err
    for shown in ("exact proves", "certify proves", "neither broken nor certified", "proven accuracy in % within eps"):
        assert shown in done.out
    (row,) = json.loads(bench("report", "run", "--format", "json").out)
    assert 0 < row["robust_lower"] == row["proofs"]["exact"]["certified_accuracy"] <= row["robust_upper"]
    assert row["robust_upper"] <= min(cell["robust_accuracy"] for cell in row["attacks"].values())
    with (workdir / "run/radii.csv").open() as file:
        by_certify = [line for line in csv.DictReader(file) if line["by"] == "certify"]
    assert len(by_certify) == 25
    assert (
        sum(float(line["radius"]) > 0.15 for line in by_certify) / 25 == row["proofs"]["certify"]["certified_accuracy"]
    )
    skipped = [record for record in records_of(workdir / "run").values() if record.unit.certificates]
    assert {record.unit.attack for record in skipped} == {FAST, "noise@draws=2"}
    all_attacked = bench(*small, "--no-skip-certified", "--out", "all")
    assert (all_attacked.code, all_attacked.out.replace("all/", "run/")) == (0, done.out)
    assert not any(record.unit.certificates for record in records_of(workdir / "all").values())
    assert "differs in skip_certified" in bench(*small, "--out", "all").refused()


def _certifies_everything(model: object, x: Tensor, y: object, threat: object, **_: object) -> AttackResult:
    return AttackResult(x, certified=torch.ones(len(x), dtype=torch.bool), proofs={"nothing": torch.zeros(1)})


def test_a_sample_certified_by_a_verifier_and_broken_by_an_attack_stops_run_and_report(
    bench: Bench, workdir: Path, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ATTACKS, "exact", dataclasses.replace(ATTACKS["exact"], run=_certifies_everything))
    request = [*_with(small, "--eps", "0.3"), "--attack", "exact", "--no-skip-certified", "--out", "run"]
    stopped = bench(*request)
    assert (stopped.code, stopped.out) == (1, "")
    told = stopped.err.splitlines()[-1]
    assert told.startswith("unsound: sample ")
    assert f"under {FAST}, image in units/" in told
    assert "under exact, proof in units/" in told
    files = [part.rstrip(";") for part in told.split() if part.startswith("units/")]
    assert len(files) == 2
    assert all((workdir / "run" / file).is_file() for file in files)
    assert sum("unsound" in line for line in stopped.err.splitlines()) == 1
    for again in (bench(*request), bench("report", "run"), bench("report", "run", "--format", "json")):
        assert (again.code, again.out, again.err.splitlines()) == (1, "", [told])


def test_what_relies_on_a_failed_verifier_fails_too_and_the_next_run_does_both(
    bench: Bench, workdir: Path, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, seed: int, sample_ids: object) -> AttackResult:
        raise RuntimeError("out of luck")

    small += ["--attack", "exact"]
    with monkeypatch.context() as bad:
        bad.setitem(ATTACKS, "exact", dataclasses.replace(ATTACKS["exact"], run=broken))
        failed = bench(*small, "--out", "run")
    assert failed.code == 1
    assert "3 units failed" in failed.err
    assert "RuntimeError: out of luck" in failed.err
    assert failed.err.count("RuntimeError: a verifier's unit that says which samples to leave alone failed") == 4
    assert {record.unit.attack for record in records_of(workdir / "run").values()} == {"clean"}
    done = bench(*small, "--out", "run")
    assert done.code == 0, done.err
    assert "unit 3 of 3: " in done.err


def test_what_no_verifier_can_prove_is_refused(bench: Bench, small: list[str], user_module: WriteModule) -> None:
    model = f"{user_module(LINEAR)}:make"
    linear = _with(small, "--model", model)
    told = bench(*_with(linear, "--attack", "exact")).refused()
    assert told == f"attack exact needs a nearest-centroid classifier in input space; none among {model}"
    l1 = bench(*small, "--attack", "exact", "--norm", "l1").refused()
    assert l1 == "attack exact knows linf and l2, not l1"
    assert bench(*_with(linear, "--attack", "certify")).refused() == (
        "attack certify needs a clustering classifier whose backbone can be read, or a network and its last layer; "
        f"none among {model}"
    )


def test_verifiers_are_left_out_for_the_models_they_do_not_suit(
    bench: Bench, workdir: Path, small: list[str], user_module: WriteModule
) -> None:
    linear = f"{user_module(LINEAR)}:make"
    done = bench(*small, "--model", linear, "--attack", "exact", "--out", "run")
    assert done.code == 0, done.err
    rows = {row["model"]: row for row in json.loads(bench("report", "run", "--format", "json").out)}
    assert {model: list(row["proofs"]) for model, row in rows.items()} == {small[2]: ["exact"], linear: []}
    assert rows[linear]["robust_lower"] == 0
    assert all(not r.unit.certificates for r in records_of(workdir / "run").values() if r.unit.model == linear)


def test_a_folder_of_an_earlier_schema_is_refused_not_reported_as_undone(
    bench: Bench, finished: Finished, workdir: Path
) -> None:
    marker = workdir / "run/run.json"
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {"schema_version": 1}))
    assert "another schema version" in bench("report", "run").refused()


def test_an_interrupt_keeps_what_is_done(
    bench: Bench, workdir: Path, small: list[str], user_module: WriteModule
) -> None:
    attack = f"{user_module('def attack(*a, seed, sample_ids): raise KeyboardInterrupt')}:attack"
    stopped = bench(*small, "--attack", attack, "--out", "run")
    assert stopped.code == 130
    assert "goes on from here" in stopped.err
    assert len(records_of(workdir / "run")) == 3


def test_a_disk_that_fills_up_during_the_run_is_one_line_and_the_run_goes_on_later(
    bench: Bench, workdir: Path, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = bench(*small, "--out", "whole")
    with monkeypatch.context() as disk:
        real, written = os.fsync, []

        def full_after_four(descriptor: int) -> None:
            written.append(descriptor)
            if len(written) > 4:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(descriptor)

        disk.setattr(os, "fsync", full_after_four)
        failed = bench(*small, "--out", "run")
    assert failed.code == 2
    errors = [line for line in failed.err.splitlines() if ": unit " not in line and " of 3: " not in line]
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert errors[0].endswith("cannot be written: No space left on device")
    assert not list(workdir.rglob("*.partial"))
    done = bench(*small, "--out", "run")
    assert (done.code, done.out.replace("run/", "whole/")) == (0, expected.out)


@pytest.fixture
def finished(bench: Bench, small: list[str]) -> Finished:
    done = bench(*small, "--out", "run")
    assert done.code == 0, done.err
    return done


def _rates(folder: Path) -> dict[str, float]:
    """Robust accuracy by attack, counted from the records."""
    records: list[UnitRecord] = list(records_of(folder).values())
    return {r.unit.attack: sum(v in ("survived", "certified") for v in r.verdicts) / 25 for r in records}


def test_the_terminal_report_is_what_the_run_printed(bench: Bench, finished: Finished) -> None:
    report = bench("report", "run")
    assert (report.code, report.err, report.created) == (0, "", [])
    assert finished.out.startswith(report.out)


def test_the_json_report_holds_the_fractions_of_the_records(bench: Bench, finished: Finished, workdir: Path) -> None:
    report = bench("report", "run", "--format", "json")
    assert report.code == 0
    (row,) = json.loads(report.out)
    rates = _rates(workdir / "run")
    assert row["clean"] == rates.pop("clean")
    assert {name: cell["robust_accuracy"] for name, cell in row["attacks"].items()} == rates
    assert row["robust_upper"] <= min(rates.values())
    assert (row["n"], row["done"], row["rank"], row["eps"]) == (25, 25, 1, 0.15)
    for cell in row["attacks"].values():
        assert cell["low"] <= cell["robust_accuracy"] <= cell["high"]
        assert cell["n"] == 25


def test_the_csv_report_holds_the_same_fractions(bench: Bench, finished: Finished, workdir: Path) -> None:
    report = bench("report", "run", "--format", "csv")
    assert report.code == 0
    (row,) = csv.DictReader(StringIO(report.out))
    for name, rate in _rates(workdir / "run").items():
        assert float(row[name]) == rate
    assert report.out == (workdir / "run/leaderboard.csv").read_text()


def test_the_markdown_report_holds_percentages(bench: Bench, finished: Finished, workdir: Path) -> None:
    report = bench("report", "run", "--format", "md")
    assert report.code == 0
    for rate in _rates(workdir / "run").values():
        assert f"{100 * rate:.2f}" in report.out
    assert report.out == (workdir / "run/leaderboard.md").read_text()


def test_a_comparison_needs_a_classifier_of_the_run(bench: Bench, finished: Finished) -> None:
    (only,) = json.loads(bench("report", "run", "--format", "json").out)
    assert bench("report", "run", "--against", only["group"]).code == 0
    assert "--against: no classifier 'nobody' in the run" in bench("report", "run", "--against", "nobody").refused()
    by_seeds = bench("report", "run", "--against", only["group"], "--seeds").refused()
    assert f"--against: the run has no family of classifiers but {only['group']}" in by_seeds
    assert "--seeds goes with --against NAME" in bench("report", "run", "--seeds").refused()


@pytest.mark.parametrize("form", FORMATS)
def test_an_incomplete_run_is_reported_with_exit_code_1(
    bench: Bench, finished: Finished, workdir: Path, form: str
) -> None:
    (lost,) = [r for r in records_of(workdir / "run").values() if r.unit.attack == FAST]
    (workdir / "run/units" / f"{lost.key}.json").unlink()
    report = bench("report", "run", "--format", form)
    assert report.code == 1
    assert report.err == ""
    if form in ("terminal", "md"):
        assert "0/25 done" in report.out
    if form == "json":
        assert json.loads(report.out)[0]["robust_upper"] is None


def test_an_unknown_format_is_refused_with_the_known_ones(bench: Bench, finished: Finished) -> None:
    told = bench("report", "run", "--format", "xlsx").refused()
    assert "'xlsx'" in told
    for form in FORMATS:
        assert form in told


def test_a_report_of_what_is_no_run_is_refused(bench: Bench, workdir: Path) -> None:
    assert "nowhere is not a run folder" in bench("report", "nowhere").refused()
    (workdir / "file").write_text("")
    assert "file" in bench("report", "file").refused()


def test_a_damaged_record_is_named(bench: Bench, finished: Finished, workdir: Path) -> None:
    path = next((workdir / "run/units").glob("*.json"))
    path.write_text(path.read_text()[:100])
    assert path.name in bench("report", "run").refused()


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("models", lambda: list(zoo_cards())),
        ("attacks", lambda: [name for name in ATTACKS if name != "clean"]),
        ("datasets", lambda: [*DATASETS, "npz:FILE", "folder:DIR"]),
        ("recipes", lambda: list(RECIPES)),
        ("configs", lambda: [path.stem for path in CONFIGS.glob("*.yaml")]),
    ],
)
def test_everything_that_has_a_name_is_listed(bench: Bench, what: str, names: Callable[[], list[str]]) -> None:
    done = bench("list", what)
    assert (done.code, done.err, done.created) == (0, "", [])
    first_cells = {line.strip("│ ").split("│")[0].strip() for line in done.out.splitlines()}
    assert set(names()) <= first_cells


def test_listing_something_else_is_refused_with_what_can_be_listed(bench: Bench) -> None:
    told = bench("list", "planets").refused()
    for what in ("models", "attacks", "datasets", "recipes", "configs", "'planets'"):
        assert what in told


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--model", "nominall", "did you mean nominal"),
        ("--model", "pgdat", "did you mean pgd-at"),
        ("--model", "zzz", "the zoo has"),
        ("--model", "robustbench:Linf/cifar11/Carmon2019Unlabeled", "robustbench:Linf|L2/cifar10|cifar100|imagenet"),
        ("--model", "no_such_package_at_all:make", "no module named 'no_such_package_at_all'"),
        ("--model", "json:no_such_factory", "no callable 'no_such_factory'"),
        ("--model", "nominal", "(1, 28, 28), digits has (1, 8, 8)"),
        ("--dataset", "digts", "did you mean digits"),
        ("--dataset", "zzz", "known: fashion-mnist, mnist"),
        ("--dataset", "npz:none.npz", "npz:none.npz: no such file"),
        ("--dataset", "folder:none", "folder:none"),
        ("--attack", "pdg20", "did you mean pgd20"),
        ("--attack", "zzz", "known: "),
        ("--attack", "pgd20@step=3", "steps=..."),
        ("--attack", "pgd20@steps=0", "steps must be a positive whole number, got '0'"),
        ("--attack", "pgd20@step_size=2/0", "step_size must be a positive number"),
        ("--attack", "transfer@surrogate=nominall", "did you mean nominal"),
        ("--attack", "no_such_package_at_all:attack", "no module named 'no_such_package_at_all'"),
        ("--attack", "textwrap:dedent", "lacks seed and sample_ids"),
        ("--eps", "8/0", "8/0"),
        ("--eps", "-1", "must be positive, got -1"),
        ("--eps", "8", 'did you mean "8/255"?'),
        ("--eps", "abc", "abc"),
        ("--eps", "nan", "nan"),
        ("--eps", "inf", "inf"),
        ("--eps", "0", "must be positive, got 0"),
        ("--eps", "", "8/255"),
        ("--samples", "0", "samples"),
        ("--samples", "-5", "samples"),
        ("--samples", "501", "digits has 500 test images, got 501"),
        ("--samples", "many", "--samples"),
        ("--workers", "-1", "workers"),
    ],
)
def test_a_value_that_cannot_be_is_refused(bench: Bench, small: list[str], option: str, value: str, told: str) -> None:
    assert told in bench(*_with(small, option, value)).refused()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--norm", "l7"], "'linf', 'l2' or 'l1', got 'l7'"),
        (["--norm", "l2", "--eps", "9"], "(0, 8] for l2 on digits"),
        (["--seed", "-1"], "seed"),
        (["--seed", "4294967296"], "seed"),
        (["--batch-size", "0"], "--batch-size: "),
        (["--device", "tpu"], "auto, cpu or cuda, got 'tpu'"),
        (["--modle", "nominal"], "--modle"),
        (["--eps", "0.15"], "threats names one entry twice"),
        (["--attack", FAST], "attacks names one entry twice"),
        (["quick", "--config", "full"], "once"),
        (["quick", "full"], "full"),
        (["quik"], "did you mean quick"),
        (["missing.yaml"], "missing.yaml"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(
    bench: Bench, small: list[str], arguments: list[str], told: str
) -> None:
    assert told in bench(*small, *arguments).refused()


def test_an_attack_that_fits_no_model_is_refused(bench: Bench, small: list[str], user_module: WriteModule) -> None:
    model = f"{user_module(LINEAR)}:make"
    told = bench(*_with(_with(small, "--model", model), "--attack", "magnet100")).refused()
    assert told == f"attack magnet100 needs a clustering classifier; none among {model}"


@pytest.mark.parametrize("arguments", [["fly"], ["report"], ["list"], ["train"], ["run", "--samples"]])
def test_a_command_that_is_unknown_or_cut_short_is_refused(bench: Bench, arguments: list[str]) -> None:
    assert bench(*arguments).refused()


def test_without_a_verb_the_help_is_shown_and_no_error_without_a_word(bench: Bench) -> None:
    shown = bench()
    for verb in ("run", "train", "report", "list"):
        assert verb in shown.out
    assert shown.err.strip() != "error:"
    assert shown.created == []


@pytest.mark.parametrize(
    "content", ["models: [", "- nominal", "model: [nominal]", "models: [nominal]\nthreats: [{eps: 8}]\nattacks: [x]\n"]
)
def test_a_wrong_configuration_file_is_refused(bench: Bench, tmp_path: Path, content: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    assert bench("run", path).refused()


def test_a_folder_of_another_configuration_is_refused_and_the_difference_named(
    bench: Bench, finished: Finished, small: list[str], workdir: Path
) -> None:
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    told = bench(*_with(small, "--samples", "24"), "--out", "run").refused()
    assert "belongs to another configuration (it differs in samples)" in told
    assert {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()} == before


def test_a_folder_of_something_else_is_refused(bench: Bench, small: list[str], workdir: Path) -> None:
    (workdir / "thesis").mkdir()
    (workdir / "thesis/thesis.tex").write_text("years of work")
    assert "thesis exists and is not a run folder" in bench(*small, "--out", "thesis").refused()
    assert "thesis.tex" in bench(*small, "--out", "thesis/thesis.tex").refused()
    assert "thesis.tex" in bench(*small, "--out", "thesis/thesis.tex/run").refused()


def test_a_folder_in_use_is_refused(bench: Bench, finished: Finished, small: list[str], workdir: Path) -> None:
    store = Store(workdir / "run")
    with store.opened(store.description()["configuration"]):
        assert "in use by another bench run" in bench(*small, "--out", "run").refused()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _pickle(path: Path) -> None:
    path.write_bytes(b"cos\nsystem\n(S'touch executed'\ntR.")


def _remove(path: Path) -> None:
    path.unlink()


def _change(path: Path) -> None:
    payload = path.read_bytes()
    path.write_bytes(payload[:-1] + bytes([payload[-1] ^ 1]))


def _reshape(path: Path) -> None:
    """Other tensors, under the right checksum."""
    import hashlib

    tensors = load_file(path)
    tensors["labels"] = tensors["labels"][:-1].copy()
    save_file(tensors, path)
    card = path.with_suffix(".json")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    card.write_text(json.dumps(json.loads(card.read_text()) | {"sha256": digest}))


def _no_tensor(path: Path) -> None:
    import hashlib

    save_file({"other": np.zeros(3, dtype=np.float32)}, path)
    card = path.with_suffix(".json")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    card.write_text(json.dumps(json.loads(card.read_text()) | {"sha256": digest}))


def _remove_card(path: Path) -> None:
    path.with_suffix(".json").unlink()


def _spoil_card(path: Path) -> None:
    path.with_suffix(".json").write_text("{")


def _card_field(path: Path) -> None:
    card = path.with_suffix(".json")
    card.write_text(json.dumps(json.loads(card.read_text()) | {"num_classes": "ten"}))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (_remove, "No such file"),
        (_cut, "truncated or not safetensors"),
        (_empty, "truncated or not safetensors"),
        (_pickle, "truncated or not safetensors"),
        (_change, "its card says"),
        (_reshape, "does not fit its card: labels must have shape (10,)"),
        (_no_tensor, "does not fit its card: 'centroids'"),
        (_remove_card, "is missing"),
        (_spoil_card, "is not JSON"),
        (_card_field, "num_classes"),
    ],
)
@pytest.mark.usefixtures("as_installed")
def test_a_weight_file_that_is_not_what_it_should_be_is_named(
    bench: Bench, small: list[str], kmeans: Path, workdir: Path, damage: Callable[[Path], None], told: str
) -> None:
    damage(kmeans)
    message = bench(*small).refused()
    assert str(kmeans.with_suffix("")) in message
    assert told in message
    assert not (workdir / "executed").exists()


def test_options_of_a_head_are_refused_where_there_are_no_heads(bench: Bench, small: list[str], kmeans: Path) -> None:
    assert "has no heads" in bench(*_with(small, "--model", f"{kmeans}@scores")).refused()


def test_a_corrupt_npz_archive_is_named(bench: Bench, small: list[str], tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    np.savez_compressed(path, images=np.zeros((30, 8, 8), np.uint8), labels=np.arange(30) % 10)
    path.write_bytes(path.read_bytes()[:-30])
    assert f"image archive {path} is corrupt" in bench(*_with(small, "--dataset", f"npz:{path}")).refused()


def test_a_pickled_npz_archive_is_refused(bench: Bench, small: list[str], tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    np.savez(path, images=np.array([{}] * 30, dtype=object), labels=np.arange(30) % 10)
    assert str(path) in bench(*_with(small, "--dataset", f"npz:{path}")).refused()


def test_a_corrupt_archive_under_the_data_root_is_named(bench: Bench, small: list[str], tmp_path: Path) -> None:
    raw = tmp_path / "root" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"):
        (raw / name).write_bytes(b"\x1f\x8b\x08\x00 cut off")
    told = bench(*_with(small, "--dataset", "mnist"), "--data-root", tmp_path / "root").refused()
    assert f"image archive {raw / 't10k-images-idx3-ubyte.gz'} is corrupt" in told


def test_a_corrupt_image_in_a_folder_is_named(bench: Bench, small: list[str], tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    told = bench(*_with(small, "--dataset", f"folder:{tmp_path / 'set'}")).refused()
    assert f"image {tmp_path / 'set' / 'a' / '0.png'} is corrupt" in told


def test_a_data_set_that_cannot_be_downloaded_is_refused(
    bench: Bench, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision.datasets

    def offline(*_: object, **__: object) -> None:
        raise OSError("<urlopen error [Errno -2] Name or service not known>")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", offline)
    told = bench(*_with(small, "--dataset", "cifar10"), "--data-root", tmp_path).refused()
    assert "Name or service not known" in told
    assert "--data-root" in told


LINEAR = """
import torch


class Linear(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.linspace(-1, 1, 640).reshape(64, 10))

    def forward(self, x):
        return x.flatten(1) @ self.weight


def make():
    return Linear()
"""


def test_a_users_model_is_evaluated_by_name(
    bench: Bench, small: list[str], workdir: Path, user_module: WriteModule
) -> None:
    name = f"{user_module(LINEAR)}:make"
    done = bench(*_with(small, "--model", name), "--out", "run")
    assert done.code == 0, done.err
    assert {record.unit.model for record in records_of(workdir / "run").values()} == {name}
    assert "training mode" in done.out


def test_a_model_in_the_working_directory_is_found(bench: Bench, small: list[str], workdir: Path) -> None:
    (workdir / "model_in_the_working_directory.py").write_text(LINEAR)
    done = bench(*_with(small, "--model", "model_in_the_working_directory:make"), "--out", "run")
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("output", "told"),
    [
        ("x", "must return logits of shape (n, classes), returned (2, 1, 8, 8)"),
        ("(x.flatten(1) @ self.weight)[:1]", "returned (1, 10)"),
        ("(x.flatten(1) @ self.weight)[:, :3]", "has 3 classes, digits has 10"),
        ("(x.flatten(1) @ self.weight) / 0 * 0", "returned NaN or infinite logits"),
        ("(x.flatten(1) @ self.weight).detach()", "not differentiable"),
        ("None", "returned NoneType"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("x @ torch.zeros(3, 3)", "RuntimeError: "),
    ],
)
def test_a_users_model_that_misbehaves_is_named_with_its_own_message(
    bench: Bench, small: list[str], user_module: WriteModule, output: str, told: str
) -> None:
    name = f"{user_module(LINEAR.replace('return x.flatten(1) @ self.weight', f'return {output}'))}:make"
    message = bench(*_with(small, "--model", name), "--out", "run").refused()
    assert message.startswith(f"model {name} ")
    assert told in message


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("def make():\n    raise RuntimeError('my weights\\nare gone')\n", "RuntimeError: my weights are gone"),
        ("def make():\n    return 3\n", "returned int, not a torch.nn.Module"),
        ("make = 3\n", "has no callable 'make'"),
        ("import no_such_package_at_all\n", "no module named 'no_such_package_at_all'"),
        ("raise OSError('no luck')\n", "OSError: no luck"),
        ("def make(:\n", "SyntaxError"),
        ("def make(needed):\n    return None\n", "missing 1 required positional argument: 'needed'"),
    ],
)
def test_a_users_factory_that_fails_is_named_with_its_own_message(
    bench: Bench, small: list[str], user_module: WriteModule, source: str, told: str
) -> None:
    name = f"{user_module(source)}:make"
    message = bench(*_with(small, "--model", name), "--out", "run").refused()
    assert message.startswith(f"model {name}")
    assert told in message


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("attack = 3\n", "has no callable 'attack'"),
        ("raise OSError('no luck')\n", "OSError: no luck"),
        ("def attack(model, x, y, threat):\n    return x\n", "lacks seed and sample_ids"),
    ],
)
def test_a_users_attack_that_fails_before_any_work_is_named(
    bench: Bench, small: list[str], user_module: WriteModule, source: str, told: str
) -> None:
    name = f"{user_module(source)}:attack"
    message = bench(*_with(small, "--attack", name), "--out", "run").refused()
    assert message.startswith(f"attack {name}")
    assert told in message


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nominall"], "did you mean nominal"),
        (["zzz"], "kmeans"),
        (["nominal", "--set", "epoch=3"], "epochs=..."),
        (["nominal", "--set", "epochs"], "cannot set 'epochs'"),
        (["nominal", "--set", "epochs=many"], "epochs must be a whole number of at least 1, got 'many'"),
        (["nominal", "--set", "epochs=-1"], "epochs must be a whole number of at least 1, got '-1'"),
        (["nominal", "--out", "weights.pt"], "must end in .safetensors"),
        (["nominal", "--device", "tpu"], "auto, cpu or cuda, got 'tpu'"),
        (["nominal", "--dataset", "digts"], "did you mean digits"),
        (["nominal", "--dataset", "npz:none.npz"], "npz:none.npz: no such file"),
        (["nominal", "--set"], "--set"),
        (["nominal", "--set", "architecture=resnet-152", "--dataset", "digits"], "resnet-152"),
        (["pgd-at", "--set", "eps=8/0"], "eps must be a number or fraction of at least 0, got '8/0'"),
        (["nominal", "--set", "batch_size=0", "--set", "epochs=1", "--dataset", "digits"], "batch_size"),
        (["nominal", "--set", "learning_rate=nan", "--set", "epochs=1", "--dataset", "digits"], "learning_rate"),
    ],
)
def test_a_training_that_cannot_be_is_refused(bench: Bench, arguments: list[str], told: str) -> None:
    assert told in bench("train", *arguments).refused()


def test_a_training_that_diverges_is_told_and_leaves_no_weights(bench: Bench) -> None:
    arguments = ["--dataset", "digits", "--set", "learning_rate=1e30", "--set", "epochs=1", "--out", "w.safetensors"]
    done = bench("train", "nominal", *arguments)
    assert (done.code, done.out) == (1, "")
    last = done.err.splitlines()[-1]
    assert "training" in last
    assert "nan" in last or "inf" in last
    assert "Traceback" not in done.err
    assert "w.safetensors" not in done.created


def test_a_warm_start_from_what_is_no_network_is_refused(bench: Bench, kmeans: Path) -> None:
    told = bench("train", "nominal-kmeans-head", "--dataset", "digits", "--set", f"warm_start={kmeans}").refused()
    assert "warm_start" in told
    assert str(kmeans) in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run", "--model", "nominall"], "did you mean nominal"),
        (["run", "--eps", "8"], 'did you mean "8/255"?'),
    ],
)
def test_a_real_process_says_one_line_and_writes_nothing(tmp_path: Path, arguments: list[str], told: str) -> None:
    """With the warnings of a whole start-up, which in-process tests do not see."""
    environment: dict[str, Any] = os.environ | {"PYTHONPATH": str(Path(benchmark.__file__).parent.parent)}
    command = [sys.executable, "-m", "benchmark.cli", *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    assert told in done.stderr
    assert list(tmp_path.iterdir()) == []
