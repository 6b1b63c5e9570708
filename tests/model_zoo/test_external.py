"""Models from outside: a user's factory, and RobustBench by name without network."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from model_zoo.errors import ModelError
from model_zoo.external import fingerprint, is_factory, load_factory, load_robustbench
from model_zoo.registry import load
from tests.model_zoo.builders import images, tiny_magnet, tiny_network

CPU = torch.device("cpu")

USER_MODELS = """
import torch
from torch import nn

def linear():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()

def in_training():
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 3))

def half_in_training():
    model = in_training().eval()
    model[1].train()
    return model

def raising():
    raise RuntimeError("two\\nlines")

def a_list():
    return [1, 2]

def needy(path):
    return linear()

def leaving():
    raise SystemExit

def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(3))

def scripted():
    return torch.jit.script(linear())

class Bare(nn.Module):
    def __init__(self):
        pass

def on_meta():
    return linear().to("meta")

constant = 3
"""


@pytest.fixture(autouse=True)
def user_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package on the Python path that holds factories."""
    package = tmp_path / "users_models"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "nets.py").write_text(USER_MODELS)
    (package / "broken.py").write_text("raise KeyError('weights')")
    (package / "needy.py").write_text("import a_module_that_is_not_there")
    (package / "script.py").write_text("import sys\nsys.exit()")
    monkeypatch.syspath_prepend(tmp_path)
    yield package
    for name in [name for name in sys.modules if name.startswith("users_models")]:
        del sys.modules[name]


def refusal(name: str) -> str:
    with pytest.raises(ModelError) as caught:
        load(name)
    message = str(caught.value)
    assert "\n" not in message
    assert name in message
    return message


def test_a_factorys_model_is_loaded_frozen() -> None:
    loaded, x = load("users_models.nets:linear"), images(4)
    expected = importlib.import_module("users_models.nets").linear()
    assert torch.equal(loaded.model(x), expected(x))
    assert (loaded.name, loaded.group) == ("users_models.nets:linear", "users_models.nets:linear")
    assert loaded.flags == ()
    assert loaded.card is None
    assert not any(p.requires_grad for p in loaded.model.parameters())


@pytest.mark.parametrize("factory", ["in_training", "half_in_training"])
def test_a_model_in_training_mode_is_put_in_eval_mode_and_flagged(factory: str) -> None:
    loaded = load(f"users_models.nets:{factory}")
    assert loaded.flags == ("the factory returned a model in training mode; it was evaluated in eval mode",)
    assert not any(part.training for part in loaded.model.modules())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("users_models.nets:raising", "the factory raised RuntimeError: two lines"),
        ("users_models.nets:leaving", "the factory raised SystemExit"),
        ("users_models.script:linear", "importing users_models.script raised SystemExit"),
        ("users_models.nets:lazy", "the factory's Sequential cannot be put in eval mode"),
        ("users_models.nets:scripted", "the factory's RecursiveScriptModule cannot be put in eval mode"),
        ("users_models.nets:Bare", "the factory's Bare cannot be put in eval mode"),
        ("users_models.nets:on_meta", "the factory's Sequential cannot be put in eval mode"),
        ("users_models.nets:needy", "the factory raised TypeError: "),
        ("users_models.nets:a_list", "the factory returned list, not a torch.nn.Module"),
        ("users_models.nets:absent", "users_models.nets has no callable 'absent'"),
        ("users_models.nets:constant", "users_models.nets has no callable 'constant'"),
        ("users_models.absent:f", "no module named 'users_models.absent' on the Python path"),
        ("not_there:f", "no module named 'not_there' on the Python path"),
        ("users_models.needy:f", "no module named 'a_module_that_is_not_there' on the Python path"),
        ("users_models.broken:f", "importing users_models.broken raised KeyError: 'weights'"),
    ],
)
def test_a_factory_that_gives_no_model_is_named_in_one_line(name: str, message: str) -> None:
    assert refusal(name).startswith(f"model {name}: {message}")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.b:c", True),
        ("a:c", True),
        ("a.b", False),
        ("a/b:c", False),
        ("a:b:c", False),
        ("C:x.pt", False),
        ("", False),
    ],
)
def test_a_factory_is_told_from_other_names(name: str, expected: bool) -> None:
    assert is_factory(name) == expected


def test_the_fingerprint_is_over_weights_attributes_and_source(tmp_path: Path) -> None:
    source = tmp_path / "source.py"
    source.write_bytes(b"code")
    torch.manual_seed(0)
    model = nn.Conv2d(1, 1, 3, padding=1)
    plain, sourced = fingerprint(model), fingerprint(model, str(source))
    assert len({plain, sourced}) == 2
    source.write_bytes(b"other")
    assert fingerprint(model, str(source)) != sourced
    model.stride = (2, 2)
    assert fingerprint(model) != plain, "an attribute that the weights do not show"
    model.stride = (1, 1)
    assert fingerprint(model.train()) == fingerprint(model.eval()) == plain


