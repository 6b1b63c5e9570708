"""Adversarial images made on one model and shown to another."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attacks.contract import AttackResult, Classifier
from attacks.losses import cross_entropy, margin
from attacks.pgd import LogitsLoss, climb
from attacks.randomness import sample_generators
from attacks.threat import Threat

LABELS = ("true", "predicted")
"""Which class an attack leaves: the true one, or what the surrogate predicts on the clean image.

A surrogate of another data set has other classes, and the true class's number means nothing to it."""


@dataclass(frozen=True)
class Crafting:
    """How images are made on a surrogate: what is raised, and whether from a random point of the ball."""

    loss: LogitsLoss
    random_start: bool

    def default_step(self, eps: float, steps: int) -> float:
        """eps/steps from the clean image, whose last iterate then may lie on the ball's surface; else eps/4, as pgd."""
        return eps / 4 if self.random_start else eps / steps


CRAFTINGS: dict[str, Crafting] = {
    "i-fgsm": Crafting(cross_entropy, random_start=False),  # Kurakin et al. 2017, section 2.2
    "pgd": Crafting(cross_entropy, random_start=True),  # Madry et al. 2018, eq. 3
    "cw": Crafting(margin, random_start=True),  # Carlini & Wagner 2017, f_6 without its floor, by steps of PGD
}


def craft(
    surrogate: Classifier,
    x: Float[Tensor, "n c h w"],
    y: Int[Tensor, " n"],
    threat: Threat,
    *,
    attack: str,
    labels: str,
    steps: int,
    step_size: float | None,
    seed: int,
    sample_ids: Int[Tensor, " n"],
) -> Float[Tensor, "n c h w"]:
    """The last iterate of an attack of CRAFTINGS on the surrogate, one run; nothing is judged on the way.

    `step_size` is in input units; None: the attack's default. `seed` and `sample_ids` matter to a random start alone.
    Raises ValueError for an unknown attack or labels, and for a step or a number of steps that is not positive.
    """
    for name, value, known in (("attack", attack, tuple(CRAFTINGS)), ("labels", labels, LABELS)):
        if value not in known:
            raise ValueError(f"transfer: {name} must be one of {', '.join(known)}, got {value!r}")
    if steps < 1:
        raise ValueError(f"transfer: steps must be at least 1, got {steps}")
    if step_size is not None and not step_size > 0:
        raise ValueError(f"transfer: step_size must be positive, got {step_size}")
    crafting = CRAFTINGS[attack]
    if labels == "predicted":
        with torch.no_grad():
            y = surrogate(x).argmax(dim=1)
    start = x
    if crafting.random_start:
        start = threat.random_start(x, sample_generators(seed, sample_ids, f"transfer/{attack}"))
    return climb(
        lambda images: crafting.loss(surrogate(images), y),
        x,
        start,
        threat,
        steps=steps,
        step_size=crafting.default_step(threat.eps, steps) if step_size is None else step_size,
    )


def transfer(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    seed: int,
    sample_ids: Tensor,
    surrogate: Classifier | str = "nominal",
    steps: int = 10,
    attack: str = "i-fgsm",
    labels: str = "true",
    step_size: float | None = None,
) -> AttackResult:
    """I-FGSM on the surrogate: `steps` steps of eps/steps from the clean image, no random start.

    Source: Kurakin et al. 2017, section 2.2, with the step that keeps the last iterate on the ball's
    surface (Dong et al. 2018, section 2.2). The target model is never asked, so `model` goes unused and only
    the last iterate counts. `attack` names another of CRAFTINGS, `labels` one of LABELS.
    """
    del model
    if isinstance(surrogate, str):
        raise TypeError(f"transfer: surrogate {surrogate!r} must be loaded by the caller")
    x_adv = craft(
        surrogate,
        x,
        y,
        threat,
        attack=attack,
        labels=labels,
        steps=steps,
        step_size=step_size,
        seed=seed,
        sample_ids=sample_ids,
    )
    return AttackResult(x_adv)
