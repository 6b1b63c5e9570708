"""Attacks by name: what a user may write, and what an error tells."""

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from attacks.contract import AttackResult
from attacks.registry import ATTACKS, AttackError, Scalar, call, resolve
from attacks.threat import Threat
from model_zoo.kmeans import KMeansClassifier
from tests.attacks.models import assert_allowed, digits, linear_problem

DEFAULTS: dict[str, dict[str, Scalar]] = {
    "clean": {},
    "noise": {"draws": 100},
    "transfer": {"surrogate": "nominal", "steps": 10},
    "pgd20": {"steps": 20, "restarts": 10, "step_size": None},
    "pgd100": {"steps": 100, "restarts": 10, "step_size": None},
    "cw100": {"steps": 100, "restarts": 10, "step_size": None},
    "magnet100": {"steps": 100, "restarts": 10, "step_size": None, "published": False, "alpha": 12.5},
    "magnet100-published": {"steps": 100, "restarts": 10, "step_size": None, "published": True, "alpha": 12.5},
    "autoattack": {},
    "autoattack-fast": {},
    "screen": {},
    "autoattack-plus": {},
    "autoattack-rand": {},
    "autoattack-reference": {},
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_name_stands_for_the_published_parameters(name: str) -> None:
    attack = resolve(name)
    assert attack.name == name
    assert attack.entry is ATTACKS[name]
    assert attack.params == DEFAULTS[name]
    assert attack.surrogate == ("nominal" if name == "transfer" else None)


QUICK = {
    "noise": "noise@draws=3",
    "transfer": "transfer@steps=2",
    "pgd20": "pgd20@steps=2,restarts=1",
    "pgd100": "pgd100@steps=2,restarts=1",
    "cw100": "cw100@steps=2,restarts=1",
    "magnet100": "magnet100@steps=2,restarts=1",
    "magnet100-published": "magnet100-published@steps=2,restarts=1",
}


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_of_the_registry_returns_images_the_threat_allows(name: str) -> None:
    x, y = digits(200)
    means = torch.stack([x[y == c].mean(dim=0) for c in range(10)])
    model = KMeansClassifier(means, torch.arange(10), 10)
    attack, threat = resolve(QUICK.get(name, name)), Threat("linf", 0.4)
    before = x.clone()
    result = call(attack, model if attack.surrogate else None)(
        model, x[:5], y[:5], threat, seed=0, sample_ids=torch.arange(5)
    )
    assert isinstance(result, AttackResult)
    assert_allowed(threat, x[:5], result.x_adv)
    assert torch.equal(result.x_adv, x[:5]) == (name in ("clean", "certify"))
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("pgd20@steps=7", "steps", 7),
        ("pgd20@steps=40/2", "steps", 20),
        ("pgd20@step_size=2/255", "step_size", 2 / 255),
        ("pgd20@step_size=0.01", "step_size", 0.01),
        ("pgd20@step_size=1", "step_size", 1.0),
        ("magnet100@published=true", "published", True),
        ("magnet100-published@published=false", "published", False),
        ("magnet100-published@alpha=13", "alpha", 13.0),
        ("transfer@surrogate=clustr@scores", "surrogate", "clustr@scores"),
    ],
)
def test_a_value_is_read_in_the_type_of_its_default(text: str, key: str, value: Scalar) -> None:
    attack = resolve(text)
    assert attack.params == DEFAULTS[text.split("@")[0]] | {key: value}
    assert type(attack.params[key]) is type(value)
    assert attack.name == text


@pytest.mark.parametrize("text", ["transfer", "transfer@attack=i-fgsm", "transfer@labels=true,attack=i-fgsm"])
def test_a_parameter_younger_than_records_is_named_only_where_it_differs(text: str) -> None:
    """A unit's key is made of its parameters: those of records without it stay what they were."""
    assert resolve(text).params == DEFAULTS["transfer"]
    set_ = {"attack": "cw", "labels": "predicted", "step_size": 0.01}
    assert resolve("transfer@step_size=0.01,labels=predicted,attack=cw").params == DEFAULTS["transfer"] | set_


def test_several_values_are_separated_by_commas() -> None:
    assert resolve("pgd20@steps=3,restarts=2,step_size=1/4").params == {"steps": 3, "restarts": 2, "step_size": 0.25}


