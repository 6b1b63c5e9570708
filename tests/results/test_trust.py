"""The grade: one rule, tried line by line on what each line is about."""

import pytest

from results.findings import Finding, Severity
from results.leaderboard import leaderboard
from results.trust import Evidence, Grade, grade, is_white_box
from tests.results.builders import record, unit

V, F, B, N = Severity.VOID, Severity.FLATTERS, Severity.BLIND, Severity.NOTE


def _found(severity: Severity, attack: str | None = None, model: str = "net") -> Finding:
    return Finding(check="note", severity=severity, model=model, attack=attack, seen="seen")


def _grade(
    attacks: list[str], *found: Finding, undecided: int = 5, verifiers: tuple[str, ...] = (), model: str = "net"
) -> Grade:
    return grade(Evidence([(model, attack) for attack in ["clean", *attacks]], verifiers, undecided), found).grade


@pytest.mark.parametrize("attack", ["autoattack", "autoattack-plus", "autoattack-reference"])
def test_a_complete_ensemble_without_a_finding_is_b(attack: str) -> None:
    assert _grade(["pgd20", attack]) is Grade.B
    assert _grade(["pgd20", attack], _found(N)) is Grade.B


@pytest.mark.parametrize("attack", ["pgd20", "pgd100@steps=500", "screen", "autoattack-fast", "mine:attack"])
def test_single_and_shortened_attacks_are_c(attack: str) -> None:
    assert _grade([attack, "noise"]) is Grade.C


@pytest.mark.parametrize("attacks", [[], ["noise"], ["transfer@surrogate=other", "noise@draws=2"]])
def test_without_an_attack_by_gradients_it_is_d(attacks: list[str]) -> None:
    assert _grade(attacks) is Grade.D


def test_what_may_flatter_is_d_whatever_was_run() -> None:
    assert _grade(["autoattack"], _found(F)) is Grade.D


def test_a_blind_attack_is_no_evidence_and_others_stand_in_for_it() -> None:
    assert _grade(["pgd20", "autoattack"], _found(B, "pgd20")) is Grade.B
    assert _grade(["pgd20", "autoattack"], _found(B, "autoattack")) is Grade.C
    assert _grade(["pgd20", "autoattack"], _found(B, "autoattack"), _found(B, "pgd20")) is Grade.D
    assert _grade(["pgd20", "autoattack"], _found(B)) is Grade.D


def test_a_blind_head_leaves_the_other_head_as_evidence() -> None:
    attacks = [("net", "autoattack"), ("net@scores", "autoattack")]
    blind = _found(B, model="net@scores")
    assert grade(Evidence(attacks, (), 5), [blind]).grade is Grade.B
    assert grade(Evidence(attacks[1:], (), 5), [blind]).grade is Grade.D


def test_where_every_sample_is_decided_nothing_can_flatter() -> None:
    assert _grade(["noise"], _found(F), _found(B), undecided=0) is Grade.A
    assert _grade(["pgd20"], _found(F), undecided=2, verifiers=("exact",)) is Grade.A
    assert _grade(["pgd20"], undecided=2, verifiers=("certify",)) is Grade.C


def test_exact_that_leaves_much_open_decides_nothing() -> None:
    for settled, expected in ((True, Grade.A), (False, Grade.C)):
        evidence = Evidence([("net", "pgd20")], ("exact",), 12, settled)
        assert grade(evidence, []).grade is expected


@pytest.mark.parametrize(("verdicts", "expected"), [("C" * 40 + "S" * 2, Grade.A), ("C" * 4 + "S" * 38, Grade.C)])
def test_what_exact_leaves_open_is_held_against_the_interval(verdicts: str, expected: Grade) -> None:
    units = [
        unit(attack="exact", params={}, proves=True, stop=len(verdicts)),
        unit(stop=len(verdicts)),
    ]
    (found,) = leaderboard(units, [record(units[0], verdicts), record(units[1], verdicts.replace("C", "S"))])
    assert found.trust is not None
    assert found.trust.grade is expected


def test_what_is_void_is_f_even_where_it_is_proven() -> None:
    assert _grade(["autoattack"], _found(V), undecided=0, verifiers=("exact",)) is Grade.F


def test_another_finding_never_raises_a_grade() -> None:
    order = list(Grade)
    for attacks in (["noise"], ["pgd20"], ["autoattack", "pgd20"]):
        for undecided in (0, 3):
            before = _grade(attacks, undecided=undecided)
            for found in [_found(s, a) for s in Severity for a in (None, "pgd20", "autoattack")]:
                assert order.index(_grade(attacks, found, undecided=undecided)) >= order.index(before)


def test_the_reason_names_what_decided() -> None:
    found = Finding(check="randomised", severity=V, model="net", seen="five passes differ")
    trust = grade(Evidence([("net", "autoattack")], (), 5), [found, _found(N)])
    assert trust.reason == "randomised (five passes differ)"
    assert trust.because == (found,)


def test_which_attacks_may_follow_gradients() -> None:
    assert [is_white_box(a) for a in ("clean", "noise@draws=3", "transfer", "mine:attack")] == [False] * 3 + [True]
