"""`clustr-at`: the loss is the cross entropy of eq. 4 on images that climb it."""

import numpy as np
import pytest
import torch
from torch import nn

from model_zoo.recipes.cluster_training import ClusterBatch
from model_zoo.recipes.clustr_at import Settings, adversarial_loss
from tests.model_zoo.builders import Array, brute_squared_distances, images, no_index

LABELS = torch.tensor([0, 1, 1, 2, 0])


def negative_log_p(x: Array, y: Array, centroids: torch.Tensor, variance: float) -> Array:
    """-log of eq. 4, transcribed."""
    weights = np.exp(-brute_squared_distances(torch.from_numpy(x).flatten(1), centroids) / (2 * variance))
    own = (weights * (LABELS.numpy()[None, :] == y[:, None])).sum(axis=1)
    loss: Array = -np.log(own / weights.sum(axis=1))
    return loss


@pytest.mark.parametrize(("fixed", "used"), [(0.0, 3.0), (1.5, 1.5)])
def test_the_loss_is_the_cross_entropy_of_images_that_climb_it(fixed: float, used: float) -> None:
    """sigma^2 is that of the clusters unless the settings fix it; the ascent is in sign steps from uniform noise."""
    settings = Settings(variance=fixed, eps=0.1, step_size=0.06, steps=2)
    x, centroids = images(6), images(5, seed=1).flatten(1)
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    batch = ClusterBatch(
        backbone=nn.Flatten().train(),
        x=x,
        y=y,
        centroids=centroids,
        labels=LABELS,
        chosen=torch.zeros(0, dtype=torch.int64),
        variance=3.0,
        index=no_index(),
        generator=torch.Generator().manual_seed(8),
    )
    noise = (2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(8)) - 1) * 0.1
    image = x.double().numpy()
    start = x_adv = np.clip(image + noise.double().numpy(), 0, 1)
    for _ in range(settings.steps):
        slope = np.zeros_like(x_adv)
        for place in np.ndindex(x_adv.shape[1:]):
            shift = np.zeros_like(x_adv)
            shift[(slice(None), *place)] = 1e-5
            up, down = (negative_log_p(x_adv + s, y.numpy(), centroids, used) for s in (shift, -shift))
            slope[(slice(None), *place)] = up - down
        x_adv = np.clip(np.clip(x_adv + 0.06 * np.sign(slope), image - 0.1, image + 0.1), 0, 1)
    expected = negative_log_p(x_adv, y.numpy(), centroids, used).mean()
    climbed = expected - negative_log_p(start, y.numpy(), centroids, used).mean()
    assert climbed > 0.1, "the steps must show"
    losses = adversarial_loss(settings, 3)(batch)
    assert losses["cross entropy"].item() == pytest.approx(expected, rel=1e-4)
    assert batch.backbone.training
