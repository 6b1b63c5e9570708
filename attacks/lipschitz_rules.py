"""How far each operation of a network stretches differences: one rule an operation, none for those unknown."""

import math
from collections.abc import Callable, Iterable
from operator import getitem
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import Node
from torch.nn import functional

from attacks.spectral import ROUNDING, convolution_norm, matrix_norm


class Unbounded(ValueError):
    """A network for which no Lipschitz constant is proven; the message is one line naming the operation."""


class Bounds:
    """Lipschitz constants of a network's values as functions of its input, in the l2 norm, sample by sample.

    `values` holds those of the values that depend on the input, `constants` the other values themselves. The first
    dimension of every value that depends on the input counts the samples.
    """

    def __init__(self) -> None:
        self.values: dict[Node, float] = {}
        self.constants: dict[Node, Any] = {}

    def of(self, argument: object) -> float:
        """The bound of a tensor that depends on the input."""
        if not isinstance(argument, Node) or argument not in self.values:
            raise Unbounded("an operation takes a constant where only the network's values have a rule")
        if argument.target in TUPLES:
            raise Unbounded(f"{name_of(argument)} is used whole")
        return self.values[argument]

    def constant(self, argument: object, user: Node) -> Tensor:
        """A number or tensor that does not depend on the input, in float64."""
        if isinstance(argument, Node):
            if argument not in self.constants:
                raise Unbounded(f"no rule for {name_of(user)} of two values that depend on the input")
            argument = self.constants[argument]
        return torch.as_tensor(argument, dtype=torch.float64)

    def depends(self, argument: object) -> bool:
        return isinstance(argument, Node) and argument in self.values

    def spread(self, argument: Node, node: Node) -> float:
        """The bound of an operand once broadcast to the result's shape, which repeats each of its entries."""
        before, after = shape_of(argument), shape_of(node)
        if len(before) != len(after) or before[0] != after[0]:
            raise Unbounded(f"{name_of(node)} broadcasts over the samples of a batch")
        return self.of(argument) * math.sqrt(math.prod(after) / math.prod(before))

    def together(self, arguments: Iterable[object]) -> float:
        """The bound of several values side by side: of a split's different parts, at most that of the whole."""
        parts = [cast(Node, argument) for argument in arguments if self.depends(argument)]
        squares = sum(self.of(part) ** 2 for part in parts)
        if all(part.target is getitem for part in parts):
            sources = {cast(Node, part.args[0]) for part in parts}
            different = len({part.args[1] for part in parts}) == len(parts)
            if len(sources) == 1 and different and (whole := sources.pop()).target in _SPLITS:
                return self.values[whole]
        return math.sqrt(squares)


Rule = Callable[[Bounds, Node], float]
aten = torch.ops.aten
RULES: dict[Any, Rule] = {}

# The same numbers in the same order, perhaps under another shape.
RESHAPES = (
    aten.view.default,
    aten._unsafe_view.default,
    aten.reshape.default,
    aten.unsqueeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
)
_SPLITS = (aten.split.Tensor, aten.split_with_sizes.default, aten.unbind.int)
TUPLES = (*_SPLITS, aten.sort.default, aten.max_pool2d_with_indices.default, aten.native_batch_norm.default)


def _rule(*targets: Any) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(targets, rule))
        return rule

    return register


@_rule(
    *RESHAPES,
    aten.alias.default,
    aten.detach.default,
    aten.clone.default,
    aten.neg.default,
    aten.abs.default,
    aten.relu.default,
    aten.tanh.default,
    aten.hardtanh.default,
)
def _at_most_one(bounds: Bounds, node: Node) -> float:
    """Entry by entry a function whose slope lies in [-1, 1], or the entries themselves."""
    return bounds.of(node.args[0])


@_rule(aten.constant_pad_nd.default)
def _padded(bounds: Bounds, node: Node) -> float:
    """Constants around an image add nothing to differences, and negative padding leaves entries out."""
    if len(cast(list[int], node.args[1])) > 2 * (len(shape_of(node)) - 1):
        raise Unbounded(f"{name_of(node)} mixes the samples of a batch")
    return bounds.of(node.args[0])


@_rule(aten.leaky_relu.default)
def _leaky_relu(bounds: Bounds, node: Node) -> float:
    slope = cast(float, node.args[1]) if len(node.args) > 1 else 0.01
    return bounds.of(node.args[0]) * max(1.0, abs(slope))


@_rule(aten.clamp.default)
def _clamp(bounds: Bounds, node: Node) -> float:
    if any(isinstance(end, Node) for end in node.args[1:]):
        raise Unbounded(f"no rule for {name_of(node)} with ends that are tensors")
    return bounds.of(node.args[0])


