"""Verifiers and attacks together: who is left alone, what stops a run, and numbers that bound one another."""

import csv
import dataclasses
import hashlib
import itertools
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import benchmark.run
from attacks.contract import AttackResult
from attacks.exact import proven
from attacks.exact_radius import RADIUS_TOLERANCE
from attacks.registry import ATTACKS
from attacks.threat import Norm, Threat
from benchmark.config import build_config
from benchmark.datasets import Dataset, from_arrays, load
from benchmark.errors import RequestError
from benchmark.evaluation import evaluate
from benchmark.resolve import Request, check_request, resolve
from benchmark.run import Report, run
from benchmark.runner import run_unit
from model_zoo.kmeans import KMeansClassifier
from model_zoo.magnet import MagnetClassifier
from model_zoo.registry import LoadedModel
from results.aggregate import UnsoundError
from results.leaderboard import leaderboard
from results.records import UnitRecord, Verdict, certified_samples
from results.store import Store, StoreError
from tests.attacks.centroid_problems import CentroidProblem, guarded_problem, random_problem
from tests.benchmark.builders import (
    CPU,
    essence,
    images_of,
    judged,
    kmeans_for,
    loaded,
    records_of,
    save,
    unit_for,
)

M, B, S, C = Verdict.MISCLASSIFIED, Verdict.BROKEN, Verdict.SURVIVED, Verdict.CERTIFIED
PGD, NOISE = "pgd20@steps=5,restarts=2", "noise@draws=3"
OURS = f"{__name__}:towards_grey"


def towards_grey(model: object, x: Tensor, y: Tensor, threat: Threat, *, seed: int, sample_ids: Tensor) -> AttackResult:
    """A user's attack, in linf: every pixel by eps towards the middle."""
    del model, y, seed, sample_ids
    return AttackResult(x + (0.5 - x).clamp(-threat.eps, threat.eps))


def data_of(problem: CentroidProblem) -> Dataset:
    return from_arrays("points", problem.x.numpy(), problem.y.numpy(), channels_first=True)


N = 18
PROBLEM = random_problem(3, 6, 12, samples=N)
POINTS = data_of(PROBLEM)


def soft(head: str = "log_sum_exp") -> MagnetClassifier:
    """All clusters count, in input space: its features have the Lipschitz constant 1."""
    model = MagnetClassifier(nn.Flatten(), PROBLEM.centroids, PROBLEM.labels, 0.02, 3)
    return model if head == "log_sum_exp" else model.seen_through("scores")


@dataclass(frozen=True)
class World:
    """Models and data that only this test knows, run from request to leaderboard in this process."""

    folder: Path
    models: tuple[LoadedModel, ...]
    data: Dataset
    content: dict[str, Any]

    def request(self, **changes: Any) -> Request:
        content = {"models": [model.name for model in self.models], "workers": 1, "search": "float32"}
        config = build_config(content | self.content | changes, {})
        return check_request(config, self.data, self.models, CPU)

    def run(self, name: str = "run", **changes: Any) -> Report:
        request, store = self.request(**changes), Store(self.folder / name)
        with store.opened(request.config.identity()):
            return run(request, store, None, lambda total, done: lambda: None)

    def verdicts(self, name: str = "run") -> dict[tuple[str, str, float], dict[int, Verdict]]:
        """By model, attack and eps, then by sample."""
        found: dict[tuple[str, str, float], dict[int, Verdict]] = {}
        for record in records_of(self.folder / name).values():
            cell = found.setdefault((record.unit.model, record.unit.attack, record.unit.eps), {})
            cell |= dict(zip(record.sample_ids, record.verdicts, strict=True))
        return found


