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

from attacks.lipschitz import same_operations
from benchmark.linearize.changes import Change, NotLinearizable

BATCH = 2
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


def record(module: nn.Module, shape: tuple[int, ...]) -> tuple[fx.GraphModule, list[Change]]:
    """The graph of ATen operators of `module`, in eval mode, on BATCH images, and what was left out of it.

    Raises NotLinearizable for a network that cannot be recorded, because what it computes depends on pixels, say, or
    that computes something else at another call.
    """
    frozen = copy.deepcopy(module).cpu().eval().requires_grad_(False)
    (first, changes), (second, _) = (_recorded(frozen, shape) for _ in range(2))
    if not same_operations(first, second):
        raise NotLinearizable(f"{type(module).__name__} computes something else at another call")
    return first, changes


def path_of(node: Node) -> str:
    """The module that a node was recorded in; for one outside all parts its own name."""
    paths: list[str] = list(node.meta.get(_PATH, {}))
    return paths[-1] if paths and paths[-1] else node.name


def _recorded(frozen: nn.Module, shape: tuple[int, ...]) -> tuple[fx.GraphModule, list[Change]]:
    dtype = next((p.dtype for p in frozen.parameters() if p.is_floating_point()), torch.float32)
    images = torch.rand(BATCH, *shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    paths: list[str] = []
    changes: list[Change] = []

    def run(x: Tensor) -> Tensor:
        with _LeavingOut(paths, changes):
            output: Tensor = frozen(x.clone())  # a network may write into its input
        return output

    with ExitStack() as stack:
        for path, part in frozen.named_modules():
            stack.enter_context(_entered(part, partial(_enter, paths, path), partial(_leave, paths)))
        stack.enter_context(fx_traceback.preserve_node_meta())
        stack.enter_context(torch.no_grad())
        try:
            graph: fx.GraphModule = make_fx(functionalize(run))(images)
        except NotLinearizable:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:160]
            raise NotLinearizable(f"{type(frozen).__name__} cannot be recorded: {reason}") from error
    graph.graph.eliminate_dead_code()
    return graph, changes


class _LeavingOut(TorchFunctionMode):
    """Calls of `_LEFT_OUT` give back their input and are noted."""

    def __init__(self, paths: Sequence[str], changes: list[Change]):
        super().__init__()
        self.paths, self.changes = paths, changes

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
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
