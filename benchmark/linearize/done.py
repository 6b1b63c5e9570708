"""What an analysis has of its costly parts, kept as it goes: the same command goes on after a kill."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmark.linearize.rewrite import BatchNorm
from results.store import StoreError, write_whole

FILE = "done.json"
Count = Annotated[int, Field(ge=0)]


class Attacked(BaseModel):
    """Of the images attacked `right` were classified correctly; `counts[true][predicted]` of these no longer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    right: Count
    counts: tuple[tuple[Count, ...], ...]


class Done(BaseModel):
    """By model: S of its random initialisations in each mode, once all are computed, and what the attack did."""

    model_config = ConfigDict(extra="forbid")

    starts: dict[str, dict[BatchNorm, tuple[float, ...]]] = {}
    attacked: dict[str, Attacked] = {}


def read_done(folder: Path, starts: int, classes: int) -> Done:
    """What an earlier call with the same request left in its folder; StoreError for a file that is no such thing."""
    path = folder / FILE
    try:
        found = Done.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Done()
    except (OSError, ValidationError) as error:
        why = error.strerror if isinstance(error, OSError) else f"{error.errors()[0]['msg']}"
        raise StoreError(f"{path} cannot be used ({why}); remove it to compute everything again") from None
    whole = all(len(values) == starts for one in found.starts.values() for values in one.values()) and all(
        len(row) == len(one.counts) == classes for one in found.attacked.values() for row in (*one.counts, one.counts)
    )
    if not whole:
        raise StoreError(f"{path} is of another analysis; remove it to compute everything again")
    return found


def write_done(folder: Path, done: Done) -> None:
    write_whole(folder / FILE, (done.model_dump_json(indent=1) + "\n").encode())
