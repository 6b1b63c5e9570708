"""What takes the place of each operation of a network: one rule an operator, none for those unknown."""

import math
from collections.abc import Callable
from operator import getitem
from typing import Any, cast

import torch
from torch.fx import Node

from attacks.lipschitz_rules import name_of, shape_of
from benchmark.linearize.changes import Change
from benchmark.linearize.new_graph import NewGraph, first_of, refused, word_of
from benchmark.linearize.operations import (
    ACTIVATIONS,
    ADAPTIVE_MAX_POOLS,
    BATCH_NORMS,
    FIRST,
    FIRST_OF_TUPLE,
    LARGER,
    MAX_POOLS,
    PRODUCTS,
    SAME,
    SUMS,
    VIEWS,
    aten,
)
from benchmark.linearize.recording import path_of

Rule = Callable[[NewGraph, Node], Node]
RULES: dict[Any, Rule] = {}


def _rule(*targets: Any) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(targets, rule))
        return rule

    return register


def stand_in(new: NewGraph, node: Node) -> Node:
    """What becomes of a recorded node that depends on the image; NotLinearizable where there is no rule."""
    rule = RULES.get(node.target)
    if rule is None:
        raise refused(word_of(node), node)
    results = node.meta["val"]
    result = results[0] if isinstance(results, tuple | list) else results
    if node.target is not getitem and not result.is_floating_point():
        raise refused(f"{word_of(node)} with a result of type {result.dtype}", node)
    return rule(new, node)


@_rule(*SAME)
def _same(new: NewGraph, node: Node) -> Node:
    return new.values[first_of(node)]


@_rule(*VIEWS)
def _view(new: NewGraph, node: Node) -> Node:
    """Recorded strides may be others than those of the new graph."""
    return new.call(aten.reshape.default, *node.args)


@_rule(*ACTIVATIONS)
def _activation(new: NewGraph, node: Node) -> Node:
    _only_first_depends(new, node)
    new.note(ACTIVATIONS[node.target], node, "identity")
    return new.values[first_of(node)]


@_rule(*FIRST)
def _affine_in_first(new: NewGraph, node: Node) -> Node:
    _only_first_depends(new, node)
    return _kept(new, node, FIRST[node.target])


@_rule(*SUMS)
def _sum(new: NewGraph, node: Node) -> Node:
    own = [argument for argument in node.all_input_nodes if new.depends(argument)]
    if SUMS[node.target] == "sum" and len(own) == 2 and new.values[own[0]] is new.values[own[1]] and _subtracts(node):
        raise refused(f"{name_of(node)} of a value and its own activation (tanhshrink, say)", node)
    shift = SUMS[node.target] == "sum" and not all(map(new.depends, node.args[:2]))
    return _kept(new, node, "shift" if shift else SUMS[node.target])


@_rule(*PRODUCTS)
def _product(new: NewGraph, node: Node) -> Node:
    first = 1 if node.target in (aten.addmm.default, aten.baddbmm.default) else 0
    factors, others = node.args[first : first + 2], node.args[first + 2 :]
    if node.target is aten.mul.Tensor:
        for value, sigmoid in (factors, factors[::-1]):
            if _is_sigmoid_of(sigmoid, value):
                noted = Change("sigmoid", path_of(cast(Node, _behind_same(sigmoid))), "identity")
                if noted in new.changes:  # not where another product of the same two took it out
                    new.changes.remove(noted)
                new.note("silu", node, "identity")
                return new.values[cast(Node, value)]
    if sum(map(new.depends, factors)) > 1 or any(map(new.depends, others)):
        kind = "a gate" if node.target is aten.mul.Tensor else "attention"
        raise refused(f"{name_of(node)} of two values that depend on the image ({kind}, say)", node)
    return _kept(new, node, PRODUCTS[node.target])


@_rule(getitem)
def _part(new: NewGraph, node: Node) -> Node:
    source = first_of(node)
    if source.target not in FIRST_OF_TUPLE:
        return new.call(getitem, *node.args)
    if node.args[1] != 0:
        raise refused(f"the second result of {word_of(source)}", node)
    return new.values[source]


@_rule(*LARGER)
def _larger(new: NewGraph, node: Node) -> Node:
    """ReLU written as the larger of a value and a constant; or MaxMin, left unsorted."""
    changing = [cast(Node, a) for a in node.args[:2] if new.depends(a)]
    if len(changing) == 1:
        new.note(name_of(node), node, "identity")
        return new.values[changing[0]]
    if not _sorts_pairs(node):
        raise refused(f"{name_of(node)} of two values that depend on the image", node)
    if node.target is aten.minimum.default:
        return new.values[changing[1]]
    new.note("maxmin", node, "identity")
    return new.values[changing[0]]


@_rule(aten.amax.default)
def _global_max_pool(new: NewGraph, node: Node) -> Node:
    dims = len(shape_of(first_of(node)))
    over = sorted(dim % dims for dim in cast(list[int], node.args[1] if len(node.args) > 1 else []))
    if dims < 3 or over != list(range(2, dims)):
        raise refused("amax over other dimensions than those of space", node)
    new.note("global max pooling", node, "mean over space")
    return new.call(aten.mean.dim, first_of(node), over, *node.args[2:])


