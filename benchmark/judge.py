"""The only definition of success: who is broken is decided here, whatever an attack believes."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from attacks.contract import Classifier, best_other
from attacks.threat import TOLERANCE, Threat


class ModelFault(RuntimeError):
    """The model returned something that is no prediction; the unit fails and gives no verdict."""


@dataclass(frozen=True)
class Judgement:
    """`allowed`: inside the box exactly and within eps + TOLERANCE; `broken`: allowed and not predicted as y."""

    allowed: Bool[Tensor, " n"]
    broken: Bool[Tensor, " n"]
    predictions: Int[Tensor, " n"]
    distances: Float64[Tensor, " n"]


def judge(
    model: Classifier, x: Float[Tensor, "n c h w"], y: Int[Tensor, " n"], x_adv: Tensor, threat: Threat
) -> Judgement:
    """Judge candidates `x_adv` for the originals `x`: prediction in float32, norm and box in float64.

    An image outside the threat, or not finite, breaks nothing. Raises ModelFault for outputs that are not
    finite logits.
    """
    finite = x_adv.isfinite().flatten(1).all(dim=1)
    distances = threat.distance(x, x_adv)
    allowed = finite & (distances <= threat.eps + TOLERANCE) & _in_box(x_adv, threat)
    kept = x_adv.float()  # what is predicted, and saved, must be allowed as well
    allowed &= (threat.distance(x, kept) <= threat.eps + TOLERANCE) & _in_box(kept, threat)
    images = torch.where(allowed.reshape(-1, *[1] * (x.ndim - 1)), kept, x)
    right, predictions = predict(model, images, y)
    return Judgement(allowed, allowed & ~right, predictions, distances)


def _in_box(images: Tensor, threat: Threat) -> Bool[Tensor, " n"]:
    exact = images.double()
    return ((exact >= threat.lower) & (exact <= threat.upper)).flatten(1).all(dim=1)


@torch.no_grad()
def predict(
    model: Classifier, x: Float[Tensor, "n c h w"], y: Int[Tensor, " n"]
) -> tuple[Bool[Tensor, " n"], Int[Tensor, " n"]]:
    """Which samples are predicted as `y`, and every prediction.

    A tie between the true class and another counts as the other: the classifier does not know.
    """
    logits = model(x)
    if logits.ndim != 2 or len(logits) != len(x):
        raise ModelFault(f"the model returned shape {tuple(logits.shape)} for {len(x)} images, not (n, classes)")
    if not bool(torch.isfinite(logits).all()):
        raise ModelFault("the model returned NaN or infinite logits")
    true_class = torch.nn.functional.one_hot(y, logits.shape[1]).bool()
    right = logits.gather(1, y[:, None]).squeeze(1) > best_other(logits, y)
    other = logits.masked_fill(true_class, -torch.inf).argmax(dim=1)
    return right, torch.where(right, y, other)
