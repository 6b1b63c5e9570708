"""`bench reproduce PAPER ITEM` for an item that is a table of training times: request, measurement, report."""

import csv
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from benchmark.datasets import Dataset
from benchmark.errors import RequestError
from benchmark.reproduce.compare import NOT_RUN_DATA, UNDEFINED, fixed_width, markdown
from benchmark.reproduce.comparison import told
from benchmark.reproduce.request import Advance, Options, Report, Work, identity, images_of
from benchmark.reproduce.statements import Outcome, closing, detailed
from benchmark.reproduce.training_time import Settings, Timed, minutes, timed
from results.claims import Paper, load_claims
from results.store import Store, StoreError, write_whole


@dataclass(frozen=True)
class Faster:
    """`fast` trains at least `times` times as fast as `slow`."""

    text: str
    fast: str
    slow: str
    times: float = 1.0


@dataclass(frozen=True)
class TimeTable:
    """An item of a paper: minutes of training on a data set, in the paper's order."""

    paper: str
    item: str
    dataset: str
    statements: tuple[Faster, ...]
    settings: Settings = Settings()  # noqa: RUF009 - frozen


_QUICK = (
    Faster("ClusTR + QTRADES at least 4 times as fast as TRADES", "clustr-qtrades", "trades", 4.0),
    Faster("QTRADES at least 10 times as fast as TRADES", "qtrades", "trades", 10.0),
)

TIMES = (
    TimeTable(
        "clustr", "2", "cifar10", (*_QUICK, Faster("ClusTR + QTRADES faster than Free AT", "clustr-qtrades", "free-at"))
    ),
    TimeTable("clustr", "5", "svhn", _QUICK),
)


def compare_times(table: TimeTable, options: Options) -> Work:
    """An item of a paper. The times are kept in `times.json`: a second call measures nothing."""
    paper = load_claims(table.paper)
    published = paper.training_minutes_on_a_gtx_1080ti[table.dataset]
    data = images_of(options)
    belongs_to = {**identity(table.paper, table.item, options), "timing": dataclasses.asdict(table.settings)}

    def run(folder: Path, advance: Advance) -> Report:
        store = Store(folder)
        with store.opened(belongs_to):
            kept = folder / "times.json"
            measured: dict[str, Timed] = {}
            if kept.exists():
                measured = read_times(kept)
            elif isinstance(data, Dataset):
                try:
                    measured = timed(tuple(published), data, table.settings, advance)
                except ValueError as error:  # a recipe's word on data that do not fit
                    raise RequestError(f"{paper_item(table)} on {data.name}: {error}") from error
                content = {name: dataclasses.asdict(value) for name, value in measured.items()}
                write_whole(kept, json.dumps(content, indent=1).encode())
            return write(table, paper, measured, options, folder)

    return Work(run, belongs_to)


def paper_item(table: TimeTable) -> str:
    return f"{table.paper} {table.item}"


def read_times(path: Path) -> dict[str, Timed]:
    """Times that an earlier call left; StoreError names a damaged file."""
    try:
        return {name: Timed(**value) for name, value in json.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        raise StoreError(f"{path} is damaged; remove it to measure again") from None


def write(table: TimeTable, paper: Paper, measured: dict[str, Timed], options: Options, folder: Path) -> Report:
    """The report, and `table.csv` and `table.md` in the folder."""
    published = paper.training_minutes_on_a_gtx_1080ti[table.dataset]
    here = minutes(measured, tuple(published)) if measured else {}
    rows = [
        {
            "recipe": name,
            f"published\nminutes, {table.dataset}": f"{value:g}",
            "published\nratio": f"{value / min(published.values()):.2f}",
            "here,\nminutes": f"{here[name]:.1f}" if here else NOT_RUN_DATA,
            "here,\nratio": f"{here[name] / min(here.values()):.2f}" if here else NOT_RUN_DATA,
            "here,\nepochs": epochs(measured, name) if here else UNDEFINED,
        }
        for name, value in published.items()
    ]
    outcomes = [(statement.text, "", judge(statement, published, here)) for statement in table.statements]
    head, foot = header(table, paper, options), [detailed(outcomes), closing(outcomes)]
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([[" ".join(name.split()) for name in rows[0]], *(row.values() for row in rows)])
    write_whole(folder / "table.csv", text.getvalue().encode())
    title = f"# {paper_item(table)}"
    as_markdown = [title, f"```\n{head}\n```", markdown(rows), f"```\n{foot[0]}\n```", foot[1]]
    write_whole(folder / "table.md", ("\n\n".join(as_markdown) + "\n").encode())
    files = f"table: {folder / 'table.md'} and {folder / 'table.csv'}"
    return Report("\n\n".join([head, fixed_width(rows), *foot, files]) + "\n")


def epochs(measured: dict[str, Timed], name: str) -> str:
    before = f"{measured['nominal'].epochs} of nominal, then " if measured[name].warm_start else ""
    return f"{before}{measured[name].epochs}"


def judge(statement: Faster, published: Mapping[str, float], here: Mapping[str, float]) -> Outcome:
    ratio = published[statement.slow] / published[statement.fast]
    if not here:
        return Outcome(None, f"published: {ratio:.2f} times")
    measured = here[statement.slow] / here[statement.fast]
    return Outcome(measured >= statement.times, f"{measured:.2f} times here, {ratio:.2f} published")


def header(table: TimeTable, paper: Paper, options: Options) -> str:
    s = table.settings
    return "\n".join(
        [
            f"{paper.title} ({paper.source})",
            f"{table.item}: training time; ratios are to the fastest recipe",
            told("published", f"{table.dataset}, {paper.backbone}, one GTX 1080Ti; trained until convergence"),
            told(
                "measured",
                f"{options.dataset}, small-resnet, one CPU thread for all; processor time of an epoch of "
                f"{s.images} images of each recipe in turn, the fastest of {s.rounds} rounds, scaled to {s.full_epoch} "
                "images and multiplied by the recipe's epochs; clustering, validation and the warm start included",
            ),
            told(
                "note",
                "a recipe's epochs are fixed here, not found by convergence; magnet's are those of nominal and clustr "
                "together, so that nothing is said here of the time that a warm start saves.",
            ),
        ]
    )
