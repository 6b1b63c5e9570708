"""Studies whose results are kept: trained and measured on digits, then told from what was kept alone."""

import dataclasses
import time
from pathlib import Path

import pytest
import torch

import benchmark
from benchmark import datasets
from benchmark.errors import RequestError
from benchmark.reproduce import background, kept_studies, study_report
from benchmark.reproduce.kmeans_studies import KMEANS, training
from benchmark.reproduce.request import Options
from benchmark.reproduce.studies import Line, Measure, Study, make, merged
from benchmark.reproduce.trainings import carry_out, in_order
from model_zoo.registry import load
from results.claims import load_claims
from results.kept import Kept, KeptError, KeptMeasurement, KeptModel, read_kept
from results.records import PROTOCOL
from tests.benchmark.conftest import Bench

SURROGATE = training("nominal", "digits", {"epochs": "2"})
PLAIN = training("kmeans", "digits", {"clusters": "30"})
HARDENED = training("kmeans-adv", "digits", {"clusters": "30", "surrogate": SURROGATE, "attacked": "200", "beta": "2"})
TRANSFER = Measure("transfer@step_size=0.1", "linf", 0.1, 60, SURROGATE, "transfer")
EXACT = Measure("exact", "linf", 0.1, 60)
STUDY = Study(
    item="tiny",
    title="two models on digits",
    varied=("model",),
    lines=(Line(("kmeans",), (PLAIN,)), Line(("kmeans-adv",), (HARDENED,))),
    measures=(TRANSFER, EXACT),
)


def silent(total: int, done: int) -> object:
    return lambda: None


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Kept]:
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLUSTRBENCH_ADVERSARIAL_SETS", str(folder / "sets"))
        kept, failures = make(STUDY, folder, None, 1, silent, lambda _: None)  # type: ignore[arg-type]
    assert not failures
    return folder, kept


def test_a_training_is_named_by_what_is_trained() -> None:
    assert training("kmeans", "digits", {"clusters": "30"}).key == PLAIN.key
    others = [
        training("kmeans", "digits", {"clusters": "31"}),
        training("kmeans", "mnist", {"clusters": "30"}),
        training("kmeans", "digits", {"clusters": "30"}, seed=1),
        training("kmeans", "digits"),
    ]
    assert len({PLAIN.key, *(other.key for other in others)}) == 5
    renamed = training("kmeans-adv", "digits", {**dict(HARDENED.settings), "surrogate": training("nominal", "digits")})
    assert renamed.key != HARDENED.key  # the surrogate's settings count


def test_surrogates_are_trained_first_and_once() -> None:
    assert list(in_order([HARDENED, SURROGATE, PLAIN])) == [SURROGATE, HARDENED, PLAIN]
    for studies in KMEANS.values():
        for study in studies:
            order = study.trainings
            assert len(set(order)) == len(order)
            for place, one in enumerate(order):
                assert all(needed in order[:place] for needed in one.needs)


def test_what_is_kept_is_what_the_models_do(made: tuple[Path, Kept]) -> None:
    folder, kept = made
    data = datasets.load("digits")
    x, y = data.x[:60], data.y[:60]
    for one in (PLAIN, HARDENED):
        model = load(str(one.weights(folder))).model
        evaluation = benchmark.evaluate(model, x, y, norm="linf", eps=0.1, attacks=["exact"], seed=0)
        row = evaluation.rows[0].attacks["exact"]
        (found,) = [m for m in kept.measured if m.model == one.key and m.attack == "exact"]
        assert (found.stands, found.n) == (round(row.value * row.n), 60)
        (transferred,) = [m for m in kept.measured if m.model == one.key and m.attack == TRANSFER.name]
        assert transferred.missed is not None
        # What stands under transfer and is broken by exact, by the definition: broken ones that transfer left.
        assert transferred.stands - transferred.missed <= found.stands <= transferred.stands
        (card,) = [m for m in kept.models if m.key == one.key]
        with torch.no_grad():
            right = (model(data.x).argmax(dim=1) == data.y).double().mean()
        assert card.clean_accuracy == pytest.approx(float(right))


def test_a_second_time_nothing_is_trained_or_attacked(made: tuple[Path, Kept]) -> None:
    folder, kept = made
    files = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    units = {path: path.stat().st_mtime_ns for path in folder.rglob("units/*.json")}
    again, _ = make(STUDY, folder, None, 1, silent, lambda _: None)  # type: ignore[arg-type]
    assert again == kept
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")} == files
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("units/*.json")} == units


