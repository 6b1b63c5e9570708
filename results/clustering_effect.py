"""Do the rows of classes of one group point the same way? Statistic, exact permutation test and tree.

C is the matrix of cosines between class rows. S = the mean of C over pairs of classes of one group less its mean over
pairs of different groups. Bai et al. (NeurIPS 2021, arXiv 2111.12922) show C as pictures; what is here gives a p.

The test: if the groups meant nothing to the rows, every way of dealing out the groups' labels to the classes would be
as likely as the one that was fixed beforehand. p is the share of all those ways whose S is at least the one seen, so
that p <= alpha errs with a chance of at most alpha, whatever C is. Ways that differ only in which of two groups of the
same size is which are one partition, with one S, and count once: p is never below 1 / (number of partitions).
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
Labels = NDArray[np.int64]

MOST_PARTITIONS = 1_000_000
"""Up to so many are gone through one by one."""
SAMPLED = 99_999
"""Labelings drawn where there are more: p is then a multiple of 1e-5."""
_CHUNK = 50_000
_MOST_SUMMED = 20_000_000
"""Pairs of classes that are looked up at a time."""


@dataclass(frozen=True)
class Test:
    """`statistic` S and its one-sided `p`; `least` the smallest p that could have come out, of `seen` partitions.

    `exact`: `seen` are all partitions; else a sample, whose p = (1 + hits) / (1 + n) counts the one observed.
    """

    statistic: float
    p: float
    least: float
    seen: int
    exact: bool

    __test__ = False  # not for pytest


@dataclass(frozen=True)
class Effect:
    """What is known of a matrix of similarities between classes.

    `linkage` is scipy's average-linkage tree of 1 - similarity, `cophenetic` its cophenetic correlation (None where all
    distances are equal), `rand_index` the adjusted Rand index of the tree, cut into as many groups, with the groups.
    """

    similarities: Matrix
    test: Test
    linkage: Matrix
    cophenetic: float | None
    rand_index: float


def effect_of(similarities: Matrix, labels: Sequence[int], seed: int) -> Effect:
    """Test and tree; `labels` are the groups of the classes."""
    tree = linkage_of(similarities)
    return Effect(
        similarities,
        permutation_test(similarities, labels, seed),
        tree,
        cophenetic_correlation(tree, similarities),
        rand_index(cut(tree, len(set(labels))), labels),
    )


def cosines(rows: Matrix, centred: bool) -> Matrix:
    """Cosines between rows, or between what is left of them without their mean, which no shift of all rows changes.

    ValueError for a row of zeros (centred: one that is the mean), which has no direction.
    """
    rows = np.asarray(rows, dtype=np.float64)
    scale = np.linalg.norm(rows, axis=1).max(initial=0.0)
    if centred:
        rows = rows - rows.mean(axis=0)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    flat = [index for index, norm in enumerate(norms[:, 0]) if not norm > 1e-12 * scale]
    if flat:
        raise ValueError(f"the row of class {flat[0]} is {'the mean of all rows' if centred else 'zero'}")
    units = rows / norms
    product: Matrix = np.clip(units @ units.T, -1.0, 1.0)
    np.fill_diagonal(product, 1.0)
    return product


def statistic(similarities: Matrix, labels: Sequence[int]) -> float:
    """S. ValueError where no pair of classes is in one group, or none in two."""
    first, second = np.triu_indices(len(labels), 1)
    same = np.asarray(labels)[first] == np.asarray(labels)[second]
    if same.all() or not same.any():
        raise ValueError("S needs two groups or more, one of them with two classes or more")
    pairs = similarities[first, second]
    return float(pairs[same].mean() - pairs[~same].mean())


def permutation_test(
    similarities: Matrix,
    labels: Sequence[int],
    seed: int,
    most: int = MOST_PARTITIONS,
    sampled: int = SAMPLED,
) -> Test:
    """The one-sided test of S: exact for up to `most` partitions, else on `sampled` labelings drawn from `seed`.

    Of a matrix that is not symmetric S is that of its symmetric part, in which a pair counts both ways.
    With the groups' sizes fixed, S rises with the sum over the pairs within groups, which is what is compared. Sums
    that differ by rounding alone count as equal, which can only raise p.
    """
    pairs = (similarities + similarities.T) / 2.0
    seen = statistic(pairs, labels)
    sizes = sorted(Counter(labels).values())
    within = _pairs_within(sizes)
    members = Counter(labels)
    own = np.lexsort((labels, [members[label] for label in labels]))  # group after group, the smallest first
    observed = float(pairs[own[within[0]], own[within[1]]].sum())
    slack = 1e-12 * max(1.0, float(np.abs(pairs).max())) * len(within[0])
    partitions = partition_count(sizes)
    exact = partitions <= most
    orders = _all_orders(sizes) if exact else _drawn_orders(len(labels), sampled, seed)
    rows = max(1, _MOST_SUMMED // len(within[0]))
    hits = sum(
        int((pairs[part[:, within[0]], part[:, within[1]]].sum(axis=1) >= observed - slack).sum())
        for whole in orders
        for part in np.split(whole, range(rows, len(whole), rows))
    )
    if exact:
        return Test(seen, hits / partitions, 1 / partitions, partitions, True)
    return Test(seen, (1 + hits) / (1 + sampled), 1 / (1 + sampled), sampled, False)


def partition_count(sizes: Sequence[int]) -> int:
    """How many partitions have groups of these sizes: the multinomial coefficient over the swaps of equal groups."""
    ways = math.factorial(sum(sizes))
    for size in sizes:
        ways //= math.factorial(size)
    for times in Counter(sizes).values():
        ways //= math.factorial(times)
    return ways


def left_over(similarities: Matrix, control: Matrix) -> Matrix:
    """What the best linear function of the control's entries (least squares over pairs) leaves of the similarities."""
    pairs = np.triu_indices(len(similarities), 1)
    design = np.stack([np.ones(len(pairs[0])), control[pairs]], axis=1)
    found, *_ = np.linalg.lstsq(design, similarities[pairs], rcond=None)
    left: Matrix = similarities - (found[0] + found[1] * control)
    np.fill_diagonal(left, 0.0)
    return left


