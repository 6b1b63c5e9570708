"""What the page says: one frozen object, built from runs; how it looks is the template's business."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from results.aggregate import Proportion
from results.breaks import Breaks, breaks
from results.gallery import MOST_BYTES, FindClean, Gallery, galleries
from results.leaderboard import Row
from results.loaded import LoadedRun
from results.notes import blind_spots, show_eps
from results.page.charts import Chart, charts
from results.records import UnitRecord
from results.series import series

OTHER = "other"
"""The family of a model of which no card tells."""

Families = Mapping[tuple[str, str], str]
"""Model as named in a run and sha256 of its weights -> its family."""


@dataclass(frozen=True)
class Section:
    """A table of words that another report has made: claims held against the run, findings about trust."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Fact:
    """Where the numbers come from: one run."""

    name: str
    dataset: str
    done: int
    units: int
    attacks: tuple[str, ...]
    samples: int
    protocol: int
    seeds: tuple[int, ...]
    commits: tuple[str, ...]
    machines: tuple[str, ...]
    finished: str
    hours: float


@dataclass(frozen=True)
class Line:
    """A row of the leaderboard; `option` is the head it was attacked through, where that is not the first row's."""

    row: Row
    option: str
    notes: tuple[str, ...]

    @property
    def state(self) -> str:
        """Why there is no verdict, if so."""
        if self.row.robust_upper is not None:
            return ""
        return f"{self.row.done}/{self.row.n} done" if self.row.done < self.row.n else "other heads not done"


@dataclass(frozen=True)
class Entry:
    """A classifier under one threat: its lines, what broke it, and examples."""

    group: str
    family: str
    lines: tuple[Line, ...]
    breaks: Breaks
    gallery: Gallery | None

    @property
    def main(self) -> Row:
        return self.lines[0].row

    @property
    def text(self) -> str:
        """What the search looks in."""
        return " ".join((*(line.row.model for line in self.lines), self.family)).lower()


@dataclass(frozen=True)
class Board:
    """The leaderboard of one data set and threat of a run; `attacks` and `verifiers` are its columns."""

    ident: str
    run: str
    dataset: str
    norm: str
    eps: str
    n: int
    attacks: tuple[str, ...]
    verifiers: tuple[str, ...]
    entries: tuple[Entry, ...]
    tried: tuple[tuple[str, str], ...]

    @property
    def title(self) -> str:
        return f"{self.dataset}, {self.norm} ε = {self.eps}"

    @property
    def complete(self) -> bool:
        return all(entry.breaks.complete for entry in self.entries)


@dataclass(frozen=True)
class Page:
    """All that the template is given."""

    title: str
    facts: tuple[Fact, ...]
    boards: tuple[Board, ...]
    charts: tuple[Chart, ...]
    claims: Section | None = None
    findings: Section | None = None

    @property
    def incomplete(self) -> tuple[str, ...]:
        return tuple(fact.name for fact in self.facts if fact.done < fact.units)

    @property
    def subjects(self) -> str:
        """The data sets, with how many images of each its runs have."""
        sizes: dict[str, set[int]] = {}
        for fact in self.facts:
            sizes.setdefault(fact.dataset, set()).add(fact.samples)
        return "; ".join(f"{name}, {', '.join(map(str, sorted(all_)))} images" for name, all_ in sizes.items())

    @property
    def families(self) -> tuple[str, ...]:
        return tuple(sorted({entry.family for board in self.boards for entry in board.entries}))


