"""The bound is never below what a network does: dense matrices, Jacobians and difference quotients tell the truth."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from attacks.lipschitz import Unbounded, lipschitz_bound
from attacks.spectral import convolution_norm, lattice_norm, matrix_norm
from model_zoo.adapter import FeatureExtractor
from model_zoo.architectures.small_resnet import SmallResNet
from model_zoo.registry import load


class Function(nn.Module):
    """A forward of its own."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def steepest(module: nn.Module, shape: tuple[int, ...], points: int = 4, rounds: int = 6) -> float:
    """The largest norm of the Jacobian found: from random points along its leading direction, towards more."""
    module = module.double().eval()
    generator = torch.Generator().manual_seed(7)

    def function(x: Tensor) -> Tensor:
        out: Tensor = module(x.reshape(1, *shape))
        return out.flatten()

    largest = 0.0
    for start in range(points):
        x = torch.randn(math.prod(shape), generator=generator, dtype=torch.float64) * (0.3, 1.0, 3.0)[start % 3]
        for _ in range(rounds):
            jacobian = torch.autograd.functional.jacobian(function, x, vectorize=True)
            _, values, right = torch.linalg.svd(jacobian, full_matrices=False)
            largest = max(largest, float(values[0]))
            z = x + 0.5 * right[0]
            quotient = float((function(z) - function(x)).detach().norm() / (z - x).norm())
            largest, x = max(largest, quotient), z.detach()
    return largest


def dense_norm(convolution: nn.Conv2d, size: tuple[int, int]) -> float:
    """The largest singular value of the matrix that a convolution is, by SVD."""
    count = convolution.in_channels * math.prod(size)
    basis = torch.eye(count, dtype=torch.float64).reshape(count, -1, *size)
    with torch.no_grad():
        columns = functional.conv2d(basis, convolution.weight.double(), None, convolution.stride, convolution.padding)
    return float(torch.linalg.matrix_norm(columns.flatten(1), ord=2))


def convolution(inputs: int, outputs: int, kernel: int, stride: int, padding: int) -> nn.Conv2d:
    torch.manual_seed(inputs + 10 * outputs + 100 * kernel + 1000 * stride + padding)
    return nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding)


@pytest.mark.parametrize("size", [(7, 5), (8, 6)])
@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
def test_a_convolutions_bound_is_not_below_its_matrix(
    kernel: int, stride: int, padding: int, size: tuple[int, int]
) -> None:
    layer = convolution(2, 3, kernel, stride, padding)
    true = dense_norm(layer, size)
    assert lattice_norm(layer.weight.detach(), (stride, stride)) >= true
    small = convolution_norm(layer.weight.detach(), (stride, stride), (padding, padding), size)
    assert true <= small <= true * (1 + 1e-5)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 2), (5, 3), (4, 2), (1, 2)])
