"""What verdicts on published numbers come to, in sentences."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

from results.evidence import LABELS, PAPERS, label
from results.notes import show_eps
from results.published import Number
from results.verdicts import FAILS, UNDECIDED, Gap, Judgement, Ruling

Key = TypeVar("Key", bound=Hashable)


def closing(judgements: Sequence[Judgement]) -> list[str]:
    """The evidence of each verdict that is one, then what it comes to."""
    decided = [one for one in judgements if one.ruling not in UNDECIDED]
    lines = []
    for (subject, ruling, because), group in _grouped(decided, lambda one: (_subject(one), one.ruling, one.because)):
        numbers = ", ".join(f"{LABELS[one.number.quantity]} {one.number.shown}" for one in group)
        lines.append(f"- {subject}: {numbers}: {ruling}. {because[:1].upper()}{because[1:]}.")
    return [*lines, f"Finding: {' '.join(_finding(judgements))}"]


def counted(judgements: Sequence[Judgement]) -> str:
    """How many numbers have which verdict."""
    counts = Counter(one.ruling for one in judgements)
    shown = ", ".join(f"{counts[ruling]} {ruling}" for ruling in Ruling if counts[ruling])
    return f"{len(judgements)} published numbers: {shown}"


def threat_of(number: Number) -> str:
    """The claim's own, in pixel values too where the source counts in them."""
    if number.eps is None or number.remark:
        return "eps not stated"
    shown = show_eps(number.eps)
    if number.norm == "linf" and "/" not in shown and number.eps < 0.2:
        shown = f"{255 * number.eps:g}/255"
    return f"{number.norm or 'norm not stated'} {shown}"


def _subject(one: Judgement) -> str:
    number = one.number
    return f"{number.model}, {number.dataset}" + (f", {threat_of(number)}" if number.quantity != "clean" else "")


def _finding(judgements: Sequence[Judgement]) -> list[str]:
    sentences = [f"{counted(judgements)}."]
    failed = [one for one in judgements if one.ruling in FAILS and one.strongest is not None]
    promises = [one for one in failed if one.number.least is not None]
    for (model, dataset), group in _grouped(promises, lambda one: (one.number.model, one.number.dataset)):
        claimed = [one.number.least.value for one in group if one.number.least is not None]
        low, high = f"{100 * min(claimed):.2f}", f"{100 * max(claimed):.2f}"
        worst = min((one.strongest for one in group if one.strongest), key=lambda figure: figure.share.value)
        between = high if low == high else f"{low} to {high}"
        sentences.append(
            f"{model} on {dataset} is claimed to keep {between} %; {label(worst)} leaves "
            f"{100 * worst.share.value:.2f} %{', at an eps of ours' if group[0].number.remark else ''}."
        )
    for one in failed:
        most, proven = one.number.most, one.evidence.lower if one.evidence else None
        if one.number.least is None and most is not None and proven is not None:
            sentences.append(
                f"{one.number.model} on {one.number.dataset} is claimed to keep at most {100 * most.value:.2f} %; "
                f"{100 * proven.value:.2f} % are proven to stand."
            )
    gaps = [one.gap for one in judgements if one.gap is not None]
    for seen, opening in (
        (True, "On other data, a stronger attack breaks what the weaker one left standing for"),
        (False, "No such gap for"),
    ):
        shown: dict[tuple[str, float], Gap] = {}
        for gap in gaps:
            if gap.seen is seen:
                shown.setdefault((gap.evidence.model, gap.evidence.eps), gap)
        if shown:
            sentences.append(f"{opening} {', '.join(_gap_in_words(gap) for gap in shown.values())}.")
    small = [
        one
        for one in judgements
        if one.number.least is None and one.ruling is Ruling.NOT_COMPARABLE and one.strongest is not None
    ]
    if small:
        shares = [min(p.value for p in (one.measured, one.strongest.share) if p) for one in small if one.strongest]
        limits = [one.number.most.value for one in small if one.number.most is not None]
        sentences.append(
            f"{len(small)} say that next to nothing stands (up to {100 * max(limits):.2f} %); their nearest rows, "
            f"under other conditions, have {100 * min(shares):.2f} to {100 * max(shares):.2f} %."
        )
    return sentences


def _gap_in_words(gap: Gap) -> str:
    through = " through the paper's head" if gap.weak.head == PAPERS else ""
    return (
        f"{gap.evidence.model} at {show_eps(gap.evidence.eps)} ({label(gap.weak).partition(' through')[0]}{through} "
        f"{100 * gap.weak.share.value:.2f}, {label(gap.strong)} {100 * gap.strong.share.value:.2f})"
    )


def _grouped(judgements: Iterable[Judgement], key: Callable[[Judgement], Key]) -> list[tuple[Key, list[Judgement]]]:
    groups: dict[Key, list[Judgement]] = {}
    for one in judgements:
        groups.setdefault(key(one), []).append(one)
    return list(groups.items())
