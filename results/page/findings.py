"""Which numbers of a page to trust: the findings about its classifiers, as a section."""

from collections.abc import Iterable

from results.findings import Severity
from results.leaderboard import Row
from results.notes import TRUST, show_eps
from results.page.content import Section

_MEANING = {
    Severity.VOID: "not this model's number",
    Severity.FLATTERS: "may flatter",
    Severity.BLIND: "attack could not see",
    Severity.NOTE: "note",
}


def findings_section(rows: Iterable[Row]) -> Section | None:
    """A line a finding, the gravest of a classifier first; None where nothing was found."""
    told = dict.fromkeys(
        (
            row.group,
            f"{row.dataset}, {row.norm} {show_eps(row.eps)}",
            row.trust.grade.value if row.trust else "–",
            _MEANING[found.severity],
            found.check,
            f"{found.model}: {found.sentence}",
        )
        for row in rows
        for found in row.findings
    )
    if not told:
        return None
    columns = ("classifier", "threat", "trust", "what it does to the number", "check", "finding")
    return Section("Which numbers to trust", columns, tuple(told), TRUST[:1].upper() + TRUST[1:])
