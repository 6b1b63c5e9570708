"""Models by name: `MODELS` lists the zoo, `load` resolves every spelling a user may give."""

import difflib
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from model_zoo.adapter import fold_batch_norm
from model_zoo.errors import ModelError
from model_zoo.external import is_factory, load_factory, load_robustbench
from model_zoo.magnet import HEADS, Head, MagnetClassifier
from model_zoo.weights import ModelCard, load_model, read_card

ZOO = Path(__file__).parent / "weights"
ROBUSTBENCH_FOLDER = Path.home() / ".cache" / "clustrbench" / "robustbench"


@dataclass(frozen=True)
class LoadedModel:
    """A classifier as the attack sees it.

    `group` names the classifier behind the head: models of one group make the same predictions. `training` names the
    parts (as `nn.Module.named_modules` does) that were handed over in training mode; all are in eval mode now.
    `checked` says that `flags` hold what the checks of the model itself see.
    """

    name: str
    group: str
    model: nn.Module
    sha256: str
    card: ModelCard | None = None
    flags: tuple[str, ...] = ()
    training: tuple[str, ...] = ()
    checked: bool = False


@functools.cache
def zoo_cards() -> Mapping[str, ModelCard]:
    """The cards of the models that ship, by name."""
    cards = [read_card(path) for path in sorted(ZOO.glob("*.safetensors"))]
    return {card.name: card for card in cards}


def load(name: str, device: torch.device | str = "cpu", fold: bool = True) -> LoadedModel:
    """Load a model by name; ModelError, one line, when that cannot be done.

    A name is a model of the zoo, a path to a .safetensors file with its card beside it,
    `robustbench:THREAT/DATASET/NAME`, or `package.module:factory`. A Magnet classifier takes options after
    an @, separated by commas: a head (`@scores`), `nearest=D`, `fuzzy=M`, `unmasked`. The zoo's networks come with
    batch norm folded, unless `fold` is False, as a warm start needs.
    """
    base, options = _split(name)
    device = torch.device(device)
    if base.startswith("robustbench:"):
        _refuse_options(name, options)
        model, sha256 = load_robustbench(base, device, ROBUSTBENCH_FOLDER)
        return LoadedModel(name, name, model, sha256)
    if base.endswith(".safetensors"):
        model, card = load_model(Path(base), device)
    elif base in zoo_cards():
        model, card = load_model(ZOO / f"{base}.safetensors", device)
    elif is_factory(base):
        _refuse_options(name, options)
        model, sha256, training = load_factory(base, device)
        flags = ("the factory returned a model in training mode; it was evaluated in eval mode",) if training else ()
        return LoadedModel(name, name, model, sha256, flags=flags, training=training)
    else:
        raise ModelError(_unknown(base))
    if fold:
        fold_batch_norm(model)
    if not options:
        return LoadedModel(name, base, model, card.identity, card)
    if not isinstance(model, MagnetClassifier):
        raise ModelError(f"model {name}: {base} has no heads; options after @ are for Magnet classifiers")
    model, group = _apply_options(name, base, model, options.split(","))
    return LoadedModel(name, group, model, card.identity, card)


def _split(name: str) -> tuple[str, str]:
    """The name and its options; an @ in the folders of a weight file's path is part of the path."""
    head, suffix, tail = name.partition(".safetensors")
    if suffix:
        return head + suffix, tail.removeprefix("@")
    base, _, options = name.partition("@")
    return base, options


def _apply_options(name: str, base: str, model: MagnetClassifier, options: list[str]) -> tuple[MagnetClassifier, str]:
    head: Head = model.head
    unmasked = False
    changes: dict[str, str] = {}
    for option in options:
        if option in HEADS:
            head = option
        elif option == "unmasked":
            unmasked = True
        elif option.startswith("nearest=") and option.removeprefix("nearest=").isdecimal():
            model.nearest = int(option.removeprefix("nearest="))
            changes["nearest"] = option
        elif option.startswith("fuzzy=") and (fuzzifier := _number(option.removeprefix("fuzzy="))) is not None:
            model.fuzzifier = fuzzifier
            changes["fuzzy"] = f"fuzzy={fuzzifier!r}".removesuffix(".0")
        else:
            raise ModelError(
                f"model {name}: unknown option {option!r}; accepted: {', '.join(HEADS)}, nearest=D, fuzzy=M, unmasked"
            )
    group = f"{base}@{','.join(changes[key] for key in sorted(changes))}" if changes else base
    try:
        return model.seen_through(head, unmasked), group
    except ValueError as error:
        raise ModelError(f"model {name}: {error}") from None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _refuse_options(name: str, options: str) -> None:
    if options:
        raise ModelError(f"model {name}: options after @ are for the zoo's Magnet classifiers")


def _unknown(name: str) -> str:
    known = sorted(zoo_cards())
    close = difflib.get_close_matches(name, known)
    hint = f"did you mean {' or '.join(close)}?" if close else f"the zoo has {', '.join(known)}"
    return f"unknown model {name!r}; {hint} (or package.module:factory, FILE.safetensors, robustbench:...)"
