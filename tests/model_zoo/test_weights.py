"""Weight files: what is written comes back, and nothing else is let in."""

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import nn

from model_zoo.adapter import channels_last
from model_zoo.errors import ModelError
from model_zoo.kmeans import KMeansClassifier
from model_zoo.magnet import MagnetClassifier
from model_zoo.weights import card_path, load_model, read_card, save_model
from tests.model_zoo.builders import CARD, images, tiny_kmeans, tiny_learned_map, tiny_magnet, tiny_network

CPU = torch.device("cpu")
NETWORK_CARD = CARD | {"architecture": "small-resnet"}


def fuzzy_magnet() -> MagnetClassifier:
    model = tiny_magnet(nearest=4)
    model.fuzzifier = 1.5
    return model


@pytest.fixture
def kmeans_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    save_model(path, tiny_kmeans(), CARD)
    return path


@pytest.fixture
def network_file(tmp_path: Path) -> Path:
    path = tmp_path / "network.safetensors"
    save_model(path, tiny_network(), NETWORK_CARD)
    return path


@pytest.mark.parametrize(
    "make",
    [tiny_kmeans, tiny_network, tiny_magnet, lambda: tiny_magnet(nearest=4), fuzzy_magnet, tiny_learned_map],
)
def test_a_saved_model_comes_back_with_bit_equal_logits(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    model, x = channels_last(make()), images(30)
    path = tmp_path / "new folder" / "tiny.safetensors"
    written = save_model(path, model, NETWORK_CARD)
    loaded, card = load_model(path, CPU)
    assert torch.equal(loaded(x), model(x))
    assert card == written == read_card(path)
    assert sorted(p.name for p in path.parent.iterdir()) == ["tiny.json", "tiny.safetensors"]
    assert type(loaded) is type(model)


def test_what_the_model_knows_is_written_on_its_card(tmp_path: Path) -> None:
    path = tmp_path / "tiny.safetensors"
    card = save_model(path, tiny_magnet(nearest=4), NETWORK_CARD)
    assert (card.kind, card.clusters, card.variance, card.nearest) == ("magnet", 6, 0.7, 4)
    assert card.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    model, _ = load_model(path, CPU)
    assert isinstance(model, MagnetClassifier)
    assert (model.nearest, model.variance, model.num_classes) == (4, 0.7, 3)
    assert card.fuzzifier is None
    assert save_model(path, fuzzy_magnet(), NETWORK_CARD).fuzzifier == 1.5
    card = save_model(path, tiny_learned_map(), NETWORK_CARD)
    assert (card.kind, card.clusters, card.variance, card.nearest) == ("learned-map", 6, 0.7, None)
    card = save_model(path, tiny_kmeans(), CARD)
    assert (card.kind, card.clusters, card.variance) == ("kmeans", 7, 2.5)
    loaded, _ = load_model(path, CPU)
    assert isinstance(loaded, KMeansClassifier)
    assert loaded.variance == 2.5


def test_a_fuzzifier_that_makes_no_classifier_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tiny.safetensors"
    save_model(path, fuzzy_magnet(), NETWORK_CARD)
    edit_card(path, fuzzifier=1.0)
    expected = "does not fit its card: fuzzifier must be greater than 1 (from 1.001 to 1000), got 1"
    assert refusal(path) == f"weight file {path} {expected}"


def test_a_loaded_model_is_frozen_and_in_eval_mode(network_file: Path) -> None:
    model, _ = load_model(network_file, CPU)
    assert not any(part.training for part in model.modules())
    assert not any(p.requires_grad for p in model.parameters())


def test_a_module_of_another_kind_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="cannot save a Linear"):
        save_model(tmp_path / "x.safetensors", nn.Linear(2, 2), CARD)
    assert list(tmp_path.iterdir()) == []


def refusal(path: Path) -> str:
    """The one line that loading raises, which must name a file."""
    with pytest.raises(ModelError) as caught:
        load_model(path, CPU)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path.with_suffix("")) in message
    return message


def edit_card(path: Path, **changes: object) -> None:
    card = json.loads(card_path(path).read_text())
    card_path(path).write_text(json.dumps(card | changes))


def write_with_matching_checksum(path: Path, payload: bytes) -> None:
    path.write_bytes(payload)
    edit_card(path, sha256=hashlib.sha256(payload).hexdigest())


def test_missing_weights_are_named(kmeans_file: Path) -> None:
    kmeans_file.unlink()
    assert refusal(kmeans_file) == f"weight file {kmeans_file} cannot be read: No such file or directory"


def test_a_missing_card_is_named(kmeans_file: Path) -> None:
    card_path(kmeans_file).unlink()
    message = refusal(kmeans_file)
    assert message == f"model card {card_path(kmeans_file)} is missing (it lies beside the weights)"


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_truncated_file_is_refused(kmeans_file: Path, kept: int) -> None:
    kmeans_file.write_bytes(kmeans_file.read_bytes()[:kept])
    assert f"weight file {kmeans_file} is truncated or not safetensors: " in refusal(kmeans_file)


