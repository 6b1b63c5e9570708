"""Attacks by name: ATTACKS binds the parameters, `resolve` reads what a user writes."""

import difflib
import functools
import hashlib
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any

from torch import Tensor

from attacks.autoattack import ENSEMBLES, autoattack
from attacks.certify import certify
from attacks.contract import (
    AttackResult,
    Certifiable,
    Classifier,
    ClusteringClassifier,
    NearestCentroidClassifier,
)
from attacks.exact import exact
from attacks.exact_radius import exact_radius
from attacks.losses import margin
from attacks.magnet import magnet_pgd
from attacks.noise import noise
from attacks.pgd import pgd
from attacks.reference import MIN_CLASSES, autoattack_reference
from attacks.threat import NORMS, Threat
from attacks.transfer import CRAFTINGS, LABELS, transfer

Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class AttackEntry:
    """An attack of the registry, and what it asks of the model.

    `needs` is the protocol that a model must follow, or several of which one is enough. `verifies`: it proves as well
    as breaks, reads the judged model's own parts, and knows the `norms` only. `searches` attacks run on
    `attacks.search`: they schedule a unit's samples themselves, and may search in a cheaper copy since the true model
    confirms their claims. `whole_unit` attacks must see all samples of a unit at once, because their random numbers
    belong to the batch; a user's attack might be one. `choices` are the words a parameter may be. `later` names
    parameters that are younger than records: they are among a unit's only where they differ from the default, so that
    units without them keep their keys.
    """

    summary: str
    run: Callable[..., AttackResult]
    needs: type[Any] | UnionType = object
    norms: tuple[str, ...] = NORMS
    verifies: bool = False
    searches: bool = False
    whole_unit: bool = False
    min_classes: int = 2
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    later: tuple[str, ...] = ()


def clean(model: Classifier, x: Tensor, y: Tensor, threat: Threat, *, seed: int, sample_ids: Tensor) -> AttackResult:
    """No attack: the images as they are."""
    del model, y, threat, seed, sample_ids
    return AttackResult(x)


ATTACKS: dict[str, AttackEntry] = {
    "clean": AttackEntry("no attack", clean),
    "noise": AttackEntry("100 points uniform in the ball", functools.partial(noise, draws=100)),
    "transfer": AttackEntry(
        "10 steps of I-FGSM on a surrogate model; attack=pgd or cw, labels=predicted and step_size can be set, too",
        functools.partial(transfer, surrogate="nominal", steps=10),
        choices={"attack": tuple(CRAFTINGS), "labels": LABELS},
        later=("attack", "labels", "step_size"),
    ),
    "pgd20": AttackEntry(
        "PGD on cross entropy, 20 steps, 10 restarts",
        functools.partial(pgd, steps=20, restarts=10, step_size=None),
        searches=True,
    ),
    "pgd100": AttackEntry(
        "PGD on cross entropy, 100 steps, 10 restarts",
        functools.partial(pgd, steps=100, restarts=10, step_size=None),
        searches=True,
    ),
    "cw100": AttackEntry(
        "PGD on the margin loss, 100 steps, 10 restarts",
        functools.partial(pgd, steps=100, restarts=10, step_size=None, loss=margin, name="cw"),
        searches=True,
    ),
    "magnet100": AttackEntry(
        "PGD on the Magnet loss, 100 steps, 10 restarts",
        functools.partial(magnet_pgd, steps=100, restarts=10, step_size=None),
        needs=ClusteringClassifier,
        searches=True,
    ),
    "magnet100-published": AttackEntry(
        "the papers' Magnet attack, which masks its own gradients",
        functools.partial(magnet_pgd, steps=100, restarts=10, step_size=None, published=True, alpha=12.5),
        needs=ClusteringClassifier,
        searches=True,
    ),
    "autoattack": AttackEntry(
        "AutoAttack standard, complete", functools.partial(autoattack, parts=ENSEMBLES["standard"]), searches=True
    ),
    "autoattack-fast": AttackEntry(
        "AutoAttack's attacks, hopeless samples abandoned by a rule; not standard",
        functools.partial(autoattack, parts=ENSEMBLES["fast"]),
        searches=True,
    ),
    "screen": AttackEntry(
        "a verdict in seconds: short targeted APGD, hopeless samples abandoned; not standard",
        functools.partial(autoattack, parts=ENSEMBLES["screen"]),
        searches=True,
    ),
    "autoattack-plus": AttackEntry(
        "AutoAttack plus: more restarts and losses",
        functools.partial(autoattack, parts=ENSEMBLES["plus"]),
        searches=True,
    ),
    "autoattack-rand": AttackEntry(
        "AutoAttack for randomised models", functools.partial(autoattack, parts=ENSEMBLES["rand"]), searches=True
    ),
    "autoattack-reference": AttackEntry(
        "AutoAttack standard by pyautoattack, to compare with",
        autoattack_reference,
        whole_unit=True,
        min_classes=MIN_CLASSES,
    ),
    "exact": AttackEntry(
        "every sample decided: an image that breaks it, or a proof",
        exact,
        needs=NearestCentroidClassifier,
        norms=("linf", "l2"),
        verifies=True,
    ),
    "exact-radius": AttackEntry(
        "exact, and each sample's distance to the decision boundary",
        exact_radius,
        needs=NearestCentroidClassifier,
        norms=("linf", "l2"),
        verifies=True,
    ),
    "certify": AttackEntry(
        "Theorem 1 of ClusTR, for other networks Tsuzuku et al.'s margins, by a proven Lipschitz constant",
        certify,
        needs=Certifiable,
        verifies=True,
    ),
}