Worlds = Callable[..., World]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Worlds:
    """Makes a World: by default k-means on 18 random points in three units, linf 0.05."""

    def make(*models: LoadedModel, data: Dataset = POINTS, **content: Any) -> World:
        known = models or (loaded(PROBLEM.model, "kmeans"),)
        by_name = {model.name: model for model in known}
        monkeypatch.setattr(benchmark.run, "_model", lambda name, device: by_name[name])
        monkeypatch.setattr(benchmark.run, "_dataset", lambda name, root: data)
        benchmark.run._searched.cache_clear()  # by name: another test's model may have the same
        default: dict[str, Any] = {
            "dataset": data.name,
            "samples": len(data.x),
            "unit_size": 6,
            "threats": [{"norm": "linf", "eps": 0.05}],
            "attacks": ["exact", PGD, NOISE],
        }
        return World(tmp_path, known, data, default | content)

    return make


def _replaced(monkeypatch: pytest.MonkeyPatch, name: str, function: Callable[..., AttackResult]) -> None:
    monkeypatch.setitem(ATTACKS, name, dataclasses.replace(ATTACKS[name], run=function))


def _lies(model: object, x: Tensor, y: Tensor, threat: Threat, *, seed: int, sample_ids: Tensor) -> AttackResult:
    """Certifies everything, with proofs of nothing."""
    return AttackResult(x, certified=torch.ones(len(x), dtype=torch.bool), proofs={"nothing": torch.zeros(1)})


def _marks(given: list[int], inner: Callable[..., AttackResult]) -> Callable[..., AttackResult]:
    """An attack that notes which samples it is given."""

    def noted(model: object, x: Tensor, y: Tensor, threat: Threat, *, seed: int, sample_ids: Tensor) -> AttackResult:
        given.extend(sample_ids.tolist())
        return inner(model, x, y, threat, seed=seed, sample_ids=sample_ids)

    return noted


