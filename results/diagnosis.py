"""The checks that need nothing but records: attacks held against one another, sample by sample.

Sources: Carlini et al. 2019 (white-box at least as strong as black-box per sample, more steps change nothing, robust
accuracy does not rise with eps) and AutoAttack's own flag (Square after white-box).
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from results.aggregate import standing, verdicts_by_sample
from results.findings import NOT_CHECKED, Finding, Severity, read_flag, without_repeats
from results.flags import merged
from results.records import MODEL_CHECKS, Classifier, UnitRecord, Verdict, WorkUnit
from results.trust import GRADIENT_FREE, is_white_box

SQUARE_HELPED = 0.2
"""Points by which Square may lower robust accuracy after white-box attacks (pyautoattack's check_square_sr)."""
LEVEL = 0.05
"""Of the exact one-sided McNemar test that more steps break more."""

Records = Sequence[UnitRecord]
Samples = frozenset[int]


def findings(units: Sequence[WorkUnit], records: Iterable[UnitRecord]) -> dict[Classifier, list[Finding]]:
    """What the records of each planned classifier tell, the gravest first.

    A classifier with units that are not done has contradictions and what its flags say, no comparisons of attacks.
    """
    planned: dict[Classifier, list[WorkUnit]] = defaultdict(list)
    for unit in units:
        planned[unit.classifier].append(unit)
    done: dict[Classifier, list[UnitRecord]] = defaultdict(list)
    for record in records:
        done[record.unit.classifier].append(record)
    complete = {about for about, members in planned.items() if len(done[about]) == len(members)}
    found: dict[Classifier, list[Finding]] = {
        about: [*_flagged(done[about]), *_not_checked(done[about])] for about in planned
    }
    for about in complete:
        members = done[about]
        found[about] += [
            *_guessing(members),
            *_beaten(members),
            *_stopped_early(members),
            *_without_white_box(members),
        ]
    for about, finding in (*_ladders({about: done[about] for about in complete}), *_contradictions(done)):
        found[about].append(finding)
    return {about: without_repeats(members) for about, members in found.items()}


def undecided(records: Iterable[UnitRecord]) -> int:
    """Samples of one classifier that nothing broke and nothing proves."""
    verdicts: dict[int, set[Verdict]] = defaultdict(set)
    for record in records:
        for sample, verdict in zip(record.sample_ids, record.verdicts, strict=True):
            verdicts[sample].add(verdict)
    return sum(seen == {Verdict.SURVIVED} for seen in verdicts.values())


def _by_attack(records: Records) -> dict[tuple[str, str], list[UnitRecord]]:
    """Records of one attack on one model as attacked."""
    parts: dict[tuple[str, str], list[UnitRecord]] = defaultdict(list)
    for record in records:
        parts[record.unit.model, record.unit.attack].append(record)
    return parts


def _flagged(records: Records) -> list[Finding]:
    """The flags that attacks and models left."""
    told = []
    for (model, attack), members in _by_attack(records).items():
        told += [read_flag(flag, model, attack) for flag in merged(record.flags for record in members)]
    attacks = {record.unit.attack for record in records}
    if "autoattack-rand" in attacks:  # its gradients are means over draws; what judges is still one draw
        told = [
            f.model_copy(update={"severity": Severity.FLATTERS})
            if f.check == "randomised" and f.severity is Severity.VOID
            else f
            for f in told
        ]
    return told


def _not_checked(records: Records) -> list[Finding]:
    """Whether no record says that the model itself was checked: older ones never do."""
    if not records or any(MODEL_CHECKS in record.provenance.versions for record in records):
        return []
    seen = "no record says that the model itself was checked"
    return [_finding(NOT_CHECKED, Severity.NOTE, records, None, None, None, seen)]


def _guessing(records: Records) -> list[Finding]:
    """Clean accuracy that the most frequent class alone would reach."""
    labels = {s: label for r in records for s, label in zip(r.sample_ids, r.labels, strict=True)}
    wrong = {s for r in records for s, v in verdicts_by_sample([r]).items() if v is Verdict.MISCLASSIFIED}
    most = max(Counter(labels.values()).values(), default=0)
    right, n = len(labels) - len(wrong), len(labels)
    if len(set(labels.values())) < 2 or right > most:
        return []
    seen = f"{right} of {n} samples are classified correctly, and {most} are of the most frequent class"
    return [_finding("guessing", Severity.FLATTERS, records, None, right, n, seen)]


def _beaten(records: Records) -> list[Finding]:
    """Samples that attacks without gradients broke and no attack with gradients did, through any head."""
    parts = _by_attack(records)
    n = len({sample for record in records for sample in record.sample_ids})
    seen_white: set[int] = set()
    squares: set[int] = set()
    free: dict[str, set[int]] = defaultdict(set)
    white = False
    for (_, attack), members in parts.items():
        for record in members:
            if record.unit.proves:
                continue
            base = attack.partition("@")[0]
            for sample, winner in zip(record.sample_ids, record.winners, strict=True):
                if winner is None:
                    continue
                if base in GRADIENT_FREE:
                    free[base].add(sample)
                elif winner == "square":
                    squares.add(sample)
                else:
                    seen_white.add(sample)
            white = white or is_white_box(attack)
    if not white:
        return []
    found = []
    alone = squares - seen_white
    if 100 * len(alone) > SQUARE_HELPED * n:
        seen = f"Square broke {len(alone)} of {n} samples that gradients had left standing"
        found.append(_finding("square-beats-white-box", Severity.FLATTERS, records, None, len(alone), n, seen))
    for base, broken in free.items():
        alone = broken - seen_white
        if alone:
            seen = f"{base} broke {len(alone)} of {n} samples that no attack by gradients broke"
            found.append(_finding(f"{base}-beats-white-box", Severity.FLATTERS, records, None, len(alone), n, seen))
    return found


def _stopped_early(records: Records) -> list[Finding]:
    """Attacks of which a longer one of the same kind broke significantly more."""
    parts = _by_attack(records)
    found = []
    for (model, attack), members in parts.items():
        for (other_model, longer), others in parts.items():
            if model != other_model or not _longer(others[0].unit, members[0].unit):
                continue
            short, long = (broken_by(part) for part in (members, others))
            more, less = len(long - short), len(short - long)
            if one_sided(more, less) <= LEVEL:
                n = sum(len(record.sample_ids) for record in members)
                seen = f"{longer} broke {more} of {n} samples that it left standing, and left {less} that it broke"
                found.append(
                    Finding(
                        check="stopped-early",
                        severity=Severity.BLIND,
                        model=model,
                        attack=attack,
                        count=more,
                        n=n,
                        seen=seen,
                    )
                )
    return found


def _longer(one: WorkUnit, other: WorkUnit) -> bool:
    """Whether one is the other attack with more steps or restarts, and no less of either."""
    if _family(one.attack) != _family(other.attack) or one.params.keys() != other.params.keys():
        return False
    counts = ("steps", "restarts")
    if any(one.params[key] != other.params[key] for key in one.params if key not in counts):
        return False
    pairs = [(one.params.get(key), other.params.get(key)) for key in counts]
    known = [(a, b) for a, b in pairs if isinstance(a, int) and isinstance(b, int)]
    return bool(known) and all(a >= b for a, b in known) and any(a > b for a, b in known)


def _family(attack: str) -> str:
    """pgd20 and pgd100 are one attack; an option after @ is a parameter."""
    return re.sub(r"(?<=[a-z])\d+$", "", attack.partition("@")[0])


def one_sided(more: int, less: int) -> float:
    """The exact McNemar test: how often a fair coin would fall to one side at least as often as `more`."""
    apart = more + less
    return sum(math.comb(apart, k) for k in range(more, apart + 1)) / 2**apart if apart else 1.0


def _without_white_box(records: Records) -> list[Finding]:
    attacks = sorted({record.unit.attack for record in records if not record.unit.proves})
    if any(is_white_box(attack) for attack in attacks):
        return []
    others = ", ".join(attack for attack in attacks if attack != "clean")
    seen = f"no attack by gradients was run{f', only {others}' if others else ''}"
    return [_finding("no-white-box", Severity.FLATTERS, records, None, None, None, seen)]


def _ladders(complete: Mapping[Classifier, Records]) -> list[tuple[Classifier, Finding]]:
    """Samples broken at a smaller eps that stand at a larger one: of a classifier, and of single attacks."""
    ladders: dict[tuple[str, ...], list[Classifier]] = defaultdict(list)
    for about in complete:
        ladders[about[:-1]].append(about)
    found = []
    for ladder in ladders.values():
        ladder.sort(key=lambda about: about[-1])
        smaller: dict[int, float] = {}
        for about in ladder:
            records = complete[about]
            broken, tried = broken_by(records), {s for r in records for s in r.sample_ids}
            stands = {s for s in smaller if s in tried and s not in broken}
            if stands:
                at = f"{min(smaller[s] for s in stands):.4g}"
                seen = (
                    f"{len(stands)} of {len(tried)} samples stand at eps {about[-1]:.4g} that were broken at eps {at}"
                )
                found.append(
                    (about, _finding("eps-ladder", Severity.FLATTERS, records, None, len(stands), len(tried), seen))
                )
            smaller = dict.fromkeys(broken, about[-1]) | smaller
        found += _ladders_of_attacks(
            [(about, complete[about]) for about in sorted(ladder, key=lambda about: about[-1])]
        )
    return found


def _ladders_of_attacks(ladder: Sequence[tuple[Classifier, Records]]) -> list[tuple[Classifier, Finding]]:
    """Attacks alone: their robust accuracy must not rise with eps; one sample for another is chance."""
    found = []
    before: dict[tuple[str, str], tuple[float, Samples, int]] = {}
    for about, records in ladder:
        for (model, attack), members in _by_attack(records).items():
            if attack == "clean" or members[0].unit.proves:
                continue
            verdicts = verdicts_by_sample(members)
            left, broken = standing(verdicts), broken_by(members)
            eps, earlier, least = before.get((model, attack), (0.0, frozenset(), len(verdicts)))
            if left > least:
                count = len({s for s in earlier - broken if s in verdicts})
                seen = (
                    f"robust accuracy rises from {least} of {len(verdicts)} samples at eps {eps:.4g} to {left} at eps "
                    f"{about[-1]:.4g}: {count} that were broken stand again"
                )
                found.append(
                    (
                        about,
                        Finding(
                            check="eps-ladder",
                            severity=Severity.BLIND,
                            model=model,
                            attack=attack,
                            count=count,
                            n=len(verdicts),
                            seen=seen,
                        ),
                    )
                )
            else:
                before[model, attack] = about[-1], broken, left
    return found


def _contradictions(done: Mapping[Classifier, Records]) -> list[tuple[Classifier, Finding]]:
    """Samples with an image that breaks them inside a ball in which the same classifier is certified.

    What counts is how far the image is, not the eps it was searched in: an attack at a larger eps may find a near one.
    """
    proofs: dict[tuple[str, ...], dict[int, Classifier]] = defaultdict(dict)
    for about, records in sorted(done.items(), key=lambda item: item[0][-1]):
        for record in records:
            for sample, verdict in verdicts_by_sample([record]).items():
                if verdict is Verdict.CERTIFIED:
                    proofs[about[:-1]][sample] = about
    found = []
    for about, records in done.items():
        proven = proofs[about[:-1]]
        near = _distances(records, about[-1])
        against = {s: proven[s] for s in near if s in proven and proven[s][-1] >= near[s]}
        n = len({sample for record in records for sample in record.sample_ids})
        for other in dict.fromkeys((about, *against.values())) if against else ():
            samples = sorted(s for s, proof in against.items() if other in (about, proof))
            reach = max(near[s] for s in samples)
            named = ", ".join(map(str, samples[:5])) + (", ..." if len(samples) > 5 else "")
            seen = (
                f"{len(samples)} of {n} samples are broken at eps {about[-1]:.4g}, by images within {reach:.4g}, and "
                f"certified up to eps {max(against[s][-1] for s in samples):.4g} (samples {named})"
            )
            finding = _finding("certificate-contradicted", Severity.VOID, done[other], None, len(samples), n, seen)
            found.append((other, finding))
    return found


def _distances(records: Records, eps: float) -> dict[int, float]:
    """How near the nearest image is that breaks a sample, by sample; at most eps, to which the judge adds tolerance."""
    near: dict[int, float] = {}
    for record in records:
        for sample, verdict, distance in zip(record.sample_ids, record.verdicts, record.distances, strict=True):
            if verdict is Verdict.BROKEN:
                near[sample] = min(near.get(sample, eps), eps if distance is None else distance)
    return near


def broken_by(records: Iterable[UnitRecord]) -> Samples:
    """The samples that some of the records broke."""
    return frozenset(
        sample
        for record in records
        for sample, verdict in zip(record.sample_ids, record.verdicts, strict=True)
        if verdict is Verdict.BROKEN
    )


def _finding(
    check: str, severity: Severity, records: Records, attack: str | None, count: int | None, n: int | None, seen: str
) -> Finding:
    """About a classifier as a whole, by its first model."""
    model = records[0].unit.model
    return Finding(check=check, severity=severity, model=model, attack=attack, count=count, n=n, seen=seen)
