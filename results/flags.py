"""The sentences about trust that the parts of one attack leave, told once."""

import re
from collections.abc import Iterable

_COUNTS = re.compile(r"\b(\d+) of (\d+)(?= samples\b)|^(\d+)(?= (?:candidates|successes)\b)")
"""Counts of samples, which add up over parts; other numbers belong to the sentence."""


def merged(parts: Iterable[Iterable[str]]) -> list[str]:
    """Sentences that differ in their counts of samples alone become one, with the sums; the order is kept.

    "3 of 200 samples" keeps its total only where every part has the sentence: a part without it does not say of how
    many samples it told nothing.
    """
    told = [list(flags) for flags in parts]
    found: dict[str, list[list[int]]] = {}
    for flag in (flag for flags in told for flag in flags):
        counts = [int(number) for match in _COUNTS.finditer(flag) for number in match.groups() if number]
        sentence = _COUNTS.sub(lambda match: "\0 of \1" if match[1] else "\0", flag)
        found.setdefault(sentence, []).append(counts)
    return [_filled(sentence, counts, len(counts) == len(told)) for sentence, counts in found.items()]


def _filled(sentence: str, counts: list[list[int]], everywhere: bool) -> str:
    sums = [str(sum(column)) for column in zip(*counts, strict=True)]
    if not everywhere:
        sums = sums[:1]
        sentence = sentence.replace(" of \1", "")
    for place, total in zip(re.findall("[\0\1]", sentence), sums, strict=True):
        sentence = sentence.replace(place, total, 1)
    return sentence
