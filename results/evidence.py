"""Measured numbers that a published one can be held against: from rows of a run, or from committed tables."""

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from results.aggregate import Proportion, verdicts_by_sample
from results.leaderboard import Row, leaderboard
from results.planned import check_plan
from results.probed import read_diagnosis
from results.records import UnitRecord, Verdict
from results.store import Store, StoreError
from results.trust import Grade, Trust

HOME = Path(__file__).parent.parent
COMMITTED = ("results/leaderboards", "results/reproduced")

JUDGED, PAPERS = "", "scores"
"""Heads: the one that predictions are judged by, and the raw class sums of the papers' evaluation."""


LABELS = {
    "clean": "clean",
    "reported": "reported",
    "pgd20": "PGD-20",
    "pgd100": "PGD-100",
    "magnet100": "Magnet-100",
    "magnet100-published": "Magnet-100 as published",
    "transfer": "transfer",
    "autoattack": "AutoAttack",
    "autoattack-plus": "AutoAttack plus",
    "autoattack-reference": "AutoAttack (pyautoattack)",
    "external": "an external evaluation",
    "exact": "the exact verifier",
    "exact-radius": "the exact verifier",
}
"""Attacks, and fields of claims, as people call them."""


@dataclass(frozen=True)
class Figure:
    """`share` of the samples stands under `attack`, a name with its options, that saw the model through `head`.

    `stands` says it of each sample, where records are at hand.
    """

    attack: str
    share: Proportion
    head: str = JUDGED
    stands: Mapping[int, bool] | None = None

    @property
    def kind(self) -> str:
        """The attack without its options."""
        return self.attack.partition("@")[0]

    @property
    def options(self) -> frozenset[str]:
        """The names of the options it was given."""
        return frozenset(part.partition("=")[0] for part in self.attack.partition("@")[2].split(",") if part)


@dataclass(frozen=True)
class Evidence:
    """What is measured of one classifier under one threat.

    `model` is its name, with D where it is set; `upper` stands after all attacks together, `lower` is proven.
    `authors` marks the authors' own weights, measured by others; `remark` is what a reader must know of the conditions.
    `trust` is the grade of `upper`, None where nobody graded it.
    """

    source: str
    model: str
    dataset: str
    norm: str
    eps: float
    n: int
    clean: Proportion | None = None
    figures: tuple[Figure, ...] = ()
    upper: Proportion | None = None
    lower: Proportion | None = None
    architecture: str | None = None
    authors: bool = False
    remark: str = ""
    trust: Grade | None = None

    @property
    def nearest(self) -> int | None:
        """D, where the name says it."""
        _, found, text = self.model.rpartition("nearest=")
        return int(text.partition(",")[0]) if found else None


def label(figure: Figure) -> str:
    """An attack by its name for people, and the head it saw where that is not the judged one."""
    heads = {JUDGED: "", PAPERS: " through the paper's head", "unmasked": " without the mask of the D nearest"}
    return LABELS.get(figure.kind, figure.attack) + heads.get(figure.head, f" ({figure.head})")


def told(share: Proportion) -> str:
    """Percent with its 95 % interval."""
    return f"{100 * share.value:.2f} % ({100 * share.low:.1f}–{100 * share.high:.1f})"


Architectures = Callable[[str], str | None]
"""The architecture of a classifier by its name, None where it is not known."""

Stands = Mapping[tuple[str, str, str, str, float], Mapping[int, bool]]
"""Whether each sample stands, by model as attacked, attack, data set, norm and eps."""


def from_rows(
    rows: Iterable[Row], source: str, architectures: Architectures, stands: Stands | None = None
) -> list[Evidence]:
    """One piece of evidence a classifier and threat; rows that differ in the head alone become one."""
    groups: dict[tuple[str, str, str, float, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.group, row.dataset, row.norm, row.eps, row.n), []).append(row)
    found = []
    for (group, dataset, norm, eps, n), members in groups.items():
        first = members[0]
        figures = [
            Figure(
                attack,
                share,
                _head(row.model, group),
                (stands or {}).get((row.model, attack, dataset, norm, eps)),
            )
            for row in members
            for attack, share in row.attacks.items()
        ]
        found.append(
            Evidence(
                source=source,
                model=_name(group),
                dataset=dataset,
                norm=norm,
                eps=eps,
                n=n,
                clean=next((row.clean for row in members if row.clean is not None), None),
                figures=tuple(figures),
                upper=first.robust_upper,
                lower=first.robust_lower,
                architecture=architectures(group),
                trust=first.trust.grade if first.trust else None,
            )
        )
    return found