def build_page(
    runs: Sequence[LoadedRun],
    families: Families,
    find_clean: FindClean,
    claims: Section | None = None,
    findings: Section | None = None,
) -> Page:
    """The page of some runs, which share one budget of images in proportion to their classifiers."""
    total = sum(len(run.rows) for run in runs)
    boards: list[Board] = []
    for run in runs:
        shelves = galleries(run, find_clean, MOST_BYTES * len(run.rows) // total)
        boards += _boards(run, families, shelves, len(boards))
    family_of = {entry.group: entry.family for board in boards for entry in board.entries}
    return Page(
        "Adversarial robustness of clustering classifiers",
        tuple(_fact(run) for run in runs),
        tuple(boards),
        tuple(charts(series(runs), family_of)),
        claims,
        findings,
    )


def _boards(run: LoadedRun, families: Families, shelves: Sequence[Gallery], first: int) -> list[Board]:
    weights = {unit.model: unit.weights_sha256 for unit in run.units}
    broken = {(b.group, b.dataset, b.norm, b.eps, b.n): b for b in breaks(run.units, run.records)}
    shown = {(g.about[0], g.about[2], g.about[4], g.about[5]): g for g in shelves}
    tables: dict[tuple[str, str, float], dict[str, list[Row]]] = {}
    for row in run.rows:
        tables.setdefault((row.dataset, row.norm, row.eps), {}).setdefault(row.group, []).append(row)
    boards: list[Board] = []
    for (dataset, norm, eps), groups in tables.items():
        entries = tuple(
            Entry(
                group,
                families.get((rows[0].model, weights[rows[0].model]), OTHER),
                tuple(_line(row, index) for index, row in enumerate(rows)),
                next(b for key, b in broken.items() if key[:4] == (group, dataset, norm, eps)),
                shown.get((group, dataset, norm, eps)),
            )
            for group, rows in groups.items()
        )
        lines = [line.row for entry in entries for line in entry.lines]
        fullest = sorted(lines, key=lambda row: -len(row.attacks))  # has the planned order
        boards.append(
            Board(
                f"board-{first + len(boards) + 1}",
                run.name,
                dataset,
                norm,
                show_eps(eps),
                max(row.n for row in lines),
                tuple(dict.fromkeys(name for row in fullest for name in row.attacks if name not in row.proofs)),
                tuple(dict.fromkeys(name for row in fullest for name in row.proofs)),
                entries,
                _tried(entries),
            )
        )
    return boards


def _line(row: Row, index: int) -> Line:
    option = row.model.removeprefix(row.group.partition("@")[0]).lstrip("@")
    return Line(row, option if index else "", (*blind_spots(row), *row.flags))


def _tried(entries: Sequence[Entry]) -> tuple[tuple[str, str], ...]:
    """The attacks of a board with the head's option ("" for the classifier's own), in the planned order."""
    longest = sorted(entries, key=lambda entry: -len(entry.breaks.attacks))
    named = dict.fromkeys((a.option(entry.group), a.attack) for entry in longest for a in entry.breaks.attacks)
    return tuple(sorted(named, key=lambda column: column[0]))


def percent(proportion: Proportion | None, digits: int = 2) -> str:
    return "–" if proportion is None else f"{100 * proportion.value:.{digits}f}"


def interval(proportion: Proportion | None) -> str:
    return "" if proportion is None else f"{100 * proportion.low:.1f}–{100 * proportion.high:.1f}"


def _fact(run: LoadedRun) -> Fact:
    units, records = run.units, run.records
    return Fact(
        run.name,
        units[0].dataset,
        len(records),
        len(units),
        tuple(dict.fromkeys(unit.attack for unit in units if unit.attack != "clean")),
        len({sample for unit in units for sample in range(unit.start, unit.stop)}),
        units[0].protocol,
        tuple(sorted({unit.seed for unit in units})),
        _each(records, lambda record: record.provenance.commit[:12]),
        _each(records, lambda record: f"{record.provenance.machine}, {record.provenance.device}"),
        max((record.provenance.finished for record in records), default="–")[:16].replace("T", " "),
        sum(record.seconds for record in records) / 3600,
    )


def _each(records: Sequence[UnitRecord], told: Callable[[UnitRecord], str]) -> tuple[str, ...]:
    return tuple(sorted({told(record) for record in records} - {""}))
