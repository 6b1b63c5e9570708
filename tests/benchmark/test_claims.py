"""`bench claims`: what ships is judged as it must be, runs are, and what cannot be judged is refused in one line."""

import csv
import dataclasses
import json
import re
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from benchmark.claims import counterparts, hold
from benchmark.reproduce.items import CLUSTERING_TRAINING, CLUSTR
from results.claims import PERCENTAGES, load_claims, papers
from results.matching import AT_LEAST, SAME
from results.page.claims import claims_section
from results.verdicts import UNDECIDED, Held, Judgement, Ruling
from tests.benchmark.conftest import Bench
from tests.results.builders import results_of
from tests.results.test_evidence import write

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(scope="module")
def held() -> Held:
    """What ships, against what ships."""
    return hold([])


def one(held: Held, paper: str, model: str, dataset: str, quantity: str, eps: float | None = 8 / 255) -> Judgement:
    (found,) = [
        one
        for one in held.of(paper)
        if (one.number.model, one.number.dataset, one.number.quantity) == (model, dataset, quantity)
        and (eps is None or one.number.eps == pytest.approx(eps))
        and one.number.table in ("", "1")
    ]
    return found


def test_every_number_of_every_paper_is_judged_once(held: Held) -> None:
    for name in papers():
        claims = load_claims(name).claims
        ranges = sum(claim.clean_min is not None and claim.clean_max is not None for claim in claims)
        stated = sum(getattr(claim, field) is not None for claim in claims for field in PERCENTAGES)
        assert len(held.of(name)) == stated - ranges
    assert len(held.of("robustbench")) == 185


def test_clustr_rests_on_a_weaker_protocol_by_robustbench_row(held: Held) -> None:
    for quantity, weak in (("pgd20", 0.57), ("pgd100", 0.56), ("magnet100", 0.48)):
        found = one(held, "clustr", "clustr-qtrades", "cifar10", quantity)
        assert found.ruling is Ruling.WEAKER
        assert found.evidence is not None
        assert found.evidence.source == "RobustBench Alfarra2020ClusTR"
        assert "AutoAttack leaves 0.00 %" in found.because
        assert "WideResNet-28-10" in found.because
        assert found.gap is not None
        assert (found.gap.seen, found.gap.weak.share.value, found.gap.strong.share.value) == (True, weak, 0.305)
    assert one(held, "clustr", "clustr-qtrades", "cifar10", "clean").ruling is Ruling.UPHELD
    svhn = one(held, "clustr", "clustr-qtrades", "svhn", "pgd100")
    assert svhn.ruling is Ruling.NOT_COMPARABLE
    assert svhn.gap is not None
    assert svhn.gap.seen


def test_trades_of_robustbench_is_another_network(held: Held) -> None:
    found = one(held, "clustr", "trades", "cifar10", "pgd100")
    assert found.ruling is Ruling.NOT_COMPARABLE
    assert "architecture (WideResNet-34-10, there ResNet-18)" in found.because
    assert found.gap is not None
    assert not found.gap.seen


def test_quotes_of_robustbench_are_upheld(held: Held) -> None:
    quoted = [one for one in held.of("clustering-training") if one.number.table == "1.0"]
    assert [(one.number.shown, one.ruling) for one in quoted] == [("0.00", Ruling.UPHELD), ("53.08", Ruling.UPHELD)]


def test_the_gain_of_k_means_is_of_transfer_at_an_eps_of_ours_and_denied_by_the_exact_verifier(held: Held) -> None:
    for dataset, transfer in (("mnist", 0.655), ("fashion-mnist", 0.625)):
        found = one(held, "kmeans", "kmeans-adv", dataset, "transfer", None)
        assert found.ruling is Ruling.WEAKER
        assert found.measured is not None
        assert found.measured.value == transfer
        assert found.strongest is not None
        assert (found.strongest.kind, found.strongest.share.value) == ("exact", 0.0)
        assert "the paper's eps is unknown" in found.because
        assert one(held, "kmeans", "kmeans", dataset, "transfer", None).ruling is Ruling.WEAKER
        assert one(held, "kmeans", "kmeans-adv", dataset, "clean", None).ruling is Ruling.UPHELD


def test_robustbench_is_judged_by_the_strongest_that_it_lists(held: Held) -> None:
    rulings = {(one.number.model, one.number.dataset, one.number.norm): one for one in held.of("robustbench")}
    assert rulings["Alfarra2020ClusTR", "cifar10", "linf"].ruling is Ruling.WEAKER
    assert rulings["Standard", "cifar10", "linf"].ruling is Ruling.UPHELD
    assert rulings["Wang2023Better_WRN-70-16", "cifar10", "linf"].ruling is Ruling.UPHELD
    kang = rulings["Kang2021Stable", "cifar10", "linf"]
    assert kang.ruling is Ruling.WEAKER
    assert kang.strongest is not None
    assert (kang.strongest.kind, kang.strongest.share.value) == ("external", 0.642)


