"""Units are identified by everything their numbers depend on; records say what they must."""

import hashlib
import json
from typing import Any

import pytest
from pydantic import ValidationError

from results.records import UnitRecord, WorkUnit
from tests.results.builders import UNIT, record, unit

CHANGES: dict[str, Any] = {
    "model": "net@scores",
    "group": "other",
    "weights_sha256": "x" * 64,
    "dataset": "mnist",
    "data_sha256": "e" * 64,
    "norm": "l2",
    "eps": 4 / 255,
    "attack": "pgd100",
    "params": {"steps": 20, "restarts": 10, "step_size": 0.1},
    "start": 1,
    "stop": 5,
    "seed": 1,
    "search": "float32",
    "proves": True,
    "certificates": ["k"],
    "protocol": 1,
}


def test_the_key_is_the_sha256_of_sorted_compact_json() -> None:
    text = json.dumps(UNIT, sort_keys=True, separators=(",", ":"))
    assert unit().key == hashlib.sha256(text.encode()).hexdigest()


def test_every_field_is_part_of_the_key() -> None:
    assert set(CHANGES) == set(WorkUnit.model_fields)
    keys = {unit(**{name: value}).key for name, value in CHANGES.items()}
    assert len(keys | {unit().key}) == len(CHANGES) + 1


@pytest.mark.parametrize("name", ["steps", "restarts", "step_size"])
def test_every_parameter_is_part_of_the_key(name: str) -> None:
    assert unit(params=UNIT["params"] | {name: 3}).key != unit().key


def test_the_order_of_fields_and_parameters_does_not_change_the_key() -> None:
    backwards = dict(reversed(UNIT.items())) | {"params": dict(reversed(UNIT["params"].items()))}
    assert list(backwards) != list(UNIT)
    assert WorkUnit.model_validate(backwards).key == unit().key


@pytest.mark.parametrize("value", [1, 1.0, True, None, "1", "", 2 / 255, 0.1 + 0.2, 1e-300, -7])
def test_a_unit_keeps_its_key_on_the_way_through_a_file(value: str | float | bool | None) -> None:
    before = unit(params={"value": value}, eps=0.1 + 0.2)
    after = WorkUnit.model_validate_json(before.model_dump_json())
    assert after.key == before.key
    assert type(after.params["value"]) is type(value)


def test_parameters_of_different_type_are_different_units() -> None:
    assert len({unit(params={"value": value}).key for value in (1, 1.0, True, "1", None)}) == 5


@pytest.mark.parametrize(
    ("changes", "field"), [({"eps": 0.0}, "eps"), ({"eps": -1.0}, "eps"), ({"start": -1}, "start"), ({"x": 1}, "x")]
)
def test_a_unit_that_makes_no_sense_is_refused(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        unit(**changes)
    assert caught.value.errors()[0]["loc"] == (field,)


def _record_with(**changes: Any) -> UnitRecord:
    return UnitRecord.model_validate(record(unit(), "SBMC").model_dump() | changes)


def test_a_consistent_record_is_accepted() -> None:
    assert _record_with() == record(unit(), "SBMC")


def test_a_record_with_the_key_of_another_unit_is_refused() -> None:
    with pytest.raises(ValidationError, match="key does not belong to unit"):
        _record_with(key=unit(seed=1).key)


@pytest.mark.parametrize("ids", [[0, 1, 2], [0, 1, 2, 4], [1, 2, 3, 4], [3, 2, 1, 0], [0, 0, 1, 2]])
def test_a_record_of_other_samples_than_its_units_is_refused(ids: list[int]) -> None:
    with pytest.raises(ValidationError, match="sample_ids are not the unit's samples"):
        _record_with(sample_ids=ids)


@pytest.mark.parametrize("name", ["labels", "clean_predictions", "predictions", "verdicts", "distances"])
@pytest.mark.parametrize("length", [3, 5])
def test_arrays_need_one_entry_a_sample(name: str, length: int) -> None:
    entries = (record(unit(), "SBMC").model_dump()[name] * 2)[:length]
    with pytest.raises(ValidationError, match="arrays differ in length"):
        _record_with(**{name: entries})


@pytest.mark.parametrize("changes", [{"verdicts": ["survived"] * 3 + ["lost"]}, {"comment": "hello"}])
def test_an_unknown_verdict_or_field_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        _record_with(**changes)
