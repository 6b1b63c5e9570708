"""Bounds of a rival's lead against sampled images of the ball, and against what a forger may write."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from attacks.centroid_bounds import Balls, Centroids, largest, possible_rivals, rivals_without_box, weighted_bound
from attacks.threat import Norm
from tests.attacks.centroid_problems import random_problem, true_radii

norms = st.sampled_from(["linf", "l2"])
seeds = st.integers(0, 2**31 - 1)
some = settings(max_examples=40, deadline=None, derandomize=True)


def allowed_images(balls: Balls, samples: int, generator: torch.Generator) -> Tensor:
    """Images (n, samples, d) of the balls, corners and the sphere among them."""
    shape = (len(balls.x), samples, balls.x.shape[1])
    offsets = torch.randn(shape, generator=generator, dtype=torch.float64)
    if balls.norm == "linf":
        offsets = (3.0 * offsets).clamp(-1.0, 1.0)
    else:
        offsets /= offsets.norm(dim=2, keepdim=True).clamp_min(1e-12)
    return (balls.x[:, None] + balls.eps * offsets).clamp(0.0, 1.0)


@given(norm=norms, seed=seeds, eps=st.sampled_from([1e-9, 0.05, 0.4, 3.0]), scale=st.sampled_from([1e-9, 1.0, 1e6]))
@some
def test_no_image_exceeds_the_largest_value(norm: Norm, seed: int, eps: float, scale: float) -> None:
    """For any multiplier; without one the bound is attained (l2: wherever the box leaves room)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(5, 3, generator=generator, dtype=torch.float64)
    slopes = scale * torch.randn(5, 3, generator=generator, dtype=torch.float64)
    balls = Balls.around(x, norm, eps)
    reached = (slopes[:, None] * allowed_images(balls, 300, generator)).sum(dim=2).amax(dim=1)
    best = largest(slopes, balls)
    for multiplier in (-1.0, 0.0, 1e-310, 1e-3, 1.0, 1e9):
        bound = largest(slopes, balls, torch.full((5,), multiplier, dtype=torch.float64))
        assert bool((bound >= reached - 1e-12 * scale).all())
        assert bool((bound >= best - 1e-8 * scale).all())
    dual = slopes.norm(p=1 if norm == "linf" else 2, dim=1)
    free = ((x - eps >= 0) & (x + eps <= 1)).all(dim=1)
    assert bool((best <= (slopes * x).sum(dim=1) + eps * dual + 1e-9 * scale).all())
    torch.testing.assert_close(best[free], ((slopes * x).sum(dim=1) + eps * dual)[free], rtol=0, atol=1e-9 * scale)


