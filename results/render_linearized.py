"""What `bench analyze linearize` prints: what became of each network, a table with a verdict a model, and the rule."""

import textwrap
from collections.abc import Sequence
from io import StringIO

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from results.clustering_effect import Effect, Test
from results.clustering_verdict import LEVEL
from results.effect_families import FamilyEffect, family_effects
from results.linearized import Analysis, Found
from results.printable import printable

WIDTH = 160
"""Of the paragraphs."""
COLUMNS = (
    "model",
    "bn",
    "S (p)",
    "raw (p)",
    "random starts",
    "last layer (p)",
    "beyond images",
    "over standard",
    "ARI, coph.",
    "adv. inside",
)
VERDICT = 30
"""Letters of the last column; the others are as wide as their numbers."""


def terminal(analysis: Analysis) -> str:
    parts = ["\n".join(_done(one, analysis)) for one in analysis.models]
    parts += [_title(analysis), _grid(analysis), *_families(family_effects(analysis.models))]
    missing = [f"{one.model}: {why}" for one in analysis.models for why in one.missing]
    if missing:
        parts.append("\n".join(_wrapped(f"not to be had: {line}") for line in missing))
    parts.append(_wrapped(legend(analysis)))
    return "\n\n".join(part for part in parts if part) + "\n"


def legend(analysis: Analysis) -> str:
    """The rule, and what the columns are."""
    first = analysis.models[0]
    test = first.modes[0].centred.test
    how = f"all {test.seen:,} partitions" if test.exact else f"{test.seen:,} random labelings"
    starts = next((len(m.starts) for one in analysis.models for m in one.modes if m.starts is not None), 0)
    begun = f"the largest S of {starts} random initialisations, and how many reach the model's" if starts else "none"
    return (
        "S: mean cosine of class rows of one group less that of different groups, the mean row taken out; p in "
        f"brackets: one-sided, over {how} of the classes into groups of these sizes, never below {test.least:.2g}. "
        "raw: the mean row left in, decides nothing (the same: only differences of a clustering classifier's rows mean "
        f"something). random starts: {begun}. "
        "last layer: S of its rows, or centroids, alone. beyond images: what is left of S once the best linear "
        "function of the class-mean images' cosines is taken out. over standard: S less that of the standard model of "
        "the same architecture. ARI, coph.: adjusted Rand index of the tree's cut with the groups, cophenetic "
        f"correlation. adv. inside: share of what {first.misled.attack} turned from right to wrong that stays inside a "
        "group; by chance: if the wrong class were drawn at random; p: of the excess, as for S. Verdict "
        f"(p <= {LEVEL:g}): shows the effect: in every mode, by the permutation test and among the random starts; "
        "depends on the mode: not in all, but in some after correction for their number; underpowered: no such p was "
        "possible; not shown: otherwise. What class-mean images and the standard model make of it stands beside it. "
        "Models are not corrected for their number. The whole rule: results/clustering_verdict.py."
    )


def _title(analysis: Analysis) -> str:
    groups = "; ".join(
        f"{name}: {', '.join(analysis.groups.classes[index] for index in analysis.groups.members(group))}"
        for group, name in enumerate(analysis.groups.names)
    )
    told = f"{analysis.dataset}, groups of {analysis.groups.source} ({groups})"
    attacked = f"{analysis.models[0].misled.images:,} test images attacked, {analysis.threat}"
    return _wrapped(f"{told}; {attacked}", most=600)


def _done(one: Found, analysis: Analysis) -> list[str]:
    """What became of the network, its self-check, and how long its rows are; a paragraph a mode."""
    lines = []
    for told, mode in zip(one.told, one.modes, strict=True):
        names = [f"{norm:.3g} ({name})" for norm, name in sorted(zip(mode.norms, analysis.groups.classes, strict=True))]
        how = "dropped" if mode.bn == "drop" else "folded"
        about = f"{told.changes}. Self-check: {told.check}. Row norms {names[0]} to {names[-1]}."
        lines.append(_wrapped(f"{one.model}, batch norm {how}: {about}"))
    return lines


