"""Many searches at once, a lane each: a lane that is done goes to the next search in the queue.

An iterative attack is a `Method`: it begins searches (`runs` a sample: restarts, or target classes) and advances
all lanes by one step. The scheduler takes a sample's lanes away at the step that breaks it and refills them, so that
no pass is spent on a sample that is already broken and few are spent on padding.

What comes out is what one search after the other, run by run, would give: a sample's verdict, its winning run and
its image do not depend on how many lanes there are or on the other samples. A break in a later run does not stop
the earlier runs of the sample, and random numbers are keyed by sample and run.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attacks.contract import Classifier, SearchModel, decision, fooled, outputs
from attacks.randomness import sample_generators
from attacks.threat import Threat

Lanes = dict[str, Tensor]
"""The state of the searches under way: named tensors with one row a lane.

Among them the originals `x`, their classes `y`, and `bar`, the margin that a claim must exceed: just below 0, so that
a tie is put to the judge once; less where the search runs in a cheaper copy; after a refusal the refused margin, or 0.
"""

DEFAULT_LANES = 250
_IDLE_SHARE = 1 / 8
"""Idle lanes are cut off when they are this share of all: cutting copies the others."""
_TIE = 1e-30
_FLOOR = -5e3
"""No logits differ that much, but those of classes whose clusters are all excluded from D-nearest inference do."""
_PATIENCE = 10
"""Steps that claims wait for company while lanes stand idle."""


@dataclass(frozen=True)
class Tasks:
    """Searches to begin, one row each: the originals, their classes, which run of the sample, its random numbers."""

    x: Float[Tensor, "n c h w"]
    y: Int[Tensor, " n"]
    run: Int[Tensor, " n"]
    generators: list[np.random.Generator]


@dataclass(frozen=True)
class Progress:
    """What one step showed, one row a lane.

    `images` were evaluated in this step, with `margin` (best wrong minus true logit of the judged head; -inf
    where the image is not allowed by the threat); `tried` counts the images of the search so far; `finished`
    lanes have no step left.
    """

    images: Float[Tensor, "n c h w"]
    margin: Float[Tensor, " n"]
    tried: Int[Tensor, " n"]
    finished: Bool[Tensor, " n"]


@dataclass(frozen=True)
class GiveUp:
    """The rule by which a search is abandoned as hopeless.

    After `images` of it were tried, it goes on only if its best margin has come so far that at most the share
    `left` of the clean image's margin is left; one pair (images, left) a checkpoint.
    """

    checkpoints: tuple[tuple[int, float], ...]


@runtime_checkable
class Method(Protocol):
    """An iterative attack. `name` keys its random numbers; `runs` is how many searches a sample gets.

    `begin` makes the method's own columns for new lanes; `advance` changes them in place, all lanes by one
    step, and may keep a bool column `stalled` for lanes that met a zero or non-finite gradient.
    """

    @property
    def name(self) -> str: ...

    @property
    def runs(self) -> int: ...

    def begin(self, model: Classifier, tasks: Tasks, threat: Threat) -> Lanes: ...

    def advance(self, model: Classifier, lanes: Lanes, threat: Threat) -> Progress: ...


@dataclass(frozen=True)
class Found:
    """`x_adv`: the image that broke a sample, else the end point of its last run; `run`: the first run that broke
    it, else -1; `margin`: the largest margin of any step (of a survivor; -inf if no step was allowed);
    `stalled`: met a zero or non-finite gradient; `abandoned`: some search of it was given up as hopeless."""

    x_adv: Float[Tensor, "n c h w"]
    run: Int[Tensor, " n"]
    margin: Float[Tensor, " n"]
    stalled: Bool[Tensor, " n"]
    abandoned: Bool[Tensor, " n"]

    @property
    def broken(self) -> Bool[Tensor, " n"]:
        return self.run >= 0


def search(
    model: Classifier,
    method: Method,
    x: Float[Tensor, "n c h w"],
    y: Int[Tensor, " n"],
    threat: Threat,
    *,
    seed: int,
    sample_ids: Int[Tensor, " n"],
    give_up: GiveUp | None = None,
    spared: Bool[Tensor, " n"] | None = None,
) -> Found:
    """Run a method on every sample until it is broken or its runs are used up, or abandoned by `give_up`.

    A step's image is claimed when its margin is positive or 0 (or within the model's `slack` below, where the
    search runs in a cheaper copy); only `confirm`, the judge of the true model, makes a claim a break. `spared`
    samples are never abandoned.
    """
    return _Scheduler(model, method, x, y, threat, seed, sample_ids, give_up, spared).carry_out()


def lanes_of(model: Classifier) -> int:
    """How many searches a model is to hold at a time."""
    return model.lanes if isinstance(model, SearchModel) else DEFAULT_LANES


def clean_margin(model: Classifier, x: Tensor, y: Tensor) -> Float[Tensor, " n"]:
    """The margins of the images as they are, below 0 where they are classified correctly: the measure of progress.

    -inf where progress cannot be told by it: the attack climbs another head than the one that is judged, the
    outputs are none below 0 (probabilities or raw scores, which saturate), or a mask of D-nearest inference
    hides every wrong class.
    """
    with torch.no_grad():
        seen = outputs(model, x)
    margin = seen.margin(y)
    unknown = margin < _FLOOR
    if seen.judged is not seen.logits:
        unknown |= True
    return margin.masked_fill(unknown | (seen.logits.amin(dim=1) >= 0), -torch.inf)


class _Scheduler:
    def __init__(
        self,
        model: Classifier,
        method: Method,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        seed: int,
        sample_ids: Tensor,
        give_up: GiveUp | None,
        spared: Tensor | None,
    ):
        self.model, self.method, self.threat = model, method, threat
        self.x, self.y, self.seed, self.sample_ids = x, y, seed, sample_ids.cpu()
        prepared = model if isinstance(model, SearchModel) else None
        self.capacity = lanes_of(model)
        self.slack = prepared.slack if prepared else 0.0
        self.confirm = prepared.confirm if prepared else self._confirm_by_model
        n = len(x)
        self.won = torch.full((n,), method.runs)
        self.x_adv, self.ended = x.clone(), torch.full((n,), -1)
        self.best_margin = torch.full((n,), -torch.inf)
        self.stalls: list[tuple[Tensor, Tensor]] = []
        self.queue: Iterator[tuple[int, int]] = ((run, i) for run in range(method.runs) for i in range(n))
        self.resumed: deque[Lanes] = deque()
        self.parked: list[Lanes] = []
        self.lanes: Lanes = {}
        self.live = torch.zeros(0, dtype=torch.bool)
        self.waited = 0
        self.abandoned = torch.zeros(n, dtype=torch.bool)
        self.checkpoints = give_up.checkpoints if give_up else ()
        self.clean_margin = clean_margin(model, x, y).cpu() if give_up and n else torch.zeros(n)
        if spared is not None:
            self.clean_margin[spared.cpu()] = -torch.inf

    def carry_out(self) -> Found:
        while True:
            self._fill()
            if not bool(self.live.any()):
                if not self.parked:
                    break
                self._judge_claims()
                continue
            self._step()
            parked = sum(len(claim["y"]) for claim in self.parked)
            self.waited = self.waited + 1 if parked else 0
            if parked > self.capacity // 2 or (self.waited >= _PATIENCE and not bool(self.live.all())):
                self._judge_claims()
        stalled = torch.zeros(len(self.x), dtype=torch.bool)
        for sample, run in self.stalls:
            stalled[sample[run <= self.won[sample]]] = True
        run = torch.where(self.won < self.method.runs, self.won, -1)
        device = self.y.device
        return Found(
            self.x_adv, run.to(self.y), self.best_margin.to(self.x), stalled.to(device), self.abandoned.to(device)
        )

    def _step(self) -> None:
        progress = self.method.advance(self.model, self.lanes, self.threat)
        shown = progress.margin.detach().float().cpu().nan_to_num(nan=-torch.inf)
        margin = torch.where(self.live, shown, -torch.inf)
        sample, run = self.lanes["sample"], self.lanes["run"]
        self.best_margin.scatter_reduce_(0, sample, margin, "amax")
        finished = progress.finished.cpu()
        hopeless = self.live & self._hopeless(progress.tried.cpu(), margin) & ~finished
        self.abandoned[sample[hopeless]] = True
        finished |= hopeless
        claimed = self.live & (margin > self.lanes["bar"])
        ended = self.live & finished & ~claimed
        if bool(ended.any()):
            self._end(self.lanes, ended, progress.images)
        if bool(claimed.any()):
            rows = torch.nonzero(claimed).flatten()
            claim = {k: v[rows.to(v.device)] for k, v in self.lanes.items()}
            claim |= {"claim": progress.images[rows.to(progress.images.device)].detach().clone()}
            claim |= {"finished": finished[rows], "bar": margin[rows].clamp_max(0.0)}
            self.parked.append(claim)
        gone = claimed | ended
        if bool(gone.any()):
            self.live &= ~gone
            self.live &= run < self.won[sample]

    def _hopeless(self, tried: Tensor, margin: Tensor) -> Tensor:
        """Lanes that have passed a checkpoint in this step and are not far enough along."""
        hopeless = torch.zeros_like(self.live)
        if not self.checkpoints:
            return hopeless
        best, before = torch.maximum(self.lanes["best_margin"], margin), self.lanes["tried_before"]
        self.lanes["best_margin"], self.lanes["tried_before"] = best, tried.clone()
        clean = self.clean_margin[self.lanes["sample"]]
        stalled = self.lanes["stalled"].cpu() if "stalled" in self.lanes else torch.zeros_like(hopeless)
        for images, left in self.checkpoints:
            # While no allowed image was shown, best is -inf, and nothing is known.
            hopeless |= (before < images) & (tried >= images) & (best > -torch.inf) & (best < left * clean)
            hopeless &= ~stalled  # no gradient, no progress: that says nothing of the sample
        return hopeless

    def _end(self, lanes: Lanes, ended: Tensor, images: Tensor) -> None:
        """Searches that used up their steps."""
        self._note_stalls(lanes, ended)
        for row in torch.nonzero(ended).flatten().tolist():
            i, run = int(lanes["sample"][row]), int(lanes["run"][row])
            if self.won[i] == self.method.runs and run > self.ended[i]:
                self.x_adv[i], self.ended[i] = images[row].detach(), run

    def _judge_claims(self) -> None:
        claims = _join(self.parked)
        self.parked, self.waited = [], 0
        broken = self.confirm(claims["x"], claims["y"], claims["claim"], self.threat).cpu()
        for row in torch.nonzero(broken).flatten().tolist():
            i, run = int(claims["sample"][row]), int(claims["run"][row])
            if run < self.won[i]:
                self.won[i], self.x_adv[i] = run, claims["claim"][row]
        self._note_stalls(claims, broken)
        over = ~broken & claims.pop("finished")
        if bool(over.any()):
            self._end(claims, over, claims["claim"])
        again = torch.nonzero(~broken & ~over & (claims["run"] < self.won[claims["sample"]])).flatten()
        del claims["claim"]
        if len(again):
            self.resumed.append({k: v[again.to(v.device)] for k, v in claims.items()})
        if len(self.live):
            self.live &= self.lanes["run"] < self.won[self.lanes["sample"]]

    def _note_stalls(self, lanes: Lanes, rows: Tensor) -> None:
        if "stalled" in lanes:
            noted = rows & lanes["stalled"].cpu()
            if bool(noted.any()):
                self.stalls.append((lanes["sample"][noted], lanes["run"][noted]))

    def _fill(self) -> None:
        """Give idle lanes to resumed and new searches; cut off what stays idle."""
        free = self.capacity - int(self.live.sum())
        fresh = []
        while free > 0 and self.resumed:
            lanes = self.resumed.popleft()
            fresh.append({k: v[:free] for k, v in lanes.items()})
            if len(lanes["y"]) > free:
                self.resumed.appendleft({k: v[free:] for k, v in lanes.items()})
            free -= len(fresh[-1]["y"])
        tasks = [] if free <= 0 else self._next_tasks(free)
        if tasks:
            fresh.append(self._begin(tasks))
        if fresh:
            self._write(_join(fresh))
        idle = len(self.live) - int(self.live.sum())
        if idle > _IDLE_SHARE * len(self.live):
            keep = torch.nonzero(self.live).flatten()
            self.lanes = {k: v[keep.to(v.device)] for k, v in self.lanes.items()}
            self.live = self.live[keep]

    def _next_tasks(self, limit: int) -> list[tuple[int, int]]:
        tasks = []
        for run, i in self.queue:
            if run < self.won[i]:
                tasks.append((run, i))
                if len(tasks) == limit:
                    break
        return tasks

    def _begin(self, tasks: list[tuple[int, int]]) -> Lanes:
        runs, samples = (torch.tensor(column) for column in zip(*tasks, strict=True))
        generators = [
            sample_generators(self.seed, self.sample_ids[i : i + 1], self.method.name, run)[0] for run, i in tasks
        ]
        rows = samples.to(self.x.device)
        x, y = self.x[rows], self.y[rows]
        own = self.method.begin(self.model, Tasks(x, y, runs.to(self.y), generators), self.threat)
        n = len(tasks)
        scheduled = {"x": x, "y": y, "sample": samples, "run": runs, "bar": torch.full((n,), -max(self.slack, _TIE))}
        if self.checkpoints:
            scheduled |= {"best_margin": torch.full((n,), -torch.inf), "tried_before": torch.zeros(n).long()}
        return {**own, **scheduled}

    def _write(self, fresh: Lanes) -> None:
        """New searches into idle rows, and behind the others where there is no idle row."""
        n = len(fresh["y"])
        idle = torch.nonzero(~self.live).flatten()[:n]
        for key, column in fresh.items() if len(idle) else ():
            self.lanes[key][idle.to(column.device)] = column[: len(idle)]
        self.live[idle] = True
        if len(idle) < n:
            rest = {k: v[len(idle) :] for k, v in fresh.items()}
            self.lanes = _join([self.lanes, rest]) if self.lanes else rest
            self.live = torch.cat([self.live, torch.ones(n - len(idle), dtype=torch.bool)])

    def _confirm_by_model(self, x: Tensor, y: Tensor, x_adv: Tensor, threat: Threat) -> Tensor:
        """For a model that comes without a judge: its own decision; the method answers for the threat."""
        del x, threat
        with torch.no_grad():
            return fooled(decision(self.model, x_adv), y)


def _join(parts: list[Lanes]) -> Lanes:
    return parts[0] if len(parts) == 1 else {k: torch.cat([part[k] for part in parts]) for k in parts[0]}
