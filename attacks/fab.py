"""FAB: the nearest image across the decision boundary, by projections onto linearisations (Croce & Hein 2020a)."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attacks.contract import AttackResult, Classifier, Outputs, outputs
from attacks.gradient import Slope, slope
from attacks.pgd import stall_flags
from attacks.search import Lanes, Progress, Tasks, search
from attacks.threat import Norm, Threat

Projection = Callable[[Tensor, Tensor], Tensor]
"""(points z (n, d) of the box, need (n,)) to the smallest delta (n, d) with <w, delta> = need and z + delta in the
box; where there is none, to the smallest that leads as near to that hyperplane as the box allows."""

_DUAL: dict[Norm, Norm] = {"linf": "l1", "l2": "l2", "l1": "linf"}
_NEWTON_STEPS = 20
_NEWTON_TOLERANCE = 1e-6
_INSIDE = 1.0 - 1e-5
"""Distances are taken in float32, which errs by less than this leaves."""
_UNKNOWN = -1


@dataclass(frozen=True)
class FAB:
    """`steps` moves towards the linearised boundary, `runs` times; the shortest way out of the class is sought.

    Source: Croce & Hein 2020a, section 3 and algorithm 1; `alpha_max`, `eta` and `beta` are the paper's.
    Targeted, run r aims at the class of rank r + 1 among the wrong ones at the original image and starts
    there (as in AutoAttack, Croce & Hein 2020b). Untargeted, the nearest of all boundaries is taken; run 0
    starts at the original, later ones uniformly in the ball of half the radius.

    One pass gives both the verdict on a point and the slope for the move from there. A point that turns out
    adversarial is pulled back by `beta`; targeted, the next move is made from there with the slope at hand,
    where the paper takes another pass for it; untargeted, where another class may now be nearest, that pass
    is taken and counts as a move. So a run is `steps` + 1 passes. Left out are the paper's final search,
    since every adversarial image within eps ends the run, and the distance to the nearest adversarial image
    of other runs, which is above eps while runs go on.
    """

    name: str
    steps: int
    runs: int
    targeted: bool
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9

    def begin(self, model: Classifier, tasks: Tasks, threat: Threat) -> Lanes:
        del model
        n, device = len(tasks.y), tasks.y.device
        at = tasks.x.clone()
        later = torch.nonzero(tasks.run > 0).flatten()
        if not self.targeted and len(later):
            generators = [tasks.generators[i] for i in later.tolist()]
            at[later] = replace(threat, eps=threat.eps / 2).random_start(at[later], generators)
        return {
            "at": at,
            "target": torch.full((n,), _UNKNOWN, device=device),
            "rank": tasks.run.clone(),
            "moves": torch.zeros(n, dtype=torch.int64, device=device),
            "stalled": torch.zeros(n, dtype=torch.bool, device=device),
        }

    def advance(self, model: Classifier, lanes: Lanes, threat: Threat) -> Progress:
        x, shown = lanes["x"], lanes["at"]
        seen = _towards_target(model, lanes) if self.targeted else _towards_nearest(model, lanes, threat.norm)
        offset = (shown - x).flatten(1)
        inside = _length(offset, threat.norm) <= _INSIDE * threat.eps
        finished = lanes["moves"] == self.steps
        pulled = torch.where(seen.margin > 0, self.beta, 1.0).to(offset)[:, None]
        moved = self._move(x, offset, pulled, seen, threat)
        if not self.targeted:
            back = torch.nonzero(seen.margin > 0).flatten()
            moved[back] = x[back] + self.beta * (shown[back] - x[back])
        lanes["at"] = moved
        lanes["moves"] += 1
        lanes["stalled"] |= seen.stalled & ~finished

        outside = torch.nonzero(finished & ~inside).flatten()
        if len(outside):
            shown = shown.clone()
            shown[outside] = x[outside]
        return Progress(shown, seen.margin.masked_fill(~inside, -torch.inf), lanes["moves"], finished)

    def _move(self, x: Tensor, offset: Tensor, pulled: Tensor, seen: Slope, threat: Threat) -> Tensor:
        """The update of algorithm 1 from x + pulled * offset, with the slope at x + offset: towards the projections
        of the point and, by a share alpha, of the original onto the linearised boundary."""
        w = seen.gradient.flatten(1)
        project, tiny = _PROJECTIONS[threat.norm](w, threat), torch.finfo(w.dtype).tiny
        at_origin = torch.linalg.vecdot(w, offset) - seen.loss
        offset = offset * pulled
        at_point = at_origin - torch.linalg.vecdot(w, offset)
        origin = x.flatten(1)
        point = origin + offset
        here = project(point, at_point.nan_to_num())
        there = project(origin, at_origin.nan_to_num())
        near, far = (_length(delta, threat.norm).clamp_min(tiny) for delta in (here, there))
        alpha = (near / (near + far)).clamp_max(self.alpha_max)[:, None]
        here.mul_(self.eta).add_(point).lerp_(there.mul_(self.eta).add_(origin), alpha)
        return here.clamp_(threat.lower, threat.upper).reshape(x.shape)


def fab(
    model: Classifier,
    x: Float[Tensor, "n c h w"],
    y: Int[Tensor, " n"],
    threat: Threat,
    *,
    seed: int,
    sample_ids: Int[Tensor, " n"],
    steps: int = 100,
    restarts: int = 1,
    targets: int = 9,
    name: str = "fab",
) -> AttackResult:
    """FAB towards the `targets` best wrong classes, one after the other, or untargeted where `targets` is 0.

    Source: Croce & Hein 2020a, section 3; its targeted form and the defaults are those of AutoAttack (Croce &
    Hein 2020b). A model of fewer classes gets as many targets as it has wrong classes. `restarts`
    is for the untargeted form, which takes a backward pass a class. It minimises the distance and stops at
    the first adversarial image within eps. Raises ValueError for settings that make no attack and for a
    model of one class.
    """
    if steps < 1 or restarts < 1 or targets < 0:
        given = f"{steps}, {restarts} and {targets}"
        raise ValueError(f"{name}: steps and restarts must be at least 1 and targets at least 0, got {given}")
    if targets and restarts > 1:
        raise ValueError(f"{name}: restarts are for targets=0, got restarts={restarts} with targets={targets}")
    with torch.no_grad():
        classes = outputs(model, x[:1]).logits.shape[1]
    if classes < 2:
        raise ValueError(f"{name}: the model must have at least 2 classes, got {classes}")
    method = FAB(name, steps, min(targets, classes - 1) if targets else restarts, targeted=targets > 0)
    found = search(model, method, x, y, threat, seed=seed, sample_ids=sample_ids)
    return AttackResult(found.x_adv, claimed=found.broken, flags=stall_flags(found))


def _towards_target(model: Classifier, lanes: Lanes) -> Slope:
    """The lead of each lane's target over the true class; a run's first pass, at the original, names the target."""
    y, target = lanes["y"], lanes["target"]

    def lead(out: Outputs) -> Tensor:
        fresh = torch.nonzero(target == _UNKNOWN).flatten()
        if len(fresh):
            target[fresh] = _ranked_wrong(out.logits.detach()[fresh], y[fresh], lanes["rank"][fresh])
        return _lead(out.logits, target, y)

    return slope(model, lanes["at"], y, lead)


def _towards_nearest(model: Classifier, lanes: Lanes, norm: Norm) -> Slope:
    """The lead of the class whose linearised boundary is nearest, box left out (section 3); a backward pass a class."""
    y = lanes["y"]
    images = lanes["at"].detach().requires_grad_(True)
    seen = outputs(model, images)
    loss, gradient = torch.zeros_like(seen.logits[:, 0]).detach(), torch.zeros_like(images).detach()
    nearest = torch.full_like(loss, torch.inf)
    for other in range(seen.logits.shape[1]):
        lead = _lead(seen.logits, torch.full_like(y, other), y)
        (w,) = torch.autograd.grad(lead.sum(), images, retain_graph=True)
        steepness = _length(w.flatten(1), _DUAL[norm])
        distance = torch.where((steepness > 0) & steepness.isfinite(), lead.detach().abs() / steepness, torch.inf)
        closer = torch.nonzero((distance < nearest) & (y != other)).flatten()
        nearest[closer], loss[closer], gradient[closer] = distance[closer], lead.detach()[closer], w[closer]
    return Slope(loss, gradient, seen.margin(y), nearest == torch.inf)


def _ranked_wrong(logits: Float[Tensor, "n c"], y: Int[Tensor, " n"], rank: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """The wrong class of each row's rank, 0 being the one of largest logit."""
    order = logits.argsort(dim=1, descending=True, stable=True)
    wrong = order[order != y[:, None]].reshape(len(y), -1)
    return wrong.gather(1, rank[:, None]).squeeze(1)


