"""The network a ClusTR recipe starts from (ClusTR section 3.3, "warm start")."""

import torch

from model_zoo.adapter import LogitsModel
from model_zoo.recipes import nominal
from model_zoo.recipes.cluster_training import ClusterSettings
from model_zoo.recipes.data import TrainingData
from model_zoo.recipes.loop import TrainingRun
from model_zoo.registry import load


def warm_start(data: TrainingData, settings: ClusterSettings, run: TrainingRun) -> LogitsModel:
    """The model named in the settings, or `nominal` trained on the same data first.

    Raises ValueError where the named model does not fit the data.
    """
    if not settings.warm_start:
        return nominal.train(data, nominal.Settings(architecture=settings.architecture), run)
    model = load(settings.warm_start, run.device, fold=False).model
    if not isinstance(model, LogitsModel):
        raise ValueError(f"warm_start must be a network with logits, got {settings.warm_start!r}")
    with torch.no_grad():
        classes = model(data.x[:1].to(run.device)).shape[1]
    if classes != data.num_classes:
        raise ValueError(
            f"warm_start {settings.warm_start!r} has {classes} classes, data set {data.name} {data.num_classes}"
        )
    return model.requires_grad_(True)  # a loaded model comes frozen, for evaluation
