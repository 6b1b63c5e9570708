"""What can be known to fail before a training begins."""

from typing import Any

import torch

from model_zoo.architectures import build
from model_zoo.recipes.data import TrainingData
from model_zoo.recipes.groups import parse_groups


def check_settings(settings: Any, data: TrainingData) -> None:
    """Try a recipe's settings on its data: the architecture, and the clusters of a clustering recipe.

    Raises ValueError, one line, for an architecture that is unknown or does not take the images, for groups that are
    not those of its classes, for a class with fewer images than clusters, and for a D beyond the number of clusters.
    """
    architecture = getattr(settings, "architecture", None)
    if architecture is not None:
        _check_architecture(architecture, data)
    if hasattr(settings, "groups"):
        parse_groups(settings.groups, data.num_classes)
    clusters = getattr(settings, "clusters_per_class", None)
    if clusters is None:
        return
    sizes = torch.bincount(data.y, minlength=data.num_classes)
    if int(sizes.min()) < clusters:
        smallest = int(sizes.argmin())
        raise ValueError(
            f"clusters_per_class={clusters}, but class {smallest} of data set {data.name} has "
            f"{int(sizes[smallest])} training images"
        )
    total = clusters * data.num_classes
    if getattr(settings, "nearest", 0) > total:
        raise ValueError(f"nearest must be at most {total}, the number of clusters (0: all), got {settings.nearest}")


def _check_architecture(name: str, data: TrainingData) -> None:
    shape = tuple(data.x.shape[1:])
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        network = build(name, shape[0], data.num_classes, shape[1:]).eval()
        try:
            network(data.x[:1])
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"architecture {name} does not take images of shape {shape}: {reason}") from error
