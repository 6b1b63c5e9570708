"""What counts as fooled, on hand-written logits."""

import torch

from attacks.contract import best_other, fooled

LOGITS = torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [1.0, 1.0, 1.0], [0.0, 2.0, 2.0]])


def test_fooled_asks_for_another_class_strictly_above_the_true_one() -> None:
    assert fooled(LOGITS, torch.tensor([0, 2, 1, 1])).tolist() == [False, True, False, False]


def test_a_nan_logit_is_not_a_success() -> None:
    assert fooled(torch.tensor([[0.0, torch.nan]]), torch.tensor([0])).tolist() == [False]


def test_best_other_leaves_the_true_class_out() -> None:
    assert best_other(LOGITS, torch.tensor([0, 1, 2, 1])).tolist() == [2.0, 3.0, 1.0, 2.0]
