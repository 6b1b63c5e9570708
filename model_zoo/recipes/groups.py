"""Groups of classes as a setting of a recipe, and the penalty that pulls the logits of a group together."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def parse_groups(text: str, num_classes: int) -> Int[Tensor, " c"]:
    """The group of each class from a text like `0,2,3/1,4`: groups between slashes, class numbers between commas.

    Raises ValueError, one line, unless each of the classes 0 to `num_classes` - 1 is in exactly one of at least two
    groups.
    """
    groups = torch.full((num_classes,), -1, dtype=torch.int64)
    parts = [part.strip() for part in text.split("/")]
    if len(parts) < 2:
        raise ValueError(f"groups must be at least two, written as 0,2,3/1,4, got {text!r}")
    for number, part in enumerate(parts):
        for word in part.split(","):
            if not word.strip().isdecimal() or int(word) >= num_classes:
                raise ValueError(f"groups: {word.strip()!r} is no class from 0 to {num_classes - 1} in {text!r}")
            if groups[int(word)] >= 0:
                raise ValueError(f"groups: class {int(word)} stands twice in {text!r}")
            groups[int(word)] = number
    absent = (groups < 0).nonzero().flatten().tolist()
    if absent:
        raise ValueError(f"groups: class {', '.join(map(str, absent))} is in no group of {text!r}")
    return groups


def write_groups(groups: list[int]) -> str:
    """The text that `parse_groups` reads, from the group of each class."""
    names = list(dict.fromkeys(groups))
    return "/".join(",".join(str(c) for c, group in enumerate(groups) if group == name) for name in names)


def spread_within_groups(logits: Float[Tensor, "b c"], groups: Int[Tensor, " c"]) -> Float[Tensor, ""]:
    """Mean over images and classes of (z_c - mean of z over c's group)^2: 0 where a group's logits are equal.

    A number added to all logits of an image changes nothing, so that logits and log-probabilities give the same.
    """
    member = torch.nn.functional.one_hot(groups).to(logits)
    means = (logits @ member) / member.sum(dim=0)
    return (logits - means[:, groups]).square().mean()
