"""The exact verifier against brute force, linear programmes, least-distance programmes and closed forms."""

import itertools
import math
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from attacks import centroid_solvers, exact_proofs
from attacks.centroid_bounds import Balls, Centroids
from attacks.contract import AttackResult
from attacks.exact import exact, proven
from attacks.registry import call, resolve
from attacks.threat import TOLERANCE, Norm, Threat
from benchmark.judge import judge
from model_zoo.kmeans import KMeansClassifier
from tests.attacks.centroid_problems import Array, CentroidProblem, guarded_problem, random_problem, true_radii
from tests.attacks.models import Curved, digits

norms = st.sampled_from(["linf", "l2"])
seeds = st.integers(0, 2**31 - 1)
sizes = st.sampled_from([1, 2, 3, 8])
grids = st.sampled_from([None, 2, 8])
epsilons = st.sampled_from([1e-9, 0.02, 0.1, 0.3, 1.0, math.sqrt(8)])
some = settings(max_examples=40, deadline=None, derandomize=True)


def run_exact(problem: CentroidProblem, threat: Threat) -> AttackResult:
    return exact(problem.model, problem.x, problem.y, threat, seed=0, sample_ids=problem.ids)


def verdicts(result: AttackResult) -> tuple[Tensor, Tensor]:
    assert result.certified is not None
    assert result.claimed is not None
    assert not bool((result.certified & result.claimed).any())
    return result.certified, result.claimed


def leads_after_rounding(problem: CentroidProblem, threat: Threat) -> float:
    """A lead that float32 rounding can neither make nor undo."""
    x = problem.x.flatten(1).double()
    error = problem.model.distance_error((x - threat.eps).clamp(0, 1), (x + threat.eps).clamp(0, 1))
    return 2.5 * float(error.max()) + 1e-9


def certified_again(problem: CentroidProblem, threat: Threat, proofs: dict[str, Tensor]) -> Tensor:
    return proven(problem.model, problem.x, problem.y, threat, problem.ids, proofs)


def two_classes(own: list[list[float]], wrong: list[list[float]], x: list[list[float]]) -> CentroidProblem:
    """Centroids of class 0 and of class 1; the images are of class 0."""
    labels = torch.tensor([0] * len(own) + [1] * len(wrong))
    images = torch.tensor(x)[:, None, None]
    return CentroidProblem(torch.tensor(own + wrong), labels, images, torch.zeros(len(x), dtype=torch.long), 2)


@given(norm=norms, eps=epsilons, seed=seeds, d=sizes, clusters=st.integers(1, 7), steps=grids)
@example(norm="l2", eps=1.0, seed=0, d=1, clusters=1, steps=None)
@some
def test_every_sample_is_decided_as_independent_programmes_decide_it(
    norm: Norm, eps: float, seed: int, d: int, clusters: int, steps: int | None
) -> None:
    problem, threat = random_problem(seed, d, clusters, steps=steps), Threat(norm, eps)
    result = run_exact(problem, threat)
    certified, claimed = verdicts(result)
    judged = judge(problem.model, problem.x, problem.y, result.x_adv, threat)
    assert bool((judged.allowed | ~claimed).all()), "the judge refuses a claimed image"
    rounding = leads_after_rounding(problem, threat)
    nearest, exactly, furthest = (true_radii(problem, norm, lead) for lead in (-rounding, 0.0, rounding))
    assert not bool((certified.numpy() & (exactly <= eps)).any()), "certified, and can be broken"
    assert not bool((claimed.numpy() & (nearest > eps + 2 * TOLERANCE)).any())
    assert bool((judged.broken.numpy() | ~(furthest < eps)).all()), "broken for certain, and not found"
    decided = (certified | claimed).numpy()
    assert bool((decided | (nearest < eps + 2 * TOLERANCE) & (furthest > eps)).all()), "undecided far from the boundary"
    assert bool(result.flags) == (not decided.all())
    assert result.proofs is not None
    assert torch.equal(certified_again(problem, threat, dict(result.proofs)), certified)


