"""A proven Lipschitz constant of a network, from the operations it runs.

The network is run on images with every operation recorded, down to the operators of ATen: what hooks,
parametrisations, in-place operations or a forward of one's own do is seen as it happens, and control flow that looks
at pixels is refused. Each operation's bound then follows from those of its inputs (`lipschitz_rules`); an operation
without a rule is refused, so that a bound never rests on a guess.
"""

import copy
import math
from typing import Any

import torch
from torch import fx, nn
from torch.func import functionalize
from torch.fx import Node
from torch.fx.experimental.proxy_tensor import make_fx

from attacks.lipschitz_rules import RESHAPES, RULES, TUPLES, Bounds, aten, name_of, shape_of
from attacks.lipschitz_rules import Unbounded as Unbounded
from attacks.recorded_graph import evaluated, is_fixed, size_from_pixels

_BATCHES = (2, 3)
_SIZES_IN_WORDS = {*RESHAPES, aten.expand.default}
_OTHERWISE_IN_TRAINING = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
_KEYWORDS = {"alpha", "memory_format"}
"""Keywords the rules know; one that changes the type of the result, say, is refused."""


def lipschitz_bound(module: nn.Module, shape: tuple[int, ...]) -> float:
    """An upper bound L of the l2 Lipschitz constant: ||f(x) - f(z)||_2 <= L ||x - z||_2 for single inputs of `shape`.

    The product of the layers' spectral norms, summed over branches (Szegedy et al. 2014, section 4.3), for the module
    as it is: in eval mode, with its present weights, which are taken as exact numbers. Proven for real
    arithmetic; what float32 adds is not in it. Raises Unbounded for an operation without a rule, and for a network
    that draws random numbers, mixes the samples of a batch or depends on the batch's size.
    """
    for part in module.modules():
        if part.training and isinstance(part, _OTHERWISE_IN_TRAINING):
            raise Unbounded(f"{type(part).__name__} is in training mode, in which no rule holds; call eval() first")
    first, second = (_record(module, shape, n) for n in _BATCHES)
    if not _same(first, second):
        raise Unbounded(f"{type(module).__name__} computes something else at another call or batch size")
    return _walk(second, _BATCHES[-1])


def _record(module: nn.Module, shape: tuple[int, ...], n: int) -> fx.GraphModule:
    try:
        frozen = copy.deepcopy(module).cpu().requires_grad_(False)
        dtype = next((p.dtype for p in frozen.parameters()), torch.float32)
        images = torch.rand(n, *shape, generator=torch.Generator().manual_seed(0)).to(dtype)
        with torch.no_grad():
            recorded: fx.GraphModule = make_fx(functionalize(frozen))(images)
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        raise Unbounded(f"{type(module).__name__} cannot be recorded: {reason}") from error
    by_pixels = size_from_pixels(recorded)
    if by_pixels is not None:
        raise Unbounded(f"the size of what {name_of(by_pixels)} gives depends on pixels")
    recorded.graph.eliminate_dead_code()
    return recorded


def _same(first: fx.GraphModule, second: fx.GraphModule) -> bool:
    """Whether the operations are the same, sizes of reshaped values left out: they hold the batch's size."""
    if len(first.graph.nodes) != len(second.graph.nodes):
        return False
    for a, b in zip(first.graph.nodes, second.graph.nodes, strict=True):
        if (a.op, a.name, str(a.target)) != (b.op, b.name, str(b.target)):
            return False
        if a.target not in _SIZES_IN_WORDS and str((a.args, a.kwargs)) != str((b.args, b.kwargs)):
            return False
        if a.op == "get_attr" and not torch.equal(getattr(first, a.target), getattr(second, b.target)):
            return False
    return True


def _walk(recorded: fx.GraphModule, batch: int) -> float:
    bounds = Bounds()
    for node in recorded.graph.nodes:
        if node.op == "placeholder":
            bounds.values[node] = 1.0
        elif node.op == "get_attr":
            bounds.constants[node] = getattr(recorded, node.target)
        elif node.op == "output":
            return _output(bounds, node.args[0])
        elif any(bounds.depends(argument) for argument in node.all_input_nodes):
            bounds.values[node] = _by_rule(bounds, node, batch)
        else:
            bounds.constants[node] = _evaluated(bounds, node)
    raise AssertionError("a graph ends in its output")


def _by_rule(bounds: Bounds, node: Node, batch: int) -> float:
    rule = RULES.get(node.target)
    unknown = set(node.kwargs) - _KEYWORDS
    if rule is None or unknown:
        raise Unbounded(f"no rule for {' '.join([name_of(node), *(f'with {key}' for key in sorted(unknown))])}")
    bound = rule(bounds, node)
    if not math.isfinite(bound):
        raise Unbounded(f"the Lipschitz constant of {name_of(node)} is {bound}")
    if node.target not in TUPLES and shape_of(node)[:1] != (batch,):
        raise Unbounded(f"{name_of(node)} mixes the samples of a batch")
    return bound


def _evaluated(bounds: Bounds, node: Node) -> Any:
    """A value that does not depend on the input, computed as the network does."""
    if not is_fixed(node):
        raise Unbounded(f"{name_of(node)} gives another value at every call")
    return evaluated(node, bounds.constants)


def _output(bounds: Bounds, output: object) -> float:
    if not isinstance(output, Node):
        raise Unbounded(f"the network returns a {type(output).__name__}, not one tensor")
    return 0.0 if output in bounds.constants else bounds.of(output)
