"""The ball and the box: every claim is checked in float64 against its definition."""

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from attacks.randomness import sample_generators
from attacks.threat import NORMS, Norm, Threat
from tests.attacks.models import assert_allowed

norms = st.sampled_from(NORMS)
seeds = st.integers(0, 2**32 - 1)
radii = st.one_of(st.just(0.0), st.floats(1e-4, 3.0))
spreads = st.sampled_from([1e-6, 1e-2, 1.0, 30.0, 1e6])
some = settings(max_examples=60, deadline=None, derandomize=True)


def images(seed: int, samples: int = 4) -> Tensor:
    """Images of 2x3x3 pixels in [0, 1], a quarter of their pixels on the edge of the box."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(samples, 2, 3, 3, generator=generator) * 2 - 0.5
    return x.clamp(0.0, 1.0)


def noise(seed: int, like: Tensor) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed + 1))


def lengths(delta: Tensor, norm: Norm) -> list[float]:
    flat = delta.double().flatten(1)
    if norm == "l1":
        return [math.fsum(row.abs().tolist()) for row in flat]
    return [float(row.abs().max()) if norm == "linf" else math.sqrt(math.fsum(row.square().tolist())) for row in flat]


@given(norm=norms, eps=radii, spread=spreads, seed=seeds)
@some
def test_a_projected_point_lies_in_the_ball_and_in_the_box(norm: Norm, eps: float, spread: float, seed: int) -> None:
    x, threat = images(seed), Threat(norm, eps)
    assert_allowed(threat, x, threat.project(x, x + spread * noise(seed, x)))


@given(eps=st.floats(1e-4, 3.0), spread=spreads, seed=seeds)
@some
def test_linf_projection_is_the_nearest_allowed_point_pixel_by_pixel(eps: float, spread: float, seed: int) -> None:
    x = images(seed)
    far = x + spread * noise(seed, x)
    expected = np.clip(
        far.double().numpy(),
        np.maximum(x.double().numpy() - eps, 0.0),
        np.minimum(x.double().numpy() + eps, 1.0),
    )
    np.testing.assert_allclose(Threat("linf", eps).project(x, far).numpy(), expected, rtol=0, atol=5e-7)


@given(eps=st.floats(1e-2, 3.0), seed=seeds)
@some
def test_l2_projection_scales_towards_the_image_then_clamps(eps: float, seed: int) -> None:
    x = images(seed)
    far = x + noise(seed, x)
    delta = (far.double() - x.double()).numpy()
    norms = np.sqrt((delta**2).sum(axis=(1, 2, 3), keepdims=True))
    expected = np.clip(x.double().numpy() + delta * np.minimum(1.0, eps / norms), 0.0, 1.0)
    np.testing.assert_allclose(Threat("l2", eps).project(x, far).numpy(), expected, rtol=0, atol=1e-6)


@given(eps=st.floats(1e-2, 3.0), spread=st.sampled_from([1e-2, 1.0, 30.0]), seed=seeds)
@some
def test_l1_projection_is_the_nearest_allowed_point(eps: float, spread: float, seed: int) -> None:
    """By bisection on the multiplier: min |z - far|^2 over the box and |z - x|_1 <= eps."""
    x = images(seed, samples=1)
    far = x + spread * noise(seed, x)
    start, goal = x.double().flatten().numpy(), far.double().flatten().numpy()
    d = len(start)
    # The minimiser of |z - far|^2 + 2 t |z - x|_1 in the box is clip(x + soft(far - x, t)).
    low, high = 0.0, float(np.abs(goal - start).max()) + 1.0

    def best(t: float) -> npt.NDArray[np.float64]:
        soft = np.sign(goal - start) * np.maximum(np.abs(goal - start) - t, 0.0)
        moved: npt.NDArray[np.float64] = np.clip(start + soft, 0.0, 1.0) - start
        return moved

    if np.abs(best(0.0)).sum() > eps:
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if np.abs(best(middle)).sum() > eps else (low, middle)
    else:
        high = 0.0
    found = Threat("l1", eps).project(x, far).double().flatten().numpy() - start
    np.testing.assert_allclose(found, best(high), rtol=0, atol=2e-6 * max(1.0, d / 10))


def test_l1_starts_are_uniform_in_the_ball() -> None:
    offsets = drawn_offsets("l1", 0.25, 6000)
    volume = offsets.abs().sum(dim=1) ** 3
    assert largest_gap_to_uniform(volume) < KS_AT_1_IN_1000
    assert float(offsets.mean(dim=0).abs().max()) < 0.02


@given(norm=norms, eps=st.floats(1e-3, 3.0), seed=seeds)
@some
def test_projection_leaves_points_inside_alone(norm: Norm, eps: float, seed: int) -> None:
    x = images(seed)
    delta = noise(seed, x)
    longest = torch.tensor(lengths(delta, norm)).reshape(-1, 1, 1, 1)
    inside = (x + (0.9 * eps * delta / longest).float()).clamp(0.0, 1.0)
    projected = Threat(norm, eps).project(x, inside)
    torch.testing.assert_close(projected, inside, rtol=0, atol={"linf": 0, "l2": 1.2e-7, "l1": 1.5e-6}[norm])


def test_the_box_need_not_be_the_unit_box() -> None:
    x = torch.tensor([[-0.9, 0.0, 1.9]])
    far = torch.tensor([[-5.0, 5.0, 5.0]])
    assert Threat("linf", 0.5, lower=-1.0, upper=2.0).project(x, far).tolist() == [[-1.0, 0.5, 2.0]]


@given(seed=seeds, norm=st.sampled_from(["linf", "l2"]))
@some
def test_steepest_maximises_a_linear_function_over_the_unit_ball(seed: int, norm: Norm) -> None:
    gradient = noise(seed, images(seed))
    step = Threat(norm, 0.1).steepest(gradient)
    reached = (gradient.double() * step.double()).flatten(1).sum(dim=1)
    flat = gradient.double().flatten(1)
    dual = flat.abs().sum(dim=1) if norm == "linf" else flat.square().sum(dim=1).sqrt()
    torch.testing.assert_close(reached, dual, rtol=1e-6, atol=0)
    assert lengths(step, norm) == pytest.approx([1.0] * len(step), abs=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_a_zero_gradient_gives_no_direction(norm: Norm) -> None:
    gradient = torch.tensor([[0.0, 0.0], [3.0, -4.0]])
    step = Threat(norm, 0.1).steepest(gradient)
    assert step[0].tolist() == [0.0, 0.0]
    expected = {"linf": [1.0, -1.0], "l2": [0.6, -0.8], "l1": [0.0, -1.0]}[norm]
    assert step[1].tolist() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [1e-30, 1e-36, 1e30])
def test_tiny_and_huge_gradients_keep_their_direction(norm: Norm, scale: float) -> None:
    step = Threat(norm, 0.1).steepest(torch.tensor([[3.0, -4.0, 0.0]]) * scale)
    expected = {"linf": [1.0, -1.0, 0.0], "l2": [0.6, -0.8, 0.0], "l1": [0.0, -1.0, 0.0]}[norm]
    assert step[0].tolist() == pytest.approx(expected, abs=1e-6)


@given(norm=norms, eps=radii, seed=seeds)
@some
def test_a_random_start_lies_in_the_ball_and_in_the_box(norm: Norm, eps: float, seed: int) -> None:
    x, threat = images(seed), Threat(norm, eps)
    generators = sample_generators(seed, torch.arange(len(x)), "test")
    assert_allowed(threat, x, threat.random_start(x, generators))


def drawn_offsets(norm: Norm, eps: float, samples: int) -> Tensor:
    """Offsets (n, 3) of random starts where the box does not bind, in units of eps."""
    x = torch.full((samples, 3), 0.5)
    start = Threat(norm, eps).random_start(x, sample_generators(0, torch.arange(samples), "test"))
    return (start.double() - x.double()) / eps


def largest_gap_to_uniform(values: Tensor) -> float:
    """Kolmogorov-Smirnov distance of values to the uniform distribution on [0, 1]."""
    ordered = values.sort().values
    return float((ordered - (torch.arange(len(ordered)) + 0.5) / len(ordered)).abs().max())


KS_AT_1_IN_1000 = 1.95 / math.sqrt(6000)


def test_linf_starts_are_uniform_in_the_cube() -> None:
    offsets = drawn_offsets("linf", 0.25, 6000)
    for pixel in range(3):
        assert largest_gap_to_uniform((offsets[:, pixel] + 1) / 2) < KS_AT_1_IN_1000
    correlation = torch.corrcoef(offsets.T) - torch.eye(3, dtype=torch.float64)
    assert float(correlation.abs().max()) < 4 / math.sqrt(6000)


def test_l2_starts_are_uniform_in_the_ball() -> None:
    offsets = drawn_offsets("l2", 0.25, 6000)
    volume = offsets.square().sum(dim=1).sqrt() ** 3
    assert largest_gap_to_uniform(volume) < KS_AT_1_IN_1000
    assert float(volume.mean()) == pytest.approx(0.5, abs=4 * math.sqrt(1 / 12 / 6000))
    directions = offsets / offsets.square().sum(dim=1, keepdim=True).sqrt()
    for pixel in range(3):  # Archimedes: a coordinate of a uniform point on the 2-sphere is uniform
        assert largest_gap_to_uniform((directions[:, pixel] + 1) / 2) < KS_AT_1_IN_1000


@pytest.mark.parametrize(("norm", "expected"), [("linf", 0.4), ("l2", 0.5), ("l1", 0.7)])
def test_distance_is_the_norm_of_the_difference(norm: Norm, expected: float) -> None:
    x = torch.zeros(2, 1, 1, 2, dtype=torch.float64)
    x_adv = torch.tensor([[[[0.3, -0.4]]], [[[0.0, 0.0]]]], dtype=torch.float64)
    assert Threat(norm, 1.0).distance(x, x_adv).tolist() == pytest.approx([expected, 0.0], abs=1e-15)


def test_distance_is_computed_in_float64() -> None:
    """0.1 + 0.2 rounds in float32, and a million float32 squares do not add up in float32."""
    x, x_adv = torch.tensor([[0.1]]), torch.tensor([[0.7]])
    exact = abs(float(x_adv[0, 0]) - float(x[0, 0]))  # Python floats are float64
    assert Threat("linf", 1.0).distance(x, x_adv).tolist() == [exact]
    many = torch.full((1, 1_000_000), 0.1)
    distance = Threat("l2", 1.0).distance(torch.zeros_like(many), many)
    assert distance.dtype == torch.float64
    assert distance.item() == pytest.approx(float(many[0, 0]) * 1000, rel=1e-10)


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_norm_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"threat\.norm must be one of linf, l2, l1, got 'l0'"):
        Threat("l0", 0.1)  # type: ignore[arg-type]


@pytest.mark.parametrize("eps", [-0.1, math.nan])
def test_an_eps_below_zero_or_undefined_is_refused(eps: float) -> None:
    with pytest.raises(ValueError, match=f"threat.eps must be at least 0, got {eps}"):
        Threat("linf", eps)
