"""The leaderboard as LaTeX: one booktabs table a data set and threat, to be read by \\input."""

from collections.abc import Sequence

from results.aggregate import Proportion
from results.latex_text import breakable, escaped, stacked
from results.leaderboard import Row
from results.notes import TRUST, not_checked, notes_of, show_eps

HEAD = """\
% Needs \\usepackage[T1]{fontenc}, \\usepackage{booktabs} and \\usepackage{graphicx}; read it by \\input.
% One table a data set and threat; one that is wider than the line, or too high for the page, is made smaller.
"""
NOTE = (
    "Accuracies in \\%, each attack alone over all $n$ samples. Lower: proven; upper: what stands after all attacks on "
    "the classifier, through every head. --: not applicable."
)
_WIDEST_NAME, _WIDEST_HEAD = 32, 12
"""Characters of a model's and of an attack's name on one line."""
_LINES, _WIDE = 40, 100
"""How many rows and lines of notes a page has room for beside the rest, and how many characters a line."""


def latex(rows: Sequence[Row]) -> str:
    """All tables; intervals and flags are notes below each."""
    tables: dict[tuple[str, str, float, int], list[Row]] = {}
    for row in rows:
        tables.setdefault((row.dataset, row.norm, row.eps, row.n), []).append(row)
    return "\n".join([HEAD, *(_table(members, number) for number, members in enumerate(tables.values(), start=1))])


def _table(rows: Sequence[Row], number: int) -> str:
    fullest = sorted(rows, key=lambda row: -len(row.attacks))  # has the planned order
    attacks = list(dict.fromkeys(name for row in fullest for name in row.attacks if name not in row.proofs))
    heads = [stacked(name, _WIDEST_HEAD, "r") for name in attacks]
    header = ["model", "clean", *heads, "lower", "upper", "trust"]
    first = rows[0]
    body = [_line(row, attacks, _is_first(rows, index)) for index, row in enumerate(rows)]
    title = f"{first.dataset}, {first.norm} eps = {show_eps(first.eps)}, n = {first.n}"
    notes = [_intervals(rows), *map(breakable, (*notes_of(rows), *not_checked(rows)))]
    fits = len(rows) + sum(1 + len(note) // _WIDE for note in notes) <= _LINES
    told = "\n\n".join(notes)
    about = f"{NOTE} {escaped(TRUST.replace('robust_upper', 'upper'))}"
    label = f"tab:robust-accuracy-{number}"
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering\small\setlength{\tabcolsep}{4pt}",
            rf"\caption{{Robust accuracy: {escaped(title)}.}}\label{{{label}}}",
            r"\sbox0{%",
            rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
            r"\toprule",
            " & ".join(header) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}}%",
            r"\ifdim\wd0>\linewidth\sbox0{\resizebox{\linewidth}{!}{\usebox0}}\fi",
            r"\ifdim\dimexpr\ht0+\dp0\relax>.7\textheight\sbox0{\resizebox*{!}{.7\textheight}{\usebox0}}\fi",
            r"\usebox0",
            "",
            r"\medskip",
            rf"\parbox{{\linewidth}}{{\footnotesize\sloppy {about}",
            *(["", told] if fits else []),
            "}",
            r"\end{table}",
            "",
            *([] if fits else [rf"{{\footnotesize\sloppy\noindent Table~\ref{{{label}}}: {told}", "", r"\par}", ""]),
        ]
    )


def _is_first(rows: Sequence[Row], index: int) -> bool:
    """Whether a row is its classifier's own, and not the classifier through another head."""
    return all(row.group != rows[index].group for row in rows[:index])


def _line(row: Row, attacks: Sequence[str], first: bool) -> str:
    cells = [_name(row, first), _percent(row.clean)]
    cells += [_percent(row.attacks.get(name)) for name in attacks]
    state = f"{row.done}/{row.n} done" if row.done < row.n else "incomplete"
    cells += [_percent(row.robust_lower), state if row.robust_upper is None else _percent(row.robust_upper)]
    cells.append(row.trust.grade.value if row.trust and first else "")
    return " & ".join(cells) + r" \\"


def _name(row: Row, first: bool) -> str:
    """The model; below its classifier's own row, the head alone."""
    option = row.model.removeprefix(row.group.partition("@")[0]).lstrip("@")
    if first or not option:
        return stacked(row.model, _WIDEST_NAME, "l")
    return rf"\quad {escaped(f'@{option}')}"


def _intervals(rows: Sequence[Row]) -> str:
    told = [
        f"{breakable(row.model)} {_interval(row.clean)}, {_interval(row.robust_upper)}"
        for index, row in enumerate(rows)
        if row.robust_upper is not None and _is_first(rows, index)
    ]
    return f"95\\,\\% Wilson intervals (clean, upper): {'; '.join(told)}." if told else "No model is done."


def _percent(p: Proportion | None) -> str:
    return "--" if p is None else f"{100 * p.value:.2f}"


def _interval(p: Proportion | None) -> str:
    return "--" if p is None else f"{100 * p.low:.1f}--{100 * p.high:.1f}"
