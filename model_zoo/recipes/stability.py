"""What ClusTR's adversarial variants add to the Magnet loss: p(f(x_adv)) shall be like p(f(x)).

    term  = weight D(p(f(x_adv)), p(f(x))) + cross_entropy_weight CE(p(f(x)), y)
    x_adv = `steps` steps of size step_size up D'(p(f(.)), p(f(x))) from x + U(-eps, eps), inside ball and box

ClusTR eq. 5 is D = D' = cross entropy and one step; Bhardwaj et al. (2022), section 4, vary D (`divergence`), D'
(`climbed`), the steps and the last term. Readings taken where the papers leave them open:

- p uses the clusters and the sigma^2 of the epoch's index. It is log-softmax of the raw scores (head `scores`), as in
  the published code, because that is the model whose numbers were published; `--set head=log_sum_exp` trains through
  eq. 4 itself.
- gradients flow through both arguments of D in the loss, and through the first alone in the attack.
- MSE is taken between the two p, over the classes: the formulas' reading; the published code compares embeddings
  with p, which have different sizes.
- the attacked image is made in eval mode.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from attacks.threat import Threat
from model_zoo.magnet import MagnetClassifier
from model_zoo.recipes.cluster_training import ClusterBatch
from model_zoo.recipes.data import TrainingData
from model_zoo.recipes.loop import TrainingRun
from model_zoo.recipes.magnet_training import ExtraTerm, MagnetSettings, check_batch, fit_magnet
from model_zoo.recipes.perturb import ascend, uniform_start
from model_zoo.recipes.soft_assignment import log_probabilities
from model_zoo.recipes.warm_start import warm_start


@dataclass(frozen=True)
class StabilitySettings(MagnetSettings):
    """Settings of a Magnet recipe with the term above; `divergence` and `climbed` are ce, mse or kl.

    A step of 10/255 is the published code's; the papers give none for training.
    """

    weight: float = 8.0
    cross_entropy_weight: float = 0.0
    divergence: str = "ce"
    climbed: str = "ce"
    eps: float = 8 / 255
    step_size: float = 10 / 255
    steps: int = 1
    head: str = "scores"


def cross_entropy(log_q: Float[Tensor, "b c"], log_p: Float[Tensor, "b c"]) -> Float[Tensor, " b"]:
    """-sum_c p_c log q_c."""
    return -(log_p.exp() * log_q).sum(dim=1)


def mean_squared_error(log_q: Float[Tensor, "b c"], log_p: Float[Tensor, "b c"]) -> Float[Tensor, " b"]:
    """The mean over classes of (q_c - p_c)^2."""
    return (log_q.exp() - log_p.exp()).square().mean(dim=1)


def kl_divergence(log_q: Float[Tensor, "b c"], log_p: Float[Tensor, "b c"]) -> Float[Tensor, " b"]:
    """sum_c p_c (log p_c - log q_c), as in TRADES (Zhang et al. 2019)."""
    return (log_p.exp() * (log_p - log_q)).sum(dim=1)


DIVERGENCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ce": cross_entropy,
    "mse": mean_squared_error,
    "kl": kl_divergence,
}


SoftAssignment = Callable[[ClusterBatch, Tensor], Tensor]
"""(batch, features (b, d)) to log p (b, classes)."""


def equation_4(settings: StabilitySettings, num_classes: int) -> SoftAssignment:
    """p of ClusTR eq. 4 by the settings' head. Raises ValueError for an unknown one."""
    if settings.head not in ("scores", "log_sum_exp"):
        raise ValueError(f"head must be scores or log_sum_exp, got {settings.head!r}")

    def assignment(batch: ClusterBatch, features: Tensor) -> Tensor:
        return log_probabilities(features, batch.centroids, batch.labels, batch.variance, num_classes, settings.head)

    return assignment


def stability_term(
    settings: StabilitySettings, num_classes: int, assignment: SoftAssignment | None = None
) -> ExtraTerm:
    """The term as `fit_magnet` takes it, for another p than eq. 4 where an `assignment` is given.

    Raises ValueError for an unknown head or divergence.
    """
    assignment = equation_4(settings, num_classes) if assignment is None else assignment
    for name in (settings.divergence, settings.climbed):
        if name not in DIVERGENCES:
            raise ValueError(f"divergence and climbed must be one of {', '.join(DIVERGENCES)}, got {name!r}")
    divergence, climbed = DIVERGENCES[settings.divergence], DIVERGENCES[settings.climbed]
    threat = Threat("linf", settings.eps)

    def term(batch: ClusterBatch) -> Tensor:
        log_p = functools.partial(assignment, batch)
        batch.backbone.eval()
        with torch.no_grad():
            clean = log_p(batch.backbone(batch.x))
        x_adv = ascend(
            lambda images: climbed(log_p(batch.backbone(images)), clean),
            batch.x,
            uniform_start(batch.x, threat, batch.generator),
            threat,
            steps=settings.steps,
            step_size=settings.step_size,
        )
        batch.backbone.train()
        natural = log_p(batch.features)
        loss = settings.weight * divergence(log_p(batch.backbone(x_adv)), natural).mean()
        if settings.cross_entropy_weight:
            loss = loss + settings.cross_entropy_weight * functional.nll_loss(natural, batch.y)
        return loss

    return term


def fit_stable(data: TrainingData, settings: StabilitySettings, run: TrainingRun, stage: str) -> MagnetClassifier:
    """Warm start, then the Magnet loss plus the term."""
    check_batch(data, settings)  # before the warm start is trained
    term = stability_term(settings, data.num_classes)
    return fit_magnet(data, settings, run, stage, warm_start(data, settings, run), term)
