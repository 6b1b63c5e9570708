"""`bench diagnose`: the costly checks (`benchmark.probes`) of a finished run's classifiers, kept beside the run.

Data set and models are loaded by the names in run.json and plan.json. A model given as package.module:factory is
imported and called, as by `bench run`: diagnose no run of someone whose code you would not run.
"""

import logging
import shlex
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from benchmark import datasets
from benchmark.datasets import Dataset
from benchmark.errors import RequestError
from benchmark.probes import Probing, Subject
from benchmark.resolve import check_model, choose_device
from benchmark.threads import one_thread
from model_zoo.errors import ModelError
from model_zoo.registry import LoadedModel, load, zoo_cards
from results.diagnosis import findings
from results.findings import Finding
from results.leaderboard import leaderboard
from results.planned import check_plan
from results.probed import Probed, diagnosing, read_diagnosis, write_diagnosis
from results.records import PROTOCOL, Classifier, WorkUnit
from results.render_diagnosis import refuted, terminal
from results.store import Store
from results.trust import is_white_box

logger = logging.getLogger(__name__)

Advance = Callable[[int, int], Callable[[], None]]
SURROGATE = "nominal"
"""Shown to a run with one model, where it was trained on the data set."""


def diagnosed(
    run: Path, wanted: Sequence[str], samples: int, seed: int, device: str, data_root: Path | None, advance: Advance
) -> str:
    """Probe the classifiers of a run, keep diagnosis.json, and say what was found.

    Where a certificate is contradicted, that alone is said: no number of the classifier means anything.
    """
    store = Store(run)
    chosen = subjects(store, wanted)
    units = store.read_plan()
    records = store.read(units)
    void = {about: found for about, found in findings(units, records).items() if contradicted(found)}
    if void:
        return refuted(void)
    on = choose_device(device)
    probed = []
    with diagnosing(run):
        diagnosis = read_diagnosis(run)
        for one in diagnose(chosen, samples, seed, on, data_root, advance):
            probed.append(one)
            diagnosis = diagnosis.with_newer([one])
            path = write_diagnosis(run, diagnosis)
    rows = [leaderboard(units, records, found) for found in (None, diagnosis.findings)]
    told = terminal(rows[0], rows[1], {one.classifier: one for one in probed})
    return f"{told}kept in {path}; bench report {shlex.quote(str(run))} grades by it\n"


def subjects(store: Store, wanted: Sequence[str]) -> list[Subject]:
    """The classifiers to diagnose; RequestError or StoreError, one line, for a run that gives no verdicts to doubt.

    A run that a contradicted certificate ended is let through: what is wrong with it is known.
    """
    units = store.read_plan()
    records = store.read(units)
    protocols = sorted({unit.protocol for unit in units})
    if len(protocols) > 1:
        raise RequestError(f"{store.folder} mixes protocols {', '.join(map(str, protocols))}; diagnose one at a time")
    if protocols != [PROTOCOL]:
        made = ", ".join(map(str, protocols)) or "none"
        raise RequestError(
            f"{store.folder} was made under protocol {made}, this version attacks and judges by {PROTOCOL}"
        )
    groups: dict[Classifier, list[WorkUnit]] = defaultdict(list)
    for unit in units:
        groups[unit.classifier].append(unit)
    known = {name for unit in units for name in (unit.model, unit.group)}
    for name in wanted:
        if name not in known:
            raise RequestError(f"--model: no {name!r} in {store.folder}; it has {', '.join(sorted(known))}")
    done = {record.key: record for record in records}
    found = [
        Subject(about, store.dataset(members[0]), members, [done[unit.key] for unit in members if unit.key in done])
        for about, members in groups.items()
        if not wanted or ({unit.model for unit in members} | {about[0]}) & set(wanted)
    ]
    if any(contradicted(subject_findings) for subject_findings in findings(units, records).values()):
        return found
    check_plan(store.folder, units)
    missing = len(units) - len(records)
    if missing:
        raise RequestError(
            f"{store.folder} is incomplete: {missing} of {len(units)} units have no record; the same bench run "
            "command goes on with it"
        )
    bare = [s.about[0] for s in found if not any(u.proves or is_white_box(u.attack) for u in s.units)]
    if bare:
        names = ", ".join(dict.fromkeys(bare))
        raise RequestError(
            f"{store.folder}: {names} has no attack by gradients and no verifier, so there is no verdict to diagnose; "
            "run it with --attack pgd20 or autoattack, or name others by --model"
        )
    return found


def contradicted(found: Sequence[Finding]) -> bool:
    """Whether an image breaks what a certificate proves: then no number of the classifier means anything."""
    return any(finding.check == "certificate-contradicted" for finding in found)


def diagnose(
    found: Sequence[Subject], samples: int, seed: int, device: torch.device, data_root: Path | None, advance: Advance
) -> Iterator[Probed]:
    """Probe each classifier on its first samples; RequestError where data or weights are not those of the run."""
    if not found:
        return
    dataset = _dataset(found[0], data_root)
    models = {name: _model(name, subject, dataset, device) for subject in found for name in subject.models}
    if not any(models[subject.models[0]].group != found[0].about[0] for subject in found):
        models |= _spare_surrogate(found[0], dataset, device)
    tick = advance(len(found), 0)
    for subject in found:
        with one_thread(device):
            yield Probing(subject, models, dataset, device, samples, seed).probed()
        logger.info("diagnosed %s at %s %.4g", subject.about[0], subject.about[4], subject.about[5])
        tick()


def _dataset(subject: Subject, data_root: Path | None) -> Dataset:
    dataset = datasets.load(subject.dataset, data_root)
    if dataset.sha256 != subject.about[3]:
        raise RequestError(f"data set {subject.dataset} is not the one of the run: sha256 {dataset.sha256[:12]}...")
    return dataset


def _model(name: str, subject: Subject, dataset: Dataset, device: torch.device) -> LoadedModel:
    try:
        loaded = load(name, device)
    except ModelError as error:
        raise RequestError(str(error)) from error
    if loaded.sha256 != subject.about[1]:
        raise RequestError(f"model {name} has other weights here than in the run: {loaded.sha256[:12]}...")
    check_model(loaded, dataset, device)
    return loaded


def _spare_surrogate(subject: Subject, dataset: Dataset, device: torch.device) -> dict[str, LoadedModel]:
    """A model of the zoo for a run that has no other, where it knows the data set."""
    card = zoo_cards().get(SURROGATE)
    if card is None or card.dataset != dataset.name or subject.about[0] == SURROGATE:
        return {}
    return {SURROGATE: load(SURROGATE, device)}
