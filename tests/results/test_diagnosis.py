"""Findings from records alone, on verdicts written by hand."""

from typing import Any

import pytest

from results.diagnosis import findings, one_sided
from results.findings import CHECKS, TOLD, Finding, Severity, read_flag, without_repeats
from results.leaderboard import leaderboard
from results.records import UnitRecord, WorkUnit
from results.render import markdown, terminal
from results.trust import Grade
from tests.results.builders import record, results_of, unit


def _found(units: list[WorkUnit], records: list[UnitRecord]) -> list[Finding]:
    return [finding for members in findings(units, records).values() for finding in members]


def _of(check: str, found: list[Finding]) -> list[tuple[Severity, str | None, int | None, int | None]]:
    return [(f.severity, f.attack, f.count, f.n) for f in found if f.check == check]


def _won(of: UnitRecord, winner: str, *samples: int) -> UnitRecord:
    winners = [winner if sample in samples else name for sample, name in enumerate(of.winners)]
    return of.model_copy(update={"winners": winners})


@pytest.mark.parametrize("attack", ["noise", "transfer"])
def test_a_sample_that_gradients_left_and_others_broke_is_one_too_many(attack: str) -> None:
    units, records = results_of({("net", "clean"): "SSSM", ("net", "pgd20"): "BSSM", ("net", attack): "BBSM"})
    assert _of(f"{attack}-beats-white-box", _found(units, records)) == [(Severity.FLATTERS, None, 1, 4)]


def test_a_break_by_gradients_through_any_head_counts() -> None:
    cells = {("net", "pgd20"): "SSSM", ("net", "noise"): "SBSM", ("net@scores", "pgd20"): "SBSM"}
    assert _of("noise-beats-white-box", _found(*results_of(cells))) == []


@pytest.mark.parametrize(("won", "n", "told"), [(1, 200, True), (1, 500, False), (2, 1000, False), (3, 1000, True)])
def test_square_may_help_by_a_fifth_of_a_point_and_no_more(won: int, n: int, told: bool) -> None:
    units, records = results_of({("net", "autoattack"): "B" * won + "S" * (n - won)})
    found = _found(units, [_won(records[0], "square", *range(won))])
    assert _of("square-beats-white-box", found) == ([(Severity.FLATTERS, None, won, n)] if told else [])


def test_square_first_in_an_ensemble_is_not_held_against_the_gradients_that_never_saw_its_samples() -> None:
    units, records = results_of({("net", "screen"): "BSSS", ("net", "noise"): "BSSS"})
    found = _found(units, [_won(records[0], "square-100", 0), records[1]])
    assert not [f for f in found if "beats" in f.check]


def _ladder(*verdicts: str, attack: str = "pgd20") -> tuple[list[WorkUnit], list[UnitRecord]]:
    units = [unit(attack=attack, stop=len(v), eps=0.1 * (place + 1)) for place, v in enumerate(verdicts)]
    return units, [record(u, v) for u, v in zip(units, verdicts, strict=True)]


def test_a_sample_broken_at_a_smaller_eps_must_not_stand_at_a_larger() -> None:
    found = findings(*_ladder("BBSS", "SSSB"))
    first, second = ([f for f in members if f.check == "eps-ladder"] for members in found.values())
    assert first == []
    assert [(f.severity, f.attack, f.count, f.n) for f in second] == [
        (Severity.FLATTERS, None, 2, 4),
        (Severity.BLIND, "pgd20", 2, 4),
    ]
    assert "rises from 2 of 4 samples at eps 0.1 to 3 at eps 0.2" in second[1].seen


def test_a_ladder_that_falls_is_clean_and_a_break_is_remembered_over_steps() -> None:
    assert _of("eps-ladder", _found(*_ladder("BSSS", "BBSS", "BBBS"))) == []
    assert _of("eps-ladder", _found(*_ladder("BSSS", "BBSS", "SBBB"))) == [(Severity.FLATTERS, None, 1, 4)]


def test_one_attack_may_miss_what_another_breaks() -> None:
    units, records = _ladder("BSSS", "SSSS")
    more, also = _ladder("SSSS", "BSSS", attack="cw100")
    found = _found(units + more, records + also)
    assert _of("eps-ladder", found) == [(Severity.BLIND, "pgd20", 1, 4)]


def test_other_weights_are_no_step_of_the_ladder() -> None:
    units = [unit(eps=0.1), unit(eps=0.2, weights_sha256="v" * 64)]
    assert _of("eps-ladder", _found(units, [record(units[0], "BBBB"), record(units[1], "SSSS")])) == []


