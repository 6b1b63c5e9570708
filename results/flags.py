"""The sentences about trust that the parts of one attack leave, told once."""

import re
from collections.abc import Iterable

_COUNTS = re.compile(r"\b(\d+) of (\d+)(?= samples\b)|^(\d+)(?= (?:candidates|successes)\b)")
"""Counts of samples, which add up over parts; other numbers belong to the sentence."""


def merged(flags: Iterable[str]) -> list[str]:
    """Sentences that differ in their counts of samples alone become one, with the sums; the order is kept."""
    totals: dict[str, list[int]] = {}
    for flag in flags:
        counts = [int(number) for match in _COUNTS.finditer(flag) for number in match.groups() if number]
        sentence = _COUNTS.sub(lambda match: "\0 of \0" if match[1] else "\0", flag)
        known = totals.setdefault(sentence, [0] * len(counts))
        totals[sentence] = [a + b for a, b in zip(known, counts, strict=True)]
    return [_filled(sentence, counts) for sentence, counts in totals.items()]


def _filled(sentence: str, counts: list[int]) -> str:
    parts = sentence.split("\0")
    return parts[0] + "".join(f"{count}{part}" for count, part in zip(counts, parts[1:], strict=True))
