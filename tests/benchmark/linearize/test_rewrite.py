"""The linear part of a network is what its layers' matrices, multiplied out by hand, say it is."""

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from benchmark.linearize.rewrite import BatchNorm, Change, NotLinearizable, linearize
from benchmark.linearize.rows import checked_jacobian
from model_zoo.adapter import LogitsModel
from model_zoo.architectures import build
from model_zoo.architectures.small_resnet import SmallResNet
from tests.benchmark.linearize import matrices
from tests.benchmark.linearize.networks import Function, Mixed, random_batch_norm


def jacobian(module: nn.Module, shape: tuple[int, ...], bn: BatchNorm = "drop") -> np.ndarray:
    linear = linearize(module, shape, bn)
    return checked_jacobian(linear, torch.rand(shape))[0]


def numbers(tensor: Tensor | None) -> np.ndarray:
    assert tensor is not None
    return tensor.detach().double().numpy()


def scale_of(norm: nn.BatchNorm2d) -> np.ndarray:
    return cast(np.ndarray, numbers(norm.weight) / np.sqrt(numbers(norm.running_var) + norm.eps))


@pytest.mark.parametrize("bn", ["drop", "fold"])
def test_layers_multiplied_out_by_hand(bn: BatchNorm) -> None:
    network = Mixed().eval()
    first = matrices.convolution(numbers(network.first.weight), (6, 5), padding=1)
    if bn == "fold":
        first = matrices.per_channel(scale_of(network.norm), 30) @ first
    pooled = matrices.average_pooling(3, (6, 5), 3, 2, padding=1) @ first
    summed = pooled + matrices.convolution(numbers(network.inner.weight), (3, 3), padding=1) @ pooled
    both = np.vstack([summed, matrices.convolution(numbers(network.side.weight), (3, 3)) @ summed])
    expected = numbers(network.last.weight) @ matrices.spatial_mean(5, 9) @ both
    np.testing.assert_allclose(jacobian(network, (2, 6, 5), bn), expected, rtol=1e-11, atol=1e-14)


def test_what_became_of_each_operation() -> None:
    changes = linearize(Mixed(), (2, 6, 5), "drop").changes
    assert Counter(changes) == Counter(
        [
            Change("convolution", "first", "kept"),
            Change("batch norm", "norm", "removed"),
            Change("relu", changes[3].where, "identity"),
            Change("max pooling", "pool", "average pooling 3x3/2, padding 1"),
            Change("convolution", "inner", "kept"),
            Change("gelu", "gelu", "identity"),
            Change("sum", "add", "kept"),
            Change("relu", changes[8].where, "identity"),
            Change("convolution", "side", "kept"),
            Change("leaky_relu", "leaky_relu", "identity"),
            Change("concatenation", "cat", "kept"),
            Change("mean", "mean", "kept"),
            Change("dropout", "dropout", "identity"),
            Change("linear", "last", "kept"),
        ]
    )
    assert Change("batch norm", "norm", "scale") in linearize(Mixed(), (2, 6, 5), "fold").changes


def test_normalisation_is_part_of_the_map() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(18, 4))
    model = LogitsModel(network, [0.4, 0.6], [0.2, 0.5])
    expected = numbers(cast(nn.Linear, network[1]).weight) / np.repeat([0.2, 0.5], 9).astype(np.float32)
    np.testing.assert_allclose(jacobian(model, (2, 3, 3)), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"), [(2, 2, 0, 1), (3, 2, 1, 1), (3, 1, 1, 2), (2, 3, 1, 3)]
)
def test_max_pooling_becomes_the_average_over_the_same_windows(
    kernel: int, stride: int, padding: int, dilation: int
) -> None:
    module = nn.Sequential(nn.MaxPool2d(kernel, stride, padding, dilation), nn.Flatten())
    expected = matrices.average_pooling(2, (7, 8), kernel, stride, padding, dilation)
    np.testing.assert_allclose(jacobian(module, (2, 7, 8)), expected, rtol=0, atol=1e-15)


