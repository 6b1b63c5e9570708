"""Steps that ordinary (non-clustering) recipes share: one epoch, accuracy on held-out images."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from model_zoo.adapter import LogitsModel, channels_last
from model_zoo.architectures import build
from model_zoo.recipes.data import TrainingData, augment
from model_zoo.recipes.loop import (
    LossLog,
    TrainingRun,
    one_cycle,
    set_learning_rate,
    shuffled_batches,
    train_epochs,
)

BatchLoss = Callable[[nn.Module, Tensor, Tensor, torch.Generator], Tensor]
"""(model, x, y, generator) to the mean loss of a batch; the model takes images in [0, 1]."""


@dataclass(frozen=True)
class Supervised:
    """Settings of a recipe that trains a network by SGD on one loss."""

    architecture: str = "small-resnet"
    epochs: int = 15
    batch_size: int = 128
    learning_rate: float = 0.2
    weight_decay: float = 5e-4


def fit(
    data: TrainingData,
    settings: Supervised,
    run: TrainingRun,
    stage: str,
    batch_loss: BatchLoss,
    replays: int = 1,
) -> LogitsModel:
    """SGD with Nesterov momentum 0.9 and a one-cycle learning rate; the last epoch's weights.

    Each batch is used `replays` times in a row.
    """
    data = data.on(run.device)
    torch.manual_seed(run.seed)  # initialisation only; every later number has a generator of its own
    network = build(settings.architecture, data.x.shape[1], data.num_classes, data.x.shape[2:])
    model = channels_last(LogitsModel(network, data.mean, data.std).to(run.device))
    optimiser = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=settings.weight_decay
    )
    steps = max(1, len(data.x) // settings.batch_size)

    def one_epoch(epoch: int) -> dict[str, float]:
        generator = run.generator(stage, epoch)
        model.train()
        log = LossLog(epoch * steps * replays, every=1 if run.device.type == "cpu" else 50)
        batches = list(shuffled_batches(len(data.x), settings.batch_size, generator))
        for step, batch in enumerate(run.progress(batches, f"{stage} {epoch + 1}/{settings.epochs}")):
            images = batch.to(run.device, non_blocking=True)
            x, y = augment(data.x[images], data.name, generator), data.y[images]
            for replay in range(replays):
                progress = (epoch + (step + replay / replays) / steps) / settings.epochs
                set_learning_rate(optimiser, one_cycle(progress, settings.learning_rate))
                with run.autocast():
                    loss = batch_loss(model, x, y, generator)
                log.add({"training loss": loss})
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
        model.eval()
        return log.means() | {"validation": accuracy(model, data.x_val, data.y_val)}

    train_epochs(run, stage, model, optimiser, settings.epochs, one_epoch)
    model.eval()
    return model


@torch.no_grad()
def accuracy(model: nn.Module, x: Float[Tensor, "n c h w"], y: Int[Tensor, " n"], batch_size: int = 500) -> float:
    """Fraction of correct predictions, in float32."""
    device = next(iter(model.state_dict().values())).device
    correct = torch.zeros((), dtype=torch.int64, device=device)
    for images, labels in zip(x.split(batch_size), y.split(batch_size), strict=True):
        correct += (model(images.to(device)).argmax(dim=1) == labels.to(device)).count_nonzero()
    return int(correct) / len(x)
