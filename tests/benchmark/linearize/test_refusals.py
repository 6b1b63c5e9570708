"""What has no linear stand-in is refused in one line that names it."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmark.errors import RequestError
from benchmark.linearize.rewrite import NotLinearizable, linearize
from tests.benchmark.linearize.networks import Function


def attention(x: Tensor) -> Tensor:
    tokens = x.flatten(2)[:, None]
    return functional.scaled_dot_product_attention(tokens, tokens, tokens)


def squeeze_and_excitation(x: Tensor) -> Tensor:
    return x * x.mean((2, 3), keepdim=True).sigmoid()


def branching(x: Tensor) -> Tensor:
    return x if bool((x.sum() > 0).item()) else -x


def half_sorted(x: Tensor) -> Tensor:
    """MaxMin but for its pairs: the maxima of the halves beside the minima of swapped ones."""
    a, b = x.chunk(2, dim=1)
    return torch.cat([torch.maximum(a, b), torch.minimum(b, a)], dim=1)


def sorted_downwards(x: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=1)
    return torch.cat([torch.minimum(a, b), torch.maximum(a, b)], dim=1)


REFUSED: list[tuple[str, nn.Module]] = [
    ("attention (scaled_dot_product)", Function(attention)),
    ("bmm of two values that depend on the image (attention, say)", Function(lambda x: x[:, 0] @ x[:, 1])),
    ("mul of two values that depend on the image (a gate, say)", Function(squeeze_and_excitation)),
    ("mul of two values that depend on the image (a gate, say)", Function(lambda x: x * torch.sigmoid(2.0 * x))),
    ("mul of two values that depend on the image (a gate, say)", Function(lambda x: x * x)),
    ("mul of two values that depend on the image (a gate, say)", Function(lambda x: x.relu() * torch.sigmoid(x))),
    ("mul of two values that depend on the image (a gate, say)", Function(lambda x: x * torch.tanh(x))),
    ("a gate (glu)", Function(lambda x: functional.glu(x, 1))),
    ("softmax", Function(lambda x: x.softmax(1))),
    ("log-softmax", Function(lambda x: functional.log_softmax(x, 1))),
    ("log-sum-exp", Function(lambda x: x.logsumexp(1))),
    ("layer norm", nn.LayerNorm(4)),
    ("group norm", nn.GroupNorm(1, 2)),
    ("instance norm", nn.InstanceNorm2d(2)),
    ("batch norm without running statistics", nn.BatchNorm2d(2, track_running_stats=False)),
    ("division by a length", Function(functional.normalize)),
    ("div by values that depend on the image", Function(lambda x: x / x.mean())),
    ("sub of a value and its own activation", Function(lambda x: x - torch.tanh(x))),
    (
        "the second result of max_pool2d",
        Function(lambda x: functional.max_pool2d(x, 2, return_indices=True)[1].float()),
    ),
    ("max pooling with dilation and ceil_mode", nn.MaxPool2d(2, 2, dilation=2, ceil_mode=True)),
    ("amax over other dimensions than those of space", Function(lambda x: x.amax(1))),
    ("maximum of two values", Function(lambda x: torch.maximum(x[:, 0], x[:, 1]))),
    (
        "convolution by values that depend on the image",
        Function(lambda x: functional.conv2d(torch.ones(2, 2, 4, 4), x)),
    ),
    ("abs", Function(torch.abs)),
    ("exp", Function(torch.exp)),
    ("pow", Function(lambda x: x**2)),
    ("sort", Function(lambda x: x.sort(1)[0])),
    ("gt", Function(lambda x: torch.where(x > 0, x, 0.0))),
    ("sign", Function(torch.sign)),
    ("to_copy with a result of type torch.int64", Function(lambda x: x.long().float())),
]


@pytest.mark.parametrize(("name", "module"), REFUSED, ids=[name for name, _ in REFUSED])
def test_an_operation_is_refused_by_name(name: str, module: nn.Module) -> None:
    with pytest.raises(NotLinearizable) as refusal:
        linearize(nn.Sequential(nn.Identity(), module), (2, 4, 4), "drop")
    message = str(refusal.value)
    assert name in message
    assert " at 1 has no linear stand-in" in message
    assert "\n" not in message


def test_transformers_are_refused() -> None:
    layer = nn.TransformerEncoderLayer(4, 2, batch_first=True).eval()
    with pytest.raises(NotLinearizable, match="attention"):
        linearize(layer, (3, 4), "drop")
    with pytest.raises(NotLinearizable, match=r"attention|layer norm"):
        linearize(layer.train(), (3, 4), "drop")


NO_MAP: list[tuple[str, Callable[[Tensor], object]]] = [
    ("mixes the images of a batch", lambda x: x - x.mean(0)),
    ("computes something else at another call or batch size", lambda x: x * len(x)),
    ("gives another value at every call", lambda x: x + torch.rand(4)),
    ("cannot be recorded", branching),
    ("hands values to NumPy", lambda x: x + torch.from_numpy(x.numpy().round())),
    ("hands values to NumPy", lambda x: x * float(np.asarray(x).mean())),
    ("cannot be recorded|hands values", lambda x: x * max(x.flatten().tolist())),
    ("cannot be recorded", lambda x: x if x.sum() > 0 else -x),
    ("cannot be recorded", lambda x: x * float(x.sum())),
    ("depends on pixels", lambda x: x * (1 + 0 * len(x.nonzero()))),
    ("depends on pixels", lambda x: x * (1 + 0 * len(x[x > 0]))),
    ("does not depend on the image", lambda x: torch.zeros_like(x)),
    ("not one tensor", lambda x: [x, x]),
    ("not one row an image", lambda x: x.sum(1)),
    ("not finite", lambda x: x * 1e300 * 1e300),
]


@pytest.mark.parametrize(("reason", "function"), NO_MAP, ids=[reason for reason, _ in NO_MAP])
def test_what_is_no_map_of_single_images_is_refused(reason: str, function: Callable[..., Tensor]) -> None:
    with pytest.raises(NotLinearizable, match=reason):
        linearize(Function(function), (4,), "drop")


def test_what_counts_its_calls_is_refused() -> None:
    calls = iter(range(100))
    with pytest.raises(NotLinearizable, match="something else at another call"):
        linearize(Function(lambda x: x * (1 + next(calls))), (4,), "drop")


def test_the_command_line_knows_the_refusal() -> None:
    assert issubclass(NotLinearizable, RequestError)
