"""Static figures: which there are, that they are pictures, and what is written on them."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

from results.breaks import breaks
from results.loaded import LoadedRun, load_runs
from results.plots import breaks_figure, curves_figure, draw, leaderboard_figure
from results.series import series
from tests.results.run_folders import Cells, write_run

CELLS: Cells = {
    ("net", "clean"): "SSSSM",
    ("net", "pgd20"): "SSBBM",
    ("net", "autoattack"): "SBBBM",
    ("$x$_net", "clean"): "SSSSS",
    ("$x$_net", "pgd20"): "SSSSB",
    ("$x$_net", "autoattack"): "SSSBB",
}


@pytest.fixture
def run(tmp_path: Path) -> LoadedRun:
    (loaded,) = load_runs([write_run(tmp_path / "run", CELLS, eps=(0.1, 0.2))])
    return loaded


def _texts(figure: Figure) -> list[str]:
    (axes, *_) = figure.axes
    labels = [*axes.texts, *axes.get_xticklabels(), *axes.get_yticklabels()]
    return [text.get_text() for text in labels]


def test_figures_are_png_and_svg_of_each_threat(run: LoadedRun, tmp_path: Path) -> None:
    written = draw([run], tmp_path / "figures")
    stems = ("leaderboard-digits-linf-0.1", "broken-digits-linf-0.1", "leaderboard-digits-linf-0.2")
    names = {path.name for path in written}
    assert names == {
        f"{stem}.{form}" for stem in (*stems, "broken-digits-linf-0.2", "curves-digits-linf") for form in ("png", "svg")
    }
    for path in written:
        if path.suffix == ".png":
            assert min(Image.open(path).size) > 200
        else:
            assert "<svg" in path.read_text()


def test_the_same_run_gives_the_same_files(tmp_path: Path) -> None:
    runs = load_runs([write_run(tmp_path / "run", CELLS)])
    first, second = ([path.read_bytes() for path in draw(runs, tmp_path / name)] for name in ("a", "b"))
    assert first == second


def test_names_that_clash_keep_their_own_files(tmp_path: Path) -> None:
    standing: Cells = {("net", "clean"): "SS", ("net", "pgd20"): "SS"}
    folders = [write_run(tmp_path / name, standing, dataset=name) for name in ("npz:a.npz", "npz:A.npz")]
    written = draw(load_runs(folders), tmp_path / "figures")
    assert len({path.name for path in written}) == len(written) == 4


def test_the_leaderboard_names_classifiers_literally_with_their_bounds(run: LoadedRun) -> None:
    texts = _texts(leaderboard_figure([row for row in run.rows if row.eps == 0.1]))
    assert {"$x$_net", "net", "0.0 – 60.0", "0.0 – 20.0"} <= set(texts)


def test_the_leaderboard_leaves_out_what_has_no_rank(tmp_path: Path) -> None:
    (run,) = load_runs([write_run(tmp_path / "run", CELLS, left_out=(("net", "pgd20"),))])
    assert "net" not in _texts(leaderboard_figure(run.rows))


def test_the_matrix_has_the_counts(run: LoadedRun) -> None:
    (first, *_) = breaks(run.units, run.records)
    assert {"2", "3 (1)"} <= set(_texts(breaks_figure([first])))


def test_the_matrix_says_what_is_not_done(tmp_path: Path) -> None:
    (run,) = load_runs([write_run(tmp_path / "run", CELLS, left_out=(("net", "autoattack"),))])
    (first, *_) = breaks(run.units, run.records)
    assert {"2", "0/5 done"} <= set(_texts(breaks_figure([first])))


def test_curves_have_a_legend_and_points_of_every_eps(run: LoadedRun) -> None:
    figure = curves_figure(series([run]))
    (axes,) = figure.axes
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["$x$_net", "net"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "0.1", "0.2"]
    heights = axes.containers[1].lines[0].get_ydata()  # type: ignore[attr-defined]
    assert list(heights) == pytest.approx([80.0, 20.0, 20.0])
