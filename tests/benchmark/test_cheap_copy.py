"""The copy that searches: close to the model, refused where it is not, and never the judge."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from attacks.contract import ClusteringClassifier, SearchModel
from attacks.registry import resolve as resolve_attack
from benchmark import cheap_copy as module
from benchmark.cheap_copy import Searched, cheap_copy, in_bfloat16, prepare_search
from benchmark.datasets import Dataset, load
from benchmark.instrument import LANES, SHAPES, FixedBatch, FixedBatchClustering, instrument, rounds_alike
from benchmark.runner import run_unit
from model_zoo.registry import LoadedModel
from model_zoo.registry import load as load_model
from results.records import Verdict
from tests.attacks.models import Curved, digits
from tests.benchmark.builders import CPU, kmeans_for, magnet_for, small_resnet, unit_for


@pytest.fixture(scope="module")
def data() -> Dataset:
    whole = load("fashion-mnist")
    return Dataset(whole.name, whole.x[:300].contiguous(), whole.y[:300].contiguous(), 10, whole.sha256)


@pytest.fixture(autouse=True)
def bfloat16_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 is emulated, and right, on processors without it."""
    monkeypatch.setattr(module, "has_bfloat16", lambda device: True)


def test_a_copy_is_close_to_the_model_and_leaves_it_alone(data: Dataset) -> None:
    model = load_model("nominal", "cpu").model
    before = model(data.x)
    searched = cheap_copy(model, data.x, data.y, CPU)
    assert searched.arithmetic == "bfloat16"
    assert searched.refused is None
    after = searched.model(data.x)
    assert after.dtype == torch.float32
    assert not torch.equal(after, before)
    assert float((after - before).abs().max()) < 0.05 * float(before.abs().max())
    assert 0 < searched.slack < 0.5
    assert torch.equal(model(data.x), before)


def test_the_layers_that_see_the_image_and_make_the_logits_stay_in_float32(data: Dataset) -> None:
    """A single layer is both; so a linear model's copy is the model."""
    linear = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    assert torch.equal(in_bfloat16(linear, data.x[:1])(data.x), linear(data.x))
    deep = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    assert not torch.equal(in_bfloat16(deep, data.x[:1])(data.x), deep(data.x))


def test_distances_to_centroids_stay_in_float32(data: Dataset) -> None:
    kmeans = kmeans_for(data)
    assert cheap_copy(kmeans, data.x, data.y, CPU) == Searched(kmeans)
    magnet = magnet_for(data)
    twin = in_bfloat16(magnet, data.x[:1])
    assert isinstance(twin, ClusteringClassifier)
    features = magnet.features(data.x)
    exact, copied = magnet.squared_distances(data.x), twin.squared_distances(data.x)
    assert copied.dtype == torch.float32
    assert float((exact - copied).abs().max()) < 0.05 * float(features.square().sum(dim=1).max())


