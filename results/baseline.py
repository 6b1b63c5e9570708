"""The verdicts of a run in one small file to commit: what a later run is held against."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from results.aggregate import UnsoundError, verdicts_by_sample, worst_case
from results.leaderboard import check_sound
from results.records import Scalar, UnitRecord, Verdict, WorkUnit
from results.store import StoreError

SCHEMA_VERSION: Literal[1] = 1
LETTERS = {
    Verdict.MISCLASSIFIED: "M",
    Verdict.BROKEN: "B",
    Verdict.SURVIVED: "S",
    Verdict.CERTIFIED: "C",
}
VERDICTS = {letter: verdict for verdict, letter in LETTERS.items()}

Letters = Annotated[str, StringConstraints(pattern="^[MBSC]+$")]
"""One letter a sample, in the order of the sample ids."""


class BaselineError(StoreError):
    """A baseline, or a gate on it, that cannot be used; the message is one line and names the field."""


class AttackVerdicts(BaseModel):
    """One attack on one model of a classifier; `searched` is the arithmetic it found its images in, for information."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    attack: str
    params: dict[str, Scalar]
    proves: bool
    searched: str
    verdicts: Letters


class Case(BaseModel):
    """A classifier on data under a threat, through every head and attack of the run.

    `samples` are the sample ids as ranges [start, stop). `unit_size` is the largest unit, which attacks on whole
    batches depend on. `clean` and `worst` are verdicts before any attack and after all; `worst` says nothing that the
    others do not, and so shows a file that was damaged. `weights_sha256` is for information: weights may change.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    classifier: str
    weights_sha256: str
    dataset: str
    data_sha256: str
    norm: str
    eps: Annotated[float, Field(gt=0)]
    seed: int
    search: str
    unit_size: int
    samples: tuple[tuple[int, int], ...]
    clean: Letters
    worst: Letters
    attacks: tuple[AttackVerdicts, ...]

    @property
    def key(self) -> tuple[str, str, str, float]:
        """What is the same on both sides of a comparison."""
        return self.classifier, self.data_sha256, self.norm, self.eps

    @property
    def sample_ids(self) -> list[int]:
        return [sample for start, stop in self.samples for sample in range(start, stop)]

    def by_sample(self, letters: str) -> dict[int, Verdict]:
        return {sample: VERDICTS[letter] for sample, letter in zip(self.sample_ids, letters, strict=True)}

    @model_validator(mode="after")
    def _consistent(self) -> "Case":
        ends = [end for part in self.samples for end in part]
        if any(start >= stop for start, stop in self.samples) or ends != sorted(ends):
            raise ValueError(f"{self.classifier}: samples are not ascending ranges")
        strings = [self.clean, *(attack.verdicts for attack in self.attacks)]
        n = sum(stop - start for start, stop in self.samples)
        if any(len(letters) != n for letters in (self.worst, *strings)):
            raise ValueError(f"{self.classifier}: the verdicts are not one letter for each of {n} samples")
        if len({(attack.model, attack.attack) for attack in self.attacks}) < len(self.attacks):
            raise ValueError(f"{self.classifier}: attacks names one entry twice")
        try:
            worst = worst_case(self.by_sample(letters) for letters in strings)
        except UnsoundError as error:
            raise ValueError(f"{self.classifier}: {error}") from None
        if "".join(LETTERS[verdict] for verdict in worst.values()) != self.worst:
            raise ValueError(f"{self.classifier}: worst is not the worst case of clean and attacks")
        return self


class Baseline(BaseModel):
    """A complete run. `commit`, `versions` and `machine` tell where it was made; none of them is compared."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1]
    protocol: int
    commit: str
    versions: dict[str, str]
    machine: str
    cases: Annotated[tuple[Case, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _consistent(self) -> "Baseline":
        keys = [case.key for case in self.cases]
        for key in keys:
            if keys.count(key) > 1:
                raise ValueError(f"classifier {key[0]} is there twice under one threat")
        return self

    def text(self) -> str:
        """JSON, a line for each string of verdicts; the same run gives the same text."""
        return json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"


def baseline_of(
    units: Sequence[WorkUnit], records: Iterable[UnitRecord], renames: Mapping[str, str] | None = None
) -> Baseline:
    """What a run found; BaselineError for a run that is incomplete or mixes protocols.

    `renames` gives classifiers of the run (keys) another name, under all their heads: a weight file that was given by
    its path can be held against the model of the zoo it is to replace. Raises UnsoundError as the leaderboard does.
    """
    done = {record.key: record for record in records}
    missing = [unit for unit in units if unit.key not in done]
    if missing or not units:
        raise BaselineError(
            f"the run is incomplete: {len(missing)} of {len(units)} units are not done; the same bench run command "
            "goes on with it"
        )
    protocols = sorted({unit.protocol for unit in units})
    if len(protocols) > 1:
        raise BaselineError(f"protocol: the run mixes {' and '.join(map(str, protocols))}")
    found = [done[unit.key] for unit in units]
    check_sound(found)
    names = _renamed(dict.fromkeys(name for unit in units for name in (unit.group, unit.model)), renames or {})
    parts: dict[tuple[str, str, str, float], list[UnitRecord]] = defaultdict(list)
    for record in found:
        unit = record.unit
        parts[names[unit.group], unit.data_sha256, unit.norm, unit.eps].append(record)
    cases = tuple(_case(classifier, part, names) for (classifier, *_), part in parts.items())
    last = max((record.provenance for record in found), key=lambda provenance: provenance.finished)
    return Baseline(
        schema_version=SCHEMA_VERSION,
        protocol=protocols[0],
        commit=", ".join(dict.fromkeys(record.provenance.commit for record in found)),
        versions=last.versions,
        machine=", ".join(dict.fromkeys(record.provenance.machine for record in found)),
        cases=cases,
    )


def read_baseline(path: Path) -> Baseline:
    """A committed baseline, checked; BaselineError names the file and the field that is wrong."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BaselineError(f"--baseline {path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise BaselineError(f"--baseline {path} is damaged: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or "schema_version" not in content:
        raise BaselineError(f"--baseline {path} is damaged or no baseline: it has no schema_version")
    if content["schema_version"] != SCHEMA_VERSION:
        raise BaselineError(
            f"schema_version: --baseline {path} has {content['schema_version']!r}, this bench reads {SCHEMA_VERSION}; "
            f"write it anew with bench regress RUN --write-baseline {path}"
        )
    try:
        return Baseline.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        raise BaselineError(f"--baseline {path} is damaged: {where + ': ' if where else ''}{message}") from None


def parse_renames(assignments: Iterable[str]) -> dict[str, str]:
    """NEW=OLD, as on the command line; the last = divides, for a path may hold one."""
    renames = {}
    for assignment in assignments:
        new, _, old = assignment.rpartition("=")
        if not (new and old):
            raise BaselineError(
                f"--rename must be NEW=OLD, the name in the run and in the baseline, got {assignment!r}"
            )
        renames[new] = old
    return renames


def _case(classifier: str, records: Sequence[UnitRecord], names: Mapping[str, str]) -> Case:
    """A classifier's records under one threat."""
    first = records[0].unit
    weights = sorted({record.unit.weights_sha256 for record in records})
    if len(weights) > 1 or len({record.unit.group for record in records}) > 1:
        raise BaselineError(f"--rename: the run has two classifiers {classifier!r} then; give them names of their own")
    parts: dict[tuple[str, str], list[UnitRecord]] = defaultdict(list)
    for record in records:
        parts[names[record.unit.model], record.unit.attack].append(record)
    verdicts = {of: dict(sorted(verdicts_by_sample(part).items())) for of, part in parts.items()}
    clean = worst_case(found for (_, attack), found in verdicts.items() if attack == "clean")
    worst = worst_case(verdicts.values())
    for (model, attack), found in ((("all heads", "clean"), clean), *verdicts.items()):
        if list(found) != list(worst):
            raise BaselineError(f"sample_ids: {attack} on {model} has other samples than the rest of {classifier}")
    return Case(
        classifier=classifier,
        weights_sha256=weights[0],
        dataset=first.dataset,
        data_sha256=first.data_sha256,
        norm=first.norm,
        eps=first.eps,
        seed=first.seed,
        search=first.search,
        unit_size=max(record.unit.stop - record.unit.start for record in records),
        samples=_ranges(list(worst)),
        clean=_letters(clean),
        worst=_letters(worst),
        attacks=tuple(
            AttackVerdicts(
                model=model,
                attack=attack,
                params=part[0].unit.params,
                proves=part[0].unit.proves,
                searched=", ".join(sorted({record.search for record in part})),
                verdicts=_letters(verdicts[model, attack]),
            )
            for (model, attack), part in parts.items()
            if attack != "clean"
        ),
    )


def _renamed(names: Iterable[str], renames: Mapping[str, str]) -> dict[str, str]:
    """The name of each classifier and head in the baseline."""
    found = {name: name for name in names}
    for new, old in renames.items():
        meant = {name: old + name.removeprefix(new) for name in found if name == new or name.startswith(f"{new}@")}
        if not meant:
            raise BaselineError(f"--rename: no classifier {new!r} in the run; it has {', '.join(found)}")
        found |= meant
    return found


def _letters(verdicts: Mapping[int, Verdict]) -> str:
    return "".join(LETTERS[verdict] for verdict in verdicts.values())


def _ranges(ids: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Ascending ids as ranges [start, stop)."""
    gaps = [place for place, (one, following) in enumerate(pairwise(ids), start=1) if following != one + 1]
    return tuple((ids[a], ids[b - 1] + 1) for a, b in pairwise([0, *gaps, len(ids)]))
