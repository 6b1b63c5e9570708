"""The analysis on models whose answer is known, its controls, its files, and every wrong request."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import benchmark
from benchmark import datasets
from benchmark.datasets import Dataset
from benchmark.linearize import analysis, controls
from benchmark.linearize.analysis import analyse
from benchmark.linearize.done import Attacked, Done, read_done, write_done
from benchmark.linearize.files import Folder
from benchmark.linearize.request import Options, Prepared, Subject, prepare
from model_zoo.magnet import MagnetClassifier
from model_zoo.registry import load
from results.clustering_effect import cosines, statistic
from results.clustering_verdict import Ruling
from results.linearized import Analysis, Found
from results.linearized_json import as_json
from results.store import StoreError
from tests.benchmark.builders import kmeans_for, save
from tests.benchmark.conftest import Bench

TOPS = [0, 2, 3, 4, 6]

LINEAR = """
import torch
from torch import nn

GROUPS = [0, 2, 0, 0, 0, 1, 0, 1, 2, 1]


def linear(weight):
    layer = nn.Linear(784, 10, bias=False)
    layer.weight.data = weight
    return nn.Sequential(nn.Flatten(), layer)


def planted():
    random = torch.Generator().manual_seed(0)
    centres = torch.randn(3, 784, generator=random)
    return linear(centres[GROUPS] + torch.randn(10, 784, generator=random) + 5 * torch.randn(784, generator=random))


def absent():
    return linear(torch.randn(10, 784, generator=torch.Generator().manual_seed(1)))


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(784, 10)

    def forward(self, x):
        x = x.flatten(1)
        return self.last(x * x.softmax(1))


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(784, 10))

    def forward(self, x):
        return x.flatten(1) @ self.weight


def three():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 13))


def flat():
    return linear(torch.randn(1, 784).expand(10, 784).clone())
