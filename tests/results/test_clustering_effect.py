"""S and its test against enumeration by hand, trees against hand examples, Newick against a parser."""

import itertools
import re
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from results import clustering_effect
from results.clustering_effect import (
    cophenetic_correlation,
    cosines,
    cut,
    effect_of,
    left_over,
    linkage_of,
    newick,
    partition_count,
    permutation_test,
    rand_index,
    statistic,
)

SPLITS = [([4, 6], 210), ([5, 3, 2], 2520), ([2, 2, 2], 15), ([3, 3], 10), ([2, 1, 1], 6), ([5] * 20, None)]


def labels_of(sizes: list[int]) -> list[int]:
    return [group for group, size in enumerate(sizes) for _ in range(size)]


def symmetric(classes: int, seed: int) -> NDArray[np.float64]:
    values = np.random.default_rng(seed).normal(size=(classes, classes))
    return values + values.T


def planted(labels: list[int], noise: float, seed: int = 0) -> NDArray[np.float64]:
    """Rows around one direction a group, and one vector added to all."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(max(labels) + 1, 50))
    return centres[labels] + noise * random.normal(size=(len(labels), 50)) + 3.0 * random.normal(size=50)


def labelings(labels: list[int]) -> Iterator[tuple[int, ...]]:
    """Every distinct labeling, the slow way."""
    yield from set(itertools.permutations(labels))


def test_s_is_the_difference_of_two_means() -> None:
    c = np.array([[1.0, 0.8, 0.1, 0.2], [0.8, 1.0, 0.3, 0.0], [0.1, 0.3, 1.0, 0.4], [0.2, 0.0, 0.4, 1.0]])
    assert statistic(c, [0, 0, 1, 1]) == pytest.approx((0.8 + 0.4) / 2 - (0.1 + 0.2 + 0.3 + 0.0) / 4)


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2]])
def test_s_needs_pairs_of_both_kinds(labels: list[int]) -> None:
    with pytest.raises(ValueError, match="two groups or more"):
        statistic(np.eye(3), labels)


@pytest.mark.parametrize("labels", [[0, 1, 1, 0, 1, 0], [2, 0, 1, 0, 0, 1], [5, 5, 3, 3, 9, 3]])
def test_p_is_the_share_of_all_labelings_that_reach_s(labels: list[int]) -> None:
    c = symmetric(6, seed=1)
    every = [statistic(c, labeling) for labeling in labelings(labels)]
    reached = sum(s >= statistic(c, labels) - 1e-12 for s in every)
    found = permutation_test(c, labels, seed=0)
    assert found.exact
    assert found.p == pytest.approx(reached / len(every))


@pytest.mark.parametrize(("sizes", "count"), SPLITS)
def test_partitions_count_once_where_equal_groups_are_swapped(sizes: list[int], count: int | None) -> None:
    if count is not None:
        assert partition_count(sizes) == count
        assert permutation_test(symmetric(sum(sizes), 0), labels_of(sizes), 0).seen == count
    else:
        assert partition_count(sizes) > 10**80


@pytest.mark.parametrize("sizes", [[1, 200], [2, 140], [300, 1], [1] * 129 + [2]])
def test_more_classes_or_groups_than_a_byte_counts(sizes: list[int]) -> None:
    """Every partition once: planted groups are found in no other."""
    labels = labels_of(sizes)
    same = np.equal.outer(labels, labels).astype(float)
    found = permutation_test(same, labels, seed=0)
    assert found.exact
    assert (found.statistic, found.p, found.seen) == (1.0, 1 / partition_count(sizes), partition_count(sizes))


def test_many_classes_are_looked_up_a_few_labelings_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, c = labels_of([5, 4]), symmetric(9, 2)
    whole = [permutation_test(c, labels, 0, most=most, sampled=500) for most in (1000, 1)]
    monkeypatch.setattr(clustering_effect, "_MOST_SUMMED", 100)
    assert [permutation_test(c, labels, 0, most=most, sampled=500) for most in (1000, 1)] == whole


@pytest.mark.parametrize(("sizes", "least"), [([4, 6], 1 / 210), ([5, 3, 2], 1 / 2520), ([2, 2, 2], 1 / 15)])
def test_planted_groups_reach_the_smallest_p(sizes: list[int], least: float) -> None:
    labels = labels_of(sizes)
    found = permutation_test(cosines(planted(labels, 0.1), centred=True), labels, seed=0)
    assert found.p == found.least == pytest.approx(least)
    assert found.statistic > 0.5


@pytest.mark.parametrize("sizes", [[4, 6], [5, 3], [2, 2, 2], [3, 2, 2]])
def test_without_structure_the_level_holds_exactly(sizes: list[int]) -> None:
    """Over all labelings of a matrix, p is uniform on its grid: at most a share alpha has p <= alpha."""
    c = symmetric(sum(sizes), seed=3)
    partitions: dict[frozenset[frozenset[int]], tuple[int, ...]] = {}
    for labeling in labelings(labels_of(sizes)):
        blocks = frozenset(frozenset(np.flatnonzero(np.array(labeling) == g).tolist()) for g in set(labeling))
        partitions.setdefault(blocks, labeling)
    ps = sorted(permutation_test(c, labeling, seed=0).p for labeling in partitions.values())
    assert ps == pytest.approx([(k + 1) / len(ps) for k in range(len(ps))])


def test_ties_raise_p_and_never_lower_it() -> None:
    assert permutation_test(np.ones((6, 6)), [0, 0, 0, 1, 1, 1], seed=0).p == 1.0


def test_a_sample_counts_the_observed_one_and_agrees_with_enumeration() -> None:
    labels = labels_of([5, 5])
    c = cosines(planted(labels, 3.0), centred=True)
    exact, drawn = (permutation_test(c, labels, seed=0, most=most, sampled=20_000) for most in (10**6, 10))
    assert not drawn.exact
    assert drawn.least == 1 / 20_001
    assert abs(drawn.p - exact.p) < 4 * np.sqrt(exact.p * (1 - exact.p) / 20_000) + 1e-4
    assert drawn == permutation_test(c, labels, seed=0, most=10, sampled=20_000)
    strong = permutation_test(cosines(planted(labels, 0.01), True), labels, seed=0, most=10, sampled=50)
    assert strong.p >= strong.least == 1 / 51


def test_a_vector_added_to_all_rows_changes_nothing_once_the_mean_is_out() -> None:
    rows = planted([0, 0, 1, 1, 2], 1.0)
    shift = 100.0 * np.random.default_rng(5).normal(size=rows.shape[1])
    assert cosines(rows + shift, centred=True) == pytest.approx(cosines(rows, centred=True), abs=1e-12)
    assert np.abs(cosines(rows + shift, centred=False) - cosines(rows, centred=False)).max() > 0.1


def test_rows_without_direction_are_named() -> None:
    with pytest.raises(ValueError, match="class 1 is zero"):
        cosines(np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 2.0]]), centred=False)
    with pytest.raises(ValueError, match="class 2 is the mean"):
        cosines(np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]), centred=True)


def test_what_a_control_explains_is_taken_out() -> None:
    control, other = symmetric(6, 1), symmetric(6, 2)
    labels = [0, 0, 0, 1, 1, 1]
    pairs = np.triu_indices(6, 1)
    assert left_over(3.0 * control + 2.0, control)[pairs] == pytest.approx(0.0, abs=1e-12)
    left = left_over(control + other, control)
    assert np.corrcoef(left[pairs], control[pairs])[0, 1] == pytest.approx(0.0, abs=1e-10)
    assert permutation_test(left_over(control, control), labels, 0).p == 1.0


def test_cophenetic_correlation_of_a_tree_by_hand() -> None:
    """a and b join at 0.2, c joins them at (0.5 + 0.7) / 2."""
    c = 1.0 - np.array([[0.0, 0.2, 0.5], [0.2, 0.0, 0.7], [0.5, 0.7, 0.0]])
    tree = linkage_of(c)
    assert tree[:, 2] == pytest.approx([0.2, 0.6])
    assert cophenetic_correlation(tree, c) == pytest.approx(np.corrcoef([0.2, 0.5, 0.7], [0.2, 0.6, 0.6])[0, 1])
    even = np.full((3, 3), 0.5)
    assert cophenetic_correlation(linkage_of(even), even) is None


def test_cophenetic_correlation_is_scipys() -> None:
    from scipy.cluster.hierarchy import cophenet
    from scipy.spatial.distance import squareform

    c = cosines(planted([0, 0, 1, 1, 2, 2, 2], 1.0), centred=True)
    tree = linkage_of(c)
    expected, _ = cophenet(tree, squareform(1.0 - c, checks=False))
    assert cophenetic_correlation(tree, c) == pytest.approx(expected)


def test_the_cut_finds_planted_groups_and_the_rand_index_says_so() -> None:
    labels = [2, 0, 0, 1, 1, 2, 0]
    effect = effect_of(cosines(planted(labels, 0.1), centred=True), labels, seed=0)
    assert effect.rand_index == 1.0
    assert len(set(cut(effect.linkage, 4))) == 4
    assert rand_index([0, 0, 1, 1], [0, 1, 0, 1]) == pytest.approx(-0.5)


NAMES = ["t-shirt", "ankle boot", "it's (odd): a,b;", "d", "e"]


def test_newick_parses_back_to_the_same_leaves_and_heights() -> None:
    c = cosines(planted([0, 0, 1, 1, 1], 1.0), centred=True)
    tree = linkage_of(c)
    found, rest = parse(newick(tree, NAMES).rstrip("\n"))
    assert rest == ";"
    heights, members = heights_of(found)
    expected = {}
    below = [frozenset([name]) for name in NAMES]
    for first, second, distance, _ in tree.tolist():
        below.append(below[int(first)] | below[int(second)])
        expected[below[-1]] = distance / 2
    assert members == frozenset(NAMES)
    assert {leaves: height for leaves, height in heights.items() if len(leaves) > 1} == pytest.approx(expected)


Node = tuple[str, list["Node"], float]


def parse(text: str) -> tuple[Node, str]:
    """A node of Newick text, and what follows it."""
    children: list[Node] = []
    name = ""
    if text[0] == "(":
        while text[0] in "(,":
            child, text = parse(text[1:])
            children.append(child)
        assert text[0] == ")"
        text = text[1:]
    else:
        quoted = re.match(r"'((?:[^']|'')*)'", text)
        assert quoted
        name, text = quoted.group(1).replace("''", "'"), text[quoted.end() :]
    length = re.match(r":([-+.0-9e]+)", text)
    return (name, children, float(length.group(1)) if length else 0.0), text[length.end() if length else 0 :]


def heights_of(node: Node) -> tuple[dict[frozenset[str], float], frozenset[str]]:
    """Each inner node by its leaves: how far it stands above them, the same way down whichever is taken."""
    name, children, _ = node
    if not children:
        return {frozenset([name]): 0.0}, frozenset([name])
    heights: dict[frozenset[str], float] = {}
    ways, leaves = [], frozenset[str]()
    for child in children:
        inner, members = heights_of(child)
        heights |= inner
        ways.append(inner[members] + child[2])
        leaves |= members
    assert ways == pytest.approx([ways[0]] * len(ways))
    return heights | {leaves: ways[0]}, leaves
