"""`bench analyze adapt`: do robust models tell the group of classes they have never seen?

The protocol of Bai et al. 2021 (arXiv 2111.12922) on CIFAR-100 or any data set with groups: one class of each group is
left out (the target), networks learn the others (the source), then the group of the target's test images is asked for.

- Zero-shot: the group of the predicted class. A clustering classifier predicts through all its clusters.
- Fine-tuned: a linear layer (scikit-learn's logistic regression, C = 1) from the network's features, standardised, to
  groups, trained on a few images a class of the target; the network stays as it is. The bare pixels by the same layer
  are shown beside it.

What is trained lies in the folder and is found again; a training that was stopped goes on.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmark import datasets
from benchmark.datasets import Dataset
from benchmark.errors import RequestError
from benchmark.reproduce.trainings import Training, carry_out, in_order
from benchmark.threads import one_thread
from model_zoo.adapter import judged_by
from model_zoo.architectures import ARCHITECTURES
from model_zoo.errors import ModelError
from model_zoo.recipes.groups import write_groups
from model_zoo.registry import load
from results.adaptation import Adaptation, Adapted, marks, split_key
from results.groups import Groups, GroupsError, groups_of

Done = Callable[[], None]
KIND = "bench analyze adapt"
_PARTS = 500
_MOST_TRIES = 1000
_SEEDS = 2**31
"""scikit-learn takes seeds below 2^32, and k-means adds the epoch's number."""


@dataclass(frozen=True)
class Protocol:
    """What is left out, and how the models of a split are trained; `epochs` 0 leaves each recipe its own.

    `architecture` is a name of `model_zoo.architectures`.
    """

    dataset: str
    groups: Groups
    splits: tuple[tuple[int, ...], ...]
    methods: tuple[str, ...]
    shots: int
    seed: int
    epochs: int
    architecture: str = "small-resnet"

    def identity(self) -> dict[str, Any]:
        """All that the numbers depend on but the data and the recipes."""
        groups = dict(zip(self.groups.classes, (self.groups.names[g] for g in self.groups.labels), strict=True))
        return dataclasses.asdict(self) | {"groups": groups}

    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:8]

    def trainings(self, left_out: tuple[int, ...]) -> dict[str, Training]:
        """A split's models by method. Grouped ones know the groups of their classes; clustering ones start robust."""
        name = f"{self.dataset}:without={split_key(left_out)}"
        kept = [group for number, group in enumerate(self.groups.labels) if number not in left_out]
        grouped = (("groups", write_groups(kept)),)
        shared = (*((("epochs", str(self.epochs)),) if self.epochs else ()), ("architecture", self.architecture))
        robust = Training("pgd-at", name, shared, self.seed)
        start = (("warm_start", robust),)
        known = {
            "standard": Training("nominal", name, shared, self.seed),
            "robust": robust,
            "grouped": Training("pgd-at-grouped", name, (*shared, *grouped), self.seed),
            "clustering": Training("clustr-at", name, (*shared, *start), self.seed),
            "clustering grouped": Training("clustr-grouped", name, (*shared, *start, *grouped), self.seed),
        }
        return {method: known[method] for method in self.methods}


METHODS = ("standard", "robust", "grouped", "clustering", "clustering grouped")


