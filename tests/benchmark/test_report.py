"""`bench report` as a page, LaTeX and figures: files, refusals, families and clean images."""

import json
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest

from benchmark.datasets import load
from benchmark.report import clean_images, families_of
from model_zoo.registry import zoo_cards
from results.gallery import CleanImages
from results.store import Store
from tests.benchmark.conftest import Bench
from tests.results.builders import unit
from tests.results.run_folders import Cells, write_run

CELLS: Cells = {
    ("net", "clean"): "SSSM",
    ("net", "pgd20"): "SBBM",
    ("other", "clean"): "SSSS",
    ("other", "pgd20"): "SSBB",
}


@pytest.fixture
def run(workdir: Path) -> Path:
    return write_run(workdir / "run", CELLS, eps=(0.1, 0.2))


def test_a_report_is_not_written_over_the_run(bench: Bench, run: Path) -> None:
    record = next((run / "units").glob("*.json"))
    for name in ("run/run.json", str(record)):
        before = Path(name).read_bytes()
        assert "is a file of the run" in bench("report", "run", "--format", "json", "--out", name).refused()
        assert "is a file of the run" in bench("regress", "run", "--write-baseline", name).refused()
        assert Path(name).read_bytes() == before


def test_an_image_that_the_record_promises_is_missed(bench: Bench, run: Path) -> None:
    for path in (run / "units").glob("*.json"):
        content = json.loads(path.read_text())
        if content["adversarial_sha256"] is not None:
            content["verdicts"] = ["broken"] * len(content["verdicts"])
            path.write_text(json.dumps(content))
    assert "has no image of sample 0" in bench("report", "run", "--format", "html").refused()


def test_the_page_is_written_into_the_run_and_named(bench: Bench, run: Path) -> None:
    done = bench("report", "run", "--format", "html")
    assert (done.code, done.out, done.err, done.created) == (0, "run/report.html\n", "", ["run/report.html"])
    text = (run / "report.html").read_text()
    assert text.startswith("<!doctype html>")
    assert "digits, linf ε = 0.2" in text
    assert "Published claims" not in text  # its models are nobody's
    assert "Without clean images: data set digits here is another one than the run" in text.replace("&#39;", "'")


def test_several_runs_make_one_page_at_out(bench: Bench, run: Path, workdir: Path) -> None:
    write_run(workdir / "more", CELLS, norm="l2", eps=(0.5,))
    done = bench("report", "run", "more", "--format", "html", "--out", "page.html")
    assert (done.code, done.created) == (0, ["page.html"])
    text = (workdir / "page.html").read_text()
    assert "run more" in text
    assert "digits, l2 ε = 0.5" in text


def test_latex_is_printed_or_written(bench: Bench, run: Path, workdir: Path) -> None:
    printed = bench("report", "run", "--format", "tex")
    assert printed.code == 0
    assert r"net & 75.00 & 25.00 & 0.00 & 25.00 & C \\" in printed.out
    written = bench("report", "run", "--format", "tex", "--out", "board.tex")
    assert (written.code, written.out, written.created) == (0, "board.tex\n", ["board.tex"])
    assert (workdir / "board.tex").read_text() == printed.out


def test_any_form_can_be_written_to_a_file(bench: Bench, run: Path, workdir: Path) -> None:
    assert bench("report", "run", "--format", "json", "--out", "rows.json").code == 0
    assert {row["model"] for row in json.loads((workdir / "rows.json").read_text())} == {"net", "other"}


def test_figures_are_drawn_beside_the_report(bench: Bench, run: Path, workdir: Path) -> None:
    done = bench("report", "run", "--format", "json", "--figures", "figures")
    assert done.code == 0
    assert len(json.loads(done.out)) == 4
    drawn = {path.name for path in (workdir / "figures").iterdir()}
    assert {"leaderboard-digits-linf-0.1.png", "curves-digits-linf.svg", "broken-digits-linf-0.2.png"} <= drawn
    assert done.err.count("figure: ") == len(drawn)


def test_an_incomplete_run_is_shown_as_such_with_exit_code_1(bench: Bench, workdir: Path) -> None:
    write_run(workdir / "half", CELLS, left_out=(("net", "pgd20"),))
    for form, told in (("html", "0/4 done"), ("tex", "0/4 done")):
        done = bench("report", "half", "--format", form, "--out", f"report.{form}")
        assert (done.code, done.err) == (1, "")
        assert told in (workdir / f"report.{form}").read_text()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run", "run2"], "several runs go into one page: --format html --out FILE"),
        (["run", "run2", "--format", "html"], "--out FILE"),
        (["run", "run/../run", "--format", "html", "--out", "x.html"], "given twice"),
        (["run", "old", "--format", "html", "--out", "x.html"], "cannot mix protocols 2, 3"),
        (["run", "--format", "pdf"], "terminal, md, csv, json, tex, html"),
        (["run", "--format", "tex", "--against", "net"], "--against goes with"),
        (["run", "--figures", "figures", "--against", "net"], "not with --figures"),
        (["run", "--out", "nowhere/x.md"], "there is no nowhere"),
        (["run", "--out", "run"], "run is a folder"),
        (["run", "--figures", "run/run.json"], "is not a folder"),
        (["run", "nowhere", "--format", "html", "--out", "x.html"], "nowhere is not a run folder"),
    ],
)
def test_wrong_requests_are_refused_before_anything_is_written(
    bench: Bench, run: Path, workdir: Path, arguments: list[str], told: str
) -> None:
    shutil.copytree(run, workdir / "run2")
    write_run(workdir / "old", CELLS, protocol=2, norm="l2")
    assert told in bench("report", *arguments).refused()


def test_a_plan_of_two_protocols_is_refused(bench: Bench, run: Path) -> None:
    Store(run).write_plan([unit(), unit(protocol=2)])
    for form in ("terminal", "html"):
        assert "cannot mix protocols 2, 3" in bench("report", "run", "--format", form).refused()


def test_damaged_images_are_named(bench: Bench, run: Path) -> None:
    path = next((run / "units").glob("*.safetensors"))
    path.write_bytes(zlib.compress(path.read_bytes()))
    assert path.name in bench("report", "run", "--format", "html").refused()


def test_clean_images_are_those_of_the_checksum() -> None:
    data = load("digits")
    found = clean_images(None)("digits", data.sha256)
    assert isinstance(found, CleanImages)
    assert np.array_equal(found.images, data.x.numpy())
    other = clean_images(None)("digits", "0" * 64)
    assert isinstance(other, str)
    assert "another one than the run's" in other
    missing = clean_images(None)("npz:nowhere.npz", "0" * 64)
    assert missing == "data set npz:nowhere.npz: no such file"


def test_class_names_come_with_the_images() -> None:
    found = clean_images(None)("fashion-mnist", load("fashion-mnist").sha256)
    assert isinstance(found, CleanImages)
    assert found.class_names[7] == "sneaker"


def test_families_are_of_the_cards_whose_weights_were_attacked() -> None:
    cards = zoo_cards()
    names = {
        "kmeans": "k-means",
        "clustr@scores": "clustering",
        "pgd-at": "ordinary",
        "clustr-learned-map": "clustering",
    }
    units = [unit(model=name, weights_sha256=cards[name.partition("@")[0]].identity) for name in names]
    units += [unit(model="nominal", weights_sha256="0" * 64), unit(model="mine:make"), unit(model="gone.safetensors")]
    assert {model: family for (model, _), family in families_of(units).items()} == names
