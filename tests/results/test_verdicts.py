"""Verdicts on hand-built numbers and measurements, on either side of the border."""

import dataclasses
import math
from typing import Any

import pytest

from results.aggregate import Proportion, wilson
from results.claims import Claim, Paper
from results.evidence import Evidence, Figure
from results.matching import AT_LEAST, SAME, exceeds
from results.published import Number, numbers_of, published
from results.trust import Grade
from results.verdicts import Gap, Judgement, Ruling, judge

N = 200


def number(quantity: str = "pgd20", percent: float = 50.0, samples: int | None = None, **changes: Any) -> Number:
    """A claim about "net" on digits at linf 8/255."""
    paper = Paper(title="t", source="s", norm="linf", eps=8 / 255, samples=samples, claims=())
    claim = Claim.model_validate({"dataset": "digits", "model": "net", quantity: percent})
    (found,) = numbers_of("mine", paper, claim)
    return dataclasses.replace(found, **changes)


def evidence(figures: dict[str, int], **changes: Any) -> Evidence:
    """Counts of N that stand, by attack; "pgd20/scores" is through the papers' head."""
    read = [
        Figure(name.removesuffix("/scores"), wilson(count, N), "scores" if name.endswith("/scores") else "")
        for name, count in figures.items()
    ]
    fields: dict[str, Any] = {
        "source": "runs/x",
        "model": "net",
        "dataset": "digits",
        "norm": "linf",
        "eps": 8 / 255,
        "n": N,
        "clean": wilson(180, N),
        "figures": tuple(read),
    }
    return Evidence(**(fields | changes))


def ruling(about: Number, *pieces: Evidence) -> Ruling:
    return judge(about, pieces).ruling


def test_an_exact_number_is_exceeded_by_nothing_within_the_interval() -> None:
    ours = wilson(85, N)
    for value, above in ((ours.high - 1e-9, False), (ours.high + 1e-9, True)):
        assert exceeds(Proportion(value, value, value, 0), ours) is above
    for value, above in ((ours.low + 1e-9, False), (ours.low - 1e-9, True)):
        assert exceeds(ours, Proportion(value, value, value, 0)) is above


def test_two_samples_are_compared_by_the_interval_of_their_difference() -> None:
    """Newcombe 1998, table II, case (a): 56/70 against 48/80 has by method 10 the interval 0.0524 to 0.3339."""
    first, second = wilson(56, 70), wilson(48, 80)
    difference = first.value - second.value
    assert difference - math.hypot(first.value - first.low, second.high - second.value) == pytest.approx(
        0.0524, abs=5e-5
    )
    assert exceeds(first, second)
    assert not exceeds(second, first)
    assert not exceeds(wilson(56, 70), wilson(54, 80))


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ({"pgd20": 86, "autoattack": 86}, Ruling.UPHELD),  # its interval reaches 49.9 and 50.0 %
        ({"pgd20": 85, "autoattack": 85}, Ruling.REFUTED),
        ({"pgd20": 110, "autoattack": 110}, Ruling.UPHELD),
        ({"pgd20": 110, "autoattack": 85}, Ruling.WEAKER),
        ({"pgd20": 110, "noise": 85}, Ruling.WEAKER),
        ({"pgd20/scores": 110, "pgd20": 60, "autoattack": 60}, Ruling.WEAKER),
        ({"pgd20": 110}, Ruling.NOT_MEASURED),
        ({"pgd20": 110, "screen": 110}, Ruling.NOT_MEASURED),
        ({"pgd20": 110, "exact": 105}, Ruling.UPHELD),
        ({"autoattack": 40}, Ruling.REFUTED),
        ({"autoattack": 120}, Ruling.UPHELD),
        ({"noise": 120}, Ruling.NOT_MEASURED),
        ({"pgd20@steps=2,restarts=1": 40, "autoattack": 120}, Ruling.REFUTED),
        ({"pgd20@step_size=2/255": 110, "autoattack": 40}, Ruling.WEAKER),
        ({}, Ruling.NOT_MEASURED),
    ],
)
def test_a_claim_that_half_stand(figures: dict[str, int], expected: Ruling) -> None:
    border = 100 * wilson(85, N).high + 1e-6
    assert ruling(number(percent=border), evidence(figures)) is expected


