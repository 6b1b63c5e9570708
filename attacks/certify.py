"""Certificates from a Lipschitz constant: radii within which a classifier is proven not to break."""

import copy
import hashlib
import math
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn

from attacks.contract import (
    AttackResult,
    Classifier,
    EmbeddingClassifier,
    KernelClassifier,
    LinearHeadClassifier,
    best_other,
)
from attacks.lipschitz import Unbounded, lipschitz_bound
from attacks.radii import eq3_bounds, hard_radii, kernel_radii, linear_radii, soft_radii
from attacks.threat import TOLERANCE, Threat

_MARGIN = 8.0
_UNIT = 2.0**-24


def certify(
    model: Classifier,
    x: Float[Tensor, "n *image"],
    y: Int[Tensor, " n"],
    threat: Threat,
    *,
    seed: int,
    sample_ids: Int[Tensor, " n"],
) -> AttackResult:
    """Certify the samples whose radius exceeds eps + TOLERANCE; the images are handed back as they are.

    The radius is `soft_radii` where all clusters count and `hard_radii` where the nearest decides (ClusTR, Theorem 1,
    corrected for several clusters), with the product bound of `lipschitz_bound`. An l2 radius is one in l1 too,
    ||.||_1 being the larger norm, and divided by the root of the number of pixels one in linf. The box is not used.
    Of 1 < D < k nearest clusters nothing is certified: a cluster that enters or leaves makes the sums jump. Where a
    fuzzifier takes the place of the Gaussian kernel, `soft_radii` does not hold: the radius is `hard_radii` with one
    cluster a class, as there the nearest decides by any kernel, and else `kernel_radii`. For a network that ends in a
    linear layer it is `linear_radii`.

    What is proven holds for the classifier in exact arithmetic. For the float32 of the judged pass a margin is
    subtracted from a sample's leads: 8 times the largest difference between float32 and float64 seen in its squared
    distances (hard) or class logits (soft, linear; both for `kernel_radii`), and at least 8 roundings of the largest
    of them. That part is measured, not proven; it looks at no other sample, so that a certificate does not depend on
    the batch.

    `proofs` holds, for each sample, the `radius` in the threat's norm, the `lipschitz` constant in l2, and the bounds
    of `radii.eq3_bounds` in the threat's norm, which prove nothing and are kept to be shown beside the radius of a
    clustering classifier. Raises ValueError for a model whose features are not to be seen (`Certifiable`).
    """
    del seed, sample_ids
    classifier = _certifiable(model)
    unknown = torch.full((len(x),), torch.nan, dtype=torch.float64, device=x.device)
    obstacle = _obstacle(classifier)
    if obstacle is not None:
        return _result(x, unknown, threat, obstacle)
    try:
        lipschitz = _cached_bound(classifier.backbone, tuple(x.shape[1:]))
    except Unbounded as error:
        return _result(x, unknown, threat, flag=f"nothing certified: {error}")
    scale = math.sqrt(math.prod(x.shape[1:])) if threat.norm == "linf" else 1.0
    shown = {}
    if isinstance(classifier, EmbeddingClassifier):
        radii, distances = _l2_radii(classifier, x, y, lipschitz)
        below, above = eq3_bounds(distances, y, classifier.cluster_labels, lipschitz)
        shown = {"eq3_lower": below / scale, "eq3_upper": above / scale}
    else:
        radii = _l2_radii_of_logits(model, classifier, x, y, lipschitz)
    radii = radii / scale
    proofs = {"radius": radii, "lipschitz": torch.full_like(radii, lipschitz)} | shown
    return _result(x, radii, threat, f"proven Lipschitz constant of the features {lipschitz:.4g}", proofs)


def _certifiable(model: object) -> EmbeddingClassifier | LinearHeadClassifier:
    if isinstance(model, EmbeddingClassifier) or isinstance(model, LinearHeadClassifier):  # noqa: SIM101 - for mypy
        return model
    raise ValueError(
        "certificates need a clustering classifier that shows its backbone and centroids, or a network that shows its "
        "backbone and last layer"
    )


def _obstacle(classifier: EmbeddingClassifier | LinearHeadClassifier) -> str | None:
    """Why no certificate is known for such a classifier, if none is."""
    if not isinstance(classifier, EmbeddingClassifier):
        unknown = classifier.last_layer is None
        return "nothing certified: the network is not known to end in a linear layer" if unknown else None
    clusters, nearest = len(classifier.centroids), classifier.nearest
    if nearest is not None and 1 < nearest < clusters:
        return f"no certificate is known for D = {nearest} of {clusters} nearest clusters"
    return None


