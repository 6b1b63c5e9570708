"""What an evaluation leaves behind: units of work, and their records with one verdict a sample."""

import hashlib
import json
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field, model_validator

from results.printable import has_controls

PROTOCOL = 3
"""Raised when a change of the code may change a number; no table mixes two protocols."""

MOST_SAMPLES, MOST_EPS = 10_000_000, 1e9
"""Beyond these a unit is taken for damage: a record holds an entry a sample, and no box is so large."""
NORMS = ("linf", "l2", "l1")

Scalar = str | int | float | bool | None


class Verdict(StrEnum):
    """What is known of one sample under one attack and threat."""

    MISCLASSIFIED = "misclassified"
    BROKEN = "broken"
    SURVIVED = "survived"
    CERTIFIED = "certified"


Classifier = tuple[str, str, str, str, str, float]
"""Group, weights, data set, data, norm and eps: what a verdict is about."""


class WorkUnit(BaseModel):
    """One attack on one model over samples start..stop-1; everything its numbers depend on.

    `group` names the classifier behind a head: units of one group judge the same classifier. `eps` is in
    input units; `search` is the arithmetic that attacks were asked to search in (auto, float32). `proves` marks a
    verifier's unit; `certificates` are the keys of those whose certified samples this unit leaves alone. Commit,
    device and batch size are provenance, not identity.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    group: str
    weights_sha256: str
    dataset: str
    data_sha256: str
    norm: str
    eps: float = Field(gt=0)
    attack: str
    params: dict[str, Scalar]
    start: int = Field(ge=0)
    stop: int
    seed: int
    search: str = "auto"
    proves: bool = False
    certificates: tuple[str, ...] = ()
    protocol: int = PROTOCOL

    @property
    def key(self) -> str:
        """sha256 of the canonical JSON."""
        return hashlib.sha256(canonical_json(self)).hexdigest()

    @property
    def classifier(self) -> Classifier:
        """What the unit's verdicts are about; units that agree in it must not contradict one another."""
        return self.group, self.weights_sha256, self.dataset, self.data_sha256, self.norm, self.eps

    def __str__(self) -> str:
        return f"{self.model} under {self.attack}, {self.norm} {self.eps:.4g}, samples {self.start}-{self.stop - 1}"


MODEL_CHECKS = "model-checks"
"""Among a record's versions: that of the checks of the model itself, which older records were made without."""


class Provenance(BaseModel):
    """Where and when a record was made; never part of its identity."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    commit: str
    versions: dict[str, str]
    machine: str
    device: str
    finished: str


class UnitRecord(BaseModel):
    """The outcome of a unit; the arrays hold one entry a sample.

    `distances` are in the unit's norm, to the adversarial image of a broken sample, None elsewhere.
    `predictions` are the classes predicted on the attack's images; `winners` name what broke a sample: the
    attack, or the part of an ensemble. `forwards` and `backwards` count passes of single samples, which
    depend on how many searches ran side by side; `model_time_ratio` is the share of `seconds` spent in the
    model; `search` is the arithmetic searched in. `flags` are sentences about anything that touches trust.
    `adversarial_sha256` is the checksum of the safetensors file with the broken samples' images, None where
    no sample broke. A verifier's record has `radii`, in the unit's norm, within which nothing breaks a sample
    (None: unknown), and `proofs_sha256`, the checksum of the file with its proofs. A sample that the unit's
    `certificates` prove is certified here as well, without having been attacked.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    unit: WorkUnit
    sample_ids: list[int]
    labels: list[int]
    clean_predictions: list[int]
    predictions: list[int]
    verdicts: list[Verdict]
    distances: list[float | None]
    radii: list[float | None]
    winners: list[str | None]
    forwards: int
    backwards: int
    seconds: float
    samples_per_second: float
    model_time_ratio: float
    search: str
    flags: list[str]
    adversarial_sha256: str | None
    proofs_sha256: str | None
    provenance: Provenance

    @model_validator(mode="after")
    def _consistent(self) -> "UnitRecord":
        if self.key != self.unit.key:
            raise ValueError("key does not belong to unit")
        arrays = (
            self.labels,
            self.clean_predictions,
            self.predictions,
            self.verdicts,
            self.distances,
            self.radii,
            self.winners,
        )
        if self.sample_ids != list(range(self.unit.start, self.unit.stop)):
            raise ValueError("sample_ids are not the unit's samples")
        if any(len(array) != len(self.sample_ids) for array in arrays):
            raise ValueError("arrays differ in length")
        return self


def check_unit(unit: WorkUnit) -> None:
    """ValueError for what no plan holds, what would take for ever, and names that no line can show."""
    if unit.norm not in NORMS or not unit.eps <= MOST_EPS:
        raise ValueError(f"no threat has the norm {unit.norm} and eps {unit.eps:g}")
    if not unit.start < unit.stop <= MOST_SAMPLES:
        raise ValueError(f"no unit has samples {unit.start} to {unit.stop}")
    for name in (unit.model, unit.group, unit.dataset, unit.attack, unit.weights_sha256, unit.data_sha256):
        if has_controls(name):
            raise ValueError(f"a name holds control characters: {name[:40]!r}")


def canonical_json(model: BaseModel) -> bytes:
    """JSON with sorted keys and no spaces: the same bytes for the same content."""
    return json.dumps(model.model_dump(mode="json"), sort_keys=True, separators=(",", ":")).encode()


def certified_samples(record: UnitRecord) -> frozenset[int]:
    """The samples that a record proves."""
    pairs = zip(record.sample_ids, record.verdicts, strict=True)
    return frozenset(sample for sample, verdict in pairs if verdict is Verdict.CERTIFIED)
