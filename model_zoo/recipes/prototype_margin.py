"""`prototype-margin`: prototypes in pixel space trained for the radius proven around each image (kin of GLVQ).

The nearest prototype's class is predicted. For an image x of class y, own prototypes i and rivals j (of other classes),

    r(x) = min_j max_i (||x - c_j||^2 - ||x - c_i||^2) / (2 ||c_i - c_j||_dual)

is a proven lower bound of the distance to the decision boundary: no rival overtakes c_i within it, since a lead grows
by at most 2 ||c_i - c_j||_dual a unit of the norm. That is Theorem 1 of ClusTR with the pixels as features (L = 1), in
the form that `attacks.centroid_bounds.radius_bounds` computes. The loss of a batch is

    mean max(0, margin - r(x))

and its gradient moves the two prototypes that r(x) stands on: GLVQ (Sato & Yamada 1996) with distances divided by the
dual length of the pair rather than by their sum. Saralajew et al. (2020), "Fast adversarial robustness certification of
nearest prototype classifiers for arbitrary seminorms", certify by such a margin and train prototypes for it.

Readings and choices of ours:

- As many prototypes for each class, from k-means of its images (k-means++, few Lloyd iterations); Adam with a learning
  rate that falls in a line; after each step prototypes are moved back into [0, 1]. No augmentation.
- Of the own prototypes the `own` nearest are looked at, of the rivals the `rivals` nearest. Fewer own ones make r(x) no
  larger; a farther rival could make it smaller (on 500 validation images the proven share is the same with all), and
  the epoch's log looks at all of them.
- Which pair is the worst is read off dual lengths that are computed anew every 150 steps; r(x) itself is that of the
  pair at present. Distances are taken in float32 on every device.
- At the end prototypes are rounded to float16: the weight file is half as large, and its model the one measured.
- `eps` is the radius at which the log and the card tell the proven share; it is not trained on.

Tried on Fashion-MNIST: validation accuracy (5,000 images), and the share proven at linf 0.1 by the best single own
prototype inside [0, 1] (first 1,000; * first 2,000), which lies between the closed form and the exact share:

| tried | clean | proven |
|---|---:|---:|
| k-means of each class, 20, 60 and 120 a class, no training | 81.0, 82.9, 83.7 | 35.7*, 33.4, 32.7 |
| 20 a class, nearest own prototype alone, learning rate 3e-3, 2 epochs | 84.0 | 56.0* |
| the same at the worst point inside [0, 1] at 0.15 instead of r(x) | 83.8 | 52.1* |
| that with margin 0.2; with 6 own prototypes; with sigmoid((0.15 - r) / 0.08) | 83.1, 83.3, 81.9 | 52.7, 54.4, 58.5 |
| 60 a class, nearest own alone, 3e-3, 2 epochs | 85.0 | 54.1 |
| sigmoid((0.1 - r) / 0.08), 3 epochs | 83.6 | 59.3 |
| the same with mirror images | 83.1 | 57.8 |
| the same with 6 own prototypes; with a learning rate of 0.01 | 84.0, 82.9 | 60.0, 64.3 |
| sigmoid about 0.05 at 0.01, and about 0.07 at 0.03; 6 own | 83.8, 82.6 | 63.7, 64.4 |
| hinge again: 60 a class, 6 own, learning rate 0.01, 3 epochs | 85.1 | 61.4 |
| the same at 0.02; averaged weights (0.99 a step) of that | 85.1, 85.0 | 61.7, 61.5 |
| the same at 0.01 with a margin of 0.2 | 83.9 | 63.3 |
| 120 a class, 6 epochs | 85.9 | 62.8 |
| 120 a class, 12 epochs | 86.3 | 63.6 (exact: 64.4) |
| 120 a class, 40 epochs: this recipe | 86.8 | exact: 66.4 |

Exact shares are of 1,000 images (`bench run --dataset fashion-mnist:validation --attack exact --eps 0.1`).
MNIST at linf 0.3 is not solved by it: margin=0.35, eps=0.3, prototypes=40 and epochs=10 give 95.7 clean and 24.5 exact,
where r(x), which does not know [0, 1], proves 13.3 and was still rising; 96.3 and 79.2 are published.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.cluster import KMeans
from torch import Tensor, nn

from model_zoo.clusters import pairwise_squared_distances
from model_zoo.kmeans import KMeansClassifier
from model_zoo.magnet import fit_variance
from model_zoo.recipes.data import TrainingData
from model_zoo.recipes.loop import LossLog, TrainingRun, set_learning_rate, shuffled_batches, train_epochs

STAGE = "prototype-margin"
DUAL_ORDER = {"linf": 1.0, "l2": 2.0}
_REFRESHED = 150
"""Steps between two computations of all dual lengths."""
_LEAST = 1e-6
"""Dual lengths count as at least this: duplicates tie."""
_PART = 250
"""Images at a time, where no gradient is taken."""


@dataclass(frozen=True)
class Settings:
    """`prototypes` of each class; `margin` and `eps` in units of `norm`, linf or l2."""

    prototypes: int = 120
    epochs: int = 40
    batch_size: int = 256
    learning_rate: float = 0.01
    margin: float = 0.15
    norm: str = "linf"
    eps: float = 0.1
    own: int = 6
    rivals: int = 32
    iterations: int = 10


def train(data: TrainingData, settings: Settings, run: TrainingRun) -> KMeansClassifier:
    _check(settings, data)
    data = data.on(run.device)
    labels = torch.arange(data.num_classes, device=run.device).repeat_interleave(settings.prototypes)
    state = _State(len(labels), data.x[0].numel()).to(run.device)
    optimiser = torch.optim.Adam(state.parameters())
    steps = max(1, len(data.x) // settings.batch_size)
    margins = Margins(data.num_classes, settings.norm, settings.own, settings.rivals)

    def one_epoch(epoch: int) -> dict[str, float]:
        if epoch == 0:
            state.put(centroids_by_class(data, settings, run.seed))
        log = LossLog(epoch * steps, every=1 if run.device.type == "cpu" else 50)
        batches = list(shuffled_batches(len(data.x), settings.batch_size, run.generator(STAGE, epoch)))
        for step, batch in enumerate(run.progress(batches, f"{STAGE} {epoch + 1}/{settings.epochs}")):
            if step % _REFRESHED == 0:
                lengths = margins.dual_lengths(state.prototypes)
            images = batch.to(run.device, non_blocking=True)
            x, y = data.x[images].flatten(1), data.y[images]
            radii = margins.radii(x, state.prototypes, *margins.worst_pairs(x, y, state.prototypes, lengths))
            loss = (settings.margin - radii).clamp_min(0).mean()
            log.add({"training loss": loss})
            set_learning_rate(optimiser, settings.learning_rate * (1 - (epoch + step / steps) / settings.epochs))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            state.put(state.prototypes.detach().clamp(0, 1))
        return log.means() | validation(data, settings, state.prototypes)

    train_epochs(run, STAGE, state, optimiser, settings.epochs, one_epoch)
    rounded = state.prototypes.detach().half().float()
    reached = validation(data, settings, rounded)["proven"]
    run.notes.append(
        f"the closed form proves {100 * reached:.1f} % of {len(data.x_val)} validation images at {settings.norm} "
        f"{settings.eps:.3g}; the exact share is higher"
    )
    nearest = torch.cat([pairwise_squared_distances(x, rounded).argmin(dim=1) for x in data.x.flatten(1).split(_PART)])
    unused = len(labels) - len(nearest.unique())
    if unused:
        run.notes.append(f"{unused} of {len(labels)} prototypes are the nearest of no training image")
    variance = fit_variance(data.x.flatten(1), rounded, nearest)
    return KMeansClassifier(rounded, labels, data.num_classes, variance).to(run.device)


def centroids_by_class(data: TrainingData, settings: Settings, seed: int) -> Float[Tensor, "k d"]:
    """Each class's centroids by k-means, class by class."""
    x, y = data.x.flatten(1).cpu().numpy(), data.y.cpu().numpy()
    centers = []
    for c in range(data.num_classes):
        kmeans = KMeans(settings.prototypes, n_init=1, max_iter=settings.iterations, random_state=seed)
        centers.append(kmeans.fit(x[y == c]).cluster_centers_)
    return torch.from_numpy(np.concatenate(centers)).float().clamp(0, 1).to(data.x.device)


