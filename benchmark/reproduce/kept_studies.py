"""Papers whose studies take hours: printed from kept results, made again by `--fresh`."""

import dataclasses
import logging
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmark import datasets
from benchmark.errors import RequestError
from benchmark.reproduce import background, study_report
from benchmark.reproduce.kmeans_studies import KMEANS
from benchmark.reproduce.request import Advance, Options, Report, make_folder
from benchmark.reproduce.studies import Study, make, merged
from results.claims import Paper, load_claims
from results.kept import Kept, read_kept, shipped
from results.records import PROTOCOL
from results.store import write_whole

STUDIES: Mapping[str, Mapping[str, Sequence[Study]]] = {"kmeans": KMEANS}

RESULTS = "kept.json"
"""In the folder of a fresh run: what the package's results/kept/PAPER.json is a copy of."""

NONE = Kept(protocol=PROTOCOL)


def chosen(paper: str, item: str | None) -> list[Study]:
    """The studies of an item, or of all; RequestError for an unknown one."""
    items = STUDIES[paper]
    if item is not None and item not in items:
        raise RequestError(f"item of {paper} must be one of {', '.join(items)}, got {item!r}")
    return [study for name, studies in items.items() if item in (None, name) for study in studies]


def asked(
    paper: str,
    item: str | None,
    out: Path | None,
    options: Options,
    fresh_wanted: bool,
    foreground: bool,
    advance: Advance,
) -> Report:
    """What `bench reproduce PAPER` does: print what is kept, or carry it out again, here or in the background."""
    if dataclasses.replace(options, data_root=None, workers=0) != Options():
        raise RequestError(
            f"--dataset, --weights, --samples and --seed do not go with {paper}: its studies name theirs"
        )
    if not fresh_wanted and (out or options.data_root or options.workers):
        raise RequestError("--out, --data-root and --workers go with --fresh: kept results are only printed")
    if foreground and not fresh_wanted:
        raise RequestError("--foreground goes with --fresh")
    if not fresh_wanted:
        return from_kept(paper, item)
    folder = out or Path("runs") / f"reproduce-{paper}"
    if foreground:
        logging.getLogger("model_zoo").setLevel(logging.INFO)
        return fresh(paper, item, folder, options, advance)
    named = [*([item] if item else []), "--fresh", "--foreground", "--out", str(folder)]
    named += ["--data-root", str(options.data_root)] if options.data_root else []
    named += ["--workers", str(options.workers)]
    return begin(paper, item, folder, options, ["reproduce", paper, *named])


def from_kept(paper: str, item: str | None) -> Report:
    """The tables, from the results that ship."""
    studies = chosen(paper, item)
    kept = shipped(paper)
    again = f"bench reproduce {paper}{f' {item}' if item else ''} --fresh"
    about = f"From kept results; `{again}` makes them again, in hours."
    return Report(_text(paper, studies, kept or NONE, about), complete=True)


def fresh(paper: str, item: str | None, folder: Path, options: Options, advance: Advance) -> Report:
    """Train and measure what is not done yet in `folder`, study by study, keeping what is there after each."""
    studies = chosen(paper, item)
    check(studies, folder, options)
    path = folder / RESULTS
    failures: list[str] = []
    with background.working(folder) as told:
        for study in studies:
            before = read_kept(path) if path.exists() else NONE
            made, failed = make(study, folder, options.data_root, options.workers, advance, told)
            write_whole(path, merged([before, made]).text().encode())
            failures += failed
        told("done")
    text = _text(paper, studies, read_kept(path), f"Results: {path}")
    return Report("\n".join([text, *(f"failed: {failure}" for failure in failures)]), complete=not failures)


def begin(paper: str, item: str | None, folder: Path, options: Options, arguments: Sequence[str]) -> Report:
    """`fresh` in the background; the tables where all of it is done already, how far it is where it is running."""
    studies = chosen(paper, item)
    if background.is_running(folder):
        return Report(f"running: {background.progress(folder)}")
    check(studies, folder, options)
    path = folder / RESULTS
    if path.exists() and all(study_report.complete(study, read_kept(path)) for study in studies):
        return Report(_text(paper, studies, read_kept(path), f"Results: {path}"))
    number = background.start(arguments, folder)
    return Report(
        f"begun as process {number}; the same command tells how far it is, and prints the tables at the end\n"
        f"log: {folder / background.LOG}; stop it: kill {number}; what is done stays done"
    )


def check(studies: Sequence[Study], folder: Path, options: Options) -> None:
    """RequestError, one line, for a folder that cannot be written to, or data that a study needs and are not there."""
    if options.workers < 0:
        raise RequestError(f"workers must be at least 0 (0: one a core), got {options.workers}")
    for dataset in dict.fromkeys(training.dataset for study in studies for training in study.trainings):
        datasets.load(dataset, options.data_root, "train")
    make_folder(folder)


def _text(paper_name: str, studies: Sequence[Study], kept: Kept, about: str) -> str:
    paper = load_claims(paper_name)
    parts = [f"{paper.title} ({paper.source})", *([_wrapped(paper.setting)] if paper.setting else []), about]
    return "\n\n".join([*parts, *(_shown(study, kept, paper) for study in studies)]) + "\n"


def _shown(study: Study, kept: Kept, paper: Paper) -> str:
    notes = [_wrapped(f"note: {note}") for note in (*study.notes, *_remarks(study, kept))]
    grid = study_report.table(study, kept, paper)
    return "\n".join([f"{study.item}: {study.title}", "", study_report.fixed_width(grid), *notes])


def _remarks(study: Study, kept: Kept) -> list[str]:
    """What the cards say that a reader of the table must know."""
    keys = {training.key: line.labels for line in study.lines for training in line.trainings}
    told: dict[str, list[str]] = {}
    for model in kept.models:
        for note in model.notes:
            if model.key in keys and "no cluster stands for" in note:
                told.setdefault(note, []).append(" ".join(keys[model.key]))
    return [f"{', '.join(dict.fromkeys(names))}: {note}" for note, names in told.items()]


def _wrapped(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 120, subsequent_indent="  ", break_on_hyphens=False)
