"""Radii against brute force, closed forms and the papers' own bounds; certificates against attacks."""

import dataclasses
import math
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from attacks.certify import certify
from attacks.contract import AttackResult
from attacks.pgd import pgd
from attacks.radii import eq3_bounds, hard_radii, kernel_radii, linear_radii, soft_radii
from attacks.threat import NORMS, Norm, Threat
from model_zoo.adapter import LogitsModel
from model_zoo.kmeans import KMeansClassifier
from model_zoo.magnet import MagnetClassifier

Rule = Literal["hard", "soft", "fuzzy"]
FUZZIFIER = 2.0
some = settings(max_examples=30, deadline=None, derandomize=True)


@dataclasses.dataclass(frozen=True)
class Plane:
    """A clustering classifier of points in the plane, features being a rotation times `stretch`."""

    centroids: Tensor
    labels: Tensor
    variance: float = 0.5
    stretch: float = 1.0

    def distances(self, points: Tensor) -> Tensor:
        turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
        features = self.stretch * points @ turn.T
        return (features[:, None] - self.centroids[None]).square().sum(dim=2)

    def right(self, points: Tensor, y: int, rule: Rule) -> Tensor:
        """Whether points are predicted as y, ties and all, by the definition."""
        distances = self.distances(points)
        values = []
        for c in range(int(self.labels.max()) + 1):
            mine = -distances[:, self.labels == c] / (2 * self.variance)
            if rule == "fuzzy":
                mine = fuzzy_kernel(distances[:, self.labels == c])
            if mine.shape[1] == 0:
                values.append(torch.full((len(points),), -torch.inf, dtype=torch.float64))
            else:
                values.append(mine.amax(dim=1) if rule == "hard" else mine.exp().sum(dim=1).log())
        logits = torch.stack(values, dim=1)
        others = logits.clone()
        others[:, y] = -torch.inf
        return logits[:, y] > others.amax(dim=1)

    def radii(self, points: Tensor, y: Tensor, rule: Rule) -> Tensor:
        distances = self.distances(points)
        if rule == "hard":
            return hard_radii(distances, y, self.labels, self.centroids, self.stretch)
        if rule == "fuzzy":
            return kernel_radii(distances, y, self.labels, fuzzy_kernel, self.stretch)
        return soft_radii(distances, y, self.labels, self.centroids, self.variance, self.stretch)


def fuzzy_kernel(squared_distances: Tensor) -> Tensor:
    """log d^(-2 / (m - 1))."""
    return -squared_distances.log() / (FUZZIFIER - 1)


def plane(seed: int, clusters: int, classes: int, variance: float = 0.5, stretch: float = 1.0) -> Plane:
    generator = torch.Generator().manual_seed(seed)
    centroids = torch.randn(clusters, 2, generator=generator, dtype=torch.float64)
    labels = torch.cat([torch.arange(classes), torch.randint(classes, (clusters - classes,), generator=generator)])
    return Plane(centroids, labels, variance, stretch)


def disc(radius: float, rings: int = 25, angles: int = 180) -> Tensor:
    """Points of a disc around the origin, its edge among them."""
    r = torch.linspace(0, radius, rings, dtype=torch.float64)[:, None, None]
    a = torch.linspace(0, 2 * math.pi, angles + 1, dtype=torch.float64)[:-1]
    return (r * torch.stack([a.cos(), a.sin()], dim=1)[None]).reshape(-1, 2)


def test_the_two_nearest_centroids_are_not_enough() -> None:
    """The papers' sentence on several clusters gives 1.1 here; the second wrong centroid is met after 0.15."""
    case = Plane(torch.tensor([[1.0, 0.0], [1.2, 0.0], [-1.3, 0.0]], dtype=torch.float64), torch.tensor([0, 1, 1]))
    origin = torch.zeros(1, 2, dtype=torch.float64)
    distances = (origin[:, None] - case.centroids).square().sum(dim=2)
    nearest_pair = float((distances[0, 1] - distances[0, 0]) / (2 * 0.2))
    radius = float(hard_radii(distances, torch.tensor([0]), case.labels, case.centroids, 1.0))
    assert [nearest_pair, radius] == pytest.approx([1.1, 0.15])
    beyond = torch.tensor([[-0.1500001, 0.0]], dtype=torch.float64)
    assert (beyond - case.centroids).norm(dim=1).argmin() == 2


