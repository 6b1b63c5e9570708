"""Auto-PGD for the l1-ball (Croce & Hein 2021, "Mind the box", sections 3 and 4)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.apgd import Loss, objective, target_columns
from attacks.contract import Classifier
from attacks.gradient import slope
from attacks.search import Lanes, Progress, Tasks
from attacks.threat import Threat, sparse_sign

_STAGES = ((0.0, 3.0), (0.3, 2.0), (0.6, 1.0))
"""From which share of the steps on, and in how many times the radius: the way in leads through larger balls."""
_FIRST_SHARE = 0.2
_SHARE_OF_SPARSITY = 1 / 1.5
_SETTLED = 0.95
_SHORTER = 1.5
_SHORTEST = 0.1


@dataclass(frozen=True)
class APGDL1:
    """`steps` sparse steps from a random start; only iterates within the true radius can break a sample.

    The share of pixels that move follows the sparsity of the best point: while that still falls, the step is
    as long as the radius; afterwards it shortens. Runs, targets and draws as in `attacks.apgd.APGD`.
    """

    name: str
    loss: Loss
    steps: int
    runs: int
    draws: int = 1

    def begin(self, model: Classifier, tasks: Tasks, threat: Threat) -> Lanes:
        x, n = tasks.x, len(tasks.y)
        radius = x.new_full((n,), _STAGES[0][1] * threat.eps)
        noise = torch.stack(
            [torch.from_numpy(g.standard_normal(tuple(x.shape[1:]), "float32")) for g in tasks.generators]
        )
        start = threat.project_l1(x, x + noise.to(x) * _STAGES[0][1] * threat.eps, radius)
        lanes = {
            "at": start,
            "best": start.clone(),
            "best_gradient": torch.zeros_like(x),
            "radius": radius,
            "size": radius.clone(),
            "share": x.new_full((n,), _FIRST_SHARE),
            "sparsity": x.new_full((n,), float(x[0].numel())),
            "age": x.new_zeros(n, dtype=torch.int64),
            "stage_age": x.new_zeros(n, dtype=torch.int64),
            "best_loss": x.new_full((n,), -torch.inf),
            "stalled": x.new_zeros(n, dtype=torch.bool),
        }
        return lanes | target_columns(self.loss, model, tasks)

    def advance(self, model: Classifier, lanes: Lanes, threat: Threat) -> Progress:
        shown, age, x = lanes["at"], lanes["age"], lanes["x"]
        seen = slope(model, shown, lanes["y"], lambda out: objective(self.loss, out, lanes), self.draws)
        finished = age == self.steps
        lanes["stalled"] |= seen.stalled & ~finished
        better = torch.nonzero(seen.loss > lanes["best_loss"]).flatten()
        lanes["best"][better], lanes["best_gradient"][better] = shown[better], seen.gradient[better]
        lanes["best_loss"] = torch.maximum(seen.loss.nan_to_num(nan=-torch.inf), lanes["best_loss"])
        at, gradient = shown.clone(), seen.gradient.clone()
        back = torch.nonzero(self._adapt(lanes)).flatten()
        at[back], gradient[back] = lanes["best"][back], lanes["best_gradient"][back]
        step = sparse_sign(gradient, lanes["share"]) * lanes["size"].reshape(-1, *[1] * (x.ndim - 1))
        moved = threat.project_l1(x, at + step, lanes["radius"])
        allowed = lanes["radius"] <= threat.eps
        lanes["age"], lanes["stage_age"] = age + 1, lanes["stage_age"] + 1
        lanes["at"] = self._next_stage(moved, lanes, threat)
        return Progress(shown, torch.where(allowed, seen.margin, -torch.inf), lanes["age"], finished)

    def _adapt(self, lanes: Lanes) -> Tensor:
        """Every few steps, set sparsity and step size by the best point; the lanes that go back to it."""
        every = max(int(0.04 * self.steps), 1)
        due = (lanes["stage_age"] > 0) & (lanes["stage_age"] % every == 0)
        if not bool(due.any()):
            return due
        pixels = lanes["x"][0].numel()
        sparsity = ((lanes["best"] - lanes["x"]) != 0).flatten(1).sum(dim=1).to(lanes["share"])
        falling = sparsity < _SETTLED * lanes["sparsity"]
        size = torch.where(falling, lanes["radius"], lanes["size"] / _SHORTER)
        size = torch.maximum(size, _SHORTEST * lanes["radius"])
        lanes["size"] = torch.where(due, size, lanes["size"])
        lanes["share"] = torch.where(due, sparsity / pixels * _SHARE_OF_SPARSITY, lanes["share"])
        lanes["sparsity"] = torch.where(due, sparsity, lanes["sparsity"])
        return due & falling

    def _next_stage(self, moved: Tensor, lanes: Lanes, threat: Threat) -> Tensor:
        """A lane that enters a smaller ball starts there from its best point, brought inside."""
        for share, times in _STAGES[1:]:
            entering = torch.nonzero(lanes["age"] == int(share * self.steps)).flatten()
            if not len(entering):
                continue
            radius = lanes["radius"].new_full((len(entering),), times * threat.eps)
            moved[entering] = threat.project_l1(lanes["x"][entering], lanes["best"][entering], radius)
            lanes["radius"][entering], lanes["size"][entering] = radius, radius
            lanes["share"][entering] = _FIRST_SHARE
            lanes["sparsity"][entering] = float(moved[0].numel())
            lanes["best_loss"][entering] = -torch.inf
            lanes["stage_age"][entering] = 0
        return moved
