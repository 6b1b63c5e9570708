"""Everything a run names, looked up and tried before any work: data, models, attacks."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from attacks.registry import NEEDS, AttackError, ResolvedAttack
from attacks.registry import resolve as resolve_attack
from attacks.threat import Threat
from benchmark import datasets
from benchmark.config import RunConfig
from benchmark.datasets import Dataset
from benchmark.errors import RequestError
from model_zoo.adapter import judged_by
from model_zoo.errors import ModelError
from model_zoo.registry import LoadedModel, load
from results.printable import has_controls
from results.records import WorkUnit


@dataclass(frozen=True)
class Request:
    """A configuration whose every name stands for something that works."""

    config: RunConfig
    dataset: Dataset
    models: tuple[LoadedModel, ...]
    attacks: tuple[ResolvedAttack, ...]
    surrogates: dict[str, LoadedModel]


def resolve(config: RunConfig, data_root: Path | None) -> Request:
    """Load what the configuration names; RequestError, one line, for the first thing that does not work."""
    for name in (config.dataset, *config.models):
        if has_controls(name):
            raise RequestError(f"names cannot hold control characters, got {name!r}")
    device = choose_device(config.device)
    dataset = datasets.load(config.dataset, data_root)
    try:
        models = tuple(load(name, device) for name in config.models)
    except ModelError as error:
        raise RequestError(str(error)) from error
    return check_request(config, dataset, models, device)


def check_request(
    config: RunConfig, dataset: Dataset, models: tuple[LoadedModel, ...], device: torch.device
) -> Request:
    """Try models and attacks on the data they will meet."""
    if config.samples > len(dataset.x):
        raise RequestError(f"samples: {dataset.name} has {len(dataset.x)} test images, got {config.samples}")
    for threat in config.threats:
        largest = Threat(threat.norm, threat.eps).diameter(dataset.x[0].numel())
        if threat.eps > largest:
            raise RequestError(
                f"eps must be in (0, {largest:.4g}] for {threat.norm} on {dataset.name} (the box's diagonal), "
                f"got {threat.eps:g}"
            )
    try:
        attacks = tuple(resolve_attack(name) for name in config.attacks)
        surrogates = {a.surrogate: load(a.surrogate, device) for a in attacks if a.surrogate is not None}
    except (AttackError, ModelError) as error:
        raise RequestError(str(error)) from error
    classes = min(check_model(model, dataset, device) for model in (*models, *surrogates.values()))
    for attack in attacks:
        if classes < attack.entry.min_classes:
            raise RequestError(
                f"attack {attack.name} needs at least {attack.entry.min_classes} classes, a model here has {classes}"
            )
        if not any(applies(attack, model) for model in models):
            names = ", ".join(model.name for model in models)
            raise RequestError(f"attack {attack.name} needs {NEEDS[attack.entry.needs]}; none among {names}")
        for threat in config.threats:
            if threat.norm not in attack.entry.norms:
                raise RequestError(f"attack {attack.name} knows {' and '.join(attack.entry.norms)}, not {threat.norm}")
    return Request(config, dataset, models, attacks, surrogates)


def surrogate_of(unit: WorkUnit, surrogates: dict[str, LoadedModel]) -> nn.Module | None:
    """The loaded surrogate a unit's attack names, if it names one."""
    name = unit.params.get("surrogate")
    return surrogates[name].model if isinstance(name, str) else None


def applies(attack: ResolvedAttack, model: LoadedModel) -> bool:
    """Whether an attack can be run on a model at all; a verifier reads the judged head."""
    target = judged_by(model.model) if attack.entry.verifies else model.model
    return isinstance(target, attack.entry.needs)


def choose_device(name: str) -> torch.device:
    """The device by name; auto takes CUDA where it is."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda"):
        raise RequestError(f"device must be auto, cpu or cuda, got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise RequestError("device cuda: no CUDA device is available here")
    return torch.device(name)


def check_model(loaded: LoadedModel, dataset: Dataset, device: torch.device) -> int:
    """Try a model on images of the data set: shape, finite logits, a gradient. Returns its number of classes.

    RequestError names the model and what it did.
    """
    x = dataset.x[:2].to(device)
    name = f"model {loaded.name}"
    if loaded.card is not None and tuple(x.shape[1:]) != tuple(loaded.card.input_shape):
        raise RequestError(
            f"{name} takes images of shape {tuple(loaded.card.input_shape)}, {dataset.name} has {tuple(x.shape[1:])}"
        )
    _check_numbering(loaded, dataset)
    images = x.clone().requires_grad_(True)
    try:
        logits, judged = loaded.model(images), judged_by(loaded.model)(x)
    except (Exception, SystemExit) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise RequestError(f"{name} raised on two images of shape {tuple(x.shape[1:])}: {reason}") from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(x):
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise RequestError(f"{name} must return logits of shape (n, classes), returned {shape} for n = {len(x)}")
    if logits.layout != torch.strided or logits.is_complex():
        raise RequestError(
            f"{name} must return real numbers in a dense tensor, returned {logits.dtype}, {logits.layout}"
        )
    if logits.shape[1] < max(2, dataset.num_classes):
        raise RequestError(f"{name} has {logits.shape[1]} classes, {dataset.name} has {dataset.num_classes}")
    if datasets.left_out(dataset.name) and logits.shape[1] != dataset.num_classes:
        raise RequestError(
            f"{name} has {logits.shape[1]} classes, {dataset.name} has {dataset.num_classes}, which are numbered anew"
        )
    if not bool(torch.isfinite(logits).all()):
        raise RequestError(f"{name} returned NaN or infinite logits on clean images")
    if not logits.requires_grad:
        raise RequestError(f"{name} is not differentiable: its logits carry no gradient to the images")
    if judged.shape != logits.shape:
        raise RequestError(f"{name}: its judged head returns another shape than the head under attack")
    return logits.shape[1]


def _check_numbering(loaded: LoadedModel, dataset: Dataset) -> None:
    """Refuse a model whose outputs are other classes than the labels of the same numbers; of files nobody knows."""
    trained = dataset.name if loaded.card is None else loaded.card.dataset
    named = {name.partition(":")[0] for name in (trained, dataset.name)} <= datasets.DATASETS.keys()
    if named and datasets.left_out(trained) != datasets.left_out(dataset.name):
        raise RequestError(
            f"model {loaded.name} was trained on {trained}, whose classes are not numbered as those of {dataset.name}"
        )