def test_a_shortened_attack_that_agrees_upholds_nothing() -> None:
    assert ruling(number(), evidence({"pgd20": 110, "autoattack-fast": 110})) is Ruling.NOT_MEASURED
    assert ruling(number(), evidence({"pgd20": 110, "autoattack-fast": 40})) is Ruling.WEAKER


@pytest.mark.parametrize(
    ("grade", "standing", "expected"),
    [
        (Grade.B, 110, Ruling.UPHELD),
        (Grade.D, 110, Ruling.NOT_MEASURED),  # may be too high
        (Grade.F, 110, Ruling.NOT_MEASURED),
        (Grade.B, 60, Ruling.REFUTED),
        (Grade.D, 60, Ruling.REFUTED),  # what is broken is broken
        (Grade.F, 60, Ruling.NOT_MEASURED),  # but not of this model
    ],
)
def test_an_untrusted_measurement_upholds_nothing_and_a_void_one_refutes_nothing(
    grade: Grade, standing: int, expected: Ruling
) -> None:
    piece = evidence({"pgd20": standing, "autoattack": standing}, trust=grade)
    assert ruling(number(), piece) is expected
    if expected is Ruling.NOT_MEASURED:
        assert f"trust {grade}" in judge(number(), [piece]).because


@pytest.mark.parametrize(
    ("grade", "expected"),
    [(None, Ruling.HIGHER), (Grade.D, Ruling.NOT_MEASURED), (Grade.F, Ruling.NOT_MEASURED)],
)
def test_more_than_nothing_stands_only_by_what_is_trusted(grade: Grade | None, expected: Ruling) -> None:
    assert ruling(number("autoattack", 0.0), evidence({"autoattack": 100}, trust=grade)) is expected


def test_a_void_clean_accuracy_is_not_lower_than_published() -> None:
    assert ruling(number("clean", 99.0), evidence({})) is Ruling.LOWER
    assert ruling(number("clean", 99.0), evidence({}, trust=Grade.F)) is Ruling.NOT_MEASURED


@pytest.mark.parametrize(
    ("standing", "n", "expected"),
    [
        (0, 1, Ruling.NOT_MEASURED),  # one sample that fell, and its interval reaches 79 %
        (5, 10, Ruling.NOT_MEASURED),
        (25, 50, Ruling.NOT_MEASURED),
        (50, 100, Ruling.UPHELD),
        (45, 50, Ruling.UPHELD),  # the claim is below the interval, however wide
        (10, 50, Ruling.REFUTED),
    ],
)
def test_few_images_may_refute_and_uphold_nothing(standing: int, n: int, expected: Ruling) -> None:
    share = wilson(standing, n)
    figures = (Figure("pgd20", share), Figure("autoattack", share))
    assert ruling(number(), dataclasses.replace(evidence({}), figures=figures, n=n)) is expected


def test_few_images_uphold_neither_nothing_nor_a_clean_accuracy() -> None:
    for standing, n, expected in ((0, 3, Ruling.NOT_MEASURED), (0, 100, Ruling.UPHELD)):
        figures = (Figure("autoattack", wilson(standing, n)),)
        piece = dataclasses.replace(evidence({}), figures=figures, n=n)
        assert ruling(number("autoattack", 0.0), piece) is expected
    for right, n, expected in ((9, 10, Ruling.NOT_MEASURED), (180, 200, Ruling.UPHELD)):
        assert ruling(number("clean", 90.0), evidence({}, clean=wilson(right, n), n=n)) is expected


def test_all_attacks_together_count_where_each_alone_agrees() -> None:
    piece = evidence({"pgd20": 110, "autoattack": 100}, upper=wilson(60, N))
    found = judge(number(), [piece])
    assert found.ruling is Ruling.WEAKER
    assert "AutoAttack leaves 50.00 %" in found.because
    assert "all attacks together 30.00 %" in found.because


