"""Studies as data: which trained models, under which attacks, in which table; and what it takes to carry one out."""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from attacks.registry import resolve as resolve_attack
from benchmark import datasets
from benchmark.config import build_config
from benchmark.plan import plan
from benchmark.reproduce.request import Advance
from benchmark.reproduce.trainings import Training, carry_out, in_order
from benchmark.resolve import Request, applies, choose_device, resolve
from benchmark.run import run_units
from model_zoo.weights import ModelCard
from results.curves import LADDERS, Curve
from results.kept import Kept, KeptMeasurement, KeptModel, KeptRadii
from results.leaderboard import Row
from results.records import PROTOCOL, WorkUnit
from results.store import Store

logger = logging.getLogger(__name__)

RADII = frozenset({"exact-radius", "certify"})
"""Verifiers that leave a radius for each sample: the curve is kept, whatever the eps."""


@dataclass(frozen=True)
class Measure:
    """An attack under a threat on the first `samples` test images; `surrogate` is what a transfer attack attacks.

    Measures of one `column` differ in their threat alone.
    """

    attack: str
    norm: str
    eps: float
    samples: int
    surrogate: Training | None = None
    column: str = ""

    @property
    def kind(self) -> str:
        return self.attack.partition("@")[0]

    @property
    def heading(self) -> str:
        return self.column or self.attack

    @property
    def name(self) -> str:
        """The attack, with the surrogate's key."""
        return self._with("" if self.surrogate is None else self.surrogate.key)

    def spelled(self, folder: Path) -> str:
        """The attack as `bench run` takes it."""
        return self._with("" if self.surrogate is None else str(self.surrogate.weights(folder)))

    def _with(self, surrogate: str) -> str:
        if not surrogate:
            return self.attack
        return f"{self.attack}{',' if '@' in self.attack else '@'}surrogate={surrogate}"


@dataclass(frozen=True)
class Line:
    """A line of a table: what it says first, and the trainings, several where only their seeds differ."""

    labels: tuple[str, ...]
    trainings: tuple[Training, ...]
    claim: str = ""
    """The model's name in the paper's claims, where it has one."""


@dataclass(frozen=True)
class Study:
    """A table. `varied` heads the labels. Each measure is a column, or, with `by_threat`, each threat a line and each
    attack a column. `radii`: the curves of these measures are shown instead."""

    item: str
    title: str
    varied: tuple[str, ...]
    lines: tuple[Line, ...]
    measures: tuple[Measure, ...]
    by_threat: bool = False
    radii: bool = False
    notes: tuple[str, ...] = ()

    @property
    def trainings(self) -> tuple[Training, ...]:
        """All that must be trained, what another one needs before it."""
        surrogates = [measure.surrogate for measure in self.measures if measure.surrogate is not None]
        return tuple(in_order([*surrogates, *(training for line in self.lines for training in line.trainings)]))

    @property
    def measured(self) -> tuple[Training, ...]:
        return tuple(dict.fromkeys(training for line in self.lines for training in line.trainings))


Told = Callable[[str], None]


def make(
    study: Study, folder: Path, data_root: Path | None, workers: int, advance: Advance, told: Told
) -> tuple[Kept, list[str]]:
    """Train and measure what is not done yet: the results, and the reasons of units that failed.

    Weights, units and checkpoints lie in `folder`, which studies share. `told` is given each thing that begins.
    """
    device = choose_device("auto")
    cards: dict[Training, ModelCard] = {}
    for place, training in enumerate(study.trainings, start=1):
        told(f"{study.item}: training {place} of {len(study.trainings)}, {training.key}")
        cards[training] = carry_out(training, folder, data_root, device)
    measured: list[KeptMeasurement] = []
    radii: list[KeptRadii] = []
    failures: list[str] = []
    groups = dict.fromkeys(
        (training.dataset, measure.samples) for training in study.measured for measure in study.measures
    )
    for dataset, samples in groups:
        told(f"{study.item}: attacks on {samples} test images of {dataset}")
        trainings = [training for training in study.measured if training.dataset == dataset]
        measures = [measure for measure in study.measures if measure.samples == samples]
        requests = _requests(trainings, measures, folder, data_root, workers)
        units: list[WorkUnit] = list({unit.key: unit for request in requests for unit in plan(request)}.values())
        if not units:
            continue
        store = Store(folder / "measured" / f"{dataset.replace(':', '-')}-{samples}")
        with store.opened({"dataset": dataset, "samples": samples, "data": datasets.load(dataset, data_root).sha256}):
            report = run_units(units, requests[0].config, store, data_root, advance)
        failures += [f"{failure.unit}: {failure.reason}" for failure in report.failures]
        keys = {str(training.weights(folder)): training.key for training in trainings}
        names = {measure.spelled(folder): measure.name for measure in measures}
        measured += _kept_rows(report.rows, keys, names)
        radii += [kept for curve in report.curves for kept in _kept_curve(curve, keys)]
    models = tuple(_kept_model(training, card) for training, card in cards.items())
    return Kept(protocol=PROTOCOL, models=models, measured=tuple(measured), radii=tuple(radii)), failures


