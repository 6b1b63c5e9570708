"""Records to rows: one row a model as attacked, models of one classifier together, best worst case first."""

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from results.aggregate import (
    Proportion,
    UnsoundError,
    certified,
    standing,
    verdicts_by_sample,
    wilson,
    worst_case,
)
from results.diagnosis import findings, undecided
from results.findings import NOT_CHECKED, Finding, without_repeats
from results.flags import merged
from results.records import Classifier, UnitRecord, Verdict, WorkUnit, certified_samples
from results.trust import Evidence, Trust, grade


@dataclass(frozen=True)
class Row:
    """One model under one threat.

    `attacks` holds each attack alone, over all `n` samples, verifiers among them; an attack that is not done is missing
    there. `proofs` holds what each verifier certified.
    `robust_upper` is the worst case per sample over all attacks of the classifier, through every head it
    was attacked; `robust_lower` the proven part. Both are None until every planned unit is done, and so is
    `rank`. `rank` is shared by the rows of one classifier. `missed`: how many of the `exactly_broken` samples, which
    a verifier broke, each attack left standing; its blind spot. `trust` in `robust_upper` is shared like `rank`, and
    None like it; `findings` are those about the classifier, the gravest first.
    """

    model: str
    group: str
    dataset: str
    norm: str
    eps: float
    n: int
    done: int
    rank: int | None
    clean: Proportion | None
    attacks: dict[str, Proportion]
    robust_upper: Proportion | None
    robust_lower: Proportion | None
    flags: list[str] = field(default_factory=list)
    proofs: dict[str, Proportion] = field(default_factory=dict)
    missed: dict[str, int] = field(default_factory=dict)
    exactly_broken: int = 0
    trust: Trust | None = None
    findings: list[Finding] = field(default_factory=list)


def leaderboard(
    units: Sequence[WorkUnit],
    records: Iterable[UnitRecord],
    probed: Mapping[Classifier, Sequence[Finding]] | None = None,
) -> list[Row]:
    """Rows of the planned units; ValueError when they mix protocols. `probed`: what `bench diagnose` found besides."""
    protocols = sorted({unit.protocol for unit in units})
    if len(protocols) > 1:
        raise ValueError(f"a table cannot mix protocols {', '.join(map(str, protocols))}")
    done = {record.key: record for record in records}
    planned: dict[Classifier, list[WorkUnit]] = defaultdict(list)
    for unit in units:
        planned[classifier_of(unit)].append(unit)
    groups = [_rows_of(members, done) for members in planned.values()]
    found = findings(units, done.values())
    for about, group in zip(planned, groups, strict=True):
        evidence = [done[unit.key] for unit in planned[about] if unit.key in done]
        group[:] = _graded(group, evidence, _with_probed(found[about], (probed or {}).get(about)))
    groups.sort(key=_rank_key)
    rows: list[Row] = []
    for _, table in itertools.groupby(groups, key=lambda group: (group[0].dataset, group[0].norm, group[0].eps)):
        rank, last = 0, None
        for position, group in enumerate(table, start=1):
            upper = group[0].robust_upper
            if upper is not None:
                rank, last = (rank, last) if last == upper.value else (position, upper.value)
            rows += [_ranked(row, rank if upper is not None else None) for row in group]
    return rows


def _with_probed(found: Sequence[Finding], probed: Sequence[Finding] | None) -> list[Finding]:
    """A diagnosis, whatever it found, has checked the model as well."""
    if probed is None:
        return list(found)
    return without_repeats([*(one for one in found if one.check != NOT_CHECKED), *probed])


def classifier_of(unit: WorkUnit) -> Classifier:
    """What the verdicts of a unit are about; units that agree in it must not contradict one another."""
    return unit.classifier


def _rank_key(group: list[Row]) -> tuple[str, str, float, bool, float, float]:
    """By data set and threat, complete rows first, then by worst case and clean accuracy, falling."""
    row = group[0]
    upper = row.robust_upper.value if row.robust_upper else 0.0
    clean = row.clean.value if row.clean else 0.0
    return row.dataset, row.norm, row.eps, row.robust_upper is None, -upper, -clean


def _rows_of(units: list[WorkUnit], done: dict[str, UnitRecord]) -> list[Row]:
    """The rows of one classifier, one for each head it is attacked through."""
    records = [done[unit.key] for unit in units if unit.key in done]
    complete = len(records) == len(units)
    check_sound(records)
    worst: dict[int, Verdict] = {}
    if complete:
        worst = worst_case(verdicts_by_sample([record]) for record in records)
    truth = _exactly_broken(records) if complete else frozenset()
    models = dict.fromkeys(unit.model for unit in units)
    return [
        _row(model, [u for u in units if u.model == model], done, worst if complete else None, truth)
        for model in models
    ]


