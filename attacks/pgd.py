"""Projected gradient ascent with random restarts (Madry et al. 2018)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attacks.contract import AttackResult, Classifier, Outputs
from attacks.gradient import slope
from attacks.losses import cross_entropy
from attacks.search import Found, Lanes, Progress, Tasks, search
from attacks.threat import Threat

LogitsLoss = Callable[[Tensor, Tensor], Tensor]
Objective = Callable[[Outputs, Tensor], Tensor]
"""(outputs of a pass, y) to the loss to raise (n,)."""


@dataclass(frozen=True)
class Ascent:
    """`steps` steepest-ascent steps from a random start, `runs` times; every iterate is shown, the start included.

    `step_size` is in input units.
    """

    name: str
    objective: Objective
    steps: int
    runs: int
    step_size: float

    def begin(self, model: Classifier, tasks: Tasks, threat: Threat) -> Lanes:
        del model
        n = len(tasks.y)
        return {
            "at": threat.random_start(tasks.x, tasks.generators),
            "step": torch.zeros(n, dtype=torch.int64),
            "stalled": torch.zeros(n, dtype=torch.bool, device=tasks.x.device),
        }

    def advance(self, model: Classifier, lanes: Lanes, threat: Threat) -> Progress:
        shown, y = lanes["at"], lanes["y"]
        seen = slope(model, shown, y, lambda out: self.objective(out, y))
        finished = lanes["step"] == self.steps
        lanes["stalled"] |= seen.stalled & ~finished.to(seen.stalled.device)
        lanes["step"] += 1
        lanes["at"] = threat.project(lanes["x"], shown + self.step_size * threat.steepest(seen.gradient))
        return Progress(shown, seen.margin, lanes["step"], finished)


def pgd(
    model: Classifier,
    x: Float[Tensor, "n c h w"],
    y: Int[Tensor, " n"],
    threat: Threat,
    *,
    seed: int,
    sample_ids: Int[Tensor, " n"],
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
    return restarted_ascent(
        model,
        lambda out, y: loss(out.logits, y),
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
    model: Classifier,
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
    method = Ascent(name, objective, steps, restarts, threat.eps / 4 if step_size is None else step_size)
    found = search(model, method, x, y, threat, seed=seed, sample_ids=sample_ids)
    return AttackResult(found.x_adv, claimed=found.broken, flags=stall_flags(found))


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


def stall_flags(found: Found) -> tuple[str, ...]:
    """One sentence if any search met a gradient that leads nowhere."""
    count = int(found.stalled.sum())
    return (f"zero or non-finite gradient at {count} of {len(found.stalled)} samples",) if count else ()
