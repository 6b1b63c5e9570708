"""diagnosis.json: what `bench diagnose` tried on a run's classifiers and what it found, beside the run's own files."""

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from results.findings import Finding, without_repeats
from results.records import Classifier
from results.store import StoreError, write_whole

NAME = "diagnosis.json"


class Probe(BaseModel):
    """One costly check: `what` was tried, and with `count` of `n` samples it had the `outcome` in words."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    what: str
    outcome: str
    count: int = Field(ge=0)
    n: int = Field(ge=0)


class Probed(BaseModel):
    """The probes of one classifier, on the first `samples` of the run, and all that was found."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    group: str
    weights_sha256: str
    dataset: str
    data_sha256: str
    norm: str
    eps: float
    samples: int
    standing: int
    seed: int
    probes: tuple[Probe, ...]
    findings: tuple[Finding, ...]

    @property
    def classifier(self) -> Classifier:
        return self.group, self.weights_sha256, self.dataset, self.data_sha256, self.norm, self.eps


class Diagnosis(BaseModel):
    """The content of diagnosis.json; a classifier is in it once, as it was probed last, with all that was found.

    `sha256` is over the classifiers, which is what holds them against damage: SHA256SUMS knows the run's own files
    alone. None where an older version wrote the file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    classifiers: tuple[Probed, ...] = ()
    sha256: str | None = None

    def with_newer(self, newer: Sequence[Probed]) -> "Diagnosis":
        """The same, with what was probed again in the place of what it replaces.

        Its findings stay: fewer samples or another seed may miss what an earlier probe broke, which stays broken.
        """
        merged = {probed.classifier: probed for probed in self.classifiers}
        for probed in newer:
            earlier = merged[probed.classifier].findings if probed.classifier in merged else ()
            kept = tuple(without_repeats([*probed.findings, *earlier]))
            merged[probed.classifier] = probed.model_copy(update={"findings": kept})
        return Diagnosis(classifiers=tuple(merged.values()))

    def text(self) -> bytes:
        """The bytes of the file."""
        content = json.dumps([probed.model_dump(mode="json") for probed in self.classifiers], sort_keys=True)
        sealed = self.model_copy(update={"sha256": hashlib.sha256(content.encode()).hexdigest()})
        return sealed.model_dump_json(indent=1).encode()

    @property
    def findings(self) -> dict[Classifier, Sequence[Finding]]:
        """As `leaderboard` takes them: of other weights or data than a run's, they go unread."""
        return {probed.classifier: probed.findings for probed in self.classifiers}


@contextlib.contextmanager
def diagnosing(folder: Path) -> Iterator[None]:
    """Keep the file from other diagnoses meanwhile, each of which would write what it read before.

    StoreError where another is at it, and where the folder takes no file. The folder itself is locked.
    """
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
        lock = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise StoreError(f"{folder / NAME} cannot be written: {error.strerror}") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(f"{folder} is being diagnosed by another bench diagnose") from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(lock)


def read_diagnosis(folder: Path) -> Diagnosis:
    """What is there of a run; empty where it was not diagnosed. StoreError names a damaged file."""
    path = folder / NAME
    remedy = "remove it and run bench diagnose again"
    try:
        payload = path.read_bytes()
        diagnosis = Diagnosis.model_validate_json(payload)
    except FileNotFoundError:
        return Diagnosis()
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"{part}: " for part in first["loc"])
        raise StoreError(f"{path} is damaged ({where}{first['msg']}); {remedy}") from None
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from None
    if diagnosis.sha256 is not None and payload != diagnosis.text():
        raise StoreError(f"{path} is damaged (it is not as bench diagnose wrote it); {remedy}")
    return diagnosis


def write_diagnosis(folder: Path, diagnosis: Diagnosis) -> Path:
    """Write the file whole or not at all."""
    path = folder / NAME
    write_whole(path, diagnosis.text())
    return path
