"""Does the clustering effect go with a way of training, or with one training? S over the seeds of a family.

The permutation of classes (`results.clustering_effect`) asks of one network whether its rows know the groups. That
robust models show the effect and standard ones do not (Bai et al. 2021, arXiv 2111.12922) is a statement on trainings,
and another seed gives another network with another S. So the unit here is the training: the difference of two families'
mean S among all ways to deal the seeds to the two.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from results.linearized import Found
from results.seeds import family_of, permute_seeds

_DIGITS = 9
"""S is compared to so many places, so that equal ones are ties whatever their rounding."""


@dataclass(frozen=True)
class FamilyEffect:
    """S, mean row taken out, of each seed of a family and of the standard model's family, in one mode `bn`.

    `p`: exact permutation of the seeds between the two, two-sided; `least` the smallest that so many seeds can give.
    """

    family: str
    members: tuple[str, ...]
    against: str
    members_against: tuple[str, ...]
    bn: str
    values: tuple[float, ...]
    values_against: tuple[float, ...]
    p: float
    least: float

    @property
    def difference(self) -> float:
        return statistics.mean(self.values) - statistics.mean(self.values_against)


def family_effects(models: Sequence[Found]) -> tuple[FamilyEffect, ...]:
    """Every family against that of its standard model, in each mode, where `models` have two seeds or more of both."""
    families: dict[str, list[Found]] = {}
    for one in models:
        families.setdefault(family_of(one.model), []).append(one)
    return tuple(
        _compared(members, others, mode)
        for members in families.values()
        if len(members) > 1 and members[0].standard is not None
        for others in [families.get(family_of(members[0].standard), [])]
        if len(others) > 1 and others is not members
        for mode in range(len(members[0].modes))
    )


def _compared(members: Sequence[Found], others: Sequence[Found], mode: int) -> FamilyEffect:
    ours, theirs = (tuple(one.modes[mode].centred.test.statistic for one in side) for side in (members, others))
    whole = ([round(value * 10**_DIGITS) for value in side] for side in (ours, theirs))
    return FamilyEffect(
        family_of(members[0].model),
        tuple(one.model for one in members),
        family_of(others[0].model),
        tuple(one.model for one in others),
        members[0].modes[mode].bn,
        ours,
        theirs,
        *permute_seeds(*whole),
    )
