"""What a comparison with a paper's table consists of, as data."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmark.config import parse_eps
from benchmark.reproduce.statements import Statement

JUDGED, PAPERS, UNMASKED = "", "scores", "unmasked"
"""What an attack sees: the head that predictions are judged by, the raw class sums of the papers' evaluation, or the
judged head without the mask of the D nearest clusters, which hides gradients. All are judged with the mask."""

ORDINARY = frozenset({"nominal", "at-pretraining", "free-at", "pgd-at", "trades", "qtrades"})
"""Networks with a linear last layer: one head, and no Magnet loss to attack."""


@dataclass(frozen=True)
class Quantity:
    """A column of a paper: `claim` is its field in the claims, `attack` measures it, through these `heads`.

    A quantity of clustering classifiers alone names the one that `ordinary` networks are compared by instead.
    """

    name: str
    attack: str
    claim: str
    heads: tuple[str, ...] = (JUDGED,)
    ordinary: str = ""


CLEAN = Quantity("clean", "clean", "clean")
PGD20 = Quantity("PGD-20", "pgd20@step_size=2/255", "pgd20", (PAPERS, JUDGED))
PGD100 = Quantity("PGD-100", "pgd100@step_size=2/255", "pgd100", (PAPERS, JUDGED))
MAGNET100 = Quantity("Magnet-100, log domain", "magnet100@step_size=2/255", "magnet100", (PAPERS, JUDGED), "PGD-100")
MAGNET100_PUBLISHED = Quantity(
    "Magnet-100, as published", "magnet100-published@step_size=2/255", "magnet100", (PAPERS, JUDGED), "PGD-100"
)
AUTOATTACK = Quantity("AutoAttack", "autoattack", "autoattack")
PGD20_UNMASKED = dataclasses.replace(PGD20, heads=(*PGD20.heads, UNMASKED))


@dataclass(frozen=True)
class Table:
    """An item of a paper: the claims of its `tables`, the `models` measured, the `quantities` of each.

    A model is a weight file's name with options after an @; `claimed_as` is its name in the claims where that differs.
    """

    paper: str
    item: str
    title: str
    tables: tuple[str, ...]
    models: tuple[str, ...]
    quantities: tuple[Quantity, ...]
    statements: tuple[Statement, ...]
    eps: tuple[str, ...] = ("8/255",)
    notes: tuple[str, ...] = ()
    claimed_as: Mapping[str, str] = field(default_factory=dict)

    @property
    def radii(self) -> tuple[float, ...]:
        return tuple(parse_eps(eps) for eps in self.eps)

    @property
    def heads(self) -> tuple[str, ...]:
        """Those that some quantity is measured through, the papers' first."""
        used = {head for quantity in self.quantities for head in quantity.heads}
        return tuple(head for head in (PAPERS, JUDGED, UNMASKED) if head in used)


def base_of(model: str) -> str:
    """The weight file's name."""
    return model.partition("@")[0]


def nearest_of(model: str) -> int | None:
    """D, where the model's options name it."""
    _, found, text = model.partition("nearest=")
    return int(text.partition(",")[0]) if found else None


def has(model: str, head: str) -> bool:
    """Whether a model can be seen through a head that is not simply its judged one."""
    return {JUDGED: True, PAPERS: is_clustering(model), UNMASKED: nearest_of(model) is not None}[head]


def is_clustering(model: str) -> bool:
    return base_of(model) not in ORDINARY
