"""A network's operations, written down while it runs, each with the module that carried it out.

Dropout and the activations that torch composes of several operators are taken out on the way: afterwards nobody could
tell their parts from other sums and products.
"""

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functionalize
from torch.fx import Node
from torch.fx import traceback as fx_traceback
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from attacks.lipschitz_rules import name_of
from attacks.recorded_graph import size_from_pixels
from benchmark.linearize.changes import Change, NotLinearizable

_PATH = "nn_module_stack"
"""The field of a node's meta that make_fx fills from what is being traced."""

_LEFT_OUT: dict[Any, str] = {
    functional.dropout: "dropout",
    functional.dropout1d: "dropout",
    functional.dropout2d: "dropout",
    functional.dropout3d: "dropout",
    functional.alpha_dropout: "dropout",
    functional.feature_alpha_dropout: "dropout",
    torch.dropout: "dropout",
    functional.rrelu: "rrelu",
    functional.softsign: "softsign",
    functional.tanhshrink: "tanhshrink",
}

_OUT_OF_SIGHT = (Tensor.numpy, Tensor.__array__, Tensor.tolist)


def record(module: nn.Module, shape: tuple[int, ...], n: int) -> tuple[fx.GraphModule, list[Change]]:
    """The graph of ATen operators of `module`, in eval mode, on n images, and what was left out of it.

    Raises NotLinearizable for a network that cannot be recorded, because what it computes depends on pixels, say.
    """
    paths: list[str] = []
    changes: list[Change] = []
    try:
        frozen = copy.deepcopy(module).cpu().eval().requires_grad_(False)
        dtype = next((p.dtype for p in frozen.parameters() if p.is_floating_point()), torch.float32)
        images = torch.rand(n, *shape, generator=torch.Generator().manual_seed(n)).to(dtype)

        def run(x: Tensor) -> object:
            with _LeavingOut(paths, changes):
                return frozen(x.clone())  # a network may write into its input

        with ExitStack() as stack:
            for path, part in frozen.named_modules():
                stack.enter_context(_entered(part, partial(_enter, paths, path), partial(_leave, paths)))
            stack.enter_context(fx_traceback.preserve_node_meta())
            stack.enter_context(torch.no_grad())
            graph = _graph(run, images, paths, changes)
    except NotLinearizable:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        raise NotLinearizable(f"{type(module).__name__} cannot be recorded: {reason}") from error
    by_pixels = size_from_pixels(graph)
    if by_pixels is not None:
        raise NotLinearizable(f"the size of what {name_of(by_pixels)} at {path_of(by_pixels)} gives depends on pixels")
    graph.graph.eliminate_dead_code()
    return graph, changes


def _graph(run: Callable[[Tensor], object], images: Tensor, paths: list[str], changes: list[Change]) -> fx.GraphModule:
    """In-place operations as the others that they amount to; with a torch.autograd.Function there may be none."""
    try:
        functional_graph: fx.GraphModule = make_fx(functionalize(run))(images)
        return functional_graph
    except RuntimeError as error:
        if "autograd.Function" not in str(error):
            raise
    paths.clear()
    changes.clear()
    graph: fx.GraphModule = make_fx(run)(images)
    for node in graph.graph.nodes:
        if node.op == "call_function" and getattr(getattr(node.target, "_schema", None), "is_mutable", False):
            raise NotLinearizable(
                f"{name_of(node)} at {path_of(node)} writes in place, not to be followed beside an autograd.Function"
            )
    return graph


def path_of(node: Node) -> str:
    """The module that a node was recorded in; for one outside all parts its own name."""
    paths: list[str] = list(node.meta.get(_PATH, {}))
    return paths[-1] if paths and paths[-1] else node.name


class _LeavingOut(TorchFunctionMode):
    """Calls of `_LEFT_OUT` give back their input and are noted; those that would hide what follows are refused."""

    def __init__(self, paths: Sequence[str], changes: list[Change]):
        super().__init__()
        self.paths, self.changes = paths, changes

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _OUT_OF_SIGHT:
            raise TypeError("its forward pass hands values to NumPy, where nothing is recorded")
        if func not in _LEFT_OUT:
            return func(*args, **kwargs)
        where = self.paths[-1] if self.paths and self.paths[-1] else func.__name__
        self.changes.append(Change(_LEFT_OUT[func], where, "identity"))
        return args[0] if args else kwargs["input"]


def _entered(part: nn.Module, enter: Callable[..., None], leave: Callable[..., None]) -> ExitStack:
    """Hooks around a part's forward pass, its own hooks included, for as long as the context lasts."""
    stack = ExitStack()
    stack.callback(part.register_forward_pre_hook(enter, prepend=True).remove)
    stack.callback(part.register_forward_hook(leave).remove)
    return stack


def _enter(paths: list[str], path: str, *_: object) -> None:
    paths.append(path)
    _show(paths)


def _leave(paths: list[str], *_: object) -> None:
    paths.pop()
    _show(paths)


def _show(paths: Sequence[str]) -> None:
    fx_traceback.get_current_meta()[_PATH] = dict.fromkeys(paths)