@given(norm=norms, seed=seeds, offset=st.sampled_from([-1e-5, -1e-6, -2e-7, 0.0, 2e-7, 1e-6, 1e-5]))
@some
def test_next_to_the_boundary_nothing_is_certified_that_can_be_broken(norm: Norm, seed: int, offset: float) -> None:
    """eps is the radius of one of the samples, but for less than verdicts can tell apart or little more."""
    problem = random_problem(seed, 3, 6)
    radii = true_radii(problem, norm)
    reached = radii[np.isfinite(radii) & (radii > 0)]
    threat = Threat(norm, max(0.0, float(reached.max(initial=0.1)) + offset))
    result = run_exact(problem, threat)
    certified, claimed = verdicts(result)
    assert not bool((certified.numpy() & (radii <= threat.eps + TOLERANCE)).any())
    assert bool((judge(problem.model, problem.x, problem.y, result.x_adv, threat).allowed | ~claimed).all())


@given(norm=norms, eps=st.sampled_from([0.05, 0.15, 0.4]), seed=seeds, clusters=st.integers(2, 8))
@some
def test_no_image_of_a_fine_grid_breaks_a_certified_sample(norm: Norm, eps: float, seed: int, clusters: int) -> None:
    problem, threat = random_problem(seed, 2, clusters), Threat(norm, eps)
    certified, claimed = verdicts(run_exact(problem, threat))
    line = torch.linspace(-eps, eps, 81)
    offsets = torch.cartesian_prod(line, line)
    if norm == "l2":
        offsets = offsets[offsets.norm(dim=1) <= eps]
    for row in range(len(problem.x)):
        images = (problem.x[row] + offsets[:, None, None]).clamp(0, 1)
        with torch.no_grad():
            wrong = bool((problem.model(images).argmax(dim=1) != problem.y[row]).any())
        assert not (wrong and bool(certified[row]))
        assert not wrong or bool(claimed[row])


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("classes", [2, 5])
def test_one_centroid_a_class_has_a_closed_form_inside_the_box(norm: Norm, classes: int) -> None:
    """(d_j^2 - d_i^2) / (2 ||c_i - c_j||_dual), where the box does not bind: images and centroids in its middle."""
    generator = torch.Generator().manual_seed(classes)
    centroids, x = (0.45 + 0.1 * torch.rand(n, 20, generator=generator) for n in (classes, 10))
    apart = (centroids[:, None] - centroids[None]).double().norm(p=1 if norm == "linf" else 2, dim=2)
    squared = (x[:, None] - centroids[None]).double().square().sum(dim=2)
    y = squared.argmin(dim=1)
    lead = squared - squared.gather(1, y[:, None])
    radii = torch.where(lead > 0, lead / (2 * apart[y]).clamp_min(1e-9), torch.inf).amin(dim=1)
    problem = CentroidProblem(centroids, torch.arange(classes), x[:, None, None], y, classes)
    assert int((radii > 1e-4).sum()) > 5
    for row, radius in enumerate(radii.tolist()):
        certified, _ = verdicts(run_exact(problem, Threat(norm, max(0.0, radius - 1e-5))))
        assert bool(certified[row]) or radius < 1e-4
        _, claimed = verdicts(run_exact(problem, Threat(norm, radius + 1e-5)))
        assert bool(claimed[row])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_two_nearest_centroids_do_not_decide(norm: Norm) -> None:
    """Image 0.5, own centroid 0.5 + 1 / 4, wrong ones 0.5 + 1.2 / 4 and 0.5 - 1.3 / 4: the further one is met first."""
    problem = two_classes([[0.75]], [[0.8], [0.175]], [[0.5]])
    assert verdicts(run_exact(problem, Threat(norm, 0.0374)))[0].tolist() == [True]
    assert verdicts(run_exact(problem, Threat(norm, 0.0376)))[1].tolist() == [True]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_certificates_cover_what_the_judge_allows_beyond_eps(norm: Norm) -> None:
    """Centroids so near to one another that rounding is far below TOLERANCE, and so leaves the verdict to it."""
    problem = two_classes([[0.495]], [[0.505]], [[0.497]])
    radius = float(problem.centroids.double().mean() - problem.x.double())
    for short, certain in ((0.5 * TOLERANCE, False), (0.98 * TOLERANCE, False), (1.02 * TOLERANCE, True)):
        assert verdicts(run_exact(problem, Threat(norm, radius - short)))[0].tolist() == [certain]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_duplicate_in_another_class_never_counts_as_proof(norm: Norm) -> None:
    """The first sample is nearest to the centroid that both classes hold; the second is guarded by another one."""
    problem = two_classes([[0.2, 0.2], [0.8, 0.8]], [[0.2, 0.2]], [[0.25, 0.2], [0.8, 0.75]])
    certified, claimed = verdicts(run_exact(problem, Threat(norm, 0.05)))
    assert certified.tolist() == [False, True]
    assert claimed.tolist() == [True, False]


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("eps", [1e-9, 0.3, 2.0])
def test_classes_without_centroids(norm: Norm, eps: float) -> None:
    """Class 1 is never predicted: its samples are broken, and it wins none from class 0, the only one left."""
    centroids, x = torch.rand(3, 4, generator=torch.Generator().manual_seed(0)), torch.full((2, 1, 1, 4), 0.5)
    problem = CentroidProblem(centroids, torch.tensor([0, 0, 0]), x, torch.tensor([0, 1]), 3)
    certified, claimed = verdicts(run_exact(problem, Threat(norm, eps)))
    assert certified.tolist() == [True, False]
    assert claimed.tolist() == [False, True]


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("eps", [0.0, 1e-9, 0.1])
def test_a_sample_on_the_boundary_is_broken_because_a_tie_is(norm: Norm, eps: float) -> None:
    problem = two_classes([[0.25, 0.5]], [[0.75, 0.5]], [[0.5, 0.5], [0.5, 1.0], [0.5, 0.0]])
    assert verdicts(run_exact(problem, Threat(norm, eps)))[1].tolist() == [True] * 3


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_box_can_protect_whatever_the_radius(norm: Norm) -> None:
    """The rival is nearer only where the first pixel exceeds 1.05, so its programme has no solution."""
    problem = two_classes([[0.6, 0.5], [0.9, 0.2]], [[1.5, 0.5]], [[0.9, 0.5], [1.0, 0.5]])
    assert verdicts(run_exact(problem, Threat(norm, 1.0)))[0].tolist() == [True, True]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_empty_batch(norm: Norm) -> None:
    problem = two_classes([[0.2]], [[0.8]], [[0.1]])
    empty = CentroidProblem(problem.centroids, problem.labels, problem.x[:0], problem.y[:0], 2)
    result = run_exact(empty, Threat(norm, 0.1))
    assert result.x_adv.shape == (0, 1, 1, 1)
    assert result.flags == ()
    assert [len(part) for part in verdicts(result)] == [0, 0]


