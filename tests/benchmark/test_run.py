"""A run end to end in this process: cut short, cut differently, spread over workers, always the same numbers."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark.config import RunConfig, build_config
from benchmark.datasets import Dataset, load
from benchmark.diagnostics import checked
from benchmark.executors.local import Failure, execute
from benchmark.plan import pending, plan
from benchmark.resolve import resolve, surrogate_of
from benchmark.run import Report, run
from benchmark.runner import Outcome, run_unit
from results.aggregate import UnsoundError, standing, verdicts_by_sample, worst_case
from results.leaderboard import leaderboard
from results.records import Verdict, WorkUnit
from results.render import FORMATS
from results.store import Store
from tests.benchmark.builders import (
    CPU,
    Threshold,
    essence,
    grey,
    images_of,
    judged,
    kmeans_for,
    loaded,
    magnet_for,
    records_of,
    save,
    unit_for,
)


@dataclass(frozen=True)
class Uninterrupted:
    """The run that all others are compared with."""

    content: dict[str, Any]
    folder: Path
    report: Report

    def config(self, **changes: Any) -> RunConfig:
        return build_config(self.content | changes, {})


def _advance(total: int, done: int) -> Any:
    return lambda: None


def _run(config: RunConfig, folder: Path) -> Report:
    store = Store(folder)
    with store.opened(config.identity()):
        return run(resolve(config, None), store, None, _advance)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Uninterrupted:
    folder = tmp_path_factory.mktemp("whole")
    data = load("fashion-mnist")
    some = Dataset(data.name, data.x[:1000], data.y[:1000], 10, data.sha256)
    kmeans = save(folder / "kmeans.safetensors", kmeans_for(some), some)
    magnet = save(folder / "magnet.safetensors", magnet_for(some), some)
    content = {
        "models": ["nominal", str(kmeans), str(magnet), f"{magnet}@scores"],
        "dataset": "fashion-mnist",
        "samples": 30,
        "unit_size": 20,
        "threats": [{"norm": "linf", "eps": "4/255"}, {"norm": "l2", "eps": 0.5}],
        "attacks": [
            "pgd20@steps=3,restarts=2",
            "magnet100@steps=3,restarts=1",
            "noise@draws=2",
            "transfer@steps=2",
        ],
        "workers": 1,
    }
    report = _run(build_config(content, {}), folder / "run")
    return Uninterrupted(content, folder / "run", report)


def _same_records(one: Path, other: Path) -> None:
    first, second = records_of(one), records_of(other)
    assert {key: essence(record) for key, record in first.items()} == {
        key: essence(record) for key, record in second.items()
    }
    assert images_of(one) == images_of(other)


def _same_verdicts(whole: Path, part: Path) -> None:
    """Every record of `part` says what the one of the whole says, and its images are the same bytes."""
    expected, found = records_of(whole), records_of(part)
    assert found
    assert {key: judged(record) for key, record in found.items()} == {key: judged(expected[key]) for key in found}
    images = images_of(whole)
    assert images_of(part) == {name: images[name] for name in images_of(part)} != {}


def test_every_planned_unit_has_a_record_and_the_run_holds_every_verdict(whole: Uninterrupted) -> None:
    units = Store(whole.folder).read_plan()
    records = records_of(whole.folder)
    assert {unit.key for unit in units} == set(records)
    assert whole.report.failures == []
    assert {v for record in records.values() for v in record.verdicts} == {
        Verdict.MISCLASSIFIED,
        Verdict.BROKEN,
        Verdict.SURVIVED,
    }


def test_the_rows_are_counted_from_the_records(whole: Uninterrupted) -> None:
    records = records_of(whole.folder).values()
    for row in whole.report.rows:
        about = [r for r in records if (r.unit.group, r.unit.norm) == (row.group, row.norm)]
        for attack, cell in row.attacks.items():
            alone = [r for r in about if (r.unit.attack, r.unit.model) == (attack, row.model)]
            assert cell.value == sum(v is Verdict.SURVIVED for r in alone for v in r.verdicts) / 30
        assert row.robust_upper is not None
        assert row.robust_upper.value == standing(worst_case(verdicts_by_sample([r]) for r in about)) / 30
        assert row.robust_upper.value <= min(cell.value for cell in row.attacks.values())
    assert len(whole.report.rows) == 8


def test_the_leaderboard_in_the_folder_is_the_one_reported(whole: Uninterrupted) -> None:
    for form in ("md", "csv"):
        assert (whole.folder / f"leaderboard.{form}").read_text() == FORMATS[form](whole.report.rows)


def test_saved_images_break_the_model_when_judged_by_hand(whole: Uninterrupted) -> None:
    """Without judge or runner: norm, box and prediction of every saved image of one model."""
    from model_zoo.registry import load as load_model

    model, store, data = load_model("nominal").model, Store(whole.folder), load("fashion-mnist")
    broken = 0
    for record in records_of(whole.folder).values():
        if record.unit.model != "nominal" or record.adversarial_sha256 is None:
            continue
        arrays = store.read_adversarial(record)
        ids = arrays["sample_ids"].tolist()
        assert ids == [i for i, v in zip(record.sample_ids, record.verdicts, strict=True) if v is Verdict.BROKEN]
        x, x_adv = data.x[ids].double(), torch.from_numpy(arrays["x_adv"])
        delta = (x_adv.double() - x).flatten(1)
        distances = delta.abs().amax(dim=1) if record.unit.norm == "linf" else delta.norm(dim=1)
        assert float(distances.max()) <= record.unit.eps + 1e-6
        assert distances.tolist() == pytest.approx([d for d in record.distances if d is not None], abs=1e-12)
        assert (float(x_adv.min()), float(x_adv.max())) >= (0.0, 0.0)
        assert float(x_adv.max()) <= 1.0
        with torch.no_grad():
            assert bool((model(x_adv).argmax(dim=1) != data.y[ids]).all())
        broken += len(ids)
    assert broken > 20


@pytest.mark.parametrize("lost", [0.0, 0.5])
def test_a_resumed_run_is_the_uninterrupted_run(lost: float, whole: Uninterrupted, tmp_path: Path) -> None:
    """Some records were never written; some have their images but no record yet."""
    folder = tmp_path / "run"
    units = Store(whole.folder).read_plan()
    cut = round(len(units) * (1 - lost))
    kept = [unit.key for unit in units[::2] + units[1::2]][:cut]
    store = Store(folder)
    store.open_for(whole.config().identity())
    for key in kept:
        for suffix in (".json", ".safetensors"):
            path = whole.folder / "units" / f"{key}{suffix}"
            if path.exists():
                (folder / "units" / path.name).write_bytes(path.read_bytes())
    before = {path: path.stat().st_mtime_ns for path in (folder / "units").iterdir()}
    report = _run(whole.config(), folder)
    _same_records(whole.folder, folder)
    assert report.rows == whole.report.rows
    for path, modified in before.items():
        assert path.stat().st_mtime_ns == modified, "a finished unit was run again"


@pytest.mark.parametrize("batch_size", [1, 7])
def test_another_batch_size_gives_the_same_numbers(batch_size: int, whole: Uninterrupted, tmp_path: Path) -> None:
    content = {
        "models": whole.content["models"][1::2] if batch_size == 1 else whole.content["models"],
        "attacks": ["pgd20@steps=3,restarts=2", "magnet100@steps=3,restarts=1"],
        "threats": whole.content["threats"][:1],
    }
    _run(whole.config(batch_size=batch_size, **content), tmp_path / "run")
    _same_verdicts(whole.folder, tmp_path / "run")


def test_another_order_of_units_gives_the_same_numbers(whole: Uninterrupted, tmp_path: Path) -> None:
    config = whole.config()
    request, store = resolve(config, None), Store(tmp_path / "run")
    models = {model.name: checked(model, request.dataset, CPU) for model in request.models}
    store.open_for(config.identity())
    units = plan(request)
    store.write_plan(units)

    def carry_out(unit: WorkUnit) -> Outcome:
        surrogate = surrogate_of(unit, request.surrogates)
        return run_unit(unit, request.dataset, models[unit.model], surrogate, device=CPU, batch_size=250)

    for outcome in execute(carry_out, reversed(units), 1):
        assert isinstance(outcome, Outcome)
        store.write(outcome.record, outcome.adversarial)
    _same_records(whole.folder, store.folder)
    assert leaderboard(units, store.read(units)) == whole.report.rows


def test_two_workers_give_the_same_numbers(whole: Uninterrupted, tmp_path: Path) -> None:
    report = _run(whole.config(workers=2, threats=whole.content["threats"][:1]), tmp_path / "run")
    assert report.failures == []
    assert len(report.rows) == 4
    assert [row.attacks for row in report.rows] == [row.attacks for row in whole.report.rows if row.norm == "linf"]
    _same_verdicts(whole.folder, tmp_path / "run")


def test_another_number_of_threads_gives_the_same_numbers(whole: Uninterrupted, tmp_path: Path) -> None:
    content = {
        "models": whole.content["models"][::3],
        "attacks": whole.content["attacks"][:1],
        "threats": whole.content["threats"][:1],
    }
    torch.set_num_threads(2)
    try:
        _run(whole.config(**content), tmp_path / "run")
    finally:
        torch.set_num_threads(1)
    _same_verdicts(whole.folder, tmp_path / "run")


@pytest.mark.parametrize("attack", ["autoattack-fast", "autoattack-reference"])
def test_an_ensembles_verdicts_do_not_depend_on_batch_size(attack: str, tmp_path: Path) -> None:
    content = {
        "models": ["nominal"],
        "dataset": "fashion-mnist",
        "samples": 6,
        "threats": [{"norm": "linf", "eps": "16/255"}],
        "attacks": [attack],
        "workers": 1,
    }
    for batch_size in (5, 250):
        _run(build_config(content | {"batch_size": batch_size}, {}), tmp_path / str(batch_size))
    _same_verdicts(tmp_path / "5", tmp_path / "250")
    (attacked,) = [r for r in records_of(tmp_path / "5").values() if r.unit.attack == attack]
    assert Verdict.BROKEN in attacked.verdicts


def test_another_seed_gives_other_noise(whole: Uninterrupted, tmp_path: Path) -> None:
    """The comparisons above could not fail if the images did not depend on the random numbers."""
    changes = {"models": ["nominal"], "attacks": ["pgd20@steps=3,restarts=2"], "threats": [{"eps": "4/255"}]}
    _run(whole.config(seed=1, **changes), tmp_path / "run")
    assert not set(records_of(tmp_path / "run")) & set(records_of(whole.folder))
    assert not set(images_of(tmp_path / "run").values()) & set(images_of(whole.folder).values())


def _outcomes(units: list[WorkUnit], bad: set[int], error: Exception) -> Iterator[Outcome | Failure]:
    data = grey([0.1, 0.9, 0.45])

    def carry_out(unit: WorkUnit) -> Outcome:
        if unit.seed in bad:
            raise error
        return run_unit(unit, data, loaded(Threshold()), None, device=CPU, batch_size=1)

    return execute(carry_out, units, 1)


@pytest.fixture
def units() -> list[WorkUnit]:
    return [unit_for(grey([0.1, 0.9, 0.45]), attack="noise@draws=1", seed=seed) for seed in range(4)]


def test_a_unit_that_raises_is_a_failure_and_the_others_go_on(units: list[WorkUnit]) -> None:
    outcomes = list(_outcomes(units, {1, 2}, RuntimeError("out of\nmemory")))
    assert [type(outcome) for outcome in outcomes] == [Outcome, Failure, Failure, Outcome]
    failure = outcomes[1]
    assert isinstance(failure, Failure)
    assert (failure.unit, failure.reason) == (units[1], "RuntimeError: out of memory")


def test_an_unsound_unit_ends_everything(units: list[WorkUnit]) -> None:
    outcomes = _outcomes(units, {1}, UnsoundError("both"))
    assert isinstance(next(outcomes), Outcome)
    with pytest.raises(UnsoundError, match="both"):
        next(outcomes)


def _slow_or_unsound(unit: WorkUnit) -> Outcome:
    """Leaves a file for each unit that was begun."""
    Path(unit.model).joinpath(str(unit.seed)).touch()
    if unit.seed == 0:
        raise UnsoundError("both")
    time.sleep(0.3)
    raise RuntimeError("no outcome")


def test_workers_stop_at_an_unsound_unit(tmp_path: Path) -> None:
    units = [unit_for(grey([0.1]), model=str(tmp_path), seed=seed) for seed in range(30)]
    with pytest.raises(UnsoundError, match="both"):
        list(execute(_slow_or_unsound, units, 2))
    assert len(list(tmp_path.iterdir())) < 20


def test_nothing_to_do_is_done(units: list[WorkUnit]) -> None:
    assert list(_outcomes([], set(), RuntimeError())) == []
    assert pending(units, [unit.key for unit in units]) == []


def test_requests_are_checked_before_any_work() -> None:
    content = {"models": ["nominal"], "dataset": "digits", "threats": [{"eps": 0.1}], "attacks": ["pgd20"]}
    with pytest.raises(ValueError, match=r"nominal takes images of shape \(1, 28, 28\), digits has \(1, 8, 8\)"):
        resolve(build_config(content, {}), None)