def test_the_tables_attacks_are_those_that_verdicts_know() -> None:
    for table in (*CLUSTR, *CLUSTERING_TRAINING):
        for quantity in table.quantities:
            kind = quantity.attack.partition("@")[0]
            assert quantity.claim == kind == "clean" or kind in (*SAME[quantity.claim], *AT_LEAST[quantity.claim])


def test_stand_ins_are_those_of_the_tables() -> None:
    study = load_claims("clustering-training")
    (trades,) = study.of("4.3")
    assert set(counterparts("clustering-training", trades)) >= {"clustr-trades-1", "clustr-trades-2"}
    (nearest,) = [claim for claim in load_claims("clustr").of("E.4") if claim.dataset == "svhn"]
    assert counterparts("clustr", nearest) == ("clustr-qtrades@nearest=4",)


def test_the_pages_section_has_what_is_judged_or_seen_elsewhere_and_nothing_else(held: Held) -> None:
    section = claims_section(held)
    assert section is not None
    told = [
        one
        for one in held.judgements
        if one.number.paper != "robustbench" and (one.ruling not in UNDECIDED or one.gap is not None)
    ]
    assert 0 < len(section.rows) == len(told) < len(held.judgements)
    assert {len(row) for row in section.rows} == {len(section.columns)}
    (clustr,) = (row for row in section.rows if "PGD-100 74.04" in row)
    assert clustr[0] == "clustr, 1"
    assert "weaker protocol" in clustr
    assert "AutoAttack leaves 0.00 %" in clustr[-1]


def test_robustbench_rows_that_a_run_attacked_are_in_the_section(held: Held) -> None:
    row = held.of("robustbench")[0]
    assert row.evidence is not None
    ours = dataclasses.replace(row, evidence=dataclasses.replace(row.evidence, source="run"))
    section = claims_section(dataclasses.replace(held, judgements=(row, ours), runs=("run",)))
    assert section is not None
    assert [line[0] for line in section.rows] == ["robustbench, cifar10 l2"]


def test_a_section_of_nothing_is_none(held: Held) -> None:
    assert claims_section(dataclasses.replace(held, judgements=())) is None


def test_the_table_is_printed_and_the_figure_drawn(bench: Bench, workdir: Path) -> None:
    done = bench("claims", "--figure", "claims.svg")
    assert done.code == 0, done.err
    assert done.created == ["claims.svg"]
    drawn = (workdir / "claims.svg").read_text()
    assert "<svg" in drawn
    assert len(re.findall(r"<use ", drawn)) > 185
    lines = done.out.splitlines()
    assert len(lines) < 300
    text = " ".join(done.out.split())
    assert "16 differ from AutoAttack by more than 5 points, Alfarra2020ClusTR by 74.04" in text
    assert "clustr-qtrades on cifar10 is claimed to keep 34.98 to 74.44 %; AutoAttack leaves 0.00 %" in text
    assert "Finding:" in text


def test_the_readme_shows_what_is_printed(bench: Bench) -> None:
    printed = bench("claims").out
    shown = README.read_text().partition("Of what it prints:\n\n```\n")[2].partition("\n```")[0]
    assert len(shown.splitlines()) > 10
    for part in shown.split("\n...\n"):
        assert f"\n{part}\n" in printed, f"not printed, or not in this order:\n{part}"
        printed = printed.partition(f"\n{part}\n")[2]


def test_strict_gates_and_formats_hold_every_number(bench: Bench) -> None:
    assert bench("claims", "--paper", "kmeans", "--strict").code == 1
    assert bench("claims", "--paper", "clustering-training", "--strict").code == 0
    read = json.loads(bench("claims", "--format", "json").out)
    lines = list(csv.DictReader(StringIO(bench("claims", "--format", "csv").out)))
    assert len(read) == len(lines) == 298
    assert {entry["verdict"] for entry in read} <= set(map(str, Ruling))
    clustr = next(entry for entry in read if entry["model"] == "Alfarra2020ClusTR")
    assert (clustr["published_at_least"], clustr["strongest"], clustr["published_n"]) == (0.7404, 0.0, 10000)
    whole = bench("claims", "--paper", "robustbench", "--format", "md").out
    assert whole.count("\n| ") >= 185


def mine(folder: Path, claims: str) -> Path:
    path = folder.parent / "mine.yaml"
    path.write_text(f"title: Mine\nsource: here\nnorm: linf\neps: 8/255\nsamples: 1000\nclaims:\n{claims}")
    return path


def run_of(tmp_path: Path, cells: dict[str, str], **changes: Any) -> Path:
    """A run of my network, `cells` giving verdicts by attack."""
    table = {("mine:make", attack): letters for attack, letters in cells.items()}
    return write(tmp_path / "run", *results_of(table, **changes))