def _name(group: str) -> str:
    """A weight file goes by its stem, a RobustBench model and a factory by what they are called."""
    base, suffix, options = group.partition(".safetensors")
    return Path(base).name + options if suffix else group


def _head(model: str, group: str) -> str:
    """The head among a model's options, and whether the mask is off; empty for the judged head."""

    def options(name: str) -> set[str]:
        return set(name.rpartition(".safetensors")[2].partition("@")[2].split(",")) - {""}

    named = options(model) - options(group) - {"log_sum_exp"}
    return ",".join(sorted(option for option in named if "=" not in option))


def from_runs(folders: Sequence[Path], architectures: Architectures) -> list[Evidence]:
    """What complete runs measured, all under one protocol; StoreError, one line, for others."""
    read = [(folder, Store(folder)) for folder in folders]
    plans = {folder: store.read_plan() for folder, store in read}
    protocols = sorted({unit.protocol for units in plans.values() for unit in units})
    if len(protocols) > 1:
        raise StoreError(
            f"{', '.join(map(str, folders))}: verdicts cannot mix protocols {', '.join(map(str, protocols))}; "
            "run again what is older"
        )
    found: list[Evidence] = []
    for folder, store in read:
        units = plans[folder]
        records = store.read(units)
        if not units or len(records) < len(units):
            raise StoreError(
                f"{folder} is incomplete: {len(records)} of {len(units)} units are done; the same bench run goes on"
            )
        rows = leaderboard(units, records, read_diagnosis(folder).findings)
        check_plan(folder, units)
        found += from_rows(rows, str(folder), architectures, _stands(records))
    return found


def _stands(records: Iterable[UnitRecord]) -> Stands:
    parts: dict[tuple[str, str, str, str, float], list[UnitRecord]] = {}
    for record in records:
        unit = record.unit
        parts.setdefault((unit.model, unit.attack, unit.dataset, unit.norm, unit.eps), []).append(record)
    return {
        about: {
            sample: verdict in (Verdict.SURVIVED, Verdict.CERTIFIED)
            for sample, verdict in verdicts_by_sample(members).items()
        }
        for about, members in parts.items()
    }


def committed(architectures: Architectures) -> list[Evidence]:
    """What the tables that ship say."""
    return [
        piece
        for folder in COMMITTED
        for path in sorted((HOME / folder).glob("*.csv"))
        for piece in from_rows(read_rows(path), f"{folder}/{path.name}", architectures)
    ]


_ABOUT = frozenset({"rank", "model", "group", "dataset", "norm", "eps", "n", "done", "flags"})
_WHOLE = ("clean", "robust_upper", "robust_lower")


def read_rows(path: Path) -> list[Row]:
    """The rows of a `leaderboard.csv`; StoreError, one line, for a file that is none or whose rows are incomplete."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file))
        rows = [_row(line) for line in lines]
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{path} is not the CSV of a leaderboard: {' '.join(str(error).split())}") from None
    unfinished = [row.model for row in rows if row.done < row.n or row.robust_upper is None]
    if unfinished:
        raise StoreError(f"{path} is incomplete: {', '.join(unfinished)}")
    return rows


def _row(line: Mapping[str, str]) -> Row:
    """Verifiers' columns ("exact_proves") repeat what robust_lower holds."""
    n = int(line["n"])
    named = [name for name in line if name not in _ABOUT and f"{name}_low" in line and f"{name}_high" in line]
    shares = {
        name: Proportion(float(line[name]), float(line[f"{name}_low"]), float(line[f"{name}_high"]), n)
        for name in named
        if line[name] != ""
    }
    clean, upper, lower = (shares.pop(name, None) for name in _WHOLE)
    return Row(
        model=line["model"],
        group=line["group"],
        dataset=line["dataset"],
        norm=line["norm"],
        eps=float(line["eps"]),
        n=n,
        done=int(line["done"]),
        rank=int(line["rank"]) if line["rank"] else None,
        clean=clean,
        attacks={name: share for name, share in shares.items() if not name.endswith("_proves")},
        robust_upper=upper,
        robust_lower=lower,
        flags=line["flags"].split("; ") if line["flags"] else [],
        trust=Trust(Grade(line["trust"]), "as the table says") if line.get("trust") else None,  # older ones lack it
    )
