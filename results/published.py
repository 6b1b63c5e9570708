"""Published numbers one by one, as bounds that a measurement can be held against."""

import re
from dataclasses import dataclass

from results.aggregate import Proportion, wilson
from results.claims import Claim, Paper
from results.robustbench import NAME, Entry, RobustBench

SMALL = 10.0
"""Percent. A robust accuracy up to what guessing gives among ten classes is published to say that nothing is robust."""

ATTACKED = ("pgd20", "pgd100", "magnet100", "transfer", "autoattack")
"""The quantities of a claim that are robust accuracies, by their fields."""


@dataclass(frozen=True)
class Number:
    """One number of a source, or a range: what is published is at least `least` and at most `most`, as fractions.

    A robust accuracy has one of both: it promises that so many samples stand, or, up to SMALL, that no more do. The
    bounds carry the interval of the source's n test images; without it, n is 0 and the interval is the number itself.
    `shown` is the number as printed, in percent. `assumed` marks one whose eps is ours, so that the claim's
    own attack is as strong as we chose; `remark` says so.
    """

    paper: str
    quantity: str
    dataset: str
    model: str
    shown: str
    least: Proportion | None
    most: Proportion | None
    table: str = ""
    norm: str | None = None
    eps: float | None = None
    nearest: int | None = None
    architecture: str | None = None
    assumed: bool = False
    remark: str = ""
    note: str = ""

    @property
    def n(self) -> int:
        """How many test images it is taken on; 0 where the source does not say."""
        return next((bound.n for bound in (self.least, self.most) if bound is not None), 0)


def published(percent: float, n: int | None = None) -> Proportion:
    """A number as printed, with the interval of n samples where n is known."""
    share = percent / 100
    if n is None:
        return Proportion(share, share, share, 0)
    interval = wilson(round(share * n), n)
    return Proportion(share, min(share, interval.low), max(share, interval.high), n)


def numbers_of(name: str, paper: Paper, claim: Claim) -> list[Number]:
    """What a claim states, number by number."""
    found = []
    for quantity in ("clean", *ATTACKED):
        value, low, high = (getattr(claim, f"{quantity}{end}", None) for end in ("", "_min", "_max"))
        if value is not None:
            shown = f"{value:.2f}"
            low, high = _bounds(quantity, value)
        elif low is not None and high is not None:
            shown = f"{low:g} to {high:g}"
        elif low is not None or high is not None:
            shown = f"at least {low:g}" if high is None else f"at most {high:g}"
        else:
            continue
        found.append(
            Number(
                paper=name,
                quantity=quantity,
                dataset=claim.dataset,
                model=claim.model,
                shown=shown,
                least=None if low is None else published(low, paper.samples),
                most=None if high is None else published(high, paper.samples),
                table=claim.table or "",
                norm=paper.norm,
                eps=claim.eps or paper.eps,
                nearest=claim.nearest,
                architecture=_architecture(paper.backbone),
                note=claim.note or "",
            )
        )
    return found


def reported_of(entry: Entry, source: RobustBench) -> Number | None:
    """What a paper reports of a model of RobustBench, taken to be on the test images that RobustBench evaluates."""
    if entry.reported is None:
        return None
    n = source.samples[entry.dataset]
    low, high = _bounds("reported", entry.reported)
    return Number(
        paper=NAME,
        quantity="reported",
        dataset=entry.dataset,
        model=entry.model_id,
        shown=f"{entry.reported:.2f}",
        least=None if low is None else published(low, n),
        most=None if high is None else published(high, n),
        table=f"{entry.dataset} {entry.norm}",
        norm=entry.norm,
        eps=entry.eps,
        architecture=entry.architecture,
    )


def _bounds(quantity: str, value: float) -> tuple[float | None, float | None]:
    if quantity == "clean":
        return value, value
    return (None, value) if value <= SMALL else (value, None)


def _architecture(backbone: str | None) -> str | None:
    """The network's name at the start of what a paper says about it."""
    return re.split(r",| for | with ", backbone)[0].strip() if backbone else None


def same_architecture(first: str, second: str) -> bool:
    """Whether two spellings mean one network: "ResNet-18" and "resnet18"."""
    return _spelled(first) == _spelled(second)


def _spelled(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
