"""Papers' tables beside measured numbers: lines from fake figures, statements, real items on few samples, errors."""

import csv
import dataclasses
import shutil
from pathlib import Path

import pytest

from benchmark import reproduce as package
from benchmark.config import build_config
from benchmark.datasets import DATASETS, load
from benchmark.errors import RequestError
from benchmark.image_files import Arrays
from benchmark.reproduce import PAPERS
from benchmark.reproduce.compare import (
    NOT_RUN_DATA,
    NOT_RUN_FAILED,
    NOT_RUN_WEIGHTS,
    SAME,
    Cells,
    fixed_width,
    grid,
    lines_of,
    views_of,
    without_counterpart,
)
from benchmark.reproduce.comparison import compare
from benchmark.reproduce.items import CLUSTERING_TRAINING, CLUSTR
from benchmark.reproduce.measure import subject_of
from benchmark.reproduce.request import Options
from benchmark.reproduce.statements import (
    Measured,
    above,
    best_is,
    between,
    closing,
    drops,
    exceeds,
    judged,
    spread_within,
    under,
)
from benchmark.reproduce.tables import CLEAN, JUDGED, PGD20, UNMASKED, Table
from benchmark.reproduce.tables import PAPERS as PAPERS_HEAD
from benchmark.reproduce.training_time import Settings, minutes, timed
from benchmark.reproduce.training_time_table import TIMES, TimeTable, compare_times
from model_zoo.recipes.registry import RECIPES
from model_zoo.registry import ZOO
from results.aggregate import wilson
from results.claims import load_claims
from tests.benchmark.conftest import Bench

EPS = 8 / 255
TABLES = {(table.paper, table.item): table for table in (*CLUSTR, *CLUSTERING_TRAINING)}


def figures(**standing: int) -> Measured:
    """Of 100 samples, by model."""
    return {(name.replace("_", "-"), EPS): wilson(count, 100) for name, count in standing.items()}


def test_every_item_of_both_papers_is_there() -> None:
    assert set(PAPERS["clustr"]) == {"fig3", "1", "2", "3", "4", "5", "adaptive", "E.1", "E.4"}
    assert set(PAPERS["clustering-training"]) == {"1", "2", "3", "4.3", "4.4"}


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: f"{table.paper} {table.item}")
def test_a_table_names_recipes_and_finds_every_claim_of_its_own_table(table: Table) -> None:
    paper = load_claims(table.paper)
    variants = {"at-pretraining", *(f"clustr-qtrades-{v}" for v in ("k1", "k4", "m6", "m20"))}
    assert {model.partition("@")[0] for model in table.models} <= set(RECIPES) | variants
    lines = lines_of(table, paper, {})
    shown = {(dataset, text.split()[0]) for line in lines for dataset, text in line.published.items()}
    models = {table.claimed_as.get(model, model.partition("@")[0]) for model in table.models}
    for claim in paper.of(table.tables[0]):
        if claim.model in models and (claim.nearest or 0) <= 20:
            for quantity in table.quantities:
                value = getattr(claim, quantity.claim)
                assert value is None or (claim.dataset, f"{value:.2f}") in shown
    known = {quantity.name for quantity in table.quantities}
    assert all(set(statement.quantities) <= known for statement in table.statements)


def test_published_and_measured_numbers_meet_in_one_line() -> None:
    table = TABLES["clustr", "1"]
    cells: Cells = {("clustr", "PGD-20", PAPERS_HEAD, EPS): wilson(60, 100), ("clustr", "PGD-20", JUDGED, EPS): "why"}
    by_line = {(line.model, line.quantity): line for line in lines_of(table, load_claims("clustr"), cells)}
    line = by_line["clustr", "PGD-20"]
    assert line.published == {"cifar10": "49.04", "svhn": "50.78"}
    assert line.measured == {PAPERS_HEAD: wilson(60, 100), JUDGED: "why"}
    assert by_line["clustr", "AutoAttack"].published == {}
    assert by_line["trades", "PGD-20"].measured[PAPERS_HEAD] == SAME
    (row,) = grid([line], "fashion-mnist", {"cifar10": NOT_RUN_DATA, "svhn": NOT_RUN_WEIGHTS})
    assert list(row.values()) == [
        *("clustr", "PGD-20", "49.04", "50.78", NOT_RUN_DATA, NOT_RUN_WEIGHTS, "60.00 [50.2, 69.1]", "why")
    ]
    assert "49.04" in fixed_width([row])
    (row,) = grid([line], "cifar10", {"svhn": NOT_RUN_DATA})
    assert list(row) == [
        *("model", "quantity", "published\nsvhn", "published\ncifar10", "svhn\nhere"),
        *("cifar10\nhere, paper's head", "cifar10\nhere, judged head"),
    ]


