"""A run is judged again from its files: an honest one verifies, and whatever is changed in it is found and named."""

import dataclasses
import hashlib
import inspect
import json
import shutil
import stat
import zipfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from attacks.contract import AttackResult
from attacks.registry import ATTACKS
from benchmark.config import build_config
from benchmark.datasets import Dataset, load
from benchmark.resolve import resolve
from benchmark.run import run, write_leaderboard, write_radii
from benchmark.verify import verify
from model_zoo.kmeans import KMeansClassifier
from results import archive
from results.checksums import SUMS, files_of, write_sums
from results.records import UnitRecord, Verdict
from results.store import Store, StoreError, pack, plan_text, record_text
from results.verification import MOST_LINES, Kind, Verification, terminal, verdict
from tests.benchmark.builders import CPU, records_of, save
from tests.benchmark.conftest import Bench

PGD = "pgd20@restarts=2"
SAMPLES = 24


def _carried_out(folder: Path, **content: Any) -> Path:
    defaults = {"workers": 1, "search": "float32", "attacks": [PGD, "exact", "certify"]}
    config = build_config(defaults | content, {})
    request, store = resolve(config, None), Store(folder)
    with store.opened(config.identity()):
        report = run(request, store, None, lambda total, done: lambda: None)
    assert not report.failures
    return folder


def _nearest_images(data: Dataset, each: int = 60) -> KMeansClassifier:
    """The first images of each class as its centroids: of several, proofs need weights."""
    rows = [row for c in range(data.num_classes) for row in (data.y == c).nonzero().flatten()[:each].tolist()]
    return KMeansClassifier(data.x[rows], data.y[rows], data.num_classes)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load("digits", split="train")


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory, digits: Dataset) -> Path:
    """A run that no test may change; its model lies beside it."""
    folder = tmp_path_factory.mktemp("honest")
    model = save(folder / "model.safetensors", _nearest_images(digits), digits)
    attacks = [PGD, "exact-radius", "certify"]
    content = {"models": [str(model)], "dataset": "digits", "samples": SAMPLES, "attacks": attacks}
    return _carried_out(folder / "run", **content, threats=[{"norm": "linf", "eps": 0.1}])


@pytest.fixture
def copied(honest: Path, tmp_path: Path) -> Path:
    return shutil.copytree(honest, tmp_path / "copied")


def _verified(folder: Path) -> Verification:
    return verify(folder, CPU, None)


def _one(folder: Path, attack: str) -> UnitRecord:
    (record,) = [record for record in records_of(folder).values() if record.unit.attack == attack]
    return record


def _resealed(folder: Path) -> None:
    """Write tables and checksums anew, as someone would who hides a change: what is left is to be judged."""
    store = Store(folder)
    units = store.read_plan()
    write_leaderboard(units, store)
    write_radii(units, store)
    write_sums(folder)


def _changed(folder: Path, record: UnitRecord, **changes: Any) -> None:
    content = json.loads(record.model_dump_json()) | changes
    made = UnitRecord.model_validate(content)
    (folder / f"units/{record.key}.json").write_bytes(record_text(made))


def _at(entries: list[Any], row: int, value: object) -> list[Any]:
    return [*entries[:row], value, *entries[row + 1 :]]


def _row(record: UnitRecord, wanted: Verdict) -> int:
    return record.verdicts.index(wanted)


def _with_arrays(
    folder: Path, record: UnitRecord, which: str, change: Callable[[dict[str, NDArray[Any]]], object], **changes: Any
) -> None:
    """Change a unit's images or proofs, and its record to go with them."""
    store = Store(folder)
    read, name, field = {
        "images": (store.read_adversarial, f"{record.key}.safetensors", "adversarial_sha256"),
        "proofs": (store.read_proofs, f"{record.key}.proofs.safetensors", "proofs_sha256"),
    }[which]
    arrays = {key: array.copy() for key, array in read(record).items()}
    change(arrays)
    payload = pack(arrays)
    (store.units / name).write_bytes(payload)
    _changed(folder, record, **{field: hashlib.sha256(payload).hexdigest()}, **changes)


def _told(found: Verification, file: str, what: str, sample: int | None = None) -> None:
    """Fails unless a problem of this file, and sample, says so, and a person sees it."""
    assert not found.verified
    lines = [str(p) for p in found.problems if p.file == file and (sample is None or p.sample == sample)]
    assert any(what in line for line in lines), list(map(str, found.problems))
    assert any(line in terminal(found) for line in lines)
    assert terminal(found).splitlines()[-1] == verdict(found)
    assert not verdict(found).startswith("verified")


