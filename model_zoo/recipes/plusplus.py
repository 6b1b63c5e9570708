"""Greedy k-means++ (Arthur & Vassilvitskii 2007) as scikit-learn draws it, several times as fast on float32 images.

scikit-learn converts all images to float64 again for each centroid, which on 60,000 of MNIST takes longer than the
Lloyd iterations; here they are converted once. Random numbers, order and precision are those of
`sklearn.cluster.kmeans_plusplus`, and so are the centroids.
"""

import numpy as np
from numpy.typing import NDArray


def greedy_plusplus(x: NDArray[np.float32], clusters: int, random_state: np.random.RandomState) -> NDArray[np.float32]:
    """Starting centroids (k, d) out of the images (n, d): a callable for the `init` of scikit-learn's KMeans."""
    n, tries = len(x), 2 + int(np.log(clusters))
    weights = np.ones(n, dtype=x.dtype)
    precise = x.astype(np.float64)
    norms = np.einsum("ij,ij->i", precise, precise)

    def squared_distances(places: NDArray[np.int64]) -> NDArray[np.float32]:
        """(places, n), rounded to float32 at the end as scikit-learn does."""
        found = -2 * (precise[places] @ precise.T)
        found += norms[places][:, None]
        found += norms[None, :]
        return np.maximum(found.astype(np.float32), 0)

    chosen = [int(random_state.choice(n, p=weights / weights.sum()))]
    closest = squared_distances(np.array(chosen))
    potential = closest @ weights
    for _ in range(1, clusters):
        drawn = random_state.uniform(size=tries) * potential
        candidates = np.clip(np.searchsorted(np.cumsum(weights * closest), drawn), None, n - 1)
        distances = np.minimum(closest, squared_distances(candidates))
        potentials = distances @ weights[:, None]
        best = int(np.argmin(potentials))
        potential, closest = potentials[best], distances[best]
        chosen.append(int(candidates[best]))
    return x[chosen]
