"""What `bench analyze linearize` found."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from results.clustering_effect import Effect, Matrix
from results.clustering_verdict import Mode, Verdict
from results.groups import Groups
from results.misled import Misled


@dataclass(frozen=True)
class Told:
    """About a linearisation: `check` the largest relative error of its self-check, `changes` counted in words."""

    bn: str
    check: str
    changes: str


@dataclass(frozen=True)
class Found:
    """One model. `head` is the effect in the rows of its classifier alone, mean taken out; `standard` names the model
    that it is held against; `distances` (classes, classes) are between class means of its true features on the first
    test images; `missing` says which controls could not be had and why."""

    model: str
    sha256: str
    told: tuple[Told, ...]
    modes: tuple[Mode, ...]
    verdict: Verdict
    head: Effect | None
    standard: str | None
    distances: Matrix | None
    misled: Misled
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Analysis:
    """`means` is the effect in the class-mean images of `images` test images, raw and with their mean taken out; None
    where a class has no image."""

    dataset: str
    images: int
    groups: Groups
    means: tuple[Effect, Effect] | None
    models: tuple[Found, ...]
    threat: str
    seed: int


def matrix_csv(matrix: NDArray[Any], names: Sequence[str], columns: Sequence[str] | None = None) -> str:
    """A line a class with its name; columns are named after classes too, if not otherwise."""
    import pandas as pd

    frame = pd.DataFrame(matrix, index=pd.Index(names, name="class"), columns=list(columns or names))
    return str(frame.to_csv(lineterminator="\n"))