def test_the_sampling_error_of_the_published_number_counts_where_it_is_known() -> None:
    piece = evidence({"pgd20": 82, "autoattack": 82})
    assert ruling(number(percent=50), piece) is Ruling.REFUTED
    assert ruling(number(percent=50, samples=100), piece) is Ruling.UPHELD


def test_the_strongest_attack_is_named_with_its_number() -> None:
    found = judge(number(), [evidence({"pgd20/scores": 120, "pgd20": 80, "autoattack": 70, "noise": 150})])
    assert found.ruling is Ruling.WEAKER
    assert found.strongest is not None
    assert (found.strongest.kind, found.strongest.share.value) == ("autoattack", 0.35)
    assert found.measured == wilson(120, N)
    assert found.because.startswith("AutoAttack leaves 35.00 %")
    assert "PGD-20 through the paper's head leaves 60.00 %" in found.because


@pytest.mark.parametrize(
    ("figures", "changes", "expected"),
    [
        ({"autoattack": 0}, {}, Ruling.UPHELD),
        ({"autoattack": 20}, {}, Ruling.HIGHER),
        ({"autoattack": 20}, {"lower": wilson(19, N)}, Ruling.REFUTED),
        ({"pgd20": 0}, {}, Ruling.UPHELD),
        ({"pgd20": 20}, {}, Ruling.NOT_MEASURED),
    ],
)
def test_a_claim_that_nothing_is_robust(figures: dict[str, int], changes: Any, expected: Ruling) -> None:
    claimed = number("autoattack", 0.11)
    assert (claimed.least, claimed.most) == (None, published(0.11))
    found = judge(claimed, [evidence(figures, **changes)])
    assert found.ruling is expected
    assert ("measured higher" in found.because) is (expected is Ruling.HIGHER)


def test_ten_per_cent_is_the_border_of_what_is_claimed_to_stand() -> None:
    assert number(percent=10.0).least is None
    assert number(percent=10.01).most is None


def test_a_range_ends_a_claim() -> None:
    paper = Paper(title="t", source="s", norm="linf", eps=0.1, claims=())
    claim = Claim(dataset="digits", model="net", clean_min=88, clean_max=92, autoattack_max=1)
    clean, robust = numbers_of("mine", paper, claim)
    assert (clean.shown, robust.shown) == ("88 to 92", "at most 1")
    assert ruling(clean, evidence({}, clean=wilson(170, N))) is Ruling.UPHELD
    assert ruling(clean, evidence({}, clean=wilson(160, N))) is Ruling.LOWER
    assert ruling(clean, evidence({}, clean=wilson(200, N))) is Ruling.HIGHER
    assert ruling(robust, evidence({"autoattack": 0}, eps=0.1)) is Ruling.UPHELD


@pytest.mark.parametrize(("right", "expected"), [(180, Ruling.UPHELD), (150, Ruling.LOWER), (196, Ruling.HIGHER)])
def test_a_clean_accuracy(right: int, expected: Ruling) -> None:
    assert ruling(number("clean", 90.0), evidence({}, clean=wilson(right, N), eps=0.3, norm="l2")) is expected


@pytest.mark.parametrize(
    ("ours", "theirs", "named"),
    [
        ({"dataset": "mnist"}, {}, "data set (mnist)"),
        (
            {"architecture": "small-resnet"},
            {"architecture": "ResNet-18"},
            "architecture (small-resnet, there ResNet-18",
        ),
        ({}, {"architecture": "ResNet-18"}, "architecture (unknown, there ResNet-18)"),
        ({"eps": 16 / 255}, {}, "eps (linf 16/255, there linf 8/255)"),
        ({"norm": "l2"}, {}, "eps (l2 8/255, there linf 8/255)"),
        ({}, {"eps": None}, "eps (the claim states none)"),
        ({}, {"nearest": 4}, "D (all clusters, there 4)"),
    ],
)
def test_other_conditions_are_named_and_give_no_verdict(ours: Any, theirs: Any, named: str) -> None:
    found = judge(number(**theirs), [evidence({"pgd20": 20, "autoattack": 0}, **ours)])
    assert found.ruling is Ruling.NOT_COMPARABLE
    assert named in found.because
    assert "n (200, there not stated)" in found.because
    assert found.measured == wilson(20, N)


