"""Adversarial examples to look at: the first samples that each attack broke, beside the clean images."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from results.leaderboard import classifier_of
from results.loaded import LoadedRun
from results.pictures import data_uri, difference
from results.records import Classifier, UnitRecord, Verdict
from results.store import StoreError

PER_ATTACK = 6
MOST_BYTES = 4_000_000
"""Of all images of a page, as text, with what is written beside them."""
_CAPTION = 800


@dataclass(frozen=True)
class CleanImages:
    """The images of a data set, (n, c, h, w) in [0, 1], and its classes' names where it has some."""

    images: NDArray[np.float32]
    class_names: tuple[str, ...] = ()


FindClean = Callable[[str, str], CleanImages | str]
"""Data set as the run's configuration names it, and its checksum -> images, or in one line why there are none."""


@dataclass(frozen=True)
class Example:
    """One broken sample; images are data URIs. Without the clean image there is no difference and no `factor`."""

    sample: int
    label: str
    prediction: str
    distance: float | None
    winner: str
    adversarial: str
    clean: str | None = None
    changed: str | None = None
    factor: float | None = None

    @property
    def size(self) -> int:
        return sum(len(uri) for uri in (self.adversarial, self.clean, self.changed) if uri) + _CAPTION


@dataclass(frozen=True)
class Shelf:
    """The examples of one attack on one model, the first of `broken` samples; `missing` says why there are fewer."""

    model: str
    attack: str
    broken: int
    examples: tuple[Example, ...] = ()
    missing: str = ""


@dataclass(frozen=True)
class Gallery:
    """The shelves of one classifier of a run; `note` tells what of its data set cannot be had."""

    about: Classifier
    shelves: tuple[Shelf, ...]
    note: str = ""


@dataclass
class _Pile:
    """A shelf that is being filled: broken samples in order, each with its record."""

    model: str
    attack: str
    samples: list[tuple[int, UnitRecord]] = field(default_factory=list)


def galleries(run: LoadedRun, find_clean: FindClean, budget: int, per_attack: int = PER_ATTACK) -> list[Gallery]:
    """The galleries of a run's classifiers, within `budget` characters.

    Which samples are shown depends on nothing but their numbers: every attack's first broken one, then every attack's
    second, and so on, until `per_attack` or the budget is reached.
    """
    clean = cache(find_clean)
    piles: dict[Classifier, dict[tuple[str, str], _Pile]] = defaultdict(dict)
    for record in sorted(run.records, key=lambda record: record.unit.start):
        unit = record.unit
        broken = [s for s, v in zip(record.sample_ids, record.verdicts, strict=True) if v is Verdict.BROKEN]
        if broken:
            pile = piles[classifier_of(unit)].setdefault((unit.model, unit.attack), _Pile(unit.model, unit.attack))
            pile.samples += [(sample, record) for sample in broken]
    records = {record.key: record for record in run.records}
    arrays = cache(lambda key: _images(run, records[key]))
    shelves = {(c, name): Shelf(*name, len(pile.samples)) for c, by in piles.items() for name, pile in by.items()}
    left = budget
    for turn in range(per_attack):
        for (about, name), shelf in shelves.items():
            pile = piles[about][name]
            if turn >= len(pile.samples) or shelf.missing:
                continue
            sample, record = pile.samples[turn]
            images = arrays(record.key)
            if images is not None and sample not in images:
                path = run.store.units / f"{record.key}.safetensors"
                raise StoreError(f"{path} has no image of sample {sample}, which its record says is broken")
            if images is None:
                shelves[about, name] = replace(shelf, missing="its adversarial images are not in the run's folder")
                continue
            try:
                example = _example(sample, record, images, clean(run.dataset, record.unit.data_sha256))
            except ValueError as error:
                shelves[about, name] = replace(shelf, missing=str(error))
                continue
            left -= example.size
            if left < 0:
                shelves[about, name] = replace(shelf, missing="the page has a limit to its size")
                continue
            shelves[about, name] = replace(shelf, examples=(*shelf.examples, example))
    return [_gallery(about, [shelves[about, name] for name in by], clean, run) for about, by in piles.items()]


def _gallery(about: Classifier, shelves: Sequence[Shelf], clean: FindClean, run: LoadedRun) -> Gallery:
    found = clean(run.dataset, about[3])
    return Gallery(about, tuple(shelves), f"Without clean images: {found}" if isinstance(found, str) else "")


def _images(run: LoadedRun, record: UnitRecord) -> dict[int, NDArray[np.float32]] | None:
    """The adversarial images of a unit by sample; None where its file is gone, StoreError where it is damaged."""
    if not (run.store.units / f"{record.key}.safetensors").exists():
        return None
    arrays = run.store.read_adversarial(record)
    ids, images = arrays.get("sample_ids"), arrays.get("x_adv")
    if ids is None or images is None or ids.ndim != 1 or images.ndim != 4 or len(ids) != len(images):
        raise StoreError(f"{run.store.units / record.key}.safetensors does not hold sample_ids and as many images")
    return dict(zip(ids.tolist(), images, strict=True))


def _example(
    sample: int, record: UnitRecord, images: dict[int, NDArray[np.float32]], clean: CleanImages | str
) -> Example:
    place = sample - record.unit.start
    names = clean.class_names if isinstance(clean, CleanImages) else ()
    adversarial = images[sample]
    shown = Example(
        sample,
        _class(record.labels[place], names),
        _class(record.predictions[place], names),
        record.distances[place],
        record.winners[place] or record.unit.attack,
        data_uri(adversarial),
    )
    if isinstance(clean, str):
        return shown
    original = clean.images[sample]
    changed, factor = difference(original, adversarial)
    return replace(shown, clean=data_uri(original), changed=data_uri(changed), factor=factor)


def _class(number: int, names: Sequence[str]) -> str:
    return f"{names[number]} ({number})" if number < len(names) else f"class {number}"