def _grid(analysis: Analysis) -> str:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in COLUMNS:
        table.add_column(name, no_wrap=True)
    table.add_column("verdict", width=VERDICT)
    for one in analysis.models:
        table.add_row(*map(Text, _cells(one)))
    if analysis.means is not None:
        raw, centred = analysis.means
        cells = ["class means", "–", _tested(centred.test), _tested(raw.test), *["–"] * 4]
        table.add_row(*map(Text, [*cells, _tree(centred), "–", "a control"]))
    return _drawn(table)


def _drawn(table: Table) -> str:
    file = StringIO()
    Console(file=file, width=400, legacy_windows=False).print(table)  # narrower, columns would be cropped
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()).strip("\n")


def _families(found: Sequence[FamilyEffect]) -> list[str]:
    """Seeds of one training against those of another; nothing where there are no such families."""
    if not found:
        return []
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("family", "bn", "S of its seeds", "over the standard model's", "p seeds (least)"):
        table.add_column(name, no_wrap=True)
    for one in found:
        ours, theirs = (" ".join(f"{value:+.2f}" for value in side) for side in (one.values, one.values_against))
        over = f"{one.difference:+.2f} ({printable(one.against)}: {theirs})"
        table.add_row(*map(Text, [printable(one.family), one.bn, ours, over, f"{_p(one.p)} ({one.least:.2g})"]))
    told = (
        "NAME, NAME-seed1, ... are one family. p seeds asks of trainings, not of one network: two-sided, how often the "
        "means of S are as far apart when the seeds are dealt to the two families in every way; in brackets the least "
        "p that so many seeds can give."
    )
    return [_drawn(table), _wrapped(told)]


def _cells(one: Found) -> list[str]:
    """A line a mode in each cell that depends on it."""
    by_mode = [
        [
            mode.bn,
            _tested(mode.centred.test),
            "the same" if np.allclose(mode.raw.similarities, mode.centred.similarities) else _tested(mode.raw.test),
            "–" if mode.starts is None else f"{max(mode.starts):+.2f}, {mode.reached}/{len(mode.starts)}",
            _tested(mode.beyond_images),
            _tested(mode.over_standard),
            _tree(mode.centred),
        ]
        for mode in one.modes
    ]
    bn, centred, raw, starts, images, standard, trees = ("\n".join(lines) for lines in zip(*by_mode, strict=True))
    verdict = ": ".join(filter(None, (str(one.verdict.ruling), "; ".join(one.verdict.beside))))
    head = "–" if one.head is None else _tested(one.head.test)
    return [
        printable(one.model),
        bn,
        centred,
        raw,
        starts,
        head,
        images,
        standard,
        trees,
        _inside(one),
        printable(verdict),
    ]


def _tree(effect: Effect) -> str:
    return f"{effect.rand_index:.2f}, {_number(effect.cophenetic)}"


def _inside(one: Found) -> str:
    found = one.misled
    if found.share is None or found.expected is None or found.test is None:
        return f"none of {found.right} misclassified"
    share = f"{100 * found.share:.0f} % of {found.broken}"
    return f"{share}\n{100 * found.expected:.0f} % by chance\np {_p(found.test.p)}"


def _tested(test: Test | None) -> str:
    return "–" if test is None else f"{test.statistic:+.2f} ({_p(test.p)})"


def _p(p: float) -> str:
    """Never 0, and on the side of the rule's levels that it is on: 0.0504 is not shown as 0.050."""
    if p < 1e-4:
        return f"{p:.1g}"
    digits = 4 if p < 0.01 else 3
    while any((round(p, digits) <= level) != (p <= level) for level in (LEVEL, LEVEL / 2)):
        digits += 1
    return f"{p:.{digits}f}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _wrapped(text: str, most: int = 10_000) -> str:
    shown = printable(text)
    shown = shown if len(shown) <= most else shown[: most - 3] + "..."
    return textwrap.fill(shown, WIDTH, break_on_hyphens=False, break_long_words=False)