def test_cells_beyond_the_padding_are_left_out_of_the_mean() -> None:
    """Five places in windows of two: the last window holds one."""
    module = nn.Sequential(nn.MaxPool1d(2, ceil_mode=True), nn.Flatten())
    expected = [[0.5, 0.5, 0, 0, 0], [0, 0, 0.5, 0.5, 0], [0, 0, 0, 0, 1.0]]
    np.testing.assert_array_equal(jacobian(module, (1, 5)), expected)


def test_pooling_in_one_and_three_dimensions() -> None:
    one = nn.Sequential(nn.MaxPool1d(3, 2, padding=1, dilation=1), nn.Flatten())
    third = 1.0 / 3.0
    np.testing.assert_allclose(jacobian(one, (1, 4)), [[third, third, 0, 0], [0, third, third, third]], rtol=1e-15)
    three = nn.Sequential(nn.MaxPool3d(2), nn.Flatten())
    np.testing.assert_array_equal(jacobian(three, (1, 2, 2, 2)), np.full((1, 8), 0.125))


@pytest.mark.parametrize(
    "pool",
    [
        nn.AdaptiveMaxPool2d(1),
        Function(lambda x: functional.adaptive_max_pool2d(x, 1)),
        Function(lambda x: x.amax((2, 3))),
    ],
)
def test_adaptive_and_global_max_pooling(pool: nn.Module) -> None:
    expected = matrices.spatial_mean(3, 20)
    np.testing.assert_allclose(jacobian(nn.Sequential(pool, nn.Flatten()), (3, 4, 5)), expected, rtol=1e-14)


def test_adaptive_max_pooling_to_several_places() -> None:
    module = nn.Sequential(nn.AdaptiveMaxPool2d((2, 1)), nn.Flatten())
    expected = [[0.25] * 4 + [0.0] * 4, [0.0] * 4 + [0.25] * 4]
    np.testing.assert_array_equal(jacobian(module, (1, 4, 2)), expected)
    assert linearize(module, (1, 4, 2), "drop").changes[0].became == "adaptive average pooling to 2x1"


ACTIVATIONS: list[Callable[[Tensor], Tensor]] = [
    functional.relu,
    functional.relu6,
    functional.relu_,
    torch.relu,
    torch.relu_,
    lambda x: x.relu_(),
    lambda x: x.clamp(min=0),
    lambda x: x.clamp_(0, 1),
    lambda x: torch.maximum(x, torch.zeros(())),
    functional.leaky_relu,
    lambda x: functional.prelu(x, torch.tensor([0.3])),
    functional.rrelu,
    functional.elu,
    functional.selu,
    functional.celu,
    functional.gelu,
    lambda x: functional.gelu(x, approximate="tanh"),
    functional.silu,
    lambda x: x * torch.sigmoid(x),
    lambda x: x.sigmoid().mul_(x.clone()),
    functional.mish,
    torch.sigmoid,
    functional.logsigmoid,
    functional.hardsigmoid,
    torch.tanh,
    functional.hardtanh,
    functional.hardswish,
    functional.softplus,
    functional.softsign,
    functional.tanhshrink,
    functional.hardshrink,
    functional.softshrink,
    lambda x: functional.threshold(x, 0.1, 0.0),
    functional.dropout,
    lambda x: functional.dropout(x, training=False),
    functional.alpha_dropout,
]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_activation_becomes_the_identity(activation: Callable[[Tensor], Tensor]) -> None:
    linear = linearize(Function(activation), (3,), "drop")
    np.testing.assert_array_equal(checked_jacobian(linear, torch.rand(3))[0], np.eye(3))
    assert [change.became for change in linear.changes] == ["identity"]


