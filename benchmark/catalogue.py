"""What `bench list` shows: everything that has a name, with a line about it."""

from collections.abc import Callable
from io import StringIO

from rich.console import Console
from rich.table import Table

Lines = list[tuple[str, ...]]
Catalogue = tuple[tuple[str, ...], Lines]


def models() -> Catalogue:
    """The zoo, from its cards."""
    from model_zoo.registry import zoo_cards

    lines: Lines = [
        (
            card.name,
            card.summary,
            card.dataset,
            "–" if card.clean_accuracy is None else f"{100 * card.clean_accuracy:.2f}",
            str(card.nearest or "all") if card.kind == "magnet" else "–",
            f"{card.minutes:.1f}",
            card.sha256[:12],
        )
        for card in zoo_cards().values()
    ]
    return ("model", "what it is", "trained on", "clean %", "D", "minutes", "sha256"), lines


def attacks() -> Catalogue:
    """The registry of attacks, with what can be set."""
    from attacks.registry import ATTACKS, NEEDS, resolve

    lines: Lines = []
    for name, entry in ATTACKS.items():
        if name == "clean":
            continue
        params = ", ".join(f"{k}={'auto' if v is None else v}" for k, v in resolve(name).params.items())
        lines.append((name, entry.summary, NEEDS[entry.needs].removeprefix("a ").removesuffix(" model"), params))
    return ("attack", "what it is", "models", "parameters (NAME@key=value,...)"), lines


def datasets() -> Catalogue:
    """Data sets by name, and the two spellings for one's own."""
    from benchmark.datasets import DATASETS, EMBEDDED

    lines: Lines = [
        (name, "test images ship with the package" if (EMBEDDED / name).exists() else _source(name))
        for name in DATASETS
    ]
    lines += [
        ("NAME:validation", "the training images of NAME that no recipe trains on"),
        ("NAME:without=6,8", "the images of NAME but for those of some classes"),
    ]
    lines += [("npz:FILE", "arrays images and labels"), ("folder:DIR", "one folder of images a class")]
    return ("data set", "where it comes from"), lines


def recipes() -> Catalogue:
    """Training methods, with their settings."""
    import dataclasses

    from model_zoo.recipes.registry import RECIPES

    lines: Lines = [
        (
            recipe.name,
            recipe.summary,
            ", ".join(f"{f.name}={getattr(recipe.settings(), f.name)!r}" for f in dataclasses.fields(recipe.settings)),
        )
        for recipe in RECIPES.values()
    ]
    return ("recipe", "what it is", "settings (--set key=value)"), lines


def configs() -> Catalogue:
    """Configurations that ship."""
    from benchmark.config import CONFIGS

    lines: Lines = [
        (path.stem, path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# "))
        for path in sorted(CONFIGS.glob("*.yaml"))
    ]
    return ("configuration", "what it is"), lines


def claims() -> Catalogue:
    """Sources of published numbers."""
    from results.claims import load_claims, papers
    from results.published import numbers_of
    from results.robustbench import NAME, load_robustbench

    lines: Lines = []
    for name in papers():
        paper = load_claims(name)
        numbers = sum(len(numbers_of(name, paper, claim)) for claim in paper.claims)
        on = ", ".join(dict.fromkeys(claim.dataset for claim in paper.claims))
        lines.append((name, f"{paper.title} ({paper.source})", str(numbers), on or "–"))
    source = load_robustbench()
    reported = sum(entry.reported is not None for entry in source.entries)
    lines.append((NAME, f"{source.title} ({source.source})", str(reported), ", ".join(source.samples)))
    return ("paper", "what it is", "numbers", "data sets"), lines


CATALOGUES: dict[str, Callable[[], Catalogue]] = {
    "models": models,
    "attacks": attacks,
    "datasets": datasets,
    "recipes": recipes,
    "configs": configs,
    "claims": claims,
}


def table(header: tuple[str, ...], lines: Lines) -> str:
    """A table for the terminal."""
    console = Console(file=StringIO(), width=140, legacy_windows=False)
    shown = Table(*header)
    for line in lines:
        shown.add_row(*line)
    console.print(shown)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue().rstrip()


def _source(name: str) -> str:
    local = {"digits": "ships with scikit-learn", "cifar10-q75": "npz files in DATA_ROOT/cifar10-q75"}
    return local.get(name, "torchvision (downloaded to --data-root)")