def test_certified_samples_are_left_alone_and_stand_in_every_column(
    world: Worlds, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []
    _replaced(monkeypatch, "noise", _marks(given, towards_grey))
    here = world(attacks=["exact", PGD, "noise"])
    report = here.run()
    verdicts = here.verdicts()
    exact, pgd, noise = (verdicts["kmeans", attack, 0.05] for attack in ("exact", PGD, "noise"))
    assert set(exact.values()) == {M, B, C}
    for sample, verdict in exact.items():
        assert (pgd[sample] is C) == (noise[sample] is C) == (verdict is C)
    assert sorted(given) == [sample for sample, verdict in exact.items() if verdict is B]
    (row,) = report.rows
    proven_share = sum(v is C for v in exact.values()) / N
    assert row.robust_lower is not None
    assert row.robust_lower.value == row.proofs["exact"].value == proven_share
    for attack, found in ((PGD, pgd), ("noise", noise)):
        assert row.attacks[attack].value == sum(v in (S, C) for v in found.values()) / N
        assert row.missed[attack] == sum(found[s] is S for s, v in exact.items() if v is B)
    assert row.exactly_broken == sum(v is B for v in exact.values())


def test_without_skipping_everything_is_attacked_and_the_rows_are_the_same(
    world: Worlds, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = world(attacks=["exact", PGD, "noise"])
    given: list[int] = []
    _replaced(monkeypatch, "noise", _marks(given, towards_grey))
    skipped, attacked = here.run("skipped"), here.run("attacked", skip_certified=False)
    right = [sample for sample, v in here.verdicts("skipped")["kmeans", "clean", 0.05].items() if v is S]
    broken = [sample for sample, v in here.verdicts("skipped")["kmeans", "exact", 0.05].items() if v is B]
    assert sorted(given) == sorted([*broken, *right])
    assert attacked.rows == skipped.rows
    for attack in (PGD, "noise"):
        first, second = (here.verdicts(name)["kmeans", attack, 0.05] for name in ("skipped", "attacked"))
        assert {s: S if v is C else v for s, v in first.items()} == second


def test_clean_accuracy_whole_unit_and_users_attacks_see_every_sample(
    world: Worlds, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []
    _replaced(monkeypatch, "autoattack-reference", _marks(given, towards_grey))
    monkeypatch.setitem(
        ATTACKS, "autoattack-reference", dataclasses.replace(ATTACKS["autoattack-reference"], min_classes=2)
    )
    here = world(attacks=["exact", "autoattack-reference", OURS, NOISE])
    here.run()
    verdicts = here.verdicts()
    right = [sample for sample, v in verdicts["kmeans", "clean", 0.05].items() if v is S]
    assert sorted(given) == right
    for attack in ("clean", "autoattack-reference", OURS):
        assert C not in verdicts["kmeans", attack, 0.05].values()
    assert C in verdicts["kmeans", NOISE, 0.05].values()


def test_a_certificate_counts_for_its_eps_weights_and_classifier_only(world: Worlds) -> None:
    """The other models are no k-means, or have other centroids; the other eps has fewer certificates."""
    other = KMeansClassifier(1.0 - PROBLEM.centroids, PROBLEM.labels, 3)
    here = world(
        loaded(PROBLEM.model, "kmeans", sha256="1" * 64),
        loaded(other, "kmeans-2", group="kmeans", sha256="2" * 64),
        loaded(soft(), "soft", sha256="1" * 64),
        threats=[{"norm": "linf", "eps": 0.02}, {"norm": "linf", "eps": 0.1}],
        attacks=["exact", PGD],
    )
    here.run()
    verdicts = here.verdicts()
    counts = set()
    for model, eps in itertools.product(("kmeans", "kmeans-2"), (0.02, 0.1)):
        exact, pgd = verdicts[model, "exact", eps], verdicts[model, PGD, eps]
        assert {s for s, v in exact.items() if v is C} == {s for s, v in pgd.items() if v is C}
        counts.add(sum(v is C for v in exact.values()))
    assert len(counts) >= 3
    assert ("soft", "exact", 0.02) not in verdicts
    assert C not in verdicts["soft", PGD, 0.02].values()


def test_a_verifier_serves_every_head_of_its_classifier_once(world: Worlds) -> None:
    here = world(
        loaded(soft("scores"), "soft@scores", group="soft"),
        loaded(soft(), "soft"),
        threats=[{"norm": "l2", "eps": 0.02}],
        attacks=["certify", PGD],
    )
    report = here.run()
    verdicts = here.verdicts()
    assert {model for model, attack, _ in verdicts if attack == "certify"} == {"soft@scores"}
    certified = {s for s, v in verdicts["soft@scores", "certify", 0.02].items() if v is C}
    assert 0 < len(certified) < 13
    for model in ("soft", "soft@scores"):
        assert {s for s, v in verdicts[model, PGD, 0.02].items() if v is C} == certified
    lower = {row.robust_lower.value for row in report.rows if row.robust_lower}
    assert lower == {len(certified) / N}
    assert [list(row.proofs) for row in report.rows if row.model == "soft"] == [[]]


def test_a_sample_broken_and_certified_in_two_units_stops_at_once_with_both_files(
    world: Worlds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where both units are of one phase, and on the way to a resumed run before any work."""
    _replaced(monkeypatch, "exact", _lies)
    here = world(attacks=["exact", OURS, NOISE], threats=[{"norm": "linf", "eps": 0.3}])
    with pytest.raises(UnsoundError, match=r"^sample \d+ is both broken and certified \(linf 0.3\)") as stopped:
        here.run()
    units = here.folder / "run" / "units"
    files = [part.strip(" ;,").removeprefix("units/") for part in str(stopped.value).split() if "units/" in part]
    assert len(files) == 2
    assert all((units / file).exists() for file in files)
    assert OURS in str(stopped.value)
    assert "kmeans under exact" in str(stopped.value)
    assert NOISE not in {attack for _, attack, _ in here.verdicts()}
    before = set(units.iterdir())
    with pytest.raises(UnsoundError, match="is both broken and certified"):
        here.run()
    assert set(units.iterdir()) == before


def test_a_sample_certified_through_one_head_and_broken_through_another_stops_the_run(
    world: Worlds, monkeypatch: pytest.MonkeyPatch
) -> None:
    _replaced(monkeypatch, "certify", _lies)
    here = world(
        loaded(soft(), "soft"),
        loaded(soft("scores"), "soft@scores", group="soft"),
        threats=[{"norm": "linf", "eps": 0.3}],
        attacks=["certify", PGD],
        skip_certified=False,
    )
    with monkeypatch.context() as only_one_head:
        only_one_head.setattr(benchmark.run, "check_sound", lambda records: None)
        with pytest.raises(UnsoundError, match=r"soft@?[a-z]* under pgd20.* soft under certify, proof in units/"):
            here.run()  # by the leaderboard
    records = list(records_of(here.folder / "run").values())
    kept = [r for r in records if r.unit.attack == "certify" or r.unit.model == "soft@scores"]
    with pytest.raises(UnsoundError, match=r"soft@scores under pgd20.* soft under certify, proof in units/"):
        leaderboard([r.unit for r in kept], kept)


def test_a_users_certificate_is_held_against_other_attacks_too(world: Worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    """No verifier of ours, so no proofs: its record is the evidence."""
    _replaced(
        monkeypatch, "noise", lambda *a, **k: AttackResult(a[1], certified=torch.ones(len(a[1]), dtype=torch.bool))
    )
    here = world(attacks=["noise", OURS], threats=[{"norm": "linf", "eps": 0.3}])
    with pytest.raises(UnsoundError, match=r"kmeans under noise, proof in units/[0-9a-f]{64}\.json"):
        here.run()


def _fails_on(sample: int) -> Callable[..., AttackResult]:
    real = ATTACKS["exact"].run

    def verifier(model: object, x: Tensor, y: Tensor, threat: Threat, *, seed: int, sample_ids: Tensor) -> AttackResult:
        if sample in sample_ids:
            raise RuntimeError("out of luck")
        return real(model, x, y, threat, seed=seed, sample_ids=sample_ids)

    return verifier


def test_what_relies_on_a_failed_verifier_fails_and_is_done_by_the_next_run(
    world: Worlds, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = world(attacks=["exact", PGD, OURS])
    right = [s for s, r in enumerate(POINTS.y.tolist()) if s >= 6]
    with monkeypatch.context() as failing:
        failing.setitem(ATTACKS, "exact", dataclasses.replace(ATTACKS["exact"], run=_fails_on(right[1])))
        report = here.run()
    assert [(f.unit.attack, f.unit.start) for f in report.failures] == [("exact", 6), (PGD, 6)]
    assert report.failures[0].reason == "RuntimeError: out of luck"
    assert "a verifier's unit" in report.failures[1].reason
    (row,) = report.rows
    assert (row.robust_lower, row.robust_upper, row.rank) == (None, None, None)
    assert "exact" not in row.proofs
    assert PGD not in row.attacks
    assert OURS in row.attacks
    again = here.run()
    assert again.failures == []
    here.run("whole")
    _same(here.folder / "run", here.folder / "whole")


def _same(one: Path, other: Path) -> None:
    first, second = records_of(one), records_of(other)
    assert {key: essence(record) for key, record in first.items()} == {
        key: essence(record) for key, record in second.items()
    }
    assert images_of(one) == images_of(other) != {}
    for name in ("leaderboard.md", "leaderboard.csv", "radii.csv"):
        assert (one / name).exists() == (other / name).exists()
        assert not (one / name).exists() or (one / name).read_bytes() == (other / name).read_bytes()


def test_a_run_stopped_before_between_and_after_the_phases_goes_on_with_the_same_numbers(
    world: Worlds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three units of exact-radius and three of clean accuracy come first, then three of an attack."""
    here = world(attacks=["exact-radius", PGD], threats=[{"norm": "l2", "eps": 0.1}])
    here.run("whole")
    assert (here.folder / "whole" / "radii.csv").exists()
    real = Store.write
    for after in (1, 6, 8):
        written: list[UnitRecord] = []

        def stopping(
            store: Store,
            record: UnitRecord,
            *payloads: bytes | None,
            done: list[UnitRecord] = written,
            most: int = after,
        ) -> None:
            real(store, record, *payloads)
            done.append(record)
            if len(done) == most:
                raise KeyboardInterrupt

        with monkeypatch.context() as stopped:
            stopped.setattr(Store, "write", stopping)
            with pytest.raises(KeyboardInterrupt):
                here.run(str(after))
        assert len(records_of(here.folder / str(after))) == after
        assert [record.unit.attack for record in written[:3]] == ["exact-radius"] * min(3, after)
        assert not (here.folder / str(after) / "leaderboard.md").exists()
        here.run(str(after))
        _same(here.folder / str(after), here.folder / "whole")


def test_another_batch_size_certifies_and_breaks_the_same(world: Worlds) -> None:
    here = world(attacks=["exact", "certify", PGD, NOISE])
    here.run("whole")
    for batch_size in (1, 4):
        here.run("other", batch_size=batch_size)
        first, second = records_of(here.folder / "whole"), records_of(here.folder / "other")
        assert {key: judged(record) for key, record in first.items()} == {
            key: judged(record) for key, record in second.items()
        }
        assert images_of(here.folder / "whole") == images_of(here.folder / "other")
        shutil.rmtree(here.folder / "other")


def test_two_workers_give_the_same_numbers(tmp_path: Path) -> None:
    """A run stopped after the verifiers by two workers: what is certified goes to their processes."""
    digits = load("digits", split="train")
    content = {
        "models": [str(save(tmp_path / "kmeans.safetensors", kmeans_for(digits), digits))],
        "dataset": "digits",
        "samples": 30,
        "unit_size": 30,
        "threats": [{"norm": "linf", "eps": 0.1}],
        "attacks": ["exact", "pgd20@steps=3,restarts=1", NOISE],
    }

    def carried_out(folder: Path, workers: int) -> Report:
        config, store = build_config(content | {"workers": workers}, {}), Store(folder)
        with store.opened(config.identity()):
            return run(resolve(config, None), store, None, lambda total, done: lambda: None)

    whole = carried_out(tmp_path / "whole", 1)
    assert whole.failures == []
    resumed = Store(shutil.copytree(tmp_path / "whole", tmp_path / "two"))
    for unit in resumed.read_plan():
        if unit.certificates:
            (resumed.units / f"{unit.key}.json").unlink()
            (resumed.units / f"{unit.key}.safetensors").unlink(missing_ok=True)
    assert len(resumed.keys()) == 2
    assert carried_out(resumed.folder, 2) == whole
    first, second = records_of(tmp_path / "whole"), records_of(tmp_path / "two")
    assert {key: judged(record) for key, record in first.items()} == {
        key: judged(record) for key, record in second.items()
    }
    assert images_of(tmp_path / "whole") == images_of(tmp_path / "two")
    (row,) = whole.rows
    assert row.robust_lower is not None
    assert 0 < row.robust_lower.value < 1


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.05), ("l2", 0.1)])
def test_the_lower_bound_lies_below_every_column_and_meets_the_upper_under_exact(
    world: Worlds, norm: str, eps: float
) -> None:
    here = world(
        loaded(PROBLEM.model, "kmeans"),
        loaded(soft(), "soft"),
        loaded(Threshold3(), "plain"),
        threats=[{"norm": norm, "eps": eps}],
        attacks=["exact", "certify", PGD, NOISE],
    )
    report = here.run()
    assert {row.model for row in report.rows} == {"kmeans", "soft", "plain"}
    for row in report.rows:
        assert row.robust_lower is not None
        assert row.robust_upper is not None
        assert row.robust_lower.value <= row.robust_upper.value <= min(p.value for p in row.attacks.values())
        assert all(proof.value <= row.robust_lower.value for proof in row.proofs.values())
        if row.model == "kmeans":
            assert row.robust_lower == row.robust_upper
            assert row.proofs["certify"].value <= row.proofs["exact"].value
        assert set(row.proofs) == {"kmeans": {"exact", "certify"}, "soft": {"certify"}, "plain": set()}[row.model]
    text = (here.folder / "run" / "leaderboard.md").read_text()
    assert "- kmeans: 0 samples neither broken nor certified" in text
    assert not any(line.startswith("- plain: ") and "neither broken" in line for line in text.splitlines())


class Threshold3(nn.Module):
    """No clusters, three classes."""

    def forward(self, x: Tensor) -> Tensor:
        lead = x.flatten(1).mean(dim=1, keepdim=True) - 0.5
        return torch.cat([-lead, lead, lead - 1.0], dim=1)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.05), ("l2", 0.1)])
