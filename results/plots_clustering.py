"""Figures of class rows: cosines as heat maps on one fixed scale, trees, distances and misclassifications by class."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.text import Text

from results.clustering_effect import Effect, Matrix
from results.groups import Groups
from results.misled import Misled
from results.plots import COLOURS, FORMS
from results.store import StoreError

MOST_WRITTEN = 12
"""Classes up to which each cell's number is written into it."""
TREE = "#4a5460"


def save(figure: Figure, stem: Path) -> list[Path]:
    """PNG and SVG; the same figure gives the same files. StoreError where they cannot be written."""
    FigureCanvasAgg(figure)
    written = []
    with mpl.rc_context({"svg.hashsalt": "clustrbench", "text.parse_math": False}):
        for text in figure.findobj(Text):  # made before, and dollars in a class's name are no formula
            text.set_parse_math(False)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # laid out once for both
        for form in FORMS:
            path = stem.with_name(f"{stem.name}.{form}")
            try:
                figure.savefig(path, dpi=150, metadata={"Date": None} if form == "svg" else {"Software": None})
            except OSError as error:
                raise StoreError(f"{path} cannot be written: {error.strerror}") from None
            written.append(path)
    return written


def cosine_figure(title: str, raw: Effect, centred: Effect, groups: Groups) -> Figure:
    """C raw and with the mean row taken out, each in the data set's order and group by group, from -1 to 1."""
    side = _side(groups)
    figure = Figure(figsize=(2 * side + 1.2, 2 * side + 0.6), layout="constrained")
    panels = figure.subplots(2, 2)
    for row, (name, effect) in zip(panels, (("mean row taken out", centred), ("raw", raw)), strict=True):
        for axes, order in zip(row, (None, groups.order), strict=True):
            image = _matrix(axes, effect.similarities, groups, order, "{:.2f}", "RdBu_r", -1.0, 1.0)
            where = "grouped" if order else "original order"
            axes.set_title(f"{name}, {where}" + (f": S = {effect.test.statistic:+.2f}" if order else ""), loc="left")
    figure.colorbar(image, ax=panels, label="cosine of class rows", shrink=0.5)
    figure.suptitle(title)
    return figure


def matrix_figure(title: str, label: str, matrix: Matrix, groups: Groups) -> Figure:
    """Distances between classes: the original and the grouped order, from 0."""
    return _pair(title, label, matrix, groups, "{:.2g}", float(matrix.max()) or 1.0)


def misled_figure(title: str, found: Misled, groups: Groups) -> Figure:
    """Counts of adversarial misclassifications, true class by predicted class."""
    figure = _pair(title, "images", found.counts.astype(float), groups, "{:.0f}", float(found.counts.max()) or 1.0)
    for axes in figure.axes[:2]:
        axes.set(xlabel="predicted under attack", ylabel="true class")
    return figure


def tree_figure(title: str, effect: Effect, groups: Groups) -> Figure:
    """The average-linkage tree of 1 - C; a leaf has the colour of its class's group."""
    from scipy.cluster.hierarchy import dendrogram

    count = len(groups.classes)
    figure = Figure(figsize=(7.5, 1.4 + 0.32 * count if count <= 30 else 1.4 + 0.15 * count), layout="constrained")
    axes = figure.subplots()
    drawn = dendrogram(effect.linkage, no_plot=True)
    for places, heights in zip(drawn["icoord"], drawn["dcoord"], strict=True):
        axes.plot(heights, places, color=TREE, linewidth=1.3)
    leaves = [int(leaf) for leaf in drawn["leaves"]]
    axes.set_yticks([5 + 10 * place for place in range(count)], [groups.classes[leaf] for leaf in leaves])
    axes.yaxis.tick_right()
    for tick, leaf in zip(axes.get_yticklabels(), leaves, strict=True):
        tick.set_color(_colour(groups.labels[leaf]))
        tick.set_fontsize(10 if count <= 30 else 7)
    for group, name in enumerate(groups.names):
        axes.plot([], [], color=_colour(group), linewidth=6, label=name)
    figure.legend(loc="outside lower center", ncols=3 if count <= 30 else 2, frameon=False, fontsize=9)
    axes.set(xlabel="1 - cosine at which classes join", xlim=(max(map(max, drawn["dcoord"])) * 1.03 or 1.0, 0.0))
    axes.set_ylim(0, 10 * count)
    axes.spines[["top", "left", "right"]].set_visible(False)
    correlation = "" if effect.cophenetic is None else f", cophenetic correlation {effect.cophenetic:.2f}"
    axes.set_title(
        f"{title}\nadjusted Rand index of the cut into {len(groups.names)}: {effect.rand_index:.2f}{correlation}",
        loc="left",
        fontsize=11,
    )
    return figure


