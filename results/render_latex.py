"""The leaderboard as LaTeX: one booktabs table a data set and threat, to be read by \\input."""

from collections.abc import Sequence
from itertools import pairwise

from results.aggregate import Proportion
from results.leaderboard import Row
from results.notes import TRUST, notes_of, show_eps

HEAD = """\
% Needs \\usepackage[T1]{fontenc} and \\usepackage{booktabs}; read it by \\input, one table a data set and threat.
"""
NOTE = (
    "Accuracies in \\%, each attack alone over all $n$ samples. Lower: proven; upper: what stands after all attacks on "
    "the classifier, through every head. --: not applicable."
)
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
    "[": "{[}",
    "*": "{*}",
    "–": "--",
    "…": r"\ldots{}",
}


def latex(rows: Sequence[Row]) -> str:
    """All tables; intervals and flags are notes below each."""
    tables: dict[tuple[str, str, float, int], list[Row]] = {}
    for row in rows:
        tables.setdefault((row.dataset, row.norm, row.eps, row.n), []).append(row)
    return "\n".join([HEAD, *(_table(members) for members in tables.values())])


def escaped(text: str) -> str:
    """Text that LaTeX prints as it is: no command, comment, option or ligature, and no character without a glyph."""
    parts = [_SPECIAL.get(char) or _plain(char) for char in text]
    return "".join(
        f"{{}}{part}" if part in "-," and part == before else part for before, part in pairwise(["", *parts])
    )


def _plain(char: str) -> str:
    if char.isspace():
        return " "
    return char if " " <= char <= "~" else f"[U+{ord(char):04X}]"


def _table(rows: Sequence[Row]) -> str:
    fullest = sorted(rows, key=lambda row: -len(row.attacks))  # has the planned order
    attacks = list(dict.fromkeys(name for row in fullest for name in row.attacks if name not in row.proofs))
    header = ["model", "clean", *map(escaped, attacks), "lower", "upper", "trust", "$n$"]
    first = rows[0]
    body = [_line(row, attacks, _is_first(rows, index)) for index, row in enumerate(rows)]
    title = f"{first.dataset}, {first.norm} eps = {show_eps(first.eps)}, n = {first.n}"
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering\small\setlength{\tabcolsep}{4pt}",
            rf"\caption{{Robust accuracy: {escaped(title)}.}}",
            rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
            r"\toprule",
            " & ".join(header) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            "",
            r"\medskip",
            rf"\parbox{{\linewidth}}{{\footnotesize {NOTE} {escaped(TRUST)}",
            "",
            _intervals(rows),
            *_flags(rows),
            "}",
            r"\end{table}",
            "",
        ]
    )


def _is_first(rows: Sequence[Row], index: int) -> bool:
    """Whether a row is its classifier's own, and not the classifier through another head."""
    return all(row.group != rows[index].group for row in rows[:index])


def _line(row: Row, attacks: Sequence[str], first: bool) -> str:
    cells = [escaped(row.model) if first else rf"\quad {escaped(row.model)}", _percent(row.clean)]
    cells += [_percent(row.attacks.get(name)) for name in attacks]
    state = f"{row.done}/{row.n} done" if row.done < row.n else "incomplete"
    cells += [_percent(row.robust_lower), state if row.robust_upper is None else _percent(row.robust_upper)]
    cells += [row.trust.grade.value if row.trust and first else "", str(row.n)]
    return " & ".join(cells) + r" \\"


def _intervals(rows: Sequence[Row]) -> str:
    told = [
        f"{escaped(row.model)} {_interval(row.clean)}, {_interval(row.robust_upper)}"
        for index, row in enumerate(rows)
        if row.robust_upper is not None and _is_first(rows, index)
    ]
    return f"95\\,\\% Wilson intervals (clean, upper): {'; '.join(told)}." if told else "No model is done."


def _flags(rows: Sequence[Row]) -> list[str]:
    """A paragraph a sentence."""
    return [line for note in notes_of(rows) for line in ("", escaped(note))]


def _percent(p: Proportion | None) -> str:
    return "--" if p is None else f"{100 * p.value:.2f}"


def _interval(p: Proportion | None) -> str:
    return "--" if p is None else f"{100 * p.low:.1f}--{100 * p.high:.1f}"
