"""The network a ClusTR recipe starts from (ClusTR section 3.3, "warm start")."""

import torch
from torch import nn

from model_zoo.adapter import LogitsModel
from model_zoo.architectures import build
from model_zoo.recipes import nominal
from model_zoo.recipes.cluster_training import ClusterSettings
from model_zoo.recipes.data import TrainingData
from model_zoo.recipes.loop import TrainingRun
from model_zoo.registry import LoadedModel, load
from model_zoo.weights import ModelCard


def warm_start(data: TrainingData, settings: ClusterSettings, run: TrainingRun) -> LogitsModel:
    """The model named in the settings, or `nominal` trained on the same data first.

    Raises ValueError where the named model does not fit the data or the architecture of the settings. It may come
    from other data: `foreign_start` says so.
    """
    if not settings.warm_start:
        return nominal.train(data, nominal.Settings(architecture=settings.architecture), run)
    loaded = load(settings.warm_start, run.device, fold=False)
    model, name = loaded.model, f"warm_start {settings.warm_start!r}"
    if not isinstance(model, LogitsModel):
        raise ValueError(f"warm_start must be a network with logits, got {settings.warm_start!r}")
    check_fits(loaded, data, run.device, name)
    _check_architecture(model.network, data, settings.architecture, name, loaded.card)
    return model.requires_grad_(True)  # a loaded model comes frozen, for evaluation


def check_fits(loaded: LoadedModel, data: TrainingData, device: torch.device, name: str) -> None:
    """Raise ValueError unless a model takes the data's images and has as many classes."""
    shape = tuple(data.x.shape[1:])
    if loaded.card is not None and tuple(loaded.card.input_shape) != shape:
        raise ValueError(f"{name} takes images of shape {loaded.card.input_shape}, data set {data.name} has {shape}")
    classes = _classes(loaded.model, data, device, name)
    if classes != data.num_classes:
        raise ValueError(f"{name} has {classes} classes, data set {data.name} {data.num_classes}")


def foreign_start(name: str, card: ModelCard | None, data: TrainingData) -> str | None:
    """A sentence for the card of a model whose warm start saw other images than it, None for the same ones."""
    if card is None:
        return f"the warm start {name} has no card that says what it was trained on"
    if (card.dataset, card.data_sha256) == (data.name, data.sha256):
        return None
    other = f"another version of {data.name}" if card.dataset == data.name else f"{card.dataset}, not on {data.name}"
    return f"the warm start {name} was trained on {other}"


@torch.no_grad()
def _classes(model: nn.Module, data: TrainingData, device: torch.device, name: str) -> int:
    try:
        return int(model(data.x[:1].to(device)).shape[1])
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{name} raised on an image of data set {data.name}: {reason}") from error


def _check_architecture(
    network: nn.Module, data: TrainingData, architecture: str, name: str, card: ModelCard | None
) -> None:
    """Raise ValueError unless the network's weights are those of the architecture, from which it is rebuilt."""
    with torch.random.fork_rng(devices=[]):
        expected = build(architecture, data.x.shape[1], data.num_classes, data.x.shape[2:])
    try:
        expected.load_state_dict(network.state_dict())
    except RuntimeError:
        known = card.architecture if card is not None else None
        remedy = f"; set architecture={known}" if known else ""
        raise ValueError(f"{name} is no {architecture}, which the settings ask for{remedy}") from None
