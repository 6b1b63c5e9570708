"""`bench reproduce PAPER ITEM` for an item that is a table of accuracies: request, measurement, report."""

import textwrap
from pathlib import Path

from benchmark.datasets import Dataset
from benchmark.reproduce.compare import (
    NOT_RUN_DATA,
    NOT_RUN_WEIGHTS,
    Cells,
    as_csv,
    datasets_of,
    fixed_width,
    grid,
    lines_of,
    markdown,
    views_of,
    without_counterpart,
)
from benchmark.reproduce.measure import Subject, measure, requests_of, subject_of, training_of
from benchmark.reproduce.request import Advance, Options, Report, Work, at_hand, identity, images_of
from benchmark.reproduce.statements import closing, detailed, judged
from benchmark.reproduce.tables import Table
from results.claims import Paper, load_claims
from results.store import Store, write_whole


def compare(table: Table, options: Options) -> Work:
    """An item of a paper; RequestError for what does not load or fit."""
    paper = load_claims(table.paper)
    subject = subject_of(table, options)
    requests = requests_of(table, subject, options, paper.norm or "linf")
    belongs_to = identity(table.paper, table.item, options)

    def run(folder: Path, advance: Advance) -> Report:
        store = Store(folder)
        with store.opened(belongs_to):
            cells, failures = measure(table, subject, requests, options, store, advance)
            return write(table, paper, subject, cells, failures, options, folder)

    return Work(run, belongs_to)


def write(
    table: Table, paper: Paper, subject: Subject, cells: Cells, failures: list[str], options: Options, folder: Path
) -> Report:
    """The report, and `table.csv` and `table.md` in the folder."""
    lines = lines_of(table, paper, cells)
    elsewhere = {
        name: NOT_RUN_WEIGHTS if at_hand(name, options.data_root) else NOT_RUN_DATA
        for name in datasets_of(table, paper)
        if name != options.dataset
    }
    rows = grid(lines, options.dataset, elsewhere)
    outcomes = judged(table.statements, views_of(table, cells))
    head = header(table, paper, subject, options)
    foot = [detailed(outcomes), closing(outcomes), *(f"failed: {failure}" for failure in failures)]
    write_whole(folder / "table.csv", as_csv(lines, options.dataset).encode())
    as_markdown = [
        f"# {table.paper} {table.item}",
        f"```\n{head}\n```",
        markdown(rows),
        f"```\n{foot[0]}\n```",
        *foot[1:],
    ]
    write_whole(folder / "table.md", ("\n\n".join(as_markdown) + "\n").encode())
    files = f"table: {folder / 'table.md'} and {folder / 'table.csv'}"
    return Report("\n\n".join([head, fixed_width(rows), *foot, files]) + "\n", complete=not failures)


def header(table: Table, paper: Paper, subject: Subject, options: Options) -> str:
    """The paper, and what differs between its protocol and ours."""
    data = images_of(options)
    if isinstance(data, Dataset):
        of = "validation" if data.name.endswith(":validation") else "test"
        measured = f"{data.name}, the first {options.samples} of {len(data.x)} {of} images; {training_of(subject)}"
    else:
        measured = f"nothing: {data}"
    published = f"{', '.join(datasets_of(table, paper))}; {paper.backbone}; {PROTOCOLS[table.paper]}"
    missing = without_counterpart(table, paper)
    if missing:
        published += f". Without a counterpart here: {'; '.join(missing)}"
    notes = [*table.notes, *([paper.protocol_note] if paper.protocol_note else []), *READING]
    blocks = [
        f"{paper.title} ({paper.source})\n{table.item}: {table.title}",
        told("published", published),
        told("measured", measured),
        *(told("note", note) for note in notes),
    ]
    return "\n".join(blocks)


def told(word: str, text: str) -> str:
    return textwrap.fill(text, 120, initial_indent=f"  {word:<10}", subsequent_indent=" " * 12, break_on_hyphens=False)


PROTOCOLS = {
    "clustr": (
        "cross entropy for up to 90 epochs, then 30 of the Magnet loss (60 on CIFAR-100 and SVHN by appendix D); "
        "test images: n not stated; attacks through the raw class sums (paper's head), judged at the last iterate"
    ),
    "clustering-training": "epochs not stated; test images: n not stated",
}

READING = (
    "in % of all test images attacked, with 95 % Wilson intervals. Paper's head: the attack sees the raw class sums as "
    "logits; judged head: it sees the log-sum-exp head, by which every prediction is judged. Success counts at any "
    "iterate.",
)
