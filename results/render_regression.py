"""A gate's outcome to text: the terminal, a comment on a pull request, JUnit XML for CI systems."""

import html
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence

import pandas as pd

from results.baseline import Case
from results.notes import show_eps
from results.regression import CLEAN, LOWER, PROVES, Change, Regression

SHOWN = 20
"""Sample ids listed of each quantity."""

LEGEND = (
    "Accuracies in %, difference in percentage points on the same samples with its 95 % interval. newly broken: stood "
    "in the baseline and does not now (clean: was right; robust_lower, proves: was proven); newly safe: the reverse. "
    "p: exact McNemar test, one-sided; Holm: p after Holm's correction over the gated quantities, which are clean, "
    "robust_lower (proven) and robust_upper (after all attacks)."
)
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def terminal(found: Regression) -> str:
    parts = [verdict(found), ""]
    for title, changes in _by_threat(found.changes):
        parts += [title, "", _table(changes, "simple", _line), ""]
    parts += [*_samples(found), *(f"note: {note}" for note in _notes(found)), LEGEND, ""]
    return "\n".join(parts)


def markdown(found: Regression) -> str:
    """One line with the verdict, a table of what is gated, the rest folded."""
    parts = [f"**Robustness gate:** {_escaped(verdict(found))}", ""]
    for title, changes in _by_threat(found.gated):
        parts += [_escaped(title), "", _table(changes, "pipe", _escaped), ""]
    parts += ["<details><summary>Single attacks, newly broken samples, notes</summary>", ""]
    for title, changes in _by_threat([change for change in found.changes if not change.gated]):
        parts += [_escaped(title), "", _table(changes, "pipe", _escaped), ""]
    parts += [f"- {_escaped(line)}" for line in (*_samples(found), *_notes(found))]
    parts += ["", LEGEND, "", "</details>", ""]
    return "\n".join(parts)


def junit(found: Regression) -> str:
    """A test case for each classifier, threat and quantity; one that is told and not gated passes."""
    cases = [_test_case(change, found) for change in found.changes]
    cases += [_missing_case(case) for case in found.missing]
    failures = sum(case.find("failure") is not None for case in cases)
    counts = {"tests": str(len(cases)), "failures": str(failures), "errors": "0", "skipped": "0", "time": "0"}
    suites = ET.Element("testsuites", {"name": "bench regress"} | counts)
    suite = ET.SubElement(suites, "testsuite", {"name": "bench regress"} | counts)
    suite.extend(cases)
    output = ET.SubElement(suite, "system-out")
    output.text = _xml("\n".join([verdict(found), *_notes(found)]))
    ET.indent(suites)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(suites, encoding="unicode") + "\n"


def verdict(found: Regression) -> str:
    """One line: passed or failed, and by what."""
    gated = found.gated
    classifiers = len({change.classifier for change in found.changes})
    of = f"{len(gated)} comparisons of {classifiers} classifiers"
    if found.passed:
        lost = max((change.found.lost for change in gated), default=0)
        told = f"up to {lost} samples newly broken in one ({_rule(found)})" if lost else "no sample newly broken"
        return f"passed: {of}, {told}"
    failures = [_failure(change) for change in gated if change.failed]
    absent = [_missing_message(case) for case in found.missing]
    rule = f" ({_rule(found)})" if failures else ""
    return _line(f"FAILED: {'; '.join([*failures, *absent])}; {of}{rule}")


def _rule(found: Regression) -> str:
    gate = found.gate
    if gate.strict:
        return f"strict: fails beyond {gate.points:g} % of the samples"
    return f"fails beyond {gate.points:g} points with p at most {gate.alpha:g} after Holm"


def _failure(change: Change) -> str:
    counts = f"{change.found.lost} newly broken, {change.found.kept} newly safe"
    p = "" if change.adjusted is None else f", p {change.adjusted:.2g}"
    return (
        f"{change.classifier}: {change.quantity} {change.points:+.2f} points at {change.norm} {show_eps(change.eps)} "
        f"({counts}{p})"
    )


def _missing_message(case: Case) -> str:
    return f"{case.classifier} is in the baseline and not in the run ({case.norm} {show_eps(case.eps)})"


def _by_threat(changes: Sequence[Change]) -> list[tuple[str, list[Change]]]:
    tables: dict[str, list[Change]] = {}
    for change in changes:
        title = f"{change.dataset}, {change.norm} eps = {show_eps(change.eps)}, n = {change.found.n}"
        tables.setdefault(title, []).append(change)
    return list(tables.items())


