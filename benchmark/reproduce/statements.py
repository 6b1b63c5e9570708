"""Statements of papers, checked on measured numbers."""

import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from results.aggregate import Proportion

Measured = Mapping[tuple[str, float], Proportion | None]
"""One quantity, seen through one head: by model and eps. What was not run is missing or None."""


@dataclass(frozen=True)
class Outcome:
    """`holds` is None where the numbers it takes were not measured."""

    holds: bool | None
    evidence: str


Check = Callable[[Measured], Outcome]


@dataclass(frozen=True)
class Statement:
    """A sentence of a paper, or one its table makes, and the quantities (by name) it is checked on."""

    text: str
    quantities: tuple[str, ...]
    check: Check


def exceeds(model: str, *rivals: str) -> Check:
    """The model's figure is larger than every rival's."""

    def check(seen: Measured) -> Outcome:
        mine, others = _find(seen, model), {rival: _find(seen, rival) for rival in rivals}
        known = {rival: value for rival, value in others.items() if value is not None}
        absent = [name for name, value in {model: mine, **others}.items() if value is None]
        if mine is None or not known:
            return Outcome(None, f"not run: {', '.join(absent)}")
        best, theirs = max(known.items(), key=lambda item: item[1].value)
        overlap = mine.low <= theirs.high and theirs.low <= mine.high
        evidence = f"{_percent(mine)} against {_percent(theirs)} of {best}" + ", intervals overlap" * overlap
        if mine.value > theirs.value and absent:
            return Outcome(None, f"{evidence}; not run: {', '.join(absent)}")
        return Outcome(mine.value > theirs.value, evidence)

    return check


def between(models: Sequence[str], low: float = 0.0, high: float = 100.0) -> Check:
    """The figures of all models, at every eps, lie in [low, high] percent."""
    return _every(models, lambda percent: low <= percent <= high)


def under(models: Sequence[str], high: float) -> Check:
    """The figures of all models, at every eps, are smaller than `high` percent."""
    return _every(models, lambda percent: percent < high)


def above(models: Sequence[str], low: float) -> Check:
    """The figures of all models, at every eps, are larger than `low` percent."""
    return _every(models, lambda percent: percent > low)


def _every(models: Sequence[str], inside: Callable[[float], bool]) -> Check:
    def check(seen: Measured) -> Outcome:
        asked = {(model, eps): p for (model, eps), p in seen.items() if model in models}
        absent = [model for model in models if _find(seen, model) is None]
        failed = [(model, eps) for (model, eps), p in asked.items() if p is None and model not in absent]
        absent += [f"{model} at {show_radius(eps)}" for model, eps in failed]
        several = len({eps for _, eps in asked}) > 1
        found = [(show_radius(eps) if several else model, p) for (model, eps), p in asked.items() if p is not None]
        shown = [f"{name} {_percent(p)}" for name, p in found]
        if absent:
            shown.append(f"not run: {', '.join(absent)}")
        holds = all(inside(100.0 * p.value) for _, p in found)
        return Outcome(None if holds and absent else holds, ", ".join(shown))

    return check


def drops(model: str, start: str, points: float) -> Check:
    """The model's figure is more than `points` below that of the model it was made from."""

    def check(seen: Measured) -> Outcome:
        after, before = _find(seen, model), _find(seen, start)
        if after is None or before is None:
            return Outcome(None, f"not run: {model if after is None else start}")
        drop = 100.0 * (before.value - after.value)
        return Outcome(drop > points, f"a drop of {drop:.2f} points, {_percent(before)} to {_percent(after)}")

    return check


def best_is(model: str, models: Sequence[str]) -> Check:
    """No other of the models has a larger figure."""

    def check(seen: Measured) -> Outcome:
        values = {name: p for name in models if (p := _find(seen, name)) is not None}
        if len(values) < len(models):
            return Outcome(None, f"not run: {', '.join(name for name in models if name not in values)}")
        most = max(p.value for p in values.values())
        best = [name for name, p in values.items() if p.value == most]
        return Outcome(
            model in best, f"best is {', '.join(best)} with {100 * most:.2f}, {_percent(values[model])} here"
        )

    return check


def spread_within(models: Sequence[str], points: float) -> Check:
    """Largest and smallest figure differ by at most `points`."""

    def check(seen: Measured) -> Outcome:
        values = [p.value for name in models if (p := _find(seen, name)) is not None]
        if len(values) < len(models):
            return Outcome(None, f"not run: {len(models) - len(values)} of {len(models)} models")
        spread = 100.0 * (max(values) - min(values))
        return Outcome(spread <= points, f"{spread:.2f} points, {100 * min(values):.2f} to {100 * max(values):.2f}")

    return check


@dataclass(frozen=True)
class View:
    """A quantity as it was measured: its name, what of it a reader must know (the head), and the figures."""

    quantity: str
    label: str
    seen: Measured


def judged(statements: Sequence[Statement], views: Sequence[View]) -> list[tuple[str, str, Outcome]]:
    """Every statement on every view of its quantities: (statement, view, outcome)."""
    return [
        (statement.text, view.label, statement.check(view.seen))
        for statement in statements
        for view in views
        if view.quantity in statement.quantities
    ]


def detailed(outcomes: Sequence[tuple[str, str, Outcome]]) -> str:
    """A line an outcome, with its numbers."""
    words = {True: "holds", False: "does NOT hold", None: "cannot be said"}
    lines = []
    last = None
    for text, label, outcome in outcomes:
        if text != last:
            lines.append(f"- {text}:")
            last = text
        lines.append(f"    {label + ': ' if label else ''}{words[outcome.holds]} ({outcome.evidence})")
    return "\n".join(lines)


def closing(outcomes: Sequence[tuple[str, str, Outcome]]) -> str:
    """One sentence: what is reproduced, what is not, what cannot be said."""
    parts = []
    views = Counter(text for text, _, _ in outcomes)
    for word, kind in (("reproduced", True), ("not reproduced", False), ("cannot be said", None)):
        labels: dict[str, list[str]] = {}
        for text, label, outcome in outcomes:
            if outcome.holds is kind:
                labels.setdefault(text, []).append(label)
        named = [text + (f" [{', '.join(seen)}]" if views[text] > 1 else "") for text, seen in labels.items()]
        if named:
            parts.append(f"{word}: {'; '.join(named)}")
    sentence = " -- ".join(parts)
    return textwrap.fill(sentence[:1].upper() + sentence[1:] + ".", 120)


def _find(seen: Measured, model: str) -> Proportion | None:
    """The figure of a model, at the first eps it was measured at."""
    return next((p for (name, _), p in seen.items() if name == model and p is not None), None)


def show_radius(eps: float) -> str:
    """In pixel values, as the papers write it."""
    return f"{255 * eps:g}/255"


def _percent(p: Proportion) -> str:
    return f"{100 * p.value:.2f}"