def test_images_come_back_in_their_shape() -> None:
    x, y = digits(40)
    means = torch.stack([x[y == c].mean(dim=0) for c in range(10)])
    model, threat = KMeansClassifier(means, torch.arange(10), 10), Threat("linf", 0.1)
    result = exact(model, x, y, threat, seed=0, sample_ids=torch.arange(40))
    assert result.x_adv.shape == x.shape
    certified, claimed = verdicts(result)
    assert bool((certified | claimed).all())
    assert torch.equal(judge(model, x, y, result.x_adv, threat).broken, claimed)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_certificates_only_vanish_as_eps_grows(norm: Norm) -> None:
    problem = random_problem(3, 6, 12, samples=40)
    certified = [verdicts(run_exact(problem, Threat(norm, eps)))[0] for eps in (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 3.0)]
    assert int(certified[0].sum()) > 20
    assert int(certified[-1].sum()) == 0
    for smaller, larger in itertools.pairwise(certified):
        assert not bool((larger & ~smaller).any())


@given(norm=norms, eps=st.sampled_from([0.05, 0.1, 0.2]), seed=seeds)
@settings(max_examples=4, deadline=None, derandomize=True)
def test_pgd_breaks_no_certified_sample(norm: Norm, eps: float, seed: int) -> None:
    problem, threat = random_problem(seed, 8, 10, samples=20), Threat(norm, eps)
    x = problem.x.reshape(-1, 1, 2, 4)
    result = exact(problem.model, x, problem.y, threat, seed=0, sample_ids=problem.ids)
    certified, claimed = verdicts(result)
    found = call(resolve("pgd20"), None)(problem.model, x, problem.y, threat, seed=0, sample_ids=problem.ids)
    broken = judge(problem.model, x, problem.y, found.x_adv, threat).broken
    assert not bool((broken & certified).any())
    assert not bool((broken & ~claimed).any())


