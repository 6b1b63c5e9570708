"""Networks by name: torchvision's for the one that is made of it, float32 for the folded and the bfloat16 ones."""

from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from benchmark.cheap_copy import in_bfloat16
from model_zoo.adapter import FeatureExtractor, LogitsModel, fold_batch_norm
from model_zoo.architectures import ARCHITECTURES, build
from model_zoo.architectures.efficientnet import EfficientNetB0
from model_zoo.architectures.lipschitz_net import exported, orthonormal
from model_zoo.architectures.resnet18 import ResNet18
from model_zoo.architectures.vgg11 import VGG11
from model_zoo.errors import ModelError
from model_zoo.magnet import MagnetClassifier
from model_zoo.registry import load
from model_zoo.weights import save_model
from tests.model_zoo.builders import CARD


def noise(n: int, channels: int, size: int) -> Tensor:
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def resnet18() -> ResNet18:
    """With batch statistics that are not the initial ones."""
    torch.manual_seed(0)
    network = ResNet18(3, 7)
    with torch.no_grad():
        network(noise(16, 3, 16))
    network.eval()
    return network


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 32)])
def test_every_network_has_features_and_logits_for_any_channels_and_size(name: str, channels: int, size: int) -> None:
    network = build(name, channels, 7, (size, size)).eval()
    x = noise(2, channels, size)
    assert network(x).shape == (2, 7)
    assert network.features(x).shape == (2, network.feature_dim)  # type: ignore[operator]


def test_resnet18_is_torchvisions_with_the_stem_of_small_images(resnet18: ResNet18) -> None:
    reference = torchvision.models.resnet18(num_classes=7)
    reference.conv1 = nn.Conv2d(3, 64, 3, stride=1, padding=1, bias=False)
    reference.maxpool = nn.Identity()
    reference.load_state_dict(resnet18.state_dict())
    x = noise(3, 3, 32)
    torch.testing.assert_close(resnet18(x), reference.eval()(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(resnet18.fc(resnet18.features(x)), resnet18(x))
    assert resnet18.feature_dim == 512


def test_resnet18_has_the_weights_of_the_literature() -> None:
    """For CIFAR-10: 11,173,962, as kuangliu/pytorch-cifar and its followers count."""
    assert sum(p.numel() for p in build("resnet18", 3, 10).parameters()) == 11_173_962


@pytest.mark.parametrize(
    ("name", "weights", "features"),
    [("resnet18-w8", 176_258, 64), ("vgg11", 9_229_962, 512), ("efficientnet-b0", 4_019_782, 1280)],
)
def test_a_surrogate_has_the_weights_that_can_be_counted(name: str, weights: int, features: int) -> None:
    """One channel: torchvision's 9,231,114 (a linear last layer) and 4,020,358, less two 3x3 kernels a stem filter."""
    network = build(name, 1, 10)
    assert sum(p.numel() for p in network.parameters()) == weights
    assert network.feature_dim == features


@pytest.mark.parametrize("width", [8, 64])
def test_resnet18_without_batch_norm_is_the_same_function(width: int, resnet18: ResNet18) -> None:
    torch.manual_seed(1)
    if width != 64:
        resnet18 = ResNet18(3, 7, width)
        resnet18(noise(16, 3, 16))
        resnet18.eval()
    folded = ResNet18(3, 7, width).eval()
    folded.load_state_dict(resnet18.state_dict())
    fold_batch_norm(folded)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in folded.modules())
    x = noise(3, 3, 32)
    torch.testing.assert_close(folded(x), resnet18(x), rtol=1e-3, atol=1e-4)


def test_vgg11_frames_a_small_image_with_the_mean() -> None:
    torch.manual_seed(0)
    network = build("vgg11", 1, 7).eval()
    x = noise(2, 1, 28)
    framed = torch.zeros(2, 1, 32, 32)
    framed[:, :, 2:30, 2:30] = x
    assert torch.equal(network(x), network(framed))


@pytest.mark.parametrize("name", ["vgg11", "efficientnet-b0"])
def test_a_surrogate_is_torchvisions_network(name: str) -> None:
    """The same function with the same weights, but for the last layers of VGG-11."""
    torch.manual_seed(0)
    network, x = build(name, 3, 7), noise(4, 3, 32)
    network(x)  # batch statistics that are not the initial ones
    network.eval()
    assert isinstance(network, VGG11 | EfficientNetB0)
    if name == "vgg11":
        reference = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["A"], batch_norm=True)
    else:
        reference = torchvision.models.efficientnet_b0().features
    reference.load_state_dict(network.layers.state_dict())
    features = torch.nn.functional.adaptive_avg_pool2d(reference.eval()(x), 1).flatten(1)
    torch.testing.assert_close(network.features(x), features, rtol=1e-4, atol=1e-5)


def test_resnet18_is_searched_in_a_bfloat16_copy(resnet18: ResNet18) -> None:
    """Its first layer's strided shortcut and in-place operations pass through the stand-ins, gradients included."""
    model = LogitsModel(resnet18, [0.5] * 3, [0.25] * 3).requires_grad_(False)
    x = noise(4, 3, 16).requires_grad_(True)

    def slope(seen: nn.Module) -> Tensor:
        return torch.autograd.grad(seen(x)[:, 0].sum(), x)[0].flatten()

    true, cheap = slope(model), slope(in_bfloat16(model, x[:1].detach()).eval())
    assert float(functional.cosine_similarity(true, cheap, dim=0)) > 0.95


def test_a_clustering_classifier_on_resnet18_is_rebuilt_from_its_file(resnet18: ResNet18, tmp_path: Path) -> None:
    x = noise(4, 3, 16)
    backbone = FeatureExtractor(resnet18, [0.4] * 3, [0.3] * 3).eval()
    with torch.no_grad():
        model = MagnetClassifier(backbone, backbone(x), torch.tensor([0, 1, 2, 0]), 0.7, 3)
    path = tmp_path / "resnet.safetensors"
    card = CARD | {"architecture": "resnet18", "input_shape": (3, 16, 16), "num_classes": 3}
    save_model(path, model, card)
    with pytest.raises(ModelError, match=r"does not fit its card.*fc"):  # its last layer has seven classes
        load(str(path))
    start = ResNet18(3, 3)
    start.load_state_dict({k: v for k, v in resnet18.state_dict().items() if not k.startswith("fc")}, strict=False)
    backbone.network = start.eval()
    save_model(path, model, card)
    torch.testing.assert_close(load(str(path)).model(x), model(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["resnet50", "", "small_resnet"])
def test_an_unknown_network_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(ValueError, match="unknown architecture") as caught:
        build(name, 3, 10)
    assert all(known in str(caught.value) for known in ARCHITECTURES)


def test_matrices_stay_orthonormal_where_training_runs_in_bfloat16() -> None:
    torch.manual_seed(0)
    network = orthonormal(48, 3, (16, 8)).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = network.features(noise(5, 3, 4))
    assert features.dtype == torch.float32
    for layer in exported(network).layers:
        if isinstance(layer, nn.Linear):
            singular = torch.linalg.svdvals(layer.weight.double())
            torch.testing.assert_close(singular, torch.ones_like(singular), rtol=1e-3, atol=1e-3)
