"""I-FGSM against its update written out in float64 for a linear softmax model."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from attacks.losses import cross_entropy, margin
from attacks.threat import Norm, Threat
from attacks.transfer import CRAFTINGS, transfer
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


def made_on(problem: Problem, threat: Threat, seed: int = 0, **how: Any) -> Tensor:
    """Images made on the problem's own model."""
    return transfer(
        Flat(),
        problem.x,
        problem.y,
        threat,
        seed=seed,
        sample_ids=problem.sample_ids,
        surrogate=problem.model,
        steps=STEPS,
        **how,
    ).x_adv


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_is_iterated_fgsm_on_the_surrogate(norm: Norm) -> None:
    problem, threat = linear_problem(4, 20, seed=0), Threat(norm, EPS[norm])
    x_adv = made_on(problem, threat)
    np.testing.assert_allclose(x_adv.flatten(1).numpy(), by_hand(problem, threat), rtol=0, atol=2e-6)
    assert_allowed(threat, problem.x, x_adv)


@pytest.mark.parametrize("attack", CRAFTINGS)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_attack_stays_in_the_ball_and_raises_its_loss(attack: str, norm: Norm) -> None:
    problem, threat = linear_problem(4, 20, seed=0), Threat(norm, EPS[norm])
    x_adv = made_on(problem, threat, attack=attack)
    assert_allowed(threat, problem.x, x_adv)
    loss = margin if attack == "cw" else cross_entropy
    before, after = (loss(problem.model(x), problem.y) for x in (problem.x, x_adv))
    assert bool((after > before).all())
    other = made_on(problem, threat, attack=attack, seed=1)
    assert torch.equal(other, x_adv) == (attack == "i-fgsm")


def test_predicted_labels_are_the_surrogates() -> None:
    problem, threat = linear_problem(4, 20, seed=0), Threat("linf", 0.1)
    predicted = problem.model(problem.x).argmax(dim=1)
    lied_to = dataclasses.replace(problem, y=(predicted + 1) % 4)
    told = dataclasses.replace(problem, y=predicted)
    expected = made_on(told, threat)
    assert torch.equal(made_on(lied_to, threat, labels="predicted"), expected)
    assert not torch.equal(made_on(lied_to, threat), expected)


def test_a_step_of_the_default_size_changes_nothing() -> None:
    problem, threat = linear_problem(4, 6, seed=0), Threat("linf", 0.1)
    for attack, step in (("i-fgsm", 0.1 / STEPS), ("pgd", 0.1 / 4), ("cw", 0.1 / 4)):
        plain = made_on(problem, threat, attack=attack)
        assert torch.equal(made_on(problem, threat, attack=attack, step_size=step), plain)
        assert not torch.equal(made_on(problem, threat, attack=attack, step_size=0.001), plain)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"attack": "fgsm"}, "transfer: attack must be one of i-fgsm, pgd, cw, got 'fgsm'"),
        ({"labels": "mine"}, "transfer: labels must be one of true, predicted, got 'mine'"),
        ({"step_size": 0.0}, "transfer: step_size must be positive, got 0.0"),
    ],
)
def test_what_cannot_be_is_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        made_on(linear_problem(2, 2, seed=0), Threat("linf", 0.1), **wrong)


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
