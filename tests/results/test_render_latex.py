"""Leaderboards as LaTeX: the numbers of the rows, and no character that LaTeX would take for a command."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from results.aggregate import wilson
from results.latex_text import breakable, escaped, stacked
from results.leaderboard import Row
from results.render import FORMATS
from results.render_latex import latex
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
    assert lines[r"kmeans\_856"] == ["95.00", "45.00", "38.50", "40.00", "A"]
    assert lines["late"] == ["--", "--", "--", "100/200 done", ""]
    assert lines["net"] == ["95.00", "45.00", "0.00", "44.00", ""]
    assert latex(ROWS).count("n = 200.}") == 2


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
    assert escaped("±≥≤é") == r"\ensuremath{\pm}\ensuremath{\geq}\ensuremath{\leq}\'{e}"
    assert escaped("u\N{COMBINING DIAERESIS}Ås") == r"\"{u}\r{A}s"
    assert escaped("–…^~") == r"--\ldots{}\textasciicircum{}\textasciitilde{}"


def test_another_head_is_set_under_its_classifier() -> None:
    rows: list[Row] = [row(), row(model="net@scores", attacks={"pgd20": wilson(100, 200)})]
    assert _lines(latex(rows))[r"\quad @scores"][1] == "50.00"
    assert latex(rows).count("net 9") == 1  # one interval a classifier


def test_it_is_reached_by_its_name() -> None:
    assert FORMATS["tex"](ROWS) == latex(ROWS)


SAFE = {
    r"\textbackslash{}",
    r"\{",
    r"\}",
    r"\$",
    r"\&",
    r"\#",
    r"\%",
    r"\_",
    r"\textasciicircum{}",
    r"\textasciitilde{}",
}


@pytest.mark.parametrize("char", [chr(code) for code in range(32, 127)])
def test_every_character_of_the_keyboard_is_plain_or_a_command_that_prints_it(char: str) -> None:
    """What TeX gives a meaning never stands alone: its commands, groups, maths, tabs, comments and arguments."""
    if char in "\\{}$&#%_^~":
        assert escaped(char) in SAFE
    else:
        assert not set(escaped(char)) & set("$&#%_^~")
        assert escaped(char) == char or escaped(char).startswith(("\\text", "{"))
    assert escaped(f"a{char}b") == f"a{escaped(char)}b"


def test_nothing_but_ascii_is_left_of_whatever_text() -> None:
    for code in (*range(128, 0x2FFF), 0x1F600, 0xFFFD):
        assert escaped(chr(code)).isascii(), hex(code)
    many = latex([row(model=f"über/{NASTY}/±≥ %_{i}", group=f"g{i}", flags=["≥ 5 % ± 2 µ_x"]) for i in range(3)])
    assert many.isascii()
    assert r"\ensuremath{\geq} 5 \% \ensuremath{\pm} 2 [U+00B5]\_" in many


def test_long_names_take_lines_and_may_break() -> None:
    assert stacked("short", 12, "r") == "short"
    assert stacked("pgd20@restarts=2,step_size=0.01", 12, "r") == (
        r"\shortstack[r]{pgd20\\@restarts=2,\\step\_size=0.01}"
    )
    assert breakable("a/b_c@d") == r"a/\allowbreak{}b\_c@\allowbreak{}d"
    assert breakable("one, two 3,4") == r"one, two 3,\allowbreak{}4"


def test_notes_that_would_run_off_the_page_follow_the_table() -> None:
    few = latex([row(flags=["told"])])
    many = latex([row(flags=[f"told {i}" for i in range(60)])])
    assert few.index("told") < few.index(r"\end{table}")
    assert many.index("told") > many.index(r"\end{table}")
    assert r"Table~\ref{tab:robust-accuracy-1}: 95\,\%" in many


def _compiled(folder: Path, text: str) -> str:
    """What pdflatex says, twice run for the references, with the packages that the file's head asks for."""
    packages = re.findall(r"\\usepackage(?:\[\w+\])?\{\w+\}", text.partition(r"\begin")[0])
    assert len(packages) == 3
    (folder / "board.tex").write_text(text)
    (folder / "main.tex").write_text(
        "\n".join([r"\documentclass{article}", *packages, r"\begin{document}\input{board}\end{document}", ""])
    )
    for _ in range(2):
        done = subprocess.run(
            ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "main.tex"],
            cwd=folder,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-2000:]
    return done.stdout


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no pdflatex")
def test_it_compiles_and_fits_the_page(tmp_path: Path) -> None:
    wide = {f"pgd20@restarts={i},step_size=0.0{i}": wilson(90, 200) for i in range(9)}
    path = "/data/my models/100%_clu#st$r ±≥&ü^~{x}.safetensors"
    long = [row(model=f"net-{i}", group=f"net-{i}", eps=0.25, flags=["said"]) for i in range(70)]
    broad = [row(model=path, group=path, dataset="npz:mine_±50%.npz", attacks=wide), row(model=f"{path}@scores")]
    told = _compiled(tmp_path, latex([*ROWS, *broad, *long]))
    for complaint in ("Overfull", "Float too large", "undefined", "Missing character"):
        assert complaint not in told