def test_spellings_of_one_network_agree_and_the_authors_own_weights_need_none() -> None:
    claimed = number(architecture="ResNet-18")
    assert ruling(claimed, evidence({"autoattack": 0}, architecture="resnet18")) is Ruling.REFUTED
    assert ruling(claimed, evidence({"autoattack": 0}, architecture="resnet18-w8")) is Ruling.NOT_COMPARABLE
    assert ruling(claimed, evidence({"autoattack": 0}, architecture="WRN", authors=True)) is Ruling.WEAKER


def test_what_falls_at_a_smaller_eps_has_fallen_and_what_stands_there_says_nothing() -> None:
    claimed = number(eps=16 / 255)
    found = judge(claimed, [evidence({"autoattack": 20}, authors=True)])
    assert found.ruling is Ruling.WEAKER
    assert "already at linf 8/255" in found.because
    assert ruling(claimed, evidence({"autoattack": 120}, authors=True)) is Ruling.NOT_COMPARABLE
    assert ruling(number(eps=4 / 255), evidence({"autoattack": 20}, authors=True)) is Ruling.NOT_COMPARABLE


def test_of_several_measurements_the_worst_counts_and_the_comparable_before_others() -> None:
    good, bad = evidence({"pgd20": 120, "autoattack": 120}), evidence({"pgd20": 120, "autoattack": 20})
    assert ruling(number(), good, bad) is ruling(number(), bad, good) is Ruling.WEAKER
    elsewhere = evidence({"pgd20": 0, "autoattack": 0}, dataset="mnist")
    assert ruling(number(), elsewhere, good) is Ruling.UPHELD


def gap(*pieces: Evidence, **changes: Any) -> Gap | None:
    found: Judgement = judge(number(**changes), pieces)
    return found.gap


def test_the_pattern_on_other_data() -> None:
    seen = gap(evidence({"pgd20/scores": 114, "pgd20": 76, "autoattack": 61}, dataset="mnist"))
    assert seen is not None
    assert seen.seen
    assert (seen.weak.share.value, seen.strong.share.value, seen.strong.kind) == (0.57, 0.305, "autoattack")
    none = gap(evidence({"pgd20": 160, "autoattack": 158}, dataset="mnist"))
    assert none is not None
    assert not none.seen
    assert gap(evidence({"pgd20": 160}, dataset="mnist")) is None
    assert gap(evidence({"pgd20": 160, "autoattack": 20})) is None
    assert gap(evidence({"pgd20": 160, "autoattack": 20}, dataset="mnist", eps=0.3)) is None
    assert gap(evidence({"pgd20": 160, "autoattack": 20}, dataset="mnist"), **{"quantity": "autoattack"}) is None


@pytest.mark.parametrize(("lost", "seen"), [(5, False), (6, True)])
def test_paired_samples_show_a_gap_that_intervals_hide(lost: int, seen: bool) -> None:
    """By the exact McNemar test 6 samples to one side of 6 have p = 2 / 2**6 = 0.031, 5 have 0.0625."""
    weak = dict.fromkeys(range(N), True)
    strong = weak | dict.fromkeys(range(lost), False)
    piece = evidence({}, dataset="mnist")
    figures = (
        Figure("pgd20", wilson(N, N), "", weak),
        Figure("autoattack", wilson(N - lost, N), "", strong),
    )
    found = gap(dataclasses.replace(piece, figures=figures))
    assert found is not None
    assert found.seen is seen
    assert found.p == pytest.approx(2 / 2**lost)


def test_an_eps_chosen_by_a_number_is_not_held_against_it() -> None:
    piece = evidence({"transfer": 70, "exact": 0})
    assert ruling(number("transfer"), piece) is Ruling.REFUTED
    assert ruling(number("transfer", assumed=True), piece) is Ruling.WEAKER


def test_every_quantity_of_a_claim_has_its_attacks() -> None:
    assert set(SAME) == set(AT_LEAST)
    assert all(not set(SAME[quantity]) & set(AT_LEAST[quantity]) for quantity in SAME if quantity != "autoattack")
