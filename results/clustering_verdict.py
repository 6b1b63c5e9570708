"""Whether a model shows the clustering effect: one rule over the modes of linearisation and the controls.

A mode is a treatment of batch norm: dropped, or folded (its eval-mode scale kept). The cosines between class rows with
the mean row taken out decide, since a vector added to all logits changes no prediction and must not make a finding;
those of the raw rows are shown and decide nothing.

1. A mode's p is the larger of two: that of the permutation test of S, and that of S among the same number from random
   initialisations of the architecture, (1 + those that reach it) / (1 + all). The first alone would praise an
   architecture, the second alone any structure. Requiring both needs no correction. Where no initialisations can be
   had, the first decides alone, and the verdict says so.
2. underpowered: no p that could have come out is at most 0.05.
3. shows the effect: p <= 0.05 in every mode. All must hold, so that no correction for their number is due.
4. depends on the mode: in some modes p <= 0.05 / number of modes (Bonferroni: any one of them could have been it), but
   not p <= 0.05 in all.
5. not shown: otherwise.

Then the verdict "shows" comes from chance with at most 5 % for a model whose rows know nothing of the groups. Giving
"shows" or "depends" on two modes is rejecting by Simes' test (1986): from chance with at most 5 % where the modes' p
are independent or rise with one another, and never with more than 7.5 %. Models are separate questions: over many of
them, one in twenty may be expected to be wrong.

Two more controls stand beside the verdict and do not change it. Class-mean images: is anything left of S once the best
linear function of their own cosines is taken out of C? If not (p > 0.05), what the groups' images look like explains
the finding. The standard model of the same architecture: is S larger than its S, by the permutation test of the
difference of both matrices? If not, the finding is none about robust training.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from results.clustering_effect import Effect, Test

LEVEL = 0.05


class Ruling(StrEnum):
    SHOWS = "shows the effect"
    DEPENDS = "depends on the mode"
    NOT_SHOWN = "not shown"
    UNDERPOWERED = "underpowered"


@dataclass(frozen=True)
class Mode:
    """A model's class rows with batch norm treated in one way, and the controls in the same mode.

    `norms` are of the class rows; `starts` the centred S of random initialisations, None where there are none.
    `beyond_images` tests what class-mean images leave of the centred matrix, `over_standard` the difference to the
    standard model's; None where there is no such control.
    """

    bn: str
    norms: tuple[float, ...]
    raw: Effect
    centred: Effect
    starts: tuple[float, ...] | None = None
    beyond_images: Test | None = None
    over_standard: Test | None = None

    @property
    def reached(self) -> int:
        """How many random initialisations have an S that is as large."""
        return sum(start >= self.centred.test.statistic for start in self.starts or ())

    @property
    def p(self) -> float:
        """Of the rule's first point."""
        among = 0.0 if self.starts is None else (1 + self.reached) / (1 + len(self.starts))
        return max(self.centred.test.p, among)

    @property
    def least(self) -> float:
        """The smallest that `p` could have been."""
        among = 0.0 if self.starts is None else 1 / (1 + len(self.starts))
        return max(self.centred.test.least, among)


@dataclass(frozen=True)
class Verdict:
    """`beside` are sentences without which the ruling must not be quoted."""

    ruling: Ruling
    beside: tuple[str, ...]


def judge(modes: Sequence[Mode], standard: str | None, why_no_starts: str | None = None) -> Verdict:
    """The rule above. `standard` names the standard model; None for the standard model itself and without one."""
    passed = [mode for mode in modes if mode.p <= LEVEL]
    alone = [mode for mode in modes if mode.p <= LEVEL / len(modes)]
    if all(mode.least > LEVEL for mode in modes):
        ruling = Ruling.UNDERPOWERED
    elif len(passed) == len(modes):
        ruling = Ruling.SHOWS
    elif alone:
        ruling = Ruling.DEPENDS
    else:
        ruling = Ruling.NOT_SHOWN
    return Verdict(
        ruling, tuple(_beside(ruling, modes, passed if ruling is Ruling.SHOWS else alone, standard, why_no_starts))
    )


def _beside(
    ruling: Ruling, modes: Sequence[Mode], shown: Sequence[Mode], standard: str | None, why_no_starts: str | None
) -> list[str]:
    told = []
    if ruling is Ruling.UNDERPOWERED:
        of_groups = min(mode.centred.test.least for mode in modes)
        if of_groups > LEVEL:
            return [f"with groups of these sizes no p is below {of_groups:.2g}"]
        least = min(mode.least for mode in modes)
        return [f"with {len(modes[0].starts or ())} random initialisations no p is below {least:.2g}"]
    if ruling is Ruling.DEPENDS:
        told.append(f"only with batch norm {_named(shown)}")
    if why_no_starts is not None:
        told.append(f"not held against random initialisations: {why_no_starts}")
    if ruling is Ruling.NOT_SHOWN:
        common = [mode for mode in modes if mode.centred.test.p <= LEVEL < mode.p]
        if common:
            told.append(
                "random initialisations show as much: "
                + ", ".join(f"{mode.reached} of {len(mode.starts or ())} ({mode.bn})" for mode in common)
            )
        return told
    explained = [mode for mode in shown if mode.beyond_images is not None and mode.beyond_images.p > LEVEL]
    if explained:
        told.append(f"class-mean images explain it{_in(explained, shown)}")
    no_more = [mode for mode in shown if mode.over_standard is not None and mode.over_standard.p > LEVEL]
    if standard is not None and no_more:
        told.append(f"no more than {standard} shows{_in(no_more, shown)}")
    return told


def _named(modes: Sequence[Mode]) -> str:
    words = {"drop": "dropped", "fold": "folded"}
    return " and ".join(words.get(mode.bn, mode.bn) for mode in modes)


def _in(some: Sequence[Mode], shown: Sequence[Mode]) -> str:
    return "" if len(some) == len(shown) else f" ({', '.join(mode.bn for mode in some)})"
