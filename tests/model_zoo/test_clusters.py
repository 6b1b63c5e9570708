"""Reductions from clusters to classes, on hand-written numbers."""

import numpy as np
import pytest
import torch

from model_zoo.clusters import by_class, check_clusters, class_index, keep_nearest, pairwise_squared_distances
from tests.model_zoo.builders import brute_squared_distances, images


def test_class_index_lists_each_classs_clusters() -> None:
    index, real = class_index(torch.tensor([2, 0, 2, 2]), 4)
    members = [index[c][real[c]].tolist() for c in range(4)]
    assert members == [[1], [], [0, 2, 3], []]


def test_by_class_gathers_values_and_puts_padding_far_below() -> None:
    labels = torch.tensor([2, 0, 2])
    values = torch.tensor([[1.0, 2.0, 3.0], [-5.0, -1e6, -7.0]])
    gathered = by_class(values, *class_index(labels, 3))
    assert gathered[:, 2].tolist() == [[1.0, 3.0], [-5.0, -7.0]]
    assert gathered[:, 0, 0].tolist() == [2.0, -1e6]
    padding = torch.stack([gathered[:, 0, 1], gathered[:, 1, 0], gathered[:, 1, 1]], dim=1)
    assert bool(torch.isfinite(padding).all())
    assert bool((padding < values.amin(dim=1, keepdim=True) - 1000).all())
    assert torch.exp(padding[0] - values[0].min()).count_nonzero() == 0


def test_keep_nearest_keeps_the_largest_values_and_every_gradient() -> None:
    values = torch.tensor([[0.0, -1.0, -2.0, -3.0], [-9.0, 1.0, 4.0, 2.0]], requires_grad=True)
    kept = keep_nearest(values, 2)
    assert (kept == values).tolist() == [[True, True, False, False], [False, False, True, True]]
    assert bool((kept[kept != values] < values.amin() - 1000).all())
    (gradient,) = torch.autograd.grad(kept.sum(), values)
    assert gradient.tolist() == [[1.0] * 4] * 2


@pytest.mark.parametrize("nearest", [None, 4, 9])
def test_keep_nearest_of_all_changes_nothing(nearest: int | None) -> None:
    values = torch.tensor([[0.0, -1.0, -2.0, -3.0]])
    assert torch.equal(keep_nearest(values, nearest), values)


def test_pairwise_distances_are_those_by_differences() -> None:
    a, b = images(10).flatten(1), images(7, seed=1).flatten(1)
    np.testing.assert_allclose(
        pairwise_squared_distances(a, b).numpy(), brute_squared_distances(a, b), rtol=0, atol=1e-4
    )


def test_check_clusters_accepts_what_fits() -> None:
    check_clusters(images(3), torch.tensor([0, 2, 2]), 3)
