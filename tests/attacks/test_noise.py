"""Random search against hand-drawn candidates and closed-form robustness."""

import pytest
import torch

from attacks.noise import noise
from attacks.randomness import sample_generators
from attacks.threat import NORMS, Norm, Threat
from tests.attacks.models import assert_allowed, best_margin, broken_by, linear_problem

EPS: dict[Norm, float] = {"linf": 0.05, "l2": 0.1, "l1": 0.4}


@pytest.mark.parametrize("norm", NORMS)
def test_the_first_draw_that_fools_is_kept_else_the_last(norm: Norm) -> None:
    problem, threat = linear_problem(3, 30, seed=1), Threat(norm, EPS[norm])
    result = noise(problem.model, problem.x, problem.y, threat, seed=5, sample_ids=problem.sample_ids + 50, draws=6)
    for i in range(30):
        generators = sample_generators(5, torch.tensor([50 + i]), "noise")
        x, y = problem.x[i : i + 1], problem.y[i : i + 1]
        for _ in range(6):
            candidate = threat.random_start(x, generators)
            if bool(broken_by(problem.model, y, candidate)):
                break
        assert torch.equal(result.x_adv[i : i + 1], candidate)


@pytest.mark.parametrize("norm", NORMS)
def test_it_finds_what_half_the_ball_offers_and_nothing_where_there_is_nothing(norm: Norm) -> None:
    """Samples very near the border see nearly half their ball on the other side: 100 draws cannot miss."""
    problem, threat = linear_problem(2, 400, seed=0, low=0.3, high=0.7), Threat(norm, EPS[norm])
    easy = torch.from_numpy(best_margin(problem, Threat(norm, 0.002)) > 0)
    impossible = torch.from_numpy(best_margin(problem, threat) < 0)
    assert int(easy.sum()) >= 3
    assert int(impossible.sum()) >= 10
    result = noise(problem.model, problem.x, problem.y, threat, seed=0, sample_ids=problem.sample_ids)
    broken = broken_by(problem.model, problem.y, result.x_adv)
    assert bool(broken[easy].all())
    assert not bool(broken[impossible].any())
    assert_allowed(threat, problem.x, result.x_adv)


def test_no_draw_is_refused() -> None:
    problem = linear_problem(2, 2, seed=0)
    with pytest.raises(ValueError, match="noise: draws must be at least 1, got 0"):
        noise(
            problem.model,
            problem.x,
            problem.y,
            Threat("linf", 0.1),
            seed=0,
            sample_ids=problem.sample_ids,
            draws=0,
        )