def test_radii_agree_with_the_verdicts_at_the_eps_of_the_run(world: Worlds, norm: str, eps: float) -> None:
    here = world(threats=[{"norm": norm, "eps": eps}], attacks=["exact-radius", "certify"], unit_size=7)
    report = here.run()
    verdicts = here.verdicts()
    exact, certify = (verdicts["kmeans", attack, eps] for attack in ("exact-radius", "certify"))
    by_name = {curve.attack: curve for curve in report.curves}
    assert list(by_name) == ["exact-radius", "certify", "eq. 3 from below*", "eq. 3 from above*"]
    for curve in report.curves:
        assert sorted(curve.radii) == list(range(N))
        assert all(radius == 0.0 for sample, radius in curve.radii.items() if exact[sample] is M)
        assert max(curve.radii.values()) <= Threat(norm, eps).diameter(6)  # type: ignore[arg-type]
        shares = [curve.accuracy(e / 200) for e in range(200)]
        assert shares == sorted(shares, reverse=True)
    assert by_name["certify"].accuracy(eps) == sum(v is C for v in certify.values()) / N
    (row,) = report.rows
    assert row.robust_upper is not None
    assert by_name["exact-radius"].accuracy(eps) == row.robust_upper.value
    assert by_name["exact-radius"].accuracy(0.0) == sum(v is not M for v in exact.values()) / N
    for sample in range(N):
        assert by_name["certify"].radii[sample] <= by_name["exact-radius"].radii[sample] + RADIUS_TOLERANCE
    with (here.folder / "run" / "radii.csv").open() as file:
        written = list(csv.DictReader(file))
    assert len(written) == 4 * N
    for line in written:
        assert (line["model"], line["norm"]) == ("kmeans", norm)
        assert float(line["radius"]) == by_name[line["by"]].radii[int(line["sample"])]


