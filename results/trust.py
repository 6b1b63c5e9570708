"""How far a robust accuracy can be trusted: a letter, by a rule without weights."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from results.findings import NOT_CHECKED, Finding, Severity

GRADIENT_FREE = ("noise", "transfer")
"""Attacks that never ask the model for a gradient."""
COMPLETE = ("autoattack", "autoattack-plus", "autoattack-rand", "autoattack-reference")
"""Ensembles with nothing left out; `autoattack-fast` and `screen` are not."""
DECIDES = ("exact", "exact-radius")
"""Verifiers that leave a sample open only where float32 rounding decides."""


class Grade(StrEnum):
    """From the best to the worst; see `grade`."""

    A = "A"
    B = "B"
    C = "C"
    D = "D"
    F = "F"


@dataclass(frozen=True)
class Trust:
    """A grade, the reason in words, and the findings that decided it."""

    grade: Grade
    reason: str
    because: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Evidence:
    """What the grade of a classifier rests on: each (model as attacked, attack) that was carried out on all samples,
    which of these prove, and the samples that are neither broken, misclassified nor certified. `settled`: these are so
    few that robust_lower lies inside the interval of robust_upper."""

    attacks: Sequence[tuple[str, str]]
    verifiers: Sequence[str]
    undecided: int
    settled: bool = True


def grade(evidence: Evidence, findings: Iterable[Finding]) -> Trust:
    """The trust in a classifier's robust_upper; the first line that applies decides.

    F  a finding says that the number is not one of this model (void).
    A  every sample is decided: broken, misclassified or proven; or `exact` was run, which leaves open only samples
       nearer to the boundary than float32 rounding, and leaves so few that robust_lower lies inside the interval of
       robust_upper. Whatever attacks missed, the truth is known.
    D  a finding says that the number may be too high (flatters), or no attack by gradients is free of a finding that
       says that it could not see (blind).
    B  a complete AutoAttack is free of such a finding.
    C  otherwise: single or shortened attacks alone.

    `bench diagnose` adds findings and never takes one away, so that it can only lower a grade.
    """
    found = list(findings)
    void = [f for f in found if f.severity is Severity.VOID]
    if void:
        return Trust(Grade.F, _told(void), tuple(void))
    unchecked = (
        "; no record says that the model itself was checked" if any(f.check == NOT_CHECKED for f in found) else ""
    )
    if evidence.undecided == 0:
        return Trust(Grade.A, f"every sample is broken, misclassified or proven{unchecked}")
    if evidence.settled and any(_base(attack) in DECIDES for attack in evidence.verifiers):
        left = f"{evidence.undecided} samples are nearer to the boundary than float32 rounding"
        return Trust(Grade.A, f"every sample is decided exactly, but {left}{unchecked}")
    flattering = [f for f in found if f.severity is Severity.FLATTERS]
    if flattering:
        return Trust(Grade.D, _told(flattering), tuple(flattering))
    blind = [f for f in found if f.severity is Severity.BLIND]
    seeing = [
        attack
        for model, attack in evidence.attacks
        if is_white_box(attack) and not any(f.model == model and f.attack in (None, attack) for f in blind)
    ]
    if not seeing:
        return Trust(Grade.D, f"no attack that sees is left: {_told(blind)}", tuple(blind))
    if any(_base(attack) in COMPLETE for attack in seeing):
        return Trust(Grade.B, f"complete AutoAttack, and no finding against it{unchecked}")
    if any(_base(attack) in COMPLETE for _, attack in evidence.attacks):
        against = tuple(f for f in blind if f.attack is None or _base(f.attack) in COMPLETE)
        return Trust(Grade.C, f"AutoAttack could not see: {_told(against)}", against)
    return Trust(Grade.C, f"no complete AutoAttack, only {', '.join(dict.fromkeys(seeing))}")


def is_white_box(attack: str) -> bool:
    """Whether an attack may follow the model's gradients; a user's own may."""
    return _base(attack) not in ("clean", *GRADIENT_FREE)


def _base(attack: str) -> str:
    return attack.partition("@")[0]


def _told(findings: Iterable[Finding]) -> str:
    return "; ".join(dict.fromkeys(f"{f.check} ({f.seen})" for f in findings))
