"""Models by name, on a small zoo of their own."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from model_zoo import registry
from model_zoo.adapter import judged_by
from model_zoo.errors import ModelError
from model_zoo.kmeans import KMeansClassifier
from model_zoo.magnet import MagnetClassifier
from model_zoo.registry import load
from model_zoo.weights import load_model, read_card, save_model
from tests.model_zoo.builders import CARD, images, tiny_kmeans, tiny_magnet, tiny_network

SHIPPED = sorted(registry.ZOO.glob("*.safetensors"))


@pytest.fixture(autouse=True)
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A zoo of three models: tiny-kmeans, tiny-network and tiny-magnet."""
    folder = tmp_path / "zoo"
    for name, model in (("kmeans", tiny_kmeans()), ("network", tiny_network()), ("magnet", tiny_magnet())):
        card = CARD | {"name": f"tiny-{name}", "architecture": None if name == "kmeans" else "small-resnet"}
        save_model(folder / f"tiny-{name}.safetensors", model, card)
    monkeypatch.setattr(registry, "ZOO", folder)
    registry.zoo_cards.cache_clear()
    yield folder
    registry.zoo_cards.cache_clear()


def refusal(name: str) -> str:
    with pytest.raises(ModelError) as caught:
        load(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def magnet(name: str) -> MagnetClassifier:
    model = load(name).model
    assert isinstance(model, MagnetClassifier)
    return model


def test_a_name_of_the_zoo_loads_its_file(zoo: Path) -> None:
    loaded = load("tiny-kmeans")
    assert (loaded.name, loaded.group) == ("tiny-kmeans", "tiny-kmeans")
    assert isinstance(loaded.model, KMeansClassifier)
    assert loaded.card == read_card(zoo / "tiny-kmeans.safetensors")
    assert loaded.sha256 == loaded.card.identity
    assert loaded.flags == ()


def test_a_path_loads_the_file_it_names(zoo: Path) -> None:
    path = zoo / "tiny-network.safetensors"
    loaded, x = load(str(path)), images(4)
    assert (loaded.name, loaded.group) == (str(path), str(path))
    assert torch.equal(loaded.model(x), load("tiny-network").model(x))


def test_a_path_takes_options_too(zoo: Path) -> None:
    model = magnet(f"{zoo / 'tiny-magnet.safetensors'}@scores,nearest=3")
    assert (model.head, model.nearest) == ("scores", 3)


def test_a_path_may_contain_an_at_sign(zoo: Path) -> None:
    folder = zoo / "me@work"
    save_model(folder / "mine.safetensors", tiny_kmeans(), CARD)
    assert isinstance(load(str(folder / "mine.safetensors")).model, KMeansClassifier)


@pytest.mark.parametrize("head", ["log_sum_exp", "scores", "probabilities"])
def test_a_head_is_an_option_and_the_group_stays(head: str) -> None:
    loaded, x = load(f"tiny-magnet@{head}"), images(20)
    assert (loaded.name, loaded.group) == (f"tiny-magnet@{head}", "tiny-magnet")
    assert isinstance(loaded.model, MagnetClassifier)
    assert loaded.model.head == head
    assert torch.equal(judged_by(loaded.model)(x), load("tiny-magnet").model(x))


def test_d_is_an_option_and_makes_another_group() -> None:
    loaded = load("tiny-magnet@nearest=3,probabilities")
    assert loaded.group == "tiny-magnet@nearest=3"
    assert isinstance(loaded.model, MagnetClassifier)
    assert (loaded.model.nearest, loaded.model.head) == (3, "probabilities")
    assert magnet("tiny-magnet").nearest is None, "the zoo's model is not changed"


def test_a_fuzzifier_is_an_option_and_makes_another_group() -> None:
    loaded = load("tiny-magnet@fuzzy=2.0,scores")
    assert loaded.group == "tiny-magnet@fuzzy=2"
    assert isinstance(loaded.model, MagnetClassifier)
    assert (loaded.model.fuzzifier, loaded.model.head) == (2.0, "scores")
    assert magnet("tiny-magnet").fuzzifier is None, "the zoo's model is not changed"
    for name in ("tiny-magnet@fuzzy=1.5,nearest=3", "tiny-magnet@nearest=3,fuzzy=1.5"):
        assert load(name).group == "tiny-magnet@fuzzy=1.5,nearest=3"
        assert (magnet(name).fuzzifier, magnet(name).nearest) == (1.5, 3)


def test_unmasked_is_an_option_and_stays_in_the_group_of_its_d() -> None:
    loaded = load("tiny-magnet@nearest=2,unmasked")
    assert loaded.group == "tiny-magnet@nearest=2"
    x = images(20)
    assert torch.equal(loaded.model(x), load("tiny-magnet").model(x))
    assert torch.equal(judged_by(loaded.model)(x), load("tiny-magnet@nearest=2").model(x))


def test_the_identity_is_over_the_weights_and_what_the_card_adds_to_them() -> None:
    card = load("tiny-magnet").card
    assert card is not None
    for change in ({"nearest": 1}, {"variance": 9.0}, {"sha256": "0" * 64}):
        assert card.model_copy(update=change).identity != card.identity
    assert card.model_copy(update={"minutes": 99.0}).identity == card.identity


def test_a_fuzzifier_is_part_of_the_identity_and_its_absence_is_not() -> None:
    card = load("tiny-magnet").card
    assert card is not None
    fields = ("sha256", "kind", "architecture", "input_shape", "num_classes", "variance", "nearest")
    parts = {field: getattr(card, field) for field in fields}
    assert card.identity == hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    fuzzy = [card.model_copy(update={"fuzzifier": m}).identity for m in (None, 2.0, 3.0)]
    assert len({card.identity, *fuzzy}) == 3


def test_folding_batch_norm_changes_rounding_only() -> None:
    folded, plain, x = load("tiny-network").model, load("tiny-network", fold=False).model, images(4)
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in folded.modules())
    assert any(isinstance(part, torch.nn.BatchNorm2d) for part in plain.modules())
    assert torch.allclose(folded(x), plain(x), atol=1e-5)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    assert refusal("tiny-kmean").startswith("unknown model 'tiny-kmean'; did you mean tiny-kmeans")


