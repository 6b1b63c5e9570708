"""PGD against the closed-form optimum of linear models, and the promises its verdicts rest on."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attacks.contract import AttackResult, Classifier
from attacks.losses import cross_entropy, margin
from attacks.pgd import Ascent, climb, pgd
from attacks.search import Lanes, Progress, Tasks, search
from attacks.threat import NORMS, Norm, Threat
from tests.attacks.models import (
    Array,
    Curved,
    Flat,
    Linear,
    Problem,
    assert_allowed,
    best_margin,
    broken_by,
    digits,
    linear_problem,
)

EPS: dict[Norm, float] = {"linf": 0.06, "l2": 0.08, "l1": 0.4}
EXACT: tuple[Norm, ...] = ("linf", "l2")
"""Norms in which ascent ends at the optimum of a linear model; sparse steps in l1 only come near."""


def problem_for(norm: Norm, classes: int) -> Problem:
    """For l2, images from the middle of the box, where it cannot bind."""
    low, high = (0.3, 0.7) if norm == "l2" else (0.0, 1.0)
    return linear_problem(classes, samples=80, seed=classes, low=low, high=high)


@pytest.mark.parametrize(("loss", "classes"), [(margin, 2), (margin, 5), (cross_entropy, 2)])
@pytest.mark.parametrize("norm", EXACT)
def test_exactly_the_samples_that_can_be_broken_are_broken(
    norm: Norm, classes: int, loss: Callable[[Tensor, Tensor], Tensor]
) -> None:
    problem, threat = problem_for(norm, classes), Threat(norm, EPS[norm])
    truth = best_margin(problem, threat)
    result = pgd(
        problem.model,
        problem.x,
        problem.y,
        threat,
        seed=0,
        sample_ids=problem.sample_ids,
        steps=60,
        restarts=5,
        loss=loss,
    )
    decided = np.abs(truth) > 1e-4
    breakable = truth[decided] > 0
    assert 10 < breakable.sum() < len(breakable) - 10, "the problem must hold both kinds"
    broken = broken_by(problem.model, problem.y, result.x_adv).numpy()
    np.testing.assert_array_equal(broken[decided], breakable)
    assert_allowed(threat, problem.x, result.x_adv)
    assert result.claimed is not None
    np.testing.assert_array_equal(result.claimed.numpy(), broken)
    assert result.flags == ()


@pytest.mark.parametrize("norm", EXACT)
def test_cross_entropy_over_five_classes_breaks_only_what_can_be_broken(norm: Norm) -> None:
    """Its gradient mixes the wrong classes, so it may miss some; twenty times sharper logits mix less."""
    problem, threat = problem_for(norm, 5), Threat(norm, EPS[norm])
    breakable = best_margin(problem, threat) > -1e-4
    broken = []
    for model in (problem.model, Linear(20 * problem.model.weight, 20 * problem.model.bias)):
        result = pgd(model, problem.x, problem.y, threat, seed=0, sample_ids=problem.sample_ids, steps=60, restarts=5)
        broken.append(broken_by(problem.model, problem.y, result.x_adv).numpy())
        assert not (broken[-1] & ~breakable).any()
    np.testing.assert_array_equal(broken[1], breakable)


def two_class_optimum(problem: Problem, threat: Threat) -> Array:
    """The allowed point (n, d) of largest margin of a two-class model; the box must not bind for l2."""
    weight, y = problem.model.weight.double().numpy(), problem.y.numpy()
    d = weight[1 - y] - weight[y]
    x = problem.x.double().flatten(1).numpy()
    length: Array = np.sqrt((d**2).sum(axis=1, keepdims=True))
    optimum: Array = x + threat.eps * (np.sign(d) if threat.norm == "linf" else d / length)
    return optimum.clip(0.0, 1.0)


@pytest.mark.parametrize("norm", EXACT)
def test_survivors_of_two_classes_end_at_the_closed_form_optimum(norm: Norm) -> None:
    problem, threat = problem_for(norm, 2), Threat(norm, EPS[norm])
    survives = best_margin(problem, threat) < -1e-4
    result = pgd(
        problem.model, problem.x, problem.y, threat, seed=0, sample_ids=problem.sample_ids, steps=100, restarts=1
    )
    optimum = two_class_optimum(problem, threat)
    assert 10 < int(survives.sum()) < 70
    np.testing.assert_allclose(result.x_adv.flatten(1).numpy()[survives], optimum[survives], rtol=0, atol=1e-5)


def curved_attack(
    rows: Tensor, threat: Threat, steps: int = 8, restarts: int = 2, step_size: float | None = None
) -> tuple[Tensor, Tensor]:
    """Attack some digits, in the order of `rows`; whether each broke, and its image."""
    x, _ = digits(40)
    model = Curved(64, 10, seed=1)
    y = model(x).argmax(dim=1)
    result = pgd(
        model,
        x[rows],
        y[rows],
        threat,
        seed=7,
        sample_ids=100 + rows,
        steps=steps,
        restarts=restarts,
        step_size=step_size,
    )
    return broken_by(model, y[rows], result.x_adv), result.x_adv


@pytest.mark.parametrize("threat", [Threat("linf", 0.03), Threat("l2", 0.15), Threat("l1", 0.9)], ids=NORMS)
def test_a_verdict_does_not_depend_on_batch_size_order_or_split(threat: Threat) -> None:
    everything = torch.arange(24)
    broken, images = curved_attack(everything, threat)
    assert 3 < int(broken.sum()) < 21, "the problem must hold both kinds"
    shuffled = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    for splits in (shuffled.split(24), everything[:8].split(1), shuffled.split(5), everything.split([20, 4])):
        for rows in splits:
            part_broken, part_images = curved_attack(rows, threat)
            assert torch.equal(part_broken, broken[rows])
            torch.testing.assert_close(part_images, images[rows], rtol=0, atol=1e-5)


def test_another_seed_and_another_restart_start_elsewhere() -> None:
    problem, threat = linear_problem(2, 4, seed=0), Threat("linf", 1e-6)
    starts = [
        pgd(
            problem.model,
            problem.x,
            problem.y,
            threat,
            seed=seed,
            sample_ids=problem.sample_ids + shift,
            steps=1,
            step_size=1e-30,
            restarts=restarts,
            name=name,
        ).x_adv
        for seed, shift, restarts, name in [
            (0, 0, 1, "a"),
            (1, 0, 1, "a"),
            (0, 9, 1, "a"),
            (0, 0, 2, "a"),
            (0, 0, 1, "b"),
        ]
    ]
    for i, first in enumerate(starts):
        for second in starts[i + 1 :]:
            assert not torch.equal(first, second)


@pytest.mark.parametrize("threat", [Threat("linf", 0.06), Threat("l2", 0.3), Threat("l1", 1.5)], ids=NORMS)
@pytest.mark.parametrize("efforts", [[(1, 1), (3, 1), (20, 1)], [(2, 1), (2, 3), (2, 6)]], ids=["steps", "restarts"])
def test_more_steps_or_restarts_break_a_superset(threat: Threat, efforts: list[tuple[int, int]]) -> None:
    broken = [curved_attack(torch.arange(40), threat, steps, restarts)[0] for steps, restarts in efforts]
    for less, more in pairwise(broken):
        assert not bool((less & ~more).any())
    assert int(broken[-1].sum()) > int(broken[0].sum()), "the problem must show a difference"


class Window(nn.Module):
    """Class 1 wins where `inside(image)`, class 0 elsewhere; class 2 never wins and carries the gradient.

    Its logit is the mean of the image minus 100, so an attack on it walks straight up.
    """

    def __init__(self, inside: Callable[[Tensor], Tensor]):
        super().__init__()
        self.inside = inside

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        hit = self.inside(flat).to(x.dtype)
        return torch.stack([torch.zeros_like(hit), 2 * hit - 1, flat.mean(dim=1) - 100], dim=1)


def walk_up(model: nn.Module, steps: int, step_size: float) -> AttackResult:
    """From grey images of class 0, eps 0.1, upwards."""
    x, y = torch.full((6, 1, 8, 8), 0.5), torch.zeros(6, dtype=torch.int64)
    assert not bool(broken_by(model, y, x).any())
    return pgd(
        model,
        x,
        y,
        Threat("linf", 0.1),
        seed=0,
        sample_ids=torch.arange(6),
        steps=steps,
        step_size=step_size,
        restarts=1,
        loss=lambda logits, _: logits[:, 2],
    )


def all_broken(model: nn.Module, result: AttackResult) -> bool:
    y = torch.zeros(len(result.x_adv), dtype=torch.int64)
    assert result.claimed is not None
    assert torch.equal(result.claimed, broken_by(model, y, result.x_adv))
    return bool(result.claimed.all())


def test_success_at_an_intermediate_iterate_counts() -> None:
    """Class 1 wins for means in (0.53, 0.57) only: the walk crosses that window and ends at 0.6."""
    model = Window(lambda flat: (flat.mean(dim=1) > 0.53) & (flat.mean(dim=1) < 0.57))
    result = walk_up(model, steps=20, step_size=0.02)
    assert all_broken(model, result)
    assert not bool(broken_by(model, torch.zeros(1, dtype=torch.int64), torch.full((1, 1, 8, 8), 0.6)).any())


def test_success_at_the_random_start_counts() -> None:
    """Class 1 wins on noisy images only; one step of 2 eps then makes every pixel 0.6."""
    model = Window(lambda flat: flat.var(dim=1) > 1e-3)
    result = walk_up(model, steps=1, step_size=0.2)
    assert all_broken(model, result)
    assert_allowed(Threat("linf", 0.1), torch.full((6, 1, 8, 8), 0.5), result.x_adv)


def test_success_at_the_last_iterate_counts() -> None:
    """Class 1 wins at the corner of the ball only, which one step of 2 eps reaches."""
    model = Window(lambda flat: flat.amin(dim=1) > 0.5999)
    assert all_broken(model, walk_up(model, steps=1, step_size=0.2))


def test_a_step_too_short_does_not_reach_the_corner() -> None:
    model = Window(lambda flat: flat.amin(dim=1) > 0.5999)
    result = walk_up(model, steps=1, step_size=0.01)
    assert result.claimed is not None
    assert not bool(result.claimed.any())


def test_the_default_step_is_a_quarter_of_eps() -> None:
    """Every pixel rises by eps/4 from the random start unless the ball stops it."""
    model = Window(lambda flat: torch.zeros(len(flat), dtype=torch.bool))
    x, y = torch.full((3, 1, 8, 8), 0.5), torch.zeros(3, dtype=torch.int64)
    images = {
        step_size: pgd(
            model,
            x,
            y,
            Threat("linf", 0.1),
            seed=0,
            sample_ids=torch.arange(3),
            steps=2,
            step_size=step_size,
            restarts=1,
            loss=lambda logits, _: logits[:, 2],
        ).x_adv
        for step_size in (1e-30, None)
    }
    expected = torch.minimum(images[1e-30].double() + 2 * 0.1 / 4, torch.tensor(0.6, dtype=torch.float64))
    torch.testing.assert_close(images[None].double(), expected, rtol=0, atol=1e-6)


class Kinked(nn.Module):
    """A linear model whose gradient is NaN at images brighter than 0.5 in their first pixel."""

    def __init__(self, linear: nn.Module):
        super().__init__()
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        zero = (x - x.detach()).flatten(1).sum(dim=1, keepdim=True)
        bright = x.flatten(1)[:, :1].detach() > 0.5
        return self.linear(x) + torch.where(bright, zero, torch.ones_like(zero)).abs().sqrt()  # type: ignore[no-any-return]


@pytest.mark.parametrize("norm", NORMS)
def test_a_model_without_gradient_is_flagged(norm: Norm) -> None:
    x, y, threat = linear_problem(2, 5, seed=0).x, torch.zeros(5, dtype=torch.int64), Threat(norm, 0.1)
    result = pgd(Flat(), x, y, threat, seed=0, sample_ids=torch.arange(5), steps=3, restarts=2)
    assert result.flags == ("zero or non-finite gradient at 5 of 5 samples",)
    assert result.claimed is not None
    assert not bool(result.claimed.any())
    assert_allowed(threat, x, result.x_adv)


def settled(problem: Problem, threat: Threat) -> Problem:
    """The samples that cannot be broken, nor cross from a dark first pixel to a bright one."""
    kept = torch.from_numpy(best_margin(problem, threat) < 0)
    kept &= (problem.x[:, 0, 0, 0] - 0.5).abs() > threat.eps
    return Problem(problem.model, problem.x[kept], problem.y[kept])


@pytest.mark.parametrize("norm", EXACT)
def test_nan_gradients_are_flagged_never_reach_an_image_and_spare_the_neighbours(norm: Norm) -> None:
    """Bright samples meet NaN gradients; dark ones end at the closed-form optimum all the same."""
    threat = Threat(norm, 0.002)
    problem = settled(linear_problem(2, 60, seed=2, low=0.3, high=0.7), threat)
    bright = problem.x[:, 0, 0, 0] > 0.5
    result = pgd(
        Kinked(problem.model), problem.x, problem.y, threat, seed=0, sample_ids=problem.sample_ids, steps=60, restarts=1
    )
    assert_allowed(threat, problem.x, result.x_adv)
    met = int(bright.sum())
    assert 10 < met < len(bright) - 10
    assert result.flags == (f"zero or non-finite gradient at {met} of {len(bright)} samples",)
    optimum = torch.from_numpy(two_class_optimum(problem, threat))
    torch.testing.assert_close(result.x_adv[~bright].double().flatten(1), optimum[~bright], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("steps", "restarts", "step_size", "message"),
    [
        (0, 10, None, "pgd: steps and restarts must be at least 1, got 0 and 10"),
        (20, 0, None, "pgd: steps and restarts must be at least 1, got 20 and 0"),
        (20, 10, 0.0, "pgd: step_size must be positive, got 0.0"),
        (20, 10, float("nan"), "pgd: step_size must be positive, got nan"),
    ],
)
def test_settings_that_make_no_attack_are_refused(
    steps: int, restarts: int, step_size: float | None, message: str
) -> None:
    problem = linear_problem(2, 2, seed=0)
    with pytest.raises(ValueError, match=message):
        pgd(
            problem.model,
            problem.x,
            problem.y,
            Threat("linf", 0.1),
            seed=0,
            sample_ids=problem.sample_ids,
            steps=steps,
            restarts=restarts,
            step_size=step_size,
        )


def test_an_empty_batch_is_no_error() -> None:
    problem = linear_problem(2, 3, seed=0)
    none = torch.zeros(0, dtype=torch.int64)
    result = pgd(problem.model, problem.x[none], problem.y[none], Threat("linf", 0.1), seed=0, sample_ids=none)
    assert result.x_adv.shape == (0, 1, 4, 4)
    assert result.flags == ()


def test_the_images_given_are_left_as_they_are() -> None:
    problem = linear_problem(2, 8, seed=0)
    before = problem.x.clone()
    pgd(problem.model, problem.x, problem.y, Threat("linf", 0.3), seed=0, sample_ids=problem.sample_ids, steps=3)
    assert torch.equal(problem.x, before)
    assert not problem.x.requires_grad


class FromImage:
    """An ascent that starts at the image."""

    def __init__(self, ascent: Ascent):
        self.ascent, self.name, self.runs = ascent, ascent.name, ascent.runs

    def begin(self, model: Classifier, tasks: Tasks, threat: Threat) -> Lanes:
        return self.ascent.begin(model, tasks, threat) | {"at": tasks.x.clone()}

    def advance(self, model: Classifier, lanes: Lanes, threat: Threat) -> Progress:
        return self.ascent.advance(model, lanes, threat)


def test_broken_and_stalled_samples_are_told_apart() -> None:
    """Sample 0 is fooled at its start, sample 1 never moves (zero gradient), sample 2 climbs to the bound."""
    x = torch.tensor([1.0, 0.0, 0.5]).reshape(3, 1, 1, 1)

    def model(images: Tensor) -> Tensor:
        value = images.flatten(1)[:, 0]
        return torch.stack([torch.full_like(value, 0.9), value + 0 * value**2], dim=1)

    method = Ascent("ascent", lambda out, y: (out.logits[:, 1] - 0.0) ** 2, 10, 1, 0.1)
    tiny = Threat("linf", 0.25)
    found = search(
        model, FromImage(method), x, torch.zeros(3, dtype=torch.int64), tiny, seed=0, sample_ids=torch.arange(3)
    )
    assert found.broken.tolist() == [True, False, False]
    assert found.stalled.tolist() == [False, True, False]
    assert found.x_adv.flatten().tolist() == pytest.approx([1.0, 0.0, 0.75], abs=1e-6)


def test_climb_takes_every_step_and_stops_at_the_ball() -> None:
    x = torch.tensor([0.5, 0.9]).reshape(2, 1, 1, 1)
    threat = Threat("linf", 0.25)
    for steps, expected in [(1, [0.6, 1.0]), (2, [0.7, 1.0]), (9, [0.75, 1.0])]:
        x_adv = climb(lambda images: images.flatten(1).sum(dim=1), x, x, threat, steps=steps, step_size=0.1)
        assert x_adv.flatten().tolist() == pytest.approx(expected, abs=1e-6)
