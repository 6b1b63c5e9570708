"""The scheduler: what comes out is what one search after the other would give, at less cost."""

from collections import Counter
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

from attacks.contract import Classifier
from attacks.search import Found, GiveUp, Lanes, Progress, Tasks, clean_margin, search
from attacks.threat import Threat

THREAT = Threat("linf", 1.0)
LENGTH = 9


class Level(nn.Module):
    """Class 1 where the first pixel exceeds 1/2."""

    def __init__(self, lanes: int = 250, slack: float = 0.0):
        super().__init__()
        self.lanes, self.slack = lanes, slack
        self.judged: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        lead = x.flatten(1)[:, 0] - 0.5
        return torch.stack([-lead, lead], dim=1)

    def confirm(self, x: Tensor, y: Tensor, x_adv: Tensor, threat: Threat) -> Tensor:
        del x, threat
        self.judged.append(len(y))
        wrong: Tensor = (self(x_adv).argmax(dim=1) != y) | (x_adv.flatten(1)[:, 0] == 0.5)
        return wrong


@dataclass
class Scripted:
    """Search `run` of sample i shows the value script[i][run][step] as its first pixel; notes what was shown."""

    script: Tensor
    name: str = "scripted"
    shown: Counter[tuple[int, int]] = field(default_factory=Counter)

    @property
    def runs(self) -> int:
        return self.script.shape[1]

    def begin(self, model: Classifier, tasks: Tasks, threat: Threat) -> Lanes:
        del model, threat
        which = tasks.x.flatten(1)[:, 1].round().long()
        return {"which": which, "at": torch.zeros(len(which), dtype=torch.int64), "my_run": tasks.run.clone()}

    def advance(self, model: Classifier, lanes: Lanes, threat: Threat) -> Progress:
        del threat
        values = self.script[lanes["which"], lanes["my_run"], lanes["at"].clamp_max(LENGTH - 1)]
        images = lanes["x"].clone()
        images.flatten(1)[:, 0] = values
        self.shown.update(zip(lanes["which"].tolist(), lanes["my_run"].tolist(), strict=True))
        logits = model(images)
        finished = lanes["at"] >= LENGTH - 1
        lanes["at"] += 1
        return Progress(images, logits[:, 1] - logits[:, 0], lanes["at"], finished)


def scripts(samples: int, runs: int, seed: int) -> Tensor:
    """Mostly below 1/2; a sample in two is broken at some step of some runs."""
    generator = torch.Generator().manual_seed(seed)
    script = 0.45 * torch.rand(samples, runs, LENGTH, generator=generator)
    hits = torch.rand(samples, runs, LENGTH, generator=generator) < 0.03
    return torch.where(hits, 0.6 + 0.4 * torch.rand(samples, runs, LENGTH, generator=generator), script)


def carry_out(script: Tensor, model: Level, rows: Tensor | None = None) -> tuple[Found, Scripted]:
    method = Scripted(script)
    rows = torch.arange(len(script)) if rows is None else rows
    x = torch.zeros(len(rows), 1, 1, 2)
    x[:, 0, 0, 1] = rows.float()
    return search(model, method, x, torch.zeros_like(rows), THREAT, seed=0, sample_ids=rows), method


def one_after_the_other(script: Tensor) -> tuple[list[int], list[float]]:
    """Each sample's first winning run and its pixel; else -1 and the last value of the last run."""
    wins, pixels = [], []
    for sample in script:
        won = [(run, float(row[row > 0.5][0])) for run, row in enumerate(sample) if bool((row > 0.5).any())]
        wins.append(won[0][0] if won else -1)
        pixels.append(won[0][1] if won else float(sample[-1, -1]))
    return wins, pixels


@pytest.mark.parametrize("lanes", [1, 2, 7, 40, 250])
@pytest.mark.parametrize("runs", [1, 4])
def test_the_outcome_is_that_of_one_search_after_the_other(lanes: int, runs: int) -> None:
    script = scripts(60, runs, seed=runs)
    found, _ = carry_out(script, Level(lanes))
    wins, pixels = one_after_the_other(script)
    assert 10 < sum(win >= 0 for win in wins) < 55
    assert found.run.tolist() == wins
    assert found.x_adv.flatten(1)[:, 0].tolist() == pytest.approx(pixels)


def test_order_and_company_of_samples_change_nothing() -> None:
    script = scripts(40, 3, seed=5)
    everything, _ = carry_out(script, Level(16))
    for rows in torch.randperm(40, generator=torch.Generator().manual_seed(1)).split(7):
        part, _ = carry_out(script, Level(16), rows)
        assert torch.equal(part.run, everything.run[rows])
        assert torch.equal(part.x_adv, everything.x_adv[rows])


def test_a_broken_sample_is_left_alone() -> None:
    """All samples break at the second step of run 0: with one lane a sample, no later run is ever begun."""
    script = torch.full((30, 5, LENGTH), 0.1)
    script[:, 0, 1] = 0.9
    found, method = carry_out(script, Level(30))
    assert bool(found.broken.all())
    assert set(method.shown) == {(sample, 0) for sample in range(30)}


