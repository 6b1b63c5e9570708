"""A run's folder: one JSON record a unit, the adversarial images beside it, both written whole or not at all."""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from results.records import UnitRecord, WorkUnit, check_unit

SCHEMA_VERSION = 2


class StoreError(ValueError):
    """A run folder that cannot be used; the message is one line and names the file."""


class Store:
    """Records of one run under `folder`: `run.json`, `units/KEY.json`, `units/KEY.safetensors`."""

    def __init__(self, folder: Path):
        self.folder = folder

    @property
    def units(self) -> Path:
        return self.folder / "units"

    @contextlib.contextmanager
    def opened(self, configuration: Mapping[str, Any]) -> Iterator[None]:
        """`open_for`, and the folder kept from other runs meanwhile; StoreError when one is using it."""
        self.open_for(configuration)
        path = self.folder / "run.lock"
        try:
            lock = path.open("w")
        except OSError as error:
            raise StoreError(f"{path} cannot be written: {error.strerror}") from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise StoreError(f"{self.folder} is in use by another bench run") from None
            for leftover in self.units.glob("*.partial"):
                leftover.unlink()
            yield

    def open_for(self, configuration: Mapping[str, Any]) -> None:
        """Create the folder for a configuration, or check that it already belongs to it.

        Raises StoreError for a folder of another configuration, another schema or other content.
        """
        marker = self.folder / "run.json"
        wanted = {"schema_version": SCHEMA_VERSION, "configuration": dict(configuration)}
        if marker.exists():
            present = self.description()
            if present != json.loads(json.dumps(wanted)):
                raise StoreError(
                    f"--out {self.folder} belongs to another configuration ({_difference(present, wanted)}); "
                    "choose another folder"
                )
        elif self.folder.exists() and not self._half_made():
            raise StoreError(f"--out {self.folder} exists and is not a run folder; choose another folder")
        else:
            self._make_units()
            write_whole(marker, run_text(wanted))
        self._make_units()

    def _half_made(self) -> bool:
        """Whether the folder is empty but for what an interrupted `open_for` leaves."""
        if not self.folder.is_dir():
            return False
        names = {path.name for path in self.folder.iterdir()}
        return names <= {"units", "run.json.partial"} and not any(self.units.glob("*"))

    def _make_units(self) -> None:
        try:
            self.units.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"--out {self.folder} cannot be made: {error.strerror}") from None

    def description(self) -> dict[str, Any]:
        """The content of run.json; StoreError when the folder is not a run."""
        marker = self.folder / "run.json"
        try:
            content = json.loads(marker.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise StoreError(f"{self.folder} is not a run folder: it has no run.json") from None
        except (OSError, ValueError, RecursionError) as error:
            raise StoreError(f"{marker} cannot be read: {error}") from None
        if not isinstance(content, dict) or content.get("schema_version") != SCHEMA_VERSION:
            raise StoreError(f"{marker} has another schema version than {SCHEMA_VERSION}")
        if not isinstance(content.get("configuration"), dict):
            raise StoreError(f"{marker} is damaged: it holds no configuration")
        return content

    def write_plan(self, units: Iterable[WorkUnit]) -> None:
        """Keep the planned units, so that the run can be reported without its models and data."""
        write_whole(self.folder / "plan.json", plan_text(units))

    def read_plan(self) -> list[WorkUnit]:
        """The units of the last plan; StoreError when there is none."""
        self.description()
        path = self.folder / "plan.json"
        try:
            units = [WorkUnit.model_validate(unit) for unit in json.loads(path.read_text(encoding="utf-8"))]
            for unit in units:
                check_unit(unit)
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise StoreError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
        return units

    def dataset(self, unit: WorkUnit) -> str:
        """A unit's data set as the run's configuration calls it: with the folder of an npz:FILE or folder:DIR."""
        return str(self.description()["configuration"].get("dataset", unit.dataset))

    def keys(self) -> set[str]:
        """Keys of the units that are done; StoreError where nobody can tell."""
        try:
            return {path.stem for path in self.units.iterdir() if path.suffix == ".json"}
        except FileNotFoundError:
            return set()
        except OSError as error:
            raise StoreError(f"{self.units} cannot be read: {error.strerror}") from None

    def write(self, record: UnitRecord, adversarial: bytes | None, proofs: bytes | None = None) -> None:
        """Write images and proofs first, then the record, which says that the unit is done."""
        if adversarial is not None:
            write_whole(self.units / f"{record.key}.safetensors", adversarial)
        if proofs is not None:
            write_whole(self.units / f"{record.key}.proofs.safetensors", proofs)
        write_whole(self.units / f"{record.key}.json", record_text(record))

    def read(self, units: Iterable[WorkUnit]) -> list[UnitRecord]:
        """The records of those units that are done; StoreError names a damaged file."""
        done = self.keys()
        return [self._read_one(unit.key) for unit in units if unit.key in done]

    def read_adversarial(self, record: UnitRecord) -> dict[str, NDArray[Any]]:
        """`sample_ids` (b,) and `x_adv` (b, c, h, w) float32 of the broken samples, checked by sha256."""
        return _arrays(self.units / f"{record.key}.safetensors", record.adversarial_sha256)

    def read_proofs(self, record: UnitRecord) -> dict[str, NDArray[Any]]:
        """The arrays of a verifier's proofs, checked by sha256."""
        return _arrays(self.units / f"{record.key}.proofs.safetensors", record.proofs_sha256)

    def _read_one(self, key: str) -> UnitRecord:
        path = self.units / f"{key}.json"
        try:
            record = UnitRecord.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise StoreError(
                f"{path} is damaged ({error.errors()[0]['msg']}); remove it to run its unit again"
            ) from None
        except OSError as error:
            raise StoreError(f"{path} cannot be read: {error.strerror}") from None
        if record.key != key:
            raise StoreError(f"{path} holds the record of another unit; remove it to run its unit again")
        return record


def run_text(description: Mapping[str, Any]) -> bytes:
    """The bytes of run.json."""
    return json.dumps(description, indent=2, sort_keys=True).encode()


def plan_text(units: Iterable[WorkUnit]) -> bytes:
    """The bytes of plan.json."""
    return json.dumps([unit.model_dump(mode="json") for unit in units], indent=1).encode()


def record_text(record: UnitRecord) -> bytes:
    """The bytes of a record's file."""
    return record.model_dump_json(indent=1).encode()


def _arrays(path: Path, sha256: str | None) -> dict[str, NDArray[Any]]:
    try:
        payload = path.read_bytes()
        arrays = load_arrays(payload)
    except (OSError, SafetensorError) as error:
        raise StoreError(f"{path} cannot be read: {error}") from None
    if hashlib.sha256(payload).hexdigest() != sha256:
        raise StoreError(f"{path} is not the file its record was written with (sha256 differs)")
    return arrays


def pack_adversarial(sample_ids: NDArray[np.int64], x_adv: NDArray[np.float32]) -> bytes:
    """The bytes of a safetensors file with the broken samples' images."""
    return pack({"sample_ids": sample_ids, "x_adv": x_adv})


def pack(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """The bytes of a safetensors file."""
    return save_arrays({name: np.ascontiguousarray(array) for name, array in arrays.items()})


def write_whole(path: Path, payload: bytes) -> None:
    """Write a file under a temporary name, flush it to the disk, and rename it: whole or not there."""
    temporary = path.with_name(path.name + ".partial")
    try:
        if path.exists() and not path.is_file() and not path.is_dir():  # a device or pipe, not to be replaced
            path.write_bytes(payload)
            return
        with temporary.open("wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise StoreError(f"{path} cannot be written: {error.strerror}") from error


def _difference(present: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    old, new = present.get("configuration", {}), json.loads(json.dumps(wanted["configuration"]))
    fields = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    return f"it differs in {', '.join(fields)}"
