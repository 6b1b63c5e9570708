"""`benchmark.evaluate` for notebooks: what run_unit says, without files, and the model as it was."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import benchmark
from attacks.registry import resolve as resolve_attack
from benchmark import evaluate
from benchmark.datasets import Dataset, from_arrays, load
from benchmark.runner import run_unit
from model_zoo.external import fingerprint
from results.aggregate import standing, verdicts_by_sample, wilson, worst_case
from results.records import UnitRecord, Verdict
from tests.benchmark.builders import CPU, Threshold, grey, kmeans_for, loaded, magnet_for, small_resnet, unit_for

M, B, S = Verdict.MISCLASSIFIED, Verdict.BROKEN, Verdict.SURVIVED
ATTACKS = ["pgd20@steps=3,restarts=1", "noise@draws=2"]


@pytest.fixture(scope="module")
def few() -> Dataset:
    data = load("digits", split="train")
    return Dataset("digits", data.x[:60], data.y[:60], 10, data.sha256)


def _unit_record(model: nn.Module, data: Dataset, attack: str, eps: float) -> UnitRecord:
    images = from_arrays("given images", data.x.numpy(), data.y.numpy())
    unit = unit_for(
        images,
        attack=attack,
        params=resolve_attack(attack).params,
        eps=eps,
        weights_sha256=fingerprint(model),
    )
    return run_unit(unit, images, loaded(model), None, device=CPU, batch_size=250).record


def test_rows_and_verdicts_are_those_of_run_unit(few: Dataset) -> None:
    model = kmeans_for(few)
    attacks = [*ATTACKS, "magnet100@steps=2,restarts=1"]
    found = evaluate(model, few.x, few.y, eps=0.15, attacks=attacks)
    records = {attack: _unit_record(model, few, attack, 0.15) for attack in [*attacks, "clean"]}
    assert found.verdicts == {attack: records[attack].verdicts for attack in attacks}
    assert {v for verdicts in found.verdicts.values() for v in verdicts} == {M, B, S}
    (row,) = found.rows
    columns = {attack: verdicts_by_sample([record]) for attack, record in records.items()}
    assert row.clean == wilson(standing(columns["clean"]), 60)
    assert row.attacks == {attack: wilson(standing(columns[attack]), 60) for attack in attacks}
    assert row.robust_upper == wilson(standing(worst_case(columns.values())), 60)
    assert (row.model, row.norm, row.eps, row.n, row.done, row.rank) == ("model", "linf", 0.15, 60, 60, 1)


def test_the_closed_form_of_a_threshold() -> None:
    data = grey([0.1, 0.45, 0.9, 0.48, 0.2], labels=[0, 0, 1, 0, 1])
    found = evaluate(Threshold(), data.x, data.y, eps=0.1, attacks=["pgd20@steps=5,restarts=1"])
    assert found.verdicts == {"pgd20@steps=5,restarts=1": [S, B, S, B, M]}
    assert found.rows[0].clean == wilson(4, 5)
    assert found.rows[0].robust_upper == wilson(2, 5)


def test_adversarial_images_are_kept_and_the_others_are_the_originals(few: Dataset) -> None:
    model = kmeans_for(few)
    found = evaluate(model, few.x, few.y, eps=0.15, attacks=ATTACKS[:1])
    (verdicts,), (x_adv,) = found.verdicts.values(), found.x_adv.values()
    broken = torch.tensor([v is B for v in verdicts])
    assert 0 < int(broken.sum()) < 60
    assert torch.equal(x_adv[~broken], few.x[~broken])
    assert float((x_adv - few.x).abs().amax()) <= 0.15 + 1e-6
    assert bool((model(x_adv[broken]).argmax(dim=1) != few.y[broken]).all())


@pytest.mark.parametrize("shape", [(2, 1, 1), (2, 5, 3), (4, 3, 1), (1, 4, 4), (3, 4, 4)])
def test_images_are_taken_channels_first_whatever_their_shape(shape: tuple[int, ...]) -> None:
    seen: list[tuple[int, ...]] = []

    class Watching(Threshold):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(tuple(x.shape[1:]))
            return super().forward(x)

    x = torch.full((2, *shape), 0.45)
    found = evaluate(Watching(), x, torch.zeros(2, dtype=torch.int64), eps=0.1, attacks=["noise@draws=1"])
    assert set(seen) == {shape}
    assert found.x_adv["noise@draws=1"].shape == x.shape


def test_eps_may_be_a_fraction_as_text(few: Dataset) -> None:
    model = kmeans_for(few)
    as_text = evaluate(model, few.x, few.y, eps="8/255", attacks=ATTACKS)
    as_number = evaluate(model, few.x, few.y, eps=8 / 255, attacks=ATTACKS)
    assert as_text.rows == as_number.rows
    assert as_text.verdicts == as_number.verdicts


def test_the_norm_and_the_seed_are_passed_on(few: Dataset) -> None:
    model, attack = kmeans_for(few), "pgd20@steps=2,restarts=1"

    def images(**changes: Any) -> Tensor:
        arguments: dict[str, Any] = {"norm": "l2", "eps": 1.0, "attacks": [attack]} | changes
        return evaluate(model, few.x, few.y, **arguments).x_adv[attack]

    first = images()
    assert 0.5 < float((first - few.x).flatten(1).norm(dim=1).max()) <= 1.0 + 1e-6
    assert torch.equal(images(), first)
    assert not torch.equal(images(seed=1), first)


def test_double_images_on_another_layout_give_the_same(few: Dataset) -> None:
    model = kmeans_for(few)
    expected = evaluate(model, few.x, few.y, eps=0.15, attacks=ATTACKS[:1])
    turned = few.x.double().transpose(2, 3).contiguous().transpose(2, 3)
    found = evaluate(model, turned, few.y.int(), eps=0.15, attacks=ATTACKS[:1])
    assert found.verdicts == expected.verdicts


def test_heads_are_judged_by_the_stable_head(few: Dataset) -> None:
    flat = magnet_for(few).seen_through("scores")
    found = evaluate(flat, few.x, few.y, eps=0.1, attacks=ATTACKS[:1])
    with torch.no_grad():
        right = int((flat.judged(few.x).argmax(dim=1) == few.y).sum())
    assert found.rows[0].clean == wilson(right, 60)


def test_training_mode_is_restored_part_by_part_and_flagged(few: Dataset) -> None:
    model = small_resnet()
    for part in list(model.modules())[::2]:
        part.training = True
    modes = [part.training for part in model.modules()]
    assert len(set(modes)) == 2
    found = evaluate(model, few.x, few.y, attacks=["noise@draws=1"])
    assert [part.training for part in model.modules()] == modes
    assert any("training mode" in flag for flag in found.rows[0].flags)


def test_training_mode_is_restored_when_the_attack_fails(few: Dataset) -> None:
    model = small_resnet().train()
    with pytest.raises(ValueError, match="unknown attack"):
        evaluate(model, few.x, few.y, attacks=["pdg20"])
    assert all(part.training for part in model.modules())


def test_a_model_in_eval_mode_is_not_flagged(few: Dataset) -> None:
    model = small_resnet().eval()
    found = evaluate(model, few.x, few.y, attacks=["noise@draws=1"])
    assert found.rows[0].flags == []
    assert not any(part.training for part in model.modules())


def test_batch_norm_statistics_and_weights_stay_as_they_were(few: Dataset) -> None:
    model = small_resnet().train().requires_grad_(True)
    before = fingerprint(model)
    evaluate(model, few.x, few.y, attacks=ATTACKS[:1])
    assert fingerprint(model) == before
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


BACKWARD = """
from attacks.contract import AttackResult


