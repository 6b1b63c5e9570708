"""Square Attack: random search over square windows, without gradients (Andriushchenko et al. 2020).

All lanes advance together, each at its own query with a window of its own size. Random numbers are drawn for the
whole search when it begins, and a window is a product of a row and a column mask, so that a query costs a few
passes over the batch whatever the windows.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from attacks.contract import AttackResult, Classifier, outputs
from attacks.losses import margin
from attacks.search import Lanes, Progress, Tasks, lanes_of, search
from attacks.threat import Norm, Threat

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries after which the window's share of the image halves."""

_TILES = 5
_TINY = 1e-12
_NEWTON_STEPS = 6
_CHECK = 250
"""Checkpoints of a search must be multiples of this."""
_FLOAT32 = 2.0**-24


@dataclass(frozen=True)
class Square:
    """A start and `queries` proposals after it, `runs` times; `p_init` is the first windows' share of the image.

    A proposal is kept where it raises the margin of the attacked head. Few are, late in the search, so that
    idle lanes try the next proposals of the same sample as if the ones before were refused; what follows a
    proposal that is kept is thrown away, and the search is the one that tries them singly. The lanes' columns:
    the image `best`, its margin `value`, how many images were tried (`tried`), and `plan` (n, queries, k), draws
    of 16 bits.
    """

    name: str = "square"
    queries: int = 5000
    runs: int = 1
    p_init: float = 0.8

    def begin(self, model: Classifier, tasks: Tasks, threat: Threat) -> Lanes:
        del model
        x, (channels, h, w), linf = tasks.x, tasks.x.shape[1:], threat.norm == "linf"
        first = (channels, w) if linf else (1 + channels, *_grid(h, w)[1:])
        later = (self.queries, (2 if linf else 5) + channels)
        drawn = [(g.random(first, np.float32), g.integers(0, 1 << 16, later, np.uint16)) for g in tasks.generators]
        opening = torch.from_numpy(np.stack([start for start, _ in drawn])).to(x.device)
        # As int16: torch has few operations for unsigned ones.
        plan = torch.from_numpy(np.stack([plan for _, plan in drawn]).view(np.int16)).to(x.device)
        start = _stripes(x, opening, threat) if linf else _tiled(x, opening, threat)
        return {
            "tried": torch.zeros(len(x), dtype=torch.int64, device=x.device),
            "value": torch.full((len(x),), -torch.inf, device=x.device),
            "plan": plan,
            "best": start,
        }

    def advance(self, model: Classifier, lanes: Lanes, threat: Threat) -> Progress:
        y, tried, ahead = lanes["y"], lanes["tried"], self._ahead(model, len(lanes["y"]))
        with torch.no_grad():
            images = self._propose(lanes, threat, ahead)
            seen, labels = outputs(model, images), y.repeat_interleave(ahead)
            judged = seen.margin(labels).to(lanes["value"]).nan_to_num(nan=-torch.inf).reshape(-1, ahead)
            value = judged
            if seen.judged is not seen.logits:
                value = margin(seen.logits, labels).to(judged).reshape(-1, ahead)
        # Never across a checkpoint of GiveUp, which must find the same image whatever `ahead` is.
        end = ((tried // _CHECK + 1) * _CHECK).clamp_max(self.queries + 1)
        within = tried[:, None] + torch.arange(ahead, device=y.device) < end[:, None]
        better = value > lanes["value"][:, None]
        event = (better | (judged > lanes["bar"].to(judged)[:, None])) & within
        last = torch.where(event.any(dim=1), event.int().argmax(dim=1), within.sum(dim=1) - 1)
        row = torch.arange(len(y), device=y.device)
        shown = images[row * ahead + last]
        kept = torch.nonzero(better[row, last]).flatten()
        lanes["best"][kept], lanes["value"][kept] = shown[kept], value[kept, last[kept]]
        lanes["tried"] = tried + last + 1
        seen_so_far = torch.arange(ahead, device=y.device) <= last[:, None]
        best_judged = torch.where(seen_so_far, judged, -torch.inf).amax(dim=1)
        return Progress(shown, best_judged, lanes["tried"], lanes["tried"] > self.queries)

    def _ahead(self, model: Classifier, lanes: int) -> int:
        """How many proposals a lane tries at a time: as many as there is room for."""
        return min(max(lanes_of(model) // lanes, 1), self.queries)

    def _propose(self, lanes: Lanes, threat: Threat, ahead: int) -> Tensor:
        """The next `ahead` images of every lane (n * ahead, c, h, w), from its best one; the first is the start."""
        x, best = (lanes[k].repeat_interleave(ahead, dim=0) if ahead > 1 else lanes[k] for k in ("x", "best"))
        norm, (h, w) = threat.norm, x.shape[2:]
        table = _table(self.queries, self.p_init, h, w, norm, x.device)
        row = torch.arange(len(lanes["y"]), device=x.device).repeat_interleave(ahead)
        query = (lanes["tried"][:, None] + torch.arange(ahead, device=x.device)).flatten() - 1
        step = query.clamp(0, self.queries - 1)
        drawn = lanes["plan"][row, step].long() & 0xFFFF
        side = table.side[step]
        room = torch.stack([h - side, w - side], dim=1) + 1
        gaining = drawn[:, :2] * room >> 16
        if norm == "linf":
            images = _painted(x, best, threat, side, gaining, _signs(drawn[:, 2:]))
        else:
            paying = drawn[:, 2:4] * room >> 16
            pattern = table.placed(2 * table.size[step] + (drawn[:, 4] >> 15), gaining)
            images = _moved(x, best, threat, side, gaining, paying, pattern[:, None] * _signs(drawn[:, 5:]))
        start = torch.nonzero(query < 0).flatten()
        images[start] = best[start]
        return images


def square(
    model: Classifier,
    x: Float[Tensor, "n c h w"],
    y: Int[Tensor, " n"],
    threat: Threat,
    *,
    seed: int,
    sample_ids: Int[Tensor, " n"],
    queries: int = 5000,
    restarts: int = 1,
) -> AttackResult:
    """Square Attack on the margin of the logits.

    Source: Andriushchenko et al. 2020, algorithms 1 to 3; for l1 the variant of Croce & Hein 2021. As in
    AutoAttack, `queries` proposals follow the start, and the schedule of window sizes is that for 10,000
    queries whatever their number. A tie is not yet a success. Raises ValueError where queries or restarts
    are below 1.
    """
    if queries < 1 or restarts < 1:
        raise ValueError(f"square: queries and restarts must be at least 1, got {queries} and {restarts}")
    found = search(model, Square(queries=queries, runs=restarts), x, y, threat, seed=seed, sample_ids=sample_ids)
    return AttackResult(found.x_adv, claimed=found.broken)


@lru_cache(maxsize=16)
def window_sides(queries: int, p_init: float, h: int, w: int, norm: Norm) -> tuple[int, ...]:
    """The window's side at each proposal: the integer nearest to sqrt(p h w), p halved after `HALVINGS`.

    Source: Andriushchenko et al. 2020, sections 3.2 and 5, with AutoAttack's further halving at 500. For l2 and
    l1, as there, an odd side of at least 3 where the image has the room, so that both halves of the pattern
    have a peak.
    """
    sides = [round(math.sqrt(p_init / 2**halvings * h * w)) for halvings in range(len(HALVINGS) + 1)]
    sides = [max(side, 1) if norm == "linf" else max(side, 3) // 2 * 2 + 1 for side in sides]
    return tuple(min(sides[bisect_left(HALVINGS, query)], h, w) for query in range(queries))


@dataclass(frozen=True)
class _Table:
    """What depends on the query alone: the window's `side` (queries,) and the place of its `size` among `padded`.

    `padded` holds each size's pattern twice, as it is and turned, at (h, w) in an image of zeros of twice the
    height and width, one after the other in memory.
    """

    side: Int[Tensor, " queries"]
    size: Int[Tensor, " queries"]
    padded: Float[Tensor, " pixels"]
    h: int
    w: int

    def placed(self, which: Int[Tensor, " n"], corner: Int[Tensor, "n 2"]) -> Float[Tensor, "n h w"]:
        """Patterns with their upper left ends at `corner`: a copy of rows of double width, then cut.

        One contiguous copy a lane costs a fifth of indexing rows and columns.
        """
        width = 2 * self.w
        begin = (2 * self.h * which + self.h - corner[:, 0]) * width + self.w - corner[:, 1]
        runs = self.padded.as_strided((len(self.padded) - self.h * width, self.h * width), (1, 1))
        return runs.index_select(0, begin).reshape(-1, self.h, width)[:, :, : self.w]


@lru_cache(maxsize=16)
def _table(queries: int, p_init: float, h: int, w: int, norm: Norm, device: torch.device) -> _Table:
    sides = window_sides(queries, p_init, h, w, norm)
    sizes = sorted(set(sides))
    padded = torch.zeros(2 * len(sizes) * (norm != "linf"), 2 * h, 2 * w)
    for i in range(0, len(padded), 2):
        side, pattern = sizes[i // 2], _pattern(sizes[i // 2], norm)
        padded[i, h : h + side, w : w + side] = pattern
        padded[i + 1, h : h + side, w : w + side] = pattern.T
    size = torch.tensor([sizes.index(side) for side in sides], device=device)
    # The last run may begin in the last row's middle.
    flat = torch.cat([padded.flatten(), torch.zeros(2 * w + 1)])
    return _Table(torch.tensor(sides, device=device), size, flat.to(device), h, w)


def _signs(drawn: Int[Tensor, "n k"]) -> Float[Tensor, "n k 1 1"]:
    return ((drawn >> 15) * 2 - 1).float()[:, :, None, None]


def _stripes(x: Float[Tensor, "n c h w"], drawn: Float[Tensor, "n c w"], threat: Threat) -> Tensor:
    """Section 3.3: a sign for every column and channel."""
    signs = torch.where(drawn < 0.5, 1.0, -1.0)
    return threat.project(x, x + threat.eps * signs[:, :, None, :])


def _painted(
    x: Float[Tensor, "n c h w"],
    best: Float[Tensor, "n c h w"],
    threat: Threat,
    side: Int[Tensor, " n"],
    corner: Int[Tensor, "n 2"],
    signs: Float[Tensor, "n c 1 1"],
) -> Float[Tensor, "n c h w"]:
    """Algorithm 2: in the window, every channel goes to the upper or to the lower end of what is allowed.

    From anywhere in the ball, 2 eps up or down and back into ball and box ends there.
    """
    rows, columns = _window(corner, side, *x.shape[2:])
    ends = (x + threat.eps * signs).clamp_(threat.lower, threat.upper)
    # Products with 0 and 1 are exact, and cost a third of torch.where.
    inside = rows[:, None, :, None] * columns[:, None, None, :]
    return torch.addcmul(best, best, inside, value=-1).addcmul_(ends, inside)


def _tiled(x: Float[Tensor, "n c h w"], drawn: Float[Tensor, "n k rows columns"], threat: Threat) -> Tensor:
    """Section 3.4: a grid of patterns; each is turned or not, and has a sign for every channel."""
    n, channels, h, w = x.shape
    side, down, across = _grid(h, w)
    pattern = _pattern(side, threat.norm).to(x)
    turned = (drawn[:, :1] < 0.5)[..., None, None]
    signs = torch.where(drawn[:, 1:] < 0.5, 1.0, -1.0)[..., None, None]
    tiles = torch.where(turned, pattern.T, pattern) * signs
    delta = torch.zeros_like(x)
    top, left = (h - down * side) // 2, (w - across * side) // 2
    delta[:, :, top : top + down * side, left : left + across * side] = tiles.transpose(3, 4).reshape(
        n, channels, down * side, across * side
    )
    if threat.norm == "l2":
        delta = threat.eps * threat.steepest(delta)
    return threat.project(x, x + delta)


def _grid(h: int, w: int) -> tuple[int, int, int]:
    """Side of a tile of the start, and how many there are down and across."""
    side = max(min(h, w) // _TILES, 1)
    return side, min(_TILES, h // side), min(_TILES, w // side)


def _moved(
    x: Float[Tensor, "n c h w"],
    best: Float[Tensor, "n c h w"],
    threat: Threat,
    side: Int[Tensor, " n"],
    gaining: Int[Tensor, "n 2"],
    paying: Int[Tensor, "n 2"],
    update: Float[Tensor, "n c h w"],
) -> Float[Tensor, "n c h w"]:
    """Algorithm 3: one window pays its share of the budget, another gains it and what was unused.

    `gaining` and `paying` are their corners, `update` the signed pattern in the gaining one (overwritten). A
    proposal in the ball needs no more than a clamp to the box. For l1 the shares are sums of absolute values,
    and the one that is gained is multiplied by the number of channels, as in the reference implementation, which
    takes colour images out of the ball: those are clamped and then shrunk, where the reference projects on the
    intersection.
    """
    channels, h, w = x.shape[1:]
    power = 2 if threat.norm == "l2" else 1
    rows, columns = _window(gaining, side, h, w)
    rows_paying, columns_paying = _window(paying, side, h, w)
    # The two windows, what they share, and the whole image.
    down = torch.stack([rows, rows_paying, rows * rows_paying, torch.ones_like(rows)], dim=1)[:, None]
    across = torch.stack([columns, columns_paying, columns * columns_paying, torch.ones_like(columns)], dim=1)[:, None]
    delta = best - x
    gains, pays, shared, spent = ((down @ _sizes(delta, power)) * across).sum(dim=3).unbind(dim=2)
    radius = _radius(threat, channels * h * w, h + w)
    unused = radius**power - spent.sum(dim=1, keepdim=True)
    # Where rounding left too much spent, `unused` is below 0 and takes it back.
    budget = (gains + pays - shared + unused / channels).clamp_min(0) ** (1 / power)
    scaled = rows[:, None] / (gains ** (1 / power) + _TINY)[:, :, None]
    update.addcmul_(delta, scaled[..., None] * columns[:, None, None, :])
    length = _sizes(update, power).flatten(2).sum(dim=2) ** (1 / power)
    outside = (down * down.new_tensor([-1.0, -1.0, 1.0, 1.0])[:, None]).mT @ across
    if threat.norm == "l1":
        budget = budget * channels
    moved = delta.mul_(outside).addcmul_(update, (budget / (length + _TINY))[:, :, None, None])
    shown = moved.add_(x).clamp_(threat.lower, threat.upper)
    if threat.norm == "l1" and channels > 1:
        shown = (x + _shrunk(shown - x, radius)).clamp_(threat.lower, threat.upper)
    return shown


def _shrunk(delta: Float[Tensor, "n *image"], radius: float) -> Float[Tensor, "n *image"]:
    """Soft thresholding into the l1 ball, by Newton's method from below in place of a sort.

    The sum of the shrunk sizes is convex in the threshold, so that a step never goes too far. What is left
    over in the end is scaled away.
    """
    size = delta.abs().flatten(1)
    kept, threshold = size, torch.zeros_like(size[:, :1])
    for _ in range(_NEWTON_STEPS):
        excess = (kept.sum(dim=1, keepdim=True) - radius).clamp_min(0)
        threshold += excess / kept.count_nonzero(dim=1).clamp_min(1)[:, None]
        kept = (size - threshold).clamp_min_(0)
    kept *= (radius / (kept.sum(dim=1, keepdim=True) + _TINY)).clamp_max(1)
    return kept.reshape(delta.shape).copysign_(delta)


def _sizes(delta: Tensor, power: int) -> Tensor:
    return delta.square() if power == 2 else delta.abs()


def _window(
    corner: Int[Tensor, "n 2"], side: Int[Tensor, " n"], h: int, w: int
) -> tuple[Float[Tensor, "n h"], Float[Tensor, "n w"]]:
    """1 in the window's rows, 1 in its columns; 0 elsewhere."""
    at = torch.arange(max(h, w), device=corner.device)
    inside = ((at >= corner[:, :, None]) & (at < (corner + side[:, None])[:, :, None])).float()
    return inside[:, 0, :h], inside[:, 1, :w]


def _radius(threat: Threat, pixels: int, terms: int) -> float:
    """`eps`, less what storing the pixels and adding them up in float32 can add."""
    stored = _FLOAT32 * (math.sqrt(pixels) if threat.norm == "l2" else pixels)
    return max(threat.eps * (1 - 2 * terms * _FLOAT32) - stored, 0.0)


def _pattern(side: int, norm: Norm) -> Float[Tensor, "side side"]:
    """Two peaks of opposite sign, one above the other, of norm 1.

    Source: Andriushchenko et al. 2020, eq. 2 and 3; for l1 fourth powers take the place of the squares.
    """
    upper = side // 2
    pattern = torch.cat([_peak(upper, side, norm), -_peak(side - upper, side, norm)])
    length: Tensor = torch.linalg.vector_norm(pattern, ord=2 if norm == "l2" else 1)
    return (pattern / length).float()


def _peak(h: int, w: int, norm: Norm) -> Tensor:
    """Rings around the middle: at distance d from it, the sum of 1 / j^2 (l1: 1 / j^4) from d + 1 on."""
    rings = max(h, w) // 2 + 1
    falling = torch.arange(1, rings + 1, dtype=torch.float64) ** (-2 if norm == "l2" else -4)
    heights: Tensor = falling.flip(0).cumsum(0).flip(0)
    down, across = (torch.arange(h) - h // 2).abs(), (torch.arange(w) - w // 2).abs()
    return heights[torch.maximum(down[:, None], across[None, :])]