@given(norm=norms, seed=seeds, eps=st.sampled_from([0.01, 0.1, 0.5]))
@some
def test_a_weighted_bound_lies_above_every_smallest_lead(norm: Norm, seed: int, eps: float) -> None:
    problem = random_problem(seed, 3, 6, classes=2, samples=5)
    generator = torch.Generator().manual_seed(seed)
    points, x = problem.centroids.double(), problem.x.flatten(1).double()
    balls, centroids = Balls.around(x, norm, eps), Centroids(points, problem.labels)
    rival = torch.randint(6, (5,), generator=generator)
    weights = torch.rand(5, 6, generator=generator, dtype=torch.float64) * (problem.labels[None] == problem.y[:, None])
    images = allowed_images(balls, 300, generator)
    squared = (images[:, :, None] - points).square().sum(dim=3)  # (n, samples, k)
    leads = squared - squared.gather(2, rival[:, None, None].expand(5, 300, 1))
    smallest = leads.masked_fill(~(weights > 0)[:, None], math.inf).amin(dim=2).amax(dim=1)
    error = torch.zeros(5, 6, dtype=torch.float64)
    bound = weighted_bound(centroids, balls, error, rival, weights)
    some_weight = (weights > 0).any(dim=1)
    assert bool((bound >= smallest)[some_weight].all())
    assert bool(bound[~some_weight].isnan().all())
    with_error = weighted_bound(centroids, balls, error + 0.25, rival, weights)
    torch.testing.assert_close(with_error[some_weight], bound[some_weight] + 0.5, rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_huge_weights_are_made_to_sum_to_one(norm: Norm) -> None:
    """Were their sum to overflow, all would become 0: the bound of an own centroid at the origin."""
    points = torch.tensor([[0.9, 0.9], [0.8, 0.9], [0.5, 0.5]], dtype=torch.float64)
    centroids = Centroids(points, torch.tensor([0, 0, 1]))
    balls = Balls.around(torch.full((1, 2), 0.1, dtype=torch.float64), norm, 0.01)
    weights = torch.tensor([[1.7e308, 1.7e308, 0.0]], dtype=torch.float64)
    bounds = [
        weighted_bound(centroids, balls, torch.zeros(1, 3, dtype=torch.float64), torch.tensor([2]), part)
        for part in (weights, weights / 1e308)
    ]
    torch.testing.assert_close(bounds[0], bounds[1])
    assert float(bounds[0]) > 0


@given(norm=norms, seed=seeds, eps=st.sampled_from([1e-9, 0.05, 0.2]))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_an_excluded_rival_never_wins(norm: Norm, seed: int, eps: float) -> None:
    """One rival at a time: without the others, its radius exceeds eps. The box only excludes more."""
    problem = random_problem(seed, 2, 6, samples=4)
    points, x = problem.centroids.double(), problem.x.flatten(1).double()
    arguments = (Centroids(points, problem.labels), Balls.around(x, norm, eps), problem.y)
    error = torch.zeros(4, 6, dtype=torch.float64)
    possible, quickly = possible_rivals(*arguments, error), rivals_without_box(*arguments, error)
    assert not bool((possible & ~quickly).any())
    assert not bool((quickly & (problem.labels[None] == problem.y[:, None])).any())
    for row, rival in torch.nonzero(~possible & (problem.labels[None] != problem.y[:, None])).tolist():
        kept = (problem.labels == problem.y[row]) | (torch.arange(6) == rival)
        alone = type(problem)(
            problem.centroids[kept], problem.labels[kept], problem.x[row : row + 1], problem.y[row : row + 1], 3
        )
        assert np.all(true_radii(alone, norm) > eps)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("size", [1e-7, 1e-5])
def test_centroids_a_few_roundings_apart_are_not_told_apart_by_chance(norm: Norm, size: float) -> None:
    """Around the image (0.7, ...), whose squared norm is 1e14 times theirs: a rival that wins by a hair stays."""
    generator = torch.Generator().manual_seed(0)
    x = torch.full((1, 800), 0.7, dtype=torch.float64)
    error = torch.zeros(1, 2, dtype=torch.float64)
    for _ in range(50):
        offset = torch.randn(800, generator=generator, dtype=torch.float64) * size
        points = torch.stack([x[0] + offset, x[0] - offset])  # a tie at x, in real arithmetic
        centroids = Centroids(points, torch.tensor([0, 1]))
        balls = Balls.around(x, norm, 1e-14)
        assert possible_rivals(centroids, balls, torch.tensor([0]), error).tolist() == [[False, True]]
        weights = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
        assert float(weighted_bound(centroids, balls, error, torch.tensor([1]), weights)) >= 0


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_nan_excludes_no_rival(norm: Norm) -> None:
    problem = random_problem(0, 4, 6, samples=3)
    centroids = Centroids(problem.centroids.double(), problem.labels)
    balls = Balls.around(torch.full((3, 4), torch.nan, dtype=torch.float64), norm, 0.1)
    possible = possible_rivals(centroids, balls, problem.y, torch.zeros(3, 6, dtype=torch.float64))
    assert torch.equal(possible, problem.labels[None] != problem.y[:, None])


def test_l1_is_refused() -> None:
    balls = Balls.around(torch.zeros(1, 2, dtype=torch.float64), "l1", 0.1)
    with pytest.raises(ValueError, match="bounds are known for linf and l2, not for l1"):
        largest(torch.ones(1, 2, dtype=torch.float64), balls)