def test_units_where_nothing_is_right_stay_in_the_curves_denominator(world: Worlds) -> None:
    """With one sample a unit, the misclassified ones have units of their own, without radii and proofs."""
    content: dict[str, Any] = {"attacks": ["exact-radius", "certify"], "threats": [{"norm": "l2", "eps": 0.1}]}
    whole = world(**content).run("whole")
    single = world(**content, unit_size=1).run("single")
    for one, other in zip(whole.curves, single.curves, strict=True):
        assert (one.attack, len(other.radii)) == (other.attack, N)
        assert other.radii == pytest.approx(one.radii, abs=1e-6)
        assert other.accuracy(0.1) == one.accuracy(0.1)
    assert 0.0 in whole.curves[0].radii.values()


def test_a_sample_that_nothing_breaks_has_the_boxs_diameter_as_its_radius(world: Worlds) -> None:
    """Two pixels; the rival is nearer only where the first pixel exceeds 1.05."""
    centroids = torch.tensor([[0.6, 0.5], [0.9, 0.2], [1.5, 0.5]])
    model = KMeansClassifier(centroids, torch.tensor([0, 0, 1]), 2)
    x = torch.tensor([[0.9, 0.5], [1.0, 0.5]])[:, None, None]
    data = from_arrays("points", x.numpy(), torch.tensor([0, 0]).numpy(), channels_first=True)
    for norm, diameter in (("linf", 1.0), ("l2", 2.0**0.5)):
        here = world(loaded(model, "kmeans"), data=data, threats=[{"norm": norm, "eps": 0.9}], attacks=["exact-radius"])
        (curve,) = here.run(norm).curves
        assert curve.radii == {0: diameter, 1: diameter}
        assert curve.accuracy(0.9) == 1.0