GUARDED_EPS: dict[Norm, float] = {"l2": 0.0405, "linf": 0.0395}


def guarded(norm: Norm) -> tuple[CentroidProblem, Threat, AttackResult]:
    """Some samples certified by weights, some broken."""
    problem, threat = guarded_problem(), Threat(norm, GUARDED_EPS[norm])
    result = run_exact(problem, threat)
    certified, claimed = verdicts(result)
    assert result.proofs is not None
    assert set(result.proofs["sample"].tolist()) == set(problem.ids[certified].tolist())
    assert int(certified.sum()) >= 4
    assert int(claimed.sum()) >= 4
    return problem, threat, result


def transcribed_bound(
    problem: CentroidProblem, threat: Threat, row: int, rival: int, own: Array, weights: Array, v: float
) -> float:
    """The dual bound, pixel by pixel: max over the box of sum_i w_i lead_i(z) - v (||z - x||^2 - eps^2)."""
    c = problem.centroids.double().numpy()
    x, eps = problem.x[row].flatten().double().numpy(), threat.eps + TOLERANCE
    w = weights / weights.sum()
    slope = sum(2.0 * a * (c[rival] - c[i]) for a, i in zip(w, own, strict=True))
    total = sum(a * (c[i] @ c[i]) for a, i in zip(w, own, strict=True)) - c[rival] @ c[rival]
    for pixel in range(len(x)):
        low, high = max(0.0, x[pixel] - eps), min(1.0, x[pixel] + eps)
        choices = [low, high]
        if threat.norm == "l2" and v > 0:
            choices.append(min(max(x[pixel] + slope[pixel] / (2 * v), low), high))
        price = v if threat.norm == "l2" else 0.0
        total += max(slope[pixel] * z - price * (z - x[pixel]) ** 2 for z in choices)
    return float(total + (v * eps**2 if threat.norm == "l2" else 0.0))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_weights_prove_what_they_claim_in_an_independent_transcription(norm: Norm) -> None:
    problem, threat, result = guarded(norm)
    assert result.proofs is not None
    assert result.certified is not None
    p = {name: array.numpy() for name, array in result.proofs.items()}
    for pair, (sample, rival) in enumerate(zip(p["sample"], p["rival"], strict=True)):
        row = sample - 100
        entries = slice(p["start"][pair], p["start"][pair + 1])
        own, weights = p["own"][entries], p["weight"][entries]
        assert bool(result.certified[row])
        assert (problem.labels.numpy()[own] == problem.y[row].item()).all()
        assert problem.labels[rival] != problem.y[row]
        assert (weights > 0).all()
        assert transcribed_bound(problem, threat, row, rival, own, weights, float(p["multiplier"][pair])) < 0