NEEDS: dict[type[Any] | UnionType, str] = {
    object: "any model",
    ClusteringClassifier: "a clustering classifier",
    Certifiable: "a clustering classifier whose backbone can be read, or a network and its last layer",
    NearestCentroidClassifier: "a nearest-centroid classifier in input space",
}


class AttackError(ValueError):
    """An attack that is unknown or given wrong parameters; the message is one line for a person."""


@dataclass(frozen=True)
class ResolvedAttack:
    """An attack ready to call, and the parameters that determine its result.

    `surrogate` names a model to be loaded and passed as the parameter `surrogate`.
    """

    name: str
    entry: AttackEntry
    params: dict[str, Scalar] = field(default_factory=dict)

    @property
    def surrogate(self) -> str | None:
        name = self.params.get("surrogate")
        return name if isinstance(name, str) else None


_FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def resolve(text: str) -> ResolvedAttack:
    """Read `NAME[@key=value,...]` or `package.module:function[@key=value,...]`.

    Numbers may be fractions, like step_size=2/255. Raises AttackError, one line, naming what is accepted.
    """
    name, _, assignments = text.partition("@")
    if name in ATTACKS:
        entry, fingerprint = ATTACKS[name], None
    elif _FUNCTION.fullmatch(name):
        entry, fingerprint = _import_attack(name)
    else:
        close = difflib.get_close_matches(name, ATTACKS)
        hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(ATTACKS)}"
        raise AttackError(f"unknown attack {name!r}; {hint} (or package.module:function)")
    defaults = _settable(entry.run)
    params = dict(defaults)
    for assignment in assignments.split(",") if assignments else []:
        key, _, value = assignment.partition("=")
        if key not in params or not value:
            accepted = ", ".join(f"{k}=..." for k in params) or "none"
            raise AttackError(f"attack {text}: cannot set {assignment!r}; accepted: {accepted}")
        params[key] = _parse(text, key, value, params[key], entry.choices.get(key))
    params = {key: value for key, value in params.items() if key not in entry.later or value != defaults[key]}
    if fingerprint is not None:
        params["source_sha256"] = fingerprint
    return ResolvedAttack(text, entry, params)


def call(attack: ResolvedAttack, surrogate: Classifier | None) -> Callable[..., AttackResult]:
    """The attack with its parameters bound, `surrogate` being the loaded model where one is named."""
    params: dict[str, Any] = {k: v for k, v in attack.params.items() if not k.endswith("_sha256")}
    if surrogate is not None:
        params["surrogate"] = surrogate
    return functools.partial(attack.entry.run, **params)


def _settable(function: Callable[..., AttackResult]) -> dict[str, Scalar]:
    """Keyword parameters with plain defaults; functions and the bound name of an attack are not for setting."""
    parameters = inspect.signature(function).parameters
    return {
        key: p.default
        for key, p in parameters.items()
        if p.kind is p.KEYWORD_ONLY
        and key not in ("seed", "sample_ids", "name")
        and (p.default is None or isinstance(p.default, (str, int, float, bool)))
    }


def _parse(attack: str, key: str, text: str, default: Scalar, choices: tuple[str, ...] | None) -> Scalar:
    """A value of the default's type, one of `choices`; a default of None stands for an optional positive number."""
    if choices is not None and text not in choices:
        raise AttackError(f"attack {attack}: {key} must be one of {', '.join(choices)}, got {text!r}")
    if isinstance(default, bool):
        if text not in ("true", "false"):
            raise AttackError(f"attack {attack}: {key} must be true or false, got {text!r}")
        return text == "true"
    if isinstance(default, str):
        return text
    kind: type[int] | type[float] = int if isinstance(default, int) else float
    try:
        numerator, _, denominator = text.partition("/")
        value = kind(numerator) / kind(denominator) if denominator else kind(numerator)
    except (ValueError, ZeroDivisionError):
        value = -1.0
    if not (0 < value < float("inf")) or (kind is int and value != int(value)):
        what = "a positive whole number" if kind is int else "a positive number or fraction"
        raise AttackError(f"attack {attack}: {key} must be {what}, got {text!r}")
    return kind(value)


def _import_attack(name: str) -> tuple[AttackEntry, str]:
    """A user's attack function, found on PYTHONPATH or in the working directory, and its source's checksum."""
    module_name, attribute = name.split(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise AttackError(f"attack {name}: no module named {error.name!r} on the Python path") from None
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise AttackError(f"attack {name}: importing {module_name} raised {reason}") from error
    function = getattr(module, attribute, None)
    if not callable(function):
        raise AttackError(f"attack {name}: {module_name} has no callable {attribute!r}")
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        raise AttackError(f"attack {name}: {attribute!r} has no signature to check; write a Python function") from None
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    missing = [k for k in ("seed", "sample_ids") if k not in parameters and not takes_any]
    if missing:
        raise AttackError(
            f"attack {name}: must be f(model, x, y, threat, *, seed, sample_ids), lacks {' and '.join(missing)}"
        )
    source = inspect.getsourcefile(module)
    digest = hashlib.sha256(Path(source).read_bytes() if source else b"").hexdigest()
    return AttackEntry(f"{name} (user)", function, whole_unit=True), digest
