"""The grouped recipes: groups out of a setting, the penalty transcribed, and that it is what the recipes add."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model_zoo.recipes import clustr_at, clustr_grouped, pgd_at, pgd_at_grouped
from model_zoo.recipes.check import check_settings
from model_zoo.recipes.cluster_training import BatchLosses, ClusterBatch
from model_zoo.recipes.groups import parse_groups, spread_within_groups, write_groups
from model_zoo.recipes.loop import TrainingRun
from model_zoo.recipes.supervised import BatchLoss
from tests.model_zoo.builders import digits_data, images, no_index

GROUPS = "0,2/1"
RUN = TrainingRun(seed=0, device=torch.device("cpu"), folder=None, identity="")


def spread(logits: Tensor) -> float:
    """The penalty with loops, for GROUPS."""
    total = 0.0
    for z in logits.double().detach().numpy():
        for c, group in ((0, (0, 2)), (1, (1,)), (2, (0, 2))):
            total += (z[c] - np.mean([z[j] for j in group])) ** 2
    return total / logits.numel()


def test_groups_are_read_and_written() -> None:
    assert parse_groups("0,2/1,3 / 4", 5).tolist() == [0, 1, 0, 1, 2]
    assert write_groups([7, 3, 7, 3, 1]) == "0,2/1,3/4"
    assert parse_groups(write_groups([2, 2, 0, 1]), 4).tolist() == [0, 0, 1, 2]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "at least two"),
        ("0,1,2", "at least two"),
        ("0,1/2,3", "'3' is no class from 0 to 2"),
        ("0,1/2,-1", "'-1' is no class"),
        ("0,1/1,2", "class 1 stands twice"),
        ("0/2", "class 1 is in no group"),
        ("0,1//2", "'' is no class"),
    ],
)
def test_groups_that_are_none_of_the_classes_are_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_groups(text, 3)


def test_wrong_groups_are_refused_before_any_training() -> None:
    with pytest.raises(ValueError, match="in no group"):
        check_settings(pgd_at_grouped.Settings(groups="0,1/2"), digits_data())


def test_the_penalty_is_the_spread_of_the_logits_within_groups() -> None:
    logits = torch.randn(7, 3, generator=torch.Generator().manual_seed(1))
    groups = parse_groups(GROUPS, 3)
    assert spread_within_groups(logits, groups).item() == pytest.approx(spread(logits), rel=1e-5)
    shifted = spread_within_groups(logits + 5.0 * torch.arange(7)[:, None], groups)
    assert shifted.item() == pytest.approx(spread(logits), rel=1e-4), "what all logits share does not count"
    equal = torch.tensor([[4.0, -1.0, 4.0]])
    assert spread_within_groups(equal, groups).item() == 0.0


@pytest.mark.usefixtures("unchecked")
def test_pgd_at_grouped_adds_the_penalty_on_the_same_adversarial_images(monkeypatch: pytest.MonkeyPatch) -> None:
    losses: list[BatchLoss] = []
    for module in (pgd_at, pgd_at_grouped):
        monkeypatch.setattr(module, "fit", lambda *given: losses.append(given[-1]))
    settings = {"eps": 0.1, "step_size": 0.04, "steps": 3}
    data = digits_data()
    monkeypatch.setattr(pgd_at_grouped, "parse_groups", lambda text, classes: parse_groups(GROUPS, 3))
    pgd_at.train(data, pgd_at.Settings(**settings), RUN)  # type: ignore[arg-type]
    pgd_at_grouped.train(data, pgd_at_grouped.Settings(**settings, weight=0.3), RUN)  # type: ignore[arg-type]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    seen: list[Tensor] = []
    model.register_forward_hook(lambda module, given, out: seen.append(out))
    x, y = images(9), torch.arange(9) % 3
    plain = losses[0](model, x, y, torch.Generator().manual_seed(8)).item()
    expected = plain + 0.3 * spread(seen[-1])  # the last pass of a loss is that over the adversarial images
    assert spread(seen[-1]) > 0.01
    assert losses[1](model, x, y, torch.Generator().manual_seed(8)).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.usefixtures("unchecked")
def test_clustr_grouped_adds_the_penalty_on_the_log_probabilities_of_eq_4(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[BatchLosses] = []
    monkeypatch.setattr(clustr_at, "fit_from", lambda *given: kept.append(given[-1]))
    monkeypatch.setattr(clustr_grouped, "parse_groups", lambda text, classes: parse_groups(GROUPS, 3))
    settings = clustr_grouped.Settings(eps=0.1, step_size=0.04, steps=2, weight=0.3)
    data = digits_data()
    clustr_grouped.train(data, settings, RUN)

    def batch() -> ClusterBatch:
        return ClusterBatch(
            backbone=nn.Flatten(),
            x=images(6),
            y=torch.tensor([0, 1, 2, 0, 1, 2]),
            centroids=images(5, seed=1).flatten(1),
            labels=torch.tensor([0, 1, 1, 2, 0]),
            chosen=torch.zeros(0, dtype=torch.int64),
            variance=3.0,
            index=no_index(),
            generator=torch.Generator().manual_seed(8),
        )

    log_p = clustr_at.adversarial_log_probabilities(batch(), settings, 3)
    monkeypatch.setattr(clustr_at, "adversarial_log_probabilities", lambda *given: log_p)
    terms = kept[0](batch())
    plain = clustr_at.adversarial_loss(settings, 3)(batch())
    assert terms["cross entropy"].item() == plain["cross entropy"].item()
    assert terms["spread within groups"].item() == pytest.approx(0.3 * spread(log_p), rel=1e-5)
    assert spread(log_p) > 1e-3