def test_kept_results_survive_the_file_and_tell_the_same_table(made: tuple[Path, Kept], tmp_path: Path) -> None:
    _, kept = made
    path = tmp_path / "kept.json"
    path.write_text(merged([kept, kept]).text(), encoding="utf-8")
    read = read_kept(path)
    paper = load_claims("kmeans")
    assert merged([read]).text() == merged([kept]).text()
    assert study_report.table(STUDY, read, paper) == study_report.table(STUDY, kept, paper)
    assert study_report.complete(STUDY, read)
    assert not study_report.complete(STUDY, without_exact(read))


def without_exact(kept: Kept) -> Kept:
    return kept.model_copy(update={"measured": tuple(one for one in kept.measured if one.attack != "exact")})


def known(key: str, clean: float, stands: int, missed: int, exact: int) -> Kept:
    model = KeptModel(
        key=key,
        recipe="kmeans",
        dataset="digits",
        seed=0,
        settings={},
        command="",
        minutes=0,
        machine="",
        validation_accuracy=0,
        clean_accuracy=clean,
        clean_samples=500,
        clusters=30,
        notes=(),
        sha256="",
    )
    about = {"model": key, "norm": "linf", "eps": 0.1, "n": 60}
    transfer = KeptMeasurement(attack=TRANSFER.name, stands=stands, missed=missed, **about)  # type: ignore[arg-type]
    proof = KeptMeasurement(attack="exact", stands=exact, certified=exact, **about)  # type: ignore[arg-type]
    return Kept(protocol=PROTOCOL, models=(model,), measured=(transfer, proof))


def test_the_table_shows_means_deviations_and_what_transfer_promised() -> None:
    seeds = tuple(dataclasses.replace(PLAIN, seed=seed) for seed in (0, 1))
    study = dataclasses.replace(STUDY, lines=(Line(("both",), seeds), Line(("one",), (seeds[0],))))
    first, second = known(seeds[0].key, 0.9, 48, 24, 24), known(seeds[1].key, 0.8, 30, 30, 0)
    headers, rows = study_report.table(study, merged([first, second]), load_claims("kmeans"))
    both, one = (dict(zip(headers, row, strict=True)) for row in rows)
    transfer, denied, exact = headers[2], headers[3], headers[4]
    assert both[headers[1]] == "85.00 ± 7.07 (80.0 to 90.0)"
    assert both[transfer] == "65.00 ± 21.21 (50.0 to 80.0)"
    assert both[denied] == "75.0 %"  # 24 of 48, and 30 of 30
    assert one[transfer] == "80.00 [68.2, 88.2]"  # Wilson's interval of 48 of 60
    assert one[denied] == "50.0 %"
    assert one[exact].startswith("40.00 ")


def test_by_threat_the_same_numbers_stand_in_lines() -> None:
    study = dataclasses.replace(STUDY, by_threat=True, lines=(STUDY.lines[0],))
    headers, (row,) = study_report.table(study, known(PLAIN.key, 0.9, 48, 24, 24), load_claims("kmeans"))
    cells = dict(zip(headers, row, strict=True))
    assert (cells["threat"], cells["n"], cells["transfer"]) == ("linf 0.1", "60", "80.00 [68.2, 88.2]")
    assert cells["of these,\nbroken by exact"] == "50.0 %"


def test_what_a_study_does_not_ask_is_not_called_not_run() -> None:
    """A measurement under one threat alone, and kept nowhere: a dash where it is not asked, "not run" where it is."""
    more = dataclasses.replace(STUDY.measures[-1], eps=0.2)
    study = dataclasses.replace(STUDY, by_threat=True, lines=(STUDY.lines[0],), measures=(*STUDY.measures, more))
    headers, rows = study_report.table(study, known(PLAIN.key, 0.9, 48, 24, 24), load_claims("kmeans"))
    small, large = (dict(zip(headers, row, strict=True)) for row in rows)
    assert (large["threat"], large["transfer"], large["of these,\nbroken by exact"]) == ("linf 0.2", "–", "–")
    assert small["transfer"] == "80.00 [68.2, 88.2]"
    assert large[more.heading] == study_report.NOT_RUN


