"""Adversarial images made on one model and shown to another."""

from torch import Tensor

from attacks.contract import AttackResult, Classifier
from attacks.losses import cross_entropy
from attacks.pgd import climb
from attacks.threat import Threat


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
) -> AttackResult:
    """I-FGSM on the surrogate: `steps` steps of eps/steps from the clean image, no random start.

    Source: Kurakin et al. 2017, section 2.2, with the step that keeps the last iterate on the ball's
    surface (Dong et al. 2018, section 2.2). The target model is never asked, so `model` and `seed` go
    unused and only the last iterate counts.
    """
    del model, seed, sample_ids
    if isinstance(surrogate, str):
        raise TypeError(f"transfer: surrogate {surrogate!r} must be loaded by the caller")
    shown = surrogate
    if steps < 1:
        raise ValueError(f"transfer: steps must be at least 1, got {steps}")
    x_adv = climb(
        lambda images: cross_entropy(shown(images), y),
        x,
        x,
        threat,
        steps=steps,
        step_size=threat.eps / steps,
    )
    return AttackResult(x_adv)
