"""What `bench diagnose` prints: each classifier's grade before and after, its probes, and its findings in sentences."""

from collections.abc import Mapping, Sequence

from results.findings import Finding, Severity
from results.leaderboard import Row
from results.notes import show_eps
from results.printable import printable
from results.probed import Probed
from results.records import Classifier

_HEADING = {
    Severity.VOID: "void",
    Severity.FLATTERS: "may flatter",
    Severity.BLIND: "blind",
    Severity.NOTE: "note",
}


def terminal(before: Sequence[Row], after: Sequence[Row], probed: Mapping[Classifier, Probed]) -> str:
    """A paragraph a classifier: one row each of the leaderboard without and with what was probed."""
    by_name = {(row.group, row.dataset, row.norm, row.eps): row for row in before}
    told: dict[tuple[str, str, str, float], list[str]] = {}
    for row in after:
        about = row.group, row.dataset, row.norm, row.eps
        found = next((p for p in probed.values() if (p.group, p.dataset, p.norm, p.eps) == about), None)
        if about not in told and found is not None:
            told[about] = _paragraph(by_name[about], row, found)
    return "\n\n".join("\n".join(printable(line) for line in lines) for lines in told.values()) + "\n"


def _paragraph(before: Row, after: Row, probed: Probed) -> list[str]:
    assert before.trust is not None
    assert after.trust is not None  # a diagnosed run is complete
    title = f"{after.group}, {after.dataset}, {after.norm} eps = {show_eps(after.eps)}, n = {after.n}"
    reason = "" if after.trust.because else f": {after.trust.reason}"
    lines = [f"{title}: trust {before.trust.grade} before, {after.trust.grade} after{reason}"]
    lines.append(f"  {probed.samples} samples probed, {probed.standing} of them neither broken nor proven")
    lines += [f"  {probe.what} {probe.outcome} {probe.count} of {probe.n}" for probe in probed.probes]
    return lines + (findings_told(after.findings) or ["  nothing found"])


def refuted(void: Mapping[Classifier, Sequence[Finding]]) -> str:
    """What is said of classifiers whose certificates are contradicted, in the place of probes."""
    lines = []
    for about, found in void.items():
        lines.append(f"{about[0]}, {about[2]}, {about[4]} eps = {show_eps(about[5])}: trust F")
        lines += findings_told(found)
    return "".join(f"{printable(line)}\n" for line in lines)


def findings_told(findings: Sequence[Finding]) -> list[str]:
    """A line a finding, the gravest first."""
    return [f"  {_HEADING[found.severity]}: [{found.check}] {found.model}: {found.sentence}" for found in findings]
