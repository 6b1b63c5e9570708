"""Radii within which a classifier cannot be broken, from its distances or logits and a Lipschitz constant.

For clustering classifiers all take squared distances (n, k) of the samples' features to the centroids (k, d), in
float64, the true classes y (n,), the centroids' classes (k,), and an l2 Lipschitz constant of the features; all give
l2 radii in input units.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

_PART = 64
"""Samples at a time: every wrong centroid meets every own one."""
_HALVINGS = 60
_KEPT, _TRIED = 4_000, 16
"""Of more than _KEPT centroids, whose distances from one another would not fit, _TRIED own ones are tried a sample."""


def hard_radii(
    squared_distances: Float64[Tensor, "n k"],
    y: Int[Tensor, " n"],
    labels: Int[Tensor, " k"],
    centroids: Float[Tensor, "k d"],
    lipschitz: float,
    slack: Float64[Tensor, " n"] | None = None,
) -> Float64[Tensor, " n"]:
    """Where the nearest centroid decides: min over wrong j, max over own i of (d_j^2 - d_i^2) / (2 L ||mu_j - mu_i||).

    Centroid j wins only where it is at least as near as every own one, and Theorem 1 of ClusTR bounds the way to
    that for each own i: so the longest counts. The papers' two nearest centroids are not enough: a wrong one that is
    further away may be met sooner. Coinciding centroids tie everywhere and give 0. 0 for a misclassified sample,
    inf where only one class has centroids. `slack` is what a sample's differences d_j^2 - d_i^2 may be off by. Any own
    centroids give a radius: of many, a sample's nearest are tried.
    """
    slack = torch.zeros_like(squared_distances[:, 0]) if slack is None else slack
    radii = torch.full((len(y),), torch.inf, dtype=torch.float64, device=y.device)
    if len(labels) > _KEPT:
        exact = centroids.double()
        for row in range(len(y)):
            radii[row] = _hard_radius(squared_distances[row], labels == y[row], exact, lipschitz, slack[row])
        return radii
    between = _between(centroids)
    for true in y.unique().tolist():
        own, wrong = labels == true, labels != true
        if not bool(own.any()):
            radii[y == true] = 0.0
        elif bool(wrong.any()):
            apart = between[wrong][:, own]
            for rows in torch.nonzero(y == true).flatten().split(_PART):
                near, far = squared_distances[rows][:, own], squared_distances[rows][:, wrong]
                lead = far[:, :, None] - near[:, None, :] - slack[rows, None, None]
                radii[rows] = _length(lead, 2.0 * lipschitz * apart, level=0.0).amax(dim=2).amin(dim=1)
    return radii


def _hard_radius(
    squared_distances: Float64[Tensor, " k"],
    own: Bool[Tensor, " k"],
    centroids: Float64[Tensor, "k d"],
    lipschitz: float,
    slack: Tensor,
) -> Tensor:
    """`hard_radii` of one sample by its nearest own centroids."""
    if not bool(own.any()):
        return slack.new_zeros(())
    count = min(_TRIED, int(own.sum()))
    near, i = squared_distances.masked_fill(~own, torch.inf).topk(count, largest=False)
    apart = torch.cdist(centroids[i], centroids, compute_mode="donot_use_mm_for_euclid_dist")
    lead = squared_distances - near[:, None] - slack
    lasts = _length(lead, 2.0 * lipschitz * apart, level=0.0).amax(dim=0)
    nearest: Tensor = lasts.masked_fill(own, torch.inf).amin()
    return nearest


def soft_radii(
    squared_distances: Float64[Tensor, "n k"],
    y: Int[Tensor, " n"],
    labels: Int[Tensor, " k"],
    centroids: Float[Tensor, "k d"],
    variance: float,
    lipschitz: float,
    slack: Float64[Tensor, " n"] | None = None,
) -> Float64[Tensor, " n"]:
    """Where all clusters count: min over wrong c of sigma^2 (g_y - g_c) / (L max_ij ||mu_yi - mu_cj||).

    g_c is the log-sum-exp of -d^2 / (2 sigma^2) over class c. Its gradient by the features f is (m_c - f) / sigma^2
    with m_c the mean of the class's centroids, weighted by the softmax; so that of g_y - g_c is (m_y - m_c) / sigma^2,
    and the two convex hulls are nowhere further apart than at two of their corners. 0 for a misclassified sample, inf
    where no other class has centroids. `slack` is what a sample's differences g_y - g_c may be off by.
    """
    slack = torch.zeros_like(squared_distances[:, 0]) if slack is None else slack
    radii = torch.full((len(y),), torch.inf, dtype=torch.float64, device=y.device)
    between = _between(centroids)
    classes = labels.unique().tolist()
    exponents = -squared_distances / (2.0 * variance)
    logits = {c: exponents[:, labels == c].logsumexp(dim=1) for c in classes}
    for true in y.unique().tolist():
        rows = y == true
        if true not in logits:
            radii[rows] = 0.0
            continue
        for c in set(classes) - {true}:
            apart = between[labels == true][:, labels == c].amax()
            lead = logits[true][rows] - logits[c][rows] - slack[rows]
            radii[rows] = torch.minimum(radii[rows], _length(variance * lead, lipschitz * apart, level=torch.inf))
    return radii


def kernel_radii(
    squared_distances: Float64[Tensor, "n k"],
    y: Int[Tensor, " n"],
    labels: Int[Tensor, " k"],
    log_kernel: Callable[[Tensor], Tensor],
    lipschitz: float,
    slack: Float64[Tensor, " n"] | None = None,
    off: Float64[Tensor, " n"] | None = None,
) -> Float64[Tensor, " n"]:
    """Where all clusters count by any kernel that never rises with the distance: the largest r found with, for every
    wrong c, sum over own i of k(d_i + L r) > sum over c's j of k(max(0, d_j - L r)).

    Within r the features move by at most L r, and by the triangle inequality so does each distance d. As k never
    rises, the true class's sum is at least the left side and c's at most the right. The left falls with r, the right
    rises: bisection, which keeps the end that was seen to hold. No use is made of where the centroids lie, so with one
    cluster a class `hard_radii` gives more. 0 for a misclassified sample, inf where no other class has centroids.
    `slack` is what a sample's differences of log sums may be off by, `off` what its squared distances may.
    """
    slack, off = (torch.zeros_like(squared_distances[:, 0]) if s is None else s for s in (slack, off))
    radii = torch.full((len(y),), torch.inf, dtype=torch.float64, device=y.device)
    classes = labels.unique().tolist()
    for true in y.unique().tolist():
        rows, others = y == true, [c for c in classes if c != true]
        if true not in classes:
            radii[rows] = 0.0
        elif others:
            distances, apart, lost = squared_distances[rows].sqrt(), off[rows, None], slack[rows]
            low, high = torch.zeros_like(lost), distances.amax(dim=1)
            for _ in range(_HALVINGS):
                way = (low + high) / 2.0
                near = (distances[:, labels == true] + way[:, None]).square() + apart
                far = ((distances - way[:, None]).clamp_min(0.0).square() - apart).clamp_min(0.0)
                own, wrong = log_kernel(near).logsumexp(dim=1), log_kernel(far)
                best = torch.stack([wrong[:, labels == c].logsumexp(dim=1) for c in others]).amax(dim=0)
                holds = own - best > lost
                low, high = torch.where(holds, way, low), torch.where(holds, high, way)
            radii[rows] = _length(low, torch.full_like(low, lipschitz), level=torch.inf)
    return radii


def linear_radii(
    logits: Float64[Tensor, "n c"],
    y: Int[Tensor, " n"],
    weight: Float[Tensor, "c d"],
    lipschitz: float,
    slack: Float64[Tensor, " n"] | None = None,
) -> Float64[Tensor, " n"]:
    """Where a linear layer with rows w_c decides: min over wrong c of (z_y - z_c) / (L ||w_y - w_c||).

    z_y - z_c is (w_y - w_c) . f plus a constant in the features f, so it is lost at most at that rate (the margins of
    Tsuzuku et al. 2018, arXiv 1802.04034, class by class). 0 for a misclassified sample. `slack` is what a sample's
    differences of logits may be off by.
    """
    slack = torch.zeros_like(logits[:, 0]) if slack is None else slack
    lead = logits.gather(1, y[:, None]) - logits - slack[:, None]
    radii = _length(lead, lipschitz * _between(weight)[y], level=torch.inf)
    nearest: Tensor = radii.scatter(1, y[:, None], torch.inf).amin(dim=1)
    return nearest


def eq3_bounds(
    squared_distances: Float64[Tensor, "n k"], y: Int[Tensor, " n"], labels: Int[Tensor, " k"], lipschitz: float
) -> tuple[Float64[Tensor, " n"], Float64[Tensor, " n"]]:
    """(b - a) / (2 L) and (b + a) / (2 L), a and b the distances to the nearest own and the nearest wrong centroid.

    Bhardwaj et al. 2022, eq. 3: bounds of the quantity of ClusTR's Theorem 1 for these two centroids, by the triangle
    inequality. They are not bounds of the model's robustness: with several clusters a class not even Theorem 1's
    quantity is a radius, and images beyond the upper one need not break the model. NaN for a misclassified sample, to
    which the theorem does not apply.
    """
    own = labels[None, :] == y[:, None]
    near = squared_distances.masked_fill(~own, torch.inf).amin(dim=1).clamp_min(0.0).sqrt()
    far = squared_distances.masked_fill(own, torch.inf).amin(dim=1).clamp_min(0.0).sqrt()
    right = near < far
    lower, upper = ((far + sign * near) / (2.0 * lipschitz) for sign in (-1.0, 1.0))
    return lower.where(right, torch.nan), upper.where(right, torch.nan)


def _between(centroids: Tensor) -> Tensor:
    """Distances of the centroids from one another, by differences: 0 exactly where two coincide."""
    exact = centroids.double()
    return torch.cdist(exact, exact, compute_mode="donot_use_mm_for_euclid_dist")


def _length(lead: Tensor, rate: Tensor, level: float) -> Tensor:
    """How far a lead lasts that is lost at most at this rate; `level` where it is not lost at all, 0 without a lead."""
    lasts = torch.where(rate > 0, lead / rate.clamp_min(torch.finfo(torch.float64).tiny), level)
    return torch.where(lead > 0, lasts, 0.0)
