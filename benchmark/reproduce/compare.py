"""Published numbers beside measured ones: lines, then text, markdown and CSV."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO

from tabulate import tabulate

from benchmark.reproduce.statements import Measured, View, show_radius
from benchmark.reproduce.tables import (
    JUDGED,
    PAPERS,
    UNMASKED,
    Quantity,
    Table,
    base_of,
    has,
    is_clustering,
    nearest_of,
)
from results.aggregate import Proportion
from results.claims import Claim, Paper

NOT_RUN_WEIGHTS, NOT_RUN_DATA, NOT_RUN_FAILED = "not run: weights", "not run: data", "not run: failed"

Cell = Proportion | str
"""A figure, or why there is none."""

Cells = dict[tuple[str, str, str, float], Cell]
"""By model, quantity, head and eps."""

HEADS = {PAPERS: "paper's head", JUDGED: "judged head", UNMASKED: "unmasked"}
SAME, UNDEFINED = "same", "–"


@dataclass(frozen=True)
class Line:
    """One quantity of one model: as published, by data set, and as measured, by head."""

    model: str
    eps: float
    quantity: str
    published: Mapping[str, str]
    measured: Mapping[str, Cell]


def lines_of(table: Table, paper: Paper, cells: Cells) -> list[Line]:
    """A line for each quantity that a model has, in the table's order."""
    lines = []
    for model in table.models:
        for eps in table.radii:
            for quantity in table.quantities:
                if quantity.ordinary and not is_clustering(model):
                    continue
                published = {
                    claim.dataset: shown
                    for claim in paper.of(*table.tables)
                    if _is_about(claim, table, paper, model, eps) and (shown := as_published(claim, quantity.claim))
                }
                measured = {head: cells.get((model, quantity.name, head, eps), UNDEFINED) for head in table.heads}
                for head in measured:
                    if (quantity.attack == "clean" and head != JUDGED) or (
                        head in quantity.heads and not has(model, head)
                    ):
                        measured[head] = SAME
                lines.append(Line(model, eps, quantity.name, published, measured))
    return lines


def _is_about(claim: Claim, table: Table, paper: Paper, model: str, eps: float) -> bool:
    """D counts unless the table says as what the model was published."""
    radius = claim.eps or paper.eps
    if radius is None or abs(radius - eps) > 1e-9:
        return False
    if model in table.claimed_as:
        return claim.model == table.claimed_as[model]
    return claim.model == base_of(model) and claim.nearest == nearest_of(model)


def as_published(claim: Claim, field: str) -> str:
    """A claim's value or range; empty where it has none."""
    value, low, high = (getattr(claim, name, None) for name in (field, f"{field}_min", f"{field}_max"))
    if value is not None:
        return f"{value:.2f}" + (f" (D = {claim.nearest})" if claim.nearest else "")
    if low is not None and high is not None:
        return f"{low:g} to {high:g}"
    return f"< {high:g}" if high is not None else ""


def without_counterpart(table: Table, paper: Paper) -> list[str]:
    """Claims of the table about its models under conditions that are not measured here."""
    return [
        f"{claim.dataset} {claim.model}: {quantity.name} {as_published(claim, quantity.claim)}"
        for claim in paper.of(*table.tables)
        for quantity in table.quantities
        if claim.model in {base_of(model) for model in table.models}
        and as_published(claim, quantity.claim)
        and not any(_is_about(claim, table, paper, m, eps) for m in table.models for eps in table.radii)
    ]


def datasets_of(table: Table, paper: Paper) -> list[str]:
    """The data sets that the table's claims are about."""
    return list(dict.fromkeys(claim.dataset for claim in paper.of(*table.tables)))


def views_of(table: Table, cells: Cells) -> list[View]:
    """Each quantity through each head, for statements. Ordinary networks have one head, and no Magnet loss."""
    by_name = {quantity.name: quantity for quantity in table.quantities}
    views = []
    for quantity in table.quantities:
        instead = by_name.get(quantity.ordinary, quantity)
        for head in quantity.heads:
            label = quantity.name + (f" ({HEADS[head]})" if len(quantity.heads) > 1 else "")
            views.append(View(quantity.name, label, _seen(table, cells, quantity, instead, head)))
    return views


def _seen(table: Table, cells: Cells, quantity: Quantity, instead: Quantity, head: str) -> Measured:
    found: dict[tuple[str, float], Proportion | None] = {}
    for model in table.models:
        name = quantity.name if is_clustering(model) else instead.name
        shown = head if has(model, head) else JUDGED
        for eps in table.radii:
            cell = cells.get((model, name, shown, eps))
            if cell is not None:
                found[model, eps] = cell if isinstance(cell, Proportion) else None
    return found


def grid(lines: Sequence[Line], dataset: str, elsewhere: Mapping[str, str]) -> list[dict[str, str]]:
    """The table as text, a mapping of columns to cells for each line.

    `elsewhere` says of each published data set that is not measured on why not.
    """
    several = len({line.eps for line in lines}) > 1
    return [
        {"model": line.model}
        | ({"eps": show_radius(line.eps)} if several else {})
        | {"quantity": line.quantity}
        | {f"published\n{name}": line.published.get(name, UNDEFINED) for name in (*elsewhere, dataset) if name in shown}
        | {f"{name}\nhere": reason for name, reason in elsewhere.items()}
        | {
            f"{dataset}\nhere" + (f", {HEADS[head]}" if len(line.measured) > 1 else ""): show(cell)
            for head, cell in line.measured.items()
        }
        for shown in [{name for line in lines for name in line.published}]
        for line in lines
    ]


def show(cell: Cell) -> str:
    """Percent, with its 95 % interval."""
    if isinstance(cell, str):
        return cell
    return f"{100 * cell.value:.2f} [{100 * cell.low:.1f}, {100 * cell.high:.1f}]"


def fixed_width(rows: Sequence[Mapping[str, str]]) -> str:
    return tabulate([list(row.values()) for row in rows], list(rows[0]), tablefmt="simple", disable_numparse=True)


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    headers = [" ".join(name.split()) for name in rows[0]]
    return tabulate([list(row.values()) for row in rows], headers, tablefmt="github", disable_numparse=True)


def as_csv(lines: Sequence[Line], dataset: str) -> str:
    """One line a model, quantity, head and published data set; percent, an empty field is undefined."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [
        "model",
        "eps",
        "quantity",
        "published_on",
        "published",
        "measured_on",
        "head",
        "measured",
        "low",
        "high",
    ]
    writer.writerow([*columns, "n", "why_not"])
    for line in lines:
        for published_on, published in (line.published or {"": ""}).items():
            for head, cell in line.measured.items():
                if cell in (UNDEFINED, SAME):
                    continue
                known = isinstance(cell, Proportion)
                figures: list[object] = ["", "", "", ""]
                if isinstance(cell, Proportion):
                    figures = [f"{100 * value:.2f}" for value in (cell.value, cell.low, cell.high)] + [cell.n]
                about = [line.model, show_radius(line.eps), line.quantity, published_on, published, dataset]
                writer.writerow([*about, head or "judged", *figures, "" if known else cell])
    return text.getvalue()
