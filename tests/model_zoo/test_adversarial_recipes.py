"""Free adversarial training and the adversarial Magnet loss, step by step against their definitions."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from attacks.threat import Threat
from model_zoo.recipes import clustr_adv, magnet
from model_zoo.recipes.cluster_training import ClusterBatch
from model_zoo.recipes.data import TrainingData
from model_zoo.recipes.free_at import _Perturbation
from model_zoo.recipes.loop import TrainingRun
from model_zoo.recipes.magnet_training import magnet_loss
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
        torch.testing.assert_close(perturbation.delta, (x + delta).clamp(0, 1) - x)
        delta = perturbation.delta
    assert float(delta.abs().max()) > 0.0
    again = perturbation.loss(model, x, y, torch.Generator())  # another epoch
    torch.testing.assert_close(again, functional.cross_entropy(model(x), y))


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