def test_on_a_large_image_the_lattice_is_hardly_above_the_matrix(kernel: int, stride: int) -> None:
    layer = convolution(1, 2, kernel, stride, kernel // 2)
    true = dense_norm(layer, (24, 24))
    assert true <= lattice_norm(layer.weight.detach(), (stride, stride)) <= 1.1 * true


@pytest.mark.parametrize(("channels", "points"), [(2, 32), (70, 16), (140, 8)])
def test_a_peak_midway_between_the_frequencies_of_the_grid_is_bounded(channels: int, points: int) -> None:
    """Rotations by a tap's place: the symbol's largest singular value is 9, at the frequency of the rotation."""
    weight, middle = torch.zeros(channels, channels, 3, 3), math.pi / points
    for a in range(3):
        for b in range(3):
            c, s = math.cos(middle * (a + b)), math.sin(middle * (a + b))
            weight[:2, :2, a, b] = torch.tensor([[c, -s], [s, c]])
    assert 9.0 <= lattice_norm(weight) <= 9.0 * 1.2


def test_rectangular_strides_and_kernels() -> None:
    torch.manual_seed(3)
    layer = nn.Conv2d(2, 4, (5, 2), stride=(3, 1), padding=(2, 0))
    true = dense_norm(layer, (9, 6))
    assert true <= lattice_norm(layer.weight.detach(), (3, 1))
    assert true <= lipschitz_bound(layer, (2, 9, 6)) <= true * (1 + 1e-5)


@pytest.mark.parametrize("shape", [(3, 8), (8, 3), (1, 4)])
def test_a_matrix_norm_is_its_largest_singular_value(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    true = float(torch.linalg.matrix_norm(matrix.double(), ord=2))
    assert true < matrix_norm(matrix) <= true * (1 + 2e-6)


def sort_pairs(x: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=1)
    return torch.cat([torch.maximum(a, b), torch.minimum(a, b)], dim=1)


def other_pairs(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    del d
    return torch.cat([torch.maximum(a, b), torch.minimum(a, c)], dim=1)


def group_sort(x: Tensor) -> Tensor:
    return x.view(x.shape[0], x.shape[1] // 2, 2, *x.shape[2:]).sort(dim=2).values.flatten(1, 2)


def repeated_in_place(x: Tensor) -> Tensor:
    """In-place operations on a tensor with two names: both change."""
    y = x * 2.0
    z = y
    y += x
    functional.relu_(y)
    return y + z


def changed_between(x: Tensor) -> Tensor:
    """A maximum and a minimum of the same names, but not of the same values."""
    a, b = (part.clone() for part in x.chunk(2, dim=1))
    larger = torch.maximum(a, b)
    a.relu_()
    return torch.cat([larger, torch.minimum(a, b)], dim=1)


FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "relu": (functional.relu, 1.0),
    "leaky relu": (lambda x: functional.leaky_relu(x, 0.2), 1.0),
    "steep leaky relu": (lambda x: functional.leaky_relu(x, -3.0), 3.0),
    "tanh": (torch.tanh, 1.0),
    "relu6": (functional.relu6, 1.0),
    "clamp": (lambda x: x.clamp(-0.5, 0.5), 1.0),
    "normalise": (lambda x: (x - torch.tensor([0.1, 0.2, 0.3, 0.4]).view(-1, 1, 1)) / 0.25, 4.0),
    "channel scale": (lambda x: x * torch.tensor([1.0, -5.0, 2.0, 0.0]).view(1, -1, 1, 1), 5.0),
    "from a constant": (lambda x: 1.0 - 2.0 * x, 2.0),
    "branches": (lambda x: x + functional.relu(x) * 2 - x, 4.0),
    "alpha": (lambda x: torch.add(x, x, alpha=-3), 4.0),
    "max pool": (lambda x: functional.max_pool2d(x, 2), 1.0),
    "overlapping max pool": (lambda x: functional.max_pool2d(x, 3, 2, 1), 2.0),
    "max pool at stride 1": (lambda x: functional.max_pool2d(x, 3, 1), 3.0),
    "average pool": (lambda x: functional.avg_pool2d(x, 3), 1 / 3),
    "overlapping average pool": (lambda x: functional.avg_pool2d(x, 3, 2, 1), 2 / 3),
    "adaptive average pool": (lambda x: functional.adaptive_avg_pool2d(x, 3), 0.5),
    "uneven adaptive average pool": (lambda x: functional.adaptive_avg_pool2d(x, 4), 0.75),
    "global average pool": (lambda x: functional.adaptive_avg_pool2d(x, 1), 1 / 6),
    "mean": (lambda x: x.mean(dim=(2, 3)), 1 / 6),
    "sum": (lambda x: x.sum(dim=1), 2.0),
    "amax": (lambda x: x.amax(dim=(2, 3)), 1.0),
    "broadcast mean": (lambda x: x + x.mean(dim=(2, 3), keepdim=True), 2.0),
    "flatten": (lambda x: x.flatten(1), 1.0),
    "view": (lambda x: x.view(x.size(0), -1), 1.0),
    "permute": (lambda x: x.permute(0, 2, 3, 1), 1.0),
    "expand": (lambda x: x[:, :1].expand(-1, 4, -1, -1), 2.0),
    "slice": (lambda x: x[:, 1:3, ::2], 1.0),
    "pad": (lambda x: functional.pad(x, (1, 2, 0, 1), value=0.5), 1.0),
    "repeated channels": (lambda x: torch.cat([x, 2 * x], dim=1), math.sqrt(5)),
    "split and joined": (lambda x: torch.cat(x.split(1, dim=1)[::-1], dim=1), 1.0),
    "one part twice": (lambda x: torch.cat([x.chunk(2, dim=1)[0]] * 2, dim=1), math.sqrt(2)),
    "maximum of parts": (lambda x: torch.maximum(*x.chunk(2, dim=1)), 1.0),
    "maximum of branches": (lambda x: torch.maximum(3 * x, 4 * x), 5.0),
    "maximum and a constant": (lambda x: torch.maximum(x, torch.zeros(4, 1, 1)), 1.0),
    "sort pairs": (sort_pairs, 1.0),
    "two pairs": (
        lambda x: torch.cat([torch.maximum(x[:, :1], x[:, 1:2]), torch.minimum(x[:, :1], x[:, 2:3])], 1),
        2.0,
    ),
    "two pairs of parts": (lambda x: other_pairs(*x.split(1, dim=1)), math.sqrt(2)),
    "group sort": (group_sort, 1.0),
    "maximum twice": (lambda x: torch.cat([torch.maximum(*x.chunk(2, 1))] * 2, dim=1), math.sqrt(2)),
    "in place": (repeated_in_place, 6.0),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_rule_is_a_bound_and_the_one_derived_for_it(name: str) -> None:
    function, expected = FUNCTIONS[name]
    bound = lipschitz_bound(Function(function), (4, 6, 6))
    assert bound == pytest.approx(expected, rel=2e-5)
    assert bound * (1 + 1e-12) >= steepest(Function(function), (4, 6, 6), points=2, rounds=2)


def test_a_pair_changed_in_place_between_its_maximum_and_minimum_is_no_pair() -> None:
    x, z = (torch.tensor([[-1.0, b]], dtype=torch.float64) for b in (-0.5, -0.4))
    quotient = float((changed_between(x) - changed_between(z)).norm() / (x - z).norm())
    assert quotient == pytest.approx(math.sqrt(2))
    assert lipschitz_bound(Function(changed_between), (2,)) >= quotient


@pytest.mark.parametrize(
    "name", ["average pool", "adaptive average pool", "mean", "sum", "expand", "steep leaky relu", "broadcast mean"]
)
def test_where_the_rule_is_exact_the_bound_is_attained(name: str) -> None:
    function, expected = FUNCTIONS[name]
    assert steepest(Function(function), (4, 6, 6), points=2, rounds=1) == pytest.approx(expected, rel=1e-5)


class Mixed(nn.Module):
    """Many of the rules in one network, with random weights and statistics."""

    def __init__(self, seed: int, stride: int, kernel: int, padding: int):
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Conv2d(2, 4, kernel, stride=stride, padding=padding)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.pool = nn.MaxPool2d(2)
        self.drop = nn.Dropout(0.5)
        side = ((9 + 2 * padding - kernel) // stride + 1) // 2
        self.last = parametrizations.weight_norm(nn.Linear(4 * side * side, 5))
        with torch.no_grad():
            self.norm.running_var.uniform_(0.2, 3.0)  # type: ignore[union-attr]
            self.norm.running_mean.normal_()  # type: ignore[union-attr]
            self.norm.weight.normal_()

    def forward(self, x: Tensor) -> Tensor:
        x = sort_pairs(self.norm(self.first((x - 0.3) / 0.5)))
        x = x + functional.relu(self.second(x), inplace=True)
        out: Tensor = self.last(self.drop(self.pool(x)).flatten(1))
        return out


@pytest.mark.parametrize(
    ("seed", "stride", "kernel", "padding"), [(0, 1, 3, 1), (1, 2, 3, 0), (2, 3, 5, 2), (3, 1, 1, 0), (4, 2, 5, 1)]
)
def test_no_jacobian_of_a_random_network_exceeds_its_bound(seed: int, stride: int, kernel: int, padding: int) -> None:
    network = Mixed(seed, stride, kernel, padding).eval()
    assert lipschitz_bound(network, (2, 9, 9)) >= steepest(network, (2, 9, 9), points=3, rounds=4)


def test_a_linear_network_attains_its_bound() -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Flatten(), nn.Linear(12, 7))
    assert lipschitz_bound(layer, (3, 2, 2)) == pytest.approx(steepest(layer, (3, 2, 2), rounds=1), rel=1e-5)


def test_hooks_and_parametrisations_are_seen() -> None:
    """They change the function, wherever they are kept."""
    torch.manual_seed(0)
    layer = parametrizations.orthogonal(nn.Linear(4, 4)).eval()
    assert lipschitz_bound(layer, (4,)) == pytest.approx(1.0, rel=1e-5)
    layer.register_forward_hook(lambda module, inputs, output: 3.0 * output)
    layer.register_forward_pre_hook(lambda module, inputs: (2.0 * inputs[0],))
    assert lipschitz_bound(layer, (4,)) == pytest.approx(6.0, rel=1e-5)


def test_the_module_is_left_as_it_was() -> None:
    layer = nn.BatchNorm1d(3).double()
    layer.eval()
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    lipschitz_bound(layer, (3,))
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())
    assert layer.weight.requires_grad


@pytest.mark.parametrize("fold", [True, False])
def test_the_small_residual_network(fold: bool) -> None:
    torch.manual_seed(1)
    network = SmallResNet(widths=(4, 8, 16))
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    network.eval()
    if fold:
        network.fold_batch_norm()
    backbone = FeatureExtractor(network, [0.3], [0.4]).eval()
    assert lipschitz_bound(backbone, (1, 28, 28)) >= steepest(backbone, (1, 28, 28), points=1, rounds=3)


def test_a_shipped_model() -> None:
    backbone = load("clustr", "cpu").model.backbone
    assert isinstance(backbone, nn.Module)
    bound = lipschitz_bound(backbone, (1, 28, 28))
    assert math.inf > bound >= steepest(backbone, (1, 28, 28), points=1, rounds=3)


def test_a_constant_network_has_the_constant_0() -> None:
    assert lipschitz_bound(Function(lambda x: 0.0 * x), (3,)) == 0.0


class Counting(nn.Module):
    """Computes something else at each call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = [0]

    def __deepcopy__(self, memo: object) -> "Counting":
        return self

    def forward(self, x: Tensor) -> Tensor:
        self.calls[0] += 1
        return x * float(self.calls[0])


REFUSED: dict[str, tuple[nn.Module, str]] = {
    "softmax": (nn.Softmax(dim=1), "softmax"),
    "gelu": (nn.GELU(), "gelu"),
    "layer norm": (nn.LayerNorm(8), "native_layer_norm"),
    "attention": (nn.TransformerEncoderLayer(8, 2).eval(), "rule|recorded|mixes|several|whole"),
    "batch norm in training mode": (nn.BatchNorm2d(4), "BatchNorm2d is in training mode"),
    "batch norm without statistics": (nn.BatchNorm2d(4, track_running_stats=False).eval(), "in training mode"),
    "dropout in training mode": (nn.Dropout(), "Dropout is in training mode"),
    "functional dropout": (Function(lambda x: functional.dropout(x, 0.5)), "dropout|another|bernoulli"),
    "groups": (nn.Conv2d(4, 4, 3, groups=2), "convolution but in two dimensions without groups"),
    "dilation": (nn.Conv2d(4, 4, 3, dilation=2), "dilation"),
    "transposed convolution": (nn.ConvTranspose2d(4, 4, 3), "transposition"),
    "product of branches": (Function(lambda x: x * x.relu()), "mul of two values that depend on the input"),
    "quotient of branches": (Function(lambda x: x / (1 + x.abs())), "div of two values that depend on the input"),
    "division of a constant": (Function(lambda x: 1 / (x + 2)), "reciprocal"),
    "division by zero": (Function(lambda x: x / 0.0), "the Lipschitz constant of div is inf"),
    "square": (Function(lambda x: x**2), "pow"),
    "normalisation": (Function(lambda x: functional.normalize(x.flatten(1))), "rule"),
    "integers": (Function(lambda x: x.sum(dim=1, dtype=torch.int64)), "sum with dtype|to_copy"),
    "rounding": (Function(torch.round), "round"),
    "comparison": (Function(lambda x: (x > 0).float()), "gt"),
    "places": (Function(lambda x: x.sort(dim=1).indices), "second result of sort"),
    "advanced indexing": (Function(lambda x: x[:, [0, 0, 1]]), "index"),
    "control flow": (Function(lambda x: x if x.sum() > 0 else 100 * x), "cannot be recorded"),
    "nonzero": (
        Function(lambda x: x if len(x.nonzero()) else 100 * x),
        "the size of what nonzero gives depends on pixels",
    ),
    "a mask": (
        Function(lambda x: x if len(x[x < 0]) == 0 else 100 * x),
        "the size of what index gives depends on pixels",
    ),
    "unique": (Function(lambda x: x if len(torch.unique(x)) > 3 else 100 * x), "gives depends on pixels"),
    "noise": (Function(lambda x: x + torch.randn(8)), "randn gives another value at every call"),
    "random factor": (Counting(), "at another call or batch size"),
    "batch size as a factor": (Function(lambda x: x / len(x)), "at another call or batch size"),
    "batch size in a tensor": (Function(lambda x: x * torch.tensor(1.0 / len(x))), "another call or batch size"),
    "mean over the batch": (Function(lambda x: x - x.mean(dim=0)), "mean mixes the samples"),
    "mean over everything": (Function(lambda x: x - x.mean()), "mean"),
    "transposed samples": (Function(lambda x: x.transpose(0, 1)), "mixes the samples|another call"),
    "flattened samples": (Function(lambda x: x.flatten()), "view mixes the samples"),
    "sorted samples": (Function(lambda x: x.sort(dim=0).values), "sort mixes the samples"),
    "joined samples": (Function(lambda x: torch.cat([x, x], dim=0)), "cat mixes the samples"),
    "one sample": (Function(lambda x: x[0]), "select mixes the samples"),
    "samples from one": (Function(lambda x: x[:1].expand(len(x), -1, -1, -1)), "mixes|another call"),
    "padded average": (nn.AvgPool2d(3, padding=1, count_include_pad=False), "different counts"),
    "ceiled average": (nn.AvgPool2d(3, ceil_mode=True), "different counts"),
    "dilated maximum": (nn.MaxPool2d(2, dilation=2), "dilation"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_proven_rule_is_refused_by_name(name: str) -> None:
    module, message = REFUSED[name]
    shape = (4, 8) if name == "attention" else (4, 8, 8)
    with pytest.raises(Unbounded, match=message) as caught:
        lipschitz_bound(module, shape)
    assert "\n" not in str(caught.value)


def test_two_results_are_refused() -> None:
    with pytest.raises(Unbounded, match="returns a tuple"):
        lipschitz_bound(Function(lambda x: (x, x)), (3,))  # type: ignore[arg-type, return-value]
