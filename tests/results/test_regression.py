"""The regression gate: tests against transcriptions of the papers, gate logic, refusals, and what it writes."""

import json
import math
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from results.aggregate import UnsoundError
from results.baseline import SCHEMA_VERSION, Baseline, BaselineError, baseline_of, parse_renames, read_baseline
from results.paired import holm, p_of_loss, pair
from results.records import UnitRecord, WorkUnit
from results.regression import Change, Gate, Regression, regress
from results.render_regression import SHOWN, junit, listed, markdown, terminal, verdict
from tests.results.builders import record, results_of, unit

CLEAN_AND_PGD = {("net", "clean"): "S" * 200, ("net", "pgd20"): "S" * 150 + "B" * 50}


def made(cells: dict[tuple[str, str], str], **changes: Any) -> Baseline:
    return baseline_of(*results_of(cells, **changes))


def of(found: Regression, quantity: str, classifier: str = "net") -> Change:
    (change,) = [c for c in found.changes if (c.classifier, c.quantity) == (classifier, quantity)]
    return change


def robust(lost: int, won: int = 0, n: int = 200, name: str = "net") -> tuple[Baseline, Baseline]:
    """A run and its baseline of `n` right images, in which `lost` are newly broken and `won` newly safe."""
    rest = "S" * (n - lost - won)
    before = {(name, "clean"): "S" * n, (name, "pgd20"): "S" * lost + "B" * won + rest}
    after = {(name, "clean"): "S" * n, (name, "pgd20"): "B" * lost + "S" * won + rest}
    return made(after, weights_sha256="n" * 64), made(before)


# The tests of significance


@pytest.mark.parametrize(("kept", "lost"), [(0, 0), (0, 1), (5, 0), (0, 5), (3, 7), (12, 12), (9, 30)])
def test_p_of_a_loss_is_the_exact_upper_tail_of_a_fair_coin(kept: int, lost: int) -> None:
    first = {i: i < kept for i in range(kept + lost + 1)}
    second = {i: kept <= i < kept + lost for i in range(kept + lost + 1)}
    found = pair(first, second)
    tosses = kept + lost
    assert p_of_loss(found) == pytest.approx(sum(math.comb(tosses, i) for i in range(lost, tosses + 1)) / 2**tosses)
    if tosses:
        assert p_of_loss(found) == pytest.approx(binomtest(kept, tosses, alternative="less").pvalue)


@given(st.lists(st.floats(0, 1), max_size=12), st.floats(0.001, 0.999))
def test_holm_rejects_what_its_step_down_procedure_rejects(ps: list[float], alpha: float) -> None:
    m, rejected = len(ps), set()
    for k, i in enumerate(sorted(range(m), key=lambda i: ps[i]), start=1):  # Holm 1979, section 3
        if (m + 1 - k) * ps[i] > alpha:
            break
        rejected.add(i)
    assert {i for i, p in enumerate(holm(ps)) if p <= alpha} == rejected


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


# The gate


def test_the_same_run_passes() -> None:
    now = made(CLEAN_AND_PGD)
    for gate in (Gate(), Gate(points=0.0), Gate(points=0.0, strict=True)):
        found = regress(now, now, gate)
        assert found.passed
        assert [c.quantity for c in found.changes] == ["clean", "pgd20", "robust_upper"]
        assert not any(c.failed or c.newly_lost or c.newly_won for c in found.changes)
        assert verdict(found) == "passed: 2 comparisons of 1 classifiers, no sample newly broken"


@pytest.mark.parametrize(
    ("lost", "won", "points", "alpha", "passes"),
    [
        (20, 0, 1.0, 0.05, False),  # 10 points, p = 2 ** -20
        (20, 0, 10.0, 0.05, True),  # a loss of exactly the points allowed
        (20, 0, 9.9, 0.05, False),
        (4, 0, 1.0, 0.05, True),  # 2 points, but p = 1/16 twice counted
        (4, 0, 1.0, 0.125, False),  # p = 1/16, twice counted: exactly alpha
        (6, 0, 0.0, 0.05, False),  # p = 1/64
        (22, 20, 0.0, 0.05, True),  # a loss that chance explains
        (0, 20, 0.0, 0.05, True),  # a gain
    ],
)
def test_a_loss_fails_beyond_the_points_and_beyond_chance(
    lost: int, won: int, points: float, alpha: float, passes: bool
) -> None:
    found = regress(*robust(lost, won), Gate(points, alpha))
    change = of(found, "robust_upper")
    assert (change.found.lost, change.found.kept) == (lost, won)
    assert change.points == pytest.approx((won - lost) / 2)
    assert (change.before - change.after, change.newly_lost) == (lost - won, tuple(range(lost)))
    assert change.newly_won == tuple(range(lost, lost + won))
    assert change.adjusted == pytest.approx(min(1.0, 2 * change.p))
    assert (found.passed, change.failed) == (passes, not passes)


