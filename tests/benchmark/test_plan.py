"""A plan is a pure function of the request, and covers it exactly."""

import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attacks.registry import resolve as resolve_attack
from benchmark.config import build_config
from benchmark.datasets import Dataset, load
from benchmark.plan import pending, plan
from benchmark.resolve import Request, applies
from model_zoo.registry import LoadedModel
from results.records import PROTOCOL, WorkUnit
from tests.benchmark.builders import Threshold, kmeans_for, loaded

ATTACKS = ["noise", "magnet100@steps=3", "pgd20"]


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load("digits")


def _models(digits: Dataset) -> tuple[LoadedModel, ...]:
    return (
        loaded(Threshold(), "plain", sha256="1" * 64),
        loaded(kmeans_for(digits), "clusters@scores", group="clusters", sha256="2" * 64),
    )


def _request(digits: Dataset, models: tuple[LoadedModel, ...] | None = None, **changes: Any) -> Request:
    models = _models(digits) if models is None else models
    content: dict[str, Any] = {
        "models": [model.name for model in models],
        "dataset": "digits",
        "samples": 25,
        "unit_size": 10,
        "threats": [{"norm": "linf", "eps": "8/255"}, {"norm": "l2", "eps": 0.5}],
        "attacks": ATTACKS,
    }
    config = build_config(content | changes, {})
    return Request(config, digits, models, tuple(resolve_attack(a) for a in config.attacks), {})


def _keys(units: list[WorkUnit]) -> set[str]:
    return {unit.key for unit in units}


def test_the_same_request_gives_the_same_plan_and_is_left_as_it_was(digits: Dataset) -> None:
    request = _request(digits)
    params = [dict(attack.params) for attack in request.attacks]
    first = plan(request)
    first[0].params["planted"] = 1
    assert [unit.key for unit in plan(request)] == [unit.key for unit in plan(_request(digits))]
    assert [attack.params for attack in request.attacks] == params


@pytest.mark.parametrize(("samples", "unit_size"), [(25, 10), (20, 10), (1, 100), (100, 1), (7, 7), (99, 100)])
def test_units_cover_every_sample_once_under_every_attack(digits: Dataset, samples: int, unit_size: int) -> None:
    units = plan(_request(digits, samples=samples, unit_size=unit_size))
    cells: dict[tuple[str, str, str], list[int]] = {}
    for unit in units:
        assert 0 < unit.stop - unit.start <= unit_size
        cells.setdefault((unit.model, unit.norm, unit.attack), []).extend(range(unit.start, unit.stop))
    attacks = {"plain": ["clean", "noise", "pgd20"], "clusters@scores": ["clean", *ATTACKS]}
    expected = {(m, norm, a) for m in attacks for norm, a in itertools.product(("linf", "l2"), attacks[m])}
    assert set(cells) == expected
    assert all(ids == list(range(samples)) for ids in cells.values())
    assert len(_keys(units)) == len(units)


def test_attacks_on_clusters_are_left_out_for_models_without(digits: Dataset) -> None:
    plain, clusters = _models(digits)
    assert not applies(resolve_attack("magnet100"), plain)
    assert applies(resolve_attack("magnet100"), clusters)
    assert {u.model for u in plan(_request(digits)) if u.attack.startswith("magnet")} == {"clusters@scores"}


def test_clean_accuracy_comes_first_and_once_even_when_it_is_asked_for(digits: Dataset) -> None:
    units = plan(_request(digits, attacks=["pgd20", "clean"]))
    for _, group in itertools.groupby(units, key=lambda unit: (unit.norm, unit.model)):
        names = [unit.attack for unit in group]
        assert names == ["clean"] * 3 + ["pgd20"] * 3


def test_a_unit_says_what_its_numbers_depend_on(digits: Dataset) -> None:
    units = plan(_request(digits, seed=5))
    (unit,) = [u for u in units if (u.model, u.norm, u.start) == ("clusters@scores", "l2", 20) and "magnet" in u.attack]
    assert (unit.group, unit.weights_sha256) == ("clusters", "2" * 64)
    assert (unit.dataset, unit.data_sha256) == ("digits", digits.sha256)
    assert (unit.eps, unit.stop, unit.seed, unit.protocol) == (0.5, 25, 5, PROTOCOL)
    assert unit.params == resolve_attack("magnet100").params | {"steps": 3}


def test_the_checksum_of_a_surrogate_is_part_of_the_unit(digits: Dataset) -> None:
    keys = set()
    for sha256 in ("a" * 64, "b" * 64):
        request = _request(digits, attacks=["transfer"])
        surrogates = {"nominal": loaded(Threshold(), "nominal", sha256=sha256)}
        units = plan(Request(request.config, digits, request.models, request.attacks, surrogates))
        (unit, *_) = [unit for unit in units if unit.attack == "transfer"]
        assert unit.params["surrogate_sha256"] == sha256
        keys.add(unit.key)
    assert len(keys) == 2


def test_keys_do_not_depend_on_the_order_in_which_things_are_named(digits: Dataset) -> None:
    models = _models(digits)
    threats = [{"norm": "l2", "eps": 0.5}, {"norm": "linf", "eps": "8/255"}]
    backwards = plan(_request(digits, models[::-1], attacks=ATTACKS[::-1], threats=threats))
    forwards = plan(_request(digits, models))
    assert [unit.key for unit in backwards] != [unit.key for unit in forwards]
    assert _keys(backwards) == _keys(forwards)


