"""Verdicts on published numbers as text: terminal and markdown for people (percent), CSV and JSON (fractions)."""

import csv
import itertools
import json
import textwrap
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from io import StringIO
from typing import Any, TypeVar

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tabulate import tabulate

from results.evidence import LABELS, PAPERS, Evidence, label
from results.notes import show_eps
from results.published import Number
from results.robustbench import NAME, load_robustbench
from results.verdicts import FAILS, UNDECIDED, Gap, Held, Judgement, Ruling

MOST = 10
"""How many of RobustBench's rows are shown where they are not all asked for."""

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
        parts.append("\n".join(_wrapped(told) for told in _closing(held.of(name))))
    if rows := held.of(NAME):
        parts.append(_wrapped(_robustbench_title()))
        parts.append(_grid(_robustbench_lines(rows, held.whole)))
        parts.append("\n".join(_wrapped(told) for told in _robustbench_closing(rows, held.whole)))
    parts.append(_wrapped(f"In all: {_counted(held.judgements)}."))
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
        parts.append("\n".join(_closing(held.of(name))))
    if rows := held.of(NAME):
        parts += [f"## {_robustbench_title()}", _piped(_robustbench_lines(rows, held.whole))]
        parts.append("\n".join(_robustbench_closing(rows, held.whole)))
    parts.append(f"In all: {_counted(held.judgements)}.")
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
        "against RobustBench's AutoAttack on the authors' own weights."
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


def _threat(number: Number) -> str:
    """The claim's own, in pixel values too where the source counts in them."""
    if number.eps is None or number.remark:
        return "eps not stated"
    shown = show_eps(number.eps)
    if number.norm == "linf" and "/" not in shown and number.eps < 0.2:
        shown = f"{255 * number.eps:g}/255"
    return f"{number.norm or 'norm not stated'} {shown}"


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
    about = f"{number.dataset}, {_threat(number)}"
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


def _closing(judgements: Sequence[Judgement]) -> list[str]:
    """The evidence of each verdict that is one, then what it comes to."""
    decided = [one for one in judgements if one.ruling not in UNDECIDED]
    lines = []
    for (subject, ruling, because), group in _grouped(decided, lambda one: (_subject(one), one.ruling, one.because)):
        numbers = ", ".join(f"{LABELS[one.number.quantity]} {one.number.shown}" for one in group)
        lines.append(f"- {subject}: {numbers}: {ruling}. {because[:1].upper()}{because[1:]}.")
    return [*lines, f"Finding: {' '.join(_finding(judgements))}"]


def _subject(one: Judgement) -> str:
    number = one.number
    return f"{number.model}, {number.dataset}" + (f", {_threat(number)}" if number.quantity != "clean" else "")


def _finding(judgements: Sequence[Judgement]) -> list[str]:
    sentences = [f"{_counted(judgements)}."]
    failed = [one for one in judgements if one.ruling in FAILS and one.strongest is not None]
    promises = [one for one in failed if one.number.least is not None]
    for (model, dataset), group in _grouped(promises, lambda one: (one.number.model, one.number.dataset)):
        claimed = [one.number.least.value for one in group if one.number.least is not None]
        low, high = f"{100 * min(claimed):.2f}", f"{100 * max(claimed):.2f}"
        worst = min((one.strongest for one in group if one.strongest), key=lambda figure: figure.share.value)
        between = high if low == high else f"{low} to {high}"
        sentences.append(
            f"{model} on {dataset} is claimed to keep {between} %; {label(worst)} leaves "
            f"{100 * worst.share.value:.2f} %{', at an eps of ours' if group[0].number.remark else ''}."
        )
    for one in failed:
        most, proven = one.number.most, one.evidence.lower if one.evidence else None
        if one.number.least is None and most is not None and proven is not None:
            sentences.append(
                f"{one.number.model} on {one.number.dataset} is claimed to keep at most {100 * most.value:.2f} %; "
                f"{100 * proven.value:.2f} % are proven to stand."
            )
    gaps = [one.gap for one in judgements if one.gap is not None]
    for seen, opening in (
        (True, "On other data, a stronger attack breaks what the weaker one left standing for"),
        (False, "No such gap for"),
    ):
        shown: dict[tuple[str, float], Gap] = {}
        for gap in gaps:
            if gap.seen is seen:
                shown.setdefault((gap.evidence.model, gap.evidence.eps), gap)
        if shown:
            sentences.append(f"{opening} {', '.join(_gap_in_words(gap) for gap in shown.values())}.")
    small = [
        one
        for one in judgements
        if one.number.least is None and one.ruling is Ruling.NOT_COMPARABLE and one.strongest is not None
    ]
    if small:
        shares = [min(p.value for p in (one.measured, one.strongest.share) if p) for one in small if one.strongest]
        limits = [one.number.most.value for one in small if one.number.most is not None]
        sentences.append(
            f"{len(small)} say that next to nothing stands (up to {100 * max(limits):.2f} %); their nearest rows, "
            f"under other conditions, have {100 * min(shares):.2f} to {100 * max(shares):.2f} %."
        )
    return sentences