def test_a_claim_is_matched_by_its_eps_and_its_d() -> None:
    paper = load_claims("clustr")
    published = {(line.eps, line.quantity): line.published for line in lines_of(TABLES["clustr", "4"], paper, {})}
    assert published[2 / 255, "PGD-20"] == {"cifar10": "81.99", "svhn": "87.48", "cifar100": "60.15"}
    assert published[EPS, "PGD-20"] == {"cifar10": "74.44", "svhn": "84.76"}
    varied = TABLES["clustr", "E.4"]
    by_model = {line.model: line.published for line in lines_of(varied, paper, {}) if line.quantity == "PGD-20"}
    assert by_model["clustr-qtrades@nearest=4"] == {"cifar10": "77.04 (D = 4)", "svhn": "85.33 (D = 4)"}
    assert by_model["clustr-qtrades@nearest=1"] == {}
    assert without_counterpart(varied, paper) == ["cifar100 clustr-qtrades: PGD-20 53.25 (D = 60)"]
    ranged = lines_of(TABLES["clustering-training", "4.4"], load_claims("clustering-training"), {})
    assert {(line.quantity, *line.published.values()) for line in ranged} == {
        ("clean", "88 to 92"),
        ("AutoAttack", "< 1"),
    }


def test_statements_follow_the_figures() -> None:
    seen = figures(mine=70, low=40, near=66)
    assert exceeds("mine", "low")(seen).holds is True
    assert exceeds("low", "mine", "absent")(seen).holds is False
    assert exceeds("mine", "low", "absent")(seen).holds is None
    assert "intervals overlap" in exceeds("mine", "near")(seen).evidence
    assert "70.00 against 66.00 of near" in exceeds("mine", "low", "near")(seen).evidence
    assert exceeds("absent", "low")(seen).evidence == "not run: absent"
    assert between(("mine", "low"), low=40.0)(seen).holds is True
    assert between(("mine", "low", "absent"), low=40.0)(seen).holds is None
    assert between(("mine", "low", "absent"), low=41.0)(seen).holds is False
    assert above(("low",), 40.0)(seen).holds is False
    assert above(("low",), 39.0)(seen).holds is True
    assert under(("low",), 40.0)(seen).holds is False
    assert under(("low",), 41.0)(seen).holds is True
    assert drops("low", "mine", 29.0)(seen).holds is True
    assert drops("low", "mine", 30.0)(seen).holds is False
    assert best_is("mine", ("mine", "near"))(seen).holds is True
    assert best_is("near", ("mine", "near"))(seen).holds is False
    assert best_is("near", ("absent", "near"))(seen).holds is None
    assert spread_within(("mine", "near"), 4.0)(seen).holds is True
    assert spread_within(("mine", "low"), 4.0)(seen).holds is False


def test_a_statement_at_every_eps_waits_for_every_eps() -> None:
    table = TABLES["clustr", "4"]
    (statement,) = table.statements
    cells: Cells = {("clustr-qtrades", "PGD-20", JUDGED, eps): wilson(50, 100) for eps in table.radii}
    (seen,) = [view.seen for view in views_of(table, cells) if view.label == "PGD-20 (judged head)"]
    assert statement.check(seen).holds is True
    cells["clustr-qtrades", "PGD-20", JUDGED, 16 / 255] = NOT_RUN_FAILED
    (seen,) = [view.seen for view in views_of(table, cells) if view.label == "PGD-20 (judged head)"]
    outcome = statement.check(seen)
    assert outcome.holds is None
    assert outcome.evidence.endswith("25.5/255 50.00, not run: clustr-qtrades at 16/255")
    cells["clustr-qtrades", "PGD-20", JUDGED, 2 / 255] = wilson(10, 100)
    (seen,) = [view.seen for view in views_of(table, cells) if view.label == "PGD-20 (judged head)"]
    assert statement.check(seen).holds is False


