"""Curves of robust accuracy against eps as coordinates of an SVG, which the template draws."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from results.aggregate import Proportion
from results.curves import LADDERS, Curve
from results.notes import show_eps
from results.series import Series, axis_end, drawable, labelled

MOST_LINES = 6
"""Classifiers a chart; more cannot be told apart."""
_GRID = 160
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 14, 12, 42
_APART = 50
"""Between the middles of two labels of the eps axis."""


@dataclass(frozen=True)
class Mark:
    """A measured point with its 95 % interval, in the SVG's units."""

    x: float
    y: float
    low: float
    high: float
    title: str


@dataclass(frozen=True)
class Drawn:
    """A classifier in one chart, polylines as points; `standing` and `proven` join marks and may be empty."""

    colour: int
    group: str
    family: str
    standing: str
    marks: tuple[Mark, ...]
    proven: str
    open_marks: tuple[Mark, ...]
    radii: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Plot:
    """One size of a chart: wide, or for a narrow screen."""

    shape: str
    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    eps_ticks: tuple[tuple[float, str], ...]
    percent_ticks: tuple[tuple[float, str], ...]
    drawn: tuple[Drawn, ...]


@dataclass(frozen=True)
class NumberRow:
    """A line of the table of a chart's numbers."""

    group: str
    family: str
    what: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Chart:
    """Some classifiers under one norm, in two sizes, and the numbers as a table with one column an eps."""

    dataset: str
    norm: str
    part: str
    n: tuple[int, ...]
    verifiers: tuple[str, ...]
    eps: tuple[str, ...]
    plots: tuple[Plot, ...]
    rows: tuple[NumberRow, ...]


def charts(found: Sequence[Series], families: Mapping[str, str]) -> Iterator[Chart]:
    """Charts by data set and norm, few classifiers in each, in the order given."""
    for (dataset, norm), grouped in groupby(found, key=lambda one: (one.dataset, one.norm)):
        members = list(grouped)
        end = axis_end(members)
        parts = [members[first : first + MOST_LINES] for first in range(0, len(members), MOST_LINES)]
        for number, part in enumerate(parts, start=1):
            ticks = _ticks(part, norm, end)
            yield Chart(
                dataset,
                norm,
                f"{number} of {len(parts)}" if len(parts) > 1 else "",
                tuple(sorted({one.n for one in part})),
                tuple(dict.fromkeys(curve.attack for one in part for curve in drawable(one, end).radii)),
                tuple(show_eps(eps) for eps in ticks),
                (_plot("wide", 760, 380, part, families, end), _plot("narrow", 320, 300, part, families, end)),
                tuple(row for one in part for row in _rows(one, families[one.group], ticks)),
            )


def _held(points: Sequence[tuple[float, Proportion]]) -> list[tuple[float, Proportion]]:
    """Corners of steps: what is proven at an eps is proven at any smaller one, and at no larger one."""
    starts = [0.0, *(eps for eps, _ in points)]
    return [corner for start, (eps, p) in zip(starts, points, strict=False) for corner in ((start, p), (eps, p))]


def _ticks(part: Sequence[Series], norm: str, end: float) -> list[float]:
    measured = {eps for one in part for eps, _ in one.upper}
    usual = {eps for eps in LADDERS.get(norm, ()) if eps <= end} if any(one.radii for one in part) else set()
    return sorted({0.0, *measured, *usual})


def _plot(shape: str, width: int, height: int, part: Sequence[Series], families: Mapping[str, str], end: float) -> Plot:
    def across(eps: float) -> float:
        return round(_LEFT + (width - _LEFT - _RIGHT) * eps / end, 1)

    def down(value: float) -> float:
        return round(_TOP + (height - _TOP - _BOTTOM) * (1 - value), 1)

    def line(points: Sequence[tuple[float, Proportion]]) -> str:
        return " ".join(f"{across(eps)},{down(value.value)}" for eps, value in points)

    def marks(one: Series, points: Sequence[tuple[float, Proportion]], what: str) -> tuple[Mark, ...]:
        return tuple(
            Mark(
                across(eps),
                down(p.value),
                down(p.low),
                down(p.high),
                f"{one.group}, ε {show_eps(eps)}: {100 * p.value:.2f} % {'clean' if eps == 0 else what}",
            )
            for eps, p in points
        )

    def steps(curve: Curve) -> str:
        """Steps on a fine grid, each drawn at the near end of its cell: never above what is proven."""
        places = [end * i / _GRID for i in range(_GRID + 1)]
        values = [curve.accuracy(eps) for eps in places]
        corners = [(places[0], values[0])]
        for before, eps, value in zip(values, places, values[1:], strict=False):
            if value != before:
                corners += [(eps, before), (eps, value)]
        corners.append((places[-1], values[-1]))
        return " ".join(f"{across(eps)},{down(value)}" for eps, value in corners)

    drawn = tuple(
        Drawn(
            index,
            one.group,
            families[one.group],
            line(one.upper) if one.joined else "",
            marks(one, one.upper, "standing"),
            line(_held(one.lower)) if one.stepped else "",
            marks(one, one.lower, "proven"),
            tuple((curve.attack, steps(curve)) for curve in one.radii),
        )
        for index, one in enumerate(drawable(one, end) for one in part)
    )
    return Plot(
        shape,
        width,
        height,
        _LEFT,
        width - _RIGHT,
        _TOP,
        height - _BOTTOM,
        tuple((across(eps), show_eps(eps)) for eps in labelled(part, end, _APART / (width - _LEFT - _RIGHT))),
        tuple((down(value / 100), str(value)) for value in range(0, 101, 20)),
        drawn,
    )


def _rows(one: Series, family: str, ticks: Sequence[float]) -> Iterator[NumberRow]:
    for what, points in (("standing after all attacks", one.upper), ("proven at this ε", one.lower)):
        by_eps = dict(points)
        if by_eps:
            yield NumberRow(one.group, family, what, tuple(_number(by_eps.get(eps)) for eps in ticks))
    for curve in one.radii:
        cells = tuple(_number(one.proven(curve, eps)) for eps in ticks)
        yield NumberRow(one.group, family, f"proven by radii of {curve.attack}", cells)


def _number(p: Proportion | None) -> str:
    return "–" if p is None else f"{100 * p.value:.2f} ({100 * p.low:.1f}–{100 * p.high:.1f})"