def merged(results: Iterable[Kept]) -> Kept:
    """Results of several studies as one, later ones before earlier ones; what two of them hold is there once."""
    models: dict[str, KeptModel] = {}
    measured: dict[tuple[str, str, str, float, int], KeptMeasurement] = {}
    radii: dict[tuple[str, str, str, int], KeptRadii] = {}
    for kept in results:
        models |= {model.key: model for model in kept.models}
        for one in kept.measured:
            about = (one.model, one.attack, one.norm, one.eps, one.n)
            earlier = measured.get(about)
            if earlier is not None and one.missed is None and earlier.stands == one.stands:
                continue  # `missed` is known only where `exact` was run beside it
            measured[about] = one
        radii |= {(one.model, one.attack, one.norm, one.n): one for one in kept.radii}
    return Kept(
        protocol=PROTOCOL,
        models=tuple(models.values()),
        measured=tuple(measured.values()),
        radii=tuple(radii.values()),
    )


def _requests(
    trainings: list[Training], measures: list[Measure], folder: Path, data_root: Path | None, workers: int
) -> list[Request]:
    """A request a threat; attacks that none of the models can be given are left out."""
    requests = []
    for norm, eps in dict.fromkeys((measure.norm, measure.eps) for measure in measures):
        attacks = [measure.spelled(folder) for measure in measures if (measure.norm, measure.eps) == (norm, eps)]
        content = {
            "models": [str(training.weights(folder)) for training in trainings],
            "dataset": trainings[0].dataset,
            "samples": measures[0].samples,
            "threats": [{"norm": norm, "eps": eps}],
            "workers": workers,
        }
        loaded = resolve(build_config(content | {"attacks": ["clean"]}, {}), data_root).models
        usable = [name for name in attacks if any(applies(resolve_attack(name), model) for model in loaded)]
        requests.append(resolve(build_config(content | {"attacks": usable or ["clean"]}, {}), data_root))
    return requests


def _kept_rows(rows: Iterable[Row], keys: Mapping[str, str], names: Mapping[str, str]) -> list[KeptMeasurement]:
    found = []
    for row in rows:
        for attack, proportion in row.attacks.items():
            if row.model not in keys or attack not in names:
                continue
            proofs = row.proofs.get(attack)
            found.append(
                KeptMeasurement(
                    model=keys[row.model],
                    attack=names[attack],
                    norm=row.norm,
                    eps=row.eps,
                    n=proportion.n,
                    stands=round(proportion.value * proportion.n),
                    certified=None if proofs is None else round(proofs.value * proofs.n),
                    missed=row.missed.get(attack),
                )
            )
    return found


def _kept_curve(curve: Curve, keys: Mapping[str, str]) -> list[KeptRadii]:
    if curve.model not in keys or curve.attack not in RADII:
        return []
    radii = np.array(list(curve.radii.values()))
    median = float(np.median(radii))
    return [
        KeptRadii(
            model=keys[curve.model],
            attack=curve.attack,
            norm=curve.norm,
            n=len(radii),
            robust={f"{eps:.6g}": int((radii > eps).sum()) for eps in LADDERS[curve.norm]},
            median=round(median, 6) if np.isfinite(median) else None,
        )
    ]


def _kept_model(training: Training, card: ModelCard) -> KeptModel:
    return KeptModel(
        key=training.key,
        recipe=training.recipe,
        dataset=training.dataset,
        seed=training.seed,
        settings=dict(card.settings),
        command=card.command,
        minutes=card.minutes,
        machine=card.machine,
        validation_accuracy=card.validation_accuracy,
        clean_accuracy=card.clean_accuracy,
        clean_samples=card.clean_samples,
        clusters=card.clusters,
        notes=card.notes,
        sha256=card.sha256,
    )
