"""Verdicts per sample, combined; and the interval a fraction carries."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from results.records import UnitRecord, Verdict

Z_95 = 1.959963984540054


@dataclass(frozen=True)
class Proportion:
    """`value` of `n` samples, with a Wilson 95 % interval [low, high]; all fractions in [0, 1]."""

    value: float
    low: float
    high: float
    n: int


class UnsoundError(RuntimeError):
    """One sample is both broken and certified: an attack, a certificate or the judge is wrong."""


def wilson(successes: int, n: int) -> Proportion:
    """Wilson score interval (Wilson 1927) of a binomial proportion."""
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"need 0 <= successes <= n and n >= 1, got {successes} of {n}")
    p, z2 = successes / n, Z_95**2
    center = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    low = 0.0 if successes == 0 else center - half
    high = 1.0 if successes == n else center + half
    return Proportion(p, low, high, n)


def verdicts_by_sample(records: Iterable[UnitRecord]) -> dict[int, Verdict]:
    """The verdict of each sample over the parts of one attack."""
    return {
        sample: verdict
        for record in records
        for sample, verdict in zip(record.sample_ids, record.verdicts, strict=True)
    }


def worst_case(attacks: Iterable[Mapping[int, Verdict]]) -> dict[int, Verdict]:
    """The worst verdict of each sample over attacks that judged the same classifier under the same threat.

    Broken by one attack is broken; certified by one is certified. Raises UnsoundError for a sample that is
    both.
    """
    seen: dict[int, set[Verdict]] = {}
    for verdicts in attacks:
        for sample, verdict in verdicts.items():
            seen.setdefault(sample, set()).add(verdict)
    combined: dict[int, Verdict] = {}
    for sample, kinds in sorted(seen.items()):
        if {Verdict.BROKEN, Verdict.CERTIFIED} <= kinds:
            raise UnsoundError(f"sample {sample} is both broken and certified")
        order = (Verdict.MISCLASSIFIED, Verdict.BROKEN, Verdict.CERTIFIED, Verdict.SURVIVED)
        combined[sample] = next(kind for kind in order if kind in kinds)
    return combined


def standing(verdicts: Mapping[int, Verdict]) -> int:
    """Samples that are neither misclassified nor broken: the numerator of the robust accuracy's upper bound."""
    return sum(v in (Verdict.SURVIVED, Verdict.CERTIFIED) for v in verdicts.values())


def certified(verdicts: Mapping[int, Verdict]) -> int:
    """Samples that are proven robust: the numerator of the lower bound."""
    return sum(v is Verdict.CERTIFIED for v in verdicts.values())