def test_keys_do_not_depend_on_what_else_is_asked_for(digits: Dataset) -> None:
    everything = _keys(plan(_request(digits)))
    for attack in ATTACKS:
        assert _keys(plan(_request(digits, attacks=[attack]))) <= everything
    assert _keys(plan(_request(digits, samples=20))) <= everything


@pytest.mark.parametrize("changes", [{"batch_size": 3}, {"device": "cpu"}, {"workers": 3}])
def test_keys_do_not_depend_on_how_the_work_is_done(digits: Dataset, changes: dict[str, Any]) -> None:
    assert _keys(plan(_request(digits, **changes))) == _keys(plan(_request(digits)))


PROVEN = ["exact", "certify", "pgd20", "noise", "autoattack-reference"]


def _heads(digits: Dataset, **changes: Any) -> tuple[LoadedModel, ...]:
    """A classifier under two heads and a model without clusters."""
    fields = {"group": "clusters", "sha256": "2" * 64} | changes
    model = kmeans_for(digits)
    return loaded(model, "clusters", **fields), loaded(model, "clusters@scores", **fields), _models(digits)[0]


def _relied_on(units: list[WorkUnit], unit: WorkUnit) -> list[WorkUnit]:
    by_key = {u.key: u for u in units}
    return [by_key[key] for key in unit.certificates]


def test_attacks_rely_on_every_verifier_of_their_classifier_threat_and_samples(digits: Dataset) -> None:
    threats = [{"norm": "linf", "eps": "8/255"}, {"norm": "linf", "eps": "4/255"}, {"norm": "l2", "eps": "8/255"}]
    units = plan(_request(digits, _heads(digits), attacks=PROVEN, threats=threats))
    for unit in units:
        relied = _relied_on(units, unit)
        if unit.attack in ("pgd20", "noise") and unit.group == "clusters":
            assert {u.attack for u in relied} == {"exact", "certify"}
            assert len(relied) == 2
        else:
            assert relied == []
        for proof in relied:
            assert proof.proves
            for name in ("group", "weights_sha256", "norm", "eps", "start", "stop", "data_sha256"):
                assert getattr(proof, name) == getattr(unit, name)
    assert {u.attack for u in units if u.proves} == {"exact", "certify"}


def test_a_verifier_is_planned_once_for_all_heads_of_a_classifier(digits: Dataset) -> None:
    units = plan(_request(digits, _heads(digits), attacks=PROVEN))
    cells = [(u.norm, u.attack, u.start) for u in units if u.proves]
    assert sorted(cells) == sorted(itertools.product(("linf", "l2"), ("exact", "certify"), (0, 10, 20)))
    assert {u.model for u in units if u.proves} == {"clusters"}


@pytest.mark.parametrize("changes", [{"group": "other"}, {"sha256": "3" * 64}])
def test_another_classifier_has_verifiers_of_its_own(digits: Dataset, changes: dict[str, Any]) -> None:
    first, second, _ = _heads(digits)
    other = loaded(second.model, "other", **({"group": "clusters", "sha256": "2" * 64} | changes))
    units = plan(_request(digits, (first, other), attacks=["exact", "pgd20"]))
    assert [u.model for u in units if u.proves and u.norm == "linf"] == ["clusters"] * 3 + ["other"] * 3
    for unit in units:
        assert all(u.model == unit.model for u in _relied_on(units, unit))


def test_without_skipping_nothing_relies_on_a_verifier(digits: Dataset) -> None:
    heads = _heads(digits)
    units = plan(_request(digits, heads, attacks=PROVEN, skip_certified=False))
    assert all(unit.certificates == () for unit in units)
    relying = plan(_request(digits, heads, attacks=PROVEN))
    assert [(u.model, u.attack, u.start) for u in units] == [(u.model, u.attack, u.start) for u in relying]
    same = _keys(units) & _keys(relying)
    assert same == {u.key for u in relying if u.attack not in ("pgd20", "noise") or u.group == "plain"}


def test_verifiers_are_planned_before_attacks_in_whatever_order_they_are_named(digits: Dataset) -> None:
    forwards = plan(_request(digits, _heads(digits), attacks=PROVEN))
    backwards = plan(_request(digits, _heads(digits), attacks=PROVEN[::-1]))
    assert _keys(forwards) == _keys(backwards)
    for units in (forwards, backwards):
        places = {unit.key: place for place, unit in enumerate(units)}
        assert all(places[key] < places[unit.key] for unit in units for key in unit.certificates)


def test_a_users_attack_relies_on_no_verifier(digits: Dataset, user_module: Callable[[str], str]) -> None:
    attack = f"{user_module('def attack(model, x, y, threat, *, seed, sample_ids): ...')}:attack"
    units = plan(_request(digits, _heads(digits), attacks=["exact", attack]))
    assert {u.certificates for u in units if u.attack == attack} == {()}


def test_pending_units_are_those_not_done_in_order(digits: Dataset) -> None:
    units = plan(_request(digits))
    assert pending(units, []) == units
    assert pending(units, _keys(units)) == []
    done = random.Random(0).sample([unit.key for unit in units], len(units) // 2)
    left = pending(units, [*done, "0" * 64])
    assert [unit.key for unit in left] == [unit.key for unit in units if unit.key not in done]


def test_planning_reads_no_file(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a file was opened")

    request = _request(digits)
    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr("builtins.open", refuse)
    assert plan(request)