@dataclass(frozen=True)
class Margins:
    """r(x) from the `own` nearest own prototypes and the `rivals` nearest others; prototypes stand class by class."""

    num_classes: int
    norm: str
    own: int
    rivals: int

    def dual_lengths(self, prototypes: Float[Tensor, "k d"]) -> Float[Tensor, "k k"]:
        """||c_i - c_j||_dual of all pairs."""
        points, mode = prototypes.detach(), "donot_use_mm_for_euclid_dist"
        return torch.cdist(points, points, p=DUAL_ORDER[self.norm], compute_mode=mode)

    @torch.no_grad()
    def worst_pairs(
        self,
        x: Float[Tensor, "n d"],
        y: Int[Tensor, " n"],
        prototypes: Float[Tensor, "k d"],
        lengths: Float[Tensor, "k k"],
    ) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
        """The own prototype and the rival that r(x) stands on, by these dual lengths."""
        squared = pairwise_squared_distances(x, prototypes)
        members = len(prototypes) // self.num_classes
        of_class = members * y[:, None] + torch.arange(members, device=y.device)
        own, rivals = min(self.own, members), min(self.rivals, len(prototypes) - members)
        to_own, place = squared.gather(1, of_class).topk(own, dim=1, largest=False)
        to_rival, j = squared.scatter(1, of_class, torch.inf).topk(rivals, dim=1, largest=False)
        i = of_class.gather(1, place)
        between = 2.0 * lengths[i[:, :, None], j[:, None, :]].clamp_min(_LEAST)
        best, which = ((to_rival[:, None, :] - to_own[:, :, None]) / between).max(dim=1)
        worst = best.argmin(dim=1, keepdim=True)
        return i.gather(1, which.gather(1, worst)).squeeze(1), j.gather(1, worst).squeeze(1)

    def radii(
        self, x: Float[Tensor, "n d"], prototypes: Float[Tensor, "k d"], i: Int[Tensor, " n"], j: Int[Tensor, " n"]
    ) -> Float[Tensor, " n"]:
        """(||x - c_j||^2 - ||x - c_i||^2) / (2 ||c_i - c_j||_dual) of each image and its pair."""
        own, rival = prototypes[i], prototypes[j]
        gap = rival - own
        lead = (gap * (rival + own - 2.0 * x)).sum(dim=1)
        length = torch.linalg.vector_norm(gap, ord=DUAL_ORDER[self.norm], dim=1)
        found: Tensor = lead / (2.0 * length.clamp_min(_LEAST))
        return found


