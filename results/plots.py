"""Static figures of runs, PNG and SVG: leaderboards, robust accuracy against eps, which attack broke what."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from results.aggregate import Proportion
from results.breaks import Breaks, breaks
from results.leaderboard import Row
from results.loaded import LoadedRun
from results.notes import show_eps
from results.series import Series, axis_end, drawable, labelled, series
from results.store import StoreError

FORMS = ("png", "svg")
COLOURS = ("#0b5fa5", "#b84300", "#00735a", "#93358a", "#806000", "#4a5460", "#1aa3c9", "#c2447a")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
CLEAN, WEAK, STRONG, PROVEN = "#e3e8ee", "#a9c9e8", "#4c8cc4", "#123f6d"
MOST_LINES = len(COLOURS)


def draw(runs: Sequence[LoadedRun], folder: Path) -> list[Path]:
    """Write every figure that the runs have something for; returns the files. The same runs give the same files."""
    written: list[Path] = []
    taken: set[str] = set()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{folder} cannot be made: {error.strerror}") from None
    # names may hold what matplotlib would take for mathematics
    with mpl.rc_context({"svg.hashsalt": "clustrbench", "text.parse_math": False}):
        for name, figure in _figures(runs):
            plain = re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")
            stem = next(s for s in (plain, *(f"{plain}-{i}" for i in range(2, len(taken) + 3))) if s not in taken)
            taken.add(stem)
            FigureCanvasAgg(figure)
            for form in FORMS:
                path = folder / f"{stem}.{form}"
                figure.savefig(path, dpi=150, metadata={"Date": None} if form == "svg" else {"Software": None})
                written.append(path)
    return written


def _figures(runs: Sequence[LoadedRun]) -> Iterator[tuple[str, Figure]]:
    for run in runs:
        tables: dict[tuple[str, str, float], list[Row]] = {}
        for row in run.rows:
            tables.setdefault((row.dataset, row.norm, row.eps), []).append(row)
        broken = breaks(run.units, run.records)
        for (dataset, norm, eps), rows in tables.items():
            where = f"{dataset} {norm} {show_eps(eps)}"
            if any(row.rank is not None for row in rows):
                yield f"leaderboard {where}", leaderboard_figure(rows)
            order = list(dict.fromkeys(row.group for row in rows))
            members = [b for b in broken if (b.dataset, b.norm, b.eps) == (dataset, norm, eps) and b.broken]
            if members:
                yield f"broken {where}", breaks_figure(sorted(members, key=lambda b: order.index(b.group)))
    found = series(runs)
    for dataset, norm in dict.fromkeys((one.dataset, one.norm) for one in found):
        group = [one for one in found if (one.dataset, one.norm) == (dataset, norm)]
        for first in range(0, len(group), MOST_LINES):
            yield f"curves {dataset} {norm}", curves_figure(group[first : first + MOST_LINES])


def leaderboard_figure(rows: Sequence[Row]) -> Figure:
    """Ranked classifiers as nested bars: clean, the weakest attack alone, all attacks, proven; with 95 % intervals."""
    ranked = [row for row in rows if row.rank is not None]
    shown = list({row.group: row for row in reversed(ranked)}.values())[::-1]  # the row it is judged through
    figure = Figure(figsize=(9, 1.6 + 0.34 * len(shown)), layout="constrained")
    axes = figure.subplots()
    layers = (("clean", CLEAN, 0.86), ("weakest attack alone", WEAK, 0.66), ("all attacks", STRONG, 0.46))
    for y, row in enumerate(shown):
        values = (row.clean, _weakest(row), row.robust_upper)
        for (_, colour, height), value, shift in zip(layers, values, (-0.38, -0.28, 0.0), strict=True):
            if value is not None:
                axes.barh(y, 100 * value.value, height, color=colour)
                _whisker(axes, y + shift, value)
        if row.robust_lower is not None and row.robust_lower.value > 0:
            axes.barh(y, 100 * row.robust_lower.value, 0.26, color=PROVEN)
        axes.text(101, y, _bounds(row), va="center", fontsize=9)
    for name, colour, _ in (*layers, ("proven", PROVEN, 0)):
        axes.barh(0, 0, color=colour, label=name)
    axes.set_yticks(range(len(shown)), [_short(row.group) for row in shown])
    axes.set(xlim=(0, 100), ylim=(len(shown) - 0.4, -0.6), xlabel="accuracy, % (lines: 95 % intervals)")
    axes.set_title(f"{_threat(rows[0])}, n = {rows[0].n}", loc="left", pad=26)
    axes.text(101, -0.75, "proven – standing", fontsize=9, va="bottom")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False, borderaxespad=0.2, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def curves_figure(group: Sequence[Series]) -> Figure:
    """Robust accuracy against eps: measured points with intervals, and steps proven by radii."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    end = axis_end(group)
    group = [drawable(one, end) for one in group]
    for one, colour, marker in zip(group, COLOURS, MARKERS, strict=False):
        style = {"color": colour, "marker": marker, "markersize": 5, "capsize": 2, "elinewidth": 1}
        _errorbar(axes, one.upper, "-" if one.joined else "none", label=_short(one.group), **style)
        if one.lower:
            line = "--" if one.stepped else "none"
            _errorbar(axes, one.lower, line, drawstyle="steps-pre", markerfacecolor="white", **style)
        for curve, line in zip(one.radii, ("-", ":", "-."), strict=False):
            at = sorted({0.0, *(radius for radius in curve.radii.values() if radius < end)})
            axes.step(
                [*at, end],
                [100 * curve.accuracy(eps) for eps in (*at, end)],
                where="post",
                color=colour,
                linestyle=line,
                linewidth=1.2,
            )
    first = group[0]
    sizes = ", ".join(map(str, sorted({one.n for one in group})))
    axes.set(xlim=(-0.01 * end, end), ylim=(0, 101), xlabel=f"eps ({first.norm})", ylabel="robust accuracy, %")
    ticks = labelled(group, end, 0.07)
    axes.set_xticks(ticks, [show_eps(eps) for eps in ticks])
    axes.set_title(f"{first.dataset}, {first.norm}, n = {sizes}", loc="left")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    told = ["full: stands after all attacks"]
    told += ["hollow: proven"] if any(one.lower for one in group) else []
    verifiers = dict.fromkeys(curve.attack for one in group for curve in one.radii)
    told += [f"steps: proven by radii ({', '.join(verifiers)})"] if verifiers else []
    axes.legend(
        title="; ".join(told),
        title_fontsize=9,
        fontsize=9,
        loc="upper left",
        bbox_to_anchor=(0, -0.14),
        ncols=3,
        frameon=False,
    )
    return figure