def test_undecided_samples_are_counted_between_the_bounds(world: Worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    """A verifier that knows nothing of three samples, and breaks none."""
    real = ATTACKS["exact"].run

    def timid(model: object, x: Tensor, y: Tensor, threat: Threat, *, seed: int, sample_ids: Tensor) -> AttackResult:
        found = real(model, x, y, threat, seed=seed, sample_ids=sample_ids)
        assert found.certified is not None
        return AttackResult(x, certified=found.certified & (sample_ids > 3), proofs=found.proofs)

    _replaced(monkeypatch, "exact", timid)
    here = world(attacks=["exact"], threats=[{"norm": "linf", "eps": 1e-4}])
    (row,) = here.run().rows
    assert row.robust_upper is not None
    assert row.robust_lower is not None
    left = sum(v is S for v in here.verdicts()["kmeans", "exact", 1e-4].values())
    assert left > 0
    assert round((row.robust_upper.value - row.robust_lower.value) * N) == left
    assert f"{left} samples neither broken nor certified" in (here.folder / "run" / "leaderboard.md").read_text()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_proofs_read_back_certify_exactly_what_the_record_certifies(norm: Norm, world: Worlds) -> None:
    problem, eps = guarded_problem(), {"linf": 0.0395, "l2": 0.0405, "l1": 0.0}[norm]
    data = data_of(problem)
    here = world(
        loaded(problem.model, "kmeans"), data=data, threats=[{"norm": norm, "eps": eps}], attacks=["exact"], unit_size=8
    )
    here.run()
    store = Store(here.folder / "run")
    verifiers = [record for record in records_of(store.folder).values() if record.unit.attack == "exact"]
    pairs = 0
    for record in verifiers:
        path = store.units / f"{record.key}.proofs.safetensors"
        assert hashlib.sha256(path.read_bytes()).hexdigest() == record.proofs_sha256
        proofs = {name: torch.from_numpy(array) for name, array in store.read_proofs(record).items()}
        pairs += len(proofs["sample"])
        part = slice(record.unit.start, record.unit.stop)
        ids = torch.tensor(record.sample_ids)
        again = proven(problem.model, data.x[part], data.y[part], Threat(norm, eps), ids, proofs)
        assert set(ids[again].tolist()) == certified_samples(record)
    assert pairs > 0
    assert 0 < sum(len(certified_samples(record)) for record in verifiers) < 20


def test_proofs_are_whole_checked_and_there_before_their_record(world: Worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    here = world(attacks=["exact"], unit_size=N, threats=[{"norm": "linf", "eps": 0.05}])
    real, synced = os.fsync, []

    def full_after_four(descriptor: int) -> None:  # run.json, plan.json, exact's images and proofs
        synced.append(descriptor)
        if len(synced) > 4:
            raise OSError(28, "No space left on device")
        real(descriptor)

    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", full_after_four)
        with pytest.raises(StoreError, match=r"\.json cannot be written: No space left on device"):
            here.run()
    store = Store(here.folder / "run")
    assert len(list(store.units.glob("*.proofs.safetensors"))) == 1
    assert store.keys() == set()
    here.run()
    (record,) = [record for record in records_of(store.folder).values() if record.unit.attack == "exact"]
    path = store.units / f"{record.key}.proofs.safetensors"
    payload = path.read_bytes()
    for damage in (payload[:-1], payload[:-1] + bytes([payload[-1] ^ 1]), b""):
        path.write_bytes(damage)
        with pytest.raises(StoreError, match=path.name):
            store.read_proofs(record)
    path.unlink()
    with pytest.raises(StoreError, match=path.name):
        store.read_proofs(record)


@given(
    seed=st.integers(0, 10**6),
    norm=st.sampled_from(["linf", "l2"]),
    eps=st.sampled_from([0.005, 0.02, 0.05, 0.1, 0.2]),
    clusters=st.integers(2, 10),
    d=st.integers(1, 6),
)
@settings(max_examples=10, deadline=None, derandomize=True)
def test_certify_proves_less_than_exact_and_exact_less_than_stands(
    seed: int, norm: str, eps: float, clusters: int, d: int
) -> None:
    problem = random_problem(seed, d, clusters, samples=12)
    data, model = data_of(problem), loaded(problem.model)
    verdicts = {}
    for attack in ("clean", "certify", "exact", PGD, "cw100@steps=5,restarts=1"):
        unit = unit_for(data, attack=attack, norm=norm, eps=eps, search="float32")
        record = run_unit(unit, data, model, None, device=CPU, batch_size=250).record
        verdicts[attack] = record.verdicts
    for sample, clean in enumerate(verdicts["clean"]):
        of = {attack: found[sample] for attack, found in verdicts.items()}
        assert all((verdict is M) == (clean is M) for verdict in of.values())
        if of["certify"] is C:
            assert of["exact"] is C
        if of["exact"] is C:
            assert B not in of.values()
        if B in of.values():
            assert of["exact"] is B


def test_evaluate_takes_verifiers_and_gives_the_lower_bound() -> None:
    found = evaluate(PROBLEM.model, POINTS.x, POINTS.y, eps=0.05, attacks=["pgd20", "exact"])
    (row,) = found.rows
    assert row.robust_lower is not None
    assert row.robust_lower == row.robust_upper
    assert row.robust_lower.value == found.verdicts["exact"].count(C) / N > 0
    assert [v is C for v in found.verdicts["pgd20"]] == [v is C for v in found.verdicts["exact"]]
    assert torch.equal(found.x_adv["exact"][4:5], POINTS.x[4:5]) == (found.verdicts["exact"][4] is not B)


@pytest.mark.parametrize(
    ("model", "norm", "attack", "told"),
    [
        (soft(), "linf", "exact", "attack exact needs a nearest-centroid classifier in input space; none among model"),
        (soft(), "linf", "exact-radius", "needs a nearest-centroid classifier in input space"),
        (PROBLEM.model, "l1", "exact", "attack exact knows linf and l2, not l1"),
        (PROBLEM.model, "l1", "exact-radius", "attack exact-radius knows linf and l2, not l1"),
        (Threshold3(), "linf", "certify", "certify needs a clustering classifier whose backbone can be read"),
    ],
)
def test_what_cannot_be_verified_is_refused(model: nn.Module, norm: str, attack: str, told: str) -> None:
    with pytest.raises(RequestError, match=told):
        evaluate(model, POINTS.x, POINTS.y, norm=norm, eps=0.1, attacks=[attack])


def test_radii_of_two_eps_make_one_curve_and_of_another_norm_another(world: Worlds) -> None:
    threats = [{"norm": "l2", "eps": 0.02}, {"norm": "l2", "eps": 0.1}, {"norm": "l1", "eps": 0.1}]
    curves = [curve for curve in world(threats=threats, attacks=["certify"]).run().curves if curve.attack == "certify"]
    assert [(curve.norm, len(curve.radii)) for curve in curves] == [("l2", N), ("l1", N)]