@torch.no_grad()
def validation(data: TrainingData, settings: Settings, prototypes: Float[Tensor, "k d"]) -> dict[str, float]:
    """The shares of validation images that are classified correctly, and that are proven at eps against all rivals."""
    against_all = Margins(data.num_classes, settings.norm, settings.own, len(prototypes))
    lengths = against_all.dual_lengths(prototypes)
    correct, proven = 0, 0
    for x, y in zip(data.x_val.flatten(1).split(_PART), data.y_val.split(_PART), strict=True):
        nearest = pairwise_squared_distances(x, prototypes).argmin(dim=1)
        correct += int((nearest // (len(prototypes) // data.num_classes) == y).sum())
        radii = against_all.radii(x, prototypes, *against_all.worst_pairs(x, y, prototypes, lengths))
        proven += int((radii > settings.eps).sum())
    return {"validation": correct / len(data.x_val), "proven": proven / len(data.x_val)}


def _check(settings: Settings, data: TrainingData) -> None:
    """Raise ValueError, one line, for settings that cannot be."""
    if settings.norm not in DUAL_ORDER:
        raise ValueError(f"norm must be one of {', '.join(DUAL_ORDER)}, got {settings.norm!r}")
    for name in ("margin", "eps", "learning_rate"):
        if not 0 < getattr(settings, name) < float("inf"):
            raise ValueError(f"{name} must be positive, got {getattr(settings, name):g}")
    for name in ("prototypes", "epochs", "batch_size", "own", "rivals", "iterations"):
        if getattr(settings, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(settings, name)}")
    sizes = torch.bincount(data.y, minlength=data.num_classes)
    if int(sizes.min()) < settings.prototypes:
        smallest = int(sizes.argmin())
        raise ValueError(
            f"prototypes={settings.prototypes}, but class {smallest} of data set {data.name} has "
            f"{int(sizes[smallest])} training images"
        )


class _State(nn.Module):
    """The prototypes as what an optimiser moves and a checkpoint holds."""

    def __init__(self, prototypes: int, pixels: int):
        super().__init__()
        self.prototypes = nn.Parameter(torch.zeros(prototypes, pixels))

    @torch.no_grad()
    def put(self, prototypes: Tensor) -> None:
        self.prototypes.copy_(prototypes)