def _replaced(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda proofs: proofs | {name: change(proofs[name])}


TAMPERINGS = {
    "NaN weights": _replaced("weight", lambda w: torch.full_like(w, torch.nan)),
    "negative weights": _replaced("weight", lambda w: -w),
    "no weight": _replaced("weight", torch.zeros_like),
    "infinite weights": _replaced("weight", lambda w: torch.full_like(w, torch.inf)),
    "weights whose sum overflows": _replaced("weight", lambda w: torch.full_like(w, 1.7e308)),
    "negative multipliers": _replaced("multiplier", lambda v: -1e6 - v),
    "NaN multipliers": _replaced("multiplier", lambda v: torch.full_like(v, torch.nan)),
    "infinite multipliers": _replaced("multiplier", lambda v: torch.full_like(v, torch.inf)),
    "weights on other centroids": _replaced("own", lambda own: own + 2),
    "other rivals": _replaced("rival", lambda rival: 5 - rival),
    "other samples": _replaced("sample", lambda sample: 100 + (sample - 99) % 20),
    "unknown samples": _replaced("sample", lambda sample: sample + 1000),
    "negative samples": _replaced("sample", lambda sample: -sample),
    "rivals out of range": _replaced("rival", lambda rival: rival + 5),
    "negative rivals": _replaced("rival", lambda rival: rival - 10),
    "own centroids out of range": _replaced("own", lambda own: own + 5),
    "starts that fall": _replaced("start", lambda start: start.flip(0)),
    "starts that end early": _replaced("start", lambda start: start[:-2]),
    "weights missing": _replaced("weight", lambda w: w[:-1]),
}


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_a_tampered_proof_proves_nothing_false(tampering: str, norm: Norm) -> None:
    """Every certificate of these samples rests on weights: what is spoilt for all of them proves nothing."""
    problem, threat, result = guarded(norm)
    certified, _ = verdicts(result)
    assert result.proofs is not None
    try:
        again = certified_again(problem, threat, TAMPERINGS[tampering](dict(result.proofs)))
    except (IndexError, RuntimeError):
        return
    assert not bool((again & ~certified).any())
    harmless = {"weights whose sum overflows", "negative multipliers", "NaN multipliers", "infinite multipliers"}
    if tampering not in harmless or (norm == "l2" and "multipliers" in tampering):
        assert not bool(again.all())


@given(seed=seeds, norm=norms, weight=st.sampled_from([-1.0, 0.0, 1e-300, 1.0, 1e308, math.inf, math.nan]))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_no_forged_proof_certifies_a_broken_sample(seed: int, norm: Norm, weight: float) -> None:
    """Weights, own centroids, and multipliers at random, for every pair of sample and centroid."""
    problem, threat = random_problem(seed, 3, 8, samples=8), Threat(norm, 0.25)
    rng = np.random.default_rng(seed)
    samples, rivals = (part.flatten() for part in torch.meshgrid(problem.ids, torch.arange(8), indexing="ij"))
    pairs = len(samples)
    forged = {
        "sample": samples,
        "rival": rivals,
        "multiplier": torch.from_numpy(rng.choice([-1e9, -1.0, 0.0, 1e-310, 0.1, 10.0, 1e300], pairs)),
        "start": torch.arange(pairs + 1) * 3,
        "own": torch.from_numpy(rng.integers(0, 8, 3 * pairs)),
        "weight": torch.from_numpy(np.where(rng.random(3 * pairs) < 0.5, weight, rng.normal(size=3 * pairs))),
    }
    broken = true_radii(problem, norm) <= threat.eps
    assert not bool((certified_again(problem, threat, forged).numpy() & broken).any())


def _garbage_programme(rng: np.random.Generator) -> Callable[..., SimpleNamespace]:
    def solve(cost: Array, A_ub: Array, **_: object) -> SimpleNamespace:
        scale = rng.choice([0.0, 1.0, 1e308, np.nan, np.inf])
        x = None if rng.random() < 0.2 else scale * rng.normal(size=len(cost))
        return SimpleNamespace(x=x, ineqlin=SimpleNamespace(marginals=scale * rng.normal(size=len(A_ub))))

    return solve


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("seed", range(5))
def test_a_solver_that_returns_garbage_certifies_and_breaks_nothing_falsely(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(centroid_solvers, "linprog", _garbage_programme(np.random.default_rng(seed)))
    problem, threat = guarded_problem(seed), Threat("linf", GUARDED_EPS["linf"])
    result = run_exact(problem, threat)
    certified, claimed = verdicts(result)
    radii = true_radii(problem, "linf")
    assert not bool((certified.numpy() & (radii <= threat.eps)).any())
    assert bool((judge(problem.model, problem.x, problem.y, result.x_adv, threat).allowed | ~claimed).all())


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_solver_that_gives_up_leaves_samples_undecided(norm: Norm, monkeypatch: pytest.MonkeyPatch) -> None:
    problem, threat, result = guarded(norm)
    _, claimed = verdicts(result)
    assert result.flags == ()

    def gives_up(problem: object, rows: Tensor, *_: object) -> tuple[None, Array, float]:
        return None, np.zeros(len(rows)), 0.0

    monkeypatch.setattr(centroid_solvers, "_linear" if norm == "linf" else "_quadratic", gives_up)
    result = run_exact(problem, threat)
    fewer, broken = verdicts(result)
    assert not bool(fewer.any())
    assert not bool((broken & ~claimed).any())
    assert result.flags == ("undecided samples lie nearer to the boundary than rounding allows to prove",)


def test_an_image_with_nan_is_never_certified() -> None:
    """By one comparison that NaN turns the wrong way it would be."""
    problem = random_problem(0, 4, 6, samples=3)
    x = torch.full((3, 4), torch.nan)
    error = torch.zeros(3, 6, dtype=torch.float64)
    balls = Balls.around(x.double(), "linf", 0.1)
    centroids = Centroids(problem.centroids.double(), problem.labels)
    empty = exact_proofs.Proofs().tensors()
    assert not bool(exact_proofs.certified_by(empty, centroids, balls, problem.y, error, problem.ids[:3]).any())


def test_a_classifier_whose_centroids_changed_is_verified_anew() -> None:
    """In place, the classifier still deciding by the old ones' offsets: nothing may be certified by either alone."""
    problem, threat = random_problem(5, 6, 12, samples=20), Threat("linf", 0.05)
    model = problem.model
    before, _ = verdicts(exact(model, problem.x, problem.y, threat, seed=0, sample_ids=problem.ids))
    assert bool(before.any())
    model.centroids.copy_(1.0 - model.centroids)
    after, _ = verdicts(exact(model, problem.x, problem.y, threat, seed=0, sample_ids=problem.ids))
    assert not bool(after.any())
    fresh = KMeansClassifier(model.centroids, problem.labels, problem.classes)
    for name, buffer in model.named_buffers():
        buffer.copy_(fresh.get_buffer(name))
    again, same = (
        verdicts(exact(one, problem.x, problem.y, threat, seed=0, sample_ids=problem.ids))[0] for one in (model, fresh)
    )
    assert torch.equal(again, same)
    assert not torch.equal(again, before)


def test_distances_beyond_float32_prove_nothing() -> None:
    """1e11 and more: 1e4 below the nearest centroid, where a class without one is kept, is lost in rounding."""
    problem = two_classes([[1e6, 0.0]], [[-1e6, 0.0]], [[0.9, 0.5]])
    result = run_exact(problem, Threat("linf", 0.1))
    assert verdicts(result)[0].tolist() == [False]
    assert result.flags != ()


def test_what_cannot_be_verified_is_refused() -> None:
    problem = random_problem(0, 4, 6)
    with pytest.raises(ValueError, match="exact verification knows linf and l2, not l1"):
        run_exact(problem, Threat("l1", 0.1))
    with pytest.raises(ValueError, match="exact verification needs a nearest-centroid classifier in input space"):
        exact(Curved(4, 3, 0), problem.x, problem.y, Threat("linf", 0.1), seed=0, sample_ids=problem.ids)
