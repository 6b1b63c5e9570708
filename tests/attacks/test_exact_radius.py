"""Exact radii against linear and least-distance programmes, closed forms, and the verdicts of `exact`."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from attacks.centroid_bounds import Centroids, radius_bounds
from attacks.contract import AttackResult
from attacks.exact import exact
from attacks.exact_radius import RADIUS_TOLERANCE, exact_radius
from attacks.radii import hard_radii
from attacks.threat import TOLERANCE, Norm, Threat
from tests.attacks.centroid_problems import Array, CentroidProblem, guarded_problem, random_problem, true_radii

norms = st.sampled_from(["linf", "l2"])
seeds = st.integers(0, 2**31 - 1)
some = settings(max_examples=40, deadline=None, derandomize=True)


def run(problem: CentroidProblem, threat: Threat) -> AttackResult:
    return exact_radius(problem.model, problem.x, problem.y, threat, seed=0, sample_ids=problem.ids)


def radii_of(problem: CentroidProblem, norm: Norm) -> Array:
    result = run(problem, Threat(norm, 0.1))
    assert result.radii is not None
    assert not any("radii" in flag for flag in result.flags), "a radius without a witness"
    radii: Array = result.radii.numpy()
    return radii


def one_dimension(own: list[float], wrong: list[float], x: list[float]) -> CentroidProblem:
    """Centroids of class 0 and of class 1 on a line, and images of class 0."""
    labels = torch.tensor([0] * len(own) + [1] * len(wrong))
    centroids, images = torch.tensor(own + wrong)[:, None], torch.tensor(x).reshape(-1, 1, 1, 1)
    return CentroidProblem(centroids, labels, images, torch.zeros(len(x), dtype=torch.long), 3)


@given(
    norm=norms,
    seed=seeds,
    d=st.sampled_from([1, 2, 4, 9]),
    clusters=st.integers(1, 8),
    steps=st.sampled_from([None, None, 2, 8]),
)
@example(norm="l2", seed=1, d=1, clusters=1, steps=None)
@some
def test_radii_are_those_of_independent_programmes(
    norm: Norm, seed: int, d: int, clusters: int, steps: int | None
) -> None:
    problem = random_problem(seed, d, clusters, steps=steps)
    np.testing.assert_allclose(radii_of(problem, norm), true_radii(problem, norm), rtol=0, atol=2 * RADIUS_TOLERANCE)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_several_own_centroids_guard_together(norm: Norm) -> None:
    problem = guarded_problem(samples=8)
    expected = true_radii(problem, norm)
    assert expected == pytest.approx(0.046, abs=0.02)
    np.testing.assert_allclose(radii_of(problem, norm), expected, rtol=0, atol=2 * RADIUS_TOLERANCE)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_one_centroid_a_class_has_a_closed_form_inside_the_box(norm: Norm) -> None:
    generator = torch.Generator().manual_seed(0)
    centroids, x = (0.45 + 0.1 * torch.rand(n, 20, generator=generator) for n in (4, 12))
    apart = (centroids[:, None] - centroids[None]).double().norm(p=1 if norm == "linf" else 2, dim=2)
    squared = (x[:, None] - centroids[None]).double().square().sum(dim=2)
    y = squared.argmin(dim=1)
    lead = squared - squared.gather(1, y[:, None])
    expected = torch.where(lead > 0, lead / (2 * apart[y]).clamp_min(1e-9), torch.inf).amin(dim=1)
    problem = CentroidProblem(centroids, torch.arange(4), x[:, None, None], y, 4)
    np.testing.assert_allclose(radii_of(problem, norm), expected.numpy(), rtol=0, atol=RADIUS_TOLERANCE)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_radii_on_a_line_can_be_read_off_the_page(norm: Norm) -> None:
    """Own centroid 0.5; wrong ones 0.6 and, guarding nothing, 0.15: the boundaries lie at 0.325 and 0.55."""
    problem = one_dimension([0.5], [0.6, 0.15], [0.5, 0.4, 0.55, 0.3, 0.0])
    assert radii_of(problem, norm) == pytest.approx([0.05, 0.075, 0.0, 0.0, 0.0], abs=RADIUS_TOLERANCE)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_two_nearest_centroids_are_not_enough(norm: Norm) -> None:
    """z = 0, own centroid (1, 0), wrong ones (1.2, 0) and (-1.3, 0), scaled by 1/4 into the box: 0.15 / 4."""
    problem = one_dimension([0.75], [0.8, 0.175], [0.5])
    assert radii_of(problem, norm) == pytest.approx([0.15 / 4], abs=RADIUS_TOLERANCE)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_duplicates_of_own_centroids_and_ties(norm: Norm) -> None:
    """Class 1 holds 0.2 as well: images nearest to it have radius 0, the others reach it where 0.8 is no nearer."""
    problem = one_dimension([0.2, 0.8], [0.2], [0.1, 0.5, 0.9])
    assert radii_of(problem, norm) == pytest.approx([0.0, 0.0, 0.4], abs=RADIUS_TOLERANCE)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_radii_without_rivals_without_own_centroids_and_where_the_box_protects(norm: Norm) -> None:
    alone = one_dimension([0.2, 0.8], [], [0.1, 0.5])
    assert radii_of(alone, norm).tolist() == [math.inf, math.inf]
    absent = dataclasses.replace(alone, y=torch.tensor([1, 2]))
    assert radii_of(absent, norm).tolist() == [0.0, 0.0]
    protected = one_dimension([0.9], [1.5], [0.1, 1.0])  # the boundary is 1.2
    assert radii_of(protected, norm).tolist() == [math.inf, math.inf]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_box_need_not_be_the_unit_box(norm: Norm) -> None:
    """The boundary is at 2 in a box of size 5: further than 1 from the image."""
    problem = one_dimension([0.0], [4.0], [-1.0])
    result = run(problem, Threat(norm, 0.1, lower=-1.0, upper=4.0))
    assert result.radii is not None
    assert result.radii.tolist() == pytest.approx([3.0], abs=RADIUS_TOLERANCE)


@given(norm=norms, seed=seeds)
@settings(max_examples=10, deadline=None, derandomize=True)
def test_radii_agree_with_verdicts_at_every_eps(norm: Norm, seed: int) -> None:
    problem = random_problem(seed, 4, 8, samples=8)
    radii = torch.from_numpy(radii_of(problem, norm))
    assert len(radii) == 8
    for eps in (0.01, 0.05, 0.1, 0.2, 0.5, 2.0):
        result = exact(problem.model, problem.x, problem.y, Threat(norm, eps), seed=0, sample_ids=problem.ids)
        assert result.certified is not None
        far = (radii - eps).abs() > 1e-3  # where rounding and TOLERANCE decide nothing
        assert torch.equal(result.certified[far], (radii > eps)[far])
        assert bool((radii > eps + TOLERANCE - RADIUS_TOLERANCE)[result.certified].all())


@given(norm=norms, seed=seeds)
@settings(max_examples=10, deadline=None, derandomize=True)
def test_closed_form_certificates_lie_below_the_exact_radius(norm: Norm, seed: int) -> None:
    """The hard rule of several clusters (l2), and its counterpart in the dual norm (both)."""
    problem = random_problem(seed, 5, 7, samples=6)
    radii = torch.from_numpy(radii_of(problem, norm))
    flat = problem.x.flatten(1).double()
    centroids = Centroids(problem.centroids.double(), problem.labels)
    squared = torch.cdist(flat, centroids.points).square()
    by_rule = hard_radii(squared, problem.y, problem.labels, centroids.points, lipschitz=1.0)
    if norm == "linf":
        by_rule = by_rule / math.sqrt(5)
    assert bool((by_rule <= radii + RADIUS_TOLERANCE).all())
    none = torch.zeros(len(problem.labels), dtype=torch.float64)
    for row, label in enumerate(problem.y.tolist()):
        bound: Tensor = radius_bounds(centroids, norm, squared[row], label, none)
        assert float(bound.amin()) <= float(radii[row]) + RADIUS_TOLERANCE
