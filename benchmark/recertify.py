"""Saved proofs checked again: what verifiers certify, and the attacks that left certified samples alone."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks.certify import certify
from attacks.exact import proven
from attacks.exact_proofs import Proofs
from attacks.registry import ATTACKS
from attacks.threat import TOLERANCE
from benchmark.rejudge import Names, Part, Subject
from results.leaderboard import classifier_of
from results.records import UnitRecord, Verdict, WorkUnit, certified_samples
from results.verification import Kind, Problem

RADIUS_ALLOWANCE, RADIUS_SHARE = 1e-6, 1e-4
"""By how much a radius of `certify` may differ when it is computed again: this and this share of it. The margin that it
subtracts for float32 is measured, and measures another rounding with other kernels: without oneDNN the radii of the
zoo's networks moved by up to 5e-9. The rest is float64, the same to 1e-13 of itself."""

Arrays = Mapping[str, NDArray[Any]]


def verifies(unit: WorkUnit) -> bool | None:
    """Whether the unit's attack is a verifier; None for a user's attack, which may be one for all we know."""
    entry = ATTACKS.get(unit.attack.partition("@")[0])
    return None if entry is None else entry.verifies


def recertify(record: UnitRecord, part: Part, subject: Subject, proofs: Arrays) -> tuple[list[Problem], int]:
    """The certificates of a verifier's record, computed again: problems, and how many samples were checked.

    Raises what a verifier raises for a model or for proofs that are none of its own.
    """
    right, _ = subject.clean(part)
    tried = torch.nonzero(right).flatten()
    name = record.unit.attack.partition("@")[0]
    check = _by_certify if name == "certify" else _by_proofs
    return check(record, part, subject, proofs, tried), len(certified_samples(record))


def left_alone(record: UnitRecord, records: Mapping[str, UnitRecord], right: Mapping[int, bool]) -> list[Problem]:
    """An attack's certified samples are those that the verifiers' records it names certify, and no others."""
    names, unit, problems = Names(record), record.unit, []
    certified: set[int] = set()
    for key in unit.certificates:
        proof = records.get(key)
        if proof is None:
            problems.append(names.of_record(f"relies on units/{key}.json, which cannot be had", kind=Kind.MISSING))
        elif not proof.unit.proves or classifier_of(proof.unit) != classifier_of(unit):
            problems.append(names.of_record(f"relies on units/{key}.json, which is not about the same classifier"))
        else:
            certified |= certified_samples(proof)
    if problems:
        return problems
    for sample, verdict in zip(record.sample_ids, record.verdicts, strict=True):
        known = sample in certified and right[sample]
        if known and verdict is not Verdict.CERTIFIED:
            problems.append(names.of_record(f"{verdict}, but the verifiers that the unit names certify it", sample))
        elif verdict is Verdict.CERTIFIED and not known and verifies(unit) is None:
            what = "certified by an attack of which no proof is known"
            problems.append(names.of_record(what, sample, Kind.UNVERIFIABLE))
        elif verdict is Verdict.CERTIFIED and not known:
            problems.append(names.of_record("certified, but by no verifier that the unit names", sample))
    return problems


def _by_proofs(record: UnitRecord, part: Part, subject: Subject, proofs: Arrays, tried: Tensor) -> list[Problem]:
    """`exact` and `exact-radius`: the saved weights, by `attacks.exact.proven`."""
    names, problems = Names(record), []
    given = {name: torch.from_numpy(array) for name, array in proofs.items()}
    if len(tried) and not _well_formed(given):
        return [names.of_proofs("does not hold the arrays of an exact proof")]
    ids = part.sample_ids[tried.cpu()]
    marks = torch.zeros(0, dtype=torch.bool)
    if len(tried):
        marks = proven(subject.classifier, part.x[tried], part.y[tried], part.threat, ids, given)
    by_sample = dict(zip(ids.tolist(), marks.tolist(), strict=True))
    has_radii = record.unit.attack.partition("@")[0] == "exact-radius"
    for sample, verdict, radius in zip(record.sample_ids, record.verdicts, record.radii, strict=True):
        holds = by_sample.get(sample, False)
        if verdict is Verdict.CERTIFIED and not holds:
            problems.append(names.of_proofs("certified, but the proofs do not prove it", sample))
        elif holds and verdict is not Verdict.CERTIFIED:
            problems.append(names.of_record(f"{verdict}, but the proofs certify it", sample))
        if radius is not None and not (has_radii and sample in by_sample and radius >= 0):
            problems.append(names.of_record(f"radius {radius:g}, where its verifier gives none", sample))
    return problems