def linkage_of(similarities: Matrix) -> Matrix:
    """scipy's average-linkage tree of 1 - similarity."""
    from scipy.cluster.hierarchy import average

    tree: Matrix = average(_distances(similarities))
    return tree


def cophenetic_correlation(tree: Matrix, similarities: Matrix) -> float | None:
    """How well the heights at which classes join agree with their distances; None where either are all equal."""
    from scipy.cluster.hierarchy import cophenet

    distances, heights = _distances(similarities), cophenet(tree)
    if np.ptp(distances) <= 1e-12 or np.ptp(heights) <= 1e-12:
        return None
    return float(np.corrcoef(distances, heights)[0, 1])


def cut(tree: Matrix, groups: int) -> list[int]:
    """The classes' groups where the tree is cut into so many."""
    from scipy.cluster.hierarchy import cut_tree

    return [int(label) for label in cut_tree(tree, n_clusters=groups)[:, 0]]


def rand_index(first: Sequence[int], second: Sequence[int]) -> float:
    """Adjusted Rand index: 1 for the same partition, 0 as by chance."""
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(first, second))


def newick(tree: Matrix, names: Sequence[str]) -> str:
    """The tree as Newick text. A node stands at half the height of scipy's.

    The way from leaf to leaf is then as long as the distance at which the two join, as other programs expect of UPGMA.
    """
    leaves = len(names)
    texts = [_quoted(name) for name in names]
    heights = [0.0] * leaves
    for first, second, distance, _ in tree.tolist():
        height = distance / 2.0
        branches = [f"{texts[int(child)]}:{height - heights[int(child)]!r}" for child in (first, second)]
        texts.append(f"({','.join(branches)})")
        heights.append(height)
    return f"{texts[-1]};\n"


def _quoted(name: str) -> str:
    return "'" + name.replace("'", "''") + "'"


def _distances(similarities: Matrix) -> Matrix:
    """1 - similarity of each pair, as scipy orders them."""
    pairs = np.triu_indices(len(similarities), 1)
    distances: Matrix = np.maximum(0.0, 1.0 - similarities[pairs])
    return distances


def _pairs_within(sizes: Sequence[int]) -> tuple[Labels, Labels]:
    """Places of an order, in which the groups stand one after the other, that belong to one group, in pairs."""
    groups = np.repeat(np.arange(len(sizes)), sizes)
    first, second = np.triu_indices(len(groups), 1)
    same = groups[first] == groups[second]
    return first[same], second[same]


def _all_orders(sizes: Sequence[int]) -> Iterator[Labels]:
    """Every partition once, as the classes ordered by group, many at a time.

    Class after class is put into a group that has room. Of equal groups that are empty only the first may be begun.
    """
    number = np.min_scalar_type(sum(sizes))  # holds every group's place and size
    labels = np.zeros((1, 0), dtype=number)
    counts = np.zeros((1, len(sizes)), dtype=number)
    twin = [max((g for g in range(group) if sizes[g] == size), default=None) for group, size in enumerate(sizes)]
    for _ in range(sum(sizes)):
        grown = []
        for group, size in enumerate(sizes):
            fits = counts[:, group] < size
            before = twin[group]
            if before is not None:
                fits &= (counts[:, group] > 0) | (counts[:, before] > 0)
            added = counts[fits]
            added[:, group] += 1
            column = np.full((len(added), 1), group, dtype=number)
            grown.append((np.concatenate([labels[fits], column], axis=1), added))
        labels = np.concatenate([one for one, _ in grown])
        counts = np.concatenate([one for _, one in grown])
    for start in range(0, len(labels), _CHUNK):
        yield np.argsort(labels[start : start + _CHUNK], axis=1, kind="stable").astype(np.int64)


def _drawn_orders(classes: int, n: int, seed: int) -> Iterator[Labels]:
    random = np.random.default_rng(seed)
    for start in range(0, n, _CHUNK // 10):
        size = min(_CHUNK // 10, n - start)
        yield random.permuted(np.tile(np.arange(classes), (size, 1)), axis=1)
