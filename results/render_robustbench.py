"""RobustBench's entries among the verdicts of `bench claims`: its lines, and what they come to."""

from collections import Counter
from collections.abc import Sequence

from results.evidence import label
from results.notes import show_eps
from results.robustbench import NAME, load_robustbench
from results.verdicts import FAILS, Judgement, Ruling

MOST = 10
"""How many of RobustBench's rows are shown where they are not all asked for."""


def title() -> str:
    """The heading of its part."""
    source = load_robustbench()
    return f"{NAME}: what papers report, against AutoAttack on the same weights ({source.source})"


def lines(judgements: Sequence[Judgement], whole: bool) -> list[dict[str, str]]:
    """A line an entry, the most overclaimed first; all of them where the `whole` was asked for."""
    return [
        {
            "model": one.number.model,
            "leaderboard": f"{one.number.dataset}, {one.number.norm} {show_eps(one.number.eps or 0)}",
            "network": one.number.architecture or "",
            "reported": one.number.shown,
            "AutoAttack": f"{100 * (_autoattack(one) or 0):.2f}",
            "verdict": str(one.ruling)
            + (f" ({label(one.strongest)})" if one.ruling in FAILS and one.strongest else ""),
        }
        for one in sorted(judgements, key=lambda one: -overclaimed(one))[: None if whole else MOST]
    ]


def closing(judgements: Sequence[Judgement], whole: bool) -> list[str]:
    """What the entries come to."""
    worst = max(judgements, key=overclaimed)
    apart = sum(abs(overclaimed(one)) > 5 + 1e-9 for one in judgements)
    silent = sum(entry.reported is None for entry in load_robustbench().entries)
    counts = Counter(one.ruling for one in judgements)
    told = [] if whole else [f"The {MOST} most overclaimed; all: bench claims --paper {NAME}."]
    other = sum(1 for one in judgements if one.ruling in FAILS and one.strongest and one.strongest.kind == "external")
    told.append(
        f"Finding: of {len(judgements)} linf and l2 entries with a reported and an AutoAttack number, "
        f"{counts[Ruling.UPHELD]} are upheld; for {len(judgements) - counts[Ruling.UPHELD]} AutoAttack (for {other} an "
        "external evaluation that RobustBench lists) leaves less than is reported, beyond sampling error. "
        f"{apart} differ from AutoAttack by more than 5 points, {worst.number.model} by {overclaimed(worst):.2f}. "
        f"{silent} more entries report no number. Both numbers are taken to be on RobustBench's test images: 10,000, "
        "on ImageNet 5,000."
    )
    return told


def overclaimed(one: Judgement) -> float:
    """Points by which AutoAttack is below a number."""
    bound = one.number.least or one.number.most
    assert bound is not None
    return 100 * (bound.value - (_autoattack(one) or 0.0))


def _autoattack(one: Judgement) -> float | None:
    assert one.evidence is not None
    return next((figure.share.value for figure in one.evidence.figures if figure.kind == "autoattack"), None)