def test_a_loss_in_clean_accuracy_fails_too() -> None:
    before = made({("net", "clean"): "S" * 60, ("net", "pgd20"): "B" * 60})
    after = made({("net", "clean"): "M" * 12 + "S" * 48, ("net", "pgd20"): "M" * 12 + "B" * 48})
    found = regress(after, before, Gate())
    assert [c.quantity for c in found.changes if c.failed] == ["clean"]
    assert "newly misclassified: net, clean, linf 8/255: samples 0, 1, 2" in terminal(found)


def test_several_comparisons_are_corrected() -> None:
    """A loss that fails alone passes among nine other classifiers that lost nothing: it may be chance."""
    found = regress(*robust(6), Gate())
    assert not found.passed
    alone, others = robust(6), [robust(0, name=f"other{i}") for i in range(9)]
    now, before = (
        side.model_copy(update={"cases": (*side.cases, *(case for other in others for case in other[k].cases))})
        for k, side in enumerate(alone)
    )
    among = regress(now, before, Gate())
    assert len(among.gated) == 20
    assert of(among, "robust_upper").adjusted == pytest.approx(20 / 64)
    assert among.passed
    assert not regress(now, before, Gate(points=0.0, strict=True)).passed


def test_strict_counts_newly_lost_samples_and_nothing_else() -> None:
    sides = robust(lost=1, won=40)
    assert regress(*sides, Gate()).passed
    assert not regress(*sides, Gate(points=0.0, strict=True)).passed
    assert regress(*sides, Gate(points=0.5, strict=True)).passed  # 1 of 200
    assert not regress(*robust(lost=2), Gate(points=0.5, strict=True)).passed


def test_an_attack_that_breaks_what_another_broke_is_told_and_costs_nothing() -> None:
    before = made({("net", "clean"): "S" * 40, ("net", "pgd20"): "S" * 40, ("net", "screen"): "B" * 40})
    after = made({("net", "clean"): "S" * 40, ("net", "pgd20"): "B" * 40, ("net", "screen"): "B" * 40})
    found = regress(after, before, Gate(points=0.0, strict=True))
    assert found.passed
    assert (of(found, "pgd20").found.lost, of(found, "pgd20").gated) == (40, False)
    assert "newly broken: net, pgd20, linf 8/255: samples 0, 1, 2" in terminal(found)


def test_a_lost_proof_fails() -> None:
    def proving(letters: str) -> Baseline:
        units = [unit(attack=a, stop=20, proves=a == "exact") for a in ("clean", "exact")]
        return baseline_of(units, [record(units[0], "S" * 20), record(units[1], letters)])

    found = regress(proving("C" * 10 + "S" * 10), proving("C" * 20), Gate())
    assert [c.quantity for c in found.changes] == ["clean", "exact proves", "robust_lower", "robust_upper"]
    assert [c.quantity for c in found.changes if c.failed] == ["robust_lower"]
    assert "no longer proven: net, robust_lower" in terminal(found)


def test_heads_of_one_classifier_are_one_worst_case() -> None:
    cells = {("net", "clean"): "SSSS", ("net", "pgd20"): "SSSB", ("net@scores", "clean"): "SSSS"}
    before = made(cells | {("net@scores", "pgd20"): "SSSS"})
    after = made(cells | {("net@scores", "pgd20"): "BSSB"})
    found = regress(after, before, Gate(points=0.0, strict=True))
    assert [c.quantity for c in found.changes] == ["clean", "pgd20", "pgd20 on net@scores", "robust_upper"]
    assert [c.newly_lost for c in found.changes] == [(), (), (0, 3), (0,)]