def test_the_closing_sentence_follows_the_head() -> None:
    table = TABLES["clustr", "E.4"]
    cells: Cells = {}
    for d in (1, 2, 4, 6, 10, 14, 0):
        model = f"clustr-qtrades@nearest={d}" if d else "clustr-qtrades"
        cells |= {(model, "clean", JUDGED, EPS): wilson(90, 100)}
        cells |= {(model, "PGD-20", PAPERS_HEAD, EPS): wilson(72 if d == 4 else 70, 100)}
        cells |= {(model, "PGD-20", JUDGED, EPS): wilson(5 * d, 100)}
        if d:
            cells |= {(model, "PGD-20", UNMASKED, EPS): wilson(4 * d, 100)}
    cells |= {(rival, "PGD-20", JUDGED, EPS): wilson(50, 100) for rival in ("free-at", "trades")}
    text = " ".join(closing(judged(table.statements, views_of(table, cells))).split())
    reproduced, _, refuted = text.partition(" -- not reproduced: ")
    for statement in ("D = 1 surpasses Free AT and TRADES", "about 20 % of the clusters (D = 4 of 20) is best"):
        assert f"{statement} [PGD-20 (paper's head)]" in reproduced
        assert f"{statement} [PGD-20 (judged head), PGD-20 (unmasked)]" in refuted
    assert "(at most 3.5) [clean, PGD-20 (paper's head)]" in reproduced
    assert "cannot be said" not in text


def test_ordinary_networks_stand_beside_the_magnet_attack_with_their_pgd() -> None:
    table = TABLES["clustr", "adaptive"]
    cells: Cells = {("trades", "PGD-100", JUDGED, EPS): wilson(50, 100)}
    cells |= {("clustr-qtrades", "Magnet-100, log domain", PAPERS_HEAD, EPS): wilson(60, 100)}
    seen = {view.label: view.seen for view in views_of(table, cells)}
    assert set(seen["Magnet-100, log domain (paper's head)"]) == {("trades", EPS), ("clustr-qtrades", EPS)}
    assert ("trades", "Magnet-100, log domain") not in {
        (line.model, line.quantity) for line in lines_of(table, load_claims("clustr"), cells)
    }


def test_what_is_absent_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(root: Path, split: str) -> Arrays:
        raise RequestError("not to be downloaded")

    monkeypatch.setitem(DATASETS, "svhn", unreachable)
    table = TABLES["clustr", "1"]
    zoo = subject_of(table, Options(samples=8))
    assert zoo.absent["at-pretraining"] == NOT_RUN_WEIGHTS
    assert zoo.names["clustr-qtrades"] == "clustr-qtrades"
    assert set(subject_of(table, Options(dataset="digits", samples=8)).absent.values()) == {NOT_RUN_WEIGHTS}
    without_data = subject_of(table, Options(dataset="svhn", data_root=tmp_path, samples=8))
    assert set(without_data.absent.values()) == {NOT_RUN_DATA}
    elsewhere = subject_of(table, Options(dataset="digits", samples=8, weights=ZOO))
    assert elsewhere.absent["nominal"] == "not run: trained on fashion-mnist"
    assert not elsewhere.names
    many = dataclasses.replace(table, models=("clustr-qtrades@nearest=99",))
    assert subject_of(many, Options(samples=8)).absent == {"clustr-qtrades@nearest=99": "not run: 20 clusters"}


