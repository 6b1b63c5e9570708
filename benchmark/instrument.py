"""A model as the attacks see it: fixed batch shapes, every pass counted and timed, no output altered."""

import time
from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from attacks.contract import ClusteringClassifier, decision, fooled
from attacks.threat import Threat
from model_zoo.adapter import judged_by

CPU_SHAPE = 50
ACCELERATOR_SHAPE = 250
SHAPES = (8, 16, 32, 64, 125, 250)
"""For models that round alike in all of them."""
LANES = SHAPES[-1]

Confirm = Callable[[Tensor, Tensor, Tensor, Threat], Tensor]


class FixedBatch(nn.Module):
    """Runs a model on parts of fixed shapes, padded; counts and times passes.

    Kernels may round differently for different batch shapes; with one shape a sample's logits and gradients
    do not depend on how many others are in the batch. Where several `shapes` (ascending) are known to round
    alike, a part takes the smallest that holds it. `forwards` and `backwards` count passes of single samples,
    padding left out; `seconds` is the wall time spent in them (on CUDA: in handing them over).

    It is what `attacks.search` asks of a model: `lanes`, `slack`, `confirm` (by default its own decision).
    """

    def __init__(self, model: nn.Module, *shapes: int):
        super().__init__()
        self.model, self.shapes = model, shapes
        self.forwards = self.backwards = 0
        self.seconds = 0.0
        self.lanes, self.slack = LANES, 0.0
        self.confirm: Confirm = self._own_decision

    def forward(self, x: Float[Tensor, "n *image"]) -> Tensor:
        return self._by_parts(self.model, x)

    def _by_parts(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        outputs = []
        for part in x.split(self.shapes[-1]):
            n = len(part)
            shape = next(shape for shape in self.shapes if shape >= n)
            if n < shape:
                part = torch.cat([part, part.new_zeros(shape - n, *part.shape[1:])])
            output = self._timed(function, part)[:n]
            self.forwards += n
            if output.requires_grad:
                output.register_hook(self._count_backward)
            outputs.append(output)
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _timed(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Call a part of the model; its backward pass is timed from its output's gradient to its input's."""
        x = x.view_as(x)  # a node of its own, whose hook fires as soon as this part's gradient is there
        started = time.perf_counter()
        output = function(x)
        self.seconds += time.perf_counter() - started
        if output.requires_grad and x.requires_grad:
            clock: list[float] = []
            output.register_hook(lambda gradient: clock.append(time.perf_counter()))
            x.register_hook(partial(self._stop, clock))
        return output

    def _stop(self, clock: list[float], gradient: Tensor) -> None:
        del gradient
        if clock:
            self.seconds += time.perf_counter() - clock.pop()

    def _count_backward(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)

    def _own_decision(self, x: Tensor, y: Tensor, x_adv: Tensor, threat: Threat) -> Bool[Tensor, " n"]:
        del x, threat
        with torch.no_grad():
            return fooled(decision(self, x_adv), y)


class FixedBatchClustering(FixedBatch):
    """The same for a clustering classifier, whose distances attacks may use."""

    def __init__(self, model: nn.Module, clustering: ClusteringClassifier, judged: ClusteringClassifier, *shapes: int):
        super().__init__(model, *shapes)
        self._clustering, self._judged = clustering, judged

    @property
    def cluster_labels(self) -> Int[Tensor, " k"]:
        return self._clustering.cluster_labels

    @property
    def variance(self) -> float:
        return self._clustering.variance

    def squared_distances(self, x: Float[Tensor, "n *image"]) -> Float[Tensor, "n k"]:
        return self._by_parts(self._clustering.squared_distances, x)

    def logits_from_distances(self, squared_distances: Float[Tensor, "n k"]) -> Float[Tensor, "n c"]:
        return self._timed(self._clustering.logits_from_distances, squared_distances)

    def decide(self, squared_distances: Float[Tensor, "n k"]) -> Float[Tensor, "n c"]:
        """The logits of the judged head, which attacks stop by; the attacked head's where they are the same."""
        return self._timed(self._judged.logits_from_distances, squared_distances.detach())

    @property
    def two_headed(self) -> bool:
        """Whether the attacked head and the judged one differ."""
        return self._clustering is not self._judged


def instrument(model: nn.Module, device: torch.device) -> FixedBatch:
    """Wrap a model for evaluation on a device."""
    exact_arithmetic(device)
    shape = CPU_SHAPE if device.type == "cpu" else ACCELERATOR_SHAPE
    judged = judged_by(model)
    if isinstance(model, ClusteringClassifier) and isinstance(judged, ClusteringClassifier):
        return FixedBatchClustering(model, model, judged, shape).eval()
    return FixedBatch(model, shape).eval()


def exact_arithmetic(device: torch.device) -> None:
    """On CUDA, make float32 float32, and repeatable."""
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.deterministic = True


def rounds_alike(model: nn.Module, x: Float[Tensor, "n *image"], shapes: tuple[int, ...]) -> bool:
    """Whether logits and input gradients are the same bits in all shapes, wherever a sample stands in its part.

    Which kernel runs depends on shapes, not on values, so some images, repeated to fill every place of the
    largest shape, stand for all others.
    """
    x = x[torch.arange(shapes[-1], device=x.device) % len(x)]
    seen = [_passed(FixedBatch(model, shape), x) for shape in shapes]
    return all(torch.equal(seen[0], other) for other in seen[1:])


def _passed(model: FixedBatch, x: Tensor) -> Tensor:
    images = x.detach().requires_grad_(True)
    logits = model(images)
    (gradient,) = torch.autograd.grad((logits * torch.linspace(1.0, 2.0, logits.shape[1]).to(logits)).sum(), images)
    return torch.cat([logits.detach(), gradient.flatten(1)], dim=1)
