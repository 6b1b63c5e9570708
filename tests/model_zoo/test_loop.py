"""The training loop: a resumed training is the uninterrupted one."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from model_zoo.recipes.loop import (
    LossLog,
    TrainingRun,
    one_cycle,
    read_history,
    set_learning_rate,
    shuffled_batches,
    train_epochs,
)

CPU = torch.device("cpu")


def training_run(folder: Path | None, identity: str = "one", seed: int = 0) -> TrainingRun:
    return TrainingRun(seed=seed, device=CPU, folder=folder, identity=identity)


class Killed(Exception):
    pass


Optimiser = Callable[[nn.Module], torch.optim.Optimizer]
OPTIMISERS: dict[str, Optimiser] = {
    "sgd": lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda m: torch.optim.Adam(m.parameters(), lr=0.01),
}


def fit(
    run: TrainingRun, optimiser: Optimiser, epochs: int, killed_in: int | None = None
) -> tuple[nn.Module, list[int]]:
    """Regress noise for some epochs; which of them ran. Killed half-way through epoch `killed_in`."""
    torch.manual_seed(run.seed)
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    steps = optimiser(module)
    ran: list[int] = []

    def one_epoch(epoch: int) -> dict[str, float]:
        ran.append(epoch)
        generator = run.generator("stage", epoch)
        for step in range(4):
            x = torch.randn(8, 3, generator=generator)
            loss = (module(x) - x.sum(dim=1, keepdim=True)).square().mean()
            steps.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
            steps.step()
            if killed_in == epoch and step == 1:
                raise Killed
        return {"loss": loss.item()}

    history = train_epochs(run, "stage", module, steps, epochs, one_epoch)
    assert [set(figures) for figures in history] == [{"loss", "seconds"}] * epochs
    return module, ran


def assert_same_weights(a: nn.Module, b: nn.Module) -> None:
    ours, theirs = a.state_dict(), b.state_dict()
    assert list(ours) == list(theirs)
    for key, value in ours.items():
        assert torch.equal(value, theirs[key]), key


@pytest.mark.parametrize("optimiser", OPTIMISERS.values(), ids=OPTIMISERS)
@pytest.mark.parametrize("killed_in", [0, 1, 3])
def test_a_killed_training_ends_with_the_weights_of_an_uninterrupted_one(
    optimiser: Optimiser, killed_in: int, tmp_path: Path
) -> None:
    uninterrupted, _ = fit(training_run(None), optimiser, 4)
    run = training_run(tmp_path)
    with pytest.raises(Killed):
        fit(run, optimiser, 4, killed_in)
    resumed, ran = fit(run, optimiser, 4)
    assert ran == list(range(killed_in, 4))
    assert_same_weights(resumed, uninterrupted)


def test_a_finished_training_is_not_run_again(tmp_path: Path) -> None:
    first, _ = fit(training_run(tmp_path), OPTIMISERS["adam"], 2)
    second, ran = fit(training_run(tmp_path), OPTIMISERS["adam"], 2)
    assert ran == []
    assert_same_weights(first, second)
    assert [path.name for path in tmp_path.iterdir()] == ["stage.checkpoint.safetensors"]


def test_a_checkpoint_holds_the_history_of_the_finished_epochs(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        fit(training_run(tmp_path), OPTIMISERS["sgd"], 3, killed_in=2)
    with safe_open(tmp_path / "stage.checkpoint.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert metadata["identity"] == "one"
    assert len(json.loads(metadata["history"])) == 2


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    fit(training_run(tmp_path), OPTIMISERS["sgd"], 1)
    with pytest.raises(ValueError, match=r"stage\.checkpoint\.safetensors belongs to a training with other settings"):
        fit(training_run(tmp_path, identity="another"), OPTIMISERS["sgd"], 1)


def test_weights_that_are_not_finite_after_an_epoch_do_not_become_a_checkpoint(tmp_path: Path) -> None:
    """The loss was finite in each step; only the last update was not."""

    def one_epoch(epoch: int) -> dict[str, float]:
        with torch.no_grad():
            module.weight.fill_(1.0 if epoch < 2 else float("inf"))
        return {"loss": 0.0}

    module = nn.Linear(2, 1)
    optimiser = OPTIMISERS["sgd"](module)
    with pytest.raises(FloatingPointError, match="stage, epoch 3 of 4: weight is not finite after the last step; the"):
        train_epochs(training_run(tmp_path), "stage", module, optimiser, 4, one_epoch)
    assert len(read_history(tmp_path / "stage.checkpoint.safetensors")) == 2
    resumed = nn.Linear(2, 1)
    train_epochs(training_run(tmp_path), "stage", resumed, OPTIMISERS["sgd"](resumed), 2, one_epoch)
    assert resumed.weight.tolist() == [[1.0, 1.0]]


def test_a_corrupt_checkpoint_is_named(tmp_path: Path) -> None:
    fit(training_run(tmp_path), OPTIMISERS["adam"], 1)
    path = tmp_path / "stage.checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"checkpoint .*stage\.checkpoint\.safetensors is corrupt .*; remove it"):
        fit(training_run(tmp_path), OPTIMISERS["adam"], 2)


def logged(extra: list[float], every: int) -> dict[str, float]:
    log = LossLog(first_step=10, every=every)
    for value in extra:
        log.add({"Magnet loss": torch.tensor(2.0), "extra term": torch.tensor(value, requires_grad=True)})
    return log.means()


@pytest.mark.parametrize("every", [1, 3, 100])
def test_a_loss_that_is_not_finite_is_named(every: int) -> None:
    """By the first step and term, however late it is read."""
    for value in (float("nan"), float("inf"), float("-inf")):
        with pytest.raises(FloatingPointError, match=f"the extra term became {value} at step 13; the last good"):
            logged([1.0, 1.0, 1.0, value, value, 1.0], every)


@pytest.mark.parametrize("every", [1, 3, 100])
def test_the_log_has_the_mean_of_each_term(every: int) -> None:
    assert logged([0.0, 1.0, 2.0, 3.0, 9.0], every) == {"Magnet loss": 2.0, "extra term": 3.0}


def test_a_generator_belongs_to_seed_and_purpose() -> None:
    def numbers(seed: int, *purpose: str | int) -> list[float]:
        generator = training_run(None, seed=seed).generator(*purpose)
        return torch.rand(4, generator=generator).tolist()

    keys: list[tuple[int, tuple[str | int, ...]]] = [
        (0, ("a", 0)),
        (0, ("a", 1)),
        (0, ("b", 0)),
        (1, ("a", 0)),
        (0, ("a",)),
        (0, ("a", 10)),
    ]
    drawn = [numbers(seed, *purpose) for seed, purpose in keys]
    assert len({tuple(row) for row in drawn}) == len(keys)
    assert numbers(0, "a", 1) == drawn[1]


@pytest.mark.parametrize(("n", "size", "lengths"), [(10, 4, [4, 4]), (8, 4, [4, 4]), (3, 4, [3]), (4, 4, [4])])
def test_batches_are_a_shuffle_without_the_smaller_last_one(n: int, size: int, lengths: list[int]) -> None:
    batches = list(shuffled_batches(n, size, torch.Generator().manual_seed(0)))
    assert [len(batch) for batch in batches] == lengths
    drawn = torch.cat(batches).tolist()
    assert len(set(drawn)) == len(drawn)
    assert set(drawn) <= set(range(n))
    again = list(shuffled_batches(n, size, torch.Generator().manual_seed(0)))
    assert torch.cat(again).tolist() == drawn


@pytest.mark.parametrize(
    ("progress", "expected"), [(0.0, 0.0), (0.1, 0.15), (0.2, 0.3), (0.6, 0.15), (0.8, 0.075), (1.0, 0.0)]
)
def test_one_cycle_rises_for_a_fifth_and_falls_for_the_rest(progress: float, expected: float) -> None:
    assert one_cycle(progress, 0.3) == pytest.approx(expected, abs=1e-12)


def test_the_learning_rate_is_set_in_every_group() -> None:
    layers = [nn.Linear(1, 1), nn.Linear(1, 1)]
    optimiser = torch.optim.SGD([{"params": layer.parameters()} for layer in layers], lr=0.1)
    set_learning_rate(optimiser, 0.025)
    assert [group["lr"] for group in optimiser.param_groups] == [0.025, 0.025]