def test_a_missing_classifier_fails_by_name_and_a_new_one_is_told() -> None:
    before = made({("net", "clean"): "SS", ("gone", "clean"): "SS"})
    after = made({("net", "clean"): "SS", ("new", "clean"): "SM"})
    found = regress(after, before, Gate())
    assert not found.passed
    assert verdict(found).startswith("FAILED: gone is in the baseline and not in the run (linf 8/255)")
    assert "new (linf 8/255) is new: the baseline does not have it" in terminal(found)
    kept = regress(after, made({("net", "clean"): "SS"}), Gate())
    assert kept.passed


@pytest.mark.parametrize(("strict", "smallest"), [(False, 6), (True, 3)])
def test_the_gate_says_what_it_cannot_see(strict: bool, smallest: int) -> None:
    gate = Gate(points=1.0, strict=strict)
    assert gate.smallest(200, comparisons=2) == smallest
    assert not regress(*robust(smallest), gate).passed
    assert regress(*robust(smallest - 1), gate).passed
    assert f"can fail from {smallest} of 200 samples on" in terminal(regress(*robust(0), gate))
    assert ("it cannot fail" in terminal(regress(*robust(0, n=4), Gate(points=99.0, strict=strict)))) is not strict


def test_notes_say_what_else_differs() -> None:
    units, records = results_of({("net", "clean"): "SS", ("net", "pgd20"): "SS"})
    before = baseline_of(units, records)
    place = records[1].provenance.model_copy(
        update={"commit": "e" * 40, "versions": {"python": "3.12"}, "finished": "9"}
    )
    moved = records[1].model_copy(update={"provenance": place, "search": "bfloat16"})
    notes = "\n".join(regress(baseline_of(units, [records[0], moved]), before, Gate()).notes)
    assert "the baseline's weights: net; a changed verdict comes from code, versions or processor" in notes
    assert "the run has units of several commits: " in notes
    assert "python 3.11 in the baseline, 3.12 here" in notes
    assert "net: pgd20 searched in float32 in the baseline, in bfloat16 here" in notes
    assert "other weights than in the baseline: net" in regress(*robust(0), Gate()).notes


def test_a_file_given_by_its_path_is_held_against_a_model_of_the_zoo() -> None:
    before = made({("net", "clean"): "SS", ("net", "pgd20"): "SB", ("net@scores", "pgd20"): "SS"})
    path = "a=b/net.safetensors"
    units, records = results_of(
        {(path, "clean"): "SS", (path, "pgd20"): "SB", (f"{path}@scores", "pgd20"): "SS"}, weights_sha256="n" * 64
    )
    renamed = baseline_of(units, records, parse_renames([f"{path}=net"]))
    assert {attack.model for attack in renamed.cases[0].attacks} == {"net", "net@scores"}
    assert regress(renamed, before, Gate(points=0.0, strict=True)).passed
    assert not regress(baseline_of(units, records), before, Gate()).passed
    with pytest.raises(BaselineError, match=r"no classifier .other. in the run; it has a=b/net\.safetensors"):
        baseline_of(units, records, {"other": "net"})
    both = results_of({("net", "clean"): "SS", ("old", "clean"): "SS"})
    with pytest.raises(BaselineError, match="--rename: the run has two classifiers 'net' then"):
        baseline_of(*both, {"old": "net"})
    for wrong in ("net", "=net", "net="):
        with pytest.raises(BaselineError, match="--rename must be NEW=OLD"):
            parse_renames([wrong])


# Refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data_sha256": "e" * 64, "dataset": "mnist"},
            "data_sha256: the run has mnist eeee.*the baseline digits dddd",
        ),
        ({"norm": "l2"}, "norm: the run has l2, the baseline linf"),
        ({"eps": 0.1}, "eps: the run has linf 0.1, the baseline linf 8/255"),
        ({"protocol": 2}, "protocol: the run has 2, the baseline 3"),
        ({"seed": 1}, "seed: the run has 1, the baseline 0 for net"),
        ({"search": "float32"}, "search: the run has float32, the baseline auto for net"),
        ({"params": {"steps": 7, "restarts": 10, "step_size": None}}, "params.steps: the run has 7, the baseline 20"),
        ({"params": {"steps": 20, "restarts": 10}}, "params.step_size: the run has nothing, the baseline None"),
    ],
)
def test_another_request_is_refused_by_field(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BaselineError, match=message):
        regress(made(CLEAN_AND_PGD, **changes), made(CLEAN_AND_PGD), Gate())


