"""The graph that a linearised network is written into, beside the recorded one that it comes from."""

from typing import Any, Literal, cast

import torch
from torch import Tensor, fx, nn
from torch.fx import Node

from attacks.lipschitz_rules import name_of
from benchmark.linearize.changes import Change, NotLinearizable
from benchmark.linearize.operations import REFUSED
from benchmark.linearize.recording import path_of

BatchNorm = Literal["drop", "fold"]


class NewGraph:
    """`values` maps the recorded nodes that depend on the image to what they have become, `constants` the others to
    their values; `root` holds the constants of the new graph, floating ones in float64."""

    def __init__(self, bn: BatchNorm):
        self.bn = bn
        self.changes: list[Change] = []
        self.values: dict[Node, Node] = {}
        self.constants: dict[Node, Any] = {}
        self.root, self.graph = nn.Module(), fx.Graph()

    def depends(self, argument: object) -> bool:
        return isinstance(argument, Node) and argument in self.values

    def note(self, operation: str, node: Node, became: str) -> None:
        self.changes.append(Change(operation, path_of(node), became))

    def call(self, target: Any, *args: Any, **kwargs: Any) -> Node:
        """An operator of the new graph on what its arguments, recorded nodes, have become."""
        new_args, new_kwargs = fx.node.map_arg((args, kwargs), self._become)
        return self.graph.call_function(target, new_args, new_kwargs)

    def constant(self, argument: object) -> Tensor:
        """A number or tensor that does not depend on the image, in float64."""
        value = self.constants[argument] if isinstance(argument, Node) else argument
        return torch.as_tensor(value).detach().double()

    def held(self, value: Any, name: str) -> Any:
        """A constant as a node of the new graph; what is no tensor as it is."""
        if not isinstance(value, Tensor):
            return value
        name = f"constant_{name}"
        if not hasattr(self.root, name):
            self.root.register_buffer(name, value.detach().double() if value.is_floating_point() else value.detach())
        return self.graph.get_attr(name)

    def _become(self, node: Node) -> Any:
        return self.values[node] if node in self.values else self.held(self.constants[node], node.name)


def refused(what: str, node: Node) -> NotLinearizable:
    return NotLinearizable(f"{what} at {path_of(node)} has no linear stand-in")


def word_of(node: Node) -> str:
    """The operation in words, where it has any."""
    name = name_of(node)
    return "attention (scaled_dot_product)" if name.startswith("scaled_dot_product") else REFUSED.get(name, name)


def first_of(node: Node) -> Node:
    return cast(Node, node.args[0])
