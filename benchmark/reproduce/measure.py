"""A table's models attacked as it asks: weights looked up, requests resolved, units carried out or found done."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmark.config import build_config
from benchmark.datasets import DATASETS, Dataset
from benchmark.plan import plan
from benchmark.reproduce.compare import NOT_RUN_DATA, NOT_RUN_FAILED, NOT_RUN_WEIGHTS, Cells
from benchmark.reproduce.request import Advance, Options, images_of
from benchmark.reproduce.tables import Quantity, Table, base_of, has, is_clustering, nearest_of
from benchmark.resolve import Request, resolve
from benchmark.run import run_units
from model_zoo.registry import zoo_cards
from model_zoo.weights import ModelCard, read_card
from results.leaderboard import Row
from results.store import Store


@dataclass(frozen=True)
class Subject:
    """A table's models: those with weights by the name they load by and their cards, the others with the reason."""

    names: Mapping[str, str]
    cards: Mapping[str, ModelCard]
    absent: Mapping[str, str]


def subject_of(table: Table, options: Options) -> Subject:
    """What there is to measure; of the zoo only what was trained on the data set."""
    data = images_of(options)
    names: dict[str, str] = {}
    cards: dict[str, ModelCard] = {}
    absent: dict[str, str] = {}
    for model in table.models:
        base, _, head = model.partition("@")
        found = _weights(base, data, options.weights) if isinstance(data, Dataset) else None
        if not isinstance(data, Dataset):
            absent[model] = NOT_RUN_DATA
        elif found is None:
            absent[model] = NOT_RUN_WEIGHTS
        elif found[1].dataset != data.name and {found[1].dataset, data.name} <= DATASETS.keys():
            absent[model] = f"not run: trained on {found[1].dataset}"
        elif (found[1].clusters or 0) < (nearest_of(model) or 0):
            absent[model] = f"not run: {found[1].clusters or 0} clusters"
        else:
            names[model] = found[0] + ("@" + head if head else "")
            cards[model] = found[1]
    return Subject(names, cards, absent)


def _weights(base: str, data: Dataset, folder: Path | None) -> tuple[str, ModelCard] | None:
    if folder is not None:
        path = folder / f"{base}.safetensors"
        return (str(path), read_card(path)) if path.exists() else None
    card = zoo_cards().get(base)
    return (base, card) if card is not None and card.dataset == data.name else None


def requests_of(table: Table, subject: Subject, options: Options, norm: str) -> list[Request]:
    """What is to be run through each head; RequestError for what does not load or fit."""
    requests = []
    for head in table.heads:
        models = [model for model in subject.names if has(model, head)]
        attacks = [
            quantity.attack
            for quantity in table.quantities
            if head in quantity.heads and any(applies(quantity, model) for model in models)
        ]
        if models and attacks:
            content = {
                "models": [_seen_through(subject.names[model], head) for model in models],
                "dataset": options.dataset,
                "samples": options.samples,
                "threats": [{"norm": norm, "eps": eps} for eps in table.eps],
                "attacks": attacks,
                "workers": options.workers,
            }
            requests.append(resolve(build_config(content, {}), options.data_root))
    return requests


def applies(quantity: Quantity, model: str) -> bool:
    return not quantity.ordinary or is_clustering(model)


def _seen_through(name: str, head: str) -> str:
    """The name with the head among its options, which follow the last part of a path."""
    if not head:
        return name
    has_options = "@" in name.rpartition(".safetensors")[2]
    return f"{name}{',' if has_options else '@'}{head}"


def measure(
    table: Table, subject: Subject, requests: list[Request], options: Options, store: Store, advance: Advance
) -> tuple[Cells, list[str]]:
    """Carry out what is not done yet: what each cell shows, and the reasons of units that failed."""
    units = list({unit.key: unit for request in requests for unit in plan(request)}.values())
    rows: list[Row] = []
    failures: list[str] = []
    if units:
        report = run_units(units, requests[0].config, store, options.data_root, advance)
        rows = report.rows
        failures = [f"{failure.unit}: {failure.reason}" for failure in report.failures]
    by_name = {(row.model, row.eps): row for row in rows}
    cells: Cells = {}
    for model in table.models:
        for quantity in table.quantities:
            for head in quantity.heads:
                if not applies(quantity, model) or not has(model, head):
                    continue
                if model in subject.absent:
                    cells |= {(model, quantity.name, head, eps): subject.absent[model] for eps in table.radii}
                    continue
                name = _seen_through(subject.names[model], head)
                for eps in table.radii:
                    row = by_name.get((name, eps))
                    found = None
                    if row is not None:
                        found = row.clean if quantity.attack == "clean" else row.attacks.get(quantity.attack)
                    cells[model, quantity.name, head, eps] = NOT_RUN_FAILED if found is None else found
    return cells, failures


def training_of(subject: Subject) -> str:
    """Architectures and epochs of the models, from their cards."""
    by_base = {base_of(model): card for model, card in subject.cards.items()}
    architectures = sorted({card.architecture or "no network" for card in by_base.values()})
    epochs = [f"{base} {_epochs(card)}" for base, card in by_base.items()]
    return f"{', '.join(architectures)}; epochs: {', '.join(epochs)}" if by_base else "no weights"


def _epochs(card: ModelCard) -> str:
    start = Path(str(card.settings.get("warm_start") or "")).stem
    if not start and "warm_start" in card.settings and card.recipe != "magnet":
        start = "nominal, trained before"
    epochs = 0 if card.recipe == "nominal-kmeans-head" else card.settings.get("epochs", 0)
    return f"{epochs} (from {start})" if start else str(epochs)
