"""Whether a run lost robustness against a baseline: sample by sample, and a gate that says so."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from results.baseline import AttackVerdicts, Baseline, BaselineError, Case
from results.notes import show_eps
from results.paired import Pair, holm, p_of_loss, pair
from results.records import Verdict

CLEAN, LOWER, UPPER, PROVES = "clean", "robust_lower", "robust_upper", " proves"
ABSENT = "nothing"


@dataclass(frozen=True)
class Gate:
    """What fails: by default a loss of more than `points` percentage points that chance does not explain at `alpha`.

    Chance: the exact McNemar test (McNemar 1947), one-sided, since a gain never fails and the side is named before the
    run; over all gated quantities of the run by Holm's correction (Holm 1979), so that a retrained model that is no
    worse fails with probability `alpha` at most, however many classifiers there are. This is the question where weights
    change: is the new model worse on images of this kind?

    `strict` asks another: did a verdict get worse? Verdicts are deterministic: the same code, weights, data and
    arithmetic give the same verdict for every sample, so that one newly broken sample is a fact about the commit,
    whatever was won elsewhere, and no test is due. It fails where more than `points` percent of the samples are newly
    lost, won ones not counted; `points` is then 0 unless it is given. Another processor or torch rounds otherwise and
    may flip samples on the boundary: that is what `points` is for where the baseline comes from another machine. With
    retrained weights some sample nearly always flips, and strict fails.

    Gated are clean accuracy, the worst case over all attacks (robust_upper) and what is proven (robust_lower).
    Single attacks are told, not gated: a sample that one attack newly breaks and another broke before costs nothing.
    """

    points: float = 1.0
    alpha: float = 0.05
    strict: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.points < 100:
            raise BaselineError(f"points must be in [0, 100), got {self.points:g}")
        if not 0 < self.alpha < 1:
            raise BaselineError(f"alpha must be in (0, 1), got {self.alpha:g}")

    def exceeded(self, lost: int, n: int) -> bool:
        """Whether `lost` of `n` samples are more than `points` percent; a loss of exactly that passes."""
        return 100 * lost > self.points * n * (1 + 1e-12)

    def smallest(self, n: int, comparisons: int) -> int:
        """How many samples must be newly lost, none won, before one quantity of `n` samples alone can fail."""
        beyond = math.floor(self.points * n * (1 + 1e-12) / 100) + 1
        return beyond if self.strict else max(beyond, math.ceil(math.log2(comparisons / self.alpha)))


@dataclass(frozen=True)
class Change:
    """One quantity of a classifier under one threat: `before` and `after` samples stand, or are proven.

    `found` compares the run with the baseline: `kept` samples are newly won, `lost` newly lost. `p` is one-sided;
    `adjusted` is p after Holm's correction, None where the quantity is told and not gated.
    """

    classifier: str
    dataset: str
    norm: str
    eps: float
    quantity: str
    before: int
    after: int
    found: Pair
    p: float
    newly_lost: tuple[int, ...]
    newly_won: tuple[int, ...]
    gated: bool
    adjusted: float | None = None
    failed: bool = False

    @property
    def points(self) -> float:
        """Run minus baseline, in percentage points."""
        return 100 * self.found.difference


@dataclass(frozen=True)
class Regression:
    """A run held against a baseline. `missing` and `added` are classifiers (with their threat) of one side alone.

    A missing classifier fails: what is no longer measured may have become anything. An added one has nothing to be
    held against. `notes` say what else differs: weights, commits, versions, arithmetic.
    """

    gate: Gate
    changes: tuple[Change, ...]
    missing: tuple[Case, ...]
    added: tuple[Case, ...]
    notes: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.missing and not any(change.failed for change in self.changes)

    @property
    def gated(self) -> tuple[Change, ...]:
        return tuple(change for change in self.changes if change.gated)


def regress(run: Baseline, baseline: Baseline, gate: Gate) -> Regression:
    """Hold a run against a baseline; BaselineError names the first field in which they cannot be compared."""
    _same_setting(run, baseline)
    here = {case.key: case for case in run.cases}
    there = {case.key: case for case in baseline.cases}
    both = [(here[key], there[key]) for key in there if key in here]
    for mine, its in both:
        _same_request(mine, its)
    changes = _judged([change for mine, its in both for change in _changes(mine, its)], gate)
    return Regression(
        gate=gate,
        changes=tuple(changes),
        missing=tuple(case for key, case in there.items() if key not in here),
        added=tuple(case for key, case in here.items() if key not in there),
        notes=tuple(_notes(run, baseline, both)),
    )


def _same_setting(run: Baseline, baseline: Baseline) -> None:
    """Refuse another protocol, and data or threats that the run does not have."""
    if run.protocol != baseline.protocol:
        raise _differs("protocol", run.protocol, baseline.protocol)
    described: list[tuple[str, Callable[[Case], object], Callable[[Case], str]]] = [
        ("data_sha256", lambda case: case.data_sha256, lambda case: f"{case.dataset} {case.data_sha256[:12]}"),
        ("norm", lambda case: (case.data_sha256, case.norm), lambda case: case.norm),
        ("eps", lambda case: (case.data_sha256, case.norm, case.eps), lambda case: f"{case.norm} {show_eps(case.eps)}"),
    ]
    for field, of, shown in described:
        if not {of(case) for case in baseline.cases} <= {of(case) for case in run.cases}:
            mine, its = (" and ".join(dict.fromkeys(map(shown, side.cases))) for side in (run, baseline))
            raise _differs(field, mine, its)


def _same_request(mine: Case, its: Case) -> None:
    """Refuse other samples, seeds, arithmetic or attacks: the verdicts would differ by them."""
    where = f" for {its.classifier}"
    if len(mine.clean) != len(its.clean):
        raise _differs("n", len(mine.clean), len(its.clean), where)
    if mine.samples != its.samples:
        raise _differs("sample_ids", _shown(mine.samples), _shown(its.samples), where)
    for field in ("seed", "search", "unit_size"):
        if getattr(mine, field) != getattr(its, field):
            raise _differs(field, getattr(mine, field), getattr(its, field), where)
    ours, theirs = _by_name(mine), _by_name(its)
    if ours.keys() != theirs.keys():
        present, wanted = (", ".join(_label(side, attack) for attack in side.attacks) for side in (mine, its))
        raise _differs("attacks", present, wanted, where)
    for name, attack in theirs.items():
        if ours[name].params != attack.params:
            now, before = ours[name].params, attack.params
            key = next(k for k in sorted({*now, *before}) if now.get(k, ABSENT) != before.get(k, ABSENT))
            of = f" for {_label(its, attack)}{where}"
            raise _differs(f"params.{key}", now.get(key, ABSENT), before.get(key, ABSENT), of)


def _differs(field: str, mine: object, its: object, where: str = "") -> BaselineError:
    return BaselineError(
        f"{field}: the run has {mine}, the baseline {its}{where}; run what the baseline has, or write a new one"
    )


def _changes(mine: Case, its: Case) -> Iterator[Change]:
    """The quantities of a classifier, in the leaderboard's order and under its names."""
    yield _change(mine, its, CLEAN, mine.clean, its.clean, _stands)
    ours = _by_name(mine)
    for proves in (False, True):
        for attack in its.attacks:
            if attack.proves is proves:
                label = _label(its, attack) + PROVES * proves
                verdicts = ours[attack.model, attack.attack].verdicts
                yield _change(mine, its, label, verdicts, attack.verdicts, _proven if proves else _stands, gated=False)
    if any(attack.proves for attack in its.attacks):
        yield _change(mine, its, LOWER, mine.worst, its.worst, _proven)
    yield _change(mine, its, UPPER, mine.worst, its.worst, _stands)


