"""The checks of a model itself, on the data set's first images, before any attack is believed.

They are cheap (about 20 passes of 50 images and 6 of 200, once a model and process), change no verdict, and leave
flags in the words of `results.findings`. Sources: AutoAttack's own checks (randomness, outputs that are probabilities,
zero gradients, optimisation at inference), Carlini et al. 2019, Pintor et al. 2022.
"""

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from attacks.gradient import slope
from attacks.losses import margin
from benchmark.cheap_copy import CALIBRATION
from benchmark.datasets import DATASETS, Dataset
from benchmark.instrument import CPU_SHAPE, FixedBatch, instrument
from benchmark.judge import predict
from model_zoo.adapter import Normalise, judged_by
from model_zoo.registry import LoadedModel
from results import findings as told
from results.diagnosis import one_sided

IMAGES = CPU_SHAPE
"""One pass of the fixed shape."""
PASSES = 5
SIGNIFICANCE = 0.001
"""Of tests that every model of every run is put to: the strictest of the conventional levels, so that clean models
stay clean. A missing normalisation costs tens of points, which 200 images show far beyond it."""
ROUNDING = math.sqrt(torch.finfo(torch.float32).eps)
"""Outputs that agree in half of float32's digits may differ by the order of sums; more is another answer."""
LOST = 2.0**-24
"""Half of float32's spacing: what is smaller, relative to the largest output, vanishes when it is added to it."""
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def checked(loaded: LoadedModel, dataset: Dataset, device: torch.device) -> LoadedModel:
    """The model with a flag for each thing that these checks see in it."""
    return dataclasses.replace(loaded, flags=(*loaded.flags, *model_flags(loaded, dataset, device)), checked=True)


def model_flags(loaded: LoadedModel, dataset: Dataset, device: torch.device) -> list[str]:
    """All checks of a model; torch's random numbers are as they were afterwards."""
    x, y = dataset.x[:CALIBRATION].to(device), dataset.y[:CALIBRATION].to(device)
    few, of_few = x[:IMAGES], y[:IMAGES]
    attacked, judged = instrument(loaded.model, device), instrument(judged_by(loaded.model), device)
    flags: list[str] = []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        random = randomised(judged, few)
        flags += random
        if not random:  # the rest of what compares passes would only say it again
            flags += batch_dependent(judged, few)
            flags += in_training_mode(loaded, judged, few, of_few)
        flags += inside_a_pass(loaded.model, few)
        flags += shape_of_outputs(attacked, few)
        flags += flat(attacked, few, of_few)
        flags += without_normalisation(judged, x, y)
        flags += below_its_card(loaded, judged, dataset, x, y)
        flags += on_other_images(loaded, dataset)
    return flags


@torch.no_grad()
def randomised(model: FixedBatch, x: Float[Tensor, "n *image"]) -> list[str]:
    """Passes over the same images whose outputs are not the same bits."""
    first = model(x)
    differ = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for _ in range(PASSES - 1):
        differ |= (model(x) != first).any(dim=1)
    return _of(told.RANDOM, differ)


@torch.no_grad()
def batch_dependent(model: FixedBatch, x: Float[Tensor, "n *image"]) -> list[str]:
    """Outputs that change by more than rounding with another order, and with other images in the batch."""
    together = model(x)
    backwards = model(x.flip(0)).flip(0)
    half = (len(x) + 1) // 2
    apart = torch.cat([model(x[:half]), model(x[half:])]) if len(x) > 1 else model(x)
    size = together.abs().amax(dim=1)
    moved = torch.maximum((backwards - together).abs().amax(dim=1), (apart - together).abs().amax(dim=1))
    return _of(told.BATCH, moved > ROUNDING * size)


def in_training_mode(loaded: LoadedModel, model: FixedBatch, x: Tensor, y: Tensor) -> list[str]:
    """What a model handed over in training mode predicts otherwise in it; a copy is asked, whose statistics move."""
    if not loaded.training:
        return []
    try:
        twin = copy.deepcopy(loaded.model)
        for name in loaded.training:
            twin.get_submodule(name).training = True
        with torch.no_grad():
            trained = twin(x).argmax(dim=1)
            differ = trained != model(x).argmax(dim=1)
    except Exception:  # a model that cannot be copied, or cannot be run in training mode
        return []
    return [told.TRAINING.say(parts=len(loaded.training), count=int(differ.sum()), n=len(x))]


