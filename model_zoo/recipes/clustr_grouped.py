"""`clustr-grouped`: `clustr-at` with a penalty that pulls the logits of a group of classes together.

loss = -log p_y(f(x_adv)) + weight / (b C) sum over images and classes c of (log p_c - mean of log p over c's group)^2,
p of ClusTR's eq. 4, x_adv as in `clustr-at`. The clustering counterpart of `pgd-at-grouped`: as the logit of a class is
minus the soft squared distance to its clusters / (2 sigma^2), it draws the clusters of a group's classes together.
The weight is that of `pgd-at-grouped`, where it was chosen.
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from model_zoo.magnet import MagnetClassifier
from model_zoo.recipes import clustr_at
from model_zoo.recipes.cluster_training import ClusterBatch
from model_zoo.recipes.data import TrainingData
from model_zoo.recipes.groups import parse_groups, spread_within_groups
from model_zoo.recipes.loop import TrainingRun


@dataclass(frozen=True)
class Settings(clustr_at.Settings):
    """`groups` as `0,2,3/1,4` (classes by number); empty: those known of the data set."""

    groups: str = ""
    weight: float = 1.0


def train(data: TrainingData, settings: Settings, run: TrainingRun) -> MagnetClassifier:
    groups = parse_groups(settings.groups, data.num_classes).to(run.device)

    def losses(batch: ClusterBatch) -> dict[str, Tensor]:
        log_p = clustr_at.adversarial_log_probabilities(batch, settings, data.num_classes)
        return {
            "cross entropy": functional.nll_loss(log_p, batch.y),
            "spread within groups": settings.weight * spread_within_groups(log_p.float(), groups),
        }

    return clustr_at.fit_from(data, settings, run, "clustr-grouped", losses)
