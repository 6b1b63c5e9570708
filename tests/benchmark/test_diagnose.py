"""`bench diagnose`: what probes find in a run, what it does to the grade, and one line for every run that is no use."""

import functools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import benchmark.diagnose
import benchmark.probes
from attacks.autoattack import Part, autoattack
from attacks.registry import AttackEntry, ResolvedAttack
from attacks.square import Square
from benchmark.datasets import Dataset, load
from results.checksums import SUMS
from results.probed import Diagnosis, Probed, diagnosing, read_diagnosis, write_diagnosis
from results.store import Store, StoreError, plan_text
from tests.benchmark.builders import kmeans_for, save
from tests.benchmark.conftest import Bench, Finished

STEPPED = """
import torch
from torch import nn
from benchmark.datasets import load


class Means(nn.Module):
    def __init__(self):
        super().__init__()
        data = load("digits", split="train")
        means = torch.stack([data.x[data.y == c].mean(dim=0).flatten() for c in range(10)])
        self.register_buffer("means", means)

    def forward(self, x):
        return 2 * x.flatten(1) @ self.means.T - self.means.square().sum(dim=1)


class Stepped(Means):
    '''Steps in the input; in their place gradients that are not zero, and of no use.'''

    def __init__(self):
        super().__init__()
        self.register_buffer("pull", torch.randn(64, 10))

    def forward(self, x):
        with torch.no_grad():
            logits = super().forward((x * 4).round() / 4)
        flat = x.flatten(1)
        return logits + (flat - flat.detach()) @ self.pull


def stepped():
    return Stepped().eval()


def honest():
    return Means().eval()
"""
SAMPLES = 12


