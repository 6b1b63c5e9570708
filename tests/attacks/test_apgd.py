"""APGD against closed-form optima, an independent transcription of its schedule, and pyautoattack's verdicts."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from attacks.apgd import APGD, LOSSES, TARGETED, Loss
from attacks.apgd_l1 import APGDL1
from attacks.contract import Classifier
from attacks.search import Found, Lanes, Progress, search
from attacks.threat import NORMS, Norm, Threat
from benchmark.instrument import instrument
from tests.attacks.models import Curved, Linear, assert_allowed, best_margin, broken_by, digits, linear_problem

EPS: dict[Norm, float] = {"linf": 0.06, "l2": 0.08, "l1": 0.4}
CURVED_EPS: dict[Norm, float] = {"linf": 0.02, "l2": 0.12, "l1": 0.4}


def method(norm: Norm, loss: Loss, steps: int, runs: int) -> APGD | APGDL1:
    return (APGDL1 if norm == "l1" else APGD)(name=f"apgd-{loss}", loss=loss, steps=steps, runs=runs)


def attack(
    model: Classifier, x: Tensor, y: Tensor, threat: Threat, loss: Loss, steps: int = 100, runs: int = 1
) -> Found:
    return search(model, method(threat.norm, loss, steps, runs), x, y, threat, seed=0, sample_ids=torch.arange(len(x)))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("norm", NORMS)
def test_on_linear_models_exactly_the_breakable_are_broken(norm: Norm, loss: Loss) -> None:
    """Targeted losses rise with one pair's margin; CE and DLR mix the wrong classes, and may miss some."""
    low, high = (0.0, 1.0) if norm != "l2" else (0.3, 0.7)
    problem, threat = linear_problem(5, 80, seed=5, low=low, high=high), Threat(norm, EPS[norm])
    truth = best_margin(problem, threat)
    sharp = Linear(20 * problem.model.weight, 20 * problem.model.bias)  # where CE mixes less
    found = attack(sharp, problem.x, problem.y, threat, loss, runs=4 if loss in TARGETED else 1)
    broken = broken_by(problem.model, problem.y, found.x_adv).numpy()
    np.testing.assert_array_equal(found.broken.numpy(), broken)
    assert_allowed(threat, problem.x, found.x_adv)
    assert not (broken & (truth < -1e-4)).any()
    clear = truth > (0.05 if norm == "l1" else 1e-3)  # sparse steps come near the optimum
    missed = (~broken & clear).sum()
    assert clear.sum() > 10
    assert missed == 0 if loss in TARGETED else missed <= 0.1 * clear.sum()


def curved() -> tuple[Curved, Tensor, Tensor]:
    x, _ = digits(60)
    model = Curved(64, 10, seed=3)
    return model, x, model(x).argmax(dim=1)


@pytest.mark.parametrize("loss", ["ce", "dlr-targeted"])
@pytest.mark.parametrize("norm", NORMS)
def test_verdicts_are_pyautoattacks(norm: Norm, loss: Loss) -> None:
    """Other random starts, so samples on the edge fall either way: at most 2 of 60 more or less, 5 otherwise."""
    from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted

    model, x, y = curved()
    threat = Threat(norm, CURVED_EPS[norm])
    found = attack(model, x, y, threat, loss, runs=9 if loss in TARGETED else 1)
    kind = APGDAttack_targeted if loss in TARGETED else APGDAttack
    reference = kind(
        model, n_iter=100, norm={"linf": "Linf", "l2": "L2", "l1": "L1"}[norm], eps=threat.eps, n_restarts=1,
        device="cpu", seed=0, use_largereps=norm == "l1",
    )  # fmt: skip
    if loss in TARGETED:
        reference.n_target_classes = 9
    theirs = broken_by(model, y, reference.perturb(x, y))
    ours = found.broken
    assert 5 < int(theirs.sum()) < 55, "the problem must hold both kinds"
    assert abs(int(ours.sum()) - int(theirs.sum())) <= 2
    assert int((ours != theirs).sum()) <= 5


