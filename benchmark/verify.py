"""`bench verify`: a run judged again from its files alone, with no attack run.

What is noticed. Images and proofs are data that anyone can check, so everything that a verdict rests on is computed
again with the data set, the weights and the judge of this installation: labels and predictions, that each adversarial
image is inside the box and the ball and is not predicted as its class, each certificate, the plan from run.json, the
leaderboard from the records. What cannot be computed (times, counts of passes, flags, machine and date) and what
carries no meaning (white space) is held against SHA256SUMS, which a run writes when it ends. diagnosis.json, which
`bench diagnose` writes later, holds a checksum of its own; its probes are not made again.

What is not noticed. Whoever changes record, images and checksums together to another image that breaks the model has
another valid example, and the verdict stays true. Whoever drops an example, calls its sample survived and writes the
checksums anew has a run whose attack did not find it: an attack's failure leaves no evidence, so robust_upper may come
out too high, never too low. That the recorded attack with the recorded seed made the image is not looked at, nor are
radii of `exact-radius`, beyond their verdict: its proofs hold at eps. They must agree with every image that breaks a
sample. A run of other models, data or attacks under other names is another run.

A model given as package.module:factory is imported and called, as by `bench run`; nothing is run from the run's folder.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from attacks.registry import ATTACKS
from attacks.registry import resolve as resolve_attack
from attacks.threat import Threat
from benchmark import datasets
from benchmark.config import RunConfig
from benchmark.datasets import Dataset
from benchmark.errors import RequestError
from benchmark.plan import plan
from benchmark.recertify import left_alone, recertify, verifies
from benchmark.rejudge import Names, Part, Subject, rejudge
from benchmark.resolve import Request, check_model
from benchmark.threads import one_thread
from model_zoo.errors import ModelError
from model_zoo.registry import LoadedModel, load
from results.archive import unpacked
from results.checksums import SUMS, check_sums
from results.consistent import check_agreement, check_diagnosis, check_tables
from results.records import PROTOCOL, UnitRecord
from results.saved import Saved, read_arrays, read_saved
from results.verification import Counts, Kind, Problem, Verification

logger = logging.getLogger(__name__)


def verify(run: Path, device: torch.device, data_root: Path | None) -> Verification:
    """Verify the folder of a run, or a .zip of one; StoreError, one line, for what is neither."""
    if run.is_dir():
        with one_thread(device):
            return _verified(run, device, data_root)
    with unpacked(run) as folder, one_thread(device):
        return _verified(folder, device, data_root)


@dataclass(frozen=True)
class _World:
    """The data set and the models here that the run names, or why they cannot be had."""

    data: Dataset | None
    subjects: Mapping[str, Subject]
    absent: Mapping[str, str]


def _verified(folder: Path, device: torch.device, data_root: Path | None) -> Verification:
    saved = read_saved(folder)
    world, problems = _world(saved, device, data_root)
    problems = [*saved.problems, *problems]
    counts: dict[str, Counts] = {}
    for record in saved.records.values():
        found, counts[record.key] = _unit(saved, record, world)
        problems += found
    notes = [f"{name} belongs to no unit of the plan" for name in saved.strangers]
    if saved.units:
        replanned, told = _replanned(saved, world)
        problems += [*replanned, *check_agreement(saved), *check_tables(saved, not (folder / SUMS).exists())]
        notes += told
    problems += check_diagnosis(folder)
    refuted = {problem.file for problem in problems if problem.kind is Kind.REFUTED}
    problems += [problem for problem in check_sums(folder) if problem.file not in refuted]
    otherwise = sum((count for count in counts.values()), Counts()).otherwise
    if otherwise:
        notes.append(f"{otherwise} adversarial examples do not break their model in float64; verdicts are in float32")
    elsewhere = {record.provenance.device for record in saved.records.values()} - {str(device)}
    if elsewhere:
        notes.append(f"judged on {device}, the run was on {', '.join(sorted(elsewhere))}: rounding may differ")
    return Verification(saved.units, counts, problems, notes)


def _world(saved: Saved, device: torch.device, data_root: Path | None) -> tuple[_World, list[Problem]]:
    """Load the data set and each model once."""
    problems: list[Problem] = []
    names = sorted({str((saved.configuration or {}).get("dataset", unit.dataset)) for unit in saved.units})
    data = None
    for name in names[:1]:
        try:
            data = datasets.load(name, data_root)
        except Exception as error:  # a name out of a file that anyone may have written
            problems.append(Problem(Kind.UNVERIFIABLE, "run.json", f"data set {name}: {error}"))
    subjects: dict[str, Subject] = {}
    absent: dict[str, str] = {}
    for name in dict.fromkeys(unit.model for unit in saved.units):
        try:
            loaded = load(name, device)
            if data is not None:
                check_model(loaded, data, device)
            subjects[name] = Subject.of(loaded, device)
        except (ModelError, RequestError) as error:
            absent[name] = str(error)
        except (Exception, SystemExit) as error:  # a user's factory may do anything; it must not end with exit code 0
            absent[name] = f"{type(error).__name__}: {error}"
    return _World(data, subjects, absent), problems


def _unit(saved: Saved, record: UnitRecord, world: _World) -> tuple[list[Problem], Counts]:
    """All that can be held against one record; what needs the model is told as unverifiable where it is not here."""
    names, unit = Names(record), record.unit
    problems: list[Problem] = []
    images = _arrays(saved, names.images, record.adversarial_sha256, problems)
    proofs = _arrays(saved, names.proofs, record.proofs_sha256, problems)
    subject = world.subjects.get(unit.model)
    reason = _out_of_reach(record, world, subject)
    if reason or world.data is None or subject is None:
        problems.append(names.of_record(reason, kind=Kind.UNVERIFIABLE))
        return problems, Counts()
    if unit.group != subject.loaded.group:
        problems.append(names.of_record(f"group {unit.group!r}, the model's is {subject.loaded.group!r}"))
    if verifies(unit) is not None and verifies(unit) != unit.proves:
        problems.append(names.of_record(f"proves is {unit.proves}, which {unit.attack} is not"))
    rows = slice(unit.start, unit.stop)
    x, y = world.data.x[rows].to(subject.device), world.data.y[rows].to(subject.device)
    part = Part(torch.arange(unit.start, unit.stop), x, y, Threat(unit.norm, unit.eps))  # type: ignore[arg-type]
    checked = 0
    try:
        found, counts = rejudge(record, part, subject, images)
        problems += found
        if unit.proves and verifies(unit):
            if proofs is not None:
                found, checked = recertify(record, part, subject, proofs)
                problems += found
        else:
            right = dict(zip(record.sample_ids, subject.clean(part)[0].tolist(), strict=True))
            problems += left_alone(record, saved.records, right)
    except Exception as error:  # whatever a model or a verifier raises on content that a run does not have
        problems.append(names.of_record(f"cannot be judged: {type(error).__name__}: {error}"))
        return problems, Counts()
    return problems, counts + Counts(proofs=checked)


def _arrays(saved: Saved, name: str, sha256: str | None, problems: list[Problem]) -> dict[str, NDArray[Any]] | None:
    """The arrays of a file; none where the record names no file, None where it cannot be had, which is told."""
    if sha256 is None:
        return {}
    found = read_arrays(saved.folder, name, sha256)
    if isinstance(found, Problem):
        problems.append(found)
        return None
    return found


def _out_of_reach(record: UnitRecord, world: _World, subject: Subject | None) -> str:
    """Why a record cannot be judged here, if so."""
    unit, data = record.unit, world.data
    if unit.protocol != PROTOCOL:
        return f"was made under protocol {unit.protocol}, this version judges by {PROTOCOL}"
    if data is None:
        return "its data set is not here"
    if (data.name, data.sha256) != (unit.dataset, unit.data_sha256) or unit.stop > len(data.x):
        return f"the data set here is {data.name} ({data.sha256[:12]}...), its own {unit.dataset}, {unit.data_sha256}"
    if subject is None:
        return f"model {unit.model} is not here: {world.absent[unit.model]}"
    if subject.loaded.sha256 != unit.weights_sha256:
        return f"model {unit.model} has other weights here: {subject.loaded.sha256[:12]}..., not {unit.weights_sha256}"
    return ""


def _replanned(saved: Saved, world: _World) -> tuple[list[Problem], list[str]]:
    """plan.json against what run.json asks for, as far as models and attacks are here."""
    if saved.plan is None or saved.configuration is None:
        return [], []
    try:
        config = RunConfig.model_validate(saved.configuration)
    except ValidationError:
        return [], ["run.json is not of `bench run`: that nothing is left out of plan.json cannot be told from it"]
    if config.identity() != saved.configuration:
        return [Problem(Kind.REFUTED, "run.json", "its configuration is not as bench run writes it")], []
    if world.data is None or any(unit.data_sha256 != world.data.sha256 for unit in saved.plan):
        return [], []
    models = tuple(world.subjects[n].loaded for n in config.models if n in world.subjects and _same(saved, world, n))
    attacks, surrogates = [], {}
    for name in config.attacks:
        if name.partition("@")[0] in ATTACKS:  # a user's attack is code, which nothing here needs
            try:
                attack = resolve_attack(name)
                if attack.surrogate is not None:
                    surrogates[attack.surrogate] = _loaded(attack.surrogate, world)
                attacks.append(attack)
            except Exception:  # told below
                logger.debug("attack %s cannot be resolved", name, exc_info=True)
    if config.samples > len(world.data.x):
        what = f"asks for {config.samples} samples, {world.data.name} has {len(world.data.x)}"
        return [Problem(Kind.REFUTED, "run.json", what)], []
    there = {name for unit in saved.plan for name in (unit.model, unit.attack)}
    gone = [name for name in (*config.models, *config.attacks) if name not in there]
    if gone:
        what = f"has no unit of {', '.join(gone)}, which run.json asks for"
        return [Problem(Kind.REFUTED, "plan.json", what)], []
    left_out = [*(n for n in config.models if n not in {m.name for m in models})]
    left_out += [n for n in config.attacks if n not in {a.name for a in attacks}]
    notes = [f"the plan of {name} was not held against run.json" for name in left_out]
    wanted = plan(Request(config, world.data, models, tuple(attacks), surrogates)) if models else []
    planned = [unit for unit in saved.plan if unit.model not in left_out and unit.attack not in left_out]
    if planned == wanted:
        return [], notes
    asked, found = {unit.key for unit in wanted}, {unit.key for unit in planned}
    missing, more = len(asked - found), len(found - asked)
    what = f"is not what run.json asks for: {missing} units are not planned, {more} are planned and not asked for"
    return [Problem(Kind.REFUTED, "plan.json", what)], notes


def _same(saved: Saved, world: _World, name: str) -> bool:
    """Whether the model here is the one of the run; where it is not, its units say so."""
    return {unit.weights_sha256 for unit in saved.units if unit.model == name} <= {world.subjects[name].loaded.sha256}


def _loaded(name: str, world: _World) -> LoadedModel:
    return world.subjects[name].loaded if name in world.subjects else load(name)