@_rule(aten.permute.default, aten.transpose.int, *_SPLITS, aten.select.int, aten.slice.Tensor, aten.sort.default)
def _moved_or_left_out(bounds: Bounds, node: Node) -> float:
    """Entries in another order, some of them left out, or sorted: sorting brings two lists no further apart."""
    bound, dims = bounds.of(node.args[0]), len(shape_of(cast(Node, node.args[0])))
    if node.target is aten.permute.default:
        fixed = cast(list[int], node.args[1])[0] % dims == 0
    elif node.target is aten.transpose.int:
        fixed = all(cast(int, dim) % dims != 0 for dim in node.args[1:3])
    else:
        place = 1 if node.target in (aten.select.int, aten.slice.Tensor, aten.unbind.int, aten.sort.default) else 2
        default = -1 if node.target is aten.sort.default else 0
        dim = cast(int, node.args[place] if len(node.args) > place else node.kwargs.get("dim", default))
        fixed = dim % dims != 0
    if not fixed:
        raise Unbounded(f"{name_of(node)} mixes the samples of a batch")
    return bound


@_rule(getitem)
def _part(bounds: Bounds, node: Node) -> float:
    source = cast(Node, node.args[0])
    if source.target not in _SPLITS and node.args[1] != 0:
        raise Unbounded(f"no rule for the second result of {name_of(source)}")
    return bounds.values[source]


@_rule(aten.cat.default)
def _side_by_side(bounds: Bounds, node: Node) -> float:
    """The root of the sum of squares; maximum and minimum of a pair are its two entries in order, so 1 (sorting)."""
    parts = cast(list[Node], node.args[0])
    dim = cast(int, node.args[1]) if len(node.args) > 1 else cast(int, node.kwargs.get("dim", 0))
    if dim % len(shape_of(node)) == 0:
        raise Unbounded(f"{name_of(node)} mixes the samples of a batch")
    if len(parts) == 2 and {part.target for part in parts} == {aten.maximum.default, aten.minimum.default}:
        pair = parts[0].args
        if len(set(pair)) == 2 and set(pair) == set(parts[1].args) and _same_shapes(pair):
            return bounds.together(pair)
    return bounds.together(parts)


@_rule(aten.maximum.default, aten.minimum.default)
def _larger(bounds: Bounds, node: Node) -> float:
    """|max(a, b) - max(a', b')| <= max(|a - a'|, |b - b'|), at most the length of both."""
    changing = [cast(Node, a) for a in node.args[:2] if bounds.depends(a)]
    if len(changing) == 2 and _same_shapes(changing) and changing[0] is not changing[1]:
        return bounds.together(changing)
    return math.sqrt(sum(bounds.spread(a, node) ** 2 for a in changing))


@_rule(aten.add.Tensor, aten.sub.Tensor, aten.add.Scalar, aten.sub.Scalar, aten.rsub.Scalar)
def _sum(bounds: Bounds, node: Node) -> float:
    """The sum of the operands' bounds; a constant shifts and adds nothing."""
    factor = abs(cast(float, node.kwargs.get("alpha", node.args[2] if len(node.args) > 2 else 1)))
    first, second = (bounds.spread(cast(Node, a), node) if bounds.depends(a) else 0.0 for a in node.args[:2])
    return factor * first + second if node.target is aten.rsub.Scalar else first + factor * second


@_rule(aten.mul.Tensor, aten.mul.Scalar)
def _product(bounds: Bounds, node: Node) -> float:
    value, factor = node.args[:2] if bounds.depends(node.args[0]) else node.args[1::-1]
    return bounds.spread(cast(Node, value), node) * float(bounds.constant(factor, node).abs().max())


@_rule(aten.div.Tensor, aten.div.Scalar)
def _quotient(bounds: Bounds, node: Node) -> float:
    divisor = bounds.constant(node.args[1], node)
    return bounds.spread(cast(Node, node.args[0]), node) * float(divisor.reciprocal().abs().max())


@_rule(aten.mm.default, aten.addmm.default)
def _linear(bounds: Bounds, node: Node) -> float:
    value, matrix = node.args[-2:]
    scaled = any(node.kwargs.values()) or len(node.args) > 3
    if scaled or not bounds.depends(value) or (len(node.args) == 3 and bounds.depends(node.args[0])):
        raise Unbounded(f"no rule for {name_of(node)} but a linear layer's")
    return bounds.of(value) * matrix_norm(bounds.constant(matrix, node))


@_rule(aten.convolution.default)
def _convolution(bounds: Bounds, node: Node) -> float:
    value, weight, _, stride, padding, dilation, transposed, _, groups = cast(tuple[Any, ...], node.args)
    plain = bounds.depends(value) and len(shape_of(value)) == 4 and not transposed and groups == 1
    if not plain or any(d != 1 for d in dilation) or bounds.depends(node.args[2]):
        raise Unbounded(f"no rule for {name_of(node)} but in two dimensions without groups, dilation or transposition")
    kernel = bounds.constant(weight, node)
    height, width = shape_of(value)[2:]
    return bounds.of(value) * convolution_norm(kernel, tuple(stride), tuple(padding), (height, width))


