"""What holds of every graph of operators that make_fx recorded, whoever reads it."""

from collections.abc import Mapping
from operator import getitem
from typing import Any, cast

import torch
from torch import fx
from torch.fx import Node


def size_from_pixels(recorded: fx.GraphModule) -> Node | None:
    """The first operation, if any, whose output's size follows from pixels, as that of `nonzero`.

    Sizes are numbers in a graph, so that control flow by such a one is out of sight. To be asked before dead code is
    removed.
    """
    changing: set[Node] = set()
    for node in recorded.graph.nodes:
        from_image = changing.intersection(node.all_input_nodes)
        if node.op == "placeholder" or from_image:
            changing.add(node)
        dynamic = torch.Tag.dynamic_output_shape in getattr(node.target, "tags", ())
        # an index by places that no pixel decides has a size that no pixel decides
        fixed = node.target is torch.ops.aten.index.Tensor and from_image == {node.args[0]}
        if dynamic and from_image and not fixed:
            return cast(Node, node)
    return None


def is_fixed(node: Node) -> bool:
    """Whether an operation without an image among its inputs gives the same at every call, and changes nothing."""
    random = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()) or "empty" in str(node.target)
    target = cast(Any, node.target)
    return not random and (target is getitem or not target._schema.is_mutable)


def evaluated(node: Node, constants: Mapping[Node, Any]) -> Any:
    """The value of an operation that `is_fixed`, computed as the network does."""
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), constants.__getitem__)
    return cast(Any, node.target)(*args, **kwargs)