@_rule(*MAX_POOLS)
def _max_pool(new: NewGraph, node: Node) -> Node:
    """The mean over the same windows; those with gaps are a convolution of each channel by itself."""
    source, axes = first_of(node), 2 if node.target is MAX_POOLS[0] else 3
    given = [*node.args[1:], *[None] * 5]
    kernel = _each(given[0], axes)
    stride, padding, dilation = (_each(g or d, axes) for g, d in zip(given[1:4], (kernel, 0, 1), strict=True))
    ceil = bool(given[4])
    new.note("max pooling", node, _pooling_words(kernel, stride, padding, dilation))
    if max(dilation) == 1:
        pool = aten.avg_pool2d.default if axes == 2 else aten.avg_pool3d.default
        return new.call(pool, source, kernel, stride, padding, ceil, True, None)
    if ceil:
        raise refused("max pooling with dilation and ceil_mode", node)
    channels = shape_of(source)[1]
    weight = torch.full((channels, 1, *kernel), 1.0 / math.prod(kernel), dtype=torch.float64)
    window, zeros = new.held(weight, f"{node.name}_window"), [0] * axes
    return new.graph.call_function(
        aten.convolution.default,
        (new.values[source], window, None, stride, padding, dilation, False, zeros, channels),
    )


@_rule(*ADAPTIVE_MAX_POOLS)
def _adaptive_max_pool(new: NewGraph, node: Node) -> Node:
    two = node.target is ADAPTIVE_MAX_POOLS[0]
    size = _each(node.args[1], 2 if two else 3)
    new.note("adaptive max pooling", node, f"adaptive average pooling to {'x'.join(map(str, size))}")
    pool = aten._adaptive_avg_pool2d.default if two else aten._adaptive_avg_pool3d.default
    return new.call(pool, first_of(node), size)


@_rule(*BATCH_NORMS)
def _batch_norm(new: NewGraph, node: Node) -> Node:
    source, gamma, beta, mean, variance, *rest = node.args
    training = node.target is not aten._native_batch_norm_legit_no_training.default and rest.pop(0)
    if training or mean is None or variance is None:
        raise refused("instance norm, or batch norm without running statistics,", node)
    _only_first_depends(new, node)
    value = new.values[first_of(node)]
    if new.bn == "drop":
        new.note("batch norm", node, "removed")
        return value
    scale = (new.constant(variance) + float(cast(float, rest[-1]))).rsqrt()
    scale = scale if gamma is None else scale * new.constant(gamma)
    shift = -new.constant(mean) * scale + (0.0 if beta is None else new.constant(beta))
    along = (-1, *[1] * (len(shape_of(cast(Node, source))) - 2))
    new.note("batch norm", node, "scale")
    factor, added = (new.held(v.reshape(along), f"{node.name}_{i}") for i, v in enumerate((scale, shift)))
    scaled = new.graph.call_function(aten.mul.Tensor, (value, factor))
    return new.graph.call_function(aten.add.Tensor, (scaled, added))


def _kept(new: NewGraph, node: Node, operation: str) -> Node:
    """The operator as it is, without keywords of the type, which is float64 throughout."""
    if operation:
        new.note(operation, node, "kept")
    kwargs = {key: value for key, value in node.kwargs.items() if key not in ("dtype", "memory_format")}
    return new.call(node.target, *node.args, **kwargs)


def _only_first_depends(new: NewGraph, node: Node) -> None:
    others = [argument for argument in node.all_input_nodes if argument is not node.args[0]]
    if not new.depends(node.args[0]) or any(map(new.depends, others)):
        raise refused(f"{word_of(node)} by values that depend on the image", node)


def _is_sigmoid_of(sigmoid: object, value: object) -> bool:
    """Whether the product of the two is silu, written out."""
    plain = _behind_same(sigmoid)
    return (
        isinstance(plain, Node)
        and plain.target is aten.sigmoid.default
        and (_behind_same(plain.args[0]) is _behind_same(value))
    )


def _behind_same(node: object) -> object:
    while isinstance(node, Node) and node.target in (*SAME, aten.clone.default):
        node = node.args[0]
    return node


def _subtracts(node: Node) -> bool:
    return node.target is not aten.add.Tensor or float(cast(float, node.kwargs.get("alpha", 1))) < 0


def _sorts_pairs(node: Node) -> bool:
    """Whether a maximum or minimum is one half of MaxMin: two halves of one value, put together in their order."""
    users = list(node.users)
    if len(users) != 1 or users[0].target is not aten.cat.default:
        return False
    parts = cast(list[Node], users[0].args[0])
    if [part.target for part in parts] != list(LARGER) or parts[0].args != parts[1].args:
        return False
    halves = cast(list[Node], list(parts[0].args))
    if any(half.target is not getitem for half in halves) or [half.args[1] for half in halves] != [0, 1]:
        return False
    split = first_of(halves[0])
    if first_of(halves[1]) is not split or split.target is not aten.split.Tensor or len(split.meta["val"]) != 2:
        return False
    across, along = (
        cast(int, n.args[place] if len(n.args) > place else 0) % len(shape_of(node))
        for n, place in ((split, 2), (users[0], 1))
    )
    return across == along != 0


def _each(value: object, axes: int) -> list[int]:
    """A number for each axis of space, from one for all or one each."""
    numbers = [value] if isinstance(value, int) else list(cast(list[int], value))
    return numbers if len(numbers) == axes else numbers * axes


def _pooling_words(kernel: list[int], stride: list[int], padding: list[int], dilation: list[int]) -> str:
    words = [f"average pooling {'x'.join(map(str, kernel))}/{_by(stride)}"]
    words += [f"padding {_by(padding)}"] if any(padding) else []
    return ", ".join(words + ([f"dilation {_by(dilation)}"] if max(dilation) > 1 else []))


def _by(sizes: list[int]) -> str:
    return str(sizes[0]) if len(set(sizes)) == 1 else "x".join(map(str, sizes))
