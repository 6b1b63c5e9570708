"""Auto-PGD for linf and l2 (Croce & Hein 2020b, section 4, Algorithm 1)."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from attacks.contract import Classifier, Outputs, outputs
from attacks.gradient import slope
from attacks.losses import cross_entropy, dlr, dlr_targeted, margin, margin_targeted
from attacks.search import Lanes, Progress, Tasks
from attacks.threat import Threat

Loss = Literal["ce", "dlr", "margin", "dlr-targeted", "margin-targeted"]
LOSSES: tuple[Loss, ...] = get_args(Loss)
TARGETED: tuple[Loss, ...] = ("dlr-targeted", "margin-targeted")

_MOMENTUM = 0.75
_RHO = 0.75
"""A window in which the loss rose in at most this share of the steps ends with half the step size."""


@dataclass(frozen=True)
class APGD:
    """`steps` gradient steps from a random start; the step size is halved where the loss stalls.

    It starts at 2 eps. Each of `runs` searches starts from scratch; a targeted loss aims run r at the class of
    rank r + 2 among the clean logits (the r-th best wrong class). Every iterate is shown, the start included.
    `draws` gradients are averaged at each point (for randomised models).
    """

    name: str
    loss: Loss
    steps: int
    runs: int
    draws: int = 1

    def begin(self, model: Classifier, tasks: Tasks, threat: Threat) -> Lanes:
        x, n = tasks.x, len(tasks.y)
        start = _start(tasks, threat)
        lanes = {
            "at": start,
            "before": start.clone(),
            "best": start.clone(),
            "best_gradient": torch.zeros_like(x),
            "size": x.new_full((n,), 2.0 * threat.eps),
            "age": x.new_zeros(n, dtype=torch.int64),
            "window": x.new_full((n,), self._first_window, dtype=torch.int64),
            "in_window": x.new_zeros(n, dtype=torch.int64),
            "rises": x.new_zeros(n, dtype=torch.int64),
            "loss_before": x.new_full((n,), torch.inf),
            "best_loss": x.new_full((n,), -torch.inf),
            "best_at_check": x.new_full((n,), -torch.inf),
            "halved": x.new_ones(n, dtype=torch.bool),
            "stalled": x.new_zeros(n, dtype=torch.bool),
        }
        if threat.norm == "linf":
            lanes["low"] = (x - threat.eps).clamp_min(threat.lower)
            lanes["high"] = (x + threat.eps).clamp_max(threat.upper)
        return lanes | target_columns(self.loss, model, tasks)

    def advance(self, model: Classifier, lanes: Lanes, threat: Threat) -> Progress:
        shown, age = lanes["at"], lanes["age"]
        seen = slope(model, shown, lanes["y"], lambda out: objective(self.loss, out, lanes), self.draws)
        finished = age == self.steps
        lanes["stalled"] |= seen.stalled & ~finished
        _note(lanes, shown, seen.loss, seen.gradient)
        at, gradient = shown, seen.gradient
        due = lanes["in_window"] == lanes["window"]
        if bool(due.any()):
            back = torch.nonzero(self._halve(lanes, due)).flatten()
            at, gradient = shown.clone(), gradient.clone()
            at[back], gradient[back] = lanes["best"][back], lanes["best_gradient"][back]
        lanes["at"] = _move(at, gradient, lanes, threat, first=age == 0)
        lanes["before"] = at
        lanes["age"] = age + 1
        return Progress(shown, seen.margin, lanes["age"], finished)

    @property
    def _first_window(self) -> int:
        return max(int(0.22 * self.steps), 1)

    def _halve(self, lanes: Lanes, due: Tensor) -> Tensor:
        """Section 4.1: at a checkpoint, halve the step if the loss rose too rarely, or if neither the best loss
        nor (at the last checkpoint) the step changed. Returns the lanes that go on from their best point."""
        window = lanes["window"]
        rarely = lanes["rises"].float() <= _RHO * window.float()
        unchanged = ~lanes["halved"] & (lanes["best_at_check"] >= lanes["best_loss"])
        halve = due & (rarely | unchanged)
        lanes["size"] = torch.where(halve, lanes["size"] / 2, lanes["size"])
        lanes["halved"] = torch.where(due, halve, lanes["halved"])
        lanes["best_at_check"] = torch.where(due, lanes["best_loss"], lanes["best_at_check"])
        shorter = (window - max(int(0.03 * self.steps), 1)).clamp_min(max(int(0.06 * self.steps), 1))
        lanes["window"] = torch.where(due, shorter, window)
        lanes["in_window"] = torch.where(due, 0, lanes["in_window"])
        lanes["rises"] = torch.where(due, 0, lanes["rises"])
        return halve


def target_columns(loss: Loss, model: Classifier, tasks: Tasks) -> Lanes:
    """The column `target` of a targeted loss: by rank among the clean logits of the attacked head."""
    if loss not in TARGETED:
        return {}
    with torch.no_grad():
        logits = outputs(model, tasks.x).logits
    true_class = torch.nn.functional.one_hot(tasks.y, logits.shape[1]).bool()
    ranked = logits.masked_fill(true_class, -torch.inf).argsort(dim=1, descending=True, stable=True)
    return {"target": ranked.gather(1, tasks.run[:, None]).squeeze(1)}


def objective(loss: Loss, out: Outputs, lanes: Lanes) -> Float[Tensor, " n"]:
    """The loss to raise, of the attacked head."""
    if loss in TARGETED:
        targeted = dlr_targeted if loss == "dlr-targeted" else margin_targeted
        return targeted(out.logits, lanes["y"], lanes["target"])
    plain = {"ce": cross_entropy, "dlr": dlr, "margin": margin}[loss]
    return plain(out.logits, lanes["y"])


def _note(lanes: Lanes, shown: Tensor, loss: Tensor, gradient: Tensor) -> None:
    """Count the step in its window, and remember the best point with its gradient."""
    first = lanes["age"] == 0
    lanes["in_window"] += ~first
    lanes["rises"] += loss > lanes["loss_before"]  # inf before the start: no rise there
    lanes["loss_before"] = loss
    better = torch.nonzero(loss > lanes["best_loss"]).flatten()
    lanes["best"][better], lanes["best_gradient"][better] = shown[better], gradient[better]
    lanes["best_loss"] = torch.maximum(loss.nan_to_num(nan=-torch.inf), lanes["best_loss"])
    lanes["best_at_check"] = torch.where(first, lanes["best_loss"], lanes["best_at_check"])


def _start(tasks: Tasks, threat: Threat) -> Tensor:
    """A random direction scaled to the ball's surface, then clamped to the box (the reference's start)."""
    shape = tuple(tasks.x.shape[1:])
    if threat.norm == "linf":
        noise = torch.stack([torch.from_numpy(2 * g.random(shape, "float32") - 1) for g in tasks.generators])
        size = noise.abs().flatten(1).amax(dim=1)
    else:
        noise = torch.stack([torch.from_numpy(g.standard_normal(shape, "float32")) for g in tasks.generators])
        size = torch.linalg.vector_norm(noise.flatten(1), dim=1)
    offset = noise * (threat.eps / size).reshape(-1, *[1] * len(shape))
    return threat.project(tasks.x, tasks.x + offset.to(tasks.x))


def _move(at: Tensor, gradient: Tensor, lanes: Lanes, threat: Threat, first: Tensor) -> Tensor:
    """One step with momentum: 0.75 of the projected gradient step and 0.25 of the step before."""
    size, x, before = lanes["size"].reshape(-1, *[1] * (at.ndim - 1)), lanes["x"], lanes["before"]
    moved = torch.addcmul(at, threat.steepest(gradient), size)
    if threat.norm == "linf":
        moved.clamp_(lanes["low"], lanes["high"])
    else:
        moved = threat.project(x, moved)
    beginning = torch.nonzero(first).flatten()
    if len(beginning):  # there is no step before: this choice makes the sum below the gradient step itself
        before[beginning] = 2 * at[beginning] - moved[beginning]
    moved.mul_(_MOMENTUM).add_(at, alpha=2 * (1 - _MOMENTUM)).sub_(before, alpha=1 - _MOMENTUM)
    return moved.clamp_(lanes["low"], lanes["high"]) if threat.norm == "linf" else threat.project(x, moved)
