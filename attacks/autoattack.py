"""AutoAttack (Croce & Hein 2020b) as data: which searches, in which order, on what the ones before left standing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attacks.apgd import APGD, TARGETED, Loss
from attacks.apgd_l1 import APGDL1
from attacks.contract import AttackResult, Classifier
from attacks.fab import FAB
from attacks.pgd import stall_flags
from attacks.search import GiveUp, Method, clean_margin, search
from attacks.square import Square
from attacks.threat import Norm, Threat

STANDARD_TARGETS = 9
DLR_CLASSES = 3
"""The DLR loss divides by the distance of the first to the third logit; below, the margin takes its place."""
TARGETED_DLR_CLASSES = 4
SQUARE_HELPED = 0.002
"""Square after white-box attacks may lower robust accuracy by this much before it is a warning (the reference's)."""


@dataclass(frozen=True)
class Part:
    """A search of an ensemble: `make` builds it for a norm and a number of classes.

    `left` is the largest share of its clean margin that a sample may have left before this part, after all that
    was tried; those with more are abandoned as hopeless. `give_up` abandons single searches on the way. A sample
    that `queries_first` brings further than the gradients before it is never abandoned.
    """

    name: str
    make: Callable[[Norm, int], Method]
    left: float | None = None
    give_up: GiveUp | None = None
    queries_first: bool = False


def _apgd(
    loss: Loss,
    restarts: int = 1,
    draws: int = 1,
    steps: int = 100,
    targets: int = STANDARD_TARGETS,
    left: float | None = None,
    give_up: GiveUp | None = None,
    label: str = "",
) -> Part:
    name = f"apgd-{loss}{label}"

    def make(norm: Norm, classes: int) -> Method:
        possible: Loss = loss
        if loss == "dlr" and classes < DLR_CLASSES:
            possible = "margin"
        if loss == "dlr-targeted" and classes < TARGETED_DLR_CLASSES:
            possible = "margin-targeted"
        runs = min(targets, classes - 1) if loss in TARGETED else restarts
        kind = APGDL1 if norm == "l1" else APGD
        return kind(name=name, loss=possible, steps=steps, runs=runs, draws=draws)

    return Part(name, make, left, give_up)


def _fab(targeted: bool, restarts: int = 1, left: float | None = None) -> Part:
    name = "fab-targeted" if targeted else "fab"

    def make(norm: Norm, classes: int) -> Method:
        del norm
        runs = min(STANDARD_TARGETS, classes - 1) if targeted else restarts
        return FAB(name=name, steps=100, runs=runs, targeted=targeted)

    return Part(name, make, left)


def _square(left: float | None = None, give_up: GiveUp | None = None) -> Part:
    return Part("square", lambda norm, classes: Square(name="square", queries=5000, runs=1), left, give_up)


def _few_queries(queries: int) -> Part:
    """Square's first queries, to see what gradients miss."""
    name = f"square-{queries}"
    return Part(name, lambda norm, classes: Square(name=name, queries=queries, runs=1), queries_first=True)


def _by(**left: float) -> GiveUp:
    """at_12=0.7: after 12 images, at most 0.7 of the clean margin may be left."""
    return GiveUp(tuple((int(name.removeprefix("at_")), share) for name, share in left.items()))


ENSEMBLES: dict[str, tuple[Part, ...]] = {
    "standard": (_apgd("ce"), _apgd("dlr-targeted"), _fab(targeted=True), _square()),
    "plus": (
        _apgd("ce", restarts=5),
        _apgd("dlr", restarts=5),
        _fab(targeted=False, restarts=5),
        _square(),
        _apgd("dlr-targeted"),
        _fab(targeted=True),
    ),
    "rand": (_apgd("ce", draws=20), _apgd("dlr", draws=20)),
    "fast": (
        _apgd("margin", steps=10, label="-10"),
        _apgd("dlr-targeted", steps=20, targets=3, label="-20"),
        _few_queries(250),
        _apgd("ce", left=0.5),
        _apgd("dlr-targeted", left=0.4, give_up=_by(at_12=0.7, at_25=0.5, at_50=0.35)),
        _fab(targeted=True, left=0.1),
        _square(left=0.1, give_up=_by(at_500=0.6, at_1000=0.4, at_2000=0.25)),
    ),
    "screen": (
        _apgd("margin", steps=10, label="-10"),
        _apgd("dlr-targeted", steps=20, targets=3, label="-20"),
        _few_queries(100),
        _apgd("dlr-targeted", left=0.4, give_up=_by(at_12=0.55, at_25=0.35, at_50=0.2)),
        _apgd("ce", restarts=3, left=0.12),
    ),
}
"""`fast` is standard's four attacks behind short ones, each sample abandoned when too much of its margin is left;
`screen` has neither FAB nor a long Square (short starts and few targets as in Gao et al. 2022 and Liu et al. 2022). So
that a model that hides its gradients is not taken for a robust one, no sample is abandoned that met a zero gradient or
that a few random queries brought further than the gradients had. The shares were chosen on validation images of four
models (nominal, clustr, clustr-qtrades, pgd-at)."""


def autoattack(
    model: Classifier,
    x: Float[Tensor, "n c h w"],
    y: Int[Tensor, " n"],
    threat: Threat,
    *,
    seed: int,
    sample_ids: Int[Tensor, " n"],
    parts: Sequence[Part] = ENSEMBLES["standard"],
) -> AttackResult:
    """An ensemble, by default standard (Croce & Hein 2020b, section 5 and table 2).

    With fewer than 10 classes there are classes - 1 targets, with too few for the DLR losses (3, targeted 4)
    the margin takes their place, and a flag says that the result is not standard. Raises ValueError for fewer
    than 2 classes.
    """
    with torch.no_grad():
        classes = model(x[:1]).shape[1]
    if classes < 2:
        raise ValueError(f"autoattack needs at least 2 classes, the model has {classes}")
    flags: list[str] = []
    if classes <= STANDARD_TARGETS:
        flags.append(f"non-standard AutoAttack: {classes - 1} targets, for {classes} classes")
    if classes < TARGETED_DLR_CLASSES:
        flags.append("non-standard AutoAttack: the margin loss in place of DLR, which needs more classes")
    x_adv, claimed = x.clone(), torch.zeros(len(x), dtype=torch.bool, device=x.device)
    winners: list[str | None] = [None] * len(x)
    spared, hopeless, cut = (torch.zeros_like(claimed) for _ in range(3))
    best = torch.full((len(x),), -torch.inf, device=x.device)
    clean = clean_margin(model, x, y) if any(part.left for part in parts) and len(x) else best
    for part in parts:
        if part.left is not None:
            hopeless |= ~claimed & ~spared & (best > -torch.inf) & (best < part.left * clean)
        rows = torch.nonzero(~claimed & ~hopeless).flatten()
        if not len(rows):
            continue
        method = part.make(threat.norm, classes)
        found = search(
            model,
            method,
            x[rows],
            y[rows],
            threat,
            seed=seed,
            sample_ids=sample_ids[rows.cpu()],
            give_up=part.give_up,
            spared=spared[rows],
        )
        if part.queries_first:
            spared[rows] |= found.margin > best[rows]
        best[rows] = torch.maximum(best[rows], found.margin)
        cut[rows] |= found.abandoned
        spared[rows] |= found.stalled
        broken = rows[found.broken]
        x_adv[broken], claimed[broken] = found.x_adv[found.broken], True
        for row in broken.tolist():
            winners[row] = part.name
        if part.name.startswith("apgd"):
            flags += [f"{part.name}: {flag}" for flag in stall_flags(found)]
        if part.name == "square" and len(broken) > SQUARE_HELPED * len(x):
            flags.append(f"Square broke {len(broken)} of {len(x)} samples that gradients had left standing")
    abandoned = int(((hopeless | cut) & ~claimed).sum())
    if abandoned:
        flags.append(f"not AutoAttack standard: {abandoned} of {len(x)} samples abandoned as hopeless")
    return AttackResult(x_adv, claimed=claimed, winners=tuple(winners), flags=tuple(flags))