class Brittle(nn.Module):
    """Decides by a part of the image that bfloat16 rounds away."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle = nn.Linear(784, 1, bias=False), nn.Linear(1, 1, bias=False)
        self.last = nn.Linear(1, 1, bias=False)
        with torch.no_grad():
            self.first.weight.fill_(1 / 784)
            self.middle.weight.fill_(1.0)
            self.last.weight.fill_(1.0)

    def forward(self, x: Tensor) -> Tensor:
        brightness = self.first(x.flatten(1)) + 100.0
        lead: Tensor = self.last(self.middle(brightness)) - 100.4
        return torch.cat([-lead, lead], dim=1)


def test_a_copy_that_predicts_otherwise_is_refused_and_the_record_says_so(data: Dataset) -> None:
    model = Brittle().eval()
    y = model(data.x).argmax(dim=1)
    assert 20 < int(y.sum()) < 280, "both classes must occur"
    searched = cheap_copy(model, data.x, y, CPU)
    assert searched.model is model
    assert searched.arithmetic == "float32"
    assert searched.refused is not None
    assert "of clean images were predicted otherwise" in searched.refused
    relabelled = Dataset("brittle", data.x, y, 2, data.sha256)
    loaded = LoadedModel("brittle", "brittle", model, "0" * 64)
    unit = unit_for(relabelled, attack="pgd20@steps=2,restarts=1", stop=20)
    record = run_unit(unit, relabelled, loaded, None, device=CPU, batch_size=250).record
    assert record.search == "float32"
    assert f"searched in float32: {searched.refused}" in record.flags


def test_float32_is_searched_in_where_that_is_asked_for(data: Dataset) -> None:
    model = load_model("nominal", "cpu").model
    assert prepare_search(model, data.x, data.y, CPU, "float32", LANES).model is model
    assert prepare_search(model, data.x, data.y, CPU, "auto", LANES).arithmetic == "bfloat16"


def test_what_a_copy_finds_is_judged_by_the_model(data: Dataset) -> None:
    """A copy that is fooled everywhere claims everything; nothing of it is believed."""

    class AlwaysFooled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            shifted = torch.zeros(len(x), 10)
            shifted[:, 3] = 1.0
            return shifted + 0.0 * x.flatten(1)[:, :10]

    loaded = load_model("pgd-at", "cpu")
    unit = unit_for(data, attack="pgd20@steps=3,restarts=1", stop=40, eps=1e-4)
    attack = resolve_attack(unit.attack)
    liar = Searched(AlwaysFooled(), arithmetic="bfloat16")
    record = run_unit(
        unit, data, loaded, None, device=CPU, batch_size=250, attack=attack, searched=liar
    ).record  # fmt: skip
    assert Verdict.BROKEN not in record.verdicts
    assert Verdict.SURVIVED in record.verdicts


@pytest.mark.parametrize("name", ["nominal", "kmeans", "clustr-qtrades@scores"])
def test_the_zoos_models_round_alike_in_all_shapes(name: str, data: Dataset) -> None:
    """Were it not so, one shape would be taken for all passes, and searches would cost more."""
    model = load_model(name, "cpu").model
    assert rounds_alike(model, data.x[:20], SHAPES)
    one, several = FixedBatch(model, LANES), FixedBatch(model, *SHAPES)
    for n in (1, 9, 33, 130, 251):
        assert torch.equal(one(data.x[:n]), several(data.x[:n]))


def test_a_model_that_depends_on_its_batch_does_not_round_alike() -> None:
    class Centred(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1) - x.flatten(1).mean(dim=0)

    assert not rounds_alike(Centred(), digits(LANES)[0], SHAPES)


def test_an_instrumented_model_is_what_searches_ask_for(data: Dataset) -> None:
    for model in (small_resnet(), kmeans_for(data), Curved(784, 10, seed=0)):
        assert isinstance(instrument(model, CPU), SearchModel)


def test_the_share_of_time_in_the_model_is_a_share(data: Dataset, tmp_path: Path) -> None:
    loaded = load_model("nominal", "cpu")
    unit = unit_for(data, attack="pgd20@restarts=1", stop=100, eps=4 / 255)
    record = run_unit(unit, data, loaded, None, device=CPU, batch_size=250).record
    assert 0.2 < record.model_time_ratio <= 1.0
    assert record.samples_per_second == pytest.approx(100 / record.seconds)
    assert record.forwards >= record.backwards > 0
    assert [w == unit.attack for w in record.winners] == [v is Verdict.BROKEN for v in record.verdicts]


def test_a_copy_has_as_many_heads_as_its_model(data: Dataset) -> None:
    """Predictions of a copy attacked through its scores are judged by the stable head too."""
    magnet = magnet_for(data)
    for model, heads in ((magnet, 1), (magnet.seen_through("scores"), 2)):
        for searched in (model, in_bfloat16(model, data.x[:1])):
            wrapped = instrument(searched, CPU)
            assert isinstance(wrapped, FixedBatchClustering)
            assert wrapped.two_headed == (heads == 2)
            distances = wrapped.squared_distances(data.x[:60])
            assert torch.equal(wrapped.decide(distances), magnet.logits_from_distances(distances))