@pytest.fixture
def few_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing depends on how long Square looks: its 5,000 steps take seconds on any model."""
    short = Part("square", lambda norm, classes: Square(name="square", queries=50, runs=1))
    entry = AttackEntry("Square, 50 queries", functools.partial(autoattack, parts=(short,)), searches=True)
    monkeypatch.setattr(benchmark.probes, "SQUARE", ResolvedAttack("square", entry))


@pytest.fixture
def users(user_module: Callable[[str], str]) -> str:
    return user_module(STEPPED)


def _run(bench: Bench, models: list[str], *attacks: str, eps: str = "0.15") -> Finished:
    request = ["run", "--dataset", "digits", "--samples", str(SAMPLES), "--eps", eps, "--workers", "1", "--out", "run"]
    for model in models:
        request += ["--model", model]
    for attack in attacks:
        request += ["--attack", attack]
    return bench(*request)


def _rows(bench: Bench) -> dict[str, Any]:
    return {row["model"]: row for row in json.loads(bench("report", "run", "--format", "json").out)}


def test_a_step_function_is_caught_by_square_and_by_gradients_that_guide_nowhere(bench: Bench, users: str) -> None:
    stepped, honest = f"{users}:stepped", f"{users}:honest"
    assert _run(bench, [stepped, honest], "cw100@restarts=3").code == 0
    before = _rows(bench)
    assert {row["trust"] for row in before.values()} == {"C"}
    assert before[stepped]["robust_upper"] > before[honest]["robust_upper"]
    done = bench("diagnose", "run")
    assert done.code == 0, done.err
    after = _rows(bench)
    assert after[stepped]["trust"] == "D"
    assert after[honest]["trust"] == "C"
    assert [f["check"] for f in after[honest]["findings"]] == []
    found = {f["check"]: f for f in after[stepped]["findings"]}
    assert {"square-breaks-more", "gradients-mislead"} <= set(found)
    probed = {one["group"]: one for one in json.loads(Path("run/diagnosis.json").read_text())["classifiers"]}
    assert probed[stepped]["standing"] == round(before[stepped]["robust_upper"] * SAMPLES)
    square = next(p for p in probed[stepped]["probes"] if p["what"].startswith("Square"))
    assert square["count"] == found["square-breaks-more"]["count"] > 0
    assert square["n"] == probed[stepped]["standing"]
    assert "trust C before, D after" in done.out
    assert "trust C before, C after" in done.out
    assert "[square-breaks-more]" in done.out
    assert "broke" in done.out
    verified = bench("verify", "run")  # what diagnose writes is not of the run
    assert verified.code == 0, verified.out


@pytest.mark.usefixtures("few_queries")
def test_an_attack_stopped_too_early_is_caught_and_the_same_command_says_the_same(bench: Bench, users: str) -> None:
    honest = f"{users}:honest"
    _run(bench, [honest], "pgd20@steps=1,restarts=1,step_size=0.001")
    first = bench("diagnose", "run", "--samples", "5")
    kept = Path("run/diagnosis.json").read_bytes()
    found = next(f for f in _rows(bench)[honest]["findings"] if f["check"] == "stopped-early")
    (probed,) = json.loads(kept)["classifiers"]
    assert found["severity"] == "flatters"
    assert (found["count"], found["n"]) == (probed["probes"][0]["count"], probed["standing"])
    assert 0 < found["count"] <= probed["standing"] <= probed["samples"] == 5
    assert bench("diagnose", "run", "--samples", "5").out == first.out
    assert Path("run/diagnosis.json").read_bytes() == kept
    (row,) = _rows(bench).values()
    assert row["trust"] == "D"
    assert "stopped-early" in row["trust_reason"]


@pytest.mark.usefixtures("few_queries")
def test_one_model_alone_leaves_what_is_known_of_the_others(bench: Bench, users: str) -> None:
    stepped, honest = f"{users}:stepped", f"{users}:honest"
    _run(bench, [stepped, honest], "pgd20@restarts=1")
    assert bench("diagnose", "run", "--model", stepped, "--samples", "4").code == 0
    assert bench("diagnose", "run", "--model", honest, "--samples", "3").code == 0
    kept = json.loads(Path("run/diagnosis.json").read_text())["classifiers"]
    assert {one["group"]: one["samples"] for one in kept} == {stepped: 4, honest: 3}


def test_kmeans_under_exact_stays_at_a_with_nothing_found(bench: Bench, tmp_path: Path) -> None:
    data = load("digits", split="train")
    kmeans = str(save(tmp_path / "kmeans.safetensors", kmeans_for(data), data))
    assert _run(bench, [kmeans], "exact", "pgd20@restarts=1", eps="0.05").code == 0
    done = bench("diagnose", "run")
    assert "trust A before, A after" in done.out
    path = Path("run/diagnosis.json")
    before = path.read_bytes()
    for place in range(0, len(before), 41):
        path.write_bytes(before[:place] + bytes([before[place] ^ 1]) + before[place + 1 :])
        with pytest.raises(StoreError, match=r"diagnosis\.json"):
            read_diagnosis(Path("run"))
    told = bench("verify", "run")
    assert told.code == 1
    assert "refuted: diagnosis.json: is damaged" in told.out
    path.write_bytes(before)
    assert bench("verify", "run").code == 0
    assert "nothing found" in done.out
    assert _rows(bench)[kmeans]["findings"] == []


def _as_npz(folder: Path, data: Dataset) -> str:
    path = folder / "mine.npz"
    np.savez(path, images=data.x[:SAMPLES].numpy(), labels=data.y[:SAMPLES].numpy())
    return f"npz:{path}"


def _as_folder(folder: Path, data: Dataset) -> str:
    for place in range(SAMPLES):
        path = folder / "mine" / f"{data.y[place]}" / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((data.x[place, 0] * 255).round().byte().numpy()).save(path)
    return f"folder:{folder / 'mine'}"


@pytest.mark.usefixtures("few_queries")
@pytest.mark.parametrize("write", [_as_npz, _as_folder])
def test_a_users_own_data_set_is_found_where_the_run_had_it(
    bench: Bench, tmp_path: Path, users: str, digits: Dataset, write: Callable[[Path, Dataset], str]
) -> None:
    named = write(tmp_path, digits)
    model, samples = f"{users}:honest", str(SAMPLES)
    request = ["--model", model, "--dataset", named, "--attack", "pgd20", "--samples", samples, "--workers", "1"]
    assert bench("run", *request, "--eps", "0.15", "--out", "run").code == 0
    done = bench("diagnose", "run", "--samples", "3")
    assert done.code == 0, done.err
    assert "3 samples probed" in done.out


@pytest.mark.usefixtures("few_queries")
def test_another_file_under_the_name_of_the_runs_data_is_refused(
    bench: Bench, tmp_path: Path, users: str, digits: Dataset
) -> None:
    named = _as_npz(tmp_path, digits)
    request = [
        "--model",
        f"{users}:honest",
        "--dataset",
        named,
        "--attack",
        "pgd20",
        "--samples",
        "4",
        "--workers",
        "1",
    ]
    assert bench("run", *request, "--out", "run").code == 0
    np.savez(named.removeprefix("npz:"), images=digits.x[SAMPLES:40].numpy(), labels=digits.y[SAMPLES:40].numpy())
    assert bench("diagnose", "run").refused().startswith(f"data set {named} is not the one of the run: sha256")


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load("digits", split="train")


@pytest.fixture
def finished(bench: Bench, tmp_path: Path, digits: Dataset) -> Path:
    """A small run in the working directory."""
    kmeans = str(save(tmp_path / "kmeans.safetensors", kmeans_for(digits), digits))
    assert _run(bench, [kmeans], "pgd20@steps=2,restarts=1").code == 0
    return Path("run")


def test_an_incomplete_run_is_refused(bench: Bench, finished: Path) -> None:
    next(finished.glob("units/*.json")).unlink()
    assert bench("diagnose", "run").refused() == (
        "run is incomplete: 1 of 2 units have no record; the same bench run command goes on with it"
    )


def test_a_run_without_an_attack_by_gradients_is_refused(bench: Bench, tmp_path: Path, digits: Dataset) -> None:
    kmeans = str(save(tmp_path / "kmeans.safetensors", kmeans_for(digits), digits))
    _run(bench, [kmeans], "noise@draws=2")
    told = bench("diagnose", "run").refused()
    assert told.startswith(f"run: {kmeans} has no attack by gradients and no verifier")


def test_mixed_and_other_protocols_are_refused(bench: Bench, finished: Path) -> None:
    units = Store(finished).read_plan()
    other = [unit.model_copy(update={"protocol": 2}) for unit in units]
    (finished / "plan.json").write_bytes(plan_text([units[0], other[1]]))
    assert bench("diagnose", "run").refused() == "run mixes protocols 2, 3; diagnose one at a time"
    (finished / "plan.json").write_bytes(plan_text(other))
    assert "was made under protocol 2, this version attacks and judges by 3" in bench("diagnose", "run").refused()


def test_unknown_models_folders_and_numbers_are_refused(bench: Bench, finished: Path, tmp_path: Path) -> None:
    assert "no 'nobody' in run; it has" in bench("diagnose", "run", "--model", "nobody").refused()
    assert bench("diagnose", "elsewhere").refused() == "elsewhere is not a run folder: it has no run.json"
    assert bench("diagnose", "run", "--samples", "0").code == 2
    weights = tmp_path / "kmeans.safetensors"
    away = weights.with_name("away.safetensors")
    shutil.move(weights, away)
    assert str(weights) in bench("diagnose", "run").refused()


@pytest.mark.usefixtures("few_queries")
def test_a_damaged_diagnosis_is_told_and_another_models_goes_unread(bench: Bench, finished: Path) -> None:
    assert bench("diagnose", "run", "--samples", "4").code == 0
    before = _rows(bench)
    path = finished / "diagnosis.json"
    content = json.loads(path.read_text())
    content["classifiers"][0]["weights_sha256"] = "0" * 64
    content["classifiers"][0]["findings"] = [{"check": "unbounded", "severity": "void", "model": "x", "seen": "x"}]
    path.write_text(json.dumps(content))
    for command in ("report", "diagnose"):
        assert "diagnosis.json is damaged (it is not as bench diagnose wrote it)" in bench(command, "run").refused()
    write_diagnosis(finished, Diagnosis.model_validate(content))
    (row,), (was,) = _rows(bench).values(), before.values()
    assert not [f for f in row["findings"] if f["severity"] == "void"]
    assert row["trust"] in ("C", was["trust"])
    path.write_text("{")
    for command in ("report", "diagnose"):
        assert bench(command, "run").refused().startswith(f"{path} is damaged")


def test_a_contradicted_certificate_is_diagnosed_without_an_attack(bench: Bench, finished: Path) -> None:
    store = Store(finished)
    (record,) = [r for r in store.read(store.read_plan()) if r.unit.attack != "clean"]
    stands = next(s for s, v in enumerate(record.verdicts) if v == "survived")
    verdicts, distances, winners = list(record.verdicts), list(record.distances), list(record.winners)
    verdicts[stands], distances[stands], winners[stands] = record.verdicts[stands].BROKEN, 0.1, "mine"
    broken = record.model_copy(update={"verdicts": verdicts, "distances": distances, "winners": winners})
    unit = record.unit.model_copy(update={"attack": "certify", "params": {}, "proves": True})
    proof = record.model_copy(
        update={
            "unit": unit,
            "key": unit.key,
            "verdicts": [v.CERTIFIED if s == stands else v for s, v in enumerate(record.verdicts)],
        }
    )
    store.write(broken, None)
    store.write(proof, None)
    store.write_plan([*store.read_plan(), unit])
    done = bench("diagnose", "run")
    assert done.code == 0
    assert "trust F" in done.out
    seen = f"1 of {SAMPLES} samples are broken at eps 0.15, by images within 0.1, and certified up to eps 0.15"
    assert f"{seen} (samples {stands})" in done.out
    assert not (finished / "diagnosis.json").exists()
    assert bench("report", "run").code == 1


def test_a_second_diagnosis_at_once_is_refused(bench: Bench, finished: Path) -> None:
    with diagnosing(finished):
        assert "is being diagnosed by another bench diagnose" in bench("diagnose", "run", "--samples", "2").refused()


def test_a_kill_leaves_what_was_probed_before(
    bench: Bench, finished: Path, few_queries: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = benchmark.diagnose.diagnose

    def killed(*arguments: Any) -> Iterator[Probed]:
        yield next(probe(*arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(benchmark.diagnose, "diagnose", killed)
    bench("diagnose", "run", "--samples", "2")
    assert len(read_diagnosis(finished).classifiers) == 1


def test_a_run_from_before_there_were_grades_still_verifies(bench: Bench, finished: Path) -> None:
    from results.checksums import write_sums
    from results.leaderboard import leaderboard
    from results.render import as_csv, markdown

    store = Store(finished)
    rows = leaderboard(store.read_plan(), store.read(store.read_plan()))
    assert "trust" not in as_csv(rows, trust=False)
    (finished / "leaderboard.md").write_text(markdown(rows, trust=False))
    (finished / "leaderboard.csv").write_text(as_csv(rows, trust=False))
    (finished / SUMS).unlink()
    write_sums(finished)
    assert bench("verify", "run").code == 0
    csv = (finished / "leaderboard.csv").read_text()
    (finished / "leaderboard.csv").write_text(csv.replace("0.", "0.1", 1))
    (finished / SUMS).unlink()
    write_sums(finished)
    assert bench("verify", "run").code == 1


def test_the_grade_is_on_the_leaderboard_in_every_format(bench: Bench, users: str) -> None:
    stepped = f"{users}:stepped"
    done = _run(bench, [stepped], "noise@draws=2")
    assert "trust" in done.out
    assert f"note: {stepped}: trust D: no attack by gradients was run, only noise@draws=2. Nobody looked" in done.out
    csv = Path("run/leaderboard.csv").read_text().splitlines()
    line = dict(zip(csv[0].split(","), csv[1].split(","), strict=True))
    assert line["trust"] == "D"
    assert "- " + stepped + ": trust D: " in Path("run/leaderboard.md").read_text()
    (row,) = _rows(bench).values()
    assert row["trust"] == "D"
    assert row["findings"][0]["check"] == "no-white-box"
    assert row["findings"][0]["sentence"].endswith("Add autoattack, or pgd20 for a first look.")
