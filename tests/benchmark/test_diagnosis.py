"""Each fault that a number must not hide, in a model built for it; and the same model without the fault, clean."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import benchmark.run
from attacks.contract import AttackResult
from attacks.losses import cross_entropy
from attacks.registry import resolve as resolve_attack
from attacks.threat import Threat
from benchmark import Evaluation, evaluate
from benchmark.cheap_copy import CALIBRATION
from benchmark.config import build_config
from benchmark.datasets import Dataset, load
from benchmark.diagnostics import IMAGES, model_flags
from benchmark.resolve import check_request
from benchmark.run import run
from benchmark.runner import run_unit
from model_zoo.adapter import LogitsModel
from model_zoo.kmeans import KMeansClassifier
from model_zoo.registry import LoadedModel
from model_zoo.registry import load as load_zoo
from results.aggregate import UnsoundError
from results.diagnosis import broken_by, findings
from results.findings import Finding, Severity, read_flag
from results.leaderboard import Row, leaderboard
from results.records import Verdict
from results.store import Store
from results.trust import Grade
from tests.benchmark.builders import CPU, Threshold, class_means, grey, kmeans_for, loaded, records_of, unit_for

V, F, B, N = Severity.VOID, Severity.FLATTERS, Severity.BLIND, Severity.NOTE
PGD = "pgd20@steps=5,restarts=1"
EPS = 0.1


@pytest.fixture(scope="module")
def data() -> Dataset:
    whole = load("digits", split="train")
    return Dataset("digits", whole.x[:60], whole.y[:60], 10, whole.sha256)


@pytest.fixture(scope="module")
def many() -> Dataset:
    whole = load("digits", split="train")
    return Dataset("digits", whole.x[:CALIBRATION], whole.y[:CALIBRATION], 10, whole.sha256)


class Means(nn.Module):
    """Logits of the nearest class mean: linear, so that gradients lead where they should."""

    means: Tensor

    def __init__(self, means: Tensor, sharpness: float = 1.0):
        super().__init__()
        self.register_buffer("means", means.flatten(1))
        self.sharpness = sharpness

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return self.sharpness * (2 * flat @ self.means.T - self.means.square().sum(dim=1))


def means_of(data: Dataset, sharpness: float = 1.0) -> Means:
    return Means(class_means(data.x, data.y)[0], sharpness)


class Then(nn.Module):
    """A model and a function of its inputs and outputs."""

    def __init__(self, model: nn.Module, function: Callable[[nn.Module, Tensor], Tensor]):
        super().__init__()
        self.model, self.function = model, function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.model, x)


def _evaluated(
    model: nn.Module, data: Dataset, *attacks: str, eps: float = EPS, as_handed_over: bool = False
) -> tuple[Evaluation, Row]:
    if not as_handed_over:
        model.eval()
    found = evaluate(model, data.x, data.y, eps=eps, attacks=list(attacks) or [PGD], search="float32")
    (row,) = found.rows
    return found, row


def _found(row: Row, check: str) -> list[tuple[Severity, str | None, int | None, int | None]]:
    return [(f.severity, f.attack, f.count, f.n) for f in row.findings if f.check == check]


def _grade(row: Row) -> Grade:
    assert row.trust is not None
    return row.trust.grade


def _grave(row: Row) -> list[Finding]:
    return [f for f in row.findings if f.severity is not N]


def test_the_model_that_all_others_are_built_on_is_clean(data: Dataset) -> None:
    few = Dataset("digits", data.x[:10], data.y[:10], 10, data.sha256)
    _, row = _evaluated(means_of(data), few, PGD, "noise@draws=5", "autoattack", eps=0.15)
    assert row.findings == []
    assert _grade(row) is Grade.B


def test_training_mode(data: Dataset) -> None:
    norm = nn.BatchNorm1d(64)  # untrained: the identity in eval mode, the batch's own statistics in training mode
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), norm, nn.Linear(64, 10))
    x = data.x[:IMAGES]
    with torch.no_grad():
        data = Dataset("digits", data.x, model.eval()(data.x).argmax(dim=1), 10, data.sha256)  # right by construction
        settled = data.y[:IMAGES]
        norm.momentum = 0.0  # the test's own pass leaves the statistics as they are
        differ = int((model.train()(x).argmax(dim=1) != settled).sum())
    assert 0 < differ < IMAGES
    _, row = _evaluated(model, data, as_handed_over=True)
    assert _found(row, "training-mode") == [(F, None, differ, IMAGES)]
    assert "(4 parts)" in row.findings[0].seen  # the sequence and its three members
    assert _grade(row) is Grade.D
    _, clean = _evaluated(model.eval(), data)
    assert _grave(clean) == []


def test_training_mode_that_changes_nothing_is_a_note(data: Dataset) -> None:
    _, row = _evaluated(means_of(data).train(), data, as_handed_over=True)
    assert _found(row, "training-mode") == [(N, None, 0, IMAGES)]
    assert _grade(row) is Grade.C


@pytest.mark.parametrize("std", [0.25, 1 / 255], ids=["standardised", "0 to 255"])
def test_normalisation_missing(many: Dataset, std: float) -> None:
    mean = 0.3 if std == 0.25 else 0.0
    network = Means(class_means((many.x - mean) / std, many.y)[0])
    whole = LogitsModel(network, [mean], [std])
    with torch.no_grad():
        right = [int((model(many.x).argmax(dim=1) == many.y).sum()) for model in (network, whole)]
    _, row = _evaluated(network, many, "noise@draws=1")
    ((severity, attack, count, n),) = _found(row, "normalisation-missing")
    assert (severity, attack, n) == (V, None, CALIBRATION)
    assert count is not None
    assert right[0] < count
    assert abs(count - right[1]) <= 0.1 * CALIBRATION  # its own normalisation, or one much like it
    (seen,) = (f.seen for f in row.findings if f.check == "normalisation-missing")
    assert seen.endswith(f"as handed over {right[0]}")
    assert _grade(row) is Grade.F
    _, clean = _evaluated(whole, many, PGD)
    assert not [f for f in clean.findings if f.severity is V]


def _refusing(inner: nn.Module, x: Tensor) -> Tensor:
    if float(x.min()) < 0 or float(x.max()) > 1:
        raise ValueError("images lie in [0, 1]")
    out: Tensor = inner(x)
    return out


def _overflowing(inner: nn.Module, x: Tensor) -> Tensor:
    out: Tensor = inner(x) * x.flatten(1).amax(dim=1, keepdim=True).exp()  # infinite from 89 on
    return out


@pytest.mark.parametrize("function", [_refusing, _overflowing])
def test_a_model_that_takes_no_other_inputs_than_images_is_not_failed_by_the_check(
    data: Dataset, function: Callable[[nn.Module, Tensor], Tensor]
) -> None:
    worse = Means(means_of(data).means.flip(0))  # right so seldom that other inputs are tried to the end
    _, row = _evaluated(Then(worse, function), data, "noise@draws=1")
    assert _found(row, "normalisation-missing") == []


def test_a_model_far_below_its_card(data: Dataset, many: Dataset) -> None:
    whole = load_zoo("nominal")
    assert whole.card is not None
    card = whole.card.model_copy(update={"dataset": "digits", "clean_accuracy": 0.99})
    model = means_of(data)
    right = int((model(many.x).argmax(dim=1) == many.y).sum())
    flags = model_flags(loaded(model, card=card), many, CPU)
    told = f"{right} of {CALIBRATION} images are classified correctly, the model's card says 99.00 %"
    assert flags == [told]
    honest = card.model_copy(update={"clean_accuracy": right / CALIBRATION + 0.02})
    assert model_flags(loaded(model, card=honest), many, CPU) == []


@pytest.mark.parametrize(
    ("trained", "told"),
    [
        ("mnist", ["trained on mnist, attacked on images of digits"]),
        ("mnist:without=1,2", ["trained on mnist, attacked on images of digits"]),
        ("digits", []),
        ("digits:without=3", []),
        ("npz:mine.npz", []),
    ],
)
def test_a_model_of_another_data_set_is_told(data: Dataset, trained: str, told: list[str]) -> None:
    whole = load_zoo("nominal")
    assert whole.card is not None
    card = whole.card.model_copy(update={"dataset": trained, "clean_accuracy": None})
    assert model_flags(loaded(means_of(data), card=card), data, CPU) == told
    assert model_flags(loaded(means_of(data)), data, CPU) == []
    for flag in told:
        found = read_flag(flag, "a", "pgd20")
        assert (found.check, found.severity, found.attack) == ("other-images", N, None)


def test_probabilities_as_logits(data: Dataset) -> None:
    base = means_of(data)
    _, row = _evaluated(Then(base, lambda model, x: model(x).softmax(dim=1)), data)
    assert _found(row, "probabilities") == [(B, None, IMAGES, IMAGES)]
    assert _grade(row) is Grade.D
    _, clean = _evaluated(Then(base, lambda model, x: model(x).log_softmax(dim=1)), data)
    assert _grave(clean) == []


def test_raw_scores_as_logits(data: Dataset) -> None:
    def scores(model: nn.Module, x: Tensor) -> Tensor:
        scaled: Tensor = 2 * (model(x) - x.flatten(1).square().sum(dim=1, keepdim=True))
        return scaled.exp()

    sharp = means_of(data)
    with torch.no_grad():
        outputs = Then(sharp, scores)(data.x[:IMAGES])
    lost = int((outputs < 2.0**-24 * outputs.amax(dim=1, keepdim=True)).any(dim=1).sum())
    assert 0 < lost < IMAGES
    _, row = _evaluated(Then(sharp, scores), data)
    assert _found(row, "raw-scores") == [(B, None, lost, IMAGES)]
    assert _grade(row) is Grade.D


def test_mild_scores_lie_in_the_unit_interval(data: Dataset) -> None:
    _, row = _evaluated(Then(means_of(data, 0.1), lambda model, x: model(x).sigmoid()), data)
    assert _found(row, "raw-scores") == [(B, None, IMAGES, IMAGES)]


def _stepped(x: Tensor) -> Tensor:
    return (x * 4).round() / 4


def test_zero_gradients(data: Dataset) -> None:
    base = means_of(data)
    found, row = _evaluated(Then(base, lambda model, x: model(_stepped(x))), data)
    tried = sum(verdict is not Verdict.MISCLASSIFIED for verdict in found.verdicts[PGD])
    left = [f for f in row.findings if f.check == "zero-gradients"]
    assert {(f.severity, f.attack, f.n) for f in left} == {(B, None, IMAGES), (B, PGD, tried)}
    assert all(f.count == f.n for f in left if f.attack is None)
    assert _grade(row) is Grade.D


class Stepped(nn.Module):
    """Steps in the input, and gradients of another function in their place: not zero, and of no use."""

    pull: Tensor

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.register_buffer("pull", torch.randn(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self.model(_stepped(x))
        flat = x.flatten(1)
        return logits + (flat - flat.detach()) @ self.pull


def test_square_beating_white_box(data: Dataset) -> None:
    model = Stepped(means_of(data))
    data = Dataset("digits", data.x[:12], data.y[:12], 10, data.sha256)
    _, row = _evaluated(model, data, "autoattack", eps=0.13)
    unit = unit_for(data, attack="autoattack", params=resolve_attack("autoattack").params, eps=0.13, search="float32")
    alone = run_unit(unit, data, loaded(model), None, device=CPU, batch_size=250).record
    won = alone.winners.count("square")
    assert won > 0.002 * len(data.x)
    assert _found(row, "square-beats-white-box") == [(F, None, won, len(data.x))]
    assert _grade(row) is Grade.D


def test_noise_beating_white_box(data: Dataset) -> None:
    found, row = _evaluated(Stepped(means_of(data)), data, "pgd20@steps=1,restarts=1", "noise", eps=0.2)
    pgd, noise = found.verdicts.values()
    count = sum(n is Verdict.BROKEN and p is not Verdict.BROKEN for p, n in zip(pgd, noise, strict=True))
    assert count
    assert _found(row, "noise-beats-white-box") == [(F, None, count, len(data.x))]


def test_a_random_layer(data: Dataset) -> None:
    bright = int((data.x[:IMAGES].flatten(1).mean(dim=1) > 0.31).sum())
    assert 0 < bright < IMAGES

    def noisy(model: nn.Module, x: Tensor) -> Tensor:
        logits: Tensor = model(x)
        return logits + torch.randn_like(logits) * (x.flatten(1).mean(dim=1, keepdim=True) > 0.31)

    _, row = _evaluated(Then(means_of(data), noisy), data, "noise@draws=1", PGD)
    assert _found(row, "randomised") == [(V, None, bright, IMAGES)]
    assert _grade(row) is Grade.F


def test_dropout_that_stays_on_in_eval_mode(data: Dataset) -> None:
    base = means_of(data)
    model = Then(base, lambda model, x: model(nn.functional.dropout(x, 0.1, training=True)))
    assert _found(_evaluated(model, data)[1], "randomised") == [(V, None, IMAGES, IMAGES)]
    quiet = Then(base, lambda model, x: model(nn.functional.dropout(x, 0.1, training=False)))
    assert _grave(_evaluated(quiet, data)[1]) == []


def test_checks_leave_random_numbers_as_they_were(data: Dataset) -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    model_flags(loaded(Then(means_of(data), lambda model, x: model(x + torch.rand_like(x)))), data, CPU)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_batch_statistics_in_eval_mode(data: Dataset) -> None:
    def model(track: bool) -> nn.Module:
        norm = nn.BatchNorm1d(64, affine=False, track_running_stats=track)
        return nn.Sequential(nn.Flatten(), norm, means_of(data)).eval()

    _, row = _evaluated(model(track=False), data)
    assert _found(row, "batch-dependent") == [(V, None, IMAGES, IMAGES)]
    assert _grade(row) is Grade.F
    assert _grave(_evaluated(model(track=True), data)[1]) == []


def test_a_place_in_the_batch(data: Dataset) -> None:
    """The first image of a batch is answered otherwise; backwards that is the last one, apart also the 26th."""

    def first(model: nn.Module, x: Tensor) -> Tensor:
        logits: Tensor = model(x)
        return logits + (torch.arange(len(x)) == 0)[:, None] * torch.arange(10.0)

    _, row = _evaluated(Then(means_of(data), first), data)
    assert _found(row, "batch-dependent") == [(V, None, 3, IMAGES)]


def test_optimisation_inside_a_pass(data: Dataset) -> None:
    def purified(model: nn.Module, x: Tensor) -> Tensor:
        with torch.enable_grad():
            moved = x.detach().requires_grad_(True)
            for _ in range(2):
                (step,) = torch.autograd.grad(model(moved).logsumexp(dim=1).sum(), moved)
                moved = (moved + 0.001 * step).detach().requires_grad_(True)
        logits: Tensor = model(x + moved.detach() - x.detach())
        return logits

    _, row = _evaluated(Then(means_of(data), purified), data)
    assert _found(row, "dynamic") == [(F, None, 2, None)]


def test_ties(data: Dataset) -> None:
    base = means_of(data)
    with torch.no_grad():
        middle = float(base(data.x[:IMAGES]).topk(2, dim=1).values[:, 1].median())
    model = Then(base, lambda model, x: model(x).clamp(max=middle) - middle - 1.0)
    with torch.no_grad():
        outputs = model(data.x[:IMAGES])
    tied = int(((outputs == outputs.amax(dim=1, keepdim=True)).sum(dim=1) > 1).sum())
    assert 0 < tied < IMAGES
    assert _found(_evaluated(model, data)[1], "ties") == [(B, None, tied, IMAGES)]


def test_an_attack_that_stops_too_early_beside_a_longer_one(data: Dataset) -> None:
    short, long = "pgd20@steps=1,restarts=1,step_size=0.005", "pgd20@steps=60,restarts=1,step_size=0.005"
    found, row = _evaluated(means_of(data), data, short, long, eps=0.15)
    broken = [{i for i, v in enumerate(found.verdicts[name]) if v is Verdict.BROKEN} for name in (short, long)]
    assert _found(row, "stopped-early") == [(B, short, len(broken[1] - broken[0]), len(data.x))]
    assert _grade(row) is Grade.C
    _, clean = _evaluated(means_of(data), data, long, "pgd20@steps=90,restarts=1,step_size=0.005", eps=0.15)
    assert _grave(clean) == []


@dataclass(frozen=True)
class World:
    """A run of models that only this test knows."""

    folder: Path
    models: tuple[LoadedModel, ...]
    data: Dataset

    def run(self, *attacks: str, eps: tuple[float, ...] = (EPS,), **content: Any) -> Store:
        content |= {
            "models": [model.name for model in self.models],
            "dataset": self.data.name,
            "samples": len(self.data.x),
            "threats": [{"norm": "linf", "eps": radius} for radius in eps],
            "attacks": list(attacks),
            "workers": 1,
            "search": "float32",
        }
        request = check_request(build_config(content, {}), self.data, self.models, CPU)
        store = Store(self.folder / "run")
        with store.opened(request.config.identity()):
            run(request, store, None, lambda total, done: lambda: None)
        return store


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., World]:
    def make(data: Dataset, **models: nn.Module) -> World:
        known = {name: loaded(model, name) for name, model in models.items()}
        monkeypatch.setattr(benchmark.run, "_model", lambda name, device: known[name])
        monkeypatch.setattr(benchmark.run, "_dataset", lambda name, root: data)
        benchmark.run._searched.cache_clear()
        benchmark.run._flags.cache_clear()
        return World(tmp_path, tuple(known.values()), data)

    return make


class Band(nn.Module):
    """Class 1 only where the mean pixel lies in a narrow band, which a long step jumps over."""

    def forward(self, x: Tensor) -> Tensor:
        lead = 0.02 - (x.flatten(1).mean(dim=1) - 0.57).abs()
        return torch.stack([-lead, lead], dim=1)


def sign_step(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, seed: int, sample_ids: Tensor) -> AttackResult:
    """A user's attack: one step of the sign of the gradient."""
    del seed, sample_ids
    images = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(cross_entropy(model(images), y).sum(), images)
    return AttackResult((x + threat.eps * gradient.sign()).clamp(0, 1))