def _pair(title: str, label: str, matrix: Matrix, groups: Groups, form: str, high: float) -> Figure:
    side = _side(groups)
    figure = Figure(figsize=(2 * side + 1.2, side + 0.8), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, order in zip(panels, (None, groups.order), strict=True):
        image = _matrix(axes, matrix, groups, order, form, "Blues", 0.0, high)
        axes.set_title("grouped" if order else "original order", loc="left")
    figure.colorbar(image, ax=panels, label=label, shrink=0.8)
    figure.suptitle(title)
    return figure


def _matrix(
    axes: Axes,
    matrix: Matrix,
    groups: Groups,
    order: Sequence[int] | None,
    form: str,
    colours: str,
    low: float,
    high: float,
) -> AxesImage:
    """One heat map; in an order of its own, groups are framed and their classes written in their colour."""
    places = list(order if order is not None else range(len(matrix)))
    shown = matrix[np.ix_(places, places)]
    image = axes.imshow(shown, cmap=colours, vmin=low, vmax=high)
    count = len(places)
    size = min(9.0, 0.75 * 72 * _side(groups) / count)
    names = [groups.classes[place] for place in places]
    axes.set_xticks(range(count), names, rotation=90, fontsize=size)
    axes.set_yticks(range(count), names, fontsize=size)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
        for tick, place in zip(ticks, places, strict=True):
            tick.set_color(_colour(groups.labels[place]))
    if count <= MOST_WRITTEN:
        _write(axes, shown, form, mpl.colormaps[colours], low, high)
    if order is not None:
        _frame(axes, groups)
    return image


def _write(axes: Axes, shown: Matrix, form: str, colours: Colormap, low: float, high: float) -> None:
    """Each cell's number, in what can be read on its colour."""
    for (row, column), value in np.ndenumerate(shown):
        red, green, blue, _ = colours((value - low) / (high - low))
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.55
        axes.text(
            column,
            row,
            form.format(value),
            ha="center",
            va="center",
            fontsize=6.5,
            color="white" if dark else "#222222",
            in_layout=False,  # inside the axes anyway, and slow to measure
        )


def _frame(axes: Axes, groups: Groups) -> None:
    """A square around each group, and its name beside it."""
    start = 0
    for group, name in enumerate(groups.names):
        size = len(groups.members(group))
        ends = (start - 0.5, start + size - 0.5)
        square = ((ends[0], ends[0]), (ends[1], ends[0]), (ends[1], ends[1]), (ends[0], ends[1]), (ends[0], ends[0]))
        axes.plot(*zip(*square, strict=True), color=_colour(group), linewidth=2.2, clip_on=False)
        middle, right = start + (size - 1) / 2, len(groups.classes) - 0.2
        axes.text(right, middle, name, color=_colour(group), fontsize=9, va="center")
        start += size


def _side(groups: Groups) -> float:
    """Inches of a heat map."""
    return max(4.4, 0.135 * len(groups.classes))


def _colour(group: int) -> str:
    return COLOURS[group % len(COLOURS)]