def test_an_honest_run_verifies_and_everything_was_judged(honest: Path) -> None:
    found = _verified(honest)
    assert found.verified, list(map(str, found.problems))
    verdicts = [v for record in records_of(honest).values() for v in record.verdicts]
    of_verifiers = [v for record in records_of(honest).values() if record.unit.proves for v in record.verdicts]
    assert found.total.examples == verdicts.count(Verdict.BROKEN) > 0
    assert found.total.proofs == of_verifiers.count(Verdict.CERTIFIED) > 0
    assert len(Store(honest).read_proofs(_one(honest, "exact-radius"))["sample"]), "no proof needed weights"
    assert verdict(found).startswith("verified: ")


def _refusing(function: Callable[..., AttackResult]) -> Callable[..., AttackResult]:
    """An attack of the same parameters that must not be called."""

    def refuses(*_: object, **__: object) -> AttackResult:
        raise AssertionError("an attack was run")

    refuses.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return refuses


def test_no_attack_is_run(honest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("attacks.registry.call", "benchmark.runner.run_unit", "attacks.exact._decided"):
        monkeypatch.setattr(name, None)
    for name, entry in ATTACKS.items():
        monkeypatch.setitem(ATTACKS, name, dataclasses.replace(entry, run=_refusing(entry.run)))
    assert _verified(honest).verified


def test_a_run_of_the_zoo_verifies(tmp_path: Path) -> None:
    """Linf and l2, networks and k-means, parts of units, a second head."""
    content = {
        "models": ["kmeans", "clustr-1lip", "pgd-at", "clustr-qtrades@scores"],
        "samples": 20,
        "unit_size": 12,
        "threats": [{"norm": "linf", "eps": "8/255"}, {"norm": "l2", "eps": 0.5}],
    }
    folder = _carried_out(tmp_path / "run", **content)
    found = _verified(folder)
    assert found.verified, list(map(str, found.problems))
    assert found.total.examples > 0
    assert found.total.proofs > 0


FILES: dict[str, Callable[[Path], str]] = {
    "run": lambda folder: "run.json",
    "plan": lambda folder: "plan.json",
    "csv": lambda folder: "leaderboard.csv",
    "md": lambda folder: "leaderboard.md",
    "radii": lambda folder: "radii.csv",
    "sums": lambda folder: SUMS,
    "clean": lambda folder: f"units/{_one(folder, 'clean').key}.json",
    "attack": lambda folder: f"units/{_one(folder, PGD).key}.json",
    "verifier": lambda folder: f"units/{_one(folder, 'exact-radius').key}.json",
    "images": lambda folder: f"units/{_one(folder, PGD).key}.safetensors",
    "exact images": lambda folder: f"units/{_one(folder, 'exact-radius').key}.safetensors",
    "proofs": lambda folder: f"units/{_one(folder, 'exact-radius').key}.proofs.safetensors",
    "radii of certify": lambda folder: f"units/{_one(folder, 'certify').key}.proofs.safetensors",
}


@pytest.mark.parametrize("place", [0.0, 0.3, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("file", FILES)
def test_a_flipped_byte_is_found_and_its_file_is_named(copied: Path, file: str, place: float) -> None:
    name = FILES[file](copied)
    payload = bytearray((copied / name).read_bytes())
    payload[round(place * (len(payload) - 1))] ^= 1
    (copied / name).write_bytes(payload)
    found = _verified(copied)
    assert not found.verified
    assert any(name in str(problem) for problem in found.problems), list(map(str, found.problems))


def test_whatever_a_run_saves_is_held(copied: Path) -> None:
    """Every file in the folder but the lock, which is empty; none may be forgotten in the list above."""
    saved = [path for path in sorted(copied.rglob("*")) if path.is_file() and path.stat().st_size]
    assert len(saved) >= len(FILES)
    for path in saved:
        payload = path.read_bytes()
        place = 2 * len(payload) // 3
        path.write_bytes(payload[:place] + bytes([payload[place] ^ 4]) + payload[place + 1 :])
        found = _verified(copied)
        name = path.relative_to(copied).as_posix()
        assert any(problem.file == name or name in problem.what for problem in found.problems), name
        path.write_bytes(payload)
    assert _verified(copied).verified


def test_units_that_cannot_be_listed_are_named(copied: Path, bench: Bench) -> None:
    shutil.rmtree(copied / "units")
    (copied / "units").write_text("no folder")
    found = _verified(copied)
    assert any(p.file == "units" and p.what.startswith("cannot be read") for p in found.problems)
    assert bench("verify", copied).code == 1


@pytest.mark.parametrize("file", FILES)
def test_a_truncated_or_deleted_file_is_named(copied: Path, file: str) -> None:
    name = FILES[file](copied)
    payload = (copied / name).read_bytes()
    (copied / name).write_bytes(payload[:-7])
    assert any(name in str(problem) for problem in _verified(copied).problems)
    (copied / name).unlink()
    found = _verified(copied)
    assert any(problem.file == name and problem.kind is Kind.MISSING for problem in found.problems)


@pytest.mark.parametrize("name", ["run.json", "plan.json", "unit"])
def test_another_spelling_of_the_same_content_is_told_even_with_new_checksums(copied: Path, name: str) -> None:
    file = f"units/{_one(copied, PGD).key}.json" if name == "unit" else name
    (copied / file).write_bytes((copied / file).read_bytes() + b"\n")
    write_sums(copied)
    _told(_verified(copied), file, "not as bench run writes it")


def test_what_cannot_be_computed_is_held_by_the_checksums(copied: Path) -> None:
    record = _one(copied, PGD)
    _changed(copied, record, forwards=record.forwards + 1)
    _told(_verified(copied), f"units/{record.key}.json", SUMS)


def _out_of_the_ball(arrays: dict[str, NDArray[Any]]) -> None:
    arrays["x_adv"][0] = np.abs(arrays["x_adv"][0] - np.float32(0.11))


def _out_of_the_box(arrays: dict[str, NDArray[Any]]) -> None:
    image = arrays["x_adv"][0]
    image[image == 0.0] = -1e-9


def _not_a_number(arrays: dict[str, NDArray[Any]]) -> None:
    arrays["x_adv"][0, 0, 0, 0] = np.nan


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (_out_of_the_ball, "from the original in linf"),
        (_out_of_the_box, "leaves the box"),
        (_not_a_number, "is not finite"),
    ],
)
def test_a_moved_image_is_refuted(copied: Path, change: Callable[[Any], None], what: str) -> None:
    record = _one(copied, PGD)
    _with_arrays(copied, record, "images", change)
    _resealed(copied)
    sample = record.sample_ids[_row(record, Verdict.BROKEN)]
    _told(_verified(copied), f"units/{record.key}.safetensors", what, sample)


def test_an_image_that_breaks_nothing_is_refuted(copied: Path) -> None:
    record = _one(copied, PGD)
    row = _row(record, Verdict.BROKEN)

    def harmless(arrays: dict[str, NDArray[Any]]) -> None:
        arrays["x_adv"][0] = load("digits").x[record.sample_ids[row]].numpy()

    _with_arrays(copied, record, "images", harmless, distances=_at(record.distances, row, 0.0))
    _resealed(copied)
    _told(_verified(copied), f"units/{record.key}.safetensors", "is predicted as its class", record.sample_ids[row])


@pytest.mark.parametrize("attack", [PGD, "exact-radius"])
@pytest.mark.parametrize("before", list(Verdict))
@pytest.mark.parametrize("after", list(Verdict))
def test_another_verdict_is_refuted(copied: Path, attack: str, before: Verdict, after: Verdict) -> None:
    record = _one(copied, attack)
    if before is after or before not in record.verdicts:
        pytest.skip("no such sample")
    row = _row(record, before)
    _changed(copied, record, verdicts=_at(record.verdicts, row, after))
    write_sums(copied)
    found = _verified(copied)
    assert any(problem.sample == record.sample_ids[row] for problem in found.problems), list(map(str, found.problems))
    assert any(record.key in problem.file for problem in found.problems)


@pytest.mark.parametrize("field", ["labels", "clean_predictions", "predictions"])
def test_other_labels_and_predictions_are_refuted(copied: Path, field: str) -> None:
    record = _one(copied, PGD)
    entries = getattr(record, field)
    _changed(copied, record, **{field: _at(entries, 3, (entries[3] + 1) % 10)})
    write_sums(copied)
    _told(_verified(copied), f"units/{record.key}.json", "", 3)


def test_another_distance_is_refuted(copied: Path) -> None:
    record = _one(copied, PGD)
    row = _row(record, Verdict.BROKEN)
    _changed(copied, record, distances=_at(record.distances, row, 0.0999))
    write_sums(copied)
    _told(_verified(copied), f"units/{record.key}.json", "distance", record.sample_ids[row])


def test_a_broken_sample_called_certified_is_unsound_or_unproven(copied: Path) -> None:
    """All traces of the image removed, tables and checksums made anew: the proof is still missing."""
    record = _one(copied, "exact-radius")
    row = _row(record, Verdict.BROKEN)
    sample = record.sample_ids[row]

    def without(arrays: dict[str, NDArray[Any]]) -> None:
        kept = arrays["sample_ids"] != sample
        arrays["sample_ids"], arrays["x_adv"] = arrays["sample_ids"][kept], arrays["x_adv"][kept]

    _with_arrays(
        copied,
        record,
        "images",
        without,
        verdicts=_at(record.verdicts, row, Verdict.CERTIFIED),
        distances=_at(record.distances, row, None),
        winners=_at(record.winners, row, None),
        predictions=_at(record.predictions, row, record.labels[row]),
    )
    write_sums(copied)
    _told(_verified(copied), f"units/{record.key}.proofs.safetensors", "do not prove it", sample)


def _negative(arrays: dict[str, NDArray[Any]]) -> None:
    arrays["weight"] *= -1.0


def _dropped(arrays: dict[str, NDArray[Any]]) -> None:
    arrays.update({name: array[:0] for name, array in arrays.items() if name != "start"}, start=arrays["start"][:1])


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (_negative, "do not prove it"),
        (_dropped, "do not prove it"),
        (lambda arrays: arrays.pop("weight"), "does not hold the arrays"),
    ],
)
def test_other_weights_of_a_proof_prove_nothing(copied: Path, change: Callable[[Any], object], what: str) -> None:
    record = _one(copied, "exact-radius")
    _with_arrays(copied, record, "proofs", change)
    write_sums(copied)
    _told(_verified(copied), f"units/{record.key}.proofs.safetensors", what)