@given(
    seed=st.integers(0, 2**31),
    clusters=st.integers(3, 9),
    classes=st.integers(2, 3),
    rule=st.sampled_from(["hard", "soft", "fuzzy"]),
    variance=st.sampled_from([0.05, 0.5, 5.0]),
    stretch=st.sampled_from([0.5, 1.0, 3.0]),
)
@some
def test_no_point_within_a_radius_breaks(
    seed: int, clusters: int, classes: int, rule: Rule, variance: float, stretch: float
) -> None:
    case = plane(seed, clusters, classes, variance, stretch)
    points = torch.randn(6, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) / stretch
    for y in range(classes):
        radii = case.radii(points, torch.full((6,), y), rule)
        right = case.right(points, y, rule)
        assert bool(((radii > 0) == right).all())
        for point, radius in zip(points[right], radii[right].tolist(), strict=True):
            assert bool(case.right(point + disc(radius * (1 - 1e-9)), y, rule).all())


@pytest.mark.parametrize("rule", ["hard", "soft"])
@pytest.mark.parametrize("stretch", [0.25, 1.0, 4.0])
def test_on_a_scaled_rotation_with_two_centroids_the_radius_is_attained(rule: Rule, stretch: float) -> None:
    """ClusTR, appendix C: there the features move by L times the image's way, in any direction."""
    case = plane(3, 2, 2, variance=0.3, stretch=stretch)
    points = torch.randn(20, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64) / stretch
    for y in range(2):
        right = case.right(points, y, rule)
        assert bool(right.any())
        radii = case.radii(points[right], torch.full((int(right.sum()),), y), rule)
        for point, radius in zip(points[right], radii.tolist(), strict=True):
            edge = disc(1.0, rings=2, angles=10_000)[10_000:]
            assert bool(case.right(point + edge * radius * (1 - 1e-9), y, rule).all())
            assert not bool(case.right(point + edge * radius * (1 + 1e-6), y, rule).all())


def one(distances: list[float]) -> Tensor:
    return torch.tensor([distances], dtype=torch.float64)


def test_a_wrong_centroid_on_an_own_one_leaves_nothing() -> None:
    centroids, labels, y = torch.tensor([[0.0], [0.0], [5.0]]), torch.tensor([0, 1, 1]), torch.tensor([0])
    assert hard_radii(one([1.0, 1.0, 16.0]), y, labels, centroids, 1.0).tolist() == [0.0]
    assert soft_radii(one([1.0, 1.0, 16.0]), y, labels, centroids, 0.5, 1.0).tolist() == [0.0]


def test_a_wrong_centroid_on_a_far_own_one_is_held_off_by_a_nearer_one() -> None:
    centroids, labels, y = torch.tensor([[0.0], [6.0], [6.0]]), torch.tensor([0, 0, 1]), torch.tensor([0])
    assert hard_radii(one([1.0, 25.0, 25.0]), y, labels, centroids, 1.0).tolist() == [2.0]


def test_an_own_cluster_given_twice_outweighs_one_wrong_one_everywhere() -> None:
    centroids, labels = torch.zeros(3, 1), torch.tensor([0, 0, 1])
    radii = soft_radii(one([4.0, 4.0, 4.0]).repeat(2, 1), torch.tensor([0, 1]), labels, centroids, 0.5, 1.0)
    assert radii.tolist() == [math.inf, 0.0]


@pytest.mark.parametrize("rule", ["hard", "soft", "fuzzy"])
def test_classes_without_centroids(rule: Rule) -> None:
    """Nobody is ever predicted as one; where only one class has centroids it cannot be left."""
    case = Plane(torch.tensor([[0.0, 0.0], [4.0, 0.0]], dtype=torch.float64), torch.tensor([2, 2]))
    points = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    assert case.radii(points, torch.tensor([2, 0]), rule).tolist() == [math.inf, 0.0]
    two = dataclasses.replace(case, labels=torch.tensor([0, 2]))
    radii = two.radii(points, torch.tensor([0, 1]), rule).tolist()
    assert 0 < radii[0] < math.inf
    assert radii[1] == 0.0


