"""Hand-built units, records and rows."""

from typing import Any

from results.aggregate import Proportion, wilson
from results.leaderboard import Row
from results.records import MODEL_CHECKS, Provenance, UnitRecord, Verdict, WorkUnit

M, B, S, C = Verdict.MISCLASSIFIED, Verdict.BROKEN, Verdict.SURVIVED, Verdict.CERTIFIED
LETTERS = {"M": M, "B": B, "S": S, "C": C}

UNIT: dict[str, Any] = {
    "model": "net",
    "group": "net",
    "weights_sha256": "w" * 64,
    "dataset": "digits",
    "data_sha256": "d" * 64,
    "norm": "linf",
    "eps": 8 / 255,
    "attack": "pgd20",
    "params": {"steps": 20, "restarts": 10, "step_size": None},
    "start": 0,
    "stop": 4,
    "seed": 0,
    "search": "auto",
    "proves": False,
    "certificates": [],
    "protocol": 3,
}

PROVENANCE = Provenance(
    commit="c" * 40,
    versions={"python": "3.11", MODEL_CHECKS: "1"},
    machine="x86_64, 1 threads",
    device="cpu",
    finished="2025-01-01T00:00",
)


def unit(**changes: Any) -> WorkUnit:
    """A unit that differs from UNIT in `changes`."""
    return WorkUnit.model_validate(UNIT | changes)


def record(of: WorkUnit, verdicts: str, flags: tuple[str, ...] = ()) -> UnitRecord:
    """The record of a unit with verdicts as letters, one of M, B, S, C a sample; the true class is 0."""
    found = [LETTERS[letter] for letter in verdicts]
    return UnitRecord(
        key=of.key,
        unit=of,
        sample_ids=list(range(of.start, of.stop)),
        labels=[0] * len(found),
        clean_predictions=[1 if v is M else 0 for v in found],
        predictions=[1 if v in (M, B) else 0 for v in found],
        verdicts=found,
        distances=[of.eps if v is B else None for v in found],
        radii=[None for _ in found],
        winners=[of.attack if v is B else None for v in found],
        forwards=1,
        backwards=1,
        seconds=0.5,
        samples_per_second=2.0 * len(found),
        model_time_ratio=0.9,
        search="float32",
        flags=list(flags),
        adversarial_sha256=None,
        proofs_sha256=None,
        provenance=PROVENANCE,
    )


def results_of(cells: dict[tuple[str, str], str], **changes: Any) -> tuple[list[WorkUnit], list[UnitRecord]]:
    """Units and records of a table {(model, attack): verdicts}; a model's group is its name up to the @."""
    units = [
        unit(model=model, group=model.partition("@")[0], attack=attack, stop=len(verdicts), **changes)
        for (model, attack), verdicts in cells.items()
    ]
    return units, [record(u, verdicts) for u, verdicts in zip(units, cells.values(), strict=True)]


def row(**changes: Any) -> Row:
    """A finished row of 200 samples, 190 right and 88 standing."""
    fields: dict[str, Any] = {
        "model": "net",
        "group": "net",
        "dataset": "digits",
        "norm": "linf",
        "eps": 8 / 255,
        "n": 200,
        "done": 200,
        "rank": 1,
        "clean": wilson(190, 200),
        "attacks": {"pgd20": wilson(90, 200)},
        "robust_upper": wilson(88, 200),
        "robust_lower": wilson(0, 200),
        "flags": [],
    }
    return Row(**(fields | changes))


def values(cells: dict[str, Proportion]) -> dict[str, float]:
    return {name: cell.value for name, cell in cells.items()}
