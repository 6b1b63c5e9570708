"""A network without its non-linear parts, by rewriting its graph of operations (Bai et al. 2021, arXiv 2111.12922).

The graph is that of ATen operators which `make_fx` records while the network runs in eval mode, not that of
`torch.fx.symbolic_trace`. Symbolic tracing stops at every branch on a shape and at modules that it takes for leaves, and
sees a hook, a parametrisation or an in-place `x.relu_()` only where its author wrote it in Python that it can follow. Down
at the operators a ReLU is one operator however it was called, and each of them can be looked up: what is in no table
of `operations` is refused by name. Branches on pixels cannot be recorded, and are refused too.

Readings, where the paper leaves a choice:

- Activations and dropout become the identity, whatever their slopes. MaxMin, which sorts pairs of channels, leaves them
  unsorted. A clamp at numbers is an activation, and one of the image too.
- `silu` is an activation where it is one operator. Written as x * sigmoid(x) it is a product of two values, as a
  gate is, and refused: nothing in the graph tells an activation from a gate by intention.
- Max pooling becomes the average over the same windows: kernel, stride, padding and dilation stay. Cells of the padding
  count as zeros and are counted; cells beyond the padding, which `ceil_mode` can add, are not, as in `nn.AvgPool2d`. A
  maximum over whole space (`amax`) becomes the mean over it.
- Batch norm: `drop` removes it whole, as the authors' code does; `fold` keeps its eval-mode scale and shift, of which
  the shift is no part of a Jacobian. One that was folded into the convolutions earlier can no longer be dropped.
- All arithmetic is in float64, casts between floating types left out; weights are those that the network uses, so
  that parametrisations count as they are computed.
"""

import math
from dataclasses import dataclass
from operator import getitem
from typing import Any, Literal, cast

import torch
from torch import Tensor, fx, nn
from torch.fx import Node

from attacks.lipschitz_rules import name_of, shape_of
from benchmark.linearize.changes import Change as Change
from benchmark.linearize.changes import NotLinearizable as NotLinearizable
from benchmark.linearize.operations import (
    ACTIVATIONS,
    ADAPTIVE_MAX_POOLS,
    BATCH_NORMS,
    FILLED,
    FIRST,
    FIRST_OF_TUPLE,
    LARGER,
    MAX_POOLS,
    NOTHING,
    PRODUCTS,
    REFUSED,
    SUMS,
    VIEWS,
    aten,
)
from benchmark.linearize.recording import BATCH, path_of, record
from model_zoo.adapter import FoldsBatchNorm

BatchNorm = Literal["drop", "fold"]

_MIXING_BOUND = 1e-9
_LINEAR = (aten.addmm.default, aten.mm.default, aten.linear.default)


