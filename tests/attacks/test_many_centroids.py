"""What the exact verifiers do with more centroids than fit in memory at a time, with the limits lowered to a few."""

import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from attacks import centroid_bounds
from attacks import exact as exact_module
from attacks import radii as radii_module
from attacks.centroid_bounds import Balls, Centroids, pair_bound, possible_rivals, radius_bounds, weighted_bound
from attacks.contract import AttackResult
from attacks.exact import exact, proven
from attacks.exact_radius import RADIUS_TOLERANCE, exact_radius
from attacks.pgd import pgd
from attacks.radii import hard_radii
from attacks.threat import Norm, Threat
from benchmark.judge import judge
from model_zoo import kmeans
from model_zoo.kmeans import KMeansClassifier
from tests.attacks.centroid_problems import CentroidProblem, random_problem, true_radii
from tests.attacks.models import digits

norms = st.sampled_from(["linf", "l2"])
seeds = st.integers(0, 2**31 - 1)


def lower_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing kept, one or two samples and few centroids at a time, two own centroids against the three closest."""
    for module, name, value in (
        (centroid_bounds, "_KEPT", 0),
        (centroid_bounds, "_PAIRS", 0),
        (centroid_bounds, "_CLOSE", 3),
        (centroid_bounds, "_TRIED_QUICKLY", 2),
        (centroid_bounds, "_CHUNK", 200),
        (exact_module, "_HELD", 80),
        (kmeans, "_CHUNK", 200),
    ):
        monkeypatch.setattr(module, name, value)


@pytest.fixture
def lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    lower_limits(monkeypatch)


def radii_of(model: KMeansClassifier, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    result = exact_radius(model, x, y, threat, seed=0, sample_ids=torch.arange(len(x)))
    assert result.radii is not None
    assert not any("radii" in flag for flag in result.flags), "a radius without a witness"
    return result.radii


@given(norm=norms, seed=seeds, d=st.sampled_from([2, 5]), steps=st.sampled_from([None, 8]))
@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.usefixtures("lowered")
def test_radii_are_those_of_all_rivals_and_all_constraints(norm: Norm, seed: int, d: int, steps: int | None) -> None:
    problem = random_problem(seed, d, 40, steps=steps)
    radii = radii_of(problem.model, problem.x, problem.y, Threat(norm, 0.1))
    np.testing.assert_allclose(radii.numpy(), true_radii(problem, norm), rtol=0, atol=2 * RADIUS_TOLERANCE)


NEIGHBOURS, TESTED = 300, 24


def one_nearest_neighbour() -> tuple[KMeansClassifier, Tensor, Tensor]:
    """300 digits as their own centroids, and 24 others."""
    x, y = digits(NEIGHBOURS + TESTED)
    return KMeansClassifier(x[:NEIGHBOURS], y[:NEIGHBOURS], 10), x[NEIGHBOURS:], y[NEIGHBOURS:]


def decided(threat: Threat) -> AttackResult:
    model, x, y = one_nearest_neighbour()
    return exact(model, x, y, threat, seed=0, sample_ids=torch.arange(TESTED))


EPS: dict[Norm, float] = {"linf": 0.1539, "l2": 0.6513}
"""Just within a radius: one own centroid alone does not prove that."""


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_limits_change_no_verdict_and_no_radius(norm: Norm, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, y = one_nearest_neighbour()
    threat = Threat(norm, EPS[norm])
    plain, radii = decided(threat), radii_of(model, x, y, threat)
    assert plain.certified is not None
    assert plain.claimed is not None
    lower_limits(monkeypatch)
    few = decided(threat)
    assert few.certified is not None
    assert few.claimed is not None
    assert few.proofs is not None
    assert int(plain.certified.sum()) >= 8
    assert int(plain.claimed.sum()) >= 8
    assert torch.equal(few.certified, plain.certified)
    assert torch.equal(few.claimed, plain.claimed)
    assert torch.equal(proven(model, x, y, threat, torch.arange(TESTED), few.proofs), few.certified)
    assert few.proofs["sample"].numel() > 0
    again = radii_of(model, x, y, threat)
    np.testing.assert_allclose(again.numpy(), radii.numpy(), rtol=0, atol=2 * RADIUS_TOLERANCE)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.usefixtures("lowered")
def test_no_attack_breaks_within_the_radius_of_a_nearest_neighbour_and_one_image_does_beyond(norm: Norm) -> None:
    model, x, y = one_nearest_neighbour()
    with torch.no_grad():
        x, y = (part[model(x).argmax(dim=1) == y][:12] for part in (x, y))
    radii = radii_of(model, x, y, Threat(norm, EPS[norm]))
    assert bool((radii > 0).all())
    for i, radius in enumerate(radii.tolist()):
        one, ids = slice(i, i + 1), torch.tensor([i])
        inside, beyond = Threat(norm, max(0.0, radius - 1e-4)), Threat(norm, radius + 1e-4)
        found = pgd(model, x[one], y[one], inside, seed=0, sample_ids=ids, steps=20, restarts=2, step_size=None)
        assert not bool(judge(model, x[one], y[one], found.x_adv, inside).broken)
        witness = exact(model, x[one], y[one], beyond, seed=0, sample_ids=ids)
        assert bool(judge(model, x[one], y[one], witness.x_adv, beyond).broken)


@given(norm=norms, seed=seeds, eps=st.sampled_from([0.01, 0.05, 0.1]))
@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.usefixtures("lowered")
def test_no_rival_is_excluded_that_wins(norm: Norm, seed: int, eps: float) -> None:
    """By few own centroids: every rival whose radius, without the others, is at most eps stays possible."""
    problem = random_problem(seed, 3, 24)
    centroids = Centroids(problem.centroids.double(), problem.labels)
    x, none = problem.x.flatten(1).double(), torch.zeros(len(problem.x), 24, dtype=torch.float64)
    possible = possible_rivals(centroids, Balls.around(x, norm, eps), problem.y, none)
    for row, label in enumerate(problem.y.tolist()):
        squared = centroids.squared_distances(x[row : row + 1])[0]
        bounds = radius_bounds(centroids, norm, squared, label, none[0])
        own, rivals = centroids.split(label)
        for rival in rivals.tolist():
            kept = torch.cat([own, torch.tensor([rival])])
            alone = CentroidProblem(
                problem.centroids[kept], problem.labels[kept], problem.x[row : row + 1], problem.y[row : row + 1], 3
            )
            (radius,) = true_radii(alone, norm)
            assert bool(possible[row, rival]) or radius > eps
            assert float(bounds[rival]) <= radius + RADIUS_TOLERANCE


@pytest.mark.parametrize("kept", [0, 100])
@pytest.mark.parametrize(("norm", "order"), [("linf", 1), ("l2", 2), ("l1", math.inf)])
def test_distances_are_those_in_the_dual_norm_kept_or_not(
    norm: Norm, order: float, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(centroid_bounds, "_KEPT", kept)
    monkeypatch.setattr(centroid_bounds, "_CHUNK", 10)
    points = torch.rand(9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points[3] = points[5]
    centroids = Centroids(points, torch.zeros(9, dtype=torch.int64))
    expected = torch.linalg.vector_norm(points[:, None] - points[None], ord=order, dim=2)
    some = torch.tensor([5, 0, 5])
    torch.testing.assert_close(centroids.dual_distances(norm, some), expected[some])
    i, j = torch.cartesian_prod(torch.arange(9), torch.arange(9)).unbind(dim=1)
    torch.testing.assert_close(centroids.dual_distances_of_pairs(norm, i, j), expected[i, j])
    assert centroids.dual_distances_of_pairs(norm, i[:0], j[:0]).shape == (0,)
    assert float(centroids.dual_distances(norm, some)[0, 3]) == 0.0


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_bound_from_the_centroids_that_it_uses_is_the_bound(norm: Norm) -> None:
    problem = random_problem(1, 4, 12, classes=2, samples=1)
    centroids = Centroids(problem.centroids.double(), problem.labels)
    ball = Balls.around(problem.x.flatten(1).double(), norm, 0.2)
    own, rivals = centroids.split(0)
    weights, error = torch.rand(len(own), dtype=torch.float64), torch.rand(1, 12, dtype=torch.float64) / 100
    everywhere = torch.zeros(1, 12, dtype=torch.float64)
    everywhere[0, own] = weights
    for rival in rivals.tolist():
        found = pair_bound(centroids, ball, rival, own, weights, 0.3, error)
        price = torch.tensor([0.3], dtype=torch.float64)
        expected = weighted_bound(centroids, ball, error, torch.tensor([rival]), everywhere, price)
        assert found == pytest.approx(float(expected), abs=1e-12)
    nothing = own[:0]
    assert math.isnan(pair_bound(centroids, ball, int(rivals[0]), nothing, weights[:0], 0.3))


def test_the_error_of_a_distance_is_the_same_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, _ = one_nearest_neighbour()
    flat = x.flatten(1).double()
    whole = model.distance_error(flat, flat)
    monkeypatch.setattr(kmeans, "_CHUNK", 1000)
    torch.testing.assert_close(model.distance_error(flat, flat), whole, rtol=1e-12, atol=0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_of_many_centroids_no_distances_between_all_are_kept(norm: Norm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(centroid_bounds, "_KEPT", NEIGHBOURS - 1)
    model, x, y = one_nearest_neighbour()
    exact_radius(model, x[:3], y[:3], Threat(norm, EPS[norm]), seed=0, sample_ids=torch.arange(3))
    assert exact_module.centroids_of(model)._dual_distances == {}


@pytest.mark.parametrize("tried", [1, NEIGHBOURS])
def test_radii_of_theorem_1_by_few_own_centroids_lie_below_those_by_all(
    tried: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x, y = one_nearest_neighbour()
    y[:2] = torch.tensor([11, 5])  # a class without images, a wrong one
    squared = torch.cdist(x.flatten(1).double(), model.centroids.double()).square()
    slack = torch.full((TESTED,), 1e-3, dtype=torch.float64)
    by_all = hard_radii(squared, y, model.labels, model.centroids, 2.0, slack)
    monkeypatch.setattr(radii_module, "_KEPT", 0)
    monkeypatch.setattr(radii_module, "_TRIED", tried)
    by_few = hard_radii(squared, y, model.labels, model.centroids, 2.0, slack)
    assert bool((by_few <= by_all).all())
    assert torch.equal(by_few > 0, by_all > 0)
    assert torch.equal(by_few, by_all) == (tried == NEIGHBOURS)
    one_class = hard_radii(squared[:2], torch.tensor([0, 1]), torch.zeros_like(model.labels), model.centroids, 1.0)
    assert one_class.tolist() == [math.inf, 0.0]


def test_a_sample_of_a_class_without_images_has_no_radius() -> None:
    model, x, _ = one_nearest_neighbour()
    model, absent = KMeansClassifier(model.centroids, model.labels, 11), torch.full((2,), 10)
    assert radii_of(model, x[:2], absent, Threat("linf", 0.1)).tolist() == [0.0, 0.0]
