"""Saved adversarial examples before the judge again: predictions, distances and verdicts, without an attack."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attacks.threat import TOLERANCE, Threat
from benchmark.instrument import FixedBatch, instrument
from benchmark.judge import Judgement, judge, predict
from model_zoo.adapter import judged_by
from model_zoo.registry import LoadedModel
from results.records import UnitRecord, Verdict
from results.verification import Counts, Kind, Problem

_SAME_DISTANCE = 1e-9
"""Relative: float64 sums in another order differ by less for images of a million pixels."""


@dataclass(frozen=True)
class Subject:
    """A model as it judges: in float32 as `benchmark.runner` has it judged, and in float64 to be compared with."""

    loaded: LoadedModel
    device: torch.device
    judged: FixedBatch
    precise: FixedBatch | None
    _clean: dict[tuple[int, int], tuple[Tensor, Tensor]] = field(default_factory=dict)

    @classmethod
    def of(cls, loaded: LoadedModel, device: torch.device) -> "Subject":
        judged = instrument(judged_by(loaded.model), device)
        return cls(loaded, device, judged, _in_float64(judged_by(loaded.model), judged.shapes))

    @property
    def classifier(self) -> nn.Module:
        """The judged model itself, which verifiers read."""
        return judged_by(self.loaded.model)

    def clean(self, part: "Part") -> tuple[Tensor, Tensor]:
        """Which unattacked samples are predicted right, and all predictions; computed once for units alike."""
        about = (int(part.sample_ids[0]), len(part.x))
        if about not in self._clean:
            self._clean[about] = predict(self.judged, part.x, part.y)
        return self._clean[about]


@dataclass(frozen=True)
class Part:
    """The samples of a unit on the judging device, and the threat."""

    sample_ids: Tensor
    x: Tensor
    y: Tensor
    threat: Threat


def rejudge(
    record: UnitRecord, part: Part, subject: Subject, images: Mapping[str, NDArray[Any]] | None
) -> tuple[list[Problem], Counts]:
    """What a record says of every sample, held against data, model and saved images (None: they cannot be had).

    The images stand where they stood when the unit was judged, originals in the place of those that are not saved: a
    kernel may round by the place in the batch. Raises what the model raises.
    """
    names = Names(record)
    right, clean = subject.clean(part)
    rows = {sample: row for row, sample in enumerate(record.sample_ids)}
    found, problems = ({}, []) if images is None else _placed(record, part, images)
    x_adv = part.x.clone()
    for sample, image in found.items():
        x_adv[rows[sample]] = image
    judgement = judge(subject.judged, part.x, part.y, x_adv, part.threat) if found else None
    precise = _precise(subject, part, x_adv, sorted(rows[sample] for sample in found))
    for row, sample in enumerate(record.sample_ids):
        verdict, label = record.verdicts[row], int(part.y[row])
        expected = label
        if record.labels[row] != label:
            problems.append(names.of_record(f"label {record.labels[row]}, the data set has {label}", sample))
        if record.clean_predictions[row] != int(clean[row]):
            said, is_ = record.clean_predictions[row], int(clean[row])
            problems.append(names.of_record(f"clean prediction {said}, the model predicts {is_}", sample))
        if bool(right[row]) == (verdict is Verdict.MISCLASSIFIED):
            truth = "correctly" if right[row] else "wrongly"
            problems.append(names.of_record(f"{verdict}, but the clean image is classified {truth}", sample))
        if verdict is Verdict.MISCLASSIFIED:
            expected = int(clean[row])
        elif verdict is Verdict.BROKEN and sample in found and judgement is not None:
            expected = int(judgement.predictions[row])
            why = _denied(judgement, row, x_adv[row], part, precise.get(row))
            if why:
                problems.append(names.of_images(f"the image {why}", sample))
                continue
        problems += [names.of_record(what, sample) for what in _entries(record, row, expected, judgement)]
    otherwise = sum(broken != bool(judgement.broken[row]) for row, broken in precise.items()) if judgement else 0
    return problems, Counts(examples=len(found), otherwise=otherwise)


@dataclass(frozen=True)
class Names:
    """The files of a record, to tell problems by."""

    record: UnitRecord

    @property
    def images(self) -> str:
        return f"units/{self.record.key}.safetensors"

    @property
    def proofs(self) -> str:
        return f"units/{self.record.key}.proofs.safetensors"

    def of_record(self, what: str, sample: int | None = None, kind: Kind = Kind.REFUTED) -> Problem:
        return Problem(kind, f"units/{self.record.key}.json", what, sample)

    def of_images(self, what: str, sample: int | None = None) -> Problem:
        return Problem(Kind.REFUTED, self.images, what, sample)

    def of_proofs(self, what: str, sample: int | None = None) -> Problem:
        return Problem(Kind.REFUTED, self.proofs, what, sample)


def _placed(
    record: UnitRecord, part: Part, images: Mapping[str, NDArray[Any]]
) -> tuple[dict[int, Tensor], list[Problem]]:
    """The image of each broken sample, and what is wrong with the arrays: one image a broken sample, no other."""
    names = Names(record)
    broken = [s for s, verdict in zip(record.sample_ids, record.verdicts, strict=True) if verdict is Verdict.BROKEN]
    if not images:
        images = {"sample_ids": np.zeros(0, np.int64), "x_adv": np.zeros((0, *part.x.shape[1:]), np.float32)}
    samples, x_adv = images.get("sample_ids"), images.get("x_adv")
    if samples is None or x_adv is None or len(images) != 2:
        return {}, [names.of_images("does not hold sample_ids and x_adv alone")]
    if samples.dtype != np.int64 or x_adv.dtype != np.float32:
        return {}, [names.of_images(f"holds {samples.dtype} and {x_adv.dtype}, not int64 and float32")]
    if samples.ndim != 1 or x_adv.shape != (len(samples), *part.x.shape[1:]):
        return {}, [names.of_images(f"images of shape {x_adv.shape} do not fit {samples.shape} samples of the data")]
    placed = dict(zip(samples.tolist(), torch.from_numpy(x_adv).to(part.x.device), strict=True))
    problems = [
        names.of_record("broken, but no adversarial image is saved", sample)
        for sample in broken
        if sample not in placed
    ]
    problems += [
        names.of_images(f"holds an image of a sample that {names.of_record('').file} does not call broken", sample)
        for sample in placed
        if sample not in broken
    ]
    if not problems and samples.tolist() != broken:
        problems.append(names.of_images("its samples are not in order, or there twice"))
    return {sample: image for sample, image in placed.items() if sample in broken}, problems


def _denied(judgement: Judgement, row: int, image: Tensor, part: Part, in_float64: bool | None) -> str:
    """Why an image breaks nothing; empty where it does."""
    if bool(judgement.broken[row]):
        return ""
    if not bool(judgement.allowed[row]):
        if not bool(image.isfinite().all()):
            return "is not finite"
        if not bool(((image >= part.threat.lower) & (image <= part.threat.upper)).all()):
            return f"leaves the box [{part.threat.lower:g}, {part.threat.upper:g}]"
        return (
            f"is {float(judgement.distances[row]):.9g} from the original in {part.threat.norm}, beyond eps = "
            f"{part.threat.eps:.9g} + {TOLERANCE:g}"
        )
    beside = {None: "", True: "; in float64 it is not", False: "; in float64 as well"}[in_float64]
    return f"is predicted as its class {int(part.y[row])}{beside}"


def _entries(record: UnitRecord, row: int, expected: int, judgement: Judgement | None) -> list[str]:
    """A sample's other entries, where they are not what its verdict and image make them."""
    broken = record.verdicts[row] is Verdict.BROKEN
    distance, said = record.distances[row], record.predictions[row]
    wrong = []
    if said != expected:
        wrong.append(f"prediction {said}, should be {expected}")
    if (distance is None) == broken or (record.winners[row] is None) == broken:
        wrong.append(f"{record.verdicts[row]}, which does not go with its distance and winner")
    elif distance is not None and judgement is not None:
        actual = float(judgement.distances[row])
        if not math.isclose(distance, actual, rel_tol=_SAME_DISTANCE, abs_tol=1e-12):
            wrong.append(f"distance {distance!r}, the image is {actual!r} away")
    return wrong


def _precise(subject: Subject, part: Part, x_adv: Tensor, rows: list[int]) -> dict[int, bool]:
    """Whether the images break the model in float64, by row; empty where it cannot be run in float64."""
    if subject.precise is None or not rows:
        return {}
    try:
        right, _ = predict(subject.precise, x_adv[rows].double(), part.y[rows])
    except Exception:  # a model with float32 tensors of its own; the float32 verdict stands without this
        return {}
    return dict(zip(rows, (~right).tolist(), strict=True))


def _in_float64(model: nn.Module, shapes: tuple[int, ...]) -> FixedBatch | None:
    try:
        return FixedBatch(copy.deepcopy(model).double(), *shapes).eval()
    except Exception:  # a model that cannot be copied
        return None