def breaks_figure(members: Sequence[Breaks]) -> Figure:
    """Classifiers against attacks: how many samples each broke, tinted by its share of all that were broken."""
    longest = sorted(members, key=lambda one: -len(one.attacks))
    columns = list(dict.fromkeys((a.option(one.group), a.attack) for one in longest for a in one.attacks))
    columns.sort(key=lambda column: column[0])
    shares = np.full((len(members), len(columns)), np.nan)
    figure = Figure(figsize=(3.4 + 1.15 * len(columns), 1.9 + 0.34 * len(members)), layout="constrained")
    axes = figure.subplots()
    for y, one in enumerate(members):
        for attack in one.attacks:
            x = columns.index((attack.option(one.group), attack.attack))
            if attack.done < attack.n:
                axes.text(x, y, f"{attack.done}/{attack.n} done", ha="center", va="center", fontsize=8)
                continue
            shares[y, x] = attack.broken / one.broken
            alone = f" ({attack.alone})" if attack.alone else ""
            colour = "white" if shares[y, x] > 0.6 else "black"
            axes.text(x, y, f"{attack.broken}{alone}", ha="center", va="center", fontsize=9, color=colour)
    image = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    axes.set_xticks(range(len(columns)), [f"{name}\n@{head}" if head else name for head, name in columns])
    axes.set_yticks(range(len(members)), [_short(one.group) for one in members])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    first = members[0]
    axes.set_title(
        f"{first.dataset}, {first.norm} eps = {show_eps(first.eps)}: samples broken\n"
        "(in brackets: by this attack alone)",
        loc="left",
        fontsize=11,
    )
    figure.colorbar(image, ax=axes, label="share of all that were broken", shrink=0.8)
    return figure


def _weakest(row: Row) -> Proportion | None:
    """The attack that leaves most standing, verifiers aside."""
    alone = [value for name, value in row.attacks.items() if name not in row.proofs]
    return max(alone, key=lambda value: value.value, default=None)


def _whisker(axes: Axes, y: float, value: Proportion) -> None:
    axes.plot([100 * value.low, 100 * value.high], [y, y], color="#1a1f26", linewidth=0.9)


def _errorbar(axes: Axes, points: Sequence[tuple[float, Proportion]], line: str, **style: object) -> None:
    values = [100 * p.value for _, p in points]
    below = [100 * (p.value - p.low) for _, p in points]
    above = [100 * (p.high - p.value) for _, p in points]
    axes.errorbar([eps for eps, _ in points], values, [below, above], linestyle=line, **style)  # type: ignore[arg-type]


def _bounds(row: Row) -> str:
    low, up = row.robust_lower, row.robust_upper
    return f"{100 * low.value:.1f} – {100 * up.value:.1f}" if low is not None and up is not None else ""


def _threat(row: Row) -> str:
    return f"{row.dataset}, {row.norm} eps = {show_eps(row.eps)}"


def _short(name: str, most: int = 36) -> str:
    """A name as a label: the end of a long path."""
    return name if len(name) <= most else f"…{name[-most:]}"