def test_lanes_are_refilled_so_that_few_steps_are_idle() -> None:
    """Half the samples leave at once; the rest need 8 runs of 9 steps: hardly a step beyond that is shown."""
    script = torch.full((40, 8, LENGTH), 0.1)
    script[::2, 0, 0] = 0.9
    method_steps: list[int] = []

    class Counting(Scripted):
        def advance(self, model: Classifier, lanes: Lanes, threat: Threat) -> Progress:
            method_steps.append(len(lanes["y"]))
            return super().advance(model, lanes, threat)

    x = torch.zeros(40, 1, 1, 2)
    x[:, 0, 0, 1] = torch.arange(40)
    rows = torch.arange(40)
    search(Level(40), Counting(script), x, torch.zeros_like(rows), THREAT, seed=0, sample_ids=rows)
    needed = 20 * 8 * LENGTH + 20
    assert sum(method_steps) < 1.2 * needed


def test_what_the_judge_refuses_goes_on() -> None:
    """Margins within the slack are claimed, refused, and the search goes on to its true success or its end."""
    script = torch.full((3, 1, LENGTH), 0.1)
    script[0, 0, 2], script[0, 0, 5] = 0.49, 0.9
    script[1, 0, 2], script[1, 0, 4] = 0.49, 0.5  # a tie, which the judge counts as broken
    script[2, 0, 2], script[2, 0, 8] = 0.49, 0.495
    model = Level(slack=0.05)
    found, _ = carry_out(script, model)
    assert found.run.tolist() == [0, 0, -1]
    assert found.x_adv.flatten(1)[:, 0].tolist() == pytest.approx([0.9, 0.5, 0.495])
    assert sum(model.judged) == 6


def test_a_tie_is_put_to_the_judge_once_and_positive_margins_always() -> None:
    script = torch.full((2, 1, LENGTH), 0.1)
    script[0, 0, 3] = 0.5
    script[1, 0, 2:6] = torch.tensor([0.5, 0.5, 0.9, 0.8])

    class Strict(Level):
        def confirm(self, x: Tensor, y: Tensor, x_adv: Tensor, threat: Threat) -> Tensor:
            del x, threat
            self.judged.append(len(y))
            return (x_adv.flatten(1)[:, 0] - 0.8).abs() < 1e-3

    found, _ = carry_out(script, Level())
    assert found.run.tolist() == [0, 0]
    assert found.x_adv.flatten(1)[:, 0].tolist() == [0.5, 0.5]
    strict = Strict()
    found, _ = carry_out(script, strict)
    assert found.run.tolist() == [-1, 0]
    assert sum(strict.judged) == 4


def test_a_margin_is_judged_again_only_where_it_rose() -> None:
    script = torch.full((1, 1, LENGTH), 0.49)
    script[0, 0, 6] = 0.495
    model = Level(slack=0.05)
    found, _ = carry_out(script, model)
    assert not bool(found.broken.any())
    assert sum(model.judged) == 2
    assert float(found.margin[0]) == pytest.approx(-0.01, abs=1e-6)


def test_nothing_to_do_is_no_error() -> None:
    found, _ = carry_out(torch.zeros(0, 2, LENGTH), Level())
    assert found.x_adv.shape == (0, 1, 1, 2)


def test_a_hopeless_search_is_abandoned_at_its_checkpoint_and_a_promising_one_is_not() -> None:
    """The clean margin is -1. After 3 images at most 0.5 of it may be left: a first pixel of 0.25 or more."""
    script = torch.full((3, 2, LENGTH), 0.1)
    script[0, 0, 8] = 0.9  # would break late, but looks hopeless until then
    script[1, 0, 1], script[1, 0, 8] = 0.3, 0.9
    script[2, 1, 2], script[2, 1, 8] = 0.3, 0.9  # in its second run
    method = Scripted(script)
    x = torch.zeros(3, 1, 1, 2)
    x[:, 0, 0, 1] = torch.arange(3)
    ids = torch.arange(3)
    rule = GiveUp(((3, 0.5),))
    found = search(Level(), method, x, torch.zeros_like(ids), THREAT, seed=0, sample_ids=ids, give_up=rule)
    assert found.run.tolist() == [-1, 0, 1]
    assert method.shown[(0, 0)] == 3
    assert method.shown[(2, 0)] == 3
    assert method.shown[(1, 0)] == LENGTH


def test_progress_is_unknown_where_a_mask_hides_every_wrong_class() -> None:
    def model(x: Tensor) -> Tensor:
        """The first sample's wrong class is excluded, far below anything a network says."""
        return torch.tensor([[0.0, -1e4], [0.0, -3.0]])[: len(x)]

    margins = clean_margin(model, torch.zeros(2, 1, 1, 1), torch.zeros(2, dtype=torch.int64))
    assert margins.tolist() == [-torch.inf, -3.0]