@pytest.mark.parametrize("rule", ["hard", "soft"])
def test_a_slack_shortens_each_samples_radius(rule: Rule) -> None:
    case = plane(0, 2, 2)
    points = case.centroids[:1].repeat(2, 1) @ torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    y, slack = torch.tensor([0, 0]), torch.tensor([0.0, 0.1], dtype=torch.float64)
    distances, apart = case.distances(points), float((case.centroids[0] - case.centroids[1]).norm())
    if rule == "hard":
        radii, lost = hard_radii(distances, y, case.labels, case.centroids, 2.0, slack), 0.1 / (2 * 2.0 * apart)
    else:
        radii = soft_radii(distances, y, case.labels, case.centroids, 0.5, 2.0, slack)
        lost = 0.5 * 0.1 / (2.0 * apart)
    assert float(radii[0] - radii[1]) == pytest.approx(lost)


@given(seed=st.integers(0, 2**31))
@some
def test_eq3_brackets_the_quantity_of_theorem_1(seed: int) -> None:
    case = plane(seed, 2, 2)
    distances = case.distances(torch.randn(8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))
    y = distances.argmin(dim=1)
    theorem = (distances.amax(dim=1) - distances.amin(dim=1)) / (
        2 * 3.0 * (case.centroids[0] - case.centroids[1]).norm()
    )
    lower, upper = eq3_bounds(distances, y, case.labels, 3.0)
    assert bool((lower <= theorem * (1 + 1e-9)).all())
    assert bool((theorem <= upper * (1 + 1e-9)).all())
    torch.testing.assert_close(hard_radii(distances, y, case.labels, case.centroids, 3.0), theorem)


def test_eq3_is_undefined_for_a_misclassified_sample() -> None:
    lower, upper = eq3_bounds(one([4.0, 1.0]), torch.tensor([0]), torch.tensor([0, 1]), 1.0)
    assert bool(lower.isnan().all())
    assert bool(upper.isnan().all())