def test_a_longer_radius_of_certify_is_refuted(copied: Path) -> None:
    record = _one(copied, "certify")
    row = _row(record, Verdict.SURVIVED)

    def longer(arrays: dict[str, NDArray[Any]]) -> None:
        arrays["radius"] *= 2.0
        arrays["lipschitz"] /= 2.0

    radii = [None if radius is None else 2.0 * radius for radius in record.radii]
    _with_arrays(copied, record, "proofs", longer, radii=radii)
    _resealed(copied)
    found = _verified(copied)
    _told(found, f"units/{record.key}.json", "computed again it is", record.sample_ids[row])
    _told(found, f"units/{record.key}.proofs.safetensors", "lipschitz is not what is computed again")


def test_a_radius_beyond_an_image_that_breaks_is_refuted(copied: Path) -> None:
    record = _one(copied, "exact-radius")
    row = _row(record, Verdict.BROKEN)
    _changed(copied, record, radii=_at(record.radii, row, 0.2))
    _resealed(copied)
    _told(_verified(copied), f"units/{record.key}.json", "breaks it at", record.sample_ids[row])


def test_a_table_that_says_something_else_is_refuted(copied: Path) -> None:
    for name in ("leaderboard.csv", "leaderboard.md", "radii.csv"):
        text = (copied / name).read_text()
        (copied / name).write_text(text.replace("0.", "1.") + "\n")
    write_sums(copied)
    found = _verified(copied)
    for name in ("leaderboard.csv", "leaderboard.md", "radii.csv"):
        _told(found, name, "does not say what the records say")