def test_what_is_not_kept_is_called_not_run() -> None:
    _, rows = study_report.table(STUDY, kept_studies.NONE, load_claims("kmeans"))
    assert all(study_report.NOT_RUN in row for row in rows)
    for studies in KMEANS.values():
        for study in studies:
            headers, rows = study_report.table(study, kept_studies.NONE, load_claims("kmeans"))
            assert all(len(row) == len(headers) for row in rows)


@pytest.mark.parametrize(
    ("content", "said"),
    [("{", "cannot be read"), ('{"protocol": 3, "measured": [{"model": 1}]}', "measured.0.")],
)
def test_a_damaged_file_of_kept_results_is_named(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "kept.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(KeptError, match=said) as error:
        read_kept(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_measured_anew_replaces_what_was_kept() -> None:
    older, newer = known(PLAIN.key, 0.9, 48, 24, 24), known(PLAIN.key, 0.9, 30, 10, 20)
    alone = newer.model_copy(update={"measured": (newer.measured[0].model_copy(update={"missed": None}),)})
    for kept, stands, missed in ((newer, 30, 10), (alone, 30, None)):
        found = {one.attack: one for one in merged([older, kept]).measured}[TRANSFER.name]
        assert (found.stands, found.missed) == (stands, missed)
    again = older.model_copy(update={"measured": (older.measured[0].model_copy(update={"missed": None}),)})
    assert {one.attack: one for one in merged([older, again]).measured}[TRANSFER.name].missed == 24


def test_kept_results_of_another_protocol_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    path.write_text(Kept(protocol=PROTOCOL + 1).text(), encoding="utf-8")
    with pytest.raises(KeptError, match=f"protocol {PROTOCOL + 1}"):
        read_kept(path)


def test_weights_of_other_settings_are_not_taken_for_a_training(made: tuple[Path, Kept], tmp_path: Path) -> None:
    folder, _ = made
    for path in (PLAIN.weights(folder), PLAIN.weights(folder).with_suffix(".json")):
        target = tmp_path / "trained" / path.name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes().replace(b'"clusters": 30,\n    "it', b'"clusters": 31,\n    "it'))
    with pytest.raises(RequestError, match="clusters=31, wanted is 30"):
        carry_out(PLAIN, tmp_path, None, torch.device("cpu"))


def test_fresh_keeps_results_after_each_study(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CLUSTRBENCH_ADVERSARIAL_SETS", str(tmp_path / "sets"))
    only_plain = dataclasses.replace(STUDY, lines=STUDY.lines[:1], measures=(EXACT,))
    monkeypatch.setitem(KMEANS, "tiny", (only_plain,))
    report = kept_studies.fresh("kmeans", "tiny", tmp_path / "run", Options(workers=1), silent)  # type: ignore[arg-type]
    assert report.complete
    assert "two models on digits" in report.text
    assert study_report.complete(only_plain, read_kept(tmp_path / "run" / kept_studies.RESULTS))
    done = kept_studies.begin("kmeans", "tiny", tmp_path / "run", Options(), ["never", "started"])
    assert "two models on digits" in done.text
    with background.working(tmp_path / "run") as told:
        told("a thing")
        assert "a thing" in kept_studies.begin("kmeans", "tiny", tmp_path / "run", Options(), ["never"]).text
        with pytest.raises(RequestError, match="in use"), background.working(tmp_path / "run"):
            pass


def test_a_process_in_the_background_leaves_a_log(tmp_path: Path) -> None:
    background.start(["list", "datasets"], tmp_path)
    for _ in range(300):
        if "fashion-mnist" in (tmp_path / background.LOG).read_text(encoding="utf-8"):
            return
        time.sleep(0.2)
    raise AssertionError("nothing was logged")


def test_the_command_prints_kept_results_and_refuses_what_it_does_not_know(bench: Bench) -> None:
    printed = bench("reproduce", "kmeans", "transfer")
    assert printed.code == 0
    assert "published" in printed.out
    for arguments, said in (
        (("kmeans", "nothing"), "item of kmeans must be one of"),
        (("kmeans", "--foreground"), "--foreground goes with --fresh"),
        (("kmeans", "--samples", "50"), "do not go with kmeans"),
        (("kmeans", "--out", "elsewhere"), "go with --fresh"),
        (("kmeans", "transfer", "--fresh", "--data-root", "nowhere", "--workers", "-1"), "workers must be at least 0"),
        (("clustr", "1", "--fresh"), "--fresh"),
        (("nobody",), "paper must be one of clustr, clustering-training, kmeans"),
    ):
        assert said in bench("reproduce", *arguments).refused(), arguments
