"""Clusters of training features, and the batches drawn from them."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model_zoo.recipes.cluster_index import ClusterIndex, all_features, cluster_features, draw_batch
from tests.model_zoo.builders import brute_squared_distances, images


def clustered_features(samples: int = 180) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(3, (samples,), generator=generator)
    return torch.randn(samples, 5, generator=generator) + y[:, None], y


def test_clusters_are_a_fixed_point_of_lloyds_iteration_in_each_class() -> None:
    features, y = clustered_features()
    index = cluster_features(features, y, 3, 4, seed=0)
    assert index.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    squared = brute_squared_distances(features, index.centroids)
    total = 0.0
    for i, (true, assigned) in enumerate(zip(y.tolist(), index.assignments.tolist(), strict=True)):
        own = [j for j, label in enumerate(index.labels.tolist()) if label == true]
        assert assigned == min(own, key=lambda j: squared[i, j])
        total += squared[i, assigned]
    for j, centroid in enumerate(index.centroids):
        members = features[index.assignments == j].double()
        np.testing.assert_allclose(centroid.numpy(), members.mean(dim=0).numpy(), rtol=0, atol=1e-5)
    assert index.variance == pytest.approx(total / (len(features) - 1), rel=1e-6)
    assert index.losses.tolist() == [1.0] * 12


def test_a_class_with_fewer_images_than_clusters_is_named() -> None:
    features, y = clustered_features()
    y[y == 2] = 1
    y[:3] = 2
    with pytest.raises(ValueError, match="class 2 has 3 training images, fewer than 4 clusters"):
        cluster_features(features, y, 3, 4, seed=0)


@pytest.mark.parametrize("training", [True, False])
def test_features_of_all_images_are_taken_in_eval_mode(training: bool) -> None:
    backbone = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Dropout(0.5)).train(training)
    x = images(23)
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    features = all_features(backbone, x, torch.device("cpu"), batch_size=5)
    torch.testing.assert_close(features, x.flatten(1) / math.sqrt(1 + 1e-5), rtol=1e-5, atol=1e-6)
    assert all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())
    assert all(part.training == training for part in backbone.modules())
    assert not features.requires_grad


def hand_made(losses: Tensor | None = None) -> ClusterIndex:
    """Six clusters of three classes on a line, with 3 to 8 images each."""
    positions = torch.tensor([0.0, 10.0, 1.0, 4.0, 9.0, 20.0])
    sizes = [3, 4, 5, 6, 7, 8]
    assignments = torch.cat([torch.full((size,), j) for j, size in enumerate(sizes)])
    shuffled = assignments[torch.randperm(len(assignments), generator=torch.Generator().manual_seed(9))]
    return ClusterIndex(
        centroids=positions[:, None],
        labels=torch.tensor([0, 0, 1, 1, 2, 2]),
        assignments=shuffled,
        variance=1.0,
        losses=torch.ones(6) if losses is None else losses,
    )


NEAREST_OF_OTHER_CLASSES = {
    0: [2, 3, 4, 5],
    1: [4, 3, 2, 5],
    2: [0, 4, 1, 5],
    3: [0, 4, 1, 5],
    4: [1, 3, 2, 0],
    5: [1, 3, 2, 0],
}
"""Read off the positions: by distance from the seed, clusters of its own class left out."""


@pytest.mark.parametrize("clusters", [1, 2, 4, 5, 12])
def test_a_batch_holds_a_seed_and_the_nearest_clusters_of_other_classes(clusters: int) -> None:
    index, generator = hand_made(), torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(60):
        chosen, drawn = draw_batch(index, clusters, 4, generator)
        seed, *others = chosen.tolist()
        seen.add(seed)
        tied = {0, 4} if seed == 3 else set()  # both lie 4 or 5 away: only their set is certain
        expected = NEAREST_OF_OTHER_CLASSES[seed][: clusters - 1]
        assert set(others) - tied == set(expected) - tied
        assert len(others) == len(expected)
        assert (index.labels[chosen] == index.labels[seed]).sum() == 1
        assert drawn.shape == (4 * len(chosen),)
        assert index.assignments[drawn].tolist() == [c for c in chosen.tolist() for _ in range(4)]
        for cluster, part in zip(chosen.tolist(), drawn.split(4), strict=True):
            if cluster != 0:  # every other cluster holds at least the four images asked for
                assert len(set(part.tolist())) == 4
    assert seen == set(range(6))


def test_seeds_are_drawn_in_proportion_to_their_loss() -> None:
    index = hand_made(torch.tensor([0.0, 1.0, 0.0, 3.0, 0.0, 0.0]))
    generator = torch.Generator().manual_seed(0)
    seeds = [int(draw_batch(index, 1, 1, generator)[0][0]) for _ in range(1000)]
    assert set(seeds) == {1, 3}
    assert seeds.count(3) / 1000 == pytest.approx(0.75, abs=4 * math.sqrt(0.75 * 0.25 / 1000))


def test_clusters_without_any_loss_are_drawn_alike() -> None:
    index, generator = hand_made(torch.zeros(6)), torch.Generator().manual_seed(0)
    seeds = [int(draw_batch(index, 1, 1, generator)[0][0]) for _ in range(600)]
    for cluster in range(6):
        assert seeds.count(cluster) / 600 == pytest.approx(1 / 6, abs=4 * math.sqrt(5 / 36 / 600))


def test_images_of_a_cluster_are_drawn_evenly() -> None:
    index, generator = hand_made(torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 1.0])), torch.Generator().manual_seed(0)
    counts = torch.zeros(len(index.assignments))
    for _ in range(400):
        counts[draw_batch(index, 1, 4, generator)[1]] += 1
    members = index.assignments == 5
    assert counts[~members].count_nonzero() == 0
    np.testing.assert_allclose(counts[members].numpy() / 400, 0.5, atol=4 * 0.5 / math.sqrt(400))


def test_a_batch_is_determined_by_its_generator() -> None:
    draws = [draw_batch(hand_made(), 4, 4, torch.Generator().manual_seed(s)) for s in (5, 5, 6)]
    assert torch.equal(draws[0][1], draws[1][1])
    assert not torch.equal(draws[0][1], draws[2][1])


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_identical_features_leave_no_cluster_that_a_batch_cannot_be_drawn_from() -> None:
    """A collapsed network: k-means then has fewer distinct points than clusters."""
    y = torch.arange(30) % 3
    index = cluster_features(y[:, None].float().repeat(1, 4), y, 3, 2, seed=0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        chosen, drawn = draw_batch(index, 3, 2, generator)
        assert len(drawn) == 2 * len(chosen)
