"""What the folder of a run holds, read with distrust: whatever is damaged is told, and the rest is read."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays

from results.printable import printable
from results.records import UnitRecord, WorkUnit, check_unit
from results.store import SCHEMA_VERSION, StoreError, plan_text, record_text, run_text
from results.verification import Kind, Problem

_MOST_WORDS = 200

Read = TypeVar("Read")


@dataclass(frozen=True)
class Saved:
    """Configuration and plan are None where their files cannot be used; `units` are then those of the records.

    `records` are those that could be read, by their keys; `strangers` the files in units/ of no unit of the plan.
    """

    folder: Path
    configuration: Mapping[str, Any] | None
    plan: list[WorkUnit] | None
    units: list[WorkUnit]
    records: dict[str, UnitRecord]
    strangers: list[str]
    problems: list[Problem]

    @property
    def whole(self) -> bool:
        """Whether plan and records, as far as they are there, could be read."""
        return self.plan is not None and not any(problem.kind is Kind.REFUTED for problem in self.problems)


class _Unusable(ValueError):
    """A file's content; the message is what a person is told of it."""


def read_saved(folder: Path) -> Saved:
    """Everything but images and proofs; StoreError for a folder that is no run."""
    if not any((folder / name).exists() for name in ("run.json", "plan.json", "units")):
        raise StoreError(f"{folder} is not a run folder: it has no run.json")
    problems: list[Problem] = []
    configuration = _tried(folder, "run.json", _configuration, problems)
    if any(problem.kind is Kind.UNVERIFIABLE for problem in problems):
        return Saved(folder, None, None, [], {}, [], problems)
    plan = _tried(folder, "plan.json", _plan, problems)
    records: dict[str, UnitRecord] = {}
    present: list[str] = []
    try:
        present = sorted(path.name for path in (folder / "units").iterdir())
    except FileNotFoundError:
        pass
    except OSError as error:
        problems.append(Problem(Kind.REFUTED, "units", f"cannot be read: {error.strerror}"))
    keys = [unit.key for unit in plan] if plan is not None else [n[:-5] for n in present if n.endswith(".json")]
    for key in keys:
        name = f"units/{key}.json"
        if f"{key}.json" in present:
            record = _tried(folder, name, partial(_record, key=key), problems)
            if record is not None:
                records[key] = record
        else:
            problems.append(Problem(Kind.MISSING, name, "the planned unit has no record"))
    own = {name for key in keys for name in _names(records.get(key), key)}
    strangers = [f"units/{name}" for name in present if name not in own]
    units = plan if plan is not None else [record.unit for record in records.values()]
    return Saved(folder, configuration, plan, units, records, strangers, problems)


def read_arrays(folder: Path, name: str, sha256: str | None) -> dict[str, NDArray[Any]] | Problem:
    """The arrays of a file that a record names by its checksum."""
    try:
        payload = (folder / name).read_bytes()
    except FileNotFoundError:
        return Problem(Kind.MISSING, name, "is not there, and the record names it")
    except OSError as error:
        return Problem(Kind.REFUTED, name, f"cannot be read: {error.strerror}")
    actual = hashlib.sha256(payload).hexdigest()
    if actual != sha256:
        return Problem(Kind.REFUTED, name, f"is not the file of its record: sha256 {actual[:12]}..., not {sha256}")
    try:
        return load_arrays(payload)
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        return Problem(Kind.REFUTED, name, f"cannot be read: {error}")


def _names(record: UnitRecord | None, key: str) -> list[str]:
    """The files of a unit; without a record, images and proofs may be those of a killed run."""
    images = record is None or record.adversarial_sha256 is not None
    proofs = record is None or record.proofs_sha256 is not None
    return [f"{key}.json", *[f"{key}.safetensors"] * images, *[f"{key}.proofs.safetensors"] * proofs]


def _tried(folder: Path, name: str, read: Callable[[bytes], Read], problems: list[Problem]) -> Read | None:
    try:
        return read((folder / name).read_bytes())
    except FileNotFoundError:
        problems.append(Problem(Kind.MISSING, name, "is not there"))
    except OSError as error:
        problems.append(Problem(Kind.REFUTED, name, f"cannot be read: {error.strerror}"))
    except _OfAnotherVersion as error:
        problems.append(Problem(Kind.UNVERIFIABLE, name, str(error)))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = "".join(f"{part}: " for part in first["loc"])
        problems.append(Problem(Kind.REFUTED, name, _short(f"is damaged: {where}{first['msg']}")))
    except (ValueError, TypeError, RecursionError) as error:
        problems.append(Problem(Kind.REFUTED, name, _short(f"is damaged: {error}")))
    return None


class _OfAnotherVersion(ValueError):
    """A file that another version of this program wrote."""


def _configuration(payload: bytes) -> Mapping[str, Any]:
    content = json.loads(payload)
    if not isinstance(content, dict) or not isinstance(content.get("configuration"), dict):
        raise _Unusable("it holds no configuration")
    if content.get("schema_version") != SCHEMA_VERSION:
        raise _OfAnotherVersion(f"has another schema version than {SCHEMA_VERSION}")
    _check_text(payload, run_text(content))
    configuration: Mapping[str, Any] = content["configuration"]
    return configuration


def _plan(payload: bytes) -> list[WorkUnit]:
    content = json.loads(payload)
    if not isinstance(content, list):
        raise _Unusable("it is not a list of units")
    units = [WorkUnit.model_validate(unit) for unit in content]
    for unit in units:
        check_unit(unit)
    if len({unit.key for unit in units}) != len(units):
        raise _Unusable("it names a unit twice")
    _check_text(payload, plan_text(units))
    return units


def _record(payload: bytes, key: str) -> UnitRecord:
    record = UnitRecord.model_validate_json(payload)
    if record.key != key:
        raise _Unusable("it holds the record of another unit")
    check_unit(record.unit)
    _check_text(payload, record_text(record))
    return record


def _check_text(payload: bytes, written: bytes) -> None:
    """The same content in another spelling is no other content, and still not what `bench run` wrote."""
    if payload != written:
        place = next((i for i, (a, b) in enumerate(zip(payload, written, strict=False)) if a != b), len(written))
        raise _Unusable(f"it is not as bench run writes it, from byte {place} on")


def _short(text: str) -> str:
    return printable(text)[:_MOST_WORDS]