def test_a_name_like_none_is_answered_with_all() -> None:
    message = refusal("qqq")
    assert message.startswith("unknown model 'qqq'; the zoo has tiny-kmeans, tiny-magnet, tiny-network ")
    assert "package.module:factory" in message
    assert ".safetensors" in message
    assert "robustbench:" in message


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("softmax", "unknown option 'softmax'; accepted: log_sum_exp, scores, probabilities, nearest=D, fuzzy=M, "),
        ("fuzzy=two", "unknown option 'fuzzy=two'"),
        ("fuzzy=", "unknown option 'fuzzy='"),
        ("fuzzy=1", "fuzzifier must be greater than 1 (from 1.001 to 1000), got 1"),
        ("fuzzy=-3", "fuzzifier must be greater than 1 (from 1.001 to 1000), got -3"),
        ("fuzzy=nan", "fuzzifier must be greater than 1 (from 1.001 to 1000), got nan"),
        ("scores,", "unknown option ''"),
        ("nearest=three", "unknown option 'nearest=three'"),
        ("nearest=-1", "unknown option 'nearest=-1'"),
        ("nearest=", "unknown option 'nearest='"),
        ("nearest=0", "nearest must lie in 1..6 (the number of clusters), got 0"),
        ("nearest=7", "nearest must lie in 1..6 (the number of clusters), got 7"),
    ],
)
def test_a_bad_option_is_named(option: str, message: str) -> None:
    assert refusal(f"tiny-magnet@{option}").startswith(f"model tiny-magnet@{option}: {message}")


@pytest.mark.parametrize("name", ["tiny-kmeans", "tiny-network"])
def test_only_magnet_classifiers_take_options(name: str) -> None:
    assert refusal(f"{name}@scores") == (
        f"model {name}@scores: {name} has no heads; options after @ are for Magnet classifiers"
    )


@pytest.mark.parametrize("name", ["some.module:factory@scores", "robustbench:Linf/cifar10/Standard@scores"])
def test_models_from_outside_take_no_options(name: str) -> None:
    assert refusal(name) == f"model {name}: options after @ are for the zoo's Magnet classifiers"


def test_a_broken_file_is_refused_by_name(zoo: Path) -> None:
    path = zoo / "tiny-kmeans.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert str(path) in refusal("tiny-kmeans")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_model_that_ships_loads_under_its_name_and_gives_finite_logits(path: Path) -> None:
    model, card = load_model(path, torch.device("cpu"))
    assert card.name == path.stem
    x = torch.rand(4, *card.input_shape, generator=torch.Generator().manual_seed(0))
    logits = model(x)
    assert logits.shape == (4, card.num_classes)
    assert bool(torch.isfinite(logits).all())