def _graded(group: list[Row], records: Sequence[UnitRecord], found: list[Finding]) -> list[Row]:
    """The rows of one classifier with their findings, and once all is done with their grade."""
    upper, lower = group[0].robust_upper, group[0].robust_lower
    if upper is None or lower is None:
        return [dataclasses.replace(row, findings=found) for row in group]
    attacks = dict.fromkeys((r.unit.model, r.unit.attack) for r in records if not r.unit.proves)
    verifiers = tuple(dict.fromkeys(r.unit.attack for r in records if r.unit.proves))
    settled = lower.value >= upper.low
    trust = grade(Evidence(tuple(attacks), verifiers, undecided(records), settled), found)
    return [dataclasses.replace(row, trust=trust, findings=found) for row in group]


def check_sound(records: Sequence[UnitRecord]) -> None:
    """Raise UnsoundError, naming both records, for a sample that is broken in one and certified in another."""
    proofs: dict[tuple[Classifier, int], UnitRecord] = {}
    for record in sorted(records, key=lambda record: record.unit.proves):  # a verifier's own record is the evidence
        proofs |= {(classifier_of(record.unit), sample): record for sample in certified_samples(record)}
    for record in records:
        for sample, verdict in zip(record.sample_ids, record.verdicts, strict=True):
            proof = proofs.get((classifier_of(record.unit), sample))
            if verdict is Verdict.BROKEN and proof is not None:
                kept = "json" if proof.proofs_sha256 is None else "proofs.safetensors"
                raise UnsoundError(
                    f"sample {sample} is both broken and certified ({record.unit.norm} {record.unit.eps:.4g}): "
                    f"{record.unit.model} under {record.unit.attack}, image in units/{record.key}.safetensors; "
                    f"{proof.unit.model} under {proof.unit.attack}, proof in units/{proof.key}.{kept}"
                )


def _exactly_broken(records: Iterable[UnitRecord]) -> frozenset[int]:
    """The samples that verifiers broke: the truth about them is known."""
    return frozenset(
        sample
        for record in records
        if record.unit.proves
        for sample, verdict in zip(record.sample_ids, record.verdicts, strict=True)
        if verdict is Verdict.BROKEN
    )


def _row(
    model: str,
    units: list[WorkUnit],
    done: dict[str, UnitRecord],
    worst: dict[int, Verdict] | None,
    truth: frozenset[int],
) -> Row:
    n = len({sample for unit in units for sample in range(unit.start, unit.stop)})
    parts: dict[str, list[WorkUnit]] = defaultdict(list)
    for unit in units:
        parts[unit.attack].append(unit)
    cells: dict[str, Proportion] = {}
    flagged: dict[str, list[str]] = {}
    missed: dict[str, int] = {}
    proofs: dict[str, Proportion] = {}
    for attack, attack_units in parts.items():
        records = [done[unit.key] for unit in attack_units if unit.key in done]
        for flag in merged(record.flags for record in records):
            flagged.setdefault(flag, []).append(attack)
        if len(records) == len(attack_units):
            verdicts = verdicts_by_sample(records)
            cells[attack] = wilson(standing(verdicts), n)
            if attack_units[0].proves:
                proofs[attack] = wilson(certified(verdicts), n)
            elif truth and attack != "clean":
                missed[attack] = standing({sample: v for sample, v in verdicts.items() if sample in truth})
    first = units[0]
    return Row(
        model=model,
        group=first.group,
        dataset=first.dataset,
        norm=first.norm,
        eps=first.eps,
        n=n,
        done=min(sum(u.stop - u.start for u in part if u.key in done) for part in parts.values()),
        rank=None,
        clean=cells.pop("clean", None),
        attacks=cells,
        robust_upper=None if worst is None else wilson(standing(worst), n),
        robust_lower=None if worst is None else wilson(certified(worst), n),
        flags=[
            f"{', '.join(names)}: {flag}" if len(names) == 1 or names != list(parts) else flag
            for flag, names in flagged.items()
        ],
        proofs=proofs,
        missed=missed,
        exactly_broken=len(truth),
    )


def _ranked(row: Row, rank: int | None) -> Row:
    return dataclasses.replace(row, rank=rank)