"""


@pytest.fixture(scope="module")
def clothes() -> Dataset:
    return datasets.load("fashion-mnist")


def analysed(models: tuple[str, ...], starts: int = 2, **options: object) -> Analysis:
    """In memory, with few random starts."""
    prepared = prepare(Options(models, samples=20, starts=starts, **options))  # type: ignore[arg-type]
    return analyse(prepared, lambda subject, found: None, lambda total, done: lambda: None)


def test_absent_structure_is_not_shown(user_module: Callable[[str], str]) -> None:
    (found,) = analysed((f"{user_module(LINEAR)}:absent",), starts=39, modes=("fold",)).models
    assert found.verdict.ruling is Ruling.NOT_SHOWN
    assert found.verdict.beside == ()


def test_the_command_shows_planted_structure(bench: Bench, user_module: Callable[[str], str], workdir: Path) -> None:
    name = user_module(LINEAR)
    arguments = ("analyze", "linearize", f"{name}:planted", "--bn", "fold", "--starts", 19, "--out", "a")
    done = bench(*arguments, "--samples", 10)
    assert done.code == 0, done.err
    written = json.loads((workdir / "a" / "effect.json").read_text())
    assert [one["verdict"] for one in written["models"]] == ["shows the effect"]
    assert done.out.startswith((workdir / "a" / "effect.txt").read_text())
    assert "over all 2,520 partitions" in " ".join(done.out.split())
    planted = written["models"][0]
    assert [mode["bn"] for mode in planted["modes"]] == ["fold"]
    (mode,) = planted["modes"]
    assert mode["p"] == 1 / 20
    assert mode["centred"]["test"]["p"] == mode["centred"]["test"]["least_p"] == 1 / 2520
    assert mode["centred"]["adjusted_rand_index"] == 1.0
    assert mode["raw"]["test"]["statistic"] < mode["centred"]["test"]["statistic"]  # the added vector hides it
    assert len(mode["random_initialisations"]) == 19
    assert any("no card says" in why for why in planted["missing_controls"])
    assert sum(map(sum, planted["adversarial"]["counts"])) == planted["adversarial"]["misclassified"]

    folder = next(path for path in (workdir / "a").iterdir() if path.name.endswith("planted"))
    arrays = load_file(folder / "rows-fold.safetensors")
    truth = load(f"{name}:planted").model.state_dict()["1.weight"].double().numpy()
    assert arrays["classes"] == pytest.approx(truth, rel=1e-6)
    lines = (folder / "cosines-fold-centred.csv").read_text().splitlines()
    assert lines[0] == "class," + ",".join(written["classes"])
    assert [float(x) for x in lines[1].split(",")[1:]] == pytest.approx(cosines(truth, centred=True)[0], abs=1e-6)
    for stem in ("cosines-fold", "tree-fold", "feature-distances", "misclassified"):
        assert (folder / f"{stem}.png").stat().st_size > 10_000
        assert (folder / f"{stem}.svg").stat().st_size > 10_000
    assert (folder / "tree-fold-raw.nwk").read_text().endswith(");\n")
    kept = json.loads((workdir / "a" / "done.json").read_text())
    assert kept["starts"] == {f"{name}:planted": {"fold": mode["random_initialisations"]}}
    assert kept["attacked"][f"{name}:planted"]["counts"] == planted["adversarial"]["counts"]
    assert not list((workdir / "a").rglob("*.npz")) + list((workdir / "a").rglob("*.pkl"))

    other = bench(*arguments, "--samples", 11)
    assert "holds another analysis" in other.refused()


def test_groups_too_uneven_for_any_p_are_underpowered(user_module: Callable[[str], str], tmp_path: Path) -> None:
    path = tmp_path / "groups.yaml"
    path.write_text("groups: {most: [0, 1, 2, 3, 4, 5, 6, 7, 8], one: [ankle boot]}")
    name = user_module(LINEAR)
    (found,) = analysed((f"{name}:planted",), starts=39, groups=path, modes=("fold",)).models
    assert found.verdict.ruling is Ruling.UNDERPOWERED
    assert found.modes[0].least == 1 / 10


def test_layers_that_cannot_be_drawn_anew_are_a_missing_control(user_module: Callable[[str], str]) -> None:
    (found,) = analysed((f"{user_module(LINEAR)}:Own",)).models
    assert [(mode.bn, mode.starts) for mode in found.modes] == [("drop", None), ("fold", None)]
    assert "random initialisations: the model (Own) has no reset_parameters" in found.missing
    assert found.verdict.beside == ("not held against random initialisations: the model (Own) has no reset_parameters",)


@pytest.fixture(scope="module")
def zoo() -> Analysis:
    return analysed(("nominal", "clustr-qtrades"), modes=("fold",))


def test_the_zoo_is_held_against_its_standard_model(zoo: Analysis) -> None:
    nominal, clustering = zoo.models
    assert (nominal.standard, clustering.standard) == (None, "nominal")
    (own,), (mode,) = nominal.modes, clustering.modes
    assert own.over_standard is None
    assert mode.over_standard is not None
    assert mode.over_standard.statistic == pytest.approx(mode.centred.test.statistic - own.centred.test.statistic)
    assert nominal.missing == clustering.missing == ()
    assert all(one.head is not None and one.distances is not None for one in zoo.models)


def test_a_standard_model_may_be_named_for_models_without_a_card(user_module: Callable[[str], str]) -> None:
    name = user_module(LINEAR)
    models = (f"{name}:planted", f"{name}:absent")
    planted, absent = analysed(models, starts=0, modes=("fold",), standard=f"{name}:absent").models
    assert (planted.standard, absent.standard) == (f"{name}:absent", None)
    (mode,), (own,) = planted.modes, absent.modes
    assert mode.over_standard is not None
    assert mode.over_standard.statistic == pytest.approx(mode.centred.test.statistic - own.centred.test.statistic)
    assert own.over_standard is None


def test_distances_are_between_class_means_of_the_true_features(zoo: Analysis, clothes: Dataset) -> None:
    model = load("clustr-qtrades").model
    assert isinstance(model, MagnetClassifier)
    with torch.no_grad():
        features = model.features(clothes.x[:2000]).double()
    y = clothes.y[:2000]
    expected = (features[y == 3].mean(dim=0) - features[y == 8].mean(dim=0)).norm()
    found = zoo.models[1].distances
    assert found is not None
    assert found[3, 8] == pytest.approx(float(expected), rel=1e-4)
    assert found == pytest.approx(found.T)


def test_misclassifications_are_those_of_an_evaluation(zoo: Analysis, clothes: Dataset) -> None:
    found: Found = zoo.models[0]
    model = load("nominal").model
    report = benchmark.evaluate(model, clothes.x[:20], clothes.y[:20], attacks=["pgd20"], eps="8/255", seed=0)
    broken = [str(verdict) == "broken" for verdict in report.verdicts["pgd20"]]
    assert found.misled.broken == sum(broken)
    assert found.misled.images == 20
    assert (
        found.misled.counts.sum(axis=1).tolist()
        == torch.bincount(clothes.y[:20][torch.tensor(broken)], minlength=10).tolist()
    )
    assert not np.diag(found.misled.counts).any()


def test_class_means_of_images_are_a_control(zoo: Analysis, clothes: Dataset) -> None:
    assert zoo.means is not None
    means = torch.stack([clothes.x[clothes.y == c].double().mean(dim=0).flatten() for c in range(10)]).numpy()
    for effect, centred in zip(zoo.means, (False, True), strict=True):
        assert effect.test.statistic == pytest.approx(statistic(cosines(means, centred), zoo.groups.labels))
    assert controls.class_means(clothes.x[:3], clothes.y[:3], 10) is None


def test_a_class_of_black_images_is_a_missing_control(user_module: Callable[[str], str], tmp_path: Path) -> None:
    y = np.arange(20) % 10
    images = np.random.default_rng(0).random((20, 28, 28), dtype=np.float32) * (y != 3)[:, None, None]
    np.savez(tmp_path / "black.npz", images=images, labels=y)
    (tmp_path / "groups.yaml").write_text("groups: {low: [0, 1, 2, 3], high: [4, 5, 6, 7, 8, 9]}")
    found = analysed(
        (f"{user_module(LINEAR)}:absent",),
        dataset=f"npz:{tmp_path / 'black.npz'}",
        groups=tmp_path / "groups.yaml",
        modes=("fold",),
    )
    assert found.means is None
    assert "class-mean images: the row of class 3 is zero" in found.models[0].missing
    assert found.models[0].modes[0].beyond_images is None


WRONG = {
    ("nominal", "{m}:Gated"): "model {m}:Gated cannot be linearised: ",
    ("nominal", "--standard", "{m}:Gated"): "model {m}:Gated cannot be linearised: ",
    ("nominal", "--standard", "{m}:three"): "for 10 classes, model {m}:three has 13",
    ("nominal", "--standard", "nomnal"): "unknown model 'nomnal'; did you mean nominal",
    ("nominal", "--standard", "resnet18-w8-mnist"): "was trained on mnist, whose classes are not those of fashion-mn",
    ("{m}:flat",): "the row of class 0 is the mean of all rows",
    ("{m}:three",): "groups fashion-mnist.yaml are for 10 classes, model {m}:three has 13",
    ("nominal", "--bn", "keep"): "--bn must be one of drop, fold, both, got 'keep'",
    (
        "nominal",
        "--dataset",
        "mnist",
    ): "model nominal was trained on fashion-mnist, whose classes are not those of mnist",
    ("nominal", "resnet18-w8-mnist"): "the models were trained on several data sets",
    ("resnet18-w8-mnist",): "data set mnist has no groups of classes here: its ten digits",
    ("nominal", "--groups", "none.yaml"): "--groups none.yaml: no such file",
    ("nominal", "--samples", "0"): "--samples: ",
    ("nominal", "--starts", "-1"): "--starts must be 0 or more, got -1",
    ("nominal", "--samples", "10001"): "samples: fashion-mnist has 10000 test images, got 10001",
    ("nominal", "--eps", "8"): "eps must be in (0, 1] for linf, got 8",
    ("nominal", "--eps", "8/0"): "--eps: must be a number or a fraction",
    ("nominal", "--norm", "l3"): "--norm: ",
    ("nominal", "--seed", "-1"): "--seed: ",
    ("nominal", "--dataset", ""): "unknown data set ''",
    ("nominal", "nominal"): "models names one entry twice: nominal",
    ("nomnal",): "unknown model 'nomnal'; did you mean nominal",
    ("nominal", "--dataset", "fashion"): "unknown data set 'fashion'",
}


@pytest.mark.parametrize("arguments", WRONG)
def test_a_wrong_request_is_one_line(
    bench: Bench, user_module: Callable[[str], str], arguments: tuple[str, ...]
) -> None:
    name = user_module(LINEAR)
    refused = bench("analyze", "linearize", *(one.format(m=name) for one in arguments)).refused()
    assert WRONG[arguments].format(m=name) in refused


def test_a_model_of_many_more_classes_is_refused_before_its_rows_are_computed(
    bench: Bench, user_module: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmark.linearize.request.class_rows", None)
    name = f"{user_module(LINEAR)}:three"
    assert bench("analyze", "linearize", name).refused().endswith(f"are for 10 classes, model {name} has 13")


def test_a_stopped_analysis_goes_on_with_the_same_numbers(
    user_module: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = user_module(LINEAR)
    prepared = prepare(Options((f"{name}:planted", f"{name}:absent"), samples=5, starts=3, modes=("drop",)))
    attack = analysis._attack

    def stopped(prepared: Prepared, subject: Subject) -> Attacked:
        if subject.loaded.name.endswith("absent"):
            raise KeyboardInterrupt
        return attack(prepared, subject)

    def text() -> str:
        work = analysis.Work(read_done(tmp_path, starts=3, classes=10), lambda done: write_done(tmp_path, done))
        return as_json(analyse(prepared, lambda subject, found: None, lambda total, done: lambda: None, work))

    with monkeypatch.context() as patched:
        patched.setattr(analysis, "_attack", stopped)
        with pytest.raises(KeyboardInterrupt):
            text()
    left = read_done(tmp_path, starts=3, classes=10)
    assert (list(left.starts), list(left.attacked)) == ([f"{name}:planted", f"{name}:absent"], [f"{name}:planted"])
    with monkeypatch.context() as patched:
        patched.setattr(analysis, "random_start", None)  # all starts are there
        gone_on = text()
    (tmp_path / "done.json").unlink()
    assert gone_on == text()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be used"),
        ('{"starts": {"mine": {"drop": [0.1]}}}', "is of another analysis"),
        ('{"attacked": {"mine": {"right": 1, "counts": [[0, 1], [0, 0]]}}}', "is of another analysis"),
        ('{"attacked": {"mine": {"right": 1, "counts": [[0, 1, 0], [0, 0, 0], [0, 0]]}}}', "is of another analysis"),
        ('{"attacked": {"mine": {"right": -1, "counts": []}}}', "cannot be used"),
    ],
)
def test_what_an_earlier_call_left_must_fit(tmp_path: Path, text: str, said: str) -> None:
    assert read_done(tmp_path, starts=2, classes=3) == Done()
    (tmp_path / "done.json").write_text(text)
    with pytest.raises(StoreError, match=said):
        read_done(tmp_path, starts=2, classes=3)


@pytest.mark.usefixtures("as_installed")
def test_a_file_where_a_models_folder_goes_is_one_line(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "a", cast(Prepared, SimpleNamespace(groups=None, identity=dict)))
    folder.open()
    (folder.path / "mine-lin").touch()
    with pytest.raises(StoreError, match=r"mine-lin cannot be made: File exists$"):
        folder.keep(cast(Subject, None), cast(Found, SimpleNamespace(model="mine:lin")))


def test_a_model_of_some_classes_is_analysed_on_these_and_on_no_others(bench: Bench, tmp_path: Path) -> None:
    data = datasets.load("digits:without=4,8", split="train")
    path, groups = save(tmp_path / "eight.safetensors", kmeans_for(data), data), tmp_path / "groups.yaml"
    groups.write_text("groups: {low: [0, 1, 2, 3], high: [4, 5, 6, 7]}")
    arguments = ("analyze", "linearize", path, "--groups", groups, "--samples", 5, "--starts", 0, "--bn", "fold")
    done = bench(*arguments, "--out", "a")
    assert done.code == 0, done.err
    assert "digits:without=4,8, groups of" in done.out
    for other in ("digits", "digits:without=1,2"):
        refused = bench(*arguments, "--dataset", other).refused()
        assert refused.endswith(f"was trained on digits:without=4,8, whose classes are not those of {other}")


def test_a_refused_network_is_named_with_its_operation(bench: Bench, user_module: Callable[[str], str]) -> None:
    assert "softmax" in bench("analyze", "linearize", "nominal", f"{user_module(LINEAR)}:Gated").refused()


def test_wrong_groups_are_one_line(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("group: {a: [0]}")
    assert "unknown field group" in bench("analyze", "linearize", "nominal", "--groups", path).refused()


def test_a_foreign_folder_is_refused(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    arguments = ("analyze", "linearize", "kmeans", "--samples", 5, "--out")
    assert "holds no such analysis" in bench(*arguments, tmp_path / "run").refused()
    assert "is not a folder" in bench(*arguments, tmp_path / "run" / "run.json").refused()
