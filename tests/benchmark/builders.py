"""Small models, data sets and attacks, and the parts of a record that must not vary."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attacks.contract import AttackResult
from attacks.registry import AttackEntry, ResolvedAttack
from benchmark.datasets import Dataset, from_arrays
from model_zoo.adapter import FeatureExtractor, LogitsModel
from model_zoo.architectures import build
from model_zoo.kmeans import KMeansClassifier
from model_zoo.magnet import MagnetClassifier
from model_zoo.registry import LoadedModel
from model_zoo.weights import save_model
from results.records import UnitRecord, WorkUnit
from results.store import Store

CPU = torch.device("cpu")


class Threshold(nn.Module):
    """Class 1 where the mean pixel exceeds 1/2, class 0 where it falls below; a tie at 1/2."""

    def forward(self, x: Tensor) -> Tensor:
        lead = x.flatten(1).mean(dim=1) - 0.5
        return torch.stack([-lead, lead], dim=1)


def grey(levels: list[float], labels: list[int] | None = None) -> Dataset:
    """One grey 1x2x2 image a level; by default labelled as Threshold predicts it."""
    images = np.stack([np.full((2, 2), level, dtype=np.float32) for level in levels])
    y = [int(level > 0.5) for level in levels] if labels is None else labels
    return from_arrays("grey", images, np.array(y))


def loaded(model: nn.Module, name: str = "model", **changes: Any) -> LoadedModel:
    return LoadedModel(name, changes.pop("group", name), model.eval(), changes.pop("sha256", "0" * 64), **changes)


def stub(run: Callable[..., AttackResult], **entry: Any) -> ResolvedAttack:
    """A function as an attack that is in no registry."""
    return ResolvedAttack("stub", AttackEntry("a stub", run, **entry))


def unit_for(dataset: Dataset, **changes: Any) -> WorkUnit:
    fields: dict[str, Any] = {
        "model": "model",
        "group": "model",
        "weights_sha256": "0" * 64,
        "dataset": dataset.name,
        "data_sha256": dataset.sha256,
        "norm": "linf",
        "eps": 0.1,
        "attack": "stub",
        "params": {},
        "start": 0,
        "stop": len(dataset.x),
        "seed": 0,
    }
    return WorkUnit.model_validate(fields | changes)


def small_resnet(channels: int = 1, seed: int = 0) -> LogitsModel:
    """The zoo's architecture with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LogitsModel(build("small-resnet", channels, 10), [0.5] * channels, [0.5] * channels).requires_grad_(
            False
        )


def class_means(features: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """One centroid a class, and its label."""
    classes = y.unique()
    return torch.stack([features[y == c].mean(dim=0) for c in classes]), classes


def kmeans_for(data: Dataset) -> KMeansClassifier:
    return KMeansClassifier(*class_means(data.x, data.y), data.num_classes, variance=5.0)


def magnet_for(data: Dataset, seed: int = 0) -> MagnetClassifier:
    """Class means of random features: a clustering classifier that is right more often than by chance."""
    network = small_resnet(data.x.shape[1], seed).network
    backbone = FeatureExtractor(network, [0.5], [0.5]).eval()
    with torch.no_grad():
        centroids, labels = class_means(backbone(data.x), data.y)
        distances = torch.cdist(backbone(data.x), centroids).square()
    variance = float(distances.amin(dim=1).mean())
    return MagnetClassifier(backbone, centroids, labels, variance, data.num_classes).requires_grad_(False)


def card_for(data: Dataset, **changes: Any) -> dict[str, Any]:
    return {
        "name": "tiny",
        "summary": "a tiny model for tests",
        "architecture": "small-resnet",
        "input_shape": tuple(data.x.shape[1:]),
        "num_classes": data.num_classes,
        "recipe": "none",
        "settings": {},
        "command": "none",
        "dataset": data.name,
        "data_sha256": data.sha256,
        "seed": 0,
        "minutes": 0.0,
        "machine": "none",
        "versions": {},
        "validation_accuracy": 0.5,
    } | changes


def save(path: Path, model: nn.Module, data: Dataset) -> Path:
    """Write a model with its card; what `--model PATH` takes."""
    save_model(path, model, card_for(data))
    return path


def records_of(folder: Path) -> dict[str, UnitRecord]:
    store = Store(folder)
    return {record.key: record for record in store.read(store.read_plan())}


TIMES = ("provenance", "seconds", "samples_per_second", "model_time_ratio")


def essence(record: UnitRecord) -> dict[str, Any]:
    """A record without what may differ from one run to the next: when, where, and how long it took."""
    content = json.loads(record.model_dump_json())
    assert isinstance(content, dict)
    return {name: value for name, value in content.items() if name not in TIMES}


def judged(record: UnitRecord) -> tuple[object, ...]:
    """What may not depend on batch size, order or worker: verdicts, distances, predictions, images."""
    return record.verdicts, record.distances, record.predictions, record.adversarial_sha256


def images_of(folder: Path) -> dict[str, bytes]:
    """The bytes of every file of adversarial images."""
    return {path.name: path.read_bytes() for path in (folder / "units").glob("*.safetensors")}