def test_maxmin_leaves_its_pairs_unsorted() -> None:
    network = build("lipschitz-mlp", 1, 10, (3, 3)).eval()
    nn.init.normal_(cast(nn.Linear, network.classifier).weight)
    expected = np.eye(9)
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            expected = numbers(layer.weight) @ expected
    np.testing.assert_allclose(jacobian(network, (1, 3, 3)), expected, rtol=1e-10, atol=1e-13)


def test_operations_that_stay() -> None:
    """Against torch's own Jacobian of the network as it is, which is affine already."""
    torch.manual_seed(0)
    parts = (nn.Conv2d(2, 4, 3, stride=2, padding=2, dilation=2, groups=2), nn.AvgPool2d(2, ceil_mode=True))
    bias = torch.randn(4, 1, 1)

    def function(x: Tensor, convolution: nn.Module, pool: nn.Module) -> Tensor:
        x = functional.pad(x, (1, 0, 2, 1), value=3.0)
        x = functional.interpolate(convolution(x), scale_factor=2, mode="bilinear")
        a, b = (pool(x) - bias).chunk(2, dim=1)
        x = torch.stack([2.0 * a, -b / 3.0], dim=1).flatten(1, 2)[:, [3, 0, 1], :, 1:].flip(2)
        x = torch.cat([x, torch.zeros_like(x), torch.ones_like(x)], dim=1)
        return torch.einsum("bchw,cd->bd", x, torch.arange(36.0).reshape(9, 4).to(x.dtype)) + x.sum((1, 2, 3))[:, None]

    module = Function(function, *parts).eval()
    exact = torch.autograd.functional.jacobian(
        lambda x: module.double()(x[None])[0], torch.zeros(2, 8, 8, dtype=torch.float64)
    )
    np.testing.assert_allclose(
        jacobian(module.float(), (2, 8, 8)),
        numbers(exact).reshape(4, -1),
        rtol=1e-6,
        atol=1e-6 * float(exact.abs().max()),
    )


def test_hooks_and_parametrisations_count() -> None:
    torch.manual_seed(0)
    layer = parametrizations.weight_norm(nn.Linear(3, 2), dim=0)
    layer.register_forward_hook(lambda module, inputs, output: 5.0 * output.relu_())
    np.testing.assert_allclose(jacobian(nn.Sequential(layer), (3,)), 5.0 * numbers(layer.weight), rtol=1e-12)


class Swish(torch.autograd.Function):
    """As RobustBench's WideResNets of Gowal et al. have it: the forward pass is a function of torch's own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        raise NotImplementedError


def swish(x: Tensor) -> Tensor:
    return cast(Tensor, Swish.apply(x))  # type: ignore[no-untyped-call]


def test_an_autograd_function_is_looked_into() -> None:
    linear = linearize(Function(lambda x: swish(2.0 * x)), (3,), "drop")
    np.testing.assert_array_equal(checked_jacobian(linear, torch.rand(3))[0], 2.0 * np.eye(3))
    assert [(change.operation, change.became) for change in linear.changes] == [("scale", "kept"), ("silu", "identity")]
    with pytest.raises(NotLinearizable, match=r"^relu_ at .* writes in place"):
        linearize(Function(lambda x: swish(x).relu_()), (3,), "drop")


def test_silu_written_out_twice_over_one_sigmoid() -> None:
    def twice(x: Tensor) -> Tensor:
        sigmoid = torch.sigmoid(x)
        return x * sigmoid + 2.0 * (sigmoid * x)

    linear = linearize(Function(twice), (2,), "drop")
    np.testing.assert_array_equal(checked_jacobian(linear, torch.rand(2))[0], 3.0 * np.eye(2))
    assert [change.operation for change in linear.changes] == ["silu", "silu", "scale", "sum"]


def test_a_detached_value_counts() -> None:
    np.testing.assert_array_equal(jacobian(Function(lambda x: x.detach() + x), (2,)), 2.0 * np.eye(2))


def test_an_affine_network_stays_what_it_is() -> None:
    """With batch norm folded in, shifts included: also for other numbers of images than it was recorded with."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 3, 3), random_batch_norm(3), nn.Flatten(), nn.Linear(12, 4)).eval()
    x = torch.rand(5, 1, 4, 4)
    linear = linearize(network, (1, 4, 4), "fold").module
    for n in (1, 2, 5):
        torch.testing.assert_close(linear(x[:n].double()).float(), network(x[:n]), rtol=1e-5, atol=1e-6)


