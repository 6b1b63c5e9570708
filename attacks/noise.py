"""Uniform noise: the weakest attack, and a floor under every other."""

import torch
from torch import Tensor

from attacks.contract import AttackResult, Classifier, decision, fooled
from attacks.randomness import sample_generators
from attacks.threat import Threat


def noise(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    seed: int,
    sample_ids: Tensor,
    draws: int = 100,
) -> AttackResult:
    """Up to `draws` points uniform in the ball, clamped to the box; the first that fools is kept.

    Source: the sanity check of Carlini et al. 2019, section 5.3 (random search as a baseline).
    """
    if draws < 1:
        raise ValueError(f"noise: draws must be at least 1, got {draws}")
    x_adv = x.clone()
    pending = torch.arange(len(x), device=x.device)
    generators = sample_generators(seed, sample_ids, "noise")
    for _ in range(draws):
        if len(pending) == 0:
            break
        x_adv[pending] = threat.random_start(x[pending], [generators[i] for i in pending.tolist()])
        with torch.no_grad():
            logits = decision(model, x_adv[pending])
        pending = pending[~fooled(logits, y[pending])]
    return AttackResult(x_adv)
