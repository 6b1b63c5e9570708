"""Rows built by hand, in every form: fractions for machines, percentages for people, the undefined empty."""

import csv
import dataclasses
import json
import re
from io import StringIO
from typing import Any

import pytest

from results.aggregate import wilson
from results.leaderboard import Row, leaderboard
from results.notes import show_eps
from results.render import FORMATS, as_csv, as_json, markdown, render, terminal
from tests.results.builders import results_of, row

UNDEFINED = row(
    model="late",
    group="late",
    rank=None,
    done=100,
    clean=None,
    attacks={},
    robust_upper=None,
    robust_lower=None,
)


def _json(rows: list[Row]) -> list[dict[str, Any]]:
    content = json.loads(as_json(rows))
    assert isinstance(content, list)
    return content


def _csv(rows: list[Row]) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(as_csv(rows))))


def _cells(text: str, model: str) -> dict[str, str]:
    """The line of a model in a markdown table, by column."""
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    header = [cell.strip() for cell in lines[0]]
    (found,) = [line for line in lines if line[1].strip() == model]
    return dict(zip(header, (cell.strip() for cell in found), strict=True))


def test_json_has_the_fields_of_the_architecture_with_fractions() -> None:
    (found,) = _json([row(flags=["pgd20: odd"])])
    attack, worst = wilson(90, 200), wilson(88, 200)
    expected = {
        "model": "net",
        "dataset": "digits",
        "norm": "linf",
        "eps": 8 / 255,
        "n": 200,
        "clean": 0.95,
        "attacks": {"pgd20": {"robust_accuracy": 0.45, "low": attack.low, "high": attack.high, "n": 200}},
        "robust_upper": worst.value,
        "robust_lower": 0.0,
        "flags": ["pgd20: odd"],
    }
    assert {name: found[name] for name in expected} == expected


def test_json_writes_the_undefined_as_null() -> None:
    (found,) = _json([UNDEFINED])
    for name in ("rank", "clean", "robust_upper", "robust_lower"):
        assert found[name] is None
    assert found["attacks"] == {}
    assert (found["n"], found["done"]) == (200, 100)


def test_json_tells_zero_from_undefined() -> None:
    (found,) = _json([row(robust_upper=wilson(0, 200), attacks={"pgd20": wilson(0, 200)})])
    assert found["robust_upper"] == 0.0
    assert found["attacks"]["pgd20"]["robust_accuracy"] == 0.0


def test_csv_holds_fractions_with_their_intervals() -> None:
    (found,) = _csv([row(flags=["one", "two"])])
    for name, proportion in (
        ("clean", wilson(190, 200)),
        ("pgd20", wilson(90, 200)),
        ("robust_upper", wilson(88, 200)),
    ):
        assert float(found[name]) == proportion.value
        assert float(found[f"{name}_low"]) == proportion.low
        assert float(found[f"{name}_high"]) == proportion.high
    assert float(found["robust_lower"]) == 0.0
    assert float(found["eps"]) == 8 / 255
    assert (found["rank"], found["model"], found["dataset"], found["norm"]) == ("1", "net", "digits", "linf")
    assert (found["n"], found["done"], found["flags"]) == ("200", "200", "one; two")


def test_csv_leaves_the_undefined_empty() -> None:
    complete, late = _csv([row(), UNDEFINED])
    for name in ("clean", "clean_low", "pgd20", "pgd20_high", "robust_upper", "robust_lower", "rank"):
        assert late[name] == ""
        assert complete[name] != ""
    (alone,) = _csv([UNDEFINED])
    assert (alone["rank"], alone["robust_upper"]) == ("", "")


def test_csv_leaves_an_attack_that_does_not_apply_empty() -> None:
    other = row(model="kmeans", group="kmeans", attacks={"pgd20": wilson(1, 200), "magnet100": wilson(2, 200)})
    first, second = _csv([row(), other])
    assert (first["magnet100"], float(second["magnet100"])) == ("", 0.01)


def test_markdown_shows_percentages_with_two_decimals() -> None:
    third = row(n=3, clean=wilson(2, 3), attacks={"pgd20": wilson(1, 3)}, robust_upper=wilson(1, 3))
    cells = _cells(markdown([third]), "net")
    assert (cells["#"], cells["clean"], cells["pgd20"]) == ("1", "66.67", "33.33")
    interval = wilson(1, 3)
    assert cells["robust_upper"] == f"33.33 ({100 * interval.low:.1f}–{100 * interval.high:.1f})"


