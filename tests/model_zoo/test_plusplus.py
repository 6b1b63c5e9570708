"""k-means++ against scikit-learn's, draw by draw."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.cluster import KMeans, kmeans_plusplus

from model_zoo.recipes.plusplus import greedy_plusplus
from tests.model_zoo.builders import digits_data


def points(n: int, d: int, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random((n, d), dtype=np.float32)


@pytest.mark.parametrize(
    ("n", "d", "clusters"), [(200, 5, 3), (1000, 30, 60), (3000, 100, 20), (50, 4, 50), (30, 2, 1)]
)
@pytest.mark.parametrize("seed", range(4))
def test_the_centroids_are_scikit_learns(n: int, d: int, clusters: int, seed: int) -> None:
    x = points(n, d, seed)
    expected, _ = kmeans_plusplus(x, clusters, random_state=np.random.RandomState(seed))
    ours, theirs = np.random.RandomState(seed), np.random.RandomState(seed)
    assert np.array_equal(greedy_plusplus(x, clusters, ours), expected)
    kmeans_plusplus(x, clusters, random_state=theirs)
    assert ours.uniform() == theirs.uniform(), "as many random numbers were drawn"


@pytest.mark.parametrize("seed", range(3))
def test_k_means_from_them_is_scikit_learns(seed: int) -> None:
    x = digits_data(1500).x.flatten(1).numpy()
    expected = KMeans(60, n_init=1, max_iter=20, random_state=seed).fit(x)
    found = KMeans(60, init=greedy_plusplus, n_init=1, max_iter=20, random_state=seed).fit(x)
    assert np.array_equal(found.cluster_centers_, expected.cluster_centers_)
    assert np.array_equal(found.labels_, expected.labels_)


def test_copies_of_an_image_are_no_obstacle() -> None:
    x = np.repeat(points(4, 6, 1), 10, axis=0)
    expected, _ = kmeans_plusplus(x, 8, random_state=np.random.RandomState(0))
    assert np.array_equal(greedy_plusplus(x, 8, np.random.RandomState(0)), expected)