def test_the_fingerprint_notices_d_and_the_head_of_a_magnet_classifier() -> None:
    model = tiny_magnet()
    prints = {fingerprint(m) for m in (model, model.seen_through("scores"), model.seen_through("log_sum_exp", True))}
    assert len(prints) == 3


def test_the_fingerprint_notices_every_change() -> None:
    first, second = tiny_network(), tiny_network()
    assert fingerprint(first) == fingerprint(second)
    with torch.no_grad():
        second.network.stem[1].running_var[3] += 1e-6  # type: ignore[index, union-attr]
    assert fingerprint(first) != fingerprint(second)
    assert fingerprint(nn.Linear(3, 2)) != fingerprint(nn.Linear(2, 3))


def test_the_fingerprint_takes_any_dtype() -> None:
    model = nn.Module()
    for name, dtype in (("a", torch.bfloat16), ("b", torch.bool), ("c", torch.int64), ("d", torch.float64)):
        model.register_buffer(name, torch.ones((), dtype=dtype))
    model.register_buffer("e", torch.zeros(0))
    before = fingerprint(model)
    model.c = torch.tensor(2)
    assert fingerprint(model) != before


def test_the_source_is_part_of_a_factorys_fingerprint(user_models: Path) -> None:
    _, before, _ = load_factory("users_models.nets:linear", CPU)
    with (user_models / "nets.py").open("a") as file:
        file.write("# changed\n")
    _, after, _ = load_factory("users_models.nets:linear", CPU)
    assert before != after


@pytest.mark.parametrize(
    "name",
    ["robustbench:Standard", "robustbench:linf/cifar10/Standard", "robustbench:Linf/mnist/Standard", "robustbench:"],
)
def test_a_robustbench_name_of_another_form_is_refused(name: str) -> None:
    assert refusal(name).endswith("expected robustbench:Linf|L2/cifar10|cifar100|imagenet/NAME")


def test_a_setting_that_allows_unpickling_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    assert "unset TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD" in refusal("robustbench:Linf/cifar10/Standard")


def test_a_name_robustbench_does_not_list_is_refused_with_a_hint() -> None:
    name = "robustbench:Linf/cifar10/Sehwag2020Hydr"
    message = refusal(name)
    assert message.startswith(f"model {name}: RobustBench lists no 'Sehwag2020Hydr' for cifar10 Linf; did you mean ")
    assert "Sehwag2020Hydra" in message


class Robustbench:
    """Stands in for robustbench.utils.load_model; remembers what it was asked for."""

    def __init__(self, result: nn.Module | Exception):
        self.result = result
        self.asked: list[tuple[str, str, str, str]] = []

    def __call__(self, name: str, *, model_dir: str, dataset: str, threat_model: str) -> nn.Module:
        self.asked.append((name, model_dir, dataset, threat_model))
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


@pytest.mark.parametrize("error", [ConnectionError("no route\nto host"), TimeoutError("timed out")])
def test_a_failed_download_is_one_line(error: OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    refusal("robustbench:Linf/cifar10/nobody")  # imports robustbench
    monkeypatch.setattr("robustbench.utils.load_model", Robustbench(error))
    message = refusal("robustbench:Linf/cifar10/Standard")
    assert "its weights must be downloaded, and that failed (no network?): " in message
    assert message.endswith(f"{type(error).__name__}: {' '.join(str(error).split())}")


def test_a_model_robustbench_cannot_load_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    refusal("robustbench:Linf/cifar10/nobody")
    monkeypatch.setattr("robustbench.utils.load_model", Robustbench(RuntimeError("bad\nkeys")))
    assert refusal("robustbench:Linf/cifar10/Standard").endswith(
        "RobustBench could not load it: RuntimeError: bad keys"
    )


def test_a_robustbench_model_takes_images_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusal("robustbench:Linf/cifar10/nobody")
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    loader = Robustbench(network)
    monkeypatch.setattr("robustbench.utils.load_model", loader)
    model, sha256 = load_robustbench("robustbench:L2/cifar10/Standard", CPU, tmp_path)
    assert loader.asked == [("Standard", str(tmp_path), "cifar10", "L2")]
    assert torch.equal(model(images(3)), network(images(3)))
    assert not any(part.training for part in model.modules())
    assert sha256 == fingerprint(model)


def test_a_factory_that_initialises_at_random_gives_the_same_model_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "randomly.py").write_text("import torch\n\ndef make():\n    return torch.nn.Linear(4, 3).eval()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    state = torch.random.get_rng_state()
    first, second = (load_factory("randomly:make", torch.device("cpu"))[1] for _ in range(2))
    assert first == second
    assert torch.equal(state, torch.random.get_rng_state()), "the caller's generator is left alone"


def test_an_attribute_with_an_address_in_its_repr_leaves_the_fingerprint_alone() -> None:
    first, second = nn.Linear(1, 1), nn.Linear(1, 1)
    second.load_state_dict(first.state_dict())
    for model in (first, second):
        vars(model)["parts"] = (object(),)
    assert fingerprint(first) == fingerprint(second)