def test_markdown_shows_what_is_undefined_as_a_dash_and_the_progress_instead_of_the_worst_case() -> None:
    cells = _cells(markdown([row(), UNDEFINED]), "late")
    assert cells == {
        "#": "",
        "model": "late",
        "clean": "–",
        "pgd20": "–",
        "robust_lower": "–",
        "robust_upper": "100/200 done",
        "trust": "–",
    }


def test_markdown_shows_a_real_zero_as_zero() -> None:
    cells = _cells(markdown([row(attacks={"pgd20": wilson(0, 200)}, robust_upper=wilson(0, 200))]), "net")
    assert cells["pgd20"] == "0.00"
    assert cells["robust_upper"].startswith("0.00 (0.0–")


@pytest.mark.parametrize("form", ["terminal", "md"])
def test_every_threat_has_its_own_titled_table(form: str) -> None:
    rows = [row(), row(eps=4 / 255), row(norm="l2", eps=0.5), row(dataset="mnist", n=100, done=100)]
    text = render(rows, form)
    for title in (
        "digits, linf eps = 8/255, n = 200",
        "digits, linf eps = 4/255, n = 200",
        "digits, l2 eps = 0.5, n = 200",
        "mnist, linf eps = 8/255, n = 100",
    ):
        assert text.count(title) == 1


@pytest.mark.parametrize("form", ["terminal", "md"])
def test_another_head_of_a_classifier_is_shown_under_it_without_a_second_rank(form: str) -> None:
    cells = {
        ("net", "pgd20"): "SSBB",
        ("net@scores", "pgd20"): "SSSB",
        ("best", "pgd20"): "SSSS",
    }
    text = render(leaderboard(*results_of(cells)), form)
    lines = [line for line in text.splitlines() if re.search(r"best|net|@scores", line)]
    assert [re.findall(r"↳ @scores|net|best", line) for line in lines] == [["best"], ["net"], ["↳ @scores"]]
    assert "50.00" in lines[1]
    assert "75.00" in lines[2]
    ranks = [re.split(r"[|│┃]", line)[1].strip() for line in lines]
    assert ranks == ["1", "2", ""]


@pytest.mark.parametrize("form", ["terminal", "md"])
def test_flags_are_notes_that_name_their_model_literally(form: str) -> None:
    flag = "autoattack: autoattack warns: [red]zero gradient[/red] at [3, 4] and [/x]"
    assert f"net: {flag}" in render([row(flags=[flag])], form)


def test_the_terminal_shows_brackets_in_names_literally() -> None:
    name = "weights[a]/net.safetensors"
    text = terminal([row(model=name, group=name, dataset="npz:data[b].npz")])
    assert name in text
    assert "npz:data[b].npz" in text


def test_the_terminal_shows_the_widest_shipped_table_whole() -> None:
    """All attacks of the full configuration, the longest name of its models, no number cut off."""
    attacks = ["noise", "transfer", "pgd20", "pgd100", "cw100", "magnet100", "magnet100-published", "autoattack"]
    wide = row(
        model="nominal-kmeans-head",
        group="nominal-kmeans-head",
        n=1000,
        done=1000,
        clean=wilson(1000, 1000),
        attacks={name: wilson(1000 - i, 1000) for i, name in enumerate(attacks)},
        robust_upper=wilson(989, 1000),
    )
    text = terminal([wide])
    assert "…" not in text
    for name, proportion in wide.attacks.items():
        assert name in text
        assert f"{100 * proportion.value:.2f}" in text
    assert wide.robust_upper is not None
    low, high = 100 * wide.robust_upper.low, 100 * wide.robust_upper.high
    assert f"98.90 ({low:.1f}–{high:.1f})" in text


@pytest.mark.parametrize("length", [60, 140, 200])
def test_a_long_model_name_cuts_no_number_off(length: int) -> None:
    name = "x" * (length - 12) + ".safetensors"
    text = terminal([row(model=name, group=name, attacks={"pgd20@steps=2,restarts=1": wilson(90, 200)})])
    low, high = 100 * wilson(88, 200).low, 100 * wilson(88, 200).high
    for shown in ("95.00", "45.00", f"44.00 ({low:.1f}–{high:.1f})", "pgd20@steps=2,restarts=1"):
        assert shown in text


def test_all_forms_are_reached_by_name() -> None:
    assert set(FORMATS) >= {"terminal", "md", "csv", "json"}
    assert render([row()], "json") == as_json([row()])
    assert render([row()], "csv") == as_csv([row()])


