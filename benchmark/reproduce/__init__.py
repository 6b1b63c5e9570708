"""Experiments of papers, run again: `bench reproduce PAPER [ITEM]`."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmark.errors import RequestError
from benchmark.reproduce.clustr_fig3_figure import fig3

Experiment = Callable[[Path, Sequence[int]], str]
"""(folder to write into, seeds) to the report that is printed."""

PAPERS: dict[str, dict[str, Experiment]] = {"clustr": {"fig3": fig3}}


def reproduce(paper: str, item: str | None, out: Path | None, seeds: Sequence[int]) -> Iterator[str]:
    """The reports of a paper's item, or of all its items; files go to `out`, by default runs/reproduce-PAPER-ITEM.

    Raises RequestError for a wrong request, before any work.
    """
    if paper not in PAPERS:
        raise RequestError(f"paper must be one of {', '.join(PAPERS)}, got {paper!r}")
    items = PAPERS[paper]
    if item is not None and item not in items:
        raise RequestError(f"item of {paper} must be one of {', '.join(items)}, got {item!r}")
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise RequestError(f"seeds must be different and not negative, got {', '.join(map(str, seeds))}")
    chosen = list(items) if item is None else [item]
    folders = [Path("runs") / f"reproduce-{paper}-{name}" for name in chosen]
    if out is not None:
        folders = [out] if len(chosen) == 1 else [out / name for name in chosen]
    for folder in folders:
        _prepare(folder)
    for name, folder in zip(chosen, folders, strict=True):
        yield items[name](folder, seeds)


def _prepare(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RequestError(f"--out {folder} cannot be written: {error.strerror}; choose another folder") from None
