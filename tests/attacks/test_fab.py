"""FAB against optima: projections by general solvers, minimal distances of linear models, the reference's verdicts."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize
from torch import Tensor, nn

from attacks import search
from attacks.contract import AttackResult, outputs
from attacks.fab import _PROJECTIONS, FAB, fab
from attacks.randomness import sample_generators
from attacks.search import Lanes, Progress, Tasks
from attacks.threat import NORMS, Norm, Threat
from tests.attacks.models import (
    Array,
    Curved,
    Flat,
    Linear,
    Problem,
    best_margin,
    broken_by,
    digits,
    linear_problem,
)

EPS: dict[Norm, float] = {"linf": 0.06, "l2": 0.08, "l1": 0.4}
CURVED_EPS: dict[Norm, float] = {"linf": 0.03, "l2": 0.15, "l1": 0.6}


def length(delta: Array, norm: Norm) -> float:
    order: dict[Norm, float] = {"linf": np.inf, "l2": 2, "l1": 1}
    return float(np.linalg.norm(delta, order[norm]))


def assert_in_ball_and_box(threat: Threat, x: Tensor, x_adv: Tensor) -> None:
    assert bool(torch.isfinite(x_adv).all())
    assert float(x_adv.min()) >= threat.lower
    assert float(x_adv.max()) <= threat.upper
    assert float(threat.distance(x, x_adv).max()) <= threat.eps


def shortest(z: Array, w: Array, need: float, threat: Threat) -> float | None:
    """Length of the smallest delta with <w, delta> = need and z + delta in the box, None where there is none."""
    low, high, d = threat.lower - z, threat.upper - z, len(z)
    if threat.norm == "linf":
        cost = np.r_[np.zeros(d), 1.0]
        sides = np.block([[np.eye(d), -np.ones((d, 1))], [-np.eye(d), -np.ones((d, 1))]])
        bounds = [*zip(low, high, strict=True), (0, None)]
        solved = linprog(cost, sides, np.zeros(2 * d), np.r_[w, 0.0][None], [need], bounds)
        return None if solved.x is None else float(solved.fun)
    # Up and down apart, both of them non-negative.
    bounds = [*((0.0, h) for h in high), *((0.0, -u) for u in low)]
    solved = linprog(np.ones(2 * d), A_eq=np.r_[w, -w][None], b_eq=[need], bounds=bounds)
    if solved.x is None or threat.norm == "l1":
        return None if solved.x is None else float(solved.fun)
    start = solved.x[:d] - solved.x[d:]
    plane = {"type": "eq", "fun": lambda delta: delta @ w - need, "jac": lambda delta: w}
    nearest = minimize(
        lambda delta: delta @ delta,
        start,
        jac=lambda delta: 2 * delta,
        bounds=list(zip(low, high, strict=True)),
        constraints=[plane],
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert nearest.success
    return float(np.sqrt(nearest.fun))


def planes(seed: int, threat: Threat, samples: int = 6, d: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    """Points of the box, some of their pixels on its edge, directions with zeros among them, and steps to take."""
    generator = np.random.default_rng(seed)
    z = generator.uniform(-0.4, 1.4, (samples, d)).clip(0, 1) * (threat.upper - threat.lower) + threat.lower
    w = generator.standard_normal((samples, d)) * (generator.random((samples, d)) > 0.2)
    w[:, 0] = generator.choice([-1.0, 1.0], samples)
    need = generator.standard_normal(samples) * generator.choice([0.1, 1.0, 3.0], samples)
    return torch.tensor(z).float(), torch.tensor(w).float(), torch.tensor(need).float()


@pytest.mark.parametrize("norm", NORMS)
@given(seed=st.integers(0, 2**32 - 1), box=st.sampled_from([(0.0, 1.0), (-1.5, 0.5)]))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_a_projection_is_the_shortest_way_onto_the_plane_within_the_box(
    norm: Norm, seed: int, box: tuple[float, float]
) -> None:
    threat = Threat(norm, 0.1, *box)
    z, w, need = planes(seed, threat)
    delta = _PROJECTIONS[norm](w, threat)(z, need).double().numpy()
    points, normals = z.double().numpy(), w.double().numpy()
    for i, asked in enumerate(need.tolist()):
        best = shortest(points[i], normals[i], asked, threat)
        up = normals[i] * asked > 0
        room = np.where(up, threat.upper - points[i], threat.lower - points[i]) * (normals[i] != 0)
        assert (points[i] + delta[i] >= threat.lower - 1e-6).all()
        assert (points[i] + delta[i] <= threat.upper + 1e-6).all()
        if best is None:
            assert abs(room @ normals[i]) < abs(asked)
            np.testing.assert_allclose(delta[i], room, rtol=0, atol=1e-6)
        else:
            assert delta[i] @ normals[i] == pytest.approx(asked, abs=1e-5)
            assert length(delta[i], norm) == pytest.approx(best, abs=2e-5)


def test_the_random_planes_hold_those_that_miss_the_box() -> None:
    threat = Threat("l1", 0.1)
    z, w, need = (part.double().numpy() for part in planes(0, threat, samples=40))
    missed = [shortest(*row, threat) is None for row in zip(z, w, need, strict=True)]
    assert 5 < sum(missed) < 35


@pytest.mark.parametrize("norm", NORMS)
def test_a_plane_without_direction_moves_nothing_and_a_huge_step_ends_in_the_corner(norm: Norm) -> None:
    threat = Threat(norm, 0.1)
    z = torch.tensor([[0.25, 0.0, 1.0]]).expand(4, 3).clone()
    w = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, -1.0, 1e-20], [1e-30, 1e-30, -1e-30]])
    need = torch.tensor([1.0, 0.0, 3e38, 1.0])
    delta = _PROJECTIONS[norm](w, threat)(z, need)
    assert delta[:2].abs().max() == 0
    torch.testing.assert_close(delta[2:], torch.tensor([[0.75, 0.0, 0.0], [0.75, 1.0, -1.0]]))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_scale_of_the_plane_does_not_matter(norm: Norm, scale: float) -> None:
    threat = Threat(norm, 0.1)
    z, w, need = planes(3, threat)
    expected = _PROJECTIONS[norm](w, threat)(z, need)
    torch.testing.assert_close(_PROJECTIONS[norm](scale * w, threat)(z, scale * need), expected, rtol=0, atol=1e-5)


def test_many_pixels_project_as_well_as_few() -> None:
    """3072 pixels, half of them on the edge: what the Newton steps reach against sorting in float64."""
    generator = torch.Generator().manual_seed(0)
    z = (torch.rand(20, 3072, generator=generator) * 2 - 0.5).clamp(0, 1)
    w, need = torch.randn(20, 3072, generator=generator) ** 3, torch.linspace(-600, 600, 20)
    delta = _PROJECTIONS["linf"](w, Threat("linf", 0.1))(z, need).double()
    room = torch.where(w * need[:, None] > 0, 1 - z.double(), z.double()).numpy()
    for i, asked in enumerate(need.abs().tolist()):
        size = w[i].double().abs().numpy()
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if size @ np.minimum(room[i], middle) < asked else (low, middle)
        assert float(delta[i].abs().max()) == pytest.approx(high, rel=1e-5)


def attack(problem: Problem, threat: Threat, targets: int = 9, steps: int = 40, restarts: int = 1) -> AttackResult:
    return fab(
        problem.model,
        problem.x,
        problem.y,
        threat,
        seed=0,
        sample_ids=problem.sample_ids,
        targets=targets,
        steps=steps,
        restarts=restarts,
    )


def l1_distances(problem: Problem, threat: Threat) -> Array:
    """The smallest l1 distance to another class within the box."""
    weight, bias = problem.model.weight.double().numpy(), problem.model.bias.double().numpy()
    x = problem.x.double().flatten(1).numpy()
    nearest = np.full(len(x), np.inf)
    for i, true in enumerate(problem.y.tolist()):
        for c in set(range(len(weight))) - {true}:
            w = weight[c] - weight[true]
            way = shortest(x[i], w, -(x[i] @ w + bias[c] - bias[true]), threat)
            nearest[i] = min(nearest[i], np.inf if way is None else way)
    return nearest


def breakable(problem: Problem, threat: Threat) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    if threat.norm == "l1":
        return l1_distances(problem, threat) < threat.eps
    return best_margin(problem, threat) > 0


@pytest.mark.parametrize("targets", [9, 0], ids=["targeted", "untargeted"])
@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("norm", NORMS)
def test_linear_models_break_where_the_optimum_says_so(norm: Norm, classes: int, targets: int) -> None:
    """The overshoot `eta` leaves the nearest image found a little beyond the boundary, by less than 1 %."""
    low, high = (0.0, 1.0) if norm != "l2" else (0.3, 0.7)
    problem, threat = linear_problem(classes, 60, seed=classes, low=low, high=high), Threat(norm, EPS[norm])
    possible = breakable(problem, threat)
    surely = breakable(problem, Threat(norm, 0.99 * threat.eps))
    assert 10 < possible.sum() < 50, "the problem must hold both kinds"
    result = attack(problem, threat, targets)
    broken = broken_by(problem.model, problem.y, result.x_adv).numpy()
    assert not (broken & ~possible).any()
    assert broken[surely].all()
    assert_in_ball_and_box(threat, problem.x, result.x_adv)
    assert result.claimed is not None
    np.testing.assert_array_equal(result.claimed.numpy(), broken)
    assert result.flags == ()


def curved() -> tuple[Curved, Tensor, Tensor]:
    x, _ = digits(40)
    model = Curved(64, 10, seed=1)
    return model, x, model(x).argmax(dim=1)


def curved_attack(rows: Tensor, threat: Threat, targets: int = 9, restarts: int = 1, seed: int = 7) -> AttackResult:
    model, x, y = curved()
    return fab(
        model,
        x[rows],
        y[rows],
        threat,
        seed=seed,
        sample_ids=100 + rows,
        steps=8,
        targets=targets,
        restarts=restarts,
    )


@pytest.mark.parametrize(("targets", "restarts"), [(9, 1), (0, 3)], ids=["targeted", "untargeted"])
@pytest.mark.parametrize("norm", NORMS)
def test_a_verdict_does_not_depend_on_order_split_or_lanes(
    norm: Norm, targets: int, restarts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything, threat = torch.arange(24), Threat(norm, CURVED_EPS[norm])
    model, x, y = curved()
    whole = curved_attack(everything, threat, targets, restarts)
    broken = broken_by(model, y[everything], whole.x_adv)
    assert 3 < int(broken.sum()) < 21, "the problem must hold both kinds"
    assert_in_ball_and_box(threat, x[everything], whole.x_adv)
    shuffled = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    for lanes, splits in ((7, [everything]), (250, shuffled.split(24)), (5, shuffled.split(13))):
        monkeypatch.setattr(search, "DEFAULT_LANES", lanes)
        for rows in splits:
            part = curved_attack(rows, threat, targets, restarts)
            assert part.claimed is not None
            assert torch.equal(part.claimed, broken[rows])
            torch.testing.assert_close(part.x_adv, whole.x_adv[rows], rtol=0, atol=1e-5)


REFERENCE_NORMS: dict[Norm, str] = {"linf": "Linf", "l2": "L2", "l1": "L1"}


@pytest.mark.parametrize("targets", [9, 0], ids=["targeted", "untargeted"])
@pytest.mark.parametrize("norm", NORMS)
def test_as_many_survive_as_under_the_reference(norm: Norm, targets: int) -> None:
    from pyautoattack.fab_pt import FABAttack_PT

    x, _ = digits(120)
    model = Curved(64, 10, seed=1)
    y = model(x).argmax(dim=1)
    threat = Threat(norm, CURVED_EPS[norm])
    reference = FABAttack_PT(
        model, norm=REFERENCE_NORMS[norm], n_iter=30, eps=threat.eps, targeted=targets > 0, n_target_classes=9
    )
    theirs = broken_by(model, y, reference.perturb(x, y))
    assert 20 < int(theirs.sum()) < 100
    result = fab(model, x, y, threat, seed=0, sample_ids=torch.arange(120), steps=30, targets=targets)
    ours = broken_by(model, y, result.x_adv)
    assert_in_ball_and_box(threat, x, result.x_adv)
    assert int(ours.sum()) >= int(theirs.sum()) - 1
    assert int((ours != theirs).sum()) <= 2


def begun(method: FAB, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, run: int = 0) -> Lanes:
    generators = sample_generators(0, torch.arange(len(x)), method.name, run)
    tasks = Tasks(x, y, torch.full_like(y, run), generators)
    return {**method.begin(model, tasks, threat), "x": x, "y": y}


def walk(method: FAB, model: nn.Module, lanes: Lanes, threat: Threat, passes: int) -> list[Progress]:
    return [method.advance(model, lanes, threat) for _ in range(passes)]


def test_the_points_shown_are_those_of_algorithm_1_without_its_second_pass() -> None:
    """In float64 and l2, far from the box, where the projection is a formula; the walk is undone by no success."""
    x, model, threat = 0.4 + 0.2 * digits(8)[0], Curved(64, 10, seed=1), Threat("l2", 1e-3)
    logits = model(x)
    y, target = logits.topk(3, dim=1).indices[:, [0, 2]].T
    method = FAB("fab", steps=5, runs=9, targeted=True)
    lanes = begun(method, model, x, y, threat, run=1)
    shown = walk(method, model, lanes, threat, 6)
    assert torch.equal(lanes["target"], target)
    pulls = 0
    double = Curved(64, 10, seed=1)
    double.first, double.second = double.first.double(), double.second.double()
    for i in range(len(x)):
        origin = x[i : i + 1].double()
        at = origin
        for moves in range(6):
            assert bool(shown[moves].finished[i]) == (moves == 5)
            if moves == 5:
                break
            torch.testing.assert_close(shown[moves].images[i].double(), at[0], rtol=0, atol=1e-6)
            point = at.clone().requires_grad_(True)
            out = double(point)
            lead = out[0, target[i]] - out[0, y[i]]
            (w,) = torch.autograd.grad(lead, point)
            f, square = lead.detach(), (w * w).sum()
            if int(out.argmax()) != int(y[i]):  # pulled back; the plane is that of the point before
                back = origin + 0.9 * (at - origin)
                f, at, pulls = f + (w * (back - at)).sum(), back, pulls + 1
            here = -f * w / square
            there = (-f + (w * (at - origin)).sum()) * w / square
            alpha = min(0.1, float(here.norm() / (here.norm() + there.norm())))
            at = (1 - alpha) * (at + 1.05 * here) + alpha * (origin + 1.05 * there)
            assert float(at.min()) > 0
            assert float(at.max()) < 1
    assert pulls > 8


@pytest.mark.parametrize("norm", NORMS)
def test_a_margin_is_reported_inside_the_ball_only(norm: Norm) -> None:
    model, x, y = curved()
    threat = Threat(norm, CURVED_EPS[norm])
    method = FAB("fab", steps=8, runs=9, targeted=True)
    steps = walk(method, model, begun(method, model, x, y, threat), threat, 9)
    told = 0
    for step in steps:
        inside = threat.distance(x, step.images) <= threat.eps
        known = step.margin > -torch.inf
        assert not bool((known & ~inside).any())
        torch.testing.assert_close(step.margin[known], outputs(model, step.images).margin(y)[known])
        assert bool(inside[step.finished].all())
        told += int((~known).sum())
    assert told > 20, "some points must lie outside"
    assert any(bool((step.margin > 0).any()) for step in steps)


def test_targets_are_taken_in_the_order_of_the_clean_logits() -> None:
    """Class 1 is the best wrong one and out of reach; class 2 can be had, by the second run only."""
    weight = torch.zeros(3, 16)
    weight[1], weight[2] = 0.01, 1.0
    model = Linear(weight, torch.tensor([1.0, 0.5, -7.5]))
    x, y = torch.full((4, 1, 4, 4), 0.5), torch.zeros(4, dtype=torch.int64)
    assert model(x)[0].tolist() == pytest.approx([1.0, 0.58, 0.5])
    broken = [
        broken_by(model, y, attack(Problem(model, x, y), Threat("linf", 0.04), targets).x_adv).tolist()
        for targets in (1, 2)
    ]
    assert broken == [[False] * 4, [True] * 4]


def test_more_targets_than_wrong_classes_are_capped() -> None:
    problem, threat = linear_problem(3, 20, seed=0), Threat("linf", 0.06)
    capped, exact = attack(problem, threat, 9), attack(problem, threat, 2)
    assert torch.equal(capped.x_adv, exact.x_adv)


@pytest.mark.parametrize("norm", NORMS)
def test_later_untargeted_runs_start_at_random_in_half_the_ball(norm: Norm) -> None:
    model, x, y = curved()
    threat = Threat(norm, 0.1)
    method = FAB("fab", steps=8, runs=3, targeted=False)
    starts = [begun(method, model, x, y, threat, run)["at"] for run in range(3)]
    assert torch.equal(starts[0], x)
    for start in starts[1:]:
        assert float(threat.distance(x, start).max()) <= 0.05 + 1e-6
        assert float(threat.distance(x, start).min()) > 0.01
    assert not torch.equal(starts[1], starts[2])


@pytest.mark.parametrize("targets", [9, 0], ids=["targeted", "untargeted"])
@pytest.mark.parametrize("norm", NORMS)
def test_a_model_without_gradient_is_flagged(norm: Norm, targets: int) -> None:
    x, y, threat = linear_problem(2, 5, seed=0).x, torch.zeros(5, dtype=torch.int64), Threat(norm, 0.1)
    result = fab(Flat(), x, y, threat, seed=0, sample_ids=torch.arange(5), steps=3, targets=targets)
    assert result.flags == ("zero or non-finite gradient at 5 of 5 samples",)
    assert result.claimed is not None
    assert not bool(result.claimed.any())
    assert_in_ball_and_box(threat, x, result.x_adv)


class Poisoned(nn.Module):
    """Another model, plus `value` with a gradient that is not finite at images bright in their first pixel."""

    def __init__(self, model: nn.Module, value: float):
        super().__init__()
        self.model, self.value = model, value

    def forward(self, x: Tensor) -> Tensor:
        bright = x.flatten(1)[:, :1].detach() > 0.5
        zero = (x - x.detach()).flatten(1).sum(dim=1, keepdim=True)
        kink = torch.where(bright, zero, torch.ones_like(zero)).abs().sqrt()
        return self.model(x) + kink + torch.where(bright, self.value, 0.0)  # type: ignore[no-any-return]


@pytest.mark.parametrize("targets", [9, 0], ids=["targeted", "untargeted"])
@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
@pytest.mark.parametrize("norm", NORMS)
def test_nan_never_reaches_an_image_and_spares_the_neighbours(norm: Norm, value: float, targets: int) -> None:
    """The first pixel has no weight, so dark images stay dark."""
    problem, threat = linear_problem(3, 40, seed=2, low=0.3, high=0.7), Threat(norm, EPS[norm])
    problem.model.weight[:, 0] = 0.0
    y = problem.model(problem.x).argmax(dim=1)
    dark = problem.x[:, 0, 0, 0] <= 0.5
    clean, poisoned = (
        fab(model, problem.x, y, threat, seed=0, sample_ids=problem.sample_ids, steps=5, targets=targets)
        for model in (problem.model, Poisoned(problem.model, value))
    )
    assert_in_ball_and_box(threat, problem.x, poisoned.x_adv)
    met = int((~dark).sum())
    assert 10 < met < 30
    assert poisoned.flags == (f"zero or non-finite gradient at {met} of 40 samples",)
    assert clean.claimed is not None
    assert 3 < int(clean.claimed[dark].sum()) < int(dark.sum())
    torch.testing.assert_close(poisoned.x_adv[dark], clean.x_adv[dark])


@pytest.mark.parametrize(
    ("steps", "restarts", "targets", "message"),
    [
        (0, 1, 9, "fab: steps and restarts must be at least 1 and targets at least 0, got 0, 1 and 9"),
        (9, 0, 0, "fab: steps and restarts must be at least 1 and targets at least 0, got 9, 0 and 0"),
        (9, 1, -1, "fab: steps and restarts must be at least 1 and targets at least 0, got 9, 1 and -1"),
        (9, 2, 3, "fab: restarts are for targets=0, got restarts=2 with targets=3"),
    ],
)
def test_settings_that_make_no_attack_are_refused(steps: int, restarts: int, targets: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attack(linear_problem(2, 2, seed=0), Threat("linf", 0.1), targets, steps, restarts)


def test_a_model_of_one_class_is_refused() -> None:
    problem = linear_problem(1, 2, seed=0)
    with pytest.raises(ValueError, match="fab: the model must have at least 2 classes, got 1"):
        attack(problem, Threat("linf", 0.1))


def test_an_empty_batch_is_no_error_and_images_are_left_as_they_are() -> None:
    problem = linear_problem(3, 8, seed=0)
    none, before = torch.zeros(0, dtype=torch.int64), problem.x.clone()
    empty = fab(problem.model, problem.x[none], problem.y[none], Threat("linf", 0.1), seed=0, sample_ids=none)
    assert empty.x_adv.shape == (0, 1, 4, 4)
    attack(problem, Threat("linf", 0.3))
    assert torch.equal(problem.x, before)