@pytest.mark.parametrize(
    ("eps", "shown"),
    [
        (8 / 255, "8/255"),
        (1 / 255, "1/255"),
        (0.5 / 255, "0.5/255"),
        (16 / 255, "16/255"),
        (0.5, "0.5"),
        (0.3, "0.3"),
        (0.031, "0.031"),
        (1.0, "1"),
        (3.0, "3"),
        (1e-9, "1e-09"),
    ],
)
def test_eps_is_shown_as_people_write_it(eps: float, shown: str) -> None:
    assert show_eps(eps) == shown


@pytest.mark.parametrize("eps", [k / 510 for k in range(1, 60)] + [0.03, 0.1, 0.25, 1.5, 4 / 255 + 1e-5])
def test_what_is_shown_as_eps_is_the_eps(eps: float) -> None:
    numerator, _, denominator = show_eps(eps).partition("/")
    assert float(numerator) / float(denominator or 1) == pytest.approx(eps, rel=1e-5)


VERIFIED = row(
    model="kmeans",
    group="kmeans",
    attacks={"exact": wilson(80, 200), "pgd20": wilson(90, 200), "noise": wilson(95, 200)},
    proofs={"exact": wilson(77, 200)},
    robust_upper=wilson(80, 200),
    robust_lower=wilson(77, 200),
    exactly_broken=110,
    missed={"pgd20": 10, "noise": 15},
)


def test_a_verifier_has_one_column_with_what_it_proves() -> None:
    text = markdown([row(), VERIFIED])
    proven, plain = _cells(text, "kmeans"), _cells(text, "net")
    shown = ["#", "model", "clean", "pgd20", "noise", "exact proves", "robust_lower", "robust_upper", "trust"]
    assert list(proven) == shown
    assert (proven["exact proves"], proven["robust_lower"]) == ("38.50", "38.50")
    assert proven["robust_upper"].startswith("40.00 (")
    assert (plain["exact proves"], plain["noise"], plain["robust_lower"]) == ("–", "–", "0.00")


@pytest.mark.parametrize("form", ["terminal", "md"])
def test_blind_spots_and_what_is_left_undecided_are_told(form: str) -> None:
    text = render([row(), VERIFIED], form)
    assert "kmeans: of 110 samples broken by exact verification, missed: 10 by pgd20, 15 by noise" in text
    assert "kmeans: 3 samples neither broken nor certified" in text
    assert "net: " not in text


@pytest.mark.parametrize("form", ["terminal", "md"])
def test_what_is_left_undecided_is_told_where_nothing_broke(form: str) -> None:
    nothing_broken = dataclasses.replace(VERIFIED, exactly_broken=0, missed={})
    text = render([nothing_broken], form)
    assert "kmeans: 3 samples neither broken nor certified" in text
    assert "missed" not in text


@pytest.mark.parametrize("form", ["terminal", "md"])
def test_nothing_is_told_of_an_unfinished_row(form: str) -> None:
    late = dataclasses.replace(VERIFIED, robust_upper=None, robust_lower=None, done=100, exactly_broken=0, missed={})
    assert "neither broken" not in render([late], form)


def test_machines_get_both_bounds_and_what_verifiers_prove() -> None:
    (found,) = _json([VERIFIED])
    proof = wilson(77, 200)
    assert found["proofs"] == {"exact": {"certified_accuracy": 0.385, "low": proof.low, "high": proof.high, "n": 200}}
    assert found["attacks"]["exact"]["robust_accuracy"] == 0.4
    assert (found["robust_lower"], found["robust_upper"]) == (0.385, 0.4)
    assert (found["exactly_broken"], found["missed"]) == (110, {"pgd20": 10, "noise": 15})
    plain, proven = _csv([row(), VERIFIED])
    assert (float(proven["exact_proves"]), float(proven["exact_proves_low"])) == (0.385, proof.low)
    assert (float(proven["exact"]), float(proven["robust_lower"]), plain["exact_proves"]) == (0.4, 0.385, "")


def test_a_bar_in_a_name_does_not_divide_a_cell() -> None:
    text = markdown([row(model="a|b", group="a|b", attacks={"mine@x=1|2": wilson(90, 200)})])
    (line,) = [line for line in text.splitlines() if "a\\|b" in line]
    header = next(line for line in text.splitlines() if "mine@x=1\\|2" in line)
    for shown in (line, header):
        assert len(re.findall(r"(?<!\\)\|", shown)) == 8