def protocol_of(
    dataset: str,
    data_root: Path | None,
    *,
    groups: Path | None,
    count: int,
    methods: Sequence[str],
    shots: int,
    seed: int,
    epochs: int,
    architecture: str = "small-resnet",
) -> Protocol:
    """The experiment that the command line asks for; RequestError, one line, for what cannot be, before any work."""
    if dataset not in datasets.DATASETS:
        raise RequestError(
            "--dataset must be a whole data set that has training and test images, one of "
            f"{', '.join(datasets.DATASETS)}; got {dataset!r}"
        )
    for name in methods:
        if name not in METHODS:
            raise RequestError(f"unknown method {name!r}; known: {', '.join(METHODS)}")
    if architecture not in ARCHITECTURES:
        raise RequestError(f"unknown architecture {architecture!r}; known: {', '.join(ARCHITECTURES)}")
    for option, value, least in (("--shots", shots, 1), ("--epochs", epochs, 0)):
        if value < least:
            raise RequestError(f"{option} must be at least {least}, got {value}")
    if not 0 <= seed < _SEEDS:
        raise RequestError(f"--seed must be from 0 to {_SEEDS - 1}, got {seed}")
    test, train = (datasets.load(dataset, data_root, split) for split in ("test", "train"))
    try:
        known = groups_of(dataset, test.class_names, test.num_classes, groups)
    except GroupsError as error:
        raise RequestError(str(error)) from None
    wanted = tuple(dict.fromkeys(methods)) or METHODS
    protocol = Protocol(dataset, known, splits(known, count, seed), wanted, shots, seed, epochs, architecture)
    for left_out in protocol.splits:
        _Target.of(test, train, protocol, left_out)
    return protocol


def splits(groups: Groups, count: int, seed: int) -> tuple[tuple[int, ...], ...]:
    """`count` different choices of one class out of each group, drawn with the seed; a group's only class stays.

    RequestError where there are not as many, and where all that is left out would be of one group.
    """
    choices = [members for g in range(len(groups.names)) if len(members := groups.members(g)) > 1]
    if len(choices) < 2:
        raise RequestError(
            f"groups {groups.source}: two groups must have two classes or more, or all classes left out are of one"
        )
    possible = float(np.prod([len(members) for members in choices]))
    if count < 1 or count > min(possible, _MOST_TRIES):
        raise RequestError(
            f"--splits must be from 1 to {min(possible, _MOST_TRIES):.0f} with these groups, got {count}"
        )
    random = np.random.default_rng(seed)
    found: dict[tuple[int, ...], None] = {}
    while len(found) < count:
        found[tuple(sorted(int(random.choice(members)) for members in choices))] = None
    return tuple(found)


def adapt(protocol: Protocol, folder: Path, data_root: Path | None, device: torch.device, trained: Done) -> Adaptation:
    """Train what is not there, then measure; `trained` is called after each training.

    RequestError, before any work, for models in the folder that were trained on other images or whose start is gone.
    """
    _check_found(protocol, folder, data_root)
    test = datasets.load(protocol.dataset, data_root, "test")
    train = datasets.load(protocol.dataset, data_root, "train")
    models: list[Adapted] = []
    largest: dict[str, float] = {}
    pixels: dict[str, str] = {}
    for left_out in protocol.splits:
        target = _Target.of(test, train, protocol, left_out)
        key = split_key(left_out)
        largest[key] = float(np.bincount(target.groups).max() / len(target.groups))
        pixels[key] = marks(target.by_linear_layer(nn.Flatten()))
        named = protocol.trainings(left_out)
        for training in in_order(named.values()):
            card = carry_out(training, folder, data_root, device)
            trained()
            for method in (method for method, one in named.items() if one == training):
                with one_thread(device):
                    source, zero_shot, fine_tuned = target.measure(training.weights(folder), device)
                models.append(
                    Adapted(
                        method=method,
                        left_out=left_out,
                        source=source,
                        zero_shot=marks(zero_shot),
                        zero_shot_by_group=target.by_group(zero_shot, protocol.groups.names),
                        fine_tuned=marks(fine_tuned),
                        command=training.command(folder),
                        weights_sha256=card.sha256,
                    )
                )
    order = {method: place for place, method in enumerate(protocol.methods)}
    groups = protocol.groups
    return Adaptation(
        dataset=protocol.dataset,
        classes=groups.classes,
        groups={name: tuple(groups.classes[c] for c in groups.members(g)) for g, name in enumerate(groups.names)},
        shots=protocol.shots,
        seed=protocol.seed,
        largest=largest,
        pixels=pixels,
        models=tuple(sorted(models, key=lambda one: (protocol.splits.index(one.left_out), order[one.method]))),
    )