def _table(changes: Sequence[Change], form: str, cell: Callable[[str], str]) -> str:
    lines = [
        {
            "classifier": change.classifier,
            "quantity": change.quantity,
            "baseline": _percent(change.before, change.found.n),
            "run": _percent(change.after, change.found.n),
            "difference": f"{change.points:+.2f} ({100 * change.found.low:+.2f} to {100 * change.found.high:+.2f})",
            "newly broken": str(change.found.lost),
            "newly safe": str(change.found.kept),
            "p": f"{change.p:.2g}",
            "Holm": "" if change.adjusted is None else f"{change.adjusted:.2g}",
            "gate": ("FAILED" if change.failed else "ok") if change.gated else "",
        }
        for change in changes
    ]
    frame = pd.DataFrame([{name: cell(text) for name, text in line.items()} for line in lines], dtype=str)
    align = ["left", "left", *["right"] * (frame.shape[1] - 3), "left"]
    return frame.to_markdown(index=False, disable_numparse=True, tablefmt=form, colalign=align)


def _samples(found: Regression) -> list[str]:
    """The samples to look at: newly lost ones of every quantity that has some."""
    return [
        f"{_lost_is(change)}: {change.classifier}, {change.quantity}, {change.norm} {show_eps(change.eps)}: samples "
        f"{listed(change.newly_lost)}"
        for change in found.changes
        if change.newly_lost
    ]


def _lost_is(change: Change) -> str:
    if change.quantity == CLEAN:
        return "newly misclassified"
    return "no longer proven" if change.quantity == LOWER or change.quantity.endswith(PROVES) else "newly broken"


def listed(samples: Sequence[int]) -> str:
    """The first sample ids, and how many are left out."""
    more = f" and {len(samples) - SHOWN} more" if len(samples) > SHOWN else ""
    return ", ".join(map(str, samples[:SHOWN])) + more


def _notes(found: Regression) -> list[str]:
    added = [
        f"{case.classifier} ({case.norm} {show_eps(case.eps)}) is new: the baseline does not have it"
        for case in found.added
    ]
    return [*_power(found), *added, *found.notes]


def _power(found: Regression) -> list[str]:
    """What the gate cannot see."""
    if not found.gated:
        return []
    n, comparisons = min(change.found.n for change in found.gated), len(found.gated)
    smallest = found.gate.smallest(n, comparisons)
    blind = "; with so few samples it cannot fail" if smallest > n else ""
    return [f"a loss in one quantity alone can fail from {smallest} of {n} samples on{blind}"]


def _test_case(change: Change, found: Regression) -> ET.Element:
    threat = f"{change.dataset} {change.norm} {show_eps(change.eps)}"
    case = ET.Element(
        "testcase",
        {"classname": _xml(f"{threat}.{change.classifier}"), "name": _xml(change.quantity), "time": "0"},
    )
    text = [_failure(change)]
    if change.newly_lost:
        text.append(f"{_lost_is(change)}: samples {listed(change.newly_lost)}")
    if change.newly_won:
        text.append(f"the reverse: samples {listed(change.newly_won)}")
    if not change.gated:
        text.append("told, not gated")
    if change.failed:
        failure = ET.SubElement(case, "failure", {"message": _xml(f"{text[0]}; {_rule(found)}"), "type": "regression"})
        failure.text = _xml("\n".join(text))
    else:
        ET.SubElement(case, "system-out").text = _xml("\n".join(text))
    return case


def _missing_case(missing: Case) -> ET.Element:
    threat = f"{missing.dataset} {missing.norm} {show_eps(missing.eps)}"
    case = ET.Element(
        "testcase", {"classname": _xml(f"{threat}.{missing.classifier}"), "name": "is in the run", "time": "0"}
    )
    ET.SubElement(case, "failure", {"message": _xml(_missing_message(missing)), "type": "missing"})
    return case


def _percent(count: int, n: int) -> str:
    return f"{100 * count / n:.2f}"


def _line(text: str) -> str:
    """A name a user chose, on one line."""
    return " ".join(text.split())


def _escaped(text: str) -> str:
    """For markdown, which shows HTML and divides cells by bars: a name may not bring either."""
    return html.escape(_line(text), quote=False).replace("|", "\\|")


def _xml(text: str) -> str:
    """Without the characters that XML cannot hold, escaped or not; the rest ElementTree escapes."""
    return _NOT_XML.sub("?", text)