@torch.no_grad()
def _l2_radii(
    model: EmbeddingClassifier, x: Tensor, y: Tensor, lipschitz: float
) -> tuple[Float64[Tensor, " n"], Float64[Tensor, "n k"]]:
    """Radii in l2, and the squared distances they come from."""
    features = copy.deepcopy(model.backbone).double()(x.double())
    centroids, labels = model.centroids.double(), model.cluster_labels
    distances = torch.cdist(features, centroids, compute_mode="donot_use_mm_for_euclid_dist").square()
    seen = model.squared_distances(x)
    logits = model.logits_from_distances(seen)
    off = _slack(seen, distances, distances)
    if model.nearest is not None and model.nearest < len(centroids):
        radii = hard_radii(distances, y, labels, centroids, lipschitz, off)
    elif isinstance(model, KernelClassifier) and model.fuzzifier is not None:
        exponents = model.log_kernel(distances)
        if len(labels.unique()) == len(labels):
            of_logarithms = (model.fuzzifier - 1.0) * exponents * distances
            off = off + _slack(distances, distances, of_logarithms)
            radii = hard_radii(distances, y, labels, centroids, lipschitz, off)
        else:
            slack = _logit_slack(logits, exponents, labels)
            radii = kernel_radii(distances, y, labels, model.log_kernel, lipschitz, slack, off)
    else:
        slack = _logit_slack(logits, -distances / (2.0 * model.variance), labels)
        radii = soft_radii(distances, y, labels, centroids, model.variance, lipschitz, slack)
    # The judge counts a tie as a break.
    right = logits.gather(1, y[:, None]).squeeze(1) > best_other(logits, y)
    return torch.where(right, radii, 0.0), distances


@torch.no_grad()
def _l2_radii_of_logits(
    model: Classifier, parts: LinearHeadClassifier, x: Tensor, y: Tensor, lipschitz: float
) -> Float64[Tensor, " n"]:
    """Radii in l2 of a network that ends in a linear layer."""
    assert parts.last_layer is not None
    backbone, last = copy.deepcopy(parts.backbone).double(), copy.deepcopy(parts.last_layer).double()
    exact, seen = last(backbone(x.double())), model(x)
    radii = linear_radii(exact, y, last.weight, lipschitz, _slack(seen, exact, exact))
    right = seen.gather(1, y[:, None]).squeeze(1) > best_other(seen, y)
    return torch.where(right, radii, 0.0)


def _logit_slack(logits: Tensor, exponents: Tensor, labels: Tensor) -> Float64[Tensor, " n"]:
    """`_slack` of the log sums of the classes that have clusters."""
    known = labels.unique()
    exact = torch.stack([exponents[:, labels == c].logsumexp(dim=1) for c in known.tolist()], dim=1)
    return _slack(logits[:, known], exact, exponents)


def _slack(seen: Tensor, exact: Tensor, terms: Tensor) -> Float64[Tensor, " n"]:
    """What rounding may take from a sample's leads: a multiple of what it did, or of what it does to one number."""
    measured = (seen.double() - exact).abs().amax(dim=1)
    return _MARGIN * torch.maximum(measured, _UNIT * terms.abs().amax(dim=1))


def _result(
    x: Tensor, radii: Tensor, threat: Threat, flag: str, proofs: dict[str, Tensor] | None = None
) -> AttackResult:
    return AttackResult(x, certified=radii > threat.eps + TOLERANCE, flags=(flag,), radii=radii, proofs=proofs)


_BOUNDS: WeakKeyDictionary[nn.Module, dict[tuple[tuple[int, ...], str], float | str]] = WeakKeyDictionary()


def _cached_bound(backbone: nn.Module, shape: tuple[int, ...]) -> float:
    """`lipschitz_bound`, computed once for a backbone's present weights and mode."""
    digest = hashlib.sha256(repr([module.training for module in backbone.modules()]).encode())
    for tensor in (*backbone.parameters(), *backbone.buffers()):
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    known, key = _BOUNDS.setdefault(backbone, {}), (shape, digest.hexdigest())
    if key not in known:
        try:
            known[key] = lipschitz_bound(backbone, shape)
        except Unbounded as error:
            known[key] = str(error)
    bound = known[key]
    if isinstance(bound, str):
        raise Unbounded(bound)
    return bound
