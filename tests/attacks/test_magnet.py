"""The Magnet attack against the exact robustness of nearest-centroid classifiers."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attacks.contract import AttackResult
from attacks.magnet import magnet_pgd
from attacks.threat import Norm, Threat
from model_zoo.kmeans import KMeansClassifier
from model_zoo.magnet import HEADS, Head, MagnetClassifier
from tests.attacks.models import Linear, Problem, assert_allowed, best_margin, broken_by

EPS: dict[Norm, float] = {"linf": 0.05, "l2": 0.12, "l1": 0.3}


def one_centroid_a_class(classes: int, seed: int) -> tuple[Tensor, Problem]:
    """Centroids, and the same decision as a linear model: -|x - c|^2 and 2 c.x - |c|^2 rank alike."""
    generator = torch.Generator().manual_seed(seed)
    centroids = 0.2 + 0.6 * torch.rand(classes, 1, 3, 3, generator=generator)
    flat = centroids.flatten(1)
    model = Linear(2 * flat, -(flat * flat).sum(dim=1))
    x = 0.2 + 0.6 * torch.rand(60, 1, 3, 3, generator=generator)
    return centroids, Problem(model, x, model(x).argmax(dim=1))


def attack(
    model: nn.Module, problem: Problem, threat: Threat, published: bool = False, restarts: int = 3
) -> AttackResult:
    return magnet_pgd(
        model,
        problem.x,
        problem.y,
        threat,
        seed=0,
        sample_ids=problem.sample_ids,
        steps=30,
        restarts=restarts,
        published=published,
    )


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(("classes", "restarts"), [(2, 1), (4, 20)])
def test_exactly_the_samples_that_can_be_broken_are_broken(classes: int, restarts: int, norm: Norm) -> None:
    """With several wrong classes the ascent may stop at the wrong one; restarts then find another."""
    centroids, problem = one_centroid_a_class(classes, seed=classes)
    model = KMeansClassifier(centroids, torch.arange(classes), classes, variance=1e-3)
    threat = Threat(norm, EPS[norm])
    truth = best_margin(problem, threat)
    result = attack(model, problem, threat, restarts=restarts)
    assert_allowed(threat, problem.x, result.x_adv)
    decided = np.abs(truth) > 1e-4
    breakable = truth[decided] > 0
    assert 5 < breakable.sum() < len(breakable) - 5, "the problem must hold both kinds"
    np.testing.assert_array_equal(broken_by(model, problem.y, result.x_adv).numpy()[decided], breakable)


@pytest.mark.parametrize(("eps", "breakable"), [(0.08, False), (0.12, True)])
def test_several_centroids_a_class_are_crossed_at_the_bisector(eps: float, breakable: bool) -> None:
    """On a line: own centroids 0.2 and 0.5, wrong ones 0.9 and 0.0; from 0.6 the border lies at 0.7."""
    centroids = torch.tensor([0.2, 0.5, 0.9, 0.0]).reshape(4, 1, 1, 1)
    model = KMeansClassifier(centroids, torch.tensor([0, 0, 1, 1]), 2)
    problem = Problem(Linear(torch.zeros(2, 1), torch.zeros(2)), torch.full((1, 1, 1, 1), 0.6), torch.tensor([0]))
    result = attack(model, problem, Threat("linf", eps))
    assert result.claimed is not None
    assert result.claimed.tolist() == [breakable]
    assert (result.x_adv.item() > 0.7) == breakable


def magnet_classifier(centroids: Tensor, head: Head, variance: float) -> MagnetClassifier:
    labels = torch.arange(len(centroids)) % 3
    return MagnetClassifier(nn.Flatten(), centroids.flatten(1), labels, variance, 3, head=head)


def test_every_head_gives_the_same_attack() -> None:
    centroids, problem = one_centroid_a_class(6, seed=1)
    y = magnet_classifier(centroids, "log_sum_exp", 0.2).eval()(problem.x).argmax(dim=1)
    relabelled = Problem(problem.model, problem.x, y)
    results = [attack(magnet_classifier(centroids, head, 0.2), relabelled, Threat("linf", 0.05)) for head in HEADS]
    assert results[0].claimed is not None
    assert 5 < int(results[0].claimed.sum()) < 55, "the problem must hold both kinds"
    for other in results[1:]:
        assert torch.equal(other.x_adv, results[0].x_adv)
        assert other.flags == results[0].flags


def test_an_underflowing_head_hides_success_but_not_the_way_to_it() -> None:
    """All scores are exactly 0, so no success shows; the walk is the same and crosses the border all the same."""
    centroids, problem = one_centroid_a_class(3, seed=1)
    threat = Threat("linf", 0.2)
    stable = magnet_classifier(centroids, "log_sum_exp", 1e-4)
    y = stable(problem.x).argmax(dim=1)
    scores = magnet_classifier(centroids, "scores", 1e-4)
    assert scores(problem.x).count_nonzero() == 0
    result = attack(scores, Problem(problem.model, problem.x, y), threat)
    truth = best_margin(Problem(problem.model, problem.x, y), threat)
    reached = broken_by(stable, y, result.x_adv).numpy()
    assert (truth > 0.05).sum() > 20
    assert reached[truth > 0.05].all()


def test_the_published_form_masks_itself_and_says_so() -> None:
    """Grey images on their own centroid, the border 0.2 away in every pixel: within reach of 0.22.

    From every random start eq. 3 is negative (own term at most 5.9, wrong clusters under 1e-8), so hinge and
    gradient are 0; the stable form walks straight to the border.
    """
    centroids = torch.tensor([0.3, 0.7]).reshape(2, 1, 1, 1).expand(2, 1, 3, 3)
    model = KMeansClassifier(centroids, torch.arange(2), 2, variance=0.03)
    x = centroids[torch.arange(8) % 2].contiguous()
    problem = Problem(Linear(torch.zeros(2, 9), torch.zeros(2)), x, torch.arange(8) % 2)
    threat = Threat("linf", 0.22)
    stable, published = attack(model, problem, threat), attack(model, problem, threat, published=True)
    assert stable.claimed is not None
    assert published.claimed is not None
    assert bool(stable.claimed.all())
    assert stable.flags == ()
    assert not bool(published.claimed.any())
    assert published.flags == (
        "published form of the Magnet attack: hinge and log(. + 1e-8) mask its gradients",
        "zero or non-finite gradient at 8 of 8 samples",
    )


def test_alpha_opens_the_hinge_of_the_published_form() -> None:
    """Where log(. + 1e-8) does not bind, a large alpha makes the published attack as good as the stable one."""
    centroids, problem = one_centroid_a_class(2, seed=2)
    model = KMeansClassifier(centroids, torch.arange(2), 2, variance=0.2)
    threat = Threat("linf", 0.05)
    results = [
        magnet_pgd(
            model,
            problem.x,
            problem.y,
            threat,
            seed=0,
            sample_ids=problem.sample_ids,
            steps=40,
            restarts=1,
            published=published,
            alpha=50.0,
        )
        for published in (False, True)
    ]
    assert torch.equal(results[0].x_adv, results[1].x_adv)


def test_a_model_without_clusters_is_refused() -> None:
    _, problem = one_centroid_a_class(2, seed=0)
    with pytest.raises(TypeError, match="magnet attacks need a clustering classifier"):
        attack(problem.model, problem, Threat("linf", 0.1))