@pytest.mark.parametrize("payload", [b"\x00" * 64, b"not weights at all", bytes(range(256)) * 8, b"\xff" * 64])
def test_garbage_is_refused(kmeans_file: Path, payload: bytes) -> None:
    write_with_matching_checksum(kmeans_file, payload)
    assert f"weight file {kmeans_file} is truncated or not safetensors: " in refusal(kmeans_file)


def test_one_flipped_bit_is_noticed(kmeans_file: Path) -> None:
    payload = bytearray(kmeans_file.read_bytes())
    expected = read_card(kmeans_file).sha256
    payload[-5] ^= 1
    kmeans_file.write_bytes(bytes(payload))
    actual = hashlib.sha256(bytes(payload)).hexdigest()
    message = refusal(kmeans_file)
    assert message == f"weight file {kmeans_file} has sha256 {actual[:12]}..., its card says {expected[:12]}..."


class Bomb:
    """Leaves a file behind when unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.marker,)


def test_a_pickle_is_refused_and_not_executed(kmeans_file: Path, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    write_with_matching_checksum(kmeans_file, pickle.dumps({"centroids": Bomb(marker)}))
    assert "is truncated or not safetensors" in refusal(kmeans_file)
    assert not marker.exists()


def test_a_torch_checkpoint_is_refused_and_not_executed(kmeans_file: Path, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    torch.save({"centroids": Bomb(marker)}, tmp_path / "checkpoint.pt")
    write_with_matching_checksum(kmeans_file, (tmp_path / "checkpoint.pt").read_bytes())
    assert "is truncated or not safetensors" in refusal(kmeans_file)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_shape": [3, 8, 8]}, "size mismatch"),
        ({"num_classes": 4}, "size mismatch"),
        ({"architecture": "resnet9000"}, "unknown architecture 'resnet9000'"),
        ({"architecture": None}, "unknown architecture ''"),
    ],
)
def test_weights_of_another_shape_than_the_cards_are_refused(
    network_file: Path, changes: dict[str, object], message: str
) -> None:
    edit_card(network_file, **changes)
    refused = refusal(network_file)
    assert refused.startswith(f"weight file {network_file} does not fit its card: ")
    assert message in refused


def test_labels_beyond_the_cards_classes_are_refused(kmeans_file: Path) -> None:
    edit_card(kmeans_file, num_classes=2)
    refused = refusal(kmeans_file)
    assert refused == f"weight file {kmeans_file} does not fit its card: labels must lie in 0..1, got 0..2"


@pytest.mark.usefixtures("unchecked")
def test_tensors_that_do_not_fit_each_other_are_refused(kmeans_file: Path) -> None:
    write_with_matching_checksum(kmeans_file, save({"centroids": torch.zeros(3, 64), "labels": torch.tensor([0, 1])}))
    assert "does not fit its card: labels must have shape (3,)" in refusal(kmeans_file)


def test_a_missing_tensor_is_named(kmeans_file: Path) -> None:
    write_with_matching_checksum(kmeans_file, save({"centroids": torch.zeros(3, 64)}))
    assert "does not fit its card: 'labels'" in refusal(kmeans_file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": "blue"}, "colour: Extra inputs are not permitted"),
        ({"kind": "forest"}, "kind: Input should be 'logits', 'kmeans', 'magnet' or 'learned-map'"),
        ({"num_classes": 1}, "num_classes: Input should be greater than or equal to 2"),
        ({"input_shape": [1, 8]}, "input_shape.2: Field required"),
        ({"sha256": None}, "sha256: Input should be a valid string"),
    ],
)
def test_a_card_with_a_wrong_field_is_refused(kmeans_file: Path, changes: dict[str, object], message: str) -> None:
    edit_card(kmeans_file, **changes)
    assert refusal(kmeans_file) == f"model card {card_path(kmeans_file)}: {message}"


@pytest.mark.parametrize("content", [b"", b"{", b"kmeans", b"\xff\xfe\x00", b'{"name": "tiny",\n "kind": }'])
def test_a_card_that_is_not_json_is_refused(kmeans_file: Path, content: bytes) -> None:
    card_path(kmeans_file).write_bytes(content)
    assert refusal(kmeans_file).startswith(f"model card {card_path(kmeans_file)} is not JSON: ")


def test_a_card_that_is_no_object_is_refused(kmeans_file: Path) -> None:
    card_path(kmeans_file).write_text("[1, 2]")
    assert refusal(kmeans_file).startswith(f"model card {card_path(kmeans_file)}: ")


def test_a_card_that_cannot_be_read_is_named(kmeans_file: Path) -> None:
    card_path(kmeans_file).unlink()
    card_path(kmeans_file).mkdir()
    assert refusal(kmeans_file).startswith(f"model card {card_path(kmeans_file)} ")
