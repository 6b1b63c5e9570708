"""Experiments of papers, run again: `bench reproduce PAPER [ITEM]`."""

import functools
from collections.abc import Callable
from pathlib import Path

from benchmark.errors import RequestError
from benchmark.reproduce.clustr_fig3_figure import fig3
from benchmark.reproduce.comparison import compare
from benchmark.reproduce.items import CLUSTERING_TRAINING, CLUSTR
from benchmark.reproduce.kept_studies import STUDIES
from benchmark.reproduce.request import Advance, Experiment, Options, Report, Work, check, make_folder
from benchmark.reproduce.training_time_table import TIMES, compare_times
from results.store import Store


def _fig3(options: Options) -> Work:
    return Work(lambda folder, advance: Report(fig3(folder, options.seeds)))


PAPERS: dict[str, dict[str, Experiment]] = {
    "clustr": {
        "fig3": _fig3,
        **{table.item: functools.partial(compare, table) for table in CLUSTR},
        **{table.item: functools.partial(compare_times, table) for table in TIMES},
    },
    "clustering-training": {table.item: functools.partial(compare, table) for table in CLUSTERING_TRAINING},
}


def reproduce(paper: str, item: str | None, out: Path | None, options: Options) -> list[Callable[[Advance], Report]]:
    """What makes the report of a paper's item, or those of all its items, each when it is called.

    Files go to `out`, by default runs/reproduce-PAPER-ITEM.

    Raises RequestError or StoreError for a wrong request, before any work.
    """
    if paper not in PAPERS:
        raise RequestError(f"paper must be one of {', '.join((*PAPERS, *STUDIES))}, got {paper!r}")
    items = PAPERS[paper]
    if item is not None and item not in items:
        raise RequestError(f"item of {paper} must be one of {', '.join(items)}, got {item!r}")
    check(options)
    chosen = list(items) if item is None else [item]
    works = [items[name](options) for name in chosen]
    folders = [Path("runs") / f"reproduce-{paper}-{name}" for name in chosen]
    if out is not None:
        folders = [out] if len(chosen) == 1 else [out / name for name in chosen]
    for work, folder in zip(works, folders, strict=True):
        _prepare(work, folder)
    return [functools.partial(work.run, folder) for work, folder in zip(works, folders, strict=True)]


def _prepare(work: Work, folder: Path) -> None:
    make_folder(folder)
    if work.identity is not None:
        Store(folder).open_for(work.identity)