class Features(nn.Module):
    """A small network whose Lipschitz constant is about 1."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.network = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 6))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.network(x)
        return out


def magnet(
    nearest: int | None = None, backbone: nn.Module | None = None, fuzzifier: float | None = None, classes: int = 3
) -> MagnetClassifier:
    backbone = Features() if backbone is None else backbone
    with torch.no_grad():
        centroids = backbone(images(9))
    labels = torch.arange(9) % classes
    return MagnetClassifier(backbone, centroids, labels, 0.02, classes, nearest=nearest, fuzzifier=fuzzifier)


def images(n: int, seed: int = 0) -> Tensor:
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def certified(model: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> tuple[AttackResult, Tensor]:
    result = certify(model, x, y, threat, seed=0, sample_ids=torch.arange(len(x)))
    assert result.x_adv is x
    assert result.radii is not None
    assert result.certified is not None
    assert result.certified.tolist() == (result.radii > threat.eps + 1e-6).tolist()
    return result, result.radii


@pytest.mark.parametrize("nearest", [None, 1, 9])
def test_radii_of_the_norms_and_the_constant_are_told(nearest: int | None) -> None:
    model, x = magnet(nearest), images(30, seed=1)
    y = model(x).argmax(dim=1)
    radii = {norm: certified(model, x, y, Threat(norm, 0.01))[1] for norm in NORMS}
    assert float(radii["l2"].median()) > 0.01
    assert bool((radii["l1"] == radii["l2"]).all())
    torch.testing.assert_close(radii["linf"], radii["l2"] / 8)
    result, _ = certified(model, x, y, Threat("linf", 0.01))
    assert result.proofs is not None
    assert torch.equal(result.proofs["radius"], radii["linf"])
    lipschitz = float(result.proofs["lipschitz"][0])
    assert result.flags == (f"proven Lipschitz constant of the features {lipschitz:.4g}",)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("nearest", [None, 1])
def test_attacks_at_the_radius_break_no_certified_sample(nearest: int | None, norm: Norm) -> None:
    model, x = magnet(nearest), images(20, seed=2)
    y = model(x).argmax(dim=1)
    _, radii = certified(model, x, y, Threat(norm, 0.0))
    assert bool((radii > 0).any())
    for i in torch.nonzero(radii > 0).flatten().tolist():
        one, ids = slice(i, i + 1), torch.tensor([i])
        threat = Threat(norm, float(radii[i]))
        found = pgd(model, x[one], y[one], threat, seed=0, sample_ids=ids, steps=5, restarts=1, step_size=None)
        assert model(found.x_adv).argmax(dim=1).tolist() == y[one].tolist()


@pytest.mark.parametrize("fuzzifier", [1.3, 2.0, 4.0])
@pytest.mark.parametrize(("nearest", "classes"), [(None, 3), (1, 3), (None, 9)])
def test_attacks_at_the_radius_break_no_sample_certified_of_a_fuzzy_classifier(
    nearest: int | None, classes: int, fuzzifier: float
) -> None:
    model, x = magnet(nearest, fuzzifier=fuzzifier, classes=classes), images(20, seed=2)
    y = model(x).argmax(dim=1)
    _, radii = certified(model, x, y, Threat("l2", 0.0))
    assert bool((radii > 0).any())
    for i in torch.nonzero(radii > 0).flatten().tolist():
        one, ids = slice(i, i + 1), torch.tensor([i])
        threat = Threat("l2", float(radii[i]))
        found = pgd(model, x[one], y[one], threat, seed=0, sample_ids=ids, steps=5, restarts=1, step_size=None)
        assert model(found.x_adv).argmax(dim=1).tolist() == y[one].tolist()


def test_where_the_nearest_cluster_decides_the_kernel_does_not_matter() -> None:
    """D = 1 gives the Gaussian classifier's radii; one cluster a class the same but for a logarithm's rounding."""
    x = images(30, seed=1)
    for classes in (3, 9):
        y = magnet(1, classes=classes)(x).argmax(dim=1)
        of_one, fuzzy = (
            certified(magnet(1, fuzzifier=m, classes=classes), x, y, Threat("l2", 0.0))[1] for m in (None, 2.0)
        )
        assert torch.equal(of_one, fuzzy)
    all_clusters = certified(magnet(fuzzifier=2.0, classes=9), x, y, Threat("l2", 0.0))[1]
    torch.testing.assert_close(all_clusters, of_one, rtol=0, atol=1e-4)
    assert bool((all_clusters <= of_one).all())


def test_the_gaussian_rule_does_not_hold_for_a_fuzzy_classifier() -> None:
    """A point that the Gaussian rule would certify breaks: far from all clusters, three beat one that is nearer."""
    centroids = torch.tensor([[0.0, 0.0], [2.0, 0.0], [2.1, 0.0], [2.2, 0.0]], dtype=torch.float64)
    case = Plane(centroids, torch.tensor([0, 1, 1, 1]), variance=0.05)
    turned_back = torch.tensor([[0.6, 0.8], [-0.8, 0.6]], dtype=torch.float64)
    point, y = torch.tensor([[0.7, 0.0]], dtype=torch.float64) @ turned_back.T, torch.tensor([0])
    reach = {rule: float(case.radii(point, y, rule)) for rule in ("soft", "fuzzy")}
    assert 0.0 < reach["fuzzy"] < reach["soft"]
    assert bool(case.right(point[0] + disc(reach["fuzzy"] * (1 - 1e-9)), 0, "fuzzy").all())
    assert not bool(case.right(point[0] + disc(reach["soft"]), 0, "fuzzy").all())


def test_slacks_shorten_the_radius_of_a_kernel() -> None:
    case = plane(1, 4, 2)
    points = torch.randn(20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points = points[case.right(points, 0, "fuzzy")]
    y, none = torch.zeros(len(points), dtype=torch.int64), torch.zeros(len(points), dtype=torch.float64)
    distances = case.distances(points)
    free = kernel_radii(distances, y, case.labels, fuzzy_kernel, 1.0)
    for slack, off in ((none + 0.01, none), (none, none + 0.01)):
        assert bool((kernel_radii(distances, y, case.labels, fuzzy_kernel, 1.0, slack, off) < free).all())
    assert kernel_radii(distances, y, case.labels, fuzzy_kernel, 1.0, none + 1e3).tolist() == none.tolist()


def test_rounding_is_taken_off_and_the_batch_does_not_matter() -> None:
    model, x = magnet(), images(12, seed=3)
    y = model(x).argmax(dim=1)
    threat = Threat("l2", 0.05)
    _, together = certified(model, x, y, threat)
    alone = torch.cat([certified(model, x[i : i + 1], y[i : i + 1], threat)[1] for i in range(12)])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-6)
    assert certified(model, x, (y + 1) % 3, threat)[1].tolist() == [0.0] * 12


def test_k_means_has_the_constant_1_and_its_closed_form() -> None:
    centroids, labels = images(6).flatten(1), torch.tensor([0, 0, 1, 1, 2, 2])
    model, x = KMeansClassifier(centroids, labels, 3), images(20, seed=4)
    y = model(x).argmax(dim=1)
    result, radii = certified(model, x, y, Threat("l2", 0.1))
    assert result.proofs is not None
    assert result.proofs["lipschitz"].tolist() == [1.0] * 20
    squared = torch.cdist(x.flatten(1).double(), centroids.double()).square()
    expected = hard_radii(squared, y, labels, centroids, 1.0)
    torch.testing.assert_close(radii, expected, rtol=0, atol=1e-4)
    assert bool((radii < expected).all())


class Contrary(KMeansClassifier):
    """Predicts a class of the farthest centroid: it does not decide as it says it does."""

    def logits_from_distances(self, squared_distances: Tensor) -> Tensor:
        return -super().logits_from_distances(squared_distances)


def test_a_sample_the_model_itself_gets_wrong_has_no_radius() -> None:
    x = images(6)
    model = Contrary(x.flatten(1), torch.tensor([0, 0, 1, 1, 2, 2]), 3)
    assert certified(model, x, torch.tensor([0, 0, 1, 1, 2, 2]), Threat("l2", 0.0))[1].tolist() == [0.0] * 6


def test_new_weights_get_a_new_constant() -> None:
    model, x = magnet(), images(3)
    y, threat = torch.tensor([0, 1, 2]), Threat("l2", 0.01)
    before = certified(model, x, y, threat)[1]
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter.data.mul_(3.0)
        model.centroids.copy_(model.backbone(images(9)))
    after, radii = certified(model, x, y, threat)
    assert after.proofs is not None
    assert float(after.proofs["lipschitz"][0]) > 5.0
    assert not torch.equal(before, radii)


def test_masked_clusters_are_not_certified() -> None:
    x = images(4)
    result, radii = certified(magnet(nearest=4), x, torch.zeros(4, dtype=torch.int64), Threat("l2", 0.0))
    assert bool(radii.isnan().all())
    assert result.flags == ("no certificate is known for D = 4 of 9 nearest clusters",)


def test_features_without_a_constant_are_not_certified() -> None:
    x, model = images(4), magnet(backbone=nn.Sequential(nn.Flatten(), nn.Softmax(dim=1)))
    for _ in range(2):
        result, radii = certified(model, x, torch.zeros(4, dtype=torch.int64), Threat("l2", 0.0))
        assert bool(radii.isnan().all())
        assert result.flags == ("nothing certified: no rule for softmax",)


def test_a_model_that_hides_its_features_is_refused() -> None:
    x = images(1)
    with pytest.raises(ValueError, match="shows its backbone and centroids"):
        certify(nn.Flatten(), x, torch.tensor([0]), Threat("l2", 0.1), seed=0, sample_ids=torch.tensor([0]))


class Ordinary(nn.Module):
    """A network as those of the zoo: `classifier` on `features` of `feature_dim` numbers."""

    def __init__(self, features: nn.Module, feature_dim: int, classes: int = 4) -> None:
        super().__init__()
        self.body, self.feature_dim = features, feature_dim
        with torch.random.fork_rng():
            torch.manual_seed(7)
            self.classifier = nn.Linear(feature_dim, classes)

    def features(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.classifier(self.features(x))
        return out


def linear_network(stretch: float, std: float = 1.0) -> LogitsModel:
    """Features are `stretch` / `std` times a rotation of the pixels."""
    rotation = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(0))).Q
    layer = nn.Linear(64, 64)
    with torch.no_grad():
        layer.weight.copy_(stretch * rotation)
    return LogitsModel(Ordinary(nn.Sequential(nn.Flatten(), layer), 64), [0.5], [std])


@pytest.mark.parametrize(("stretch", "std"), [(1.0, 1.0), (3.0, 1.0), (1.0, 0.25)])
def test_a_linear_networks_radius_is_the_distance_to_its_boundary(stretch: float, std: float) -> None:
    """A rotation loses nothing of the constant, so that the bound is attained: min |w . x + b| / ||w||."""
    model, x = linear_network(stretch, std), images(25, seed=6)
    y = model(x).argmax(dim=1)
    result, radii = certified(model, x, y, Threat("l2", 0.01))
    with torch.no_grad():
        zero = torch.zeros(1, 1, 8, 8)
        rows = (model(torch.eye(64).reshape(64, 1, 8, 8)) - model(zero)).T.double()  # of the whole map
        logits = model(x).double()
    apart = (rows[y][:, None] - rows[None]).norm(dim=2)
    lead = (logits.gather(1, y[:, None]) - logits).scatter(1, y[:, None], math.inf)
    truth, rival = (lead / apart.clamp_min(1e-9)).min(dim=1)
    torch.testing.assert_close(radii, truth, rtol=0, atol=2e-4)
    assert bool((radii < truth).all())
    assert result.proofs is not None
    assert result.proofs["lipschitz"].tolist() == pytest.approx([stretch / std] * 25, rel=1e-4)
    assert set(result.proofs) == {"radius", "lipschitz"}
    way = rows[rival] - rows[y]
    beyond = x.double().flatten(1) + (radii + 1e-3)[:, None] * way / way.norm(dim=1, keepdim=True)
    assert not bool((model(beyond.float().reshape(x.shape)).argmax(dim=1) == y).any())
    torch.testing.assert_close(certified(model, x, y, Threat("linf", 0.01))[1], radii / 8)
    assert torch.equal(certified(model, x, y, Threat("l1", 0.01))[1], radii)
    assert certified(model, x, (y + 1) % 4, Threat("l2", 0.01))[1].tolist() == [0.0] * 25


@pytest.mark.parametrize("norm", NORMS)
def test_attacks_at_the_radius_break_no_certified_sample_of_an_ordinary_network(norm: Norm) -> None:
    model, x = LogitsModel(Ordinary(Features().network, 6)), images(20, seed=2)
    y = model(x).argmax(dim=1)
    _, radii = certified(model, x, y, Threat(norm, 0.0))
    assert bool((radii > 0).any())
    for i in torch.nonzero(radii > 0).flatten().tolist():
        one, ids = slice(i, i + 1), torch.tensor([i])
        threat = Threat(norm, float(radii[i]))
        found = pgd(model, x[one], y[one], threat, seed=0, sample_ids=ids, steps=20, restarts=3, step_size=None)
        assert model(found.x_adv).argmax(dim=1).tolist() == y[one].tolist()


def test_classes_of_the_same_weights_are_told_apart_by_their_biases_everywhere() -> None:
    logits, y = torch.tensor([[2.0, 1.0], [1.0, 2.0], [1.0, 1.0]], dtype=torch.float64), torch.tensor([0, 0, 0])
    assert linear_radii(logits, y, torch.ones(2, 3), 1.0).tolist() == [math.inf, 0.0, 0.0]
    weight = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    slack = torch.tensor([0.5, 0.0, 0.0], dtype=torch.float64)
    assert linear_radii(logits, y, weight, 2.0).tolist() == pytest.approx([0.1, 0.0, 0.0])
    assert linear_radii(logits, y, weight, 2.0, slack).tolist() == pytest.approx([0.05, 0.0, 0.0])


def test_a_network_not_known_to_end_in_a_linear_layer_is_not_certified() -> None:
    x, y = images(3), torch.zeros(3, dtype=torch.int64)
    result, radii = certified(LogitsModel(nn.Sequential(nn.Flatten(), nn.Linear(64, 3))), x, y, Threat("l2", 0.0))
    assert bool(radii.isnan().all())
    assert result.flags == ("nothing certified: the network is not known to end in a linear layer",)
    unbounded = LogitsModel(Ordinary(nn.Sequential(nn.Flatten(), nn.Softmax(dim=1)), 64))
    assert certified(unbounded, x, y, Threat("l2", 0.0))[0].flags == ("nothing certified: no rule for softmax",)


class Dishonest(Ordinary):
    """Does not compute what its parts say: its logits are half as far apart."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 2.0


def test_logits_that_are_not_the_last_layers_certify_nothing() -> None:
    model, x = LogitsModel(Dishonest(Features().network, 6)), images(10)
    y = model(x).argmax(dim=1)
    assert certified(model, x, y, Threat("l2", 0.0))[1].tolist() == [0.0] * 10
