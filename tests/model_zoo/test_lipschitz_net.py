"""The 1-Lipschitz network: its activation, its export, its constant."""

import subprocess
import sys
from collections.abc import Callable, Sequence

import pytest
import torch
from deel.torchlip import SpectralLinear
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from model_zoo.architectures import build
from model_zoo.architectures.lipschitz_net import LipschitzMLP, MaxMin, exported, orthonormal
from tests.model_zoo.builders import images

WIDTHS = (24, 40, 12)
"""Narrower than the 64 inputs, wider than its own inputs, narrower again."""


def trained(widths: Sequence[int] = WIDTHS, steps: int = 20) -> LipschitzMLP:
    """A network under the constraint after some steps of Adam, far from its start."""
    torch.manual_seed(3)
    network = orthonormal(64, 3, widths)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    network.train()
    for step in range(steps):
        features = network.features(images(32, seed=step))
        loss = (features[:16] - features[16:]).square().sum(dim=1).cos().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval()


def test_maxmin_puts_the_larger_of_each_pair_first() -> None:
    x = torch.tensor([[1.0, 5.0, -2.0, 3.0, 4.0, -7.0]])
    assert MaxMin()(x).tolist() == [[3.0, 5.0, -2.0, 1.0, 4.0, -7.0]]
    maps = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    pairs = MaxMin()(maps)
    assert torch.equal(pairs[:, :2], maps.unflatten(1, (2, 2)).amax(dim=1))
    assert torch.equal(pairs[:, 2:], maps.unflatten(1, (2, 2)).amin(dim=1))


@given(st.lists(st.floats(-10, 10), min_size=8, max_size=8))
def test_maxmin_is_1_lipschitz_and_keeps_lengths(values: list[float]) -> None:
    a, b = torch.tensor(values, dtype=torch.float64).reshape(2, 4)
    out_a, out_b = MaxMin()(torch.stack([a, b]))
    assert float((out_a - out_b).norm()) <= float((a - b).norm()) * (1 + 1e-12)
    assert float(out_a.norm()) == pytest.approx(float(a.norm()))


def test_the_exported_network_is_plain_and_computes_the_same() -> None:
    network, x = trained(), images(50)
    plain = exported(network)
    assert torch.equal(plain.features(x), network.features(x))
    assert torch.equal(plain(x), network(x))
    assert {type(part) for part in plain.modules()} == {LipschitzMLP, nn.Sequential, nn.Flatten, nn.Linear, MaxMin}
    assert all(layer.weight.is_leaf for layer in plain.modules() if isinstance(layer, nn.Linear))
    expected = {f"layers.{i}.{kind}" for i in (1, 3, 5) for kind in ("weight", "bias")}
    assert set(plain.state_dict()) == expected | {"classifier.weight", "classifier.bias"}


def test_an_export_is_a_copy() -> None:
    network, x = trained(), images(5)
    plain = exported(network)
    before = plain.features(x)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)
    network.train()
    network.features(x)
    assert torch.equal(plain.features(x), before)


def test_every_matrix_is_orthonormal_after_training() -> None:
    """Bjorck's iteration pulls all singular values to 1; the spectral norm alone would bound the largest only."""
    linear = [part for part in exported(trained()).layers if isinstance(part, nn.Linear)]
    assert len(linear) == len(WIDTHS)
    for layer in linear:
        values = torch.linalg.svdvals(layer.weight.detach().double())
        assert float(values.max()) <= 1 + 1e-4
        assert float(values.min()) >= 1 - 1e-2


def steepest(features: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """The largest difference quotient found: far pairs, near pairs, and near pairs along the steepest direction."""
    jacobian = torch.func.vmap(torch.func.jacrev(lambda image: features(image[None])[0]))(x).flatten(2)
    steep = torch.linalg.svd(jacobian.detach(), full_matrices=False).Vh[:, 0].reshape(x.shape)
    found = 0.0
    for z in (x.flip(0), x + 1e-3 * torch.randn_like(x), x + 1e-4 * steep, x - 1e-2 * steep):
        lengths = (features(x) - features(z)).norm(dim=1) / (x - z).flatten(1).norm(dim=1)
        found = max(found, float(lengths.detach().max()))
    return found


def test_features_move_no_further_than_their_images_and_sometimes_as_far() -> None:
    plain = exported(trained()).double()
    bound = 1.0
    for layer in plain.layers:
        if isinstance(layer, nn.Linear):
            bound *= float(torch.linalg.matrix_norm(layer.weight.detach(), 2))
    quotient = steepest(plain.features, images(40).double())
    assert quotient <= bound * (1 + 1e-9)
    assert bound == pytest.approx(1.0, abs=1e-3)
    assert quotient > 0.9, "orthonormal matrices and MaxMin lose no length where no layer is narrower than the features"


def test_the_constraint_is_what_bounds_it() -> None:
    """The same steps without it: the test above would fail."""
    torch.manual_seed(3)
    network = LipschitzMLP(64, 3, WIDTHS)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3.0)
    assert steepest(network.double().features, images(40).double()) > 1.1


def test_a_state_dict_brings_its_own_shape() -> None:
    source = exported(trained((10, 6)))
    target = build("lipschitz-mlp", 1, 3)
    target.load_state_dict(source.state_dict())
    assert isinstance(target, LipschitzMLP)
    assert (target.shape, target.feature_dim) == ((64, 10, 6), 6)
    x = images(7)
    assert torch.equal(target.features(x), source.features(x))
    inside = nn.ModuleDict({"network": build("lipschitz-mlp", 1, 3)})
    inside.load_state_dict({f"network.{name}": value for name, value in source.state_dict().items()})
    assert torch.equal(inside["network"](x), source(x))


def test_a_network_under_the_constraint_loads_its_own_checkpoint() -> None:
    source, x = trained(), images(7)
    torch.manual_seed(4)
    target = orthonormal(64, 3, WIDTHS)
    target.load_state_dict(source.state_dict())
    assert all(isinstance(layer, SpectralLinear) for layer in list(target.layers)[1::2])
    assert torch.equal(target.eval().features(x), source.features(x))


@pytest.mark.parametrize("spoil", ["another class count", "no last layer", "layers that do not fit"])
def test_weights_that_do_not_fit_are_refused(spoil: str) -> None:
    state = dict(exported(trained((10, 6))).state_dict())
    if spoil == "another class count":
        state["classifier.weight"] = torch.zeros(5, 6)
    elif spoil == "no last layer":
        del state["layers.3.weight"]
    else:
        state["layers.3.weight"] = torch.zeros(6, 11)
    with pytest.raises(RuntimeError):
        build("lipschitz-mlp", 1, 3).load_state_dict(state)


@pytest.mark.parametrize("widths", [(), (7, 4)])
def test_widths_without_pairs_are_refused(widths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="widths must name the features, and before them even numbers"):
        LipschitzMLP(64, 3, widths)


def test_a_fresh_network_has_features_and_logits() -> None:
    network = build("lipschitz-mlp", 1, 7)
    x = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert isinstance(network, LipschitzMLP)
    assert network.features(x).shape == (2, network.feature_dim)
    assert network(x).shape == (2, 7)


def test_the_zoo_is_used_without_torchlip() -> None:
    code = (
        "import sys; from model_zoo.architectures import build; from model_zoo.registry import load; "
        "build('lipschitz-mlp', 1, 3); load('clustr-1lip'); assert not any(m.startswith('deel') for m in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