@_rule(aten.native_batch_norm.default)
def _batch_norm(bounds: Bounds, node: Node) -> float:
    """max |gamma / sqrt(variance + eps)| with the running statistics, per channel."""
    value, gamma, beta, mean, variance, training, _, eps = node.args
    if training or mean is None or variance is None:
        raise Unbounded(f"{name_of(node)} in training mode mixes the samples of a batch")
    if bounds.depends(beta) or bounds.depends(mean):
        raise Unbounded(f"no rule for {name_of(node)} with statistics that depend on the input")
    scale = (bounds.constant(variance, node) + cast(float, eps)).rsqrt()
    if gamma is not None:
        scale = scale * bounds.constant(gamma, node)
    return bounds.of(value) * float(scale.abs().max()) * ROUNDING


@_rule(aten.mean.dim, aten.sum.dim_IntList)
def _mean(bounds: Bounds, node: Node) -> float:
    """Over m entries: 1 / sqrt(m), the length of a row (1/m, ..., 1/m); a sum's is sqrt(m)."""
    entries = _reduced(bounds, node)
    root = math.sqrt(entries)
    return bounds.of(node.args[0]) * (root if node.target is aten.sum.dim_IntList else 1.0 / root)


@_rule(aten.amax.default, aten.amin.default)
def _largest(bounds: Bounds, node: Node) -> float:
    """A maximum moves by no more than its entries do."""
    _reduced(bounds, node)
    return bounds.of(node.args[0])


@_rule(aten.max_pool2d_with_indices.default)
def _max_pool(bounds: Bounds, node: Node) -> float:
    """Each maximum moves by at most its window's length, and an entry lies in at most ceil(k / s) windows an axis."""
    kernel, stride = _windows(node)
    if any(d != 1 for d in _pair(node.args[4] if len(node.args) > 4 else 1)):
        raise Unbounded(f"no rule for {name_of(node)} with dilation")
    return bounds.of(node.args[0]) * math.sqrt(_overlap(kernel, stride))


@_rule(aten.avg_pool2d.default)
def _average_pool(bounds: Bounds, node: Node) -> float:
    """A mean over m entries moves by at most its window's length / sqrt(m), windows overlapping as for the maximum."""
    kernel, stride = _windows(node)
    padded = any(_pair(node.args[3] if len(node.args) > 3 else 0))
    options: list[object] = [*node.args[4:], *[False, True, None][max(0, len(node.args) - 4) :]]
    ceiled, counted, divisor = options
    if ceiled or divisor is not None or (padded and not counted):
        raise Unbounded(f"no rule for {name_of(node)} whose windows divide by different counts")
    return bounds.of(node.args[0]) * math.sqrt(_overlap(kernel, stride) / math.prod(kernel))


@_rule(aten._adaptive_avg_pool2d.default)
def _adaptive_average_pool(bounds: Bounds, node: Node) -> float:
    """The Kronecker product of an averaging matrix an axis, whose norms multiply."""
    value, bound = cast(Node, node.args[0]), bounds.of(node.args[0])
    for before, after in zip(shape_of(value)[-2:], shape_of(node)[-2:], strict=True):
        rows = functional.adaptive_avg_pool1d(torch.eye(before, dtype=torch.float64), after)
        bound *= matrix_norm(rows)
    return bound


@_rule(aten.expand.default)
def _expand(bounds: Bounds, node: Node) -> float:
    return bounds.spread(cast(Node, node.args[0]), node)


def _reduced(bounds: Bounds, node: Node) -> int:
    """How many entries each result is reduced from."""
    shape = shape_of(cast(Node, node.args[0]))
    given = node.args[1] if len(node.args) > 1 else None
    dims = {dim % len(shape) for dim in cast(list[int], given or range(len(shape)))}
    if 0 in dims:
        raise Unbounded(f"{name_of(node)} mixes the samples of a batch")
    return math.prod(shape[dim] for dim in dims)


def _windows(node: Node) -> tuple[tuple[int, int], tuple[int, int]]:
    kernel = _pair(node.args[1])
    return kernel, _pair(node.args[2]) if len(node.args) > 2 and node.args[2] else kernel


def _overlap(kernel: tuple[int, int], stride: tuple[int, int]) -> int:
    return math.prod(math.ceil(k / s) for k, s in zip(kernel, stride, strict=True))


def _pair(value: object) -> tuple[int, int]:
    numbers = [value] if isinstance(value, int) else list(cast(list[int], value))
    return numbers[0], numbers[-1]


def _same_shapes(nodes: Iterable[Any]) -> bool:
    return len({shape_of(node) for node in nodes}) == 1


def shape_of(node: Node) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape)


def name_of(node: Node) -> str:
    return str(getattr(node.target, "__name__", node.target)).partition(".")[0].lstrip("_")