def test_setting_a_value_does_not_change_the_registry() -> None:
    resolve("pgd20@steps=3")
    assert resolve("pgd20").params == DEFAULTS["pgd20"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pgd2", "unknown attack 'pgd2'; did you mean pgd20"),
        (
            "autoatack",
            "unknown attack 'autoatack'; did you mean autoattack or autoattack-rand or autoattack-plus? "
            "(or package.module:function)",
        ),
        ("transfer@attack=fgsm", "attack transfer@attack=fgsm: attack must be one of i-fgsm, pgd, cw, got 'fgsm'"),
        ("transfer@labels=x", "attack transfer@labels=x: labels must be one of true, predicted, got 'x'"),
        ("zzz", f"unknown attack 'zzz'; known: {', '.join(ATTACKS)} (or package.module:function)"),
        ("", "unknown attack ''; known: "),
        (
            "pgd20@foo=3",
            "attack pgd20@foo=3: cannot set 'foo=3'; accepted: steps=..., restarts=..., step_size=...",
        ),
        ("pgd20@steps", "attack pgd20@steps: cannot set 'steps'; accepted: steps=..."),
        ("pgd20@steps=", "attack pgd20@steps=: cannot set 'steps='; accepted: steps=..."),
        ("pgd20@seed=3", "cannot set 'seed=3'"),
        ("cw100@name=pgd", "cannot set 'name=pgd'"),
        ("cw100@loss=margin", "cannot set 'loss=margin'"),
        ("autoattack@steps=3", "attack autoattack@steps=3: cannot set 'steps=3'; accepted: none"),
        ("pgd20@steps=2.5", "attack pgd20@steps=2.5: steps must be a positive whole number, got '2.5'"),
        ("pgd20@steps=5/2", "steps must be a positive whole number, got '5/2'"),
        ("pgd20@steps=0", "steps must be a positive whole number, got '0'"),
        ("pgd20@steps=-1", "steps must be a positive whole number, got '-1'"),
        ("pgd20@step_size=0", "step_size must be a positive number or fraction, got '0'"),
        ("pgd20@step_size=nan", "step_size must be a positive number or fraction, got 'nan'"),
        ("pgd20@step_size=inf", "step_size must be a positive number or fraction, got 'inf'"),
        ("pgd20@step_size=1/0", "step_size must be a positive number or fraction, got '1/0'"),
        ("pgd20@step_size=small", "step_size must be a positive number or fraction, got 'small'"),
        ("magnet100@published=yes", "attack magnet100@published=yes: published must be true or false, got 'yes'"),
    ],
)
def test_an_error_names_what_was_written_and_what_is_accepted(text: str, message: str) -> None:
    with pytest.raises(AttackError) as caught:
        resolve(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


USER_ATTACK = """
import torch
from attacks.contract import AttackResult

def brighten(model, x, y, threat, *, seed, sample_ids, amount=0.5, twice=False, note=""):
    x_adv = threat.project(x, x + amount * threat.eps * (2 if twice else 1))
    return AttackResult(x_adv, flags=(f"{note} {seed} {sample_ids.tolist()}",))

def anything(*args, **kwargs):
    return brighten(*args, **kwargs)

def no_seed(model, x, y, threat):
    return AttackResult(x)

def no_ids(model, x, y, threat, *, seed):
    return AttackResult(x)

constant = 3
"""


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package on the Python path that holds attacks."""
    package = tmp_path / "users_own"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "attack.py").write_text(USER_ATTACK)
    (package / "broken.py").write_text("raise RuntimeError('two\\nlines')")
    (package / "needy.py").write_text("import a_module_that_is_not_there")
    monkeypatch.syspath_prepend(tmp_path)
    yield package
    for name in [name for name in sys.modules if name.startswith("users_own")]:
        del sys.modules[name]


def test_a_users_function_runs_with_its_parameters(user_module: Path) -> None:
    attack = resolve("users_own.attack:brighten@amount=1/4,twice=true,note=hello")
    source = (user_module / "attack.py").read_bytes()
    assert attack.params == {
        "amount": 0.25,
        "twice": True,
        "note": "hello",
        "source_sha256": hashlib.sha256(source).hexdigest(),
    }
    assert attack.surrogate is None
    problem = linear_problem(2, 3, seed=0, low=0.2, high=0.6)
    result = call(attack, None)(
        problem.model, problem.x, problem.y, Threat("linf", 0.1), seed=4, sample_ids=problem.sample_ids
    )
    torch.testing.assert_close(result.x_adv, problem.x + 0.05)
    assert result.flags == ("hello 4 [0, 1, 2]",)


@pytest.mark.usefixtures("user_module")
def test_a_users_function_may_take_any_keyword() -> None:
    problem = linear_problem(2, 2, seed=0)
    result = call(resolve("users_own.attack:anything"), None)(
        problem.model, problem.x, problem.y, Threat("linf", 0.1), seed=4, sample_ids=problem.sample_ids
    )
    assert_allowed(Threat("linf", 0.1), problem.x, result.x_adv)


@pytest.mark.usefixtures("user_module")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("users_own.nothing:f", "attack users_own.nothing:f: no module named 'users_own.nothing' on the Python path"),
        ("not_there:f", "attack not_there:f: no module named 'not_there' on the Python path"),
        ("users_own.needy:f", "no module named 'a_module_that_is_not_there' on the Python path"),
        ("users_own.broken:f", "importing users_own.broken raised RuntimeError: two lines"),
        ("users_own.attack:absent", "users_own.attack has no callable 'absent'"),
        ("users_own.attack:constant", "users_own.attack has no callable 'constant'"),
        ("users_own.attack:no_seed", "must be f(model, x, y, threat, *, seed, sample_ids), lacks seed and sample_ids"),
        ("users_own.attack:no_ids", "must be f(model, x, y, threat, *, seed, sample_ids), lacks sample_ids"),
        ("users_own.attack:brighten@loud=1", "cannot set 'loud=1'; accepted: amount=..., twice=..., note=..."),
        ("builtins:dict", "attack builtins:dict: "),
    ],
)
def test_a_users_function_that_cannot_be_had_is_named_in_one_line(name: str, message: str) -> None:
    with pytest.raises(AttackError) as caught:
        resolve(name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_surrogate_is_bound_in_place_of_its_name() -> None:
    problem = linear_problem(3, 4, seed=0)
    attack = resolve("transfer@surrogate=something,steps=3")
    assert attack.surrogate == "something"
    arguments = (problem.model, problem.x, problem.y, Threat("linf", 0.1))
    result = call(attack, problem.model)(*arguments, seed=0, sample_ids=problem.sample_ids)
    assert not torch.equal(result.x_adv, problem.x)
    with pytest.raises(TypeError, match="something"):
        call(attack, None)(*arguments, seed=0, sample_ids=problem.sample_ids)