class Recorded(APGD):
    """Notes the step size and losses of a single lane at every step."""

    sizes: list[float] = []  # noqa: RUF012
    losses: list[float] = []  # noqa: RUF012

    def advance(self, model: Classifier, lanes: Lanes, threat: Threat) -> Progress:
        progress = super().advance(model, lanes, threat)
        self.sizes.append(float(lanes["size"][0]))
        self.losses.append(float(lanes["loss_before"][0]))
        return progress


@pytest.mark.parametrize("sample", range(6))
def test_the_step_is_halved_at_the_papers_checkpoints_by_its_two_conditions(sample: int) -> None:
    """Algorithm 1, transcribed: checkpoints 22, 41, 57, 70, 80, 87, 93, 99 of 100 steps, rho 0.75."""
    model, x, y = curved()
    threat = Threat("linf", 0.0005)
    recorded = Recorded("apgd", "ce", 100, 1)
    recorded.sizes.clear()
    recorded.losses.clear()
    search(model, recorded, x[sample][None], y[sample][None], threat, seed=0, sample_ids=torch.tensor([sample]))
    losses, sizes = recorded.losses, recorded.sizes
    assert len(losses) == 101
    size, halved_before, best_before, last = 2 * threat.eps, True, losses[0], 0
    expected = [size]
    for step in range(1, 101):
        if step in (22, 41, 57, 70, 80, 87, 93, 99):
            rises = sum(losses[i + 1] > losses[i] for i in range(last, step))
            best = max(losses[: step + 1])
            halve = rises <= 0.75 * (step - last) or (not halved_before and best_before >= best)
            size = size / 2 if halve else size
            halved_before, best_before, last = halve, best, step
        expected.append(size)
    assert sizes == pytest.approx(expected)
    assert sizes[-1] < sizes[0]


@pytest.mark.parametrize("norm", NORMS)
def test_a_verdict_depends_neither_on_lanes_nor_on_company(norm: Norm) -> None:
    """With passes of one shape, as the runner makes them. (A layer may round differently from place to place.)"""
    curved_model, x, y = curved()
    model = instrument(curved_model, torch.device("cpu"))
    threat, ids = Threat(norm, CURVED_EPS[norm]), torch.arange(20)
    tries = [(lanes, rows) for lanes in (1, 3, 64) for rows in (ids, ids.flip(0), ids[5:9])]
    aim = method(norm, "dlr-targeted", 20, 9)
    everything = search(model, aim, x[:20], y[:20], threat, seed=0, sample_ids=ids)
    assert 2 < int(everything.broken.sum()) < 20
    for model.lanes, rows in tries:
        again = search(model, aim, x[rows], y[rows], threat, seed=0, sample_ids=rows)
        assert torch.equal(again.run, everything.run[rows])
        torch.testing.assert_close(again.x_adv, everything.x_adv[rows], rtol=0, atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_robust_accuracy_does_not_rise_with_restarts_or_eps(norm: Norm) -> None:
    model, x, y = curved()
    by_runs = [attack(model, x, y, Threat(norm, CURVED_EPS[norm]), "ce", steps=10, runs=runs).broken for runs in (1, 3)]
    assert not bool((by_runs[0] & ~by_runs[1]).any())
    by_eps = [attack(model, x, y, Threat(norm, t * CURVED_EPS[norm]), "ce", steps=40).broken for t in (0.5, 1.0, 2.0)]
    for less, more in pairwise(by_eps):
        assert int(more.sum()) >= int(less.sum())
    assert int(by_eps[-1].sum()) > int(by_eps[0].sum())


def test_a_targeted_search_aims_at_the_ranks_of_the_clean_logits() -> None:
    problem = linear_problem(6, 10, seed=1)
    threat = Threat("linf", 1e-6)
    seen: set[tuple[int, int, int]] = set()

    class Noted(APGD):
        def advance(self, model: Classifier, lanes: Lanes, threat: Threat) -> Progress:
            columns = (lanes[k].tolist() for k in ("sample", "run", "target"))
            seen.update(zip(*columns, strict=True))
            return super().advance(model, lanes, threat)

    aim, ids = Noted("t", "dlr-targeted", 1, 5), torch.arange(10)
    search(problem.model, aim, problem.x, problem.y, threat, seed=0, sample_ids=ids)
    ranked = problem.model(problem.x).argsort(dim=1, descending=True)
    assert seen == {(i, run, int(ranked[i, run + 1])) for i in range(10) for run in range(5)}
