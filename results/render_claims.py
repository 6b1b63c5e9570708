"""Verdicts on published numbers as text: terminal and markdown for people (percent), CSV and JSON (fractions)."""

import csv
import itertools
import json
import textwrap
from collections.abc import Callable, Iterable, Sequence
from io import StringIO
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tabulate import tabulate

from results import render_robustbench
from results.claims_told import closing, counted, threat_of
from results.evidence import LABELS, Evidence, label
from results.notes import show_eps
from results.printable import in_cell
from results.robustbench import NAME
from results.verdicts import Gap, Held, Judgement

COLUMNS = ("data set, eps", "model", "published", "measured", "verdict", "weak to strong attack on other data")

REPEATED = COLUMNS[:2]
"""Cells that are left empty where they repeat the line above."""

LEGEND = (
    "In % of the test images, with 95 % intervals. measured: the same attack on the matching row, through the paper's "
    "head where that was attacked. Two numbers differ only where the interval of their difference leaves 0 out; "
    "a published number whose n is not stated counts as exact. upheld: AutoAttack or an exact verifier leaves no less "
    "than claimed. refuted: the claim's own attack already leaves less here. weaker protocol: it does not, but a "
    "stronger attack leaves less. not comparable: what is measured differs in what is named. A robust accuracy of at "
    "most 10 % is read as the claim that nothing is robust. Models measured here are trained by this project's "
    "recipes, not the authors' weights; RobustBench's rows are the authors' weights. Last column: the claim's attack "
    "and the strongest on the same recipe on data of ours; same pattern: the strong one leaves less beyond error; no "
    "gap: it does not."
)


def terminal(held: Held) -> str:
    """Tables, evidence and findings, source by source."""
    parts = [_wrapped(_opening(held))]
    sources = sources_of(one for one in held.judgements if one.number.paper != NAME)
    for name in _papers(held):
        parts.append(_title(held, name))
        for heading, judgements in _groups(held.of(name)):
            parts.append(f"{heading}\n{_grid([cells_of(one, sources) for one in judgements])}")
        parts.append("\n".join(_wrapped(told) for told in closing(held.of(name))))
    if rows := held.of(NAME):
        parts.append(_wrapped(render_robustbench.title()))
        parts.append(_grid(render_robustbench.lines(rows, held.whole)))
        parts.append("\n".join(_wrapped(told) for told in render_robustbench.closing(rows, held.whole)))
    parts.append(_wrapped(f"In all: {counted(held.judgements)}."))
    if sources:
        parts.append("\n".join(f"[{number}] {told}" for told, number in sources.items()))
    parts.append(_wrapped(LEGEND))
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def markdown(held: Held) -> str:
    """The same for a page."""
    parts = ["# Published numbers against measured ones", _opening(held)]
    sources = sources_of(one for one in held.judgements if one.number.paper != NAME)
    for name in _papers(held):
        parts.append(f"## {_title(held, name)}")
        for heading, judgements in _groups(held.of(name)):
            parts += [f"**{heading}**", _piped([cells_of(one, sources) for one in judgements])]
        parts.append("\n".join(closing(held.of(name))))
    if rows := held.of(NAME):
        parts += [f"## {render_robustbench.title()}", _piped(render_robustbench.lines(rows, held.whole))]
        parts.append("\n".join(render_robustbench.closing(rows, held.whole)))
    parts.append(f"In all: {counted(held.judgements)}.")
    if sources:
        parts.append("\n".join(f"- [{number}] {told}" for told, number in sources.items()))
    parts.append(LEGEND)
    return "\n\n".join(parts) + "\n"


def as_json(held: Held) -> str:
    """One object a number; accuracies as fractions, the undefined as null."""
    return json.dumps([claim_object(one) for one in held.judgements], indent=2, ensure_ascii=False) + "\n"


def as_csv(held: Held) -> str:
    """One line a number; an empty field is undefined."""
    text = StringIO()
    writer: csv.DictWriter[str] | None = None
    for one in held.judgements:
        line = claim_object(one) | {"differs": "; ".join(one.differs)}
        if writer is None:
            writer = csv.DictWriter(text, list(line), lineterminator="\n")
            writer.writeheader()
        writer.writerow(line)
    return text.getvalue()


FORMATS: dict[str, Callable[[Held], str]] = {
    "terminal": terminal,
    "md": markdown,
    "csv": as_csv,
    "json": as_json,
}


def claim_object(one: Judgement) -> dict[str, Any]:
    """A judgement as plain data."""
    number, gap = one.number, one.gap
    return {
        "paper": number.paper,
        "table": number.table,
        "dataset": number.dataset,
        "model": number.model,
        "norm": number.norm,
        "eps": number.eps,
        "quantity": number.quantity,
        "published": number.shown,
        "published_at_least": None if number.least is None else round(number.least.value, 6),
        "published_at_most": None if number.most is None else round(number.most.value, 6),
        "published_n": number.n or None,
        "verdict": str(one.ruling),
        "evidence": one.because,
        "source": None if one.evidence is None else one.evidence.source,
        "differs": list(one.differs),
        "measured": None if one.measured is None else one.measured.value,
        "measured_low": None if one.measured is None else one.measured.low,
        "measured_high": None if one.measured is None else one.measured.high,
        "measured_n": None if one.measured is None else one.measured.n,
        "strongest_attack": None if one.strongest is None else label(one.strongest),
        "strongest": None if one.strongest is None else one.strongest.share.value,
        "pattern_elsewhere": None if gap is None else "reproduced" if gap.seen else "not reproduced",
        "pattern_weak": None if gap is None else gap.weak.share.value,
        "pattern_strong": None if gap is None else gap.strong.share.value,
        "pattern_strong_attack": None if gap is None else label(gap.strong),
        "pattern_p": None if gap is None else gap.p,
        "pattern_source": None if gap is None else gap.evidence.source,
    }


