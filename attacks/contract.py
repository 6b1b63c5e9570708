"""What an attack is given and what it hands back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor, nn

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
class EmbeddingClassifier(ClusteringClassifier, Protocol):
    """A clustering classifier whose parts a verifier may read.

    Squared distances are ||f(x) - centroid||^2 for the features f(x) = `backbone`(x), (n, d); of the `nearest`
    clusters (of any class) of a sample, each class has the sum of exp(-distance / (2 variance)); None: of all,
    1: the nearest cluster decides.
    """

    @property
    def backbone(self) -> nn.Module: ...

    @property
    def centroids(self) -> Tensor: ...

    @property
    def nearest(self) -> int | None: ...


@runtime_checkable
class KernelClassifier(EmbeddingClassifier, Protocol):
    """An embedding classifier whose class sums may be of another kernel than the Gaussian.

    Where `fuzzifier` is not None they are of exp(`log_kernel`), which falls as the distance grows: fuzzy c-means'.
    """

    @property
    def fuzzifier(self) -> float | None: ...

    def log_kernel(self, squared_distances: Tensor) -> Tensor:
        """Squared distances (n, k) to the logarithms (n, k) of what the clusters add to the sums, in their dtype."""


@runtime_checkable
class NearestCentroidClassifier(EmbeddingClassifier, Protocol):
    """A nearest-centroid classifier in input space: its backbone flattens the image, its `nearest` is 1."""

    def distance_error(self, lower: Tensor, upper: Tensor) -> Tensor:
        """How far `squared_distances` may be off for images between lower and upper (n, d): bounds (n, k)."""


@runtime_checkable
class LinearHeadClassifier(Protocol):
    """A network whose parts a verifier may read: its logits are `last_layer`(`backbone`(x)).

    `last_layer` is None where the network is not known to end in a linear layer.
    """

    @property
    def backbone(self) -> nn.Module: ...

    @property
    def last_layer(self) -> nn.Linear | None: ...


Certifiable = EmbeddingClassifier | LinearHeadClassifier
"""What a Lipschitz constant of the features certifies."""


@runtime_checkable
class SeenThroughHead(ClusteringClassifier, Protocol):
    """A clustering classifier attacked through one head and judged by another, over the same distances.

    `two_headed` is False where they are one.
    """

    @property
    def two_headed(self) -> bool: ...

    def decide(self, squared_distances: Tensor) -> Tensor:
        """Squared distances (n, k) to the logits (n, classes) that judge a prediction."""


@dataclass(frozen=True)
class AttackResult:
    """Candidates, never verdicts: the judge decides which of them break the model.

    `x_adv` (n, c, h, w) holds one image a sample; `certified` (n,) marks the samples that a verifier
    proved; `claimed` (n,) those the attack took for broken and left alone from then on; `winners` names for
    each sample the part of an ensemble that broke it, None where none did; `flags` are sentences about
    anything that touches trust.

    A verifier also gives `radii` (n,): no image within that distance of the original breaks the model (NaN
    where nothing is known), and `proofs`: arrays from which its certificates can be checked again.
    """

    x_adv: Float[Tensor, "n *image"]
    certified: Bool[Tensor, " n"] | None = None
    claimed: Bool[Tensor, " n"] | None = None
    winners: tuple[str | None, ...] | None = None
    flags: tuple[str, ...] = ()
    radii: Float64[Tensor, " n"] | None = None
    proofs: Mapping[str, Tensor] | None = None


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


@runtime_checkable
class SearchModel(Protocol):
    """A model prepared for `attacks.search`, perhaps a cheaper copy of the true one.

    `lanes` is how many searches it is asked to hold at a time. `slack` is how far the copy's margins were
    seen to lie from the true model's; `confirm` judges images x_adv of the originals x by the true model.
    """

    lanes: int
    slack: float

    def confirm(self, x: Tensor, y: Tensor, x_adv: Tensor, threat: Threat) -> Tensor: ...


@dataclass(frozen=True)
class Outputs:
    """One pass: `logits` of the attacked head, `judged` those of the judged one, and what both came from."""

    logits: Float[Tensor, "n c"]
    judged: Float[Tensor, "n c"]
    squared_distances: Float[Tensor, "n k"] | None = None

    def margin(self, y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Best wrong minus true logit of the judged head."""
        judged = self.judged.detach()
        return best_other(judged, y) - judged.gather(1, y[:, None]).squeeze(1)


def outputs(model: Classifier, x: Tensor) -> Outputs:
    """Everything one pass of a model gives: through a clustering classifier's distances where there are some."""
    clustering = as_clustering(model)
    if clustering is not None:
        distances = clustering.squared_distances(x)
        logits = clustering.logits_from_distances(distances)
        if isinstance(clustering, SeenThroughHead) and clustering.two_headed:
            return Outputs(logits, clustering.decide(distances), distances)
        return Outputs(logits, logits, distances)
    logits = model(x)
    return Outputs(logits, logits)


def as_clustering(model: object) -> ClusteringClassifier | None:
    """The model, if it decides by distances to labelled centroids."""
    return model if isinstance(model, ClusteringClassifier) else None


def decision(model: Classifier, x: Tensor) -> Tensor:
    """The logits (n, classes) that judge a prediction, whichever head the attack sees."""
    return outputs(model, x).judged


def best_other(logits: Float[Tensor, "n c"], y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """The largest logit among the wrong classes."""
    return logits.scatter(1, y[:, None], -torch.inf).amax(dim=1)
