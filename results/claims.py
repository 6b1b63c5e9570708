"""Published numbers, one file a paper under `results/claims/`: what measurements are held against."""

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from results.printable import has_controls

FOLDER = Path(__file__).parent / "claims"

MOST_BYTES = 1_000_000
"""Larger files are refused: RobustBench's rows, the largest that ships, take a twentieth."""

Content = TypeVar("Content", bound=BaseModel)


class ClaimsError(ValueError):
    """A file of claims that is missing or wrong; the message is one line and names the field."""


def _radius(value: object) -> object:
    """A number, or the value of a fraction written as text like "8/255"."""
    if not isinstance(value, str):
        return value
    numerator, slash, denominator = value.partition("/")
    try:
        return float(numerator) / float(denominator) if slash else float(numerator)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f'must be a number or a fraction like "8/255", got {value!r}') from None


def _no_truth(value: object) -> object:
    """YAML's true is 1 to pydantic."""
    if isinstance(value, bool):
        raise ValueError(f"must be a number, got {str(value).lower()}")
    return value


def _one_line(value: str) -> str:
    text = value.strip()
    if has_controls(text):
        raise ValueError(f"must be one line without control characters, got {text[:40]!r}")
    return text


Percentage = Annotated[float, Field(ge=0, le=100), BeforeValidator(_no_truth)]
Radius = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(_radius), BeforeValidator(_no_truth)]
Count = Annotated[int, Field(ge=1, le=10**9), BeforeValidator(_no_truth)]
Name = Annotated[str, AfterValidator(_one_line)]
"""What is printed in tables as it is."""


class Claim(BaseModel):
    """What a source prints of one model, in percent; None where it prints nothing.

    `table` is where it stands. A `_min` or `_max` is the end of a range that the source states instead of a number.
    `eps` is the paper's own where it is None; `nearest` is D.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: Name
    model: Name
    table: Name | None = None
    eps: Radius | None = None
    nearest: Count | None = None
    clean: Percentage | None = None
    clean_min: Percentage | None = None
    clean_max: Percentage | None = None
    pgd20: Percentage | None = None
    pgd100: Percentage | None = None
    magnet100: Percentage | None = None
    autoattack: Percentage | None = None
    autoattack_max: Percentage | None = None
    transfer: Percentage | None = None
    note: str | None = None

    @model_validator(mode="after")
    def _states_something(self) -> "Claim":
        if not any(getattr(self, name) is not None for name in PERCENTAGES):
            raise ValueError(f"states none of {', '.join(PERCENTAGES)}")
        if self.clean_min is not None and self.clean_max is not None and self.clean_min > self.clean_max:
            raise ValueError(f"clean_min {self.clean_min:g} is above clean_max {self.clean_max:g}")
        return self


PERCENTAGES = tuple(
    name for name in Claim.model_fields if name not in ("dataset", "model", "table", "eps", "nearest", "note")
)


class Paper(BaseModel):
    """A source, its protocol as far as it is known, and its claims.

    `samples` is how many test images its numbers are taken on, `backbone` its network; None where it states none.
    `training_minutes_on_a_gtx_1080ti` holds minutes by data set and model; `further_claims` are sentences.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: Name
    source: Name
    backbone: Name | None = None
    setting: str | None = None
    samples: Count | None = None
    eps: Radius | None = None
    norm: Literal["linf", "l2", "l1"] | None = None
    claims: tuple[Claim, ...]
    further_claims: tuple[str, ...] = ()
    training_minutes_on_a_gtx_1080ti: dict[str, dict[str, Annotated[float, Field(gt=0)]]] = {}
    protocol_note: str | None = None
    hyper_parameters: dict[str, dict[str, float]] = {}

    def of(self, *tables: str) -> tuple[Claim, ...]:
        """The claims of these tables."""
        return tuple(claim for claim in self.claims if claim.table in tables)


def papers() -> tuple[str, ...]:
    """The papers with claims, by name; RobustBench's leaderboards have a form of their own (`results.robustbench`)."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem != "robustbench"))


@cache
def load_claims(paper: str) -> Paper:
    """The claims of a paper that ships; ClaimsError for an unknown one."""
    if paper not in papers():
        raise ClaimsError(f"paper must be one of {', '.join(papers())}, got {paper!r}")
    return read_claims(FOLDER / f"{paper}.yaml")


def read_claims(path: Path) -> Paper:
    """A file of claims, checked; ClaimsError names the file and the field."""
    return read_checked(path, Paper, Claim)


def read_checked(path: Path, kind: type[Content], entry: type[BaseModel]) -> Content:
    """A YAML file of published numbers, whose list holds entries of the second type."""
    try:
        with path.open("rb") as file:
            payload = file.read(MOST_BYTES + 1)
        if len(payload) > MOST_BYTES:
            raise ClaimsError(f"claims {path} is refused: it has more than {MOST_BYTES:,} bytes")
        text = payload.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ClaimsError(f"claims {path} cannot be read: {error}") from None
    try:
        content: Any = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, AttributeError) as error:  # dates that are none end in the latter two
        raise ClaimsError(f"claims {path} is not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ClaimsError(f"claims {path} is refused: it is nested too deep") from None
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        errors = error.errors()
        first = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])  # a typo explains others
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        if first["type"] == "extra_forbidden":
            known = entry.model_fields if len(first["loc"]) > 1 else kind.model_fields
            raise ClaimsError(f"claims {path}: unknown field {where}; known: {', '.join(known)}") from None
        raise ClaimsError(f"claims {path}: {where}: {first['msg'].removeprefix('Value error, ')}") from None
