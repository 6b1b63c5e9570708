"""A model as the attacks see it: one fixed batch shape, every pass counted, no output altered."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attacks.contract import ClusteringClassifier
from model_zoo.adapter import judged_by

CPU_SHAPE = 50
ACCELERATOR_SHAPE = 250


class FixedBatch(nn.Module):
    """Runs a model on parts of exactly `shape` samples, the last one padded, and counts passes.

    Kernels round differently for different batch shapes; with one shape a sample's logits and gradients do
    not depend on how many others are in the batch. `forwards` and `backwards` count passes of single
    samples, padding left out.
    """

    def __init__(self, model: nn.Module, shape: int):
        super().__init__()
        self.model, self.shape = model, shape
        self.forwards = self.backwards = 0

    def forward(self, x: Float[Tensor, "n *image"]) -> Tensor:
        return self._by_parts(self.model, x)

    def _by_parts(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        outputs = []
        for part in x.split(self.shape):
            n = len(part)
            if n < self.shape:
                part = torch.cat([part, part.new_zeros(self.shape - n, *part.shape[1:])])
            output = function(part)[:n]
            self.forwards += n
            if output.requires_grad:
                output.register_hook(self._count_backward)
            outputs.append(output)
        return torch.cat(outputs)

    def _count_backward(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


class FixedBatchClustering(FixedBatch):
    """The same for a clustering classifier, whose distances attacks may use."""

    def __init__(self, model: nn.Module, clustering: ClusteringClassifier, judged: ClusteringClassifier, shape: int):
        super().__init__(model, shape)
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
        return self._clustering.logits_from_distances(squared_distances)

    def decide(self, squared_distances: Float[Tensor, "n k"]) -> Float[Tensor, "n c"]:
        """The logits of the judged head, which attacks stop by."""
        return self._judged.logits_from_distances(squared_distances)


def instrument(model: nn.Module, device: torch.device) -> FixedBatch:
    """Wrap a model for evaluation on a device; on CUDA also make float32 float32, and repeatable."""
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.deterministic = True
    shape = CPU_SHAPE if device.type == "cpu" else ACCELERATOR_SHAPE
    judged = judged_by(model)
    if isinstance(model, ClusteringClassifier) and isinstance(judged, ClusteringClassifier):
        return FixedBatchClustering(model, model, judged, shape).eval()
    return FixedBatch(model, shape).eval()
