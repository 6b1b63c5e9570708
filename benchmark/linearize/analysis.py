"""The clustering effect of linearised models (Bai et al., NeurIPS 2021, arXiv 2111.12922), tested and controlled.

Each model's class rows in each mode, their cosines and tree, the permutation test of S, and what it is held against
(`controls`); the class distances of its true features; which classes an attack by PGD turns into which. Nothing here
decides: that is `results.clustering_verdict`.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from benchmark.cheap_copy import prepare_search
from benchmark.linearize.controls import IMAGES, NoControl, class_means, features_of, random_start
from benchmark.linearize.done import Attacked, Done
from benchmark.linearize.request import ATTACK, Prepared, Subject
from benchmark.linearize.rewrite import BatchNorm
from benchmark.linearize.rows import ClassRows, class_rows
from benchmark.plan import plan
from benchmark.runner import run_unit
from benchmark.threads import one_thread
from model_zoo.external import fingerprint
from results.clustering_effect import Effect, Matrix, cosines, effect_of, left_over, permutation_test, statistic
from results.clustering_verdict import Mode, judge
from results.linearized import Analysis, Found, Told
from results.misled import Misled, misled
from results.notes import show_eps
from results.records import Verdict

logger = logging.getLogger(__name__)

Advance = Callable[[int, int], Callable[[], None]]
Keep = Callable[[Subject, Found], None]


@dataclass
class Work:
    """`done` is what a folder keeps, `note` is called when there is more of it.

    `known`: S of random initialisations in each mode, by the fingerprint of the model, as those of one architecture are
    the same.
    """

    done: Done = field(default_factory=Done)
    note: Callable[[Done], None] = lambda done: None
    known: dict[str, dict[BatchNorm, float]] = field(default_factory=dict)


def analyse(prepared: Prepared, keep: Keep, advance: Advance, work: Work | None = None) -> Analysis:
    """Analyse every model; `keep` is given each as soon as it is done. `work` holds what was computed earlier."""
    config, dataset = prepared.attacked.config, prepared.dataset
    means: tuple[Effect, Effect] | None = None
    why = ""
    try:
        means = _images(prepared)
    except NoControl as error:
        why = str(error)
    tick = advance(len(prepared.subjects), 0)
    models: list[Found] = []
    work = work or Work()
    for subject in prepared.subjects:
        with one_thread(prepared.device):
            found = _found(prepared, subject, why if means is None else means[1].similarities, work)
        keep(subject, found)
        models.append(found)
        logger.info("%s: %s", found.model, "; ".join([found.verdict.ruling, *found.verdict.beside]))
        tick()
    (threat,) = config.threats
    told = f"{ATTACK} at {threat.norm} eps = {show_eps(threat.eps)}"
    return Analysis(dataset.name, len(dataset.x), prepared.groups, means, tuple(models), told, config.seed)


def _images(prepared: Prepared) -> tuple[Effect, Effect]:
    """The effect in class-mean images, raw and with their mean taken out; NoControl where they have none."""
    dataset = prepared.dataset
    means = class_means(dataset.x, dataset.y, dataset.num_classes)
    if means is None:
        raise NoControl("a class has no image")
    try:
        raw, centred = (_effect(prepared, cosines(means.numpy(), centred)) for centred in (False, True))
    except ValueError as error:  # black images, say
        raise NoControl(str(error)) from None
    return raw, centred


def _found(prepared: Prepared, subject: Subject, images: Matrix | str, work: Work) -> Found:
    """`images` are the cosines of class-mean images, or why there are none."""
    missing = list(subject.missing)
    if isinstance(images, str):
        missing.append(f"class-mean images: {images}")
    begun, why = None, None
    try:
        begun = random_starts(prepared, subject, work)
    except NoControl as error:
        why = str(error)
        missing.append(f"random initialisations: {why}")
    control = None if isinstance(images, str) else images
    modes = [_mode(prepared, subject, bn, None if begun is None else begun[bn], control) for bn in prepared.modes]
    any_rows = subject.rows[prepared.modes[0]]
    head = None
    try:
        if any_rows.head.size:
            head = _effect(prepared, cosines(any_rows.head, centred=True))
        else:
            missing.append("classifier rows alone: no last layer")
    except ValueError as error:
        missing.append(f"classifier rows alone: {error}")
    distances = feature_distances(prepared, subject)
    if distances is None:
        missing.append("feature distances: no features are known, or a class has none")
    return Found(
        subject.loaded.name,
        subject.loaded.sha256,
        tuple(told(bn, subject.rows[bn]) for bn in prepared.modes),
        tuple(modes),
        judge(modes, subject.standard, why),
        head,
        subject.standard,
        distances,
        attacked(prepared, subject, work),
        tuple(missing),
    )


def _mode(
    prepared: Prepared, subject: Subject, bn: BatchNorm, starts: tuple[float, ...] | None, images: Matrix | None
) -> Mode:
    rows = subject.rows[bn].classes
    raw, centred = (_effect(prepared, cosines(rows, centred)) for centred in (False, True))
    labels, seed = prepared.groups.labels, prepared.attacked.config.seed
    beyond = None if images is None else permutation_test(left_over(centred.similarities, images), labels, seed)
    over = None
    if subject.standard_rows is not None:
        standard = cosines(subject.standard_rows[bn].classes, centred=True)
        over = permutation_test(centred.similarities - standard, labels, seed)
    norms = tuple(float(norm) for norm in np.linalg.norm(rows, axis=1))
    return Mode(bn, norms, raw, centred, starts, beyond, over)


def random_starts(prepared: Prepared, subject: Subject, work: Work) -> dict[BatchNorm, tuple[float, ...]]:
    """The centred S of random initialisations in each mode; NoControl where they cannot be had."""
    if not prepared.starts:
        raise NoControl("none were asked for")
    if subject.loaded.name in work.done.starts:
        return work.done.starts[subject.loaded.name]
    found: dict[BatchNorm, list[float]] = {bn: [] for bn in prepared.modes}
    for index in range(prepared.starts):
        name = f"{prepared.attacked.config.seed}/random start/{index}"
        seed = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest())
        model = random_start(subject.loaded, prepared.dataset, seed)
        key = fingerprint(model)
        try:
            values = work.known.get(key) or {bn: _centred_statistic(prepared, model, bn) for bn in prepared.modes}
        except ValueError as error:  # no linear stand-in, or no direction
            raise NoControl(str(error)) from None
        work.known[key] = values
        for bn, value in values.items():
            found[bn].append(value)
    work.done.starts[subject.loaded.name] = {bn: tuple(values) for bn, values in found.items()}
    work.note(work.done)
    return work.done.starts[subject.loaded.name]


def _centred_statistic(prepared: Prepared, model: nn.Module, bn: BatchNorm) -> float:
    rows = class_rows(model, prepared.dataset.x[0], bn).classes
    return statistic(cosines(rows, centred=True), prepared.groups.labels)


def feature_distances(prepared: Prepared, subject: Subject) -> Matrix | None:
    """F: distances between the class means of the true features of the first images; None where there are none."""
    features = features_of(subject.loaded.model, prepared.dataset)
    if features is None:
        return None
    means = class_means(features, prepared.dataset.y[:IMAGES], prepared.dataset.num_classes)
    if means is None:
        return None
    found: Matrix = torch.cdist(means, means, compute_mode="donot_use_mm_for_euclid_dist").numpy()
    return found


def attacked(prepared: Prepared, subject: Subject, work: Work) -> Misled:
    """What the attack does to a model, computed unless it is known."""
    known, config, name = work.done.attacked, prepared.attacked.config, subject.loaded.name
    if name not in known:
        known[name] = _attack(prepared, subject)
        work.note(work.done)
    counts = np.array(known[name].counts, dtype=np.int64)
    return misled(ATTACK, config.samples, known[name].right, counts, prepared.groups.labels, config.seed)


def _attack(prepared: Prepared, subject: Subject) -> Attacked:
    """The attack of `bench run`, unit by unit, judged as there."""
    request, config, name = prepared.attacked, prepared.attacked.config, subject.loaded.name
    model = next(one for one in request.models if one.name == name)
    (attack,) = request.attacks
    searched = prepare_search(
        model.model, request.dataset.x, request.dataset.y, prepared.device, config.search, config.batch_size
    )
    classes = len(prepared.groups.classes)
    counts, right = np.zeros((classes, classes), dtype=np.int64), 0
    for unit in plan(request):
        if unit.model != name or unit.attack != attack.name:
            continue
        record = run_unit(
            unit,
            request.dataset,
            model,
            None,
            device=prepared.device,
            batch_size=config.batch_size,
            attack=attack,
            searched=searched,
        ).record
        for label, predicted, verdict in zip(record.labels, record.predictions, record.verdicts, strict=True):
            right += verdict is not Verdict.MISCLASSIFIED
            if verdict is Verdict.BROKEN:
                counts[label, predicted] += 1
    return Attacked(right=right, counts=tuple(map(tuple, counts.tolist())))


def told(bn: BatchNorm, rows: ClassRows) -> Told:
    """Self-check and changes in words: what became of how many operations, those that are kept last."""
    check = f"Jacobians at two images differ by {rows.check.jacobians:.1g}, sums by {rows.check.additivity:.1g}"
    counted = Counter((change.became, change.operation) for change in rows.changes)
    fates = sorted({change.became for change in rows.changes}, key=lambda became: (became == "kept", became))
    words = [
        f"{fate}: {', '.join(f'{n} {operation}' for (became, operation), n in counted.items() if became == fate)}"
        for fate in fates
    ]
    return Told(bn, check, "; ".join(words) or "nothing to change, the features are the pixels")


def _effect(prepared: Prepared, similarities: Matrix) -> Effect:
    return effect_of(similarities, prepared.groups.labels, prepared.attacked.config.seed)