LONG: dict[str, Any] = {"attack": "pgd100", "params": {"steps": 100, "restarts": 10, "step_size": None}}


@pytest.mark.parametrize(
    ("more", "told"), [(4, False), (5, True)]
)  # five heads of five tosses: p = 1/32, four of four: 1/16
def test_more_steps_that_break_significantly_more_make_the_shorter_attack_blind(more: int, told: bool) -> None:
    units = [unit(stop=20), unit(stop=20, **LONG)]
    found = _found(units, [record(units[0], "S" * 20), record(units[1], "B" * more + "S" * (20 - more))])
    assert _of("stopped-early", found) == ([(Severity.BLIND, "pgd20", more, 20)] if told else [])


@pytest.mark.parametrize(
    "longer",
    [
        {"attack": "cw100", "params": LONG["params"]},
        {"attack": "pgd100", "params": LONG["params"] | {"step_size": 0.1}},
        {"attack": "pgd100", "params": LONG["params"] | {"restarts": 1}},
    ],
)
def test_another_loss_step_or_fewer_restarts_is_another_attack(longer: dict[str, Any]) -> None:
    units = [unit(stop=20), unit(stop=20, **longer)]
    assert _of("stopped-early", _found(units, [record(units[0], "S" * 20), record(units[1], "B" * 20)])) == []


def test_the_sign_test() -> None:
    assert [one_sided(*pair) for pair in ((0, 0), (5, 0), (1, 1), (0, 3))] == [1.0, 1 / 32, 0.75, 1.0]


@pytest.mark.parametrize(("verdicts", "told"), [("SSMM", True), ("SSSM", False)])
def test_a_model_that_is_right_no_more_often_than_one_answer_is_guessing(verdicts: str, told: bool) -> None:
    units, (of,) = results_of({("net", "clean"): verdicts})
    labelled = of.model_copy(update={"labels": [0, 0, 1, 2]})
    found = _of("guessing", _found(units, [labelled]))
    assert found == ([(Severity.FLATTERS, None, 2, 4)] if told else [])


@pytest.mark.parametrize("attacks", [["clean"], ["clean", "noise"], ["clean", "transfer"]])
def test_nobody_looked_with_gradients(attacks: list[str]) -> None:
    units, records = results_of({("net", attack): "SSSS" for attack in attacks})
    assert _of("no-white-box", _found(units, records)) == [(Severity.FLATTERS, None, None, None)]
    assert leaderboard(units, records)[0].trust is not None


@pytest.mark.parametrize(("eps", "certified_at", "told"), [(0.1, 0.1, True), (0.1, 0.2, True), (0.2, 0.1, False)])
def test_a_certificate_holds_at_its_eps_and_below(eps: float, certified_at: float, told: bool) -> None:
    units = [unit(eps=eps), unit(attack="certify", proves=True, params={}, eps=certified_at)]
    found = findings(units, [record(units[0], "SBBM"), record(units[1], "SCCM")])
    contradicted = [f for members in found.values() for f in members if f.check == "certificate-contradicted"]
    assert {(f.severity, f.count, f.n) for f in contradicted} == ({(Severity.VOID, 2, 4)} if told else set())
    assert len(contradicted) == (len({eps, certified_at}) if told else 0)


@pytest.mark.parametrize(("distance", "told"), [(0.05, True), (0.1, True), (0.15, False), (0.2, False)])
def test_an_image_inside_a_proven_ball_contradicts_whatever_eps_it_was_searched_in(distance: float, told: bool) -> None:
    units = [unit(eps=0.2), unit(attack="certify", proves=True, params={}, eps=0.1)]
    broken = record(units[0], "SBSM").model_copy(update={"distances": [None, distance, None, None]})
    found = findings(units, [broken, record(units[1], "SCSM")])
    contradicted = {about[-1] for about, members in found.items() for f in members if f.severity is Severity.VOID}
    assert contradicted == ({0.1, 0.2} if told else set())


def test_square_of_the_reference_flatters_as_our_own_does() -> None:
    """pyautoattack's own words (check_square_sr), up to the page that it names."""
    flag = (
        "autoattack warns: Square Attack has decreased the robust accuracy of 1.50%. This might indicate that the "
        "robustness evaluation using AutoAttack is unreliable. Consider running Square Attack with more iterations and "
        "restarts or an adaptive attack."
    )
    found = read_flag(flag, "net", "autoattack-reference")
    assert (found.check, found.severity) == ("square-beats-white-box", Severity.FLATTERS)


