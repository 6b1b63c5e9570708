"""The ensemble: pyautoattack's verdicts, who broke what, and what it says where it is not standard."""

import pytest
import torch

from attacks.autoattack import ENSEMBLES, autoattack
from attacks.reference import autoattack_reference
from attacks.threat import NORMS, Norm, Threat
from tests.attacks.models import Curved, assert_allowed, broken_by, digits, linear_problem

EPS: dict[Norm, float] = {"linf": 0.02, "l2": 0.12, "l1": 0.6}
PARTS = [part.name for part in ENSEMBLES["standard"]]


def test_standard_is_the_papers_ensemble() -> None:
    assert PARTS == ["apgd-ce", "apgd-dlr-targeted", "fab-targeted", "square"]
    methods = [part.make("linf", 10) for part in ENSEMBLES["standard"]]
    assert [m.runs for m in methods] == [1, 9, 9, 1]
    assert [getattr(m, "steps", None) or getattr(m, "queries", None) for m in methods] == [100, 100, 100, 5000]


@pytest.mark.parametrize("norm", NORMS)
def test_verdicts_are_the_references(norm: Norm) -> None:
    x, _ = digits(24)
    model = Curved(64, 10, seed=3)
    y, ids = model(x).argmax(dim=1), torch.arange(len(x))
    threat = Threat(norm, EPS[norm])
    ours = autoattack(model, x, y, threat, seed=0, sample_ids=ids)
    theirs = autoattack_reference(model, x, y, threat, seed=0, sample_ids=ids)
    broken = broken_by(model, y, ours.x_adv)
    reference = broken_by(model, y, theirs.x_adv)
    assert 2 < int(reference.sum()) < 22, "the problem must hold both kinds"
    assert int((broken != reference).sum()) <= 1
    assert ours.claimed is not None
    assert torch.equal(ours.claimed, broken)
    assert ours.winners is not None
    assert [winner in PARTS for winner in ours.winners] == broken.tolist()
    assert_allowed(threat, x, ours.x_adv)


@pytest.mark.parametrize(
    ("classes", "flags"),
    [
        (2, ["non-standard AutoAttack: 1 targets, for 2 classes", "non-standard AutoAttack: the margin loss"]),
        (3, ["non-standard AutoAttack: 2 targets, for 3 classes", "non-standard AutoAttack: the margin loss"]),
        (4, ["non-standard AutoAttack: 3 targets, for 4 classes"]),
        (10, []),
    ],
)
@pytest.mark.parametrize("version", ["standard", "plus"])
def test_few_classes_work_and_are_labelled(classes: int, flags: list[str], version: str) -> None:
    problem = linear_problem(classes, 6, seed=classes)
    threat = Threat("linf", 0.5)
    result = autoattack(
        problem.model, problem.x, problem.y, threat, seed=0, sample_ids=problem.sample_ids, parts=ENSEMBLES[version]
    )
    assert bool(broken_by(problem.model, problem.y, result.x_adv).all())
    assert len(result.flags) == len(flags)
    assert all(said.startswith(flag) for said, flag in zip(result.flags, flags, strict=True))


def test_rand_averages_over_a_models_randomness() -> None:
    """Noise hides the gradient of a weak linear model from a single pass; the mean of 20 shows the way."""

    class Noisy(Curved):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x + 0.05 * torch.randn_like(x))

    x, _ = digits(12)
    model = Noisy(64, 10, seed=3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        y = Curved(64, 10, seed=3)(x).argmax(dim=1)
        result = autoattack(
            model, x, y, Threat("linf", 0.1), seed=0, sample_ids=torch.arange(12), parts=ENSEMBLES["rand"]
        )
        assert int(broken_by(model, y, result.x_adv).sum()) >= 10
    assert result.winners is not None
    assert set(result.winners) <= {"apgd-ce", "apgd-dlr", None}


@pytest.mark.parametrize("norm", ["linf", "l1"])
@pytest.mark.parametrize("version", ["fast", "screen"])
def test_fast_and_screen_say_what_they_abandoned_and_lose_little(version: str, norm: Norm) -> None:
    """On a model they were not tuned on; samples far inside their class are abandoned, and the result says so.

    In l1 the way in leads through larger balls, where nothing is known of progress in the true one.
    """
    x, _ = digits(60)
    model = Curved(64, 10, seed=3)
    y, ids = model(x).argmax(dim=1), torch.arange(len(x))
    threat = Threat(norm, EPS[norm])
    standard = autoattack(model, x, y, threat, seed=0, sample_ids=ids)
    quick = autoattack(model, x, y, threat, seed=0, sample_ids=ids, parts=ENSEMBLES[version])
    assert standard.claimed is not None
    assert quick.claimed is not None
    assert standard.flags == ()
    assert int(quick.claimed.sum()) >= int(standard.claimed.sum()) - 1
    assert any("samples abandoned as hopeless" in flag for flag in quick.flags)
    assert torch.equal(quick.claimed, broken_by(model, y, quick.x_adv))


def test_fast_holds_the_four_attacks_of_standard() -> None:
    names = [part.name for part in ENSEMBLES["fast"]]
    assert [name for name in names if name in PARTS] == PARTS


@pytest.mark.parametrize("version", ["fast", "screen"])
def test_a_model_that_hides_its_gradients_is_not_abandoned(version: str) -> None:
    """Behind a staircase gradients are zero, and say nothing: only Square breaks what it breaks."""

    class Staircase(Curved):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward((x * 64).round() / 64 + 0.0 * x)

    x, _ = digits(30)
    model = Staircase(64, 10, seed=3)
    y, ids = model(x).argmax(dim=1), torch.arange(len(x))
    threat = Threat("linf", 0.04)
    quick = autoattack(model, x, y, threat, seed=0, sample_ids=ids, parts=ENSEMBLES[version])
    assert not any("abandoned" in flag for flag in quick.flags)
    assert any("zero or non-finite gradient" in flag for flag in quick.flags)
    if version == "fast":
        standard = autoattack(model, x, y, threat, seed=0, sample_ids=ids)
        assert quick.claimed is not None
        assert standard.claimed is not None
        assert int(standard.claimed.sum()) > 5
        assert int(quick.claimed.sum()) >= int(standard.claimed.sum()) - 1


@pytest.mark.parametrize("version", ["fast", "screen"])
def test_probabilities_in_place_of_logits_are_not_abandoned(version: str) -> None:
    """They saturate: the margin hardly moves until the sample breaks."""

    class Saturated(Curved):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (30 * super().forward(x)).softmax(dim=1)

    x, _ = digits(20)
    model = Saturated(64, 10, seed=3)
    y, ids = model(x).argmax(dim=1), torch.arange(len(x))
    quick = autoattack(model, x, y, Threat("linf", 0.01), seed=0, sample_ids=ids, parts=ENSEMBLES[version])
    assert not any("abandoned" in flag for flag in quick.flags)