class _Watched(TorchFunctionMode):
    """Counts calls that take gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        self.calls += func in (torch.autograd.grad, torch.autograd.backward, Tensor.backward)
        return func(*args, **(kwargs or {}))


def inside_a_pass(model: nn.Module, x: Float[Tensor, "n *image"]) -> list[str]:
    """Gradients taken while the model answers: optimisation at inference (AutoAttack's check_dynamic)."""
    with torch.no_grad(), _Watched() as watched:
        model(x)
    return [told.DYNAMIC.say(count=watched.calls)] if watched.calls else []


@torch.no_grad()
def shape_of_outputs(model: FixedBatch, x: Float[Tensor, "n *image"]) -> list[str]:
    """Outputs that are no logits: probabilities, raw scores, values that are saturated or equal."""
    outputs = model(x).double()
    n, classes = outputs.shape
    largest = outputs.amax(dim=1)
    bounded = ((outputs >= 0) & (outputs <= 1)).all(dim=1)
    ones = (outputs.sum(dim=1) - 1).abs() <= classes * torch.finfo(torch.float32).eps
    flags = []
    if bool((bounded & ones).all()):
        flags.append(told.PROBABILITIES.say(count=n, n=n))
    elif bool((outputs >= 0).all()):  # logits have no sign: 50 images without a negative one are scores
        lost = (outputs < LOST * largest[:, None]).any(dim=1)
        if bool(lost.any()):
            flags.append(told.SCORES.say(count=int(lost.sum()), n=n))
        elif bool(bounded.all()):
            flags.append(told.UNIT_SCORES.say(count=n, n=n))
    return flags + _of(told.TIES, (outputs == largest[:, None]).sum(dim=1) > 1)


def flat(model: FixedBatch, x: Float[Tensor, "n *image"], y: Int[Tensor, " n"]) -> list[str]:
    """Images at which the margin leads nowhere; cross entropy's own stalls are counted while attacks run."""
    return _of(told.FLAT, slope(model, x, y, lambda out: margin(out.logits, y)).stalled)


def without_normalisation(model: FixedBatch, x: Float[Tensor, "n c h w"], y: Int[Tensor, " n"]) -> list[str]:
    """A usual normalisation that, put before the model, makes it right significantly more often.

    A network trained with one and handed over without it comes back to its accuracy; one that is whole loses by any.
    Exact one-sided McNemar test per normalisation, Bonferroni's correction over them. The later images are only
    looked at where the first ones gain.
    """
    few = min(IMAGES, len(x))
    as_is = predict(model, x, y)[0]
    candidates = dict(_normalisations(x))
    found: list[tuple[int, str]] = []
    for how, normalise in candidates.items():
        inserted = instrument(nn.Sequential(normalise.to(x.device), model.model), x.device)
        try:
            right = predict(inserted, x[:few], y[:few])[0]
            if int(right.sum()) <= int(as_is[:few].sum()):
                continue
            if few < len(x):
                right = torch.cat([right, predict(inserted, x[few:], y[few:])[0]])
        except Exception:  # a model that refuses such inputs, or overflows on them, was not trained on them
            continue
        gained, lost = int((right & ~as_is).sum()), int((as_is & ~right).sum())
        if at_least_by_chance(gained, gained + lost) * len(candidates) <= SIGNIFICANCE:
            found.append((int(right.sum()), how))
    if not found:
        return []
    count, how = max(found)
    return [told.NORMALISATION.say(how=how, count=count, n=len(x), without=int(as_is.sum()))]


def _normalisations(x: Float[Tensor, "n c h w"]) -> Iterator[tuple[str, Normalise]]:
    """What networks are usually trained behind."""
    channels = x.shape[1]
    mean, std = x.mean(dim=(0, 2, 3)), x.std(dim=(0, 2, 3))
    if bool((std > 0).all()):
        yield "the images' own mean and standard deviation", Normalise(mean.tolist(), std.tolist())
    yield "mean 0.5 and standard deviation 0.5", Normalise([0.5] * channels, [0.5] * channels)
    if channels == len(IMAGENET[0]):
        yield "ImageNet's mean and standard deviation", Normalise(*IMAGENET)
    yield "a factor of 255", Normalise([0.0] * channels, [1 / 255] * channels)


def below_its_card(loaded: LoadedModel, model: FixedBatch, dataset: Dataset, x: Tensor, y: Tensor) -> list[str]:
    """Accuracy significantly below the card's on the data set that the card measured (exact binomial test)."""
    card = loaded.card
    if card is None or card.clean_accuracy is None or card.dataset != dataset.name:
        return []
    right, n = int(predict(model, x, y)[0].sum()), len(x)
    if _at_most(right, n, card.clean_accuracy) > SIGNIFICANCE:
        return []
    return [told.CARD.say(count=right, n=n, accuracy=f"{100 * card.clean_accuracy:.2f}")]


def on_other_images(loaded: LoadedModel, dataset: Dataset) -> list[str]:
    """Attacked on a data set by name that is not the one of the card; of a user's files nobody knows."""
    if loaded.card is None:
        return []
    trained, here = (name.partition(":")[0] for name in (loaded.card.dataset, dataset.name))
    if trained == here or not {trained, here} <= DATASETS.keys():
        return []
    return [told.OTHER_IMAGES.say(trained=trained, dataset=here)]


def _of(flag: told.Told, marks: Bool[Tensor, " n"]) -> list[str]:
    count = int(marks.sum())
    return [flag.say(count=count, n=len(marks))] if count else []


def at_least_by_chance(heads: int, tosses: int) -> float:
    """How often a fair coin falls heads as often as that, or more often: the exact one-sided sign test."""
    return one_sided(heads, tosses - heads)


def _at_most(successes: int, n: int, p: float) -> float:
    """The probability of at most so many successes of n."""
    return sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(successes + 1))
