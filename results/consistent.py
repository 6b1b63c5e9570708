"""Whether a run's records agree with one another, and its tables with the records."""

from collections.abc import Sequence
from pathlib import Path

from results.aggregate import UnsoundError
from results.curves import curves, radii_csv
from results.leaderboard import check_sound, classifier_of, leaderboard
from results.probed import NAME as DIAGNOSIS
from results.probed import read_diagnosis
from results.records import UnitRecord, Verdict
from results.render import FORMATS, as_csv, markdown
from results.saved import Saved
from results.store import Store, StoreError
from results.verification import Kind, Problem

_TIES = 1e-4
"""Float32 breaks an image this much nearer than real arithmetic does, if its model's centroids are not all but one."""


def check_agreement(saved: Saved) -> list[Problem]:
    """No sample broken and certified, nor broken within the radius that a verifier gives it, at whatever eps."""
    records = list(saved.records.values())
    problems = []
    groups: dict[object, list[UnitRecord]] = {}
    for record in records:
        groups.setdefault(classifier_of(record.unit), []).append(record)
    for members in groups.values():
        try:
            check_sound(members)
        except UnsoundError as error:
            culprit = _broken_and_certified(members)
            problems.append(Problem(Kind.REFUTED, f"units/{culprit.key}.json", f"unsound: {error}"))
    return [*problems, *_within_radii(records)]


def _broken_and_certified(records: Sequence[UnitRecord]) -> UnitRecord:
    """A record of a broken sample that another certifies."""
    proven = {s for r in records for s, v in zip(r.sample_ids, r.verdicts, strict=True) if v is Verdict.CERTIFIED}
    return next(
        record
        for record in records
        if any(
            verdict is Verdict.BROKEN and sample in proven
            for sample, verdict in zip(record.sample_ids, record.verdicts, strict=True)
        )
    )


def _within_radii(records: Sequence[UnitRecord]) -> list[Problem]:
    """Broken samples against radii: the image's distance must not be less."""
    radii: dict[tuple[object, int], tuple[float, UnitRecord]] = {}
    for record in records:
        about = classifier_of(record.unit)[:-1]  # a radius holds at every eps
        for sample, radius in zip(record.sample_ids, record.radii, strict=True):
            if record.unit.proves and radius is not None and radius > radii.get((about, sample), (-1.0, record))[0]:
                radii[about, sample] = radius, record
    problems = []
    for record in records:
        about = classifier_of(record.unit)[:-1]
        for sample, distance in zip(record.sample_ids, record.distances, strict=True):
            if distance is not None and (about, sample) in radii:
                radius, proof = radii[about, sample]
                if distance < radius - _TIES:
                    what = f"radius {radius:.6g}, but units/{record.key}.safetensors breaks it at {distance:.6g}"
                    problems.append(Problem(Kind.REFUTED, f"units/{proof.key}.json", what, sample))
    return problems


def check_diagnosis(folder: Path) -> list[Problem]:
    """diagnosis.json, where there is one: no file of the run, but grades rest on it."""
    try:
        read_diagnosis(folder)
    except StoreError as error:
        return [Problem(Kind.REFUTED, DIAGNOSIS, str(error).removeprefix(f"{folder / DIAGNOSIS} "))]
    return []


def check_tables(saved: Saved, interrupted: bool) -> list[Problem]:
    """leaderboard.md, leaderboard.csv and radii.csv against what the records say.

    An interrupted run may have older ones, which its resumption writes anew.
    """
    if not saved.whole:
        return []  # a damaged record is told; what it does to the tables is no news
    records = [saved.records[unit.key] for unit in saved.units if unit.key in saved.records]
    expected: dict[str, str] = {}
    ungraded: dict[str, str] = {}
    problems = []
    try:
        rows = leaderboard(saved.units, records)
        expected = {f"leaderboard.{form}": FORMATS[form](rows) for form in ("md", "csv")}
        ungraded = {"leaderboard.md": markdown(rows, trust=False), "leaderboard.csv": as_csv(rows, trust=False)}
    except (UnsoundError, ValueError) as error:
        problems.append(Problem(Kind.REFUTED, "leaderboard.csv", f"the records give none: {error}"))
    try:
        found = curves([record for record in records if record.unit.proves], Store(saved.folder).read_proofs)
        expected["radii.csv"] = radii_csv(found) if found else ""
    except (StoreError, ValueError, TypeError, ZeroDivisionError):
        pass  # damaged proofs are told
    incomplete = len(records) < len(saved.units) and interrupted
    for name, text in expected.items():
        path = saved.folder / name
        try:
            payload = path.read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            problems.append(Problem(Kind.REFUTED, name, f"cannot be read: {error.strerror}"))
            continue
        if payload not in (text.encode(), ungraded.get(name, text).encode()):  # a run made before there were grades
            kind = Kind.MISSING if incomplete else Kind.REFUTED
            problems.append(Problem(kind, name, "does not say what the records say"))
    return problems