def _gap_in_words(gap: Gap) -> str:
    through = " through the paper's head" if gap.weak.head == PAPERS else ""
    return (
        f"{gap.evidence.model} at {show_eps(gap.evidence.eps)} ({label(gap.weak).partition(' through')[0]}{through} "
        f"{100 * gap.weak.share.value:.2f}, {label(gap.strong)} {100 * gap.strong.share.value:.2f})"
    )


Key = TypeVar("Key", bound=Hashable)


def _grouped(judgements: Iterable[Judgement], key: Callable[[Judgement], Key]) -> list[tuple[Key, list[Judgement]]]:
    groups: dict[Key, list[Judgement]] = {}
    for one in judgements:
        groups.setdefault(key(one), []).append(one)
    return list(groups.items())


def _counted(judgements: Sequence[Judgement]) -> str:
    counts = Counter(one.ruling for one in judgements)
    shown = ", ".join(f"{counts[ruling]} {ruling}" for ruling in Ruling if counts[ruling])
    return f"{len(judgements)} published numbers: {shown}"


def _robustbench_title() -> str:
    source = load_robustbench()
    return f"{NAME}: what papers report, against AutoAttack on the same weights ({source.source})"


def _robustbench_lines(judgements: Sequence[Judgement], whole: bool) -> list[dict[str, str]]:
    return [
        {
            "model": one.number.model,
            "leaderboard": f"{one.number.dataset}, {one.number.norm} {show_eps(one.number.eps or 0)}",
            "network": one.number.architecture or "",
            "reported": one.number.shown,
            "AutoAttack": f"{100 * (_autoattack(one) or 0):.2f}",
            "verdict": str(one.ruling)
            + (f" ({label(one.strongest)})" if one.ruling in FAILS and one.strongest else ""),
        }
        for one in sorted(judgements, key=lambda one: -overclaimed(one))[: None if whole else MOST]
    ]


def _autoattack(one: Judgement) -> float | None:
    assert one.evidence is not None
    return next((figure.share.value for figure in one.evidence.figures if figure.kind == "autoattack"), None)


def overclaimed(one: Judgement) -> float:
    """Points by which AutoAttack is below a number."""
    bound = one.number.least or one.number.most
    assert bound is not None
    return 100 * (bound.value - (_autoattack(one) or 0.0))


def _robustbench_closing(judgements: Sequence[Judgement], whole: bool) -> list[str]:
    worst = max(judgements, key=overclaimed)
    apart = sum(abs(overclaimed(one)) > 5 + 1e-9 for one in judgements)
    silent = sum(entry.reported is None for entry in load_robustbench().entries)
    counts = Counter(one.ruling for one in judgements)
    lines = [] if whole else [f"The {MOST} most overclaimed; all: bench claims --paper {NAME}."]
    other = sum(1 for one in judgements if one.ruling in FAILS and one.strongest and one.strongest.kind == "external")
    lines.append(
        f"Finding: of {len(judgements)} linf and l2 entries with a reported and an AutoAttack number, "
        f"{counts[Ruling.UPHELD]} are upheld; for {len(judgements) - counts[Ruling.UPHELD]} AutoAttack (for {other} an "
        "external evaluation that RobustBench lists) leaves less than is reported, beyond sampling error. "
        f"{apart} differ from AutoAttack by more than 5 points, {worst.number.model} by {overclaimed(worst):.2f}. "
        f"{silent} more entries report no number. Both numbers are taken to be on RobustBench's test images: 10,000, "
        "on ImageNet 5,000."
    )
    return lines


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
    return tabulate([[line[name] for name in kept] for line in lines], kept, tablefmt="github", disable_numparse=True)


def _wrapped(text: str) -> str:
    indent = "  " if text.startswith("- ") else ""
    return textwrap.fill(text, 140, subsequent_indent=indent, break_on_hyphens=False)
