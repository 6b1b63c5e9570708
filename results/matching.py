"""Which measurement is a published number's counterpart: the same attack, a stronger one, other conditions."""

import math
from collections.abc import Collection

from results.aggregate import Proportion
from results.evidence import JUDGED, PAPERS, Evidence, Figure
from results.notes import show_eps
from results.published import Number, same_architecture

STRONG = ("exact", "exact-radius", "autoattack-plus", "autoattack", "autoattack-reference", "external")
"""What a claim is upheld by, the strongest first; shortened ensembles can refute, and not uphold."""

SAME: dict[str, tuple[str, ...]] = {
    "pgd20": ("pgd20",),
    "pgd100": ("pgd100",),
    "magnet100": ("magnet100-published", "magnet100"),
    "transfer": ("transfer",),
    "autoattack": ("autoattack", "autoattack-reference"),
    "reported": (),
}
"""Attacks that measure what a field of a claim states, the nearest to the source's first."""

AT_LEAST: dict[str, tuple[str, ...]] = {
    "pgd20": ("pgd100", *STRONG),
    "pgd100": STRONG,
    "magnet100": STRONG,
    "transfer": ("pgd20", "pgd100", "magnet100", *STRONG),
    "autoattack": ("autoattack-plus", "exact", "exact-radius", "external"),
    "reported": STRONG,
}
"""Attacks that are at least as strong."""

WEAK = frozenset({"pgd20", "pgd100", "magnet100", "transfer"})
"""Quantities that a stronger attack can put to the test."""

_SAME_PROTOCOL = frozenset({"step_size", "surrogate", "labels"})
"""Options under which an attack is still the one of the claim."""


def exceeds(first: Proportion, second: Proportion) -> bool:
    """Whether the first is above the second beyond sampling error (Newcombe 1998, method 10)."""
    error = math.hypot(first.value - first.low, second.high - second.value)
    return first.value - second.value > error + 1e-12


def differences(number: Number, piece: Evidence) -> tuple[str, ...]:
    """The conditions in which a measurement is another one than the claim's, with both values."""
    found = []
    if piece.dataset != number.dataset:
        found.append(f"data set ({piece.dataset})")
    if not piece.authors and number.architecture is not None:
        ours = piece.architecture
        if ours is None or not same_architecture(ours, number.architecture):
            found.append(f"architecture ({ours or 'unknown'}, there {number.architecture})")
    if number.nearest is not None and piece.nearest != number.nearest:
        found.append(f"D ({piece.nearest or 'all clusters'}, there {number.nearest})")
    if number.quantity != "clean":
        if number.eps is None or number.norm is None:
            found.append("eps (the claim states none)")
        elif piece.norm != number.norm or not _eps_serves(number, piece):
            ours, theirs = f"{piece.norm} {show_eps(piece.eps)}", f"{number.norm} {show_eps(number.eps)}"
            found.append(f"eps ({ours}, there {theirs})")
    if found and piece.n != number.n:
        found.append(f"n ({piece.n:,}, there {f'{number.n:,}' if number.n else 'not stated'})")
    return tuple(found)


def same_attack(piece: Evidence, quantity: str) -> Figure | None:
    """The figure of the claim's own attack, through the papers' head where that was attacked."""
    found = [
        figure
        for figure in piece.figures
        if figure.kind in SAME[quantity] and figure.options <= _SAME_PROTOCOL and figure.head in (PAPERS, JUDGED)
    ]
    return min(found, key=lambda one: (one.head != PAPERS, SAME[quantity].index(one.kind)), default=None)


def _eps_serves(number: Number, piece: Evidence) -> bool:
    assert number.eps is not None
    if abs(piece.eps - number.eps) < 1e-9:
        return True
    bounds = [figure.share for figure in piece.figures]
    promised = number.least
    return piece.eps < number.eps and promised is not None and any(exceeds(promised, share) for share in bounds)


def order(number: Number, piece: Evidence, models: set[str]) -> tuple[float, ...]:
    """Nearest first: in what it says, in its conditions, in its protocol; of several models the one furthest off."""
    differs = differences(number, piece)
    named = [any(text.startswith(word) for text in differs) for word in ("data set", "eps", "architecture", "D ")]
    if number.quantity == "clean":
        assert piece.clean is not None
        off = _off(number, piece.clean) if len(models) > 1 else 0.0
        return (*map(float, named), -off, float(-piece.clean.n))
    same = same_attack(piece, number.quantity)
    exact_eps = number.eps is not None and abs(piece.eps - number.eps) < 1e-9
    highest = max((figure.share.value for figure in relevant(number, piece)), default=0.0) if len(models) > 1 else 0.0
    return (
        float(not relevant(number, piece)),
        *map(float, named),
        float(not exact_eps),
        float(same is None),
        float(not any(figure.kind in STRONG for figure in piece.figures)),
        float(same is None or same.head != PAPERS),
        -highest,
        float(-piece.n),
    )


def _off(number: Number, share: Proportion) -> float:
    """How far a clean accuracy is outside what is published; how high it is, where a single number is."""
    low, high = number.least, number.most
    if low is not None and high is not None and low.value == high.value:
        return share.value
    below = low.value - share.value if low is not None else 0.0
    above = share.value - high.value if high is not None else 0.0
    return max(below, above, 0.0)


def relevant(number: Number, piece: Evidence) -> list[Figure]:
    """Figures of the claim's attack or of one at least as strong."""
    same = same_attack(piece, number.quantity)
    return [one for one in piece.figures if one is same or one.kind in AT_LEAST[number.quantity]]


def least(figure: Figure) -> tuple[float, int]:
    return figure.share.value, STRONG.index(figure.kind) if figure.kind in STRONG else len(STRONG)


def strongest_of(piece: Evidence, same: Figure | None, kinds: Collection[str] | None = None) -> Figure | None:
    """What leaves least beside the claim's attack, of all or of these attacks; of equals the strongest attack."""
    others = [one for one in piece.figures if one is not same and (kinds is None or one.kind in kinds)]
    return min(others, key=least, default=None)
