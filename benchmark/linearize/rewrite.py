"""A network without its non-linear parts, by rewriting its graph of operations (Bai et al. 2021, arXiv 2111.12922).

The graph is that of the ATen operators which `make_fx` records while the network runs in eval mode, not that of
`torch.fx.symbolic_trace`. Symbolic tracing stops at branches on shapes and at modules that it takes for leaves, and
sees hooks, parametrisations and an in-place `x.relu_()` only where they are Python that it can follow. Among the
operators a ReLU is one operator however it was called, and each can be looked up: what is in no table of `operations`
is refused by name. What branches on pixels cannot be recorded, and is refused too.

Readings, where the paper leaves a choice:

- Activations and dropout become the identity, whatever their slopes. MaxMin, which sorts pairs of channels, leaves them
  unsorted. A clamp at constants is an activation, and so is one of the image.
- A product of two values that depend on the image is a gate, and refused, with one exception: x * sigmoid(x) of the
  very same x is silu, whatever it was meant for. Other activations written out (mish, hardswish) are refused.
- Max pooling becomes the average over the same windows: kernel, stride, padding and dilation stay. Cells of the padding
  count as zeros and are counted; cells beyond the padding, which `ceil_mode` can add, are not, as in `nn.AvgPool2d`. A
  maximum over the whole of space (`amax`) becomes the mean over it.
- Batch norm: `drop` removes it, shift and all, as the authors' code does; `fold` keeps its eval-mode scale and shift,
  of which the shift is no part of a Jacobian. One folded into the convolutions earlier cannot be dropped: refused.
- The values are in float64, and casts between floating types are left out. Weights are those that the network computes
  with: those under a parametrisation are computed in the network's own precision first.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.fx import Node

from attacks.lipschitz_rules import name_of
from attacks.recorded_graph import evaluated, is_fixed
from benchmark.linearize.changes import Change as Change
from benchmark.linearize.changes import NotLinearizable as NotLinearizable
from benchmark.linearize.new_graph import BatchNorm as BatchNorm
from benchmark.linearize.new_graph import NewGraph, first_of
from benchmark.linearize.operations import FILLED, SAME, aten
from benchmark.linearize.recording import path_of, record
from benchmark.linearize.stand_ins import stand_in
from model_zoo.adapter import FoldsBatchNorm

_BATCHES = (2, 3)
_SAME_BOUND = 1e-9
"""How far apart, relative to the largest, outputs may lie that are the same in real arithmetic."""


class AffineNetwork(nn.Module):
    """A rewritten graph, which takes `batch` images, for any number of images (n, *shape) in float64."""

    def __init__(self, graph: fx.GraphModule, batch: int):
        super().__init__()
        self.graph, self.batch = graph, batch

    def forward(self, x: Tensor) -> Tensor:
        n = -len(x) % self.batch
        padded = torch.cat([x, x.new_zeros(n, *x.shape[1:])])
        return torch.cat([self.graph(part) for part in padded.split(self.batch)])[: len(x)]


@dataclass(frozen=True)
class Linearized:
    """`module` is affine, in float64, on the CPU. `last_layer` (outputs, features) is the weight of the linear layer
    that the network ends in, None where it ends in something else."""

    module: nn.Module
    changes: tuple[Change, ...]
    last_layer: Tensor | None = None


def linearize(module: nn.Module, shape: tuple[int, ...], bn: BatchNorm) -> Linearized:
    """What is left of `module`, for single images of `shape`, when its non-linear operations are replaced.

    Raises NotLinearizable for an operation without a linear stand-in (attention, layer norm, softmax, gates and
    all that are unknown), and for a network that draws random numbers, mixes the images of a batch or depends on
    their number.
    """
    if bn == "drop":
        _refuse_folded(module)
    first, second = (_rewritten(module, shape, n, bn) for n in _BATCHES)
    _check_single_images(first.module, second.module, shape, type(module).__name__)
    return first


def _refuse_folded(module: nn.Module) -> None:
    for path, part in module.named_modules():
        norms = any(isinstance(inner, nn.modules.batchnorm._BatchNorm) for inner in part.modules())
        if isinstance(part, FoldsBatchNorm) and not norms:
            where = f" at {path}" if path else ""
            raise NotLinearizable(
                f"batch norm of {type(part).__name__}{where} is folded into its convolutions and cannot be dropped; "
                "load the model unfolded"
            )


def _rewritten(module: nn.Module, shape: tuple[int, ...], n: int, bn: BatchNorm) -> Linearized:
    recorded, left_out = record(module, shape, n)
    new, last_layer = NewGraph(bn), None
    for node in recorded.graph.nodes:
        if node.op == "placeholder":
            new.values[node] = new.graph.placeholder(node.name)
        elif node.op == "get_attr":
            new.constants[node] = getattr(recorded, node.target)
        elif node.op == "output":
            new.graph.output(new.values[_output(new, node.args[0])])
            last_layer = _last_layer(new, node.args[0])
        elif node.target in FILLED:
            value = FILLED[node.target]
            value = node.args[-1] if value is None else value
            new.constants[node] = torch.full(node.meta["val"].shape, value, dtype=node.meta["val"].dtype)
        elif any(new.depends(argument) for argument in node.all_input_nodes):
            new.values[node] = stand_in(new, node)
        else:
            new.constants[node] = _evaluated(new, node)
    new.graph.eliminate_dead_code()
    network = AffineNetwork(fx.GraphModule(new.root, new.graph), n)
    return Linearized(network, (*left_out, *new.changes), last_layer)


def _evaluated(new: NewGraph, node: Node) -> Any:
    """A value that does not depend on the image, computed as the network does."""
    if not is_fixed(node):
        raise NotLinearizable(f"{name_of(node)} at {path_of(node)} gives another value at every call")
    return evaluated(node, new.constants)


def _output(new: NewGraph, output: object) -> Node:
    if not isinstance(output, Node):
        raise NotLinearizable(f"the network returns a {type(output).__name__}, not one tensor")
    if output not in new.values:
        raise NotLinearizable("what the network returns does not depend on the image")
    return output


def _last_layer(new: NewGraph, output: Node) -> Tensor | None:
    while output.target in SAME:
        output = first_of(output)
    matrix = {aten.addmm.default: 2, aten.mm.default: 1, aten.linear.default: 1}.get(cast(Any, output.target))
    if matrix is None or output.kwargs or len(output.meta["val"].shape) != 2 or new.depends(output.args[matrix]):
        return None
    weight = new.constant(output.args[matrix])
    return weight if output.target is aten.linear.default else weight.T


def _check_single_images(first: nn.Module, second: nn.Module, shape: tuple[int, ...], name: str) -> None:
    """An image's output must not depend on its companions: affine maps that agree on random images are the same."""
    generator = torch.Generator().manual_seed(1)
    image, *others = torch.rand(3, *shape, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        outputs = first(torch.stack([image, others[0]]))
        if outputs.dim() < 2 or len(outputs) != _BATCHES[0]:
            raise NotLinearizable(f"{name} returns {tuple(outputs.shape)} for two images, not one row an image")
        if not bool(torch.isfinite(outputs).all()):
            raise NotLinearizable(f"{name} without its non-linear parts gives numbers that are not finite")
        alone, again = first(torch.stack([image, others[1]]))[0], second(torch.stack([image, *others]))[0]
    bound = _SAME_BOUND * float(outputs.abs().max())
    if float((outputs[0] - alone).abs().max()) > bound:
        raise NotLinearizable(f"{name} mixes the images of a batch")
    if again.shape != alone.shape or float((again - alone).abs().max()) > bound:
        raise NotLinearizable(f"{name} computes something else at another call or batch size")
