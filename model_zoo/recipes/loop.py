"""The training loop all recipes share: epochs, log, checkpoints, resume."""

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from model_zoo.files import write_whole

logger = logging.getLogger(__name__)

Progress = Callable[[Iterable[Any], str], Iterable[Any]]
"""(steps, description) to the same steps, shown to a person or not."""


@dataclass(frozen=True)
class TrainingRun:
    """Where and how a training happens; `identity` names everything its result depends on.

    A recipe adds to `notes` what the card of its model must say.
    """

    seed: int
    device: torch.device
    folder: Path | None
    identity: str
    progress: Progress = lambda steps, _: steps
    notes: list[str] = field(default_factory=list)

    def generator(self, *purpose: str | int) -> torch.Generator:
        """A CPU generator keyed by (seed, purpose): an epoch's numbers do not depend on how it was reached."""
        name = "/".join(map(str, (self.seed, *purpose)))
        key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "little")
        return torch.Generator().manual_seed(key)

    def autocast(self) -> AbstractContextManager[object]:
        """bfloat16 on an accelerator; a CPU trains in float32."""
        if self.device.type == "cpu":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


Epoch = Callable[[int], dict[str, float]]
"""Train one epoch (counted from 0) and return its figures for the log."""


def train_epochs(
    run: TrainingRun,
    stage: str,
    module: nn.Module,
    optimiser: torch.optim.Optimizer | None,
    epochs: int,
    one_epoch: Epoch,
) -> list[dict[str, float]]:
    """Run the epochs a checkpoint of this stage has not seen yet, saving after each.

    A killed training starts again at the last finished epoch and ends with the same weights, because an
    epoch's random numbers are keyed by its number. Raises FloatingPointError when a loss or, after an epoch,
    a weight is not finite; the last good checkpoint stays. `optimiser` is None where the module's own state is all.
    """
    history = _restore(run, stage, module, optimiser)
    for epoch in range(len(history), epochs):
        started = time.monotonic()
        try:
            figures = one_epoch(epoch)
            _check_finite(module)
        except FloatingPointError as error:
            raise FloatingPointError(f"{stage}, epoch {epoch + 1} of {epochs}: {error}") from None
        figures["seconds"] = round(time.monotonic() - started, 1)
        history.append(figures)
        _store(run, stage, module, optimiser, history)
        shown = ", ".join(f"{k} {v:.4g}" for k, v in figures.items())
        logger.info("%s: epoch %d of %d: %s", stage, epoch + 1, epochs, shown)
    return history


def _check_finite(module: nn.Module) -> None:
    """Raise FloatingPointError for a state that no training can go on from: the last step may have left it."""
    tensors = {name: value for name, value in module.state_dict().items() if value.is_floating_point()}
    finite = torch.stack([value.isfinite().all() for value in tensors.values()]).tolist()
    for name, good in zip(tensors, finite, strict=True):
        if not good:
            raise FloatingPointError(f"{name} is not finite after the last step; the last good checkpoint is kept")


class LossLog:
    """The terms of an epoch's losses, read in groups of `every` steps: an accelerator need not wait each step."""

    def __init__(self, first_step: int, every: int):
        self._step, self._every = first_step, every
        self._waiting: list[Tensor] = []
        self._terms: list[str] = []
        self._read: list[list[float]] = []

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Note a step's terms; FloatingPointError names the first step and term that is not finite, once it is read."""
        self._terms = list(terms)
        self._waiting.append(torch.stack([value.detach().float() for value in terms.values()]))
        if len(self._waiting) == self._every:
            self._flush()

    def means(self) -> dict[str, float]:
        """The mean of each term over the epoch."""
        self._flush()
        columns = zip(*self._read, strict=True)
        return {name: sum(column) / len(column) for name, column in zip(self._terms, columns, strict=True)}

    def _flush(self) -> None:
        if not self._waiting:
            return
        for values in torch.stack(self._waiting).tolist():
            for name, value in zip(self._terms, values, strict=True):
                if not math.isfinite(value):
                    raise FloatingPointError(
                        f"the {name} became {value} at step {self._step}; the last good checkpoint is kept"
                    )
            self._read.append(values)
            self._step += 1
        self._waiting.clear()


def shuffled_batches(n: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Index batches of one epoch; a last batch smaller than batch_size is left out, unless it is the only one."""
    order = torch.randperm(n, generator=generator)
    full = n // batch_size
    yield from order[: full * batch_size].split(batch_size) if full else [order]


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate


def one_cycle(progress: float, peak: float, warm_up: float = 0.2) -> float:
    """Learning rate at `progress` in [0, 1]: up to `peak` in a line, then down to 0 in another."""
    return peak * (progress / warm_up if progress < warm_up else (1.0 - progress) / (1.0 - warm_up))


def read_history(checkpoint: Path) -> list[dict[str, float]]:
    """The figures of a checkpoint's finished epochs; SafetensorError for a corrupt file."""
    with safe_open(checkpoint, framework="pt") as file:
        history: list[dict[str, float]] = json.loads((file.metadata() or {})["history"])
    return history


def _checkpoint(run: TrainingRun, stage: str) -> Path | None:
    return None if run.folder is None else run.folder / f"{stage}.checkpoint.safetensors"


def _store(
    run: TrainingRun,
    stage: str,
    module: nn.Module,
    optimiser: torch.optim.Optimizer | None,
    history: list[dict[str, float]],
) -> None:
    path = _checkpoint(run, stage)
    if path is None:
        return
    tensors = {f"module/{k}": v.contiguous() for k, v in module.state_dict().items()}
    for parameter, state in optimiser.state_dict()["state"].items() if optimiser is not None else ():
        for key, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"optimiser/{parameter}/{key}"] = value.contiguous()
    payload = save(tensors, metadata={"identity": run.identity, "history": json.dumps(history)})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, payload)


def _restore(
    run: TrainingRun, stage: str, module: nn.Module, optimiser: torch.optim.Optimizer | None
) -> list[dict[str, float]]:
    path = _checkpoint(run, stage)
    if path is None or not path.exists():
        return []
    try:
        # On the CPU, whence state dicts are copied to where they belong: Adam's step counts stay there.
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - safe_open has no iteration
    except SafetensorError as error:
        raise ValueError(f"checkpoint {path} is corrupt ({error}); remove it") from None
    if metadata.get("identity") != run.identity:
        raise ValueError(f"{path} belongs to a training with other settings; remove it or choose another --out")
    module.load_state_dict({k.removeprefix("module/"): v for k, v in tensors.items() if k.startswith("module/")})
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimiser/"):
            _, parameter, name = key.split("/")
            state.setdefault(int(parameter), {})[name] = value
    if optimiser is not None:
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    history: list[dict[str, float]] = json.loads(metadata["history"])
    logger.info("%s: resumed after epoch %d", stage, len(history))
    return history
