"""Leaderboards as LaTeX: the numbers of the rows, and no character that LaTeX would take for a command."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from results.aggregate import wilson
from results.leaderboard import Row
from results.render import FORMATS
from results.render_latex import escaped, latex
from results.trust import Grade, Trust
from tests.results.builders import row

NASTY = r"[x]--,,\input{/etc/passwd}%$&#_^~<script>\"'`|{}*ü↳…–"
ROWS = [
    row(
        model="kmeans_856",
        group="kmeans_856",
        attacks={"pgd20": wilson(90, 200), "exact": wilson(80, 200)},
        proofs={"exact": wilson(77, 200)},
        robust_upper=wilson(80, 200),
        robust_lower=wilson(77, 200),
        flags=["pgd20: 100 % odd"],
        trust=Trust(Grade.A, "every sample is decided"),
    ),
    row(model=NASTY, group=NASTY, rank=2),
    row(model="late", group="late", rank=None, done=100, clean=None, attacks={}, robust_upper=None, robust_lower=None),
    row(norm="l2", eps=0.5),
]


def _lines(text: str) -> dict[str, list[str]]:
    """Cells by model, of lines between \\midrule and \\bottomrule."""
    bodies = re.findall(r"\\midrule\n(.*?)\\bottomrule", text, re.DOTALL)
    rows = [line.removesuffix(r" \\").split(" & ") for body in bodies for line in body.splitlines()]
    return {cells[0]: cells[1:] for cells in rows}


def test_a_line_holds_the_percentages_of_its_row() -> None:
    lines = _lines(latex(ROWS))
    assert lines[r"kmeans\_856"] == ["95.00", "45.00", "38.50", "40.00", "A", "200"]
    assert lines["late"] == ["--", "--", "--", "100/200 done", "", "200"]
    assert lines["net"] == ["95.00", "45.00", "0.00", "44.00", "", "200"]


def test_intervals_and_flags_are_in_the_note() -> None:
    text = latex(ROWS)
    clean, upper = wilson(190, 200), wilson(80, 200)
    told = f"{100 * clean.low:.1f}--{100 * clean.high:.1f}, {100 * upper.low:.1f}--{100 * upper.high:.1f}"
    assert rf"kmeans\_856 {told}" in text
    assert r"kmeans\_856: pgd20: 100 \% odd" in text
    assert r"kmeans\_856: 3 samples neither broken nor certified" in text


def test_every_threat_has_a_table_and_all_are_closed() -> None:
    text = latex(ROWS)
    for name, times in (("table", 2), ("tabular", 2)):
        assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}") == times
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    assert text.isascii()


def test_nothing_in_a_name_is_a_command_a_comment_an_option_or_a_ligature() -> None:
    assert escaped("a_b%c&d#e$f{g}") == r"a\_b\%c\&d\#e\$f\{g\}"
    assert escaped(r"\input{x}") == r"\textbackslash{}input\{x\}"
    assert escaped("[1] *") == "{[}1] {*}"
    assert escaped("a--b,,c") == "a-{}-b,{},c"
    assert escaped("↳\n\x00") == "[U+21B3] [U+0000]"
    assert escaped("–…^~") == r"--\ldots{}\textasciicircum{}\textasciitilde{}"


def test_another_head_is_set_under_its_classifier() -> None:
    rows: list[Row] = [row(), row(model="net@scores", attacks={"pgd20": wilson(100, 200)})]
    assert _lines(latex(rows))[r"\quad net@scores"][1] == "50.00"
    assert latex(rows).count("net 9") == 1  # one interval a classifier


def test_it_is_reached_by_its_name() -> None:
    assert FORMATS["tex"](ROWS) == latex(ROWS)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no pdflatex")
def test_it_compiles(tmp_path: Path) -> None:
    (tmp_path / "board.tex").write_text(latex(ROWS))
    (tmp_path / "main.tex").write_text(
        "\\documentclass{article}\\usepackage[T1]{fontenc}\\usepackage{booktabs}\n"
        "\\begin{document}\\input{board}\\end{document}\n"
    )
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "main.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:]
