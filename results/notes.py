"""What stands beside the numbers of every report: how eps is written, the legends, and the notes on trust."""

import math
from collections.abc import Sequence

from results.findings import NOT_CHECKED
from results.leaderboard import Row
from results.printable import printable

TRUST = (
    "trust in robust_upper: A every sample is decided by a proof or an image that breaks it; B complete AutoAttack and "
    "no finding against it; C shorter attacks alone; D a finding says that it may be too high; F a finding says that "
    "it is no number of this model."
)
LEGEND = (
    "Robust accuracy in %, each attack alone over all n samples. robust_lower: what is proven; robust_upper: what "
    "stands per sample after all attacks on the classifier, through every head, with its 95 % Wilson interval. ↳ the "
    "same classifier attacked through another head. – not applicable."
)


def show_eps(eps: float) -> str:
    """8/255 rather than 0.03137 where eps is a multiple of a half in pixel values below 255."""
    scaled = eps * 255
    halves = round(2 * scaled) if math.isfinite(2 * scaled) else 0
    if halves and abs(2 * scaled - halves) < 1e-6 and abs(round(eps, 2) - eps) > 1e-9:
        return f"{halves // 2}/255" if halves % 2 == 0 else f"{halves / 2}/255"
    return f"{eps:g}"


def notes_of(rows: Sequence[Row], trust: bool = True) -> list[str]:
    """The sentences below a table, each with its model; a finding that decides a grade stands in for its flag."""
    notes = []
    graded: set[str] = set()
    for row in rows:
        because = row.trust.because if trust and row.trust else ()
        told = {found.seen for found in because}
        flags = [flag for flag in row.flags if not any(flag.endswith(seen) for seen in told)]
        notes += [f"{row.model}: {note}" for note in (*blind_spots(row), *flags)]
        if row.trust and row.group not in graded:
            notes += [f"{found.model}: trust {row.trust.grade}: {found.sentence}" for found in because]
        graded.add(row.group)
    return [printable(note) for note in notes]


def not_checked(rows: Sequence[Row]) -> list[str]:
    """One sentence for all classifiers of older records; the leaderboard.md of their runs was written without it."""
    names = dict.fromkeys(row.group for row in rows for found in row.findings if found.check == NOT_CHECKED)
    if not names:
        return []
    whose = (
        "every classifier here" if len(names) > 1 and names.keys() == {row.group for row in rows} else ", ".join(names)
    )
    told = "no record says that the model itself was checked for training mode, normalisation, randomness and the like"
    return [printable(f"{whose}: {told}; bench diagnose does")]


def blind_spots(row: Row) -> list[str]:
    """What each attack missed of what a verifier broke, and what is left between the two bounds."""
    if not (row.exactly_broken or row.proofs) or row.robust_upper is None or row.robust_lower is None:
        return []
    missed = [f"{count} by {attack}" for attack, count in row.missed.items()]
    left = round((row.robust_upper.value - row.robust_lower.value) * row.n)
    spots = [f"of {row.exactly_broken} samples broken by exact verification, missed: {', '.join(missed)}"] * bool(
        missed
    )
    return [*spots, f"{left} samples neither broken nor certified"]