def _lead(logits: Float[Tensor, "n c"], target: Int[Tensor, " n"], y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    return (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None])).squeeze(1)


def _length(delta: Float[Tensor, "n d"], norm: Norm) -> Float[Tensor, " n"]:
    if norm == "linf":
        return torch.maximum(delta.amax(dim=1), -delta.amin(dim=1))
    length: Tensor = torch.linalg.vector_norm(delta, dim=1) if norm == "l2" else delta.abs().sum(dim=1)
    return length


def _onto_linf(w: Float[Tensor, "n d"], threat: Threat) -> Projection:
    """Every pixel moves by the same amount, or as far as the box lets it."""
    sign, size = w.sign(), w.abs()

    def project(z: Tensor, need: Tensor) -> Tensor:
        towards = sign * need.sign()[:, None]
        room = _room(z, towards, threat)
        return torch.minimum(room, _level(size, room, need.abs())[:, None], out=room).mul_(towards)

    return project


def _onto_l2(w: Float[Tensor, "n d"], threat: Threat) -> Projection:
    """Every pixel moves in proportion to |w|, or as far as the box lets it."""
    sign, size = w.sign(), w.abs()
    # Scaled first: squaring a tiny gradient underflows.
    largest = size.amax(dim=1).clamp_min(torch.finfo(w.dtype).tiny)
    size.div_(largest[:, None])
    square, divisor = size * size, size.clamp_min(1e-15)

    def project(z: Tensor, need: Tensor) -> Tensor:
        towards = sign * need.sign()[:, None]
        reach = _room(z, towards, threat).div_(divisor)
        level = _level(square, reach, need.abs() / largest)
        return torch.minimum(reach, level[:, None], out=reach).mul_(size).mul_(towards)

    return project


