"""Run folders on disk, written by hand: every verdict, image and winner is known."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from results.gallery import CleanImages
from results.records import UnitRecord, Verdict, WorkUnit
from results.store import Store, pack_adversarial
from tests.results.builders import record, unit

NAMES = ("zero", "one")
Cells = Mapping[tuple[str, str], str]


def clean_images(n: int, channels: int = 1) -> CleanImages:
    """n images of 6x6 pixels, each of one grey; sample i is (40 + i) / 255."""
    levels = (40 + np.arange(n, dtype=np.float32)) / 255
    return CleanImages(np.tile(levels[:, None, None, None], (1, channels, 6, 6)).astype(np.float32), NAMES)


def adversarial(sample: int, eps: float, channels: int = 1) -> NDArray[np.float32]:
    """The clean image with the left half raised by eps."""
    image: NDArray[np.float32] = clean_images(sample + 1, channels).images[sample].copy()
    image[:, :, :3] += np.float32(eps)
    return image


def write_run(
    folder: Path,
    cells: Cells,
    eps: tuple[float, ...] = (8 / 255,),
    *,
    flags: Mapping[str, tuple[str, ...]] | None = None,
    winners: Mapping[str, str] | None = None,
    left_out: tuple[tuple[str, str], ...] = (),
    proves: tuple[str, ...] = (),
    radii: Mapping[str, list[float | None]] | None = None,
    channels: int = 1,
    configured: str | None = None,
    **changes: Any,
) -> Path:
    """A run of {(model, attack): verdicts} at each eps; `left_out` units are planned and not done.

    `flags` are by attack, `winners` name by attack what broke its samples, `radii` are by attack.
    """
    planned: list[tuple[WorkUnit, str]] = [
        (
            unit(
                model=model,
                group=model.partition("@")[0],
                attack=attack,
                stop=len(verdicts),
                eps=radius,
                proves=attack in proves,
                **changes,
            ),
            verdicts,
        )
        for radius in eps
        for (model, attack), verdicts in cells.items()
    ]
    store = Store(folder)
    store.open_for({"dataset": configured or planned[0][0].dataset})
    store.write_plan(of for of, _ in planned)
    for of, verdicts in planned:
        if (of.model, of.attack) not in left_out:
            store.write(*_made(of, verdicts, (flags or {}).get(of.attack, ()), winners or {}, radii or {}, channels))
    return folder


def _made(
    of: WorkUnit,
    verdicts: str,
    flags: tuple[str, ...],
    winners: Mapping[str, str],
    radii: Mapping[str, list[float | None]],
    channels: int,
) -> tuple[UnitRecord, bytes | None]:
    plain = record(of, verdicts, flags)
    broken = [s for s, v in zip(plain.sample_ids, plain.verdicts, strict=True) if v is Verdict.BROKEN]
    images = None
    changes: dict[str, Any] = {
        "winners": [winners.get(of.attack, of.attack) if v is Verdict.BROKEN else None for v in plain.verdicts],
        "radii": radii.get(of.attack, plain.radii),
    }
    if broken:
        images = pack_adversarial(np.array(broken), np.stack([adversarial(s, of.eps, channels) for s in broken]))
        changes["adversarial_sha256"] = hashlib.sha256(images).hexdigest()
    return UnitRecord.model_validate(plain.model_dump() | changes), images
