"""What an attack is given and what it hands back."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attacks.threat import Threat

Classifier = Callable[[Tensor], Tensor]
"""Images (n, c, h, w) in [0, 1] to logits (n, classes), differentiable."""


@runtime_checkable
class ClusteringClassifier(Protocol):
    """A classifier that decides by squared distances to labelled centroids.

    `cluster_labels` (k,) holds each centroid's class, `variance` the sigma^2 of ClusTR eq. 3.
    """

    @property
    def cluster_labels(self) -> Tensor: ...

    @property
    def variance(self) -> float: ...

    def squared_distances(self, x: Tensor) -> Tensor:
        """Images (n, c, h, w) to squared distances (n, k)."""

    def logits_from_distances(self, squared_distances: Tensor) -> Tensor:
        """Squared distances (n, k) to the logits (n, classes) that `forward` returns."""


@runtime_checkable
class SeenThroughHead(ClusteringClassifier, Protocol):
    """A clustering classifier attacked through one head and judged by another, over the same distances."""

    def decide(self, squared_distances: Tensor) -> Tensor:
        """Squared distances (n, k) to the logits (n, classes) that judge a prediction."""


@dataclass(frozen=True)
class AttackResult:
    """Candidates, never verdicts: the judge decides which of them break the model.

    `x_adv` (n, c, h, w) holds one image a sample; `certified` (n,) marks the samples that a verifier
    proved; `claimed` (n,) those the attack took for broken and left alone from then on; `flags` are
    sentences about anything that touches trust.
    """

    x_adv: Float[Tensor, "n *image"]
    certified: Bool[Tensor, " n"] | None = None
    claimed: Bool[Tensor, " n"] | None = None
    flags: tuple[str, ...] = ()


class Attack(Protocol):
    """`x` in [0, 1], `y` the true classes, `sample_ids` the samples' places in the data set.

    Random numbers are keyed by (seed, sample id, attack, restart), so that a sample's candidate does not
    depend on its neighbours in the batch (`attacks.randomness`).
    """

    def __call__(
        self, model: Classifier, x: Tensor, y: Tensor, threat: Threat, *, seed: int, sample_ids: Tensor
    ) -> AttackResult: ...


def fooled(logits: Float[Tensor, "n c"], y: Int[Tensor, " n"]) -> Bool[Tensor, " n"]:
    """Whether another class beats the true one outright; a tie is left to the judge.

    An attack stops at a sample this says is fooled. A saturated head ties everywhere, which must not stop
    the attack, so ties go on.
    """
    true_logit = logits.gather(1, y[:, None]).squeeze(1)
    return best_other(logits, y) > true_logit


def decision(model: Classifier, x: Tensor) -> Tensor:
    """The logits (n, classes) that judge a prediction, whichever head the attack sees."""
    headed = seen_through_head(model)
    return model(x) if headed is None else headed.decide(headed.squared_distances(x))


def seen_through_head(model: object) -> SeenThroughHead | None:
    """The model, if its attacked head and its judged head may differ."""
    return model if isinstance(model, SeenThroughHead) else None


def best_other(logits: Float[Tensor, "n c"], y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """The largest logit among the wrong classes."""
    true_class = torch.nn.functional.one_hot(y, logits.shape[1]).bool()
    return logits.masked_fill(true_class, -torch.inf).amax(dim=1)
