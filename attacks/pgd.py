"""Projected gradient ascent with random restarts (Madry et al. 2018)."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attacks.contract import AttackResult, Classifier, fooled, seen_through_head
from attacks.losses import cross_entropy
from attacks.randomness import sample_generators
from attacks.threat import Threat

LogitsLoss = Callable[[Tensor, Tensor], Tensor]
Objective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(x, y) to the loss to raise (n,) and the logits (n, classes) that judge the same images."""


def pgd(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    seed: int,
    sample_ids: Tensor,
    steps: int = 20,
    restarts: int = 10,
    step_size: float | None = None,
    loss: LogitsLoss = cross_entropy,
    name: str = "pgd",
) -> AttackResult:
    """PGD on a loss of the logits.

    Source: Madry et al. 2018, eq. 3; ClusTR section 4.2 for 10 restarts and steps of 2/255 at 8/255, which
    is the default of eps/4. Success counts at any iterate, the random start included, where the papers
    judge the last one. `step_size` is in input units.
    """

    headed = seen_through_head(model)

    def objective(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if headed is not None:
            distances = headed.squared_distances(x)
            return loss(headed.logits_from_distances(distances), y), headed.decide(distances)
        logits = model(x)
        return loss(logits, y), logits

    return restarted_ascent(
        objective,
        x,
        y,
        threat,
        seed=seed,
        sample_ids=sample_ids,
        steps=steps,
        restarts=restarts,
        step_size=step_size,
        name=name,
    )


def restarted_ascent(
    objective: Objective,
    x: Float[Tensor, "n c h w"],
    y: Int[Tensor, " n"],
    threat: Threat,
    *,
    seed: int,
    sample_ids: Int[Tensor, " n"],
    steps: int,
    restarts: int,
    step_size: float | None,
    name: str,
) -> AttackResult:
    """Ascend from `restarts` random starts; a sample leaves at the iterate that fools the model."""
    if steps < 1 or restarts < 1:
        raise ValueError(f"{name}: steps and restarts must be at least 1, got {steps} and {restarts}")
    if step_size is not None and not step_size > 0:
        raise ValueError(f"{name}: step_size must be positive, got {step_size}")
    size = threat.eps / 4 if step_size is None else step_size
    x_adv = x.clone()
    pending = torch.arange(len(x), device=x.device)
    without_gradient = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for restart in range(restarts):
        if len(pending) == 0:
            break
        start = threat.random_start(
            x[pending], sample_generators(seed, sample_ids[pending.to(sample_ids.device)], name, restart)
        )
        x_adv[pending], broken, stalled = ascend(
            objective, x[pending], start, y[pending], threat, steps=steps, step_size=size
        )
        without_gradient[pending] |= stalled
        pending = pending[~broken]
    claimed = torch.ones_like(without_gradient)
    claimed[pending] = False
    return AttackResult(x_adv, claimed=claimed, flags=_gradient_flags(without_gradient))


def ascend(
    objective: Objective,
    x: Float[Tensor, "n c h w"],
    start: Float[Tensor, "n c h w"],
    y: Int[Tensor, " n"],
    threat: Threat,
    *,
    steps: int,
    step_size: float,
) -> tuple[Float[Tensor, "n c h w"], Bool[Tensor, " n"], Bool[Tensor, " n"]]:
    """`steps` steepest-ascent steps from `start`.

    Returns the first fooling iterate of each sample, or its last one; which samples fooled the model; and
    which met a zero or non-finite gradient on the way.
    """
    x_adv = start.clone()
    broken = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    stalled = torch.zeros_like(broken)
    active = torch.arange(len(x), device=x.device)
    for step in range(steps + 1):
        last = step == steps
        current = x_adv[active].requires_grad_(not last)
        with torch.set_grad_enabled(not last):
            loss, logits = objective(current, y[active])
        done = fooled(logits.detach(), y[active])
        broken[active[done]] = True
        if last or bool(done.all()):
            break
        (gradient,) = torch.autograd.grad(loss.sum(), current)
        gradient, active = gradient[~done], active[~done]
        usable = gradient.isfinite().flatten(1).all(dim=1) & (gradient != 0).flatten(1).any(dim=1)
        stalled[active[~usable]] = True
        gradient = gradient.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        moved = current.detach()[~done] + step_size * threat.steepest(gradient)
        x_adv[active] = threat.project(x[active], moved)
    return x_adv, broken, stalled


def climb(
    loss: Callable[[Tensor], Tensor],
    x: Float[Tensor, "n c h w"],
    start: Float[Tensor, "n c h w"],
    threat: Threat,
    *,
    steps: int,
    step_size: float,
) -> Float[Tensor, "n c h w"]:
    """`steps` steepest-ascent steps on a per-sample loss of the images, judging nothing on the way."""
    x_adv = start.detach()
    for _ in range(steps):
        current = x_adv.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(loss(current).sum(), current)
        x_adv = threat.project(x, current.detach() + step_size * threat.steepest(gradient))
    return x_adv


def _gradient_flags(without_gradient: Bool[Tensor, " n"]) -> tuple[str, ...]:
    count = int(without_gradient.sum())
    return (f"zero or non-finite gradient at {count} of {len(without_gradient)} samples",) if count else ()