def test_records_from_before_there_were_checks_say_so_and_keep_their_grade() -> None:
    units = [unit(attack="clean", stop=2), unit(attack="autoattack", stop=2)]
    records = [record(of, "SS") for of in units]
    before = [r.provenance.model_copy(update={"versions": {"python": "3.11"}}) for r in records]
    old = [r.model_copy(update={"provenance": p}) for r, p in zip(records, before, strict=True)]
    assert _found(units, records) == []
    (found,) = _found(units, old)
    assert (found.check, found.severity) == ("not-checked", Severity.NOTE)
    (row,) = leaderboard(units, old)
    assert row.trust is not None
    assert (row.trust.grade, row.trust.reason) == (
        Grade.B,
        "complete AutoAttack, and no finding against it; no record says that the model itself was checked",
    )
    assert "net: no record says that the model itself was checked" in terminal([row])
    assert "no record says" not in markdown([row])  # as bench run wrote it then, and bench verify holds it
    (looked,) = leaderboard(units, old, {units[0].classifier: ()})
    assert looked.findings == []
    assert looked.trust is not None
    assert looked.trust.reason == "complete AutoAttack, and no finding against it"


def test_nothing_is_compared_before_all_is_done() -> None:
    units, records = results_of({("net", "clean"): "SSSM", ("net", "pgd20"): "BSSM", ("net", "noise"): "BBSM"})
    assert _found(units, [r for r in records if r.unit.attack != "pgd20"]) == []
    assert leaderboard(units, records[:2])[0].trust is None


NUMBERS: dict[str, object] = {
    "count": 3,
    "n": 50,
    "parts": 2,
    "how": "a factor of 255",
    "without": 1,
    "accuracy": "91.20",
    "nearest": 4,
    "trained": "mnist",
    "dataset": "digits",
    "what": "There are 3 points with zero gradient! This might lead to unreliable evaluation.",
}


@pytest.mark.parametrize("told", TOLD, ids=lambda told: f"{told.check}: {told.words[:30]}")
def test_what_a_flag_says_is_read_back(told: Any) -> None:
    found = read_flag(told.say(**NUMBERS), "net", "pgd20")
    assert (found.check, found.severity) == (told.check, told.severity)
    assert found.attack == (None if told.of_model else "pgd20")
    assert found.count == (3 if "{count}" in told.words else None)
    assert found.n == (50 if "{n}" in told.words else None)
    assert found.check in CHECKS
    assert found.sentence.endswith(f"{CHECKS[found.check].remedy}.")


def test_a_part_of_an_ensemble_may_stand_before_its_flag() -> None:
    found = read_flag("apgd-ce: zero or non-finite gradient at 4 of 170 samples", "net", "autoattack")
    assert (found.check, found.count, found.n) == ("zero-gradients", 4, 170)


def test_a_flag_that_no_check_knows_is_a_note() -> None:
    found = read_flag("searched in float32: a bfloat16 copy raised RuntimeError", "net", "pgd20")
    assert (found.check, found.severity) == ("note", Severity.NOTE)


def test_counts_of_a_units_parts_add_up() -> None:
    units = [unit(start=0, stop=4), unit(start=4, stop=8)]
    flag = "zero or non-finite gradient at {} of 4 samples"
    records = [record(u, "SSSS", (flag.format(k),)) for u, k in zip(units, (1, 3), strict=True)]
    assert _of("zero-gradients", _found(units, records)) == [(Severity.BLIND, "pgd20", 4, 8)]


def test_the_gravest_of_two_findings_of_a_check_is_kept() -> None:
    mild = Finding(check="randomised", severity=Severity.FLATTERS, model="net", seen="two passes")
    grave = mild.model_copy(update={"severity": Severity.VOID, "seen": "five passes"})
    other = mild.model_copy(update={"model": "else"})
    assert without_repeats([mild, grave, other]) == [grave, other]


@pytest.mark.parametrize(
    ("attack", "severity"), [("autoattack", Severity.VOID), ("autoattack-rand", Severity.FLATTERS)]
)
def test_a_randomised_model_is_void_without_expectation(attack: str, severity: Severity) -> None:
    units, (of,) = results_of({("net", attack): "SSSM"})
    flagged = of.model_copy(update={"flags": ["five passes over the same images differ on 50 of 50 images"]})
    assert _of("randomised", _found(units, [flagged])) == [(severity, None, 50, 50)]
