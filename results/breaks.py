"""Which attack broke what: per classifier, what each attack broke, what it alone broke, and which part won."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from results.leaderboard import classifier_of
from results.records import Classifier, UnitRecord, Verdict, WorkUnit


@dataclass(frozen=True)
class AttackBreaks:
    """One attack on one model as attacked.

    `alone`: samples that no other attack on the classifier broke, through any head; None until every planned unit is
    done. `winners` counts, by name, what broke a sample: the attack itself or a part of an ensemble. `done` of `n`
    samples were attacked.
    """

    model: str
    attack: str
    proves: bool
    n: int
    done: int
    broken: int
    alone: int | None
    winners: dict[str, int]

    def option(self, group: str) -> str:
        """The head that was attacked, where it is not the classifier's own."""
        return "" if self.model == group else self.model.removeprefix(group.partition("@")[0]).lstrip("@")


@dataclass(frozen=True)
class Breaks:
    """A classifier under one threat; `right` samples were classified correctly, `broken` of them by any attack.

    A verifier is among the `attacks` where it broke something.
    """

    group: str
    dataset: str
    norm: str
    eps: float
    n: int
    right: int | None
    broken: int
    complete: bool
    attacks: tuple[AttackBreaks, ...]


def breaks(units: Sequence[WorkUnit], records: Iterable[UnitRecord]) -> list[Breaks]:
    """The classifiers of a plan, in its order."""
    done = {record.key: record for record in records}
    planned: dict[Classifier, list[WorkUnit]] = defaultdict(list)
    for unit in units:
        planned[classifier_of(unit)].append(unit)
    return [_of_classifier(members, done) for members in planned.values()]


def _of_classifier(units: Sequence[WorkUnit], done: dict[str, UnitRecord]) -> Breaks:
    parts: dict[tuple[str, str], list[WorkUnit]] = defaultdict(list)
    for unit in units:
        parts[unit.model, unit.attack].append(unit)
    broken = {name: _broken(part, done) for name, part in parts.items() if name[1] != "clean"}
    times = Counter(sample for samples in broken.values() for sample in samples)
    complete = all(unit.key in done for unit in units)
    first = units[0]
    return Breaks(
        first.group,
        first.dataset,
        first.norm,
        first.eps,
        _samples(units),
        _right([unit for unit in units if unit.attack == "clean"], done),
        len(times),
        complete,
        tuple(
            AttackBreaks(
                model,
                attack,
                parts[model, attack][0].proves,
                _samples(parts[model, attack]),
                _samples([unit for unit in parts[model, attack] if unit.key in done]),
                len(samples),
                sum(times[sample] == 1 for sample in samples) if complete else None,
                dict(Counter(samples.values()).most_common()),
            )
            for (model, attack), samples in broken.items()
            if samples or not parts[model, attack][0].proves
        ),
    )


def _broken(units: Iterable[WorkUnit], done: dict[str, UnitRecord]) -> dict[int, str]:
    """The broken samples, each with the name of what broke it."""
    return {
        sample: winner or unit.attack
        for unit in units
        if (record := done.get(unit.key)) is not None
        for sample, verdict, winner in zip(record.sample_ids, record.verdicts, record.winners, strict=True)
        if verdict is Verdict.BROKEN
    }


def _right(units: Sequence[WorkUnit], done: dict[str, UnitRecord]) -> int | None:
    """How many samples are right before any attack; None until that is known of all."""
    if not units or any(unit.key not in done for unit in units):
        return None
    wrong = {
        sample
        for unit in units
        for sample, verdict in zip(done[unit.key].sample_ids, done[unit.key].verdicts, strict=True)
        if verdict is Verdict.MISCLASSIFIED
    }
    return _samples(units) - len(wrong)


def _samples(units: Sequence[WorkUnit]) -> int:
    return len({sample for unit in units for sample in range(unit.start, unit.stop)})
