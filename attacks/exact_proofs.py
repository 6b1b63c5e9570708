"""Proofs of `attacks.exact` as arrays, and how they are checked again without any solver."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from attacks.centroid_bounds import Balls, Centroids, pair_bound, possible_rivals
from attacks.centroid_solvers import Solution


@dataclass
class Proofs:
    """Weights of own centroids, one entry a pair (sample, rival), with its entries start[p]..start[p + 1] - 1.

    A sample without a pair is proven by single own centroids alone, or not at all.
    """

    sample: list[int] = field(default_factory=list)
    rival: list[int] = field(default_factory=list)
    multiplier: list[float] = field(default_factory=list)
    start: list[int] = field(default_factory=lambda: [0])
    own: list[int] = field(default_factory=list)
    weight: list[float] = field(default_factory=list)

    def add(self, sample: int, rival: int, own: Int[Tensor, " m"], solution: Solution) -> None:
        """Keep a solution's weights of the own centroids."""
        used = np.nonzero(solution.weights > 0)[0]
        self.sample.append(sample)
        self.rival.append(rival)
        self.multiplier.append(solution.multiplier)
        self.own += own[used].tolist()
        self.weight += solution.weights[used].tolist()
        self.start.append(len(self.own))

    def tensors(self) -> dict[str, Tensor]:
        """Sample, rival and multiplier of each pair (p,), start (p + 1,), own and weight of each entry."""
        numbers = {"multiplier": self.multiplier, "weight": self.weight}
        indices = {"sample": self.sample, "rival": self.rival, "start": self.start, "own": self.own}
        return {k: torch.tensor(v, dtype=torch.float64) for k, v in numbers.items()} | {
            k: torch.tensor(v, dtype=torch.int64) for k, v in indices.items()
        }


def certified_by(
    proofs: Mapping[str, Tensor],
    centroids: Centroids,
    balls: Balls,
    y: Int[Tensor, " n"],
    error: Float64[Tensor, "n k"],
    sample_ids: Int[Tensor, " n"],
) -> Bool[Tensor, " n"]:
    """Which samples the proofs certify: every rival excluded by one own centroid, or by saved weights."""
    possible = possible_rivals(centroids, balls, y, error)
    place = {sample: row for row, sample in enumerate(sample_ids.tolist())}
    start = proofs["start"].tolist()
    for pair, (sample, rival) in enumerate(zip(proofs["sample"].tolist(), proofs["rival"].tolist(), strict=True)):
        if sample not in place:
            continue
        entries, row = slice(start[pair], start[pair + 1]), place[sample]
        one, own = slice(row, row + 1), proofs["own"][entries]
        weights = proofs["weight"][entries] * (centroids.labels[own] == y[row])
        multiplier = float(proofs["multiplier"][pair])
        if pair_bound(centroids, balls.of(one), rival, own, weights, multiplier, error[one]) < 0:
            possible[row, rival] = False
    return ~possible.any(dim=1)