def test_the_model_is_left_as_it_is() -> None:
    network = Mixed().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    linearize(network, (2, 6, 5), "drop")
    assert network.training
    assert network.first._forward_hooks == network.first._forward_pre_hooks == {}
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("architecture", ["lipschitz-mlp", "small-resnet", "resnet18-w8", "vgg11"])
def test_the_zoos_architectures(architecture: str) -> None:
    network = build(architecture, 3, 10, (32, 32)).eval()
    drop, fold = (linearize(network, (3, 32, 32), bn) for bn in ("drop", "fold"))
    for linear, became in ((drop, "removed"), (fold, "scale")):
        norms = [change for change in linear.changes if change.operation == "batch norm"]
        assert len(norms) == sum(isinstance(part, nn.BatchNorm2d) for part in network.modules())
        assert {change.became for change in norms} <= {became}
        assert not [change for change in linear.changes if change.operation == "relu" and change.became != "identity"]
    layer = cast(nn.Linear, getattr(network, "classifier", getattr(network, "fc", None)))
    assert drop.last_layer is not None
    assert torch.equal(drop.last_layer, layer.weight.double())


def by_exchanging_modules(network: nn.Module, bn: BatchNorm) -> nn.Module:
    """The linear part of a network whose activations, pools and batch norms are all modules."""
    exchanged = copy.deepcopy(network).double().eval()
    for parent in list(exchanged.modules()):
        for name, part in parent.named_children():
            if isinstance(part, nn.MaxPool2d):
                setattr(parent, name, nn.AvgPool2d(part.kernel_size, part.stride, part.padding))
            elif isinstance(part, nn.ReLU) or (bn == "drop" and isinstance(part, nn.BatchNorm2d)):
                setattr(parent, name, nn.Identity())
    return exchanged


@pytest.mark.parametrize("bn", ["drop", "fold"])
@pytest.mark.parametrize("architecture", ["small-resnet", "resnet18-w8", "vgg11"])
def test_modules_exchanged_by_hand_give_the_same_map(
    architecture: str, bn: BatchNorm, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network = build(architecture, 2, 5, (24, 24)).eval()
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.load_state_dict(random_batch_norm(part.num_features).state_dict())
    linear = linearize(network, (2, 24, 24), bn).module
    monkeypatch.setattr("model_zoo.architectures.small_resnet.functional.relu", lambda x: x)
    x = torch.randn(3, 2, 24, 24, dtype=torch.float64)
    with torch.no_grad():
        expected = by_exchanging_modules(network, bn)(x)
        torch.testing.assert_close(linear(x), expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


def test_efficientnet_is_refused_for_its_gates() -> None:
    with pytest.raises(NotLinearizable, match=r"^mul of two values .*a gate.* at layers\.1\.0\.block\.1 "):
        linearize(build("efficientnet-b0", 3, 10, (32, 32)), (3, 32, 32), "drop")


def test_batch_norm_folded_earlier_cannot_be_dropped() -> None:
    network = SmallResNet().eval()
    unfolded = jacobian(network, (1, 28, 28), "fold")
    network.fold_batch_norm()
    np.testing.assert_allclose(jacobian(network, (1, 28, 28), "fold"), unfolded, rtol=1e-3, atol=1e-5)
    with pytest.raises(NotLinearizable, match=r"batch norm of SmallResNet is folded .* load the model unfolded"):
        linearize(network, (1, 28, 28), "drop")
