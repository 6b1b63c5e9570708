"""AutoAttack standard (Croce & Hein 2020b), through the reference implementation `pyautoattack`."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from attacks.contract import AttackResult, Classifier
from attacks.threat import Norm, Threat

STANDARD_TARGETS = 9
MIN_CLASSES = 4
"""The targeted DLR loss divides by a difference of the first and the mean of the third and fourth logit."""

_REFERENCE_NORMS: dict[Norm, str] = {"linf": "Linf", "l2": "L2", "l1": "L1"}


def autoattack_reference(
    model: Classifier, x: Tensor, y: Tensor, threat: Threat, *, seed: int, sample_ids: Tensor
) -> AttackResult:
    """APGD-CE, targeted APGD-DLR, targeted FAB and Square, each on what the ones before left standing.

    Source: Croce & Hein 2020b, section 5 and table 2, by `pyautoattack` with all its samples in one batch:
    its Square draws one window for the whole batch, so a verdict may depend on which samples are attacked
    together, and the caller fixes that. Below 10 classes it runs with classes - 1 targets and says so.
    Raises ValueError below 4 classes.
    """
    from pyautoattack import AutoAttack  # imports slowly; only this needs it

    del sample_ids  # the reference has one generator a batch
    with torch.no_grad():
        num_classes = model(x[:1]).shape[1]
    if num_classes < MIN_CLASSES:
        raise ValueError(f"autoattack-reference needs at least {MIN_CLASSES} classes, the model has {num_classes}")
    with _warnings_of("auto-attack") as warned, torch.random.fork_rng(), _trace_kept():
        reference = AutoAttack(
            model,
            norm=_REFERENCE_NORMS[threat.norm],
            eps=threat.eps,
            version="standard",
            seed=seed,
            device=x.device,
        )
        targets = min(STANDARD_TARGETS, num_classes - 1)
        reference.apgd_targeted.n_target_classes = reference.fab.n_target_classes = targets
        x_adv, y_adv = reference.run_standard_evaluation(x, y, batch_size=len(x))
    flags = tuple(dict.fromkeys(f"autoattack warns: {message}" for message in warned))
    if targets < STANDARD_TARGETS:
        flags += (f"non-standard AutoAttack: {targets} targets, for {num_classes} classes",)
    return AttackResult(x_adv, claimed=y_adv != y, flags=flags)


@contextmanager
def _warnings_of(name: str) -> Iterator[list[str]]:
    """Collect a logger's warnings instead of printing them."""
    messages: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage().split(" See ")[0])

    log, collector = logging.getLogger(name), Collector(logging.WARNING)
    propagate, log.propagate = log.propagate, False
    log.addHandler(collector)
    try:
        yield messages
    finally:
        log.removeHandler(collector)
        log.propagate = propagate


@contextmanager
def _trace_kept() -> Iterator[None]:
    """The reference's check for dynamic defences switches off the debugger's and coverage's trace function."""
    trace = sys.gettrace()
    try:
        yield
    finally:
        sys.settrace(trace)
