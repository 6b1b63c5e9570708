"""Free adversarial training and the adversarial Magnet loss, step by step against their definitions."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from attacks.threat import Threat
from model_zoo.recipes import clustr_adv, magnet, perturb
from model_zoo.recipes.cluster_training import ClusterBatch
from model_zoo.recipes.data import TrainingData
from model_zoo.recipes.free_at import _Perturbation
from model_zoo.recipes.loop import TrainingRun
from model_zoo.recipes.magnet_training import magnet_loss
from model_zoo.recipes.qtrades import labelled_cross_entropy
from model_zoo.recipes.stability import kl_divergence
from model_zoo.recipes.trades import trades_loss
from tests.model_zoo.builders import digits_data, images, no_index

RUN = TrainingRun(seed=0, device=torch.device("cpu"), folder=None, identity="")


def _linear() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Flatten(), nn.Linear(images(1)[0].numel(), 4))


def _input_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    x = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(functional.cross_entropy(model(x), y), x)
    return gradient


def test_free_training_carries_its_perturbation_from_pass_to_pass() -> None:
    """Shafahi et al. 2019, algorithm 1: delta <- clip(delta + eps sign(gradient), -eps, eps), with every backward."""
    model, x, y, eps = _linear(), images(5), torch.tensor([0, 1, 2, 3, 0]), 0.03
    perturbation, generator = _Perturbation(Threat("linf", eps)), torch.Generator()
    delta = torch.zeros_like(x)
    for _ in range(3):
        expected = functional.cross_entropy(model((x + delta).clamp(0, 1)), y)
        loss = perturbation.loss(model, x, y, generator)
        torch.testing.assert_close(loss, expected)
        gradient = _input_gradient(model, (x + delta).clamp(0, 1), y)
        loss.backward()
        delta = (delta + eps * gradient.sign()).clamp(-eps, eps)
        torch.testing.assert_close(perturbation.delta, delta)
        delta = perturbation.delta
    assert float(delta.abs().max()) > 0.0
    again = perturbation.loss(model, x, y, torch.Generator())  # another epoch
    torch.testing.assert_close(again, functional.cross_entropy(model(x), y))


@pytest.mark.parametrize("recipe", ["trades", "qtrades"])
def test_the_loss_and_its_gradient_are_those_of_the_formula(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """CE(p, y) + weight D(p_adv, p): KL(p || p_adv) in `trades`; in `qtrades` CE with p as a label."""
    monkeypatch.setattr(perturb, "has_bfloat16", lambda device: False)  # in which small slopes change their sign
    model, x, y, weight = _linear(), images(5), torch.tensor([0, 1, 2, 3, 0]), 4.0
    start = (x + 0.02).clamp(0, 1)
    divergence = {"trades": kl_divergence, "qtrades": labelled_cross_entropy}[recipe]
    threat = Threat("linf", 0.05)
    loss = trades_loss(model, x, y, start, threat, divergence, weight=weight, steps=1, step_size=0.01)
    loss.backward()
    found = [parameter.grad for parameter in model.parameters()]
    clean = model(x).softmax(dim=1)
    attacked = start.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(-(clean.detach() * model(attacked).log_softmax(dim=1)).sum(), attacked)
    x_adv = (start + 0.01 * slope.sign()).clamp(0, 1)  # both divergences have the same gradient in x
    assert float((slope != 0).float().mean()) > 0.9
    label = clean if recipe == "trades" else clean.detach()
    distance = -(label * model(x_adv).log_softmax(dim=1)).sum(dim=1)
    if recipe == "trades":
        distance = distance + (label * label.log()).sum(dim=1)
    expected = -clean.gather(1, y[:, None]).log().mean() + weight * distance.mean()
    torch.testing.assert_close(loss, expected)
    for gradient, other in zip(found, torch.autograd.grad(expected, list(model.parameters())), strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-6)


def test_the_adversarial_term_is_the_magnet_loss_of_images_that_climb_it() -> None:
    settings = clustr_adv.Settings(weight=3.0, eps=0.05, step_size=0.1, steps=1, alpha=2.0)
    x = images(12)
    labels, chosen = torch.tensor([0, 1, 1, 2]), torch.tensor([0, 1, 3])
    batch = ClusterBatch(
        backbone=nn.Flatten().train(),
        x=x,
        y=labels[chosen].repeat_interleave(4),
        centroids=images(4, seed=1).flatten(1),
        labels=labels,
        chosen=chosen,
        variance=1.0,
        index=no_index(),
        generator=torch.Generator().manual_seed(5),
    )
    noise = (2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(5)) - 1) * 0.05
    start = (x + noise).clamp(0, 1).requires_grad_(True)
    (slope,) = torch.autograd.grad(magnet_loss(start.flatten(1), chosen, labels[chosen], 50.0)[0], start)
    moved = np.clip((start.detach() + 0.1 * slope.sign()).numpy(), (x - 0.05).numpy(), (x + 0.05).numpy())
    x_adv = torch.from_numpy(moved).clamp(0, 1)
    expected = 3.0 * magnet_loss(x_adv.flatten(1), chosen, labels[chosen], 2.0)[0]
    assert clustr_adv.adversarial_term(settings)(batch).item() == pytest.approx(expected.item(), rel=1e-5)
    assert batch.backbone.training


def test_magnet_has_no_warm_start() -> None:
    data: TrainingData = digits_data()
    settings = magnet.Settings(warm_start="nominal", batch_clusters=6, samples_per_cluster=6)
    with pytest.raises(ValueError, match="magnet starts from a random initialisation"):
        magnet.train(data, settings, RUN)
