"""Rows to text: terminal and markdown for people (percentages), CSV and JSON for machines (fractions)."""

import json
from collections.abc import Callable, Sequence
from io import StringIO
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from results.aggregate import Proportion
from results.leaderboard import Row
from results.notes import LEGEND, TRUST, not_checked, notes_of, show_eps
from results.printable import in_cell, printable
from results.render_latex import latex


def render(rows: Sequence[Row], form: str) -> str:
    """The leaderboard as `terminal`, `md`, `csv`, `json` or `tex`."""
    return FORMATS[form](rows)


def markdown(rows: Sequence[Row], trust: bool = True) -> str:
    """Tables with their notes; without `trust` as they were written before there were grades."""
    parts = ["# Leaderboard\n"]
    for title, table in _tables(rows):
        lines = [{in_cell(name): in_cell(cell) for name, cell in line.items()} for line in _lines(table, trust)]
        frame = pd.DataFrame(lines, dtype=str)
        align = ["right" if column not in ("model",) else "left" for column in frame.columns]
        parts.append(f"## {title}\n\n{frame.to_markdown(index=False, disable_numparse=True, colalign=align)}\n")
        parts += [f"- {note}" for note in notes_of(table, trust)]
        parts.append("")
    parts.append(f"{LEGEND} {TRUST}" if trust else LEGEND)
    return "\n".join(parts) + "\n"


def terminal(rows: Sequence[Row]) -> str:
    console = Console(file=StringIO(), force_terminal=False, width=10_000, legacy_windows=False)
    for title, table in _tables(rows):
        lines = _lines(table)
        console.print(Text(printable(title)), soft_wrap=True)
        shown = Table(header_style="bold")
        for column in lines[0]:
            shown.add_column(Text(column), justify="left" if column == "model" else "right", no_wrap=True)
        for line in lines:
            shown.add_row(*(Text(printable(cell)) for cell in line.values()))
        console.print(shown)
        for note in (*notes_of(table), *not_checked(table)):
            console.print(Text(printable(f"  note: {note}")), soft_wrap=True)
    console.print(Text(f"{LEGEND} {TRUST}"), width=140)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def as_csv(rows: Sequence[Row], trust: bool = True) -> str:
    """One line a row; every proportion with its interval; an empty field is undefined. `trust` as in `markdown`."""
    records = []
    for row in rows:
        record: dict[str, Any] = {
            "rank": row.rank,
            "model": row.model,
            "group": row.group,
            "dataset": row.dataset,
            "norm": row.norm,
            "eps": row.eps,
            "n": row.n,
            "done": row.done,
        }
        named = {
            "clean": row.clean,
            **row.attacks,
            **{f"{name}_proves": proof for name, proof in row.proofs.items()},
            "robust_upper": row.robust_upper,
            "robust_lower": row.robust_lower,
        }
        for name, proportion in named.items():
            record[name] = proportion.value if proportion else None
            record[f"{name}_low"] = proportion.low if proportion else None
            record[f"{name}_high"] = proportion.high if proportion else None
        if trust:
            record["trust"] = row.trust.grade.value if row.trust else None
        record["flags"] = "; ".join(row.flags)
        records.append(record)
    return pd.DataFrame(records).astype({"rank": "Int64"}).to_csv(index=False)


def as_json(rows: Sequence[Row]) -> str:
    """One object a row."""
    return json.dumps([row_object(row) for row in rows], indent=2, ensure_ascii=False) + "\n"


def row_object(row: Row) -> dict[str, Any]:
    """A row as plain data, accuracies as fractions, the undefined as None."""
    return {
        "rank": row.rank,
        "model": row.model,
        "group": row.group,
        "dataset": row.dataset,
        "norm": row.norm,
        "eps": row.eps,
        "n": row.n,
        "done": row.done,
        "clean": row.clean.value if row.clean else None,
        "attacks": {
            name: {"robust_accuracy": p.value, "low": p.low, "high": p.high, "n": p.n}
            for name, p in row.attacks.items()
        },
        "proofs": {
            name: {"certified_accuracy": p.value, "low": p.low, "high": p.high, "n": p.n}
            for name, p in row.proofs.items()
        },
        "robust_upper": row.robust_upper.value if row.robust_upper else None,
        "robust_upper_low": row.robust_upper.low if row.robust_upper else None,
        "robust_upper_high": row.robust_upper.high if row.robust_upper else None,
        "robust_lower": row.robust_lower.value if row.robust_lower else None,
        "exactly_broken": row.exactly_broken,
        "missed": row.missed,
        "trust": row.trust.grade.value if row.trust else None,
        "trust_reason": row.trust.reason if row.trust else None,
        "findings": [found.model_dump(mode="json") | {"sentence": found.sentence} for found in row.findings],
        "flags": row.flags,
    }


FORMATS: dict[str, Callable[[Sequence[Row]], str]] = {
    "terminal": terminal,
    "md": markdown,
    "csv": as_csv,
    "json": as_json,
    "tex": latex,
}


def _tables(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Rows by data set and threat, with a title."""
    tables: dict[tuple[str, str, float, int], list[Row]] = {}
    for row in rows:
        tables.setdefault((row.dataset, row.norm, row.eps, row.n), []).append(row)
    return [
        (f"{dataset}, {norm} eps = {show_eps(eps)}, n = {n}", members)
        for (dataset, norm, eps, n), members in tables.items()
    ]


def _lines(rows: Sequence[Row], trust: bool = True) -> list[dict[str, str]]:
    by_length = sorted(rows, key=lambda row: -len(row.attacks))  # the fullest row has the planned order
    attacks = list(dict.fromkeys(name for row in by_length for name in row.attacks if name not in row.proofs))
    verifiers = list(dict.fromkeys(name for row in by_length for name in row.proofs))
    lines = []
    seen: set[str] = set()
    for row in rows:
        first = row.group not in seen
        seen.add(row.group)
        option = row.model.removeprefix(row.group.partition("@")[0]).lstrip("@")
        line = {
            "#": str(row.rank) if row.rank and first else "",
            "model": row.model if first or not option else f"  ↳ @{option}",
            "clean": _percent(row.clean),
        }
        line |= {name: _percent(row.attacks.get(name)) for name in attacks}
        line |= {f"{name} proves": _percent(row.proofs.get(name)) for name in verifiers}
        line["robust_lower"] = _percent(row.robust_lower)
        if row.robust_upper:
            low, high = 100 * row.robust_upper.low, 100 * row.robust_upper.high
            line["robust_upper"] = f"{_percent(row.robust_upper)} ({low:.1f}–{high:.1f})"
        else:
            line["robust_upper"] = f"{row.done}/{row.n} done" if row.done < row.n else "other heads not done"
        if trust:
            line["trust"] = row.trust.grade.value if row.trust else "–"
        lines.append(line)
    return lines


def _percent(proportion: Proportion | None) -> str:
    return "–" if proportion is None else f"{100 * proportion.value:.2f}"
