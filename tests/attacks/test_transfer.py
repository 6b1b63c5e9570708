"""I-FGSM against its update written out in float64 for a linear softmax model."""

import numpy as np
import pytest
import torch
from torch import Tensor

from attacks.threat import Norm, Threat
from attacks.transfer import transfer
from tests.attacks.models import Array, Flat, Problem, assert_allowed, linear_problem

EPS: dict[Norm, float] = {"linf": 0.1, "l2": 0.4}
STEPS = 7


def by_hand(problem: Problem, threat: Threat) -> Array:
    """x <- clip(x + eps/steps * direction of W^T (softmax(Wx + b) - onehot(y))), from the clean image."""
    weight, bias = problem.model.weight.double().numpy(), problem.model.bias.double().numpy()
    x = problem.x.double().flatten(1).numpy()
    out = []
    for image, true in zip(x, problem.y.tolist(), strict=True):
        z = image.copy()
        for _ in range(STEPS):
            exponentials = np.exp(weight @ z + bias)
            gradient = weight.T @ (exponentials / exponentials.sum() - np.eye(len(bias))[true])
            if threat.norm == "linf":
                z = z + threat.eps / STEPS * np.sign(gradient)
                z = np.clip(z, image - threat.eps, image + threat.eps)
            else:
                z = z + threat.eps / STEPS * gradient / np.sqrt((gradient**2).sum())
                z = image + (z - image) * min(1.0, threat.eps / np.sqrt(((z - image) ** 2).sum()))
            z = np.clip(z, 0.0, 1.0)
        out.append(z)
    return np.array(out)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_is_iterated_fgsm_on_the_surrogate(norm: Norm) -> None:
    problem, threat = linear_problem(4, 20, seed=0), Threat(norm, EPS[norm])
    result = transfer(
        Flat(),
        problem.x,
        problem.y,
        threat,
        seed=0,
        sample_ids=problem.sample_ids,
        surrogate=problem.model,
        steps=STEPS,
    )
    np.testing.assert_allclose(result.x_adv.flatten(1).numpy(), by_hand(problem, threat), rtol=0, atol=2e-6)
    assert_allowed(threat, problem.x, result.x_adv)


def test_the_target_and_the_seed_play_no_part() -> None:
    problem, threat = linear_problem(4, 6, seed=0), Threat("linf", 0.1)

    def untouchable(x: Tensor) -> Tensor:
        raise AssertionError("the target must not be asked")

    images = [
        transfer(
            model,
            problem.x,
            problem.y,
            threat,
            seed=seed,
            sample_ids=problem.sample_ids + seed,
            surrogate=problem.model,
        ).x_adv
        for model, seed in ((problem.model, 0), (untouchable, 1))
    ]
    assert torch.equal(images[0], images[1])


def test_a_surrogate_by_name_must_be_loaded_first() -> None:
    problem = linear_problem(2, 2, seed=0)
    with pytest.raises(TypeError, match="transfer: surrogate 'nominal' must be loaded by the caller"):
        transfer(problem.model, problem.x, problem.y, Threat("linf", 0.1), seed=0, sample_ids=problem.sample_ids)


def test_no_step_is_refused() -> None:
    problem = linear_problem(2, 2, seed=0)
    with pytest.raises(ValueError, match="transfer: steps must be at least 1, got 0"):
        transfer(
            problem.model,
            problem.x,
            problem.y,
            Threat("linf", 0.1),
            seed=0,
            sample_ids=problem.sample_ids,
            surrogate=problem.model,
            steps=0,
        )
