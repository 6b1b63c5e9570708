"""The rows of a linearised classifier, one direction in image space for each class.

A network with logits: f(x) = W x + b once linearised, and row c of W is the direction of class c.

A clustering classifier: the linear map is that of the features, f(x) = A x + b, and cluster i scores
s_i = -||f - c_i||^2 / (2 sigma^2). Differences are affine, since ||f||^2 is in both:

    s_i - s_j = (||f - c_j||^2 - ||f - c_i||^2) / (2 sigma^2) = (c_i - c_j) . f / sigma^2 + const,

and their rows are (c_i - c_j)^T A / sigma^2. So cluster i's row is c_i^T A / sigma^2 up to one vector that all clusters
share: minus the gradient of ||f||^2 / (2 sigma^2), which depends on the image. Only differences of rows mean
something, and the origin from which centroids are counted is arbitrary. Rows are therefore counted from the mean of the
class rows: c_i becomes c_i - c, where c is the mean over classes of the mean of a class's centroids. This is what the
gradient of s_i is at f = c. Heads, the fuzzifier and D (`nearest`) change what is made of the distances, not
these differences. A class's row is the mean of its clusters' rows: the gradient of the logarithm of its sum is the mean
weighted by the clusters' shares in the sum, which depend on the image; the shares that do not are equal ones.

k-means in pixel space is the same with A the identity.

A learned map of the distances has logits M s + b, M (classes, clusters). Written with the mean score S of all clusters,

    logit_c = sum_i M_ci (s_i - S) + m_c S + b_c,    m_c = sum_i M_ci,

where each s_i - S is affine, with row (c_i - c)^T A / sigma^2 for c the mean centroid, and S holds all that is
quadratic: S = -||f - c||^2 / (2 sigma^2) + const. Row c is that of the first sum; m_c S is left out, as the other
non-linear parts are, and named among the changes where the m_c differ (where they agree it is common to all logits).
Its gradient vanishes at f = c: the row is the logit's exact gradient there. There is one row a logit.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn

from attacks.contract import EmbeddingClassifier
from benchmark.linearize.rewrite import BatchNorm, Change, Linearized, NotLinearizable, linearize
from model_zoo.centroids import CentroidClassifier
from model_zoo.learned_map import LearnedMapClassifier

BOUND = 1e-8
"""Of both self-checks; float64 leaves about 1e-13 of an affine network."""


@dataclass(frozen=True)
class SelfCheck:
    """Whether what was made linear is: `jacobians` is the largest |J(x1) - J(x2)| / max |J|, `additivity` the
    largest |f(a + b) - f(a) - f(b) + f(0)| / max |f|."""

    jacobians: float
    additivity: float

    @property
    def holds(self) -> bool:
        return self.jacobians <= BOUND and self.additivity <= BOUND


@dataclass(frozen=True)
class ClassRows:
    """The linear map of a classifier, with respect to images in [0, 1].

    `rows` (R, d) has one row a logit, or a cluster of a clustering classifier, and `labels` (R,) their classes;
    `classes` (num_classes, d) one row a class, `head` (num_classes, features) the same of the last layer alone,
    (0, 0) where there is none. `centred`: only differences of rows mean something, and they are counted from the mean
    class row.
    """

    rows: Float64[np.ndarray, "r d"]
    labels: Int[np.ndarray, " r"]
    classes: Float64[np.ndarray, "c d"]
    head: Float64[np.ndarray, "k f"]
    changes: tuple[Change, ...]
    check: SelfCheck
    centred: bool = False


def class_rows(model: nn.Module, image: Float[Tensor, "*image"], bn: BatchNorm) -> ClassRows:
    """The rows of a classifier's linearised map: W = d logits / d x, or that of the distances' differences.

    Raises NotLinearizable for a network without one, and where the self-check fails.
    """
    if isinstance(model, LearnedMapClassifier):
        return _learned_map_rows(model, image, bn)
    if isinstance(model, CentroidClassifier | EmbeddingClassifier):
        return _cluster_rows(model, image, bn)
    linear = linearize(model, tuple(image.shape), bn)
    jacobian, check = checked_jacobian(linear, image)
    labels = np.arange(len(jacobian))
    head = np.zeros((0, 0)) if linear.last_layer is None else linear.last_layer.numpy()
    return ClassRows(jacobian, labels, jacobian, head, linear.changes, check)


def _cluster_rows(model: CentroidClassifier | EmbeddingClassifier, image: Tensor, bn: BatchNorm) -> ClassRows:
    labels = model.cluster_labels.detach().cpu()
    with torch.no_grad():
        classes = model.logits_from_distances(model.centroids.new_zeros(1, len(labels))).shape[1]
    empty = sorted(set(range(classes)) - set(labels.tolist()))
    if empty:
        raise NotLinearizable(f"class {empty[0]} has no cluster, and so no row")
    scaled = _scaled_centroids(model)
    scaled = scaled - _by_class(scaled, labels, classes).mean(dim=0)
    head = _by_class(scaled, labels, classes)
    linear = linearize(model.backbone, tuple(image.shape), bn)
    rows, check = checked_jacobian(linear, image, scaled)
    class_means = _by_class(torch.from_numpy(rows), labels, classes).numpy()
    in_pixels = isinstance(model.backbone, nn.Flatten)
    return ClassRows(
        rows,
        labels.numpy(),
        class_means,
        np.zeros((0, 0)) if in_pixels else head.numpy(),
        linear.changes,
        check,
        centred=True,
    )


def _learned_map_rows(model: LearnedMapClassifier, image: Tensor, bn: BatchNorm) -> ClassRows:
    scaled = _scaled_centroids(model)
    weight = model.learned_map.weight.detach().cpu().double()
    head = weight @ (scaled - scaled.mean(dim=0))
    linear = linearize(model.backbone, tuple(image.shape), bn)
    rows, check = checked_jacobian(linear, image, head)
    sums = weight.sum(dim=1)
    left_out = Change("mean distance to all clusters", "learned_map", "removed")
    changes = (*linear.changes, left_out) if bool((sums != sums[0]).any()) else linear.changes
    return ClassRows(rows, np.arange(len(rows)), rows, head.numpy(), changes, check)


def checked_jacobian(
    linear: Linearized, image: Float[Tensor, "*image"], combinations: Float64[Tensor, "r k"] | None = None
) -> tuple[Float64[np.ndarray, "r d"], SelfCheck]:
    """d outputs / d x, or that of `combinations` of the outputs; NotLinearizable where the self-check fails."""
    image = image.detach().cpu().double()
    other = torch.rand(image.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.no_grad():
        both, first, second, none = linear.module(
            torch.stack([image + other, image, other, torch.zeros_like(image)])
        ).flatten(1)
    if combinations is None:
        combinations = torch.eye(len(none), dtype=torch.float64)
    jacobian = _jacobian(linear.module, image, combinations)
    apart = jacobian - _jacobian(linear.module, other, combinations)
    largest = max(float(value.abs().max()) for value in (both, first, second, none))
    check = SelfCheck(
        _relative(float(apart.abs().max()), float(jacobian.abs().max())),
        _relative(float((both - first - second + none).abs().max()), largest),
    )
    if not check.holds:
        raise NotLinearizable(
            "what is left of the network is not linear: Jacobians at two images differ by "
            f"{check.jacobians:.1e}, sums by {check.additivity:.1e}, and {BOUND:.0e} is allowed"
        )
    return jacobian.numpy(), check


def _relative(difference: float, scale: float) -> float:
    return 0.0 if difference == 0.0 else difference / scale if scale > 0.0 else float("inf")


def _jacobian(module: nn.Module, image: Tensor, combinations: Tensor) -> Tensor:
    """Reverse mode, one pass a row."""
    x = image[None].clone().requires_grad_(True)
    outputs = module(x).flatten()
    rows = [torch.autograd.grad(outputs, x, row, retain_graph=True)[0].flatten() for row in combinations]
    return torch.stack(rows)


def _scaled_centroids(model: CentroidClassifier | EmbeddingClassifier) -> Tensor:
    return model.centroids.detach().cpu().double() / model.variance


def _by_class(rows: Tensor, labels: Tensor, classes: int) -> Tensor:
    return torch.stack([rows[labels == c].mean(dim=0) for c in range(classes)])
