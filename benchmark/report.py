"""The page of `bench report --format html`: what records do not hold is found here, families and clean images."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmark import datasets
from benchmark.claims import hold
from benchmark.errors import RequestError
from model_zoo.errors import ModelError
from model_zoo.registry import zoo_cards
from model_zoo.weights import ModelCard, read_card
from results.gallery import CleanImages, FindClean
from results.loaded import LoadedRun
from results.page import page_html
from results.page.claims import claims_section
from results.page.content import Section, build_page
from results.page.findings import findings_section
from results.records import WorkUnit
from results.store import write_whole

FAMILIES = {"kmeans": "k-means", "magnet": "clustering", "learned-map": "clustering", "logits": "ordinary"}
"""The kinds of cards, as people call them."""


def write_page(runs: Sequence[LoadedRun], out: Path, data_root: Path | None) -> None:
    """One page of all runs."""
    families = families_of(unit for run in runs for unit in run.units)
    found = findings_section(row for run in runs for row in run.rows)
    page = build_page(runs, families, clean_images(data_root), claims_of(runs), found)
    write_whole(out, page_html(page).encode())


def claims_of(runs: Sequence[LoadedRun]) -> Section | None:
    """What `bench claims` says of the complete runs, None where they judge no claim."""
    complete = [run.store.folder for run in runs if run.complete]
    try:
        return claims_section(hold(complete)) if complete else None
    except RequestError:
        return None


def clean_images(data_root: Path | None) -> FindClean:
    """Finds a run's data set by name, and holds it against the checksum in the run's units."""

    def find(name: str, sha256: str) -> CleanImages | str:
        try:
            data = datasets.load(name, data_root)
        except RequestError as error:
            return str(error)
        if data.sha256 != sha256:
            return (
                f"data set {name} here is another one than the run's (sha256 {data.sha256[:12]}..., {sha256[:12]}...)"
            )
        return CleanImages(data.x.numpy(), data.class_names)

    return find


def families_of(units: Iterable[WorkUnit]) -> dict[tuple[str, str], str]:
    """The families of the models whose cards are here and belong to the weights that the run had."""
    found = {}
    for model, sha256 in {(unit.model, unit.weights_sha256) for unit in units}:
        card = _card(model)
        if card is not None and card.identity == sha256:
            found[model, sha256] = FAMILIES[card.kind]
    return found


def _card(model: str) -> ModelCard | None:
    path = re.match(r".*\.safetensors", model)
    if path is None:
        return zoo_cards().get(model.partition("@")[0])
    try:
        return read_card(Path(path[0]))
    except ModelError:
        return None