def test_an_item_prints_writes_and_resumes(bench: Bench, workdir: Path) -> None:
    request = ("reproduce", "clustr", "E.1", "--samples", "8", "--workers", "1")
    done = bench(*request)
    assert done.code == 0, done.err
    for stated in ("21.60", "95.01", "fashion-mnist, the first 8 of 10000", "ResNet-18", "small-resnet", "nominal 15"):
        assert stated in done.out
    assert done.out.count("\nNot reproduced: ") + done.out.count("\nReproduced: ") == 1
    folder = workdir / "runs/reproduce-clustr-E.1"
    with (folder / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    measured = {row["model"]: row for row in rows if row["published_on"] == "cifar10"}
    assert measured["nominal-kmeans-head"]["published"] == "21.60"
    assert measured["nominal"]["n"] == "8"
    assert float(measured["nominal"]["low"]) < float(measured["nominal"]["measured"])
    assert "| nominal " in (folder / "table.md").read_text()
    records = {path: path.stat().st_mtime_ns for path in (folder / "units").iterdir()}
    again = bench(*request)
    assert (again.out, again.created) == (done.out, [])
    assert "unit 1 of" not in again.err
    assert {path: path.stat().st_mtime_ns for path in (folder / "units").iterdir()} == records
    assert "samples" in bench("reproduce", "clustr", "E.1", "--samples", "9").refused()
    assert bench("report", folder).code == 0


def test_attacks_go_through_both_heads_of_weights_from_a_folder(
    bench: Bench, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = dataclasses.replace(PGD20, attack="pgd20@steps=1,restarts=1,step_size=2/255")
    table = dataclasses.replace(
        TABLES["clustr", "E.4"],
        models=("clustr-qtrades@nearest=4", "clustr-qtrades", "trades"),
        quantities=(CLEAN, quick),
    )
    monkeypatch.setitem(package.PAPERS["clustr"], "E.4", lambda options: compare(table, options))
    (workdir / "mine").mkdir()
    for suffix in ("json", "safetensors"):
        shutil.copy(ZOO / f"clustr-qtrades.{suffix}", workdir / "mine")
    done = bench("reproduce", "clustr", "E.4", "--samples", "8", "--workers", "1", "--weights", "mine", "--out", "here")
    assert done.code == 0, done.err
    with (workdir / "here/table.csv").open() as file:
        rows = {(row["model"], row["quantity"], row["head"]): row for row in csv.DictReader(file)}
    for model in ("clustr-qtrades", "clustr-qtrades@nearest=4"):
        for head in ("scores", "judged"):
            assert rows[model, "PGD-20", head]["n"] == "8"
    assert rows["trades", "PGD-20", "judged"]["why_not"] == NOT_RUN_WEIGHTS


def test_times_are_ratios_of_whole_trainings() -> None:
    settings = Settings(images=264, rounds=1)
    measured = timed(("qtrades", "clustr"), load("fashion-mnist"), settings, lambda total, done: lambda: None)
    assert {name: value.warm_start for name, value in measured.items()} == {
        "nominal": False,
        "qtrades": False,
        "clustr": True,
    }
    assert 0 < measured["nominal"].seconds < measured["qtrades"].seconds
    whole = minutes(measured, ("qtrades", "clustr"))
    assert whole["qtrades"] == pytest.approx(RECIPES["qtrades"].settings().epochs * measured["qtrades"].seconds / 60)
    assert whole["clustr"] > RECIPES["clustr"].settings().epochs * measured["clustr"].seconds / 60


def test_a_time_table_is_printed_and_kept(bench: Bench, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = TimeTable("clustr", "2", "cifar10", TIMES[0].statements, Settings(images=240, rounds=1))
    monkeypatch.setitem(package.PAPERS["clustr"], "2", lambda options: compare_times(table, options))
    done = bench("reproduce", "clustr", "2")
    assert done.code == 0, done.err
    for stated in ("534", "12.71", "GTX 1080Ti", "15 of nominal, then 10", "4.64 published", "240 images"):
        assert stated in done.out
    kept = workdir / "runs/reproduce-clustr-2/times.json"
    before = kept.read_bytes()
    assert bench("reproduce", "clustr", "2").out == done.out
    assert kept.read_bytes() == before
    kept.write_text("[1]")
    assert "damaged" in bench("reproduce", "clustr", "2").refused()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nope"], "clustr, clustering-training"),
        (["clustr", "99"], "fig3, 1, 3, 4, adaptive, E.1, E.4, 2, 5"),
        (["clustering-training", "fig3"], "4.3"),
        (["clustr", "1", "--dataset", "cifra10"], "did you mean cifar10"),
        (["clustr", "1", "--dataset", "npz:absent.npz"], "no such file"),
        (["clustr", "1", "--weights", "absent"], "absent is not a folder with weight files"),
        (["clustr", "1", "--samples", "0"], "at least 1, got 0"),
        (["clustr", "1", "--samples", "10001"], "10000 test images, got 10001"),
        (["clustr", "1", "--workers", "-1"], "workers"),
    ],
)
def test_a_wrong_request_gets_one_line_before_any_work(bench: Bench, arguments: list[str], named: str) -> None:
    assert named in bench("reproduce", *arguments).refused()


def test_the_configuration_of_a_table_is_one_that_runs() -> None:
    for table in TABLES.values():
        attacks = [quantity.attack for quantity in table.quantities]
        threats = [{"norm": "linf", "eps": eps} for eps in table.eps]
        build_config({"models": ["nominal"], "attacks": attacks, "threats": threats}, {})