def test_other_samples_and_attacks_are_refused_by_field() -> None:
    def parts(*spans: tuple[int, int]) -> Baseline:
        units = [unit(attack=a, start=start, stop=stop) for a in ("clean", "pgd20") for start, stop in spans]
        return baseline_of(units, [record(u, "S" * (u.stop - u.start)) for u in units])

    before = parts((0, 4))
    for other, message in (
        (parts((0, 3)), "n: the run has 3, the baseline 4 for net"),
        (parts((4, 8)), "sample_ids: the run has 4-7, the baseline 0-3"),
        (parts((0, 2), (6, 8)), "sample_ids: the run has 0-1, 6-7, the baseline 0-3"),
        (parts((0, 2), (2, 4)), "unit_size: the run has 2, the baseline 4"),
        (made({("net", "clean"): "SSSS"}), "attacks: the run has , the baseline pgd20"),
        (
            made({("net", "clean"): "SSSS", ("net", "pgd20"): "SSSS", ("net", "screen"): "SSSS"}),
            "attacks: the run has pgd20, screen, the baseline pgd20 for net",
        ),
    ):
        with pytest.raises(BaselineError, match=message):
            regress(other, before, Gate())


def test_runs_that_prove_nothing_are_refused() -> None:
    units, records = results_of({("net", "clean"): "SS", ("net", "pgd20"): "SB"})
    with pytest.raises(BaselineError, match="the run is incomplete: 1 of 2 units are not done"):
        baseline_of(units, records[:1])
    with pytest.raises(BaselineError, match="the run is incomplete"):
        baseline_of([], [])
    mixed = [units[0], unit(stop=2, protocol=2)]
    with pytest.raises(BaselineError, match="protocol: the run mixes 2 and 3"):
        baseline_of(mixed, [record(u, "SS") for u in mixed])
    with pytest.raises(BaselineError, match="sample_ids: clean on all heads"):
        baseline_of(units[1:], records[1:])
    unsound = results_of({("net", "clean"): "S", ("net", "pgd20"): "B", ("net", "exact"): "C"})
    with pytest.raises(UnsoundError, match="sample 0 is both broken and certified"):
        baseline_of(*unsound)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, 2.0, math.nan])
def test_alpha_is_within_0_and_1(alpha: float) -> None:
    with pytest.raises(BaselineError, match=r"alpha must be in \(0, 1\), got"):
        Gate(alpha=alpha)


@pytest.mark.parametrize("points", [-1.0, -0.001, 100.0, math.inf, math.nan])
def test_points_are_not_negative(points: float) -> None:
    with pytest.raises(BaselineError, match=r"points must be in \[0, 100\), got"):
        Gate(points=points)


# The file


def test_a_baseline_comes_back_as_it_was(tmp_path: Path) -> None:
    units = [
        unit(attack=a, start=start, stop=start + 3, proves=a == "exact")
        for a in ("clean", "exact", "pgd20")
        for start in (0, 3)
    ]
    letters = ["SSM", "SSS", "BCM", "SCC", "BSM", "BCC"]
    now = baseline_of(units, list(map(record, units, letters)))
    path = tmp_path / "baseline.json"
    path.write_text(now.text())
    assert read_baseline(path) == now
    (case,) = now.cases
    assert (case.clean, case.worst, case.samples) == ("SSMSSS", "BCMBCC", ((0, 6),))
    assert '"verdicts": "BSMBCC"' in now.text()
    backwards = baseline_of(units[::-1], [record(u, v) for u, v in zip(units, letters, strict=True)])
    assert backwards.cases[0].worst == case.worst