ROBUST = "  - {dataset: digits, model: 'mine:make', pgd20: 60, clean: 90}\n"


@pytest.mark.parametrize(
    ("autoattack", "verdict", "code"), [(70, "upheld", 0), (20, "weaker protocol", 1), (55, "upheld", 0)]
)
def test_my_own_claims_are_held_against_my_run(
    bench: Bench, workdir: Path, tmp_path: Path, autoattack: int, verdict: str, code: int
) -> None:
    cells = {"clean": "S" * 90 + "M" * 10, "pgd20": "S" * 70 + "B" * 20 + "M" * 10}
    cells["autoattack"] = "S" * autoattack + "B" * (90 - autoattack) + "M" * 10
    done = bench("claims", run_of(tmp_path, cells), "--file", mine(workdir, ROBUST), "--strict", "--format", "json")
    assert done.code == code, done.err
    clean, robust = json.loads(done.out)
    assert (clean["verdict"], robust["verdict"]) == ("upheld", verdict)
    assert (robust["measured"], robust["source"]) == (0.7, str(tmp_path / "run"))


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ({"clean": "SSSM"}, "none of 1 claims can be judged by it"),
        ({"clean": "SSSM", "noise": "SSSM"}, "none of 1 claims can be judged by it"),
        ({"clean": "SSSM", "pgd20": "SSSM"}, "no stronger attack was run beside it: add autoattack"),
    ],
)
def test_a_run_without_the_attacks_is_refused(
    bench: Bench, workdir: Path, tmp_path: Path, cells: dict[str, str], said: str
) -> None:
    done = bench("claims", run_of(tmp_path, cells), "--file", mine(workdir, ROBUST))
    assert said in done.refused()


def test_a_claim_that_nothing_stands_is_refuted_by_proofs(bench: Bench, workdir: Path, tmp_path: Path) -> None:
    folder = run_of(tmp_path, {"clean": "S" * 90 + "M" * 10, "exact": "C" * 80 + "B" * 10 + "M" * 10})
    done = bench("claims", folder, "--file", mine(workdir, "  - {dataset: digits, model: 'mine:make', pgd20: 0}\n"))
    assert done.code == 0, done.err
    assert "is claimed to keep at most 0.00 %; 80.00 % are proven to stand" in " ".join(done.out.split())


@pytest.mark.parametrize("name", ["robustbench", *papers()])
def test_a_file_by_the_name_of_a_source_is_refused(bench: Bench, workdir: Path, name: str) -> None:
    """It would be judged by the models that stand for that source's, and kmeans at an eps of ours."""
    named = mine(workdir, ROBUST).rename(workdir / f"{name}.yaml")
    assert "give the file another" in bench("claims", "--file", named).refused()


def test_a_run_of_other_models_and_an_incomplete_one_are_refused(bench: Bench, tmp_path: Path) -> None:
    folder = run_of(tmp_path, {"clean": "SSSM", "pgd20": "SSBM", "autoattack": "SBBM"})
    assert "none of 80 claims can be judged" in bench("claims", folder).refused()
    next((folder / "units").glob("*.json")).unlink()
    assert "is incomplete: 2 of 3 units are done" in bench("claims", folder).refused()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--paper", "nope"], "--paper must be one of clustering-training, clustr, kmeans, linearized, robustbench"),
        (["--paper", "linearized"], "no claim in numbers"),
        (["--format", "tex"], "format must be one of terminal, md, csv, json"),
        (["--figure", "claims.pdf"], "--figure must end in .png or .svg"),
        (["--figure", "nowhere/claims.png"], "--figure nowhere/claims.png cannot be written"),
        (["--file", "none.yaml"], "claims none.yaml cannot be read"),
        (["--file", "none.yaml", "--paper", "clustr"], "give --file or --paper, not both"),
        (["nowhere"], "nowhere is not a run folder"),
    ],
)
def test_a_wrong_request_is_one_line(bench: Bench, arguments: list[str], said: str) -> None:
    assert said in bench("claims", *arguments).refused()


def test_a_typo_in_a_file_of_claims_is_named(bench: Bench, workdir: Path) -> None:
    wrong = mine(workdir, "  - {dataset: digits, model: net, pgd2O: 60}\n")
    assert (
        "mine.yaml: unknown field claims.0.pgd2O; known: dataset, model" in bench("claims", "--file", wrong).refused()
    )
    wrong = mine(workdir, ROBUST)
    wrong.write_text(wrong.read_text().replace("norm: linf", "norm: l_inf"))
    assert "mine.yaml: norm: Input should be 'linf', 'l2' or 'l1'" in bench("claims", "--file", wrong).refused()


def test_sources_are_listed(bench: Bench) -> None:
    done = bench("list", "claims")
    assert done.code == 0
    assert all(name in done.out for name in (*papers(), "robustbench", "185"))