def test_an_eps_ladder_that_rises(world: Callable[..., World]) -> None:
    data = grey([0.5, 0.46, 0.51, 0.2, 0.57], labels=[0, 0, 0, 0, 1])
    name = f"{__name__}:sign_step"
    store = world(data, band=Band(), honest=Threshold()).run(name, eps=(0.07, 0.2))
    units = store.read_plan()
    rows = {(row.model, row.eps): row for row in leaderboard(units, store.read(units))}
    broken = [i for i, level in enumerate([0.5, 0.46, 0.51]) if 0.55 < level + 0.07 < 0.59]
    assert broken == [0, 2]
    assert _found(rows["band", 0.07], "eps-ladder") == []
    assert _found(rows["band", 0.2], "eps-ladder") == [(F, None, 2, 5), (B, name, 2, 5)]
    assert _grade(rows["band", 0.2]) is Grade.D
    for eps in (0.07, 0.2):
        assert _found(rows["honest", eps], "eps-ladder") == []


class Lying(KMeansClassifier):
    """Its centroids certify one classifier, and its forward pass is another where the first pixel is lit."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return torch.where(x.flatten(1)[:, :1] > 0.05, logits.roll(1, dims=1), logits)


def test_a_certificate_contradicted(world: Callable[..., World], data: Dataset) -> None:
    model = Lying(*class_means(data.x, data.y), data.num_classes)
    here = world(data, lying=model)
    with pytest.raises(UnsoundError, match="both broken and certified"):
        here.run("exact", "noise@draws=1", skip_certified=False)
    store = Store(here.folder / "run")
    records = list(records_of(store.folder).values())
    proven = {s for r in records for s, v in zip(r.sample_ids, r.verdicts, strict=True) if v is Verdict.CERTIFIED}
    count = len(broken_by(records) & proven)
    assert count
    (found,) = findings(store.read_plan(), records).values()
    contradicted = [f for f in found if f.check == "certificate-contradicted"]
    assert [(f.severity, f.count, f.n) for f in contradicted] == [(V, count, len(data.x))]


def test_kmeans_under_exact_is_proven_and_clean(many: Dataset) -> None:
    data = Dataset("digits", many.x[:100], many.y[:100], 10, many.sha256)
    _, row = _evaluated(kmeans_for(data), data, "exact", PGD, "noise@draws=5", "autoattack", eps=0.05)
    assert row.findings == []
    assert _grade(row) is Grade.A


def test_the_zoos_kmeans_and_pgd_at_are_clean() -> None:
    whole = load("fashion-mnist")
    few = Dataset("fashion-mnist", whole.x[:3], whole.y[:3], 10, whole.sha256)
    _, row = _evaluated(load_zoo("pgd-at").model, few, "pgd20", "autoattack", eps=8 / 255)
    assert row.findings == []
    assert _grade(row) is Grade.B
    for name in ("pgd-at", "kmeans"):
        assert model_flags(load_zoo(name), whole, CPU) == []
    some = Dataset("fashion-mnist", whole.x[:100], whole.y[:100], 10, whole.sha256)
    _, row = _evaluated(load_zoo("kmeans").model, some, "exact", "pgd20", "noise", eps=8 / 255)
    assert row.findings == []
    assert _grade(row) is Grade.A


@pytest.mark.parametrize(("head", "check"), [("scores", "raw-scores"), ("probabilities", "probabilities")])
def test_the_zoos_other_heads_are_named(head: str, check: str) -> None:
    (flag,) = model_flags(load_zoo(f"clustr-qtrades@{head}"), load("fashion-mnist"), CPU)
    assert ("raw scores" if check == "raw-scores" else "probabilities") in flag
