"""Results of long experiments that are kept: `results/kept/PAPER.json`, printed in seconds, made again on request."""

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from results.records import PROTOCOL
from results.store import StoreError

FOLDER = Path(__file__).parent / "kept"


class KeptError(StoreError):
    """A file of kept results that is missing or wrong; the message is one line and names the file."""


class KeptModel(BaseModel):
    """A trained model, as its card tells: accuracies are fractions, `command` trains it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    recipe: str
    dataset: str
    seed: int
    settings: dict[str, Any]
    command: str
    minutes: float
    machine: str
    validation_accuracy: float
    clean_accuracy: float | None = None
    clean_samples: int | None = None
    clusters: int | None = None
    notes: tuple[str, ...]
    sha256: str


class KeptMeasurement(BaseModel):
    """One attack on one model under one threat: `stands` of the first `n` test images are right and unbroken.

    `model` and the surrogate within `attack` are keys of models. `certified` counts proven samples, of verifiers alone;
    `missed` how many of those that `exact` breaks stand here.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    attack: str
    norm: str
    eps: Annotated[float, Field(gt=0)]
    n: Annotated[int, Field(ge=1)]
    stands: Annotated[int, Field(ge=0)]
    certified: int | None = None
    missed: int | None = None


class KeptRadii(BaseModel):
    """Proven robust accuracy at every eps of a ladder, and the median radius; exact where `attack` is exact-radius."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    attack: str
    norm: str
    n: Annotated[int, Field(ge=1)]
    robust: dict[str, int]
    median: float | None = None


class Kept(BaseModel):
    """What an experiment left. `protocol` is that of the records: numbers of two protocols are not mixed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    protocol: int
    models: tuple[KeptModel, ...] = ()
    measured: tuple[KeptMeasurement, ...] = ()
    radii: tuple[KeptRadii, ...] = ()

    def text(self) -> str:
        """JSON with a line for each entry, in an order of its own, so that two files can be compared."""
        content = self.model_dump(mode="json", exclude_none=True)
        parts = [f'"protocol": {self.protocol}']
        for name in ("models", "measured", "radii"):
            lines = sorted(json.dumps(entry, sort_keys=True) for entry in content[name])
            parts.append(f'"{name}": [\n' + ",\n".join(lines) + "\n]")
        return "{\n" + ",\n".join(parts) + "\n}\n"


def read_kept(path: Path) -> Kept:
    """A file of kept results, checked; KeptError for one that is damaged or of another protocol than this version's."""
    try:
        kept = Kept.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        raise KeptError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except (OSError, ValueError) as error:
        raise KeptError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if kept.protocol != PROTOCOL:
        raise KeptError(f"{path} was made under protocol {kept.protocol}, this version judges by {PROTOCOL}")
    return kept


def shipped(paper: str) -> Kept | None:
    """The results of a paper's experiments that ship, if any do."""
    path = FOLDER / f"{paper}.json"
    return read_kept(path) if path.exists() else None