def _well_formed(proofs: Mapping[str, Tensor]) -> bool:
    """Whether these are the arrays of `Proofs`, of lengths that fit; their numbers may say what they like."""
    expected = {name: part.dtype for name, part in Proofs().tensors().items()}
    if {name: part.dtype for name, part in proofs.items()} != expected or any(p.ndim != 1 for p in proofs.values()):
        return False
    start, pairs, entries = proofs["start"], len(proofs["sample"]), len(proofs["own"])
    return (
        len(proofs["rival"]) == len(proofs["multiplier"]) == pairs == len(start) - 1
        and len(proofs["weight"]) == entries
        and int(start[0]) == 0
        and int(start[-1]) == entries
        and bool((start.diff() >= 0).all())
    )


def _by_certify(record: UnitRecord, part: Part, subject: Subject, proofs: Arrays, tried: Tensor) -> list[Problem]:
    """`certify` has no search in it: it is computed again, Lipschitz constant and all."""
    names, problems = Names(record), []
    again: dict[str, NDArray[Any]] = {}
    radii = certified = torch.zeros(0)
    if len(tried):
        x, y, ids = part.x[tried], part.y[tried], part.sample_ids[tried.cpu()]
        result = certify(subject.classifier, x, y, part.threat, seed=record.unit.seed, sample_ids=ids)
        assert result.radii is not None
        assert result.certified is not None
        radii, certified = result.radii, result.certified
        again = {name: array.cpu().numpy() for name, array in (result.proofs or {}).items()}
    problems += _arrays_differ(names, proofs, again)
    expected: dict[int, float] = dict(zip(part.sample_ids[tried.cpu()].tolist(), radii.tolist(), strict=True))
    sure = dict(zip(expected, certified.tolist(), strict=True))
    largest, eps = part.threat.diameter(part.x[0].numel()), part.threat.eps + TOLERANCE
    for sample, verdict, radius in zip(record.sample_ids, record.verdicts, record.radii, strict=True):
        known = expected.get(sample, math.nan)
        if math.isnan(known) != (radius is None) or not (radius is None or _close(radius, min(known, largest))):
            problems.append(names.of_record(f"radius {radius}, computed again it is {known:.9g}", sample))
        near = abs(known - eps) <= _allowed(known)  # NaN is near nothing
        if (verdict is Verdict.CERTIFIED) != sure.get(sample, False) and sample in expected and not near:
            problems.append(names.of_record(f"{verdict}, but its radius is {known:.9g}", sample))
        elif verdict is Verdict.CERTIFIED and sample not in expected:
            problems.append(names.of_record("certified, but misclassified", sample))
    return problems


def _arrays_differ(names: Names, proofs: Arrays, again: Arrays) -> list[Problem]:
    if {name: (a.dtype, a.shape) for name, a in proofs.items()} != {n: (a.dtype, a.shape) for n, a in again.items()}:
        held = ", ".join(sorted(proofs)) or "nothing"
        return [names.of_proofs(f"holds {held}; other arrays are computed again")]
    return [
        names.of_proofs(f"{name} is not what is computed again")
        for name in sorted(proofs)
        if not np.allclose(proofs[name], again[name], rtol=RADIUS_SHARE, atol=RADIUS_ALLOWANCE, equal_nan=True)
    ]


def _close(radius: float, known: float) -> bool:
    return radius == known or abs(radius - known) <= _allowed(known)


def _allowed(radius: float) -> float:
    return RADIUS_ALLOWANCE + RADIUS_SHARE * abs(radius)