def attack(model, x, y, threat, *, seed, sample_ids):
    moved = x.clone().requires_grad_(True)
    model(moved).sum().backward()
    assert moved.grad is not None
    return AttackResult(x)
"""


def test_gradients_of_the_weights_stay_as_they_were(few: Dataset, user_module: Callable[[str], str]) -> None:
    """FAB of AutoAttack calls backward() too, which reaches every weight that asks for a gradient."""
    model = small_resnet().requires_grad_(True)
    first, *others = model.parameters()
    first.grad = torch.full_like(first, 7.0)
    evaluate(model, few.x, few.y, attacks=[f"{user_module(BACKWARD)}:attack"])
    assert torch.equal(first.grad, torch.full_like(first, 7.0))
    assert all(parameter.grad is None for parameter in others)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_no_file_is_written(few: Dataset, workdir: Path) -> None:
    evaluate(kmeans_for(few), few.x, few.y, attacks=["noise@draws=1"])
    assert list(workdir.iterdir()) == []


def test_it_is_the_function_of_the_package() -> None:
    assert benchmark.evaluate is evaluate
    assert set(benchmark.__all__) == {"Evaluation", "evaluate"}


def _refused(few: Dataset, **changes: Any) -> str:
    arguments: dict[str, Any] = {"model": kmeans_for(few), "x": few.x, "y": few.y, "attacks": ATTACKS[:1]}
    with pytest.raises(ValueError) as caught:
        evaluate(**(arguments | changes))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"eps": 8}, 'did you mean "8/255"?'),
        ({"eps": "8/0"}, "8/0"),
        ({"eps": 0}, "must be positive, got 0"),
        ({"eps": -0.1}, "must be positive, got -0.1"),
        ({"eps": float("nan")}, "nan"),
        ({"eps": 100.0, "norm": "l2"}, "(0, 8] for l2"),
        ({"norm": "l7"}, "'linf', 'l2' or 'l1', got 'l7'"),
        ({"attacks": ["pdg20"]}, "did you mean pgd20"),
        ({"attacks": []}, "attacks"),
        ({"attacks": ["pgd20", "pgd20"]}, "attacks names one entry twice"),
        ({"seed": -1}, "seed"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_a_wrong_request_is_a_value_error_with_one_clear_line(few: Dataset, changes: dict[str, Any], told: str) -> None:
    assert told in _refused(few, **changes)


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("y", "told"),
    [
        (torch.zeros(59, dtype=torch.int64), "60 images and 59 labels"),
        (torch.zeros(60, 1, dtype=torch.int64), "labels must be non-negative integers of shape (n,)"),
        (torch.zeros(60), "labels must be non-negative integers of shape (n,)"),
        (torch.full((60,), -1), "labels must be non-negative integers of shape (n,)"),
        (torch.full((60,), 10), "has 10 classes, given images has 11"),
        (torch.tensor(3), "labels"),
    ],
)
def test_labels_that_do_not_fit_are_told(few: Dataset, y: Tensor, told: str) -> None:
    assert told in _refused(few, y=y)


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda x: x * 255, "images must lie in [0, 1] (or be uint8), got 0..255"),
        (lambda x: x * 2 - 1, "images must lie in [0, 1] (or be uint8), got -1..1"),
        (lambda x: x * float("nan"), "images must lie in [0, 1]"),
        (lambda x: (x * 255).long(), "images must be uint8 or float"),
        (lambda x: x.flatten(1), "3 or 4 dimensions"),
        (lambda x: x[:0], "samples"),
    ],
)
def test_images_that_do_not_fit_are_told(few: Dataset, change: Any, told: str) -> None:
    x = change(few.x)
    assert told in _refused(few, x=x, y=few.y[: len(x)])


class _Returns(nn.Module):
    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Tensor) -> Any:
        return self.output(x)


def _own_words(x: Tensor) -> Tensor:
    raise KeyError("the model's own words")


def _leaving(x: Tensor) -> Tensor:
    raise SystemExit


@pytest.mark.parametrize(
    ("output", "told"),
    [
        (lambda x: x, "must return logits of shape (n, classes), returned (2, 1, 8, 8)"),
        (lambda x: x.flatten(1)[:1], "must return logits of shape (n, classes), returned (1, 64)"),
        (lambda x: x.flatten(1)[:, :9], "has 9 classes, given images has 10"),
        (lambda x: x.flatten(1) * float("nan"), "returned NaN or infinite logits"),
        (lambda x: x.flatten(1).detach(), "not differentiable"),
        (lambda x: [x.flatten(1)], "returned list"),
        (lambda x: x.flatten(1).to_sparse(), "must return real numbers in a dense tensor"),
        (lambda x: torch.fft.fft(x.flatten(1)), "must return real numbers in a dense tensor, returned torch.complex64"),
        (_leaving, "raised on two images of shape (1, 8, 8): SystemExit"),
        (_own_words, 'KeyError: "the model\'s own words"'),
    ],
)
def test_a_model_that_does_not_keep_the_interface_is_named(few: Dataset, output: Any, told: str) -> None:
    message = _refused(few, model=_Returns(output), name="mine")
    assert "model mine " in message
    assert told in message


def test_an_attack_on_clusters_needs_clusters(few: Dataset) -> None:
    message = _refused(few, model=small_resnet(), attacks=["magnet100"])
    assert message == "attack magnet100 needs a clustering classifier; none among model"


def test_a_mask_that_hides_gradients_is_flagged_until_it_is_off(few: Dataset) -> None:
    model = magnet_for(few)
    model.nearest = 1
    (masked,) = evaluate(model, few.x, few.y, eps=0.1, attacks=["noise"]).rows
    assert any("only the 1 nearest clusters count" in flag for flag in masked.flags)
    unmasked = model.seen_through("log_sum_exp", unmasked=True)
    (row,) = evaluate(unmasked, few.x, few.y, eps=0.1, attacks=["noise"]).rows
    assert row.flags == []


def test_an_attack_stops_by_the_judged_head_whichever_it_sees(few: Dataset) -> None:
    model = magnet_for(few)
    model.nearest = 2
    for seen in (model.seen_through("log_sum_exp", unmasked=True), model.seen_through("scores")):
        attacks = ["pgd20@restarts=1", "magnet100@steps=10,restarts=1", "noise@draws=5"]
        (row,) = evaluate(seen, few.x, few.y, eps=0.1, attacks=attacks).rows
        assert not [flag for flag in row.flags if "denied" in flag]
        assert row.attacks[attacks[0]].value < row.clean.value if row.clean else False


def test_a_randomised_model_is_flagged(few: Dataset) -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small_resnet()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) + 0.01 * torch.randn(len(x), 1)  # type: ignore[no-any-return]

    (row,) = evaluate(Noisy().eval(), few.x, few.y, eps=0.01, attacks=["noise@draws=1"]).rows
    assert any("randomised model" in flag for flag in row.flags)
