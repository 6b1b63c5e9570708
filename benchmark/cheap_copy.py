"""A cheaper copy of a model for searching; what it finds is judged by the true model.

On processors with bfloat16 arithmetic a network's passes cost about two thirds in it. The layer that sees the image
stays in float32, because bfloat16 rounds a pixel by up to 1/512, a sixteenth of an eps of 8/255, and attacks get
weaker; so do the layer that makes the logits and distances to centroids, because a margin is a small difference of
large numbers.
"""

import copy
from dataclasses import dataclass, replace
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attacks.contract import ClusteringClassifier, decision
from attacks.hardware import has_bfloat16
from attacks.losses import margin
from benchmark.fast_layers import FirstConvolution, StridedPointwise, has_phases, is_strided_pointwise
from benchmark.instrument import LANES, SHAPES, exact_arithmetic, instrument, rounds_alike
from model_zoo.adapter import judged_by

MOST_DISAGREEMENT = 0.02
"""Beyond this fraction of clean images predicted otherwise, the copy is not used."""
CALIBRATION = 200
"""The first images of the data set, so that what is decided is the same for every unit."""


@dataclass(frozen=True)
class Searched:
    """What an attack searches in: the true model, or a copy whose margins were seen within `slack` of its own.

    `shapes` are the batch shapes its passes may take; `refused` says why a copy that was made is not used.
    """

    model: nn.Module
    shapes: tuple[int, ...] | None = None
    slack: float = 0.0
    arithmetic: str = "float32"
    refused: str | None = None


class Bfloat16(nn.Module):
    """A network run under bfloat16 autocast, with float32 logits."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Float[Tensor, "n *image"]) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            return cast(Tensor, self.model(x)).float()


class Bfloat16Clustering(Bfloat16):
    """The same for a clustering classifier, whose distances stay in float32."""

    def __init__(self, model: nn.Module, clustering: ClusteringClassifier):
        super().__init__(model)
        self._clustering = clustering

    @property
    def judged(self) -> nn.Module:
        """The head that decides a prediction, over the same distances."""
        inner = judged_by(self.model)
        return self if inner is self.model else _in_autocast(inner)

    @property
    def cluster_labels(self) -> Tensor:
        return self._clustering.cluster_labels

    @property
    def variance(self) -> float:
        return self._clustering.variance

    def squared_distances(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            return self._clustering.squared_distances(x).float()

    def logits_from_distances(self, squared_distances: Tensor) -> Tensor:
        return self._clustering.logits_from_distances(squared_distances)


class _Float32(nn.Module):
    """A layer outside autocast."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return cast(Tensor, self.layer(x.float()))


def in_bfloat16(model: nn.Module, image: Float[Tensor, "1 *image"]) -> nn.Module:
    """A copy of the model that runs in bfloat16 but for the first layer that `image` meets and the last."""
    twin = copy.deepcopy(model)
    met = _layers_met(twin, image)
    stand_ins: dict[nn.Module, nn.Module] = {
        layer: StridedPointwise(cast(nn.Conv2d, layer)) for layer in met if is_strided_pointwise(layer)
    }
    stand_ins |= {layer: _Float32(layer) for layer in met[:1] + met[-1:]}
    if len(met) > 1 and has_phases(met[0]):
        stand_ins[met[0]] = FirstConvolution(cast(nn.Conv2d, met[0]))
    for parent in list(twin.modules()):
        for name, child in list(parent.named_children()):
            if child in stand_ins:
                setattr(parent, name, stand_ins[child])
    return _in_autocast(twin)


def _in_autocast(model: nn.Module) -> nn.Module:
    return Bfloat16Clustering(model, model) if isinstance(model, ClusteringClassifier) else Bfloat16(model)


def _layers_met(model: nn.Module, image: Tensor) -> list[nn.Module]:
    """Convolutions and linear layers in the order in which a pass calls them."""
    met: list[nn.Module] = []
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    hooks = [m.register_forward_hook(lambda m, i, o: met.append(m)) for m in model.modules() if isinstance(m, kinds)]
    try:
        with torch.no_grad():
            model(image)
    finally:
        for hook in hooks:
            hook.remove()
    return met


def prepare_search(
    model: nn.Module, x: Float[Tensor, "n *image"], y: Tensor, device: torch.device, wanted: str, lanes: int
) -> Searched:
    """What to search in, tried on the data set's first images: a bfloat16 copy unless `wanted` is float32.

    No pass will hold more than about `lanes` images.
    """
    exact_arithmetic(device)
    searched = Searched(model) if wanted == "float32" else cheap_copy(model, x, y, device)
    shapes = tuple(shape for shape in SHAPES if shape <= max(lanes, SHAPES[0]))
    alike = rounds_alike(searched.model, x[:LANES].to(device), shapes)
    return replace(searched, shapes=shapes) if alike else searched


@torch.no_grad()
def cheap_copy(model: nn.Module, x: Float[Tensor, "n *image"], y: Tensor, device: torch.device) -> Searched:
    """A cheap copy, tried on the first clean images `x` of classes `y`; the model itself where it is no use."""
    if not has_bfloat16(device):
        return Searched(model)
    x, y = x[:CALIBRATION].to(device), y[:CALIBRATION].to(device)
    try:
        twin = in_bfloat16(model, x[:1]).eval()
        true, cheap = (decision(instrument(part, device), x) for part in (model, twin))
    except Exception as error:
        return Searched(model, refused=f"a bfloat16 copy raised {type(error).__name__}")
    if torch.equal(true, cheap):  # nothing in it runs in bfloat16
        return Searched(model)
    if not bool(cheap.isfinite().all()):
        return Searched(model, refused="in bfloat16 its outputs were not finite")
    other = float((true.argmax(dim=1) != cheap.argmax(dim=1)).float().mean())
    if other > MOST_DISAGREEMENT:
        return Searched(model, refused=f"in bfloat16 {100 * other:.1f} % of clean images were predicted otherwise")
    slack = float((margin(true, y) - margin(cheap, y)).abs().max())
    return Searched(twin, slack=slack, arithmetic="bfloat16")
