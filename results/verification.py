"""What `bench verify` found: problems, each with its file and sample, and how a person is told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from io import StringIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from results.notes import show_eps
from results.printable import printable
from results.records import WorkUnit

MOST_LINES, _MOST_FILES = 50, 20


class Kind(StrEnum):
    """What a problem means: something saved is wrong; something is not there; it cannot be told here."""

    REFUTED = "refuted"
    MISSING = "missing"
    UNVERIFIABLE = "cannot be verified"


@dataclass(frozen=True)
class Problem:
    """One thing that does not hold; `file` is a name below the run's folder."""

    kind: Kind
    file: str
    what: str
    sample: int | None = None

    def __str__(self) -> str:
        sample = "" if self.sample is None else f", sample {self.sample}"
        return printable(f"{self.kind}: {self.file}{sample}: {self.what}")


@dataclass(frozen=True)
class Counts:
    """What was judged again: adversarial examples, samples certified by proofs; `otherwise` in float64."""

    examples: int = 0
    proofs: int = 0
    otherwise: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.examples + other.examples, self.proofs + other.proofs, self.otherwise + other.otherwise)


@dataclass(frozen=True)
class Verification:
    """The planned units, what was counted of each by its key, what does not hold, and what one should know besides."""

    units: Sequence[WorkUnit]
    counts: Mapping[str, Counts]
    problems: Sequence[Problem]
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def verified(self) -> bool:
        return not self.problems

    @property
    def total(self) -> Counts:
        return sum(self.counts.values(), Counts())


def terminal(found: Verification) -> str:
    """A line a problem, a table, notes, and the verdict as the last line."""
    lines = [str(problem) for problem in found.problems[:MOST_LINES]]
    rest = found.problems[MOST_LINES:]
    if rest:
        files = list(dict.fromkeys(printable(problem.file) for problem in rest))
        more = f" and {len(files) - _MOST_FILES} more" if len(files) > _MOST_FILES else ""
        lines.append(f"and {len(rest)} more problems, in {', '.join(files[:_MOST_FILES])}{more}")
    lines.append(_table(found))
    lines += [printable(f"note: {note}") for note in found.notes]
    return "\n".join([*lines, verdict(found)]) + "\n"


def verdict(found: Verification) -> str:
    """The run as a whole, in one line."""
    done = f"{found.total.examples} adversarial examples judged again, {found.total.proofs} proofs checked again"
    kinds = [problem.kind for problem in found.problems]
    if not kinds:
        return f"verified: {done}"
    told = ", ".join(f"{kinds.count(kind)} {kind}" for kind in Kind if kind in kinds)
    if Kind.REFUTED in kinds:
        return f"NOT verified: {told}; {done}"
    if Kind.MISSING in kinds:
        return f"incomplete, nothing refuted: {told}; {done}"
    return f"cannot be verified here, nothing refuted: {told}; {done}"


def _table(found: Verification) -> str:
    """A line for each attack on a model under a threat; problems of the run's own files in the last."""
    parts: dict[tuple[str, str, str], list[str]] = {}
    for unit in found.units:
        parts.setdefault((unit.model, unit.attack, f"{unit.norm} {show_eps(unit.eps)}"), []).append(unit.key)
    table = Table(header_style="bold")
    for column in ("model", "attack", "threat"):
        table.add_column(column, no_wrap=True)
    for column in ("examples judged again", "proofs checked again", "problems"):
        table.add_column(column, justify="right", no_wrap=True)
    troubled = [key_of(problem.file) for problem in found.problems]
    for cells, keys in parts.items():
        count = sum((found.counts.get(key, Counts()) for key in keys), Counts())
        wrong = sum(key in keys for key in troubled)
        numbers = (count.examples, count.proofs, wrong)
        table.add_row(*(Text(printable(cell)) for cell in cells), *map(str, numbers))
    known = {key for keys in parts.values() for key in keys}
    others = sum(key not in known for key in troubled)
    table.add_section()
    table.add_row("files of the run", "", "", "", "", str(others))
    console = Console(file=StringIO(), force_terminal=False, width=10_000, legacy_windows=False)
    console.print(table)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue().rstrip("\n")


def key_of(file: str) -> str | None:
    """The key of the unit that a file belongs to; None for the run's own files."""
    folder, _, name = file.rpartition("/")
    return name.partition(".")[0] if folder == "units" else None
