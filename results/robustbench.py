"""RobustBench's leaderboards: what papers report, and what AutoAttack leaves, from `claims/robustbench.yaml`."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from results.claims import FOLDER, Percentage, Radius, read_checked

NAME = "robustbench"


class Entry(BaseModel):
    """A model of RobustBench, in percent: `reported` by its paper, left by `autoattack`, and by an `external`
    evaluation where RobustBench lists one; None where it prints nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_id: str
    dataset: str
    norm: Literal["linf", "l2"]
    eps: Radius
    architecture: str
    venue: str | None = None
    clean: Percentage
    reported: Percentage | None = None
    autoattack: Percentage
    external: Percentage | None = None
    additional_data: bool
    link: str

    @property
    def overclaimed(self) -> float | None:
        """Points by which AutoAttack is below what the paper reports."""
        return None if self.reported is None else self.reported - self.autoattack


class RobustBench(BaseModel):
    """`samples`: how many test images a number is taken on, by data set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    source: str
    samples: dict[str, Annotated[int, Field(ge=1)]]
    entries: tuple[Entry, ...]

    @model_validator(mode="after")
    def _samples_known(self) -> "RobustBench":
        unknown = sorted({entry.dataset for entry in self.entries} - set(self.samples))
        if unknown:
            raise ValueError(f"samples lacks {', '.join(unknown)}")
        return self

    def entry(self, dataset: str, norm: str, model_id: str) -> Entry:
        """The one of that name on that leaderboard; KeyError where there is none."""
        for entry in self.entries:
            if (entry.dataset, entry.norm, entry.model_id) == (dataset, norm, model_id):
                return entry
        raise KeyError((dataset, norm, model_id))


def read_robustbench(path: Path) -> RobustBench:
    """A file of RobustBench's entries, checked; ClaimsError names the file and the field."""
    return read_checked(path, RobustBench, Entry)


@cache
def load_robustbench() -> RobustBench:
    """The entries that ship."""
    return read_robustbench(FOLDER / f"{NAME}.yaml")


@dataclass(frozen=True)
class Counterpart:
    """A row of RobustBench that a paper's model is held against, on the data set of the claim.

    `same` says that both are the same weights; else the row is the method's, on another network.
    """

    model_id: str
    same: bool = False


COUNTERPARTS: Mapping[tuple[str, str], Counterpart] = {
    ("clustr", "clustr-qtrades"): Counterpart("Alfarra2020ClusTR", same=True),
    ("clustr", "nominal"): Counterpart("Standard"),
    ("clustr", "free-at"): Counterpart("Shafahi2019Adversarial"),
    ("clustr", "at-pretraining"): Counterpart("Hendrycks2019Using"),
    ("clustr", "trades"): Counterpart("Zhang2019Theoretically"),
}
"""By paper and model. RobustBench calls the network of ClusTR's row WideResNet-28-10 and the paper ResNet-18; the row
cites the paper, and its clean and reported accuracies are the paper's 91.03 and 74.04."""

QUOTED: Mapping[tuple[str, str, str], Counterpart] = {
    ("clustering-training", "1.0", "clustr-qtrades"): Counterpart("Alfarra2020ClusTR", same=True),
    ("clustering-training", "1.0", "trades"): Counterpart("Zhang2019Theoretically", same=True),
}
"""By paper, table and model: numbers that the paper quotes from RobustBench."""


def counterpart(paper: str, table: str | None, model: str) -> Counterpart | None:
    """The row for a claim's model, if RobustBench has one."""
    return QUOTED.get((paper, table or "", model)) or COUNTERPARTS.get((paper, model))
