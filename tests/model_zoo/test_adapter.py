"""The interface every classifier is put behind."""

import pytest
import torch
from torch import nn

from attacks.contract import LinearHeadClassifier
from model_zoo.adapter import FeatureExtractor, LogitsModel, Normalise, channels_last, judged_by
from model_zoo.architectures import build
from tests.model_zoo.builders import images, tiny_network


def test_normalisation_is_per_channel() -> None:
    x = torch.tensor([0.5, 1.0]).reshape(1, 2, 1, 1)
    assert Normalise([0.25, 0.5], [0.5, 0.25])(x).flatten().tolist() == [0.5, 2.0]


@pytest.mark.parametrize(
    ("mean", "std"), [([0.1], [0.0]), ([0.1], [-1.0]), ([0.1, 0.2], [1.0]), ([0.1], [float("nan")])]
)
def test_a_normalisation_that_cannot_be_is_refused(mean: list[float], std: list[float]) -> None:
    with pytest.raises(ValueError, match="mean and std need one positive std a channel"):
        Normalise(mean, std)


def test_logits_are_the_networks_on_normalised_images() -> None:
    network, x = build("small-resnet", 1, 3), images(4)
    model = LogitsModel(network, [0.3], [0.4])
    assert torch.equal(model(x), network((x - torch.tensor(0.3)) / torch.tensor(0.4)))
    assert torch.equal(network.classifier(model.features(x)), model(x))  # type: ignore[operator]
    extractor = FeatureExtractor(network, [0.3], [0.4]).eval()
    assert torch.equal(extractor(x), model.features(x))


@pytest.mark.parametrize("architecture", ["small-resnet", "resnet18-w8", "vgg11", "lipschitz-mlp"])
def test_a_verifier_may_read_backbone_and_last_layer(architecture: str) -> None:
    x = torch.rand(4, 1, 28, 28)
    network = build(architecture, 1, 3)
    model = LogitsModel(network, [0.3], [0.4])
    weights = list(model.state_dict())
    assert isinstance(model, LinearHeadClassifier)
    assert model.last_layer is not None
    assert torch.equal(model.last_layer(model.backbone(x)), model(x))
    assert not any(part.training for part in model.backbone.modules())
    assert list(model.state_dict()) == weights
    with torch.no_grad():
        next(network.parameters()).mul_(2.0)
    assert torch.equal(model.last_layer(model.backbone(x)), model(x))


def test_a_network_of_another_build_has_no_last_layer() -> None:
    assert LogitsModel(nn.Sequential(nn.Flatten(), nn.Linear(4, 2))).last_layer is None
    network = build("small-resnet", 1, 3)
    network.classifier = nn.Sequential(nn.Linear(64, 3))
    assert LogitsModel(network).last_layer is None


def test_a_prediction_does_not_depend_on_the_neighbours_because_the_model_is_in_eval_mode() -> None:
    network = build("small-resnet", 1, 3).train()
    model, x = LogitsModel(network), images(4)
    assert not any(part.training for part in model.modules())
    torch.testing.assert_close(model(x)[:1], model(x[:1]), rtol=1e-4, atol=1e-5)


def test_channels_last_changes_the_layout_and_not_the_weights() -> None:
    model = tiny_network()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    moved = channels_last(model)
    assert all(torch.equal(v, before[k]) for k, v in moved.state_dict().items())
    convolutions = [part for part in moved.modules() if isinstance(part, nn.Conv2d)]
    assert all(c.weight.is_contiguous(memory_format=torch.channels_last) for c in convolutions)


def test_a_model_with_one_head_judges_itself() -> None:
    model = tiny_network()
    assert judged_by(model) is model


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 28, 32])
def test_the_small_resnet_takes_the_images_it_is_meant_for(channels: int, size: int) -> None:
    network = build("small-resnet", channels, 7).eval()
    assert network(torch.zeros(2, channels, size, size)).shape == (2, 7)
    assert network.features(torch.zeros(2, channels, size, size)).shape == (2, 64)  # type: ignore[operator]


def test_the_small_resnet_has_as_many_weights_as_it_says() -> None:
    assert sum(p.numel() for p in build("small-resnet", 1, 10).parameters()) == 78_010


def test_an_unknown_architecture_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown architecture 'resnet9000'; known: lipschitz-mlp, small-resnet"):
        build("resnet9000", 1, 10)