def test_a_plan_with_a_unit_left_out_is_refuted(copied: Path) -> None:
    """The attack that did best is gone with its files, and tables and checksums fit."""
    record = _one(copied, "exact-radius")
    store = Store(copied)
    (copied / "plan.json").write_bytes(plan_text(u for u in store.read_plan() if u.key != record.key))
    for path in store.units.glob(f"{record.key}*"):
        path.unlink()
    _resealed(copied)
    _told(_verified(copied), "plan.json", "run.json asks for")


def test_other_weights_under_the_same_name_cannot_verify(
    tmp_path: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "mine.safetensors", _nearest_images(digits), digits)
    content = {"models": ["mine.safetensors"], "dataset": "digits", "samples": 8, "attacks": [PGD]}
    folder = _carried_out(tmp_path / "run", **content, threats=[{"norm": "l2", "eps": 1.0}])
    assert _verified(folder).verified
    save(tmp_path / "mine.safetensors", _nearest_images(digits, 3), digits)
    file = f"units/{_one(folder, PGD).key}.json"
    _told(_verified(folder), file, "has other weights here")
    (tmp_path / "mine.safetensors").unlink()
    found = _verified(folder)
    _told(found, file, "is not here")
    assert {problem.kind for problem in found.problems} == {Kind.UNVERIFIABLE}
    assert verdict(found).startswith("cannot be verified here, nothing refuted")