def _opening(held: Held) -> str:
    against = f"measured by {', '.join(held.runs)}" if held.runs else "measured here (the results that ship)"
    return (
        f"What {len(held.judgements)} published numbers are worth. Each is held against the matching one {against}, or "
        "against RobustBench's AutoAttack on the authors' own weights. What the verdicts mean is said at the end."
    )


def _papers(held: Held) -> list[str]:
    return [name for name in sorted(held.papers) if held.of(name)]


def _title(held: Held, name: str) -> str:
    paper = held.papers[name]
    return f"{name}: {paper.title} ({paper.source})"


def sources_of(judgements: Iterable[Judgement]) -> dict[str, int]:
    """What the bracketed numbers stand for, in order of appearance."""
    pieces = [
        piece
        for one in judgements
        for piece in (one.evidence, one.gap.evidence if one.gap else None)
        if piece is not None
    ]
    return {told: number for number, told in enumerate(dict.fromkeys(map(_source, pieces)), start=1)}


def _source(piece: Evidence) -> str:
    if piece.source.startswith("RobustBench"):
        about = piece.remark.partition(", ")[2]
        return f"{piece.source}: {piece.dataset}, {about}, n = {piece.n:,}"
    network = f", {piece.architecture}" if piece.architecture else ""
    threat = "" if piece.source.endswith(".csv") else f", {piece.norm} {show_eps(piece.eps)}"
    return f"{piece.source}: {piece.dataset}{network}{threat}, n = {piece.n:,}"


def _groups(judgements: Sequence[Judgement]) -> list[tuple[str, list[Judgement]]]:
    """By the source's tables."""
    ordered = sorted(judgements, key=lambda one: one.number.table)
    groups = itertools.groupby(ordered, key=lambda one: one.number.table)
    return [(f"Table {table}" if table else "Its numbers", list(members)) for table, members in groups]


def cells_of(one: Judgement, sources: dict[str, int]) -> dict[str, str]:
    """The columns of one number; `sources` is that of `sources_of`."""
    number = one.number
    named = number.model + (f" (D = {number.nearest})" if number.nearest else "")
    measured = "–"
    if one.measured is not None:
        measured = _share(one.measured.value, one.measured.low, one.measured.high)
    elif one.strongest is not None:
        measured = f"{label(one.strongest)} {100 * one.strongest.share.value:.2f}"
    if one.evidence is not None:
        measured += f" [{sources[_source(one.evidence)]}]"
        measured += f" ({one.evidence.model})" if _is_variant(one) else ""
    verdict = str(one.ruling)
    if one.differs:
        verdict += ": " + ", ".join(text.partition(" (")[0] for text in one.differs)
    about = f"{number.dataset}, {threat_of(number)}"
    cells = (about, named, f"{LABELS[number.quantity]} {number.shown}", measured, verdict, _pattern(one.gap, sources))
    return dict(zip(COLUMNS, cells, strict=True))


def _is_variant(one: Judgement) -> bool:
    """Whether one of several stand-ins was taken, or the model without its D."""
    piece = one.evidence
    assert piece is not None
    named = one.number.model + (f"@nearest={one.number.nearest}" if one.number.nearest else "")
    return piece.model not in (named, one.number.model) and not piece.source.startswith("RobustBench")


def _pattern(gap: Gap | None, sources: dict[str, int]) -> str:
    if gap is None:
        return ""
    weak, strong = 100 * gap.weak.share.value, 100 * gap.strong.share.value
    word = "same pattern" if gap.seen else "no gap"
    return f"{weak:.2f} to {strong:.2f}, {word} [{sources[_source(gap.evidence)]}]"


def _share(value: float, low: float, high: float) -> str:
    return f"{100 * value:.2f} ({100 * low:.1f}–{100 * high:.1f})"


def _grid(lines: Sequence[dict[str, str]]) -> str:
    console = Console(file=StringIO(), force_terminal=False, width=10_000, legacy_windows=False)
    shown = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
    kept = [name for name in lines[0] if any(line[name] for line in lines)]
    for name in kept:
        shown.add_column(Text(name), no_wrap=True)
    before: list[str] = []
    for line in lines:
        cells = [line[name] for name in kept]
        same = 0
        while (
            same < len(REPEATED)
            and kept[same : same + 1] == [REPEATED[same]]
            and cells[: same + 1] == before[: same + 1]
        ):
            same += 1
        shown.add_row(*(Text("" if place < same else cell) for place, cell in enumerate(cells)))
        before = cells
    console.print(shown)
    assert isinstance(console.file, StringIO)
    return "\n".join(text.rstrip() for text in console.file.getvalue().splitlines() if text.strip())


def _piped(lines: Sequence[dict[str, str]]) -> str:
    kept = [name for name in lines[0] if any(line[name] for line in lines)]
    cells = [[in_cell(line[name]) for name in kept] for line in lines]
    return tabulate(cells, kept, tablefmt="github", disable_numparse=True)


def _wrapped(text: str) -> str:
    indent = "  " if text.startswith("- ") else ""
    return textwrap.fill(text, 140, subsequent_indent=indent, break_on_hyphens=False)