def _edit(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content.update(changes)


def _case(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["cases"][0].update(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_edit(schema_version=SCHEMA_VERSION + 1), "schema_version: --baseline .* has 2, this bench reads 1"),
        (lambda content: content.pop("schema_version"), "it has no schema_version"),
        (_edit(cases=[]), "is damaged: cases: "),
        (_edit(surprise=1), "is damaged: surprise: "),
        (_case(clean="S" * 199 + "X"), "is damaged: cases.0.clean: "),
        (_case(clean="S" * 199), "is damaged: cases.0: net: the verdicts are not one letter for each of 200 samples"),
        (_case(worst="S" * 200), "is damaged: cases.0: net: worst is not the worst case of clean and attacks"),
        (_case(clean="C" * 200), "is damaged: cases.0: net: sample 150 is both broken and certified"),
        (_case(samples=[[0, 150], [100, 150]]), "is damaged: cases.0: net: samples are not ascending ranges"),
        (_case(eps=-1), "is damaged: cases.0.eps: "),
        (lambda content: content["cases"].append(content["cases"][0]), "classifier net is there twice"),
        (
            lambda content: content["cases"][0]["attacks"].append(content["cases"][0]["attacks"][0]),
            "attacks names one entry twice",
        ),
    ],
)
def test_a_damaged_file_is_refused_by_field(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    path = tmp_path / "baseline.json"
    content = json.loads(made(CLEAN_AND_PGD).text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(BaselineError, match=message) as error:
        read_baseline(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b"7", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_baseline_is_refused(tmp_path: Path, payload: bytes) -> None:
    path = tmp_path / "baseline.json"
    with pytest.raises(BaselineError, match="cannot be read: No such file"):
        read_baseline(path)
    path.write_bytes(payload)
    with pytest.raises(BaselineError, match="is damaged"):
        read_baseline(path)


# What it writes


def failing() -> Regression:
    """Two classifiers of which one loses 25 samples, one that is missing, and a name that means to harm."""
    evil = "a|b<script>&\x00\x1b"
    before: dict[tuple[str, str], str] = {}
    after: dict[tuple[str, str], str] = {}
    for name, lost in (("net", 25), (evil, 0)):
        before |= {(name, "clean"): "S" * 100, (name, "pgd20"): "S" * 100}
        after |= {(name, "clean"): "S" * 100, (name, "pgd20"): "B" * lost + "S" * (100 - lost)}
    return regress(made(after), made(before | {("gone", "clean"): "S" * 100}), Gate())


def test_junit_has_a_test_case_a_quantity_and_counts_its_failures() -> None:
    found = failing()
    root = ET.fromstring(junit(found))
    suite = root.find("testsuite")
    assert suite is not None
    cases = suite.findall("testcase")
    failures = [case for case in cases if case.find("failure") is not None]
    assert len(cases) == len(found.changes) + 1 == 7
    for element in (root, suite):
        assert (element.get("tests"), element.get("failures")) == ("7", "2")
        assert (element.get("errors"), element.get("skipped")) == ("0", "0")
    assert len({(case.get("classname"), case.get("name")) for case in cases}) == 7
    assert [(case.get("classname"), case.get("name")) for case in failures] == [
        ("digits linf 8/255.net", "robust_upper"),
        ("digits linf 8/255.gone", "is in the run"),
    ]
    failure = failures[0].find("failure")
    assert failure is not None
    assert "robust_upper -25.00 points at linf 8/255 (25 newly broken, 0 newly safe" in (failure.get("message") or "")
    assert f"samples {', '.join(map(str, range(SHOWN)))} and 5 more" in (failure.text or "")
    assert "a|b<script>&??" in (cases[3].get("classname") or "")


def test_markdown_begins_with_the_verdict_and_folds_the_rest() -> None:
    text = markdown(failing())
    head, folded = text.split("<details>")
    first, *_ = head.splitlines()
    assert first.startswith("**Robustness gate:** FAILED: net: robust_upper -25.00 points")
    assert "gone is in the baseline and not in the run" in first
    assert "| FAILED |" in head
    assert "pgd20" not in head
    assert "pgd20" in folded
    assert "and 5 more" in folded
    assert text.rstrip().endswith("</details>")
    assert "<script>" not in text
    rows = [line for line in text.splitlines() if line.startswith("| a")]
    assert rows
    assert all(line.replace("\\|", "").count("|") == 11 for line in rows)


def test_the_terminal_names_what_to_look_at() -> None:
    text = terminal(failing())
    assert text.startswith("FAILED: net: robust_upper -25.00 points")
    assert "digits, linf eps = 8/255, n = 100" in text
    assert "newly broken: net, robust_upper, linf 8/255: samples 0, 1, 2" in text
    assert listed(range(SHOWN)) == ", ".join(map(str, range(SHOWN)))


def test_a_loss_within_the_gate_is_told() -> None:
    assert verdict(regress(*robust(1), Gate())) == (
        "passed: 2 comparisons of 1 classifiers, up to 1 samples newly broken in one "
        "(fails beyond 1 points with p at most 0.05 after Holm)"
    )


def test_units_and_records_are_only_read() -> None:
    units, records = results_of(CLEAN_AND_PGD)
    copies: tuple[list[WorkUnit], list[UnitRecord]] = (list(units), list(records))
    baseline_of(units, records)
    assert (units, records) == copies