def _check_found(protocol: Protocol, folder: Path, data_root: Path | None) -> None:
    """RequestError for what the folder's request does not rule out: other images, and a start that is gone."""
    for left_out in protocol.splits:
        found = [
            (training, card)
            for training in in_order(protocol.trainings(left_out).values())
            if (card := training.card(folder)) is not None
        ]
        if not found:
            continue
        name = f"{protocol.dataset}:without={split_key(left_out)}"
        images = datasets.load(name, data_root, "train").sha256
        for training, card in found:
            weights = training.weights(folder)
            if card.data_sha256 != images:
                raise RequestError(f"{weights} was trained on other images of {name} than these; give another --out")
            for start in training.needs:
                if start.card(folder) is None:
                    raise RequestError(
                        f"{weights} began from {start.weights(folder)}, which is gone; remove it and its card as well, "
                        "or give another --out"
                    )


def count_trainings(protocol: Protocol) -> int:
    return sum(len(list(in_order(protocol.trainings(left_out).values()))) for left_out in protocol.splits)


@dataclass(frozen=True)
class _Target:
    """The test images of a split: those of unseen classes with their groups, and those of the classes learned."""

    x: Tensor
    groups: NDArray[np.int64]
    few: Tensor
    groups_of_few: NDArray[np.int64]
    source: Dataset
    group_of_output: NDArray[np.int64]

    @classmethod
    def of(cls, test: Dataset, train: Dataset, protocol: Protocol, left_out: Sequence[int]) -> "_Target":
        labels = np.asarray(protocol.groups.labels)
        unseen = np.isin(test.y.numpy(), left_out)
        random = np.random.default_rng(protocol.seed)
        few: list[int] = []
        for number in left_out:
            places = np.flatnonzero(train.y.numpy() == number)
            if len(places) < protocol.shots:
                raise RequestError(f"--shots {protocol.shots}: class {number} has {len(places)} training images")
            few += sorted(random.choice(places, protocol.shots, replace=False).tolist())
        learned = [number for number in range(test.num_classes) if number not in left_out]
        renumbered = torch.tensor([learned.index(c) if c in learned else -1 for c in range(test.num_classes)])
        seen = torch.from_numpy(~unseen)
        source = Dataset(
            f"{test.name}:without={split_key(left_out)}",
            test.x[seen],
            renumbered[test.y[seen]],
            len(learned),
            test.sha256,
        )
        return cls(
            test.x[torch.from_numpy(unseen)],
            labels[test.y.numpy()[unseen]],
            train.x[few],
            labels[train.y[few].numpy()],
            source,
            labels[learned],
        )

    def measure(self, weights: Path, device: torch.device) -> tuple[float, list[bool], list[bool]]:
        """Accuracy on the source, then whether each target image's group is right: zero-shot, fine-tuned."""
        try:
            model = judged_by(load(str(weights), device).model)
        except ModelError as error:
            raise RequestError(str(error)) from error
        right = _run(model, self.source.x, device).argmax(axis=1) == self.source.y.numpy()
        predicted = self.group_of_output[_run(model, self.x, device).argmax(axis=1)]
        return float(right.mean()), (predicted == self.groups).tolist(), self.by_linear_layer(_backbone(model), device)

    def by_group(self, right: Sequence[bool], names: Sequence[str]) -> dict[str, float]:
        """The share that is right of the images of each group that has some."""
        return {names[g]: float(np.mean(np.asarray(right)[self.groups == g])) for g in np.unique(self.groups).tolist()}

    def by_linear_layer(self, features: nn.Module, device: torch.device | None = None) -> list[bool]:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        at = device or torch.device("cpu")
        layer = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        layer.fit(_run(features, self.few, at), self.groups_of_few)
        found: list[bool] = (layer.predict(_run(features, self.x, at)) == self.groups).tolist()
        return found


def _backbone(model: nn.Module) -> nn.Module:
    """The network's features; every recipe of this protocol has some."""
    backbone = model.backbone
    assert isinstance(backbone, nn.Module), f"{type(model).__name__} has no features"
    return backbone


def _run(model: nn.Module, x: Tensor, device: torch.device) -> NDArray[np.float32]:
    with torch.no_grad():
        return torch.cat([model(part.to(device)).cpu() for part in x.split(_PARTS)]).numpy()