def test_a_factory_that_leaves_does_not_leave_with_success(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def leaves(*_: object) -> None:
        raise SystemExit(0)

    monkeypatch.setattr("benchmark.verify.load", leaves)
    assert not _verified(copied).verified


def test_an_incomplete_run_is_not_called_tampered(copied: Path) -> None:
    """As a killed run leaves it: no checksums, older tables."""
    record = _one(copied, PGD)
    for path in (copied / "units").glob(f"{record.key}*"):
        path.unlink()
    (copied / SUMS).unlink()
    found = _verified(copied)
    _told(found, f"units/{record.key}.json", "the planned unit has no record")
    assert {problem.kind for problem in found.problems} == {Kind.MISSING}
    assert verdict(found).startswith("incomplete, nothing refuted")


def test_a_stranger_is_named_and_harmless(copied: Path) -> None:
    (copied / "units" / "0000.json").write_text("{}")
    write_sums(copied)
    found = _verified(copied)
    assert found.verified, list(map(str, found.problems))
    assert "note: units/0000.json belongs to no unit of the plan" in terminal(found)


def test_every_file_of_a_run_has_its_checksum(honest: Path) -> None:
    listed = [line.split("  ")[1] for line in (honest / SUMS).read_text().splitlines()]
    present = {path.relative_to(honest).as_posix() for path in honest.rglob("*") if path.is_file()}
    assert {*listed, "run.lock", SUMS} == present
    assert listed == files_of(honest)


def test_many_problems_are_told_shortly(copied: Path) -> None:
    for record in records_of(copied).values():
        changed = [(label + 1) % 10 for label in record.labels]
        _changed(copied, record, labels=changed)
    found = _verified(copied)
    assert len(found.problems) > MOST_LINES
    lines = terminal(found).splitlines()
    assert lines[MOST_LINES].startswith(f"and {len(found.problems) - MOST_LINES} more problems, in units/")


def _zipped(folder: Path, path: Path, prefix: str = "", extra: Mapping[str, bytes] | None = None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                packed.write(file, prefix + file.relative_to(folder).as_posix())
        for name, payload in (extra or {}).items():
            packed.writestr(name, payload)
    return path


@pytest.mark.parametrize("prefix", ["", "runs/quick-1/"])
def test_a_zip_verifies_anywhere(honest: Path, tmp_path: Path, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _zipped(honest, tmp_path / "run.zip", prefix)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = _verified(path)
    assert found.verified, list(map(str, found.problems))
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "run/../../x", "a\\b", "C:/x", "run.json", "./x"])
def test_a_zip_with_a_member_that_leads_elsewhere_is_refused(
    bench: Bench, workdir: Path, honest: Path, tmp_path: Path, name: str
) -> None:
    with pytest.warns(UserWarning, match="Duplicate") if name == "run.json" else nullcontext():
        path = _zipped(honest, tmp_path / "run.zip", extra={name: b"x"})
    done = bench("verify", path)
    assert "is refused" in done.refused()
    assert not (tmp_path / "x").exists()


def test_a_zip_with_a_link_is_refused(honest: Path, tmp_path: Path) -> None:
    path = _zipped(honest, tmp_path / "run.zip")
    link = zipfile.ZipInfo("units/link.json")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as packed:
        packed.writestr(link, "../../secret")
    with pytest.raises(StoreError, match="neither a file nor a folder"):
        _verified(path)


def test_a_zip_out_of_proportion_is_refused(tmp_path: Path, honest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = _zipped(honest, tmp_path / "bomb.zip", extra={"units/zeros": bytes(200_000_000)})
    with pytest.raises(StoreError, match="would unpack to"):
        _verified(bomb)
    monkeypatch.setattr(archive, "MOST_MEMBERS", 3)
    with pytest.raises(StoreError, match="a run has at most 3"):
        _verified(_zipped(honest, tmp_path / "run.zip"))


def test_exit_codes(bench: Bench, workdir: Path, honest: Path, copied: Path) -> None:
    good = bench("verify", honest)
    assert (good.code, good.created) == (0, [])
    assert good.out.splitlines()[-1].startswith("verified: ")
    (copied / "leaderboard.csv").write_text("")
    bad = bench("verify", copied)
    assert bad.code == 1
    assert "leaderboard.csv" in bad.out
    assert bad.out.splitlines()[-1].startswith("NOT verified: ")


@pytest.mark.parametrize("kind", ["nothing", "empty folder", "text", "zip of something else"])
def test_what_is_no_run_is_a_wrong_request(bench: Bench, workdir: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "thing"
    if kind == "empty folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("a run")
    elif kind == "zip of something else":
        _zipped(tmp_path / "nowhere", path, extra={"readme.txt": b"hello"})
    assert str(path) in bench("verify", path).refused()
