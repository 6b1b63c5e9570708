"""Figures of class rows: one scale for all, names readable in both orders, groups framed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from results.clustering_effect import Effect, cosines, effect_of
from results.groups import Groups, groups_of
from results.misled import misled
from results.plots_clustering import cosine_figure, matrix_figure, misled_figure, save, tree_figure

CLOTHES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


@pytest.fixture(scope="module")
def groups() -> Groups:
    return groups_of("fashion-mnist", CLOTHES, 10)


@pytest.fixture(scope="module")
def effects(groups: Groups) -> tuple[Effect, Effect]:
    rows = np.random.default_rng(0).normal(size=(10, 20)) + 1.0
    raw, centred = (effect_of(cosines(rows, centred), groups.labels, 0) for centred in (False, True))
    return raw, centred


def test_heat_maps_share_one_scale_and_show_both_orders(groups: Groups, effects: tuple[Effect, Effect]) -> None:
    figure = cosine_figure("a model", *effects, groups)
    panels = figure.axes[:4]
    assert {axes.images[0].get_clim() for axes in panels} == {(-1.0, 1.0)}
    for axes, order, effect in zip(
        panels, [range(10), groups.order] * 2, [effects[1]] * 2 + [effects[0]] * 2, strict=True
    ):
        for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
            assert [tick.get_text() for tick in ticks] == [CLOTHES[place] for place in order]
        shown = np.asarray(axes.images[0].get_array())
        assert shown == pytest.approx(effect.similarities[np.ix_(list(order), list(order))])
    for axes in panels[1::2]:
        assert len(axes.lines) == len(groups.names)
        assert set(groups.names) <= {text.get_text() for text in axes.texts}
        places = np.asarray(axes.lines[1].get_xdata())
        assert (places.min(), places.max()) == (4.5, 7.5)  # footwear, after five tops


def test_a_tree_names_each_class_in_its_groups_colour(groups: Groups, effects: tuple[Effect, Effect]) -> None:
    figure = tree_figure("a model", effects[1], groups)
    (axes,) = figure.axes
    colours = {tick.get_text(): tick.get_color() for tick in axes.get_yticklabels()}
    assert set(colours) == set(CLOTHES)
    assert colours["sandal"] == colours["ankle boot"] != colours["coat"]
    lines = [np.asarray(line.get_xdata()) for line in axes.lines]
    joins = sorted(float(line.max()) for line in lines if line.size == 4)
    assert joins == pytest.approx(sorted(effects[1].linkage[:, 2]))


def test_counts_stand_in_their_cells(groups: Groups) -> None:
    counts = np.zeros((10, 10), dtype=np.int64)
    counts[0, 6] = 31
    figure = misled_figure("a model", misled("pgd20", 100, 90, counts, groups.labels, 0), groups)
    (cell,) = (text for text in figure.axes[1].texts if text.get_text() == "31")
    assert cell.get_position() == (groups.order.index(6), groups.order.index(0))
    assert figure.axes[0].get_ylabel() == "true class"


def test_files_are_pictures_and_always_the_same(groups: Groups, effects: tuple[Effect, Effect], tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        save(matrix_figure("$x$ <&>", "distance", 1.0 - effects[1].similarities, groups), tmp_path / folder / "f")
    for form in ("png", "svg"):
        assert (tmp_path / "a" / f"f.{form}").read_bytes() == (tmp_path / "b" / f"f.{form}").read_bytes()
    assert min(Image.open(tmp_path / "a" / "f.png").size) > 400


def test_names_with_dollars_are_no_formulas(groups: Groups, effects: tuple[Effect, Effect], tmp_path: Path) -> None:
    priced = replace(groups, classes=("$\\frac$", *CLOTHES[1:]), names=("$x_{", *groups.names[1:]))
    assert len(save(tree_figure("$\\frac$", effects[1], priced), tmp_path / "tree")) == 2
    save(matrix_figure("$x_{$", "distance", 1.0 - effects[1].similarities, priced), tmp_path / "matrix")


def test_nothing_misclassified_is_drawn_too(groups: Groups, tmp_path: Path) -> None:
    nothing = misled("pgd20", 100, 90, np.zeros((10, 10), dtype=np.int64), groups.labels, 0)
    assert len(save(misled_figure("a model", nothing, groups), tmp_path / "f")) == 2
