"""The loss of adversarial training against hand-written PGD on a linear softmax model."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model_zoo.recipes import pgd_at
from model_zoo.recipes.loop import TrainingRun
from model_zoo.recipes.supervised import BatchLoss
from tests.model_zoo.builders import Array, digits_data, images

SETTINGS = pgd_at.Settings(eps=0.1, step_size=0.04, steps=3)


@pytest.fixture
def adversarial_loss(monkeypatch: pytest.MonkeyPatch) -> BatchLoss:
    """The batch loss that `pgd-at` hands to supervised training."""
    losses: list[BatchLoss] = []

    def instead(*arguments: object) -> None:
        losses.append(arguments[-1])  # type: ignore[arg-type]

    monkeypatch.setattr(pgd_at, "fit", instead)
    pgd_at.train(digits_data(), SETTINGS, TrainingRun(seed=0, device=torch.device("cpu"), folder=None, identity=""))
    return losses[0]


@pytest.mark.usefixtures("unchecked")
def test_it_is_the_cross_entropy_of_pgd_images(adversarial_loss: BatchLoss) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    x, y = images(9), torch.arange(9) % 3
    noise = (2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(8)) - 1) * 0.1
    weight, bias = (p.detach().double().numpy() for p in model[1].parameters())
    clean = x.double().flatten(1).numpy()
    onehot = np.eye(3)[y.numpy()]

    def probabilities(at: Array) -> Array:
        exponentials = np.exp(at @ weight.T + bias)
        normalised: Array = exponentials / exponentials.sum(axis=1, keepdims=True)
        return normalised

    x_adv = np.clip(clean + noise.double().flatten(1).numpy(), 0, 1)
    for _ in range(3):
        moved = x_adv + 0.04 * np.sign((probabilities(x_adv) - onehot) @ weight)
        x_adv = np.clip(np.clip(moved, clean - 0.1, clean + 0.1), 0, 1)
    expected = -np.log((probabilities(x_adv) * onehot).sum(axis=1)).mean()
    loss = adversarial_loss(model, x, y, torch.Generator().manual_seed(8))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.usefixtures("unchecked")
def test_batch_norm_sees_each_batch_once_as_adversarial_images(adversarial_loss: BatchLoss) -> None:
    """Images are attacked in eval mode; only the last forward pass moves the running statistics."""
    seen: list[tuple[bool, Tensor]] = []

    class Watch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append((self.training, x.detach().clone()))
            return x

    model = nn.Sequential(Watch(), nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 3)).train()
    x, y = images(9), torch.arange(9) % 3
    adversarial_loss(model, x, y, torch.Generator().manual_seed(0))
    assert [training for training, _ in seen] == [False] * 3 + [True]
    assert int(model[2].num_batches_tracked) == 1  # type: ignore[arg-type]
    shown = seen[-1][1]
    assert 0.05 < float((shown - x).abs().amax()) <= 0.1 + 1e-6
    torch.testing.assert_close(model[2].running_mean, 0.1 * shown.flatten(1).mean(dim=0))
    assert model.training