def _change(
    mine: Case, its: Case, quantity: str, now: str, before: str, holds: Callable[[Verdict], bool], gated: bool = True
) -> Change:
    ours = {sample: holds(verdict) for sample, verdict in mine.by_sample(now).items()}
    theirs = {sample: holds(verdict) for sample, verdict in its.by_sample(before).items()}
    found = pair(ours, theirs)
    return Change(
        classifier=its.classifier,
        dataset=its.dataset,
        norm=its.norm,
        eps=its.eps,
        quantity=quantity,
        before=sum(theirs.values()),
        after=sum(ours.values()),
        found=found,
        p=p_of_loss(found),
        newly_lost=tuple(sample for sample in ours if theirs[sample] and not ours[sample]),
        newly_won=tuple(sample for sample in ours if ours[sample] and not theirs[sample]),
        gated=gated,
    )


def _judged(changes: Sequence[Change], gate: Gate) -> list[Change]:
    """Holm's correction over the gated quantities, and the verdict on each."""
    adjusted = iter(holm([change.p for change in changes if change.gated]))
    judged = []
    for change in changes:
        if change.gated:
            p, lost = next(adjusted), change.found.lost
            failed = (
                gate.exceeded(lost, change.found.n)
                if gate.strict
                else gate.exceeded(lost - change.found.kept, change.found.n) and p <= gate.alpha
            )
            change = replace(change, adjusted=p, failed=failed)
        judged.append(change)
    return judged


def _notes(run: Baseline, baseline: Baseline, both: Sequence[tuple[Case, Case]]) -> Iterator[str]:
    """What differs between the two sides and explains a change, or cannot."""
    weights = {its.classifier: mine.weights_sha256 == its.weights_sha256 for mine, its in both}
    changed = [name for name, same in weights.items() if not same]
    same = [name for name, same in weights.items() if same]
    if changed:
        yield f"other weights than in the baseline: {', '.join(changed)}"
    if same:
        yield f"the baseline's weights: {', '.join(same)}; a changed verdict comes from code, versions or processor"
    if "," in run.commit:
        yield f"the run has units of several commits: {run.commit}"
    elif run.commit != baseline.commit:
        yield f"commit {baseline.commit or 'unknown'} in the baseline, {run.commit or 'unknown'} here"
    yield from _differences(baseline.versions, run.versions)
    yield from _differences({"machine": baseline.machine}, {"machine": run.machine})
    searched = {(mine.classifier, a.model, a.attack): a.searched for mine, _ in both for a in mine.attacks}
    for _, its in both:
        for attack in its.attacks:
            now = searched[its.classifier, attack.model, attack.attack]
            if now != attack.searched:
                where = f"{its.classifier}: {_label(its, attack)}"
                yield f"{where} searched in {attack.searched} in the baseline, in {now} here"


def _differences(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    for name in sorted({*before, *now}):
        if before.get(name) != now.get(name):
            yield f"{name} {before.get(name, 'none')} in the baseline, {now.get(name, 'none')} here"


def _by_name(case: Case) -> dict[tuple[str, str], AttackVerdicts]:
    return {(attack.model, attack.attack): attack for attack in case.attacks}


def _label(case: Case, attack: AttackVerdicts) -> str:
    """An attack, with the head it went through where that is another."""
    return attack.attack if attack.model == case.classifier else f"{attack.attack} on {attack.model}"


def _shown(ranges: Sequence[tuple[int, int]]) -> str:
    return ", ".join(f"{start}-{stop - 1}" for start, stop in ranges)


def _stands(verdict: Verdict) -> bool:
    return verdict in (Verdict.SURVIVED, Verdict.CERTIFIED)


def _proven(verdict: Verdict) -> bool:
    return verdict is Verdict.CERTIFIED