class AffineNetwork(nn.Module):
    """A rewritten graph, which takes BATCH images, for any number of images (n, *shape) in float64."""

    def __init__(self, graph: fx.GraphModule):
        super().__init__()
        self.graph = graph

    def forward(self, x: Tensor) -> Tensor:
        parts = [torch.cat([part, part.new_zeros(BATCH - len(part), *part.shape[1:])]) for part in x.split(BATCH)]
        outputs = [self.graph(part)[: min(BATCH, len(x) - i * BATCH)] for i, part in enumerate(parts)]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


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
    all that are unknown), and for a network that draws random numbers or mixes the images of a batch.
    """
    for path, part in module.named_modules():
        without = not any(isinstance(p, nn.modules.batchnorm._BatchNorm) for p in part.modules())
        if bn == "drop" and isinstance(part, FoldsBatchNorm) and without:
            where = f" at {path}" if path else ""
            raise NotLinearizable(
                f"batch norm of {type(part).__name__}{where} is folded into its convolutions and cannot be dropped; "
                "load the model unfolded"
            )
    recorded, left_out = record(module, shape)
    rewriting = _Rewriting(recorded, bn)
    network = AffineNetwork(rewriting.carried_out())
    _check_mixing(network, shape, type(module).__name__)
    return Linearized(network, (*left_out, *rewriting.changes), rewriting.last_layer)


def _check_mixing(network: AffineNetwork, shape: tuple[int, ...], name: str) -> None:
    """An affine map that two random companions of an image leave alone is left alone by all."""
    generator = torch.Generator().manual_seed(1)
    image, *others = torch.rand(3, *shape, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        first, second = (network(torch.stack([image, other])) for other in others)
    if len(first) != BATCH or first.dim() < 2:
        raise NotLinearizable(f"{name} returns {tuple(first.shape)} for {BATCH} images, not one row an image")
    if not bool(torch.isfinite(first).all()):
        raise NotLinearizable(f"{name} without its non-linear parts gives numbers that are not finite")
    if float((first[0] - second[0]).abs().max()) > _MIXING_BOUND * float(first.abs().max()):
        raise NotLinearizable(f"{name} mixes the images of a batch")


class _Rewriting:
    """One pass over a recorded graph: `values` maps its nodes that depend on the image to those of the new graph,
    `constants` its other nodes to what they are."""

    def __init__(self, recorded: fx.GraphModule, bn: BatchNorm):
        self.recorded, self.bn = recorded, bn
        self.changes: list[Change] = []
        self.last_layer: Tensor | None = None
        self.values: dict[Node, Node] = {}
        self.constants: dict[Node, Any] = {}
        self.root, self.graph = nn.Module(), fx.Graph()

    def carried_out(self) -> fx.GraphModule:
        for node in self.recorded.graph.nodes:
            if node.op == "placeholder":
                self.values[node] = self.graph.placeholder(node.name)
            elif node.op == "get_attr":
                self.constants[node] = getattr(self.recorded, node.target)
            elif node.op == "output":
                self._end(node.args[0])
            elif node.target in FILLED:
                self.constants[node] = torch.full(shape_of(node), FILLED[node.target], dtype=torch.float64)
            elif any(self.depends(argument) for argument in node.all_input_nodes):
                self.values[node] = self.rewritten(node)
            else:
                self.constants[node] = self.evaluated(node)
        self.graph.eliminate_dead_code()
        return fx.GraphModule(self.root, self.graph)

    def depends(self, argument: object) -> bool:
        return isinstance(argument, Node) and argument in self.values

    def note(self, operation: str, node: Node, became: str) -> None:
        self.changes.append(Change(operation, path_of(node), became))

    def call(self, node: Node, target: Any, *args: Any, **kwargs: Any) -> Node:
        """The operator in the new graph, on what its arguments have become."""
        new_args, new_kwargs = fx.node.map_arg((args, kwargs), self._new)
        return self.graph.call_function(target, new_args, new_kwargs)

    def rewritten(self, node: Node) -> Node:
        target = cast(Any, node.target)
        if target is getitem:
            return self._part(node)
        kwargs = self._keywords(node)
        source = cast(Node, node.args[0])
        if target in NOTHING:
            return self.values[source]
        if target in VIEWS:
            return self.call(node, aten.reshape.default, *node.args)
        if target in ACTIVATIONS:
            self._only_first(node)
            self.note(ACTIVATIONS[target], node, "identity")
            return self.values[source]
        if target in LARGER:
            return self._larger(node)
        if target in MAX_POOLS:
            return self._max_pool(node)
        if target in ADAPTIVE_MAX_POOLS:
            return self._adaptive_max_pool(node)
        if target in BATCH_NORMS:
            return self._batch_norm(node)
        if target is aten.amax.default:
            return self._amax(node)
        if target in FIRST:
            self._only_first(node)
            self._keep(FIRST[target], node)
        elif target in SUMS:
            self._sum(node)
        elif target in PRODUCTS:
            self._product(node)
        else:
            raise self.refused(_word(node), node)
        return self.call(node, target, *node.args, **kwargs)

    def refused(self, what: str, node: Node) -> NotLinearizable:
        return NotLinearizable(f"{what} at {path_of(node)} has no linear stand-in")

    def evaluated(self, node: Node) -> Any:
        """A value that does not depend on the image, computed as the network does."""
        target = cast(Any, node.target)
        random = torch.Tag.nondeterministic_seeded in getattr(target, "tags", ()) or "empty" in str(target)
        if random or (target is not getitem and target._schema.is_mutable):
            raise NotLinearizable(f"{name_of(node)} at {path_of(node)} gives another value at every call")
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self.constants.__getitem__)
        return target(*args, **kwargs)

    def double(self, argument: object) -> Tensor:
        value = self.constants[argument] if isinstance(argument, Node) else argument
        return torch.as_tensor(value).detach().double()

    def _new(self, node: Node) -> Any:
        if node in self.values:
            return self.values[node]
        return self._held(self.constants[node], node.name)

    def _held(self, value: Any, name: str) -> Any:
        """A constant as a node of the new graph; floating ones in float64."""
        if not isinstance(value, Tensor):
            return value
        value = value.detach().double() if value.is_floating_point() else value.detach()
        if not hasattr(self.root, name):
            self.root.register_buffer(name, value)
        return self.graph.get_attr(name)

    def _keywords(self, node: Node) -> dict[str, Any]:
        """Keywords of a kept operator, without those of the type, which is float64 throughout."""
        dtype = node.kwargs.get("dtype")
        values = node.meta["val"]
        kinds = [v.dtype for v in (values if isinstance(values, tuple | list) else [values]) if isinstance(v, Tensor)]
        if (dtype is not None and not cast(torch.dtype, dtype).is_floating_point) or not kinds[0].is_floating_point:
            raise self.refused(f"{_word(node)} with a result that is no floating number", node)
        return {k: v for k, v in node.kwargs.items() if k not in ("dtype", "memory_format")}

    def _keep(self, operation: str, node: Node) -> None:
        if operation:
            self.note(operation, node, "kept")

    def _only_first(self, node: Node) -> None:
        others = [n for n in node.all_input_nodes if n is not node.args[0] and self.depends(n)]
        if others or not self.depends(node.args[0]):
            raise self.refused(f"{_word(node)} whose parameters depend on the image", node)

    def _sum(self, node: Node) -> None:
        own = [n for n in node.all_input_nodes if self.depends(n)]
        if (
            node.target in (aten.sub.Tensor, aten.rsub.Tensor)
            and len(own) == 2
            and self.values[own[0]] is self.values[own[1]]
        ):
            raise self.refused(f"{name_of(node)} of a value and its own activation (tanhshrink, say)", node)
        word = SUMS[node.target]
        shift = word == "sum" and len(own) == 1 and not all(self.depends(argument) for argument in node.args[:2])
        self._keep("shift" if shift else word, node)

    def _product(self, node: Node) -> None:
        added = node.target in (aten.addmm.default, aten.baddbmm.default)
        factors = node.args[1:3] if added else node.args[:2]
        if sum(self.depends(factor) for factor in factors) != 1 or any(
            map(self.depends, node.args[3 if added else 2 :])
        ):
            kind = "a gate" if node.target is aten.mul.Tensor else "attention"
            raise self.refused(f"{name_of(node)} of two values that depend on the image ({kind}, say)", node)
        self._keep(PRODUCTS[node.target], node)

    def _part(self, node: Node) -> Node:
        source = cast(Node, node.args[0])
        if source.target not in FIRST_OF_TUPLE:
            return self.call(node, getitem, *node.args)
        if node.args[1] != 0:
            raise self.refused(f"the second result of {_word(source)}", node)
        return self.values[source]

    def _larger(self, node: Node) -> Node:
        """ReLU written as the larger of a value and a constant; or MaxMin, left unsorted."""
        changing = [cast(Node, a) for a in node.args[:2] if self.depends(a)]
        if len(changing) == 1:
            self.note(name_of(node), node, "identity")
            return self.values[changing[0]]
        if not _sorts_pairs(node):
            raise self.refused(f"{name_of(node)} of two values that depend on the image", node)
        if node.target is aten.minimum.default:
            return self.values[changing[1]]
        self.note("maxmin", node, "identity")
        return self.values[changing[0]]

    def _amax(self, node: Node) -> Node:
        source, dims = cast(Node, node.args[0]), len(shape_of(cast(Node, node.args[0])))
        over = sorted(dim % dims for dim in cast(list[int], node.args[1] if len(node.args) > 1 else []))
        if dims < 3 or over != list(range(2, dims)):
            raise self.refused("amax over other dimensions than those of space", node)
        self.note("global max pooling", node, "mean over space")
        return self.call(node, aten.mean.dim, source, over, *node.args[2:])

    def _max_pool(self, node: Node) -> Node:
        source = cast(Node, node.args[0])
        axes = 2 if node.target is MAX_POOLS[0] else 3
        given = dict(zip(("stride", "padding", "dilation", "ceil"), (*node.args[2:], *[None] * 4), strict=False))
        kernel = _each(node.args[1], axes)
        stride = _each(given["stride"] or kernel, axes)
        padding, dilation = _each(given["padding"] or 0, axes), _each(given["dilation"] or 1, axes)
        ceil = bool(given["ceil"])
        self.note("max pooling", node, _pooling_words(kernel, stride, padding, dilation))
        if max(dilation) == 1:
            pool = aten.avg_pool2d.default if axes == 2 else aten.avg_pool3d.default
            return self.call(node, pool, source, kernel, stride, padding, ceil, True, None)
        if ceil or len(shape_of(source)) != axes + 2:
            raise self.refused("max pooling with dilation and ceil_mode", node)
        channels = shape_of(source)[1]
        weight = torch.full((channels, 1, *kernel), 1.0 / math.prod(kernel), dtype=torch.float64)
        window = self._held(weight, f"{node.name}_window")
        zeros = [0] * axes
        return self.graph.call_function(
            aten.convolution.default,
            (self.values[source], window, None, stride, padding, dilation, False, zeros, channels),
        )

    def _adaptive_max_pool(self, node: Node) -> Node:
        two = node.target is ADAPTIVE_MAX_POOLS[0]
        size = _each(node.args[1], 2 if two else 3)
        self.note("adaptive max pooling", node, f"adaptive average pooling to {'x'.join(map(str, size))}")
        pool = aten._adaptive_avg_pool2d.default if two else aten._adaptive_avg_pool3d.default
        return self.call(node, pool, node.args[0], size)

    def _batch_norm(self, node: Node) -> Node:
        if node.target is aten._native_batch_norm_legit.no_stats:
            raise self.refused("instance norm, or batch norm without running statistics,", node)
        source, gamma, beta, mean, variance, *rest = node.args
        training = node.target is not aten._native_batch_norm_legit_no_training.default and rest.pop(0)
        if training or mean is None or variance is None:
            raise self.refused("instance norm, or batch norm without running statistics,", node)
        self._only_first(node)
        if self.bn == "drop":
            self.note("batch norm", node, "removed")
            return self.values[cast(Node, source)]
        scale = (self.double(variance) + float(cast(float, rest[-1]))).rsqrt()
        scale = scale if gamma is None else scale * self.double(gamma)
        shift = -self.double(mean) * scale + (0.0 if beta is None else self.double(beta))
        along = (-1, *[1] * (len(shape_of(cast(Node, source))) - 2))
        self.note("batch norm", node, "scale")
        held = [self._held(v.reshape(along), f"{node.name}_{name}") for v, name in ((scale, "scale"), (shift, "shift"))]
        scaled = self.graph.call_function(aten.mul.Tensor, (self.values[cast(Node, source)], held[0]))
        return self.graph.call_function(aten.add.Tensor, (scaled, held[1]))

    def _end(self, output: object) -> None:
        if not isinstance(output, Node):
            raise NotLinearizable(f"the network returns a {type(output).__name__}, not one tensor")
        if output not in self.values:
            raise NotLinearizable("what the network returns does not depend on the image")
        self.graph.output(self.values[output])
        last = output
        while last.target in NOTHING:
            last = cast(Node, last.args[0])
        if last.target in _LINEAR and len(shape_of(last)) == 2 and not last.kwargs:
            weight = last.args[1] if last.target is not aten.addmm.default else last.args[2]
            if not self.depends(weight):
                found = self.double(weight)
                self.last_layer = found if last.target is aten.linear.default else found.T


def _sorts_pairs(node: Node) -> bool:
    """Whether a maximum or minimum is one half of MaxMin: two halves of one value, put together in their order."""
    users = list(node.users)
    if len(users) != 1 or users[0].target is not aten.cat.default:
        return False
    cat = users[0]
    parts = cast(list[Node], cat.args[0])
    if [part.target for part in parts] != list(LARGER) or parts[0].args != parts[1].args:
        return False
    halves = cast(list[Node], list(parts[0].args))
    if any(half.target is not getitem for half in halves) or [half.args[1] for half in halves] != [0, 1]:
        return False
    split = cast(Node, halves[0].args[0])
    if halves[1].args[0] is not split or split.target is not aten.split.Tensor or len(split.meta["val"]) != 2:
        return False
    dims = len(shape_of(node))
    dim = [cast(int, n.args[place] if len(n.args) > place else 0) % dims for n, place in ((split, 2), (cat, 1))]
    return dim[0] == dim[1] != 0


def _word(node: Node) -> str:
    name = name_of(node)
    return "attention (scaled_dot_product)" if name.startswith("scaled_dot_product") else REFUSED.get(name, name)


def _each(value: object, axes: int) -> list[int]:
    """A number for each axis of space, from one for all or one each."""
    numbers = [value] if isinstance(value, int) else list(cast(list[int], value))
    return numbers if len(numbers) == axes else numbers * axes


def _pooling_words(kernel: list[int], stride: list[int], padding: list[int], dilation: list[int]) -> str:
    steps = str(stride[0]) if len(set(stride)) == 1 else "x".join(map(str, stride))
    words = [f"average pooling {'x'.join(map(str, kernel))}/{steps}"]
    words += [f"padding {'x'.join(map(str, padding))}"] if any(padding) else []
    return ", ".join(words + ([f"dilation {'x'.join(map(str, dilation))}"] if max(dilation) > 1 else []))
