"""Configuration files and command-line options to one frozen object; every error is one line."""

import difflib
import hashlib
import json
import math
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from benchmark.errors import RequestError

CONFIGS = Path(__file__).parent / "configs"


def parse_eps(value: object) -> float:
    """A radius from a number, "0.031" or "8/255"; ValueError says what is accepted."""
    text = str(value).strip()
    numerator, slash, denominator = text.partition("/")
    try:
        eps = float(numerator) / float(denominator) if slash else float(numerator)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f'must be a number or a fraction like "8/255", got {text!r}') from None
    if not (eps > 0 and math.isfinite(eps)):
        raise ValueError(f"must be positive, got {text}")
    return eps


class ThreatConfig(BaseModel):
    """A norm and a radius in input units (images are in [0, 1])."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    norm: Literal["linf", "l2", "l1"] = "linf"
    eps: Annotated[float, BeforeValidator(parse_eps)]

    @model_validator(mode="after")
    def _in_range(self) -> "ThreatConfig":
        if self.norm == "linf" and self.eps > 1:
            meant = f'; did you mean "{self.eps:g}/255"?' if self.eps <= 255 else ""
            raise ValueError(f"eps must be in (0, 1] for linf, got {self.eps:g}{meant}")
        return self


class RunConfig(BaseModel):
    """All that a run is asked to do.

    `unit_size` samples form a unit of work: what a kill can lose, and the batch that a whole-batch attack
    (pyautoattack) sees. `batch_size` samples are attacked at a time: it changes memory, not numbers. `search`
    "auto" lets attacks search in a bfloat16 copy where the processor has bfloat16; "float32" does not.
    `skip_certified`: attacks leave alone the samples that a verifier of the same run proves.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: Annotated[tuple[str, ...], Field(min_length=1)]
    dataset: str = "fashion-mnist"
    samples: Annotated[int, Field(ge=1)] = 200
    threats: Annotated[tuple[ThreatConfig, ...], Field(min_length=1)]
    attacks: Annotated[tuple[str, ...], Field(min_length=1)]
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    unit_size: Annotated[int, Field(ge=1)] = 200
    search: Literal["auto", "float32"] = "auto"
    skip_certified: bool = True
    batch_size: Annotated[int, Field(ge=1)] = 250
    device: str = "auto"
    workers: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _without_repeats(self) -> "RunConfig":
        for name in ("models", "attacks", "threats"):
            values = getattr(self, name)
            if len(set(values)) != len(values):
                twice = next((value for value in values if values.count(value) > 1 and isinstance(value, str)), None)
                raise ValueError(f"{name} names one entry twice" + (f": {twice}" if twice else ""))
        return self

    def identity(self) -> dict[str, Any]:
        """The part that numbers depend on, as plain data."""
        return self.model_dump(mode="json", exclude={"batch_size", "device", "workers"})

    def fingerprint(self) -> str:
        """A short name for the identity."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:8]


def read_config(name: str) -> dict[str, Any]:
    """The content of a shipped configuration (quick, full) or of a YAML file."""
    shipped = {path.stem: path for path in sorted(CONFIGS.glob("*.yaml"))}
    path = shipped.get(name, Path(name))
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        hint = difflib.get_close_matches(name, shipped)
        meant = f"; did you mean {hint[0]}?" if hint else f"; shipped: {', '.join(shipped)}, or a YAML file"
        raise RequestError(f"no configuration {name!r}{meant}") from None
    except yaml.YAMLError as error:
        raise RequestError(f"configuration {path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise RequestError(f"configuration {path} must be a mapping of fields to values")
    return content


def build_config(content: dict[str, Any], overrides: dict[str, Any]) -> RunConfig:
    """A RunConfig from file content and options (None: not given); RequestError names the field."""
    given = {key: value for key, value in overrides.items() if value is not None}
    try:
        return RunConfig.model_validate(content | given)
    except ValidationError as error:
        raise RequestError(_one_line(error, given)) from None


def _one_line(error: ValidationError, options: Collection[str]) -> str:
    """`options` are the fields that options gave, and whose values are told as theirs."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["loc"] and first["loc"][0] in options:
        where = _option(first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        known = ", ".join(ThreatConfig.model_fields if first["loc"][0] == "threats" else RunConfig.model_fields)
        return f"unknown field {where!r}; known: {known}"
    got = "" if first["type"] == "value_error" else f", got {first['input']!r}"
    return f"{where}: {message}{got}" if where else message


def _option(place: tuple[int | str, ...]) -> str:
    """The option that gave a value: --norm and --eps make the threats, and lists are of an option that is repeated."""
    field = str(place[0])
    if field == "threats":
        return f"--{place[2]}" if len(place) > 2 else "--eps"
    return f"--{field.removesuffix('s') if field in ('models', 'attacks') else field.replace('_', '-')}"