def _onto_l1(w: Float[Tensor, "n d"], threat: Threat) -> Projection:
    """The pixels of largest |w| move as far as the box lets them, one after the other, until it is enough."""
    sign = w.sign()
    size, order = w.abs().sort(dim=1, descending=True)
    divisor = size.clamp_min(torch.finfo(w.dtype).tiny)

    def project(z: Tensor, need: Tensor) -> Tensor:
        towards = sign * need.sign()[:, None]
        room = _room(z, towards, threat).gather(1, order)
        gain = size * room
        left = need.abs()[:, None] - gain.cumsum(dim=1).sub_(gain)
        taken = torch.minimum(left.div_(divisor).clamp_min_(0.0), room, out=room)
        return torch.empty_like(w).scatter_(1, order, taken).mul_(towards)

    return project


_PROJECTIONS: dict[Norm, Callable[[Tensor, Threat], Projection]] = {
    "linf": _onto_linf,
    "l2": _onto_l2,
    "l1": _onto_l1,
}


def _level(weights: Float[Tensor, "n d"], caps: Float[Tensor, "n d"], need: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """The t with sum_i weights_i min(t, caps_i) = need, inf where the sum stays below.

    The sum is increasing, concave and piecewise linear in t, so Newton's method comes from below and, once
    on the right piece, is exact; no sorting. A row that has settled stays as it is, however long others take.
    """
    level = need / weights.sum(dim=1).clamp_min(torch.finfo(need.dtype).tiny)
    part, settled = torch.empty_like(caps), torch.zeros_like(need, dtype=torch.bool)
    for _ in range(_NEWTON_STEPS):
        t = level[:, None]
        missing = need - torch.minimum(caps, t, out=part).mul_(weights).sum(dim=1)
        rise = torch.gt(caps, t, out=part).mul_(weights).sum(dim=1)
        stepped = torch.where(rise > 0, level + missing / rise, torch.inf)
        level = torch.where(settled, level, stepped)
        settled |= (missing <= _NEWTON_TOLERANCE * need) | ~(rise > 0)
        if bool(settled.all()):
            break
    return level


def _room(z: Tensor, towards: Tensor, threat: Threat) -> Tensor:
    """How far each pixel may move in the direction of the sign `towards`: to the far side of the box."""
    middle, half = (threat.upper + threat.lower) / 2, (threat.upper - threat.lower) / 2
    return (middle - z).mul_(towards).add_(half)
