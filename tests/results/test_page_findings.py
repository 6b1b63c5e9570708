"""The page's section of findings: a line a finding, with its meaning and the classifier's grade."""

from results.findings import Finding, Severity
from results.page.findings import findings_section
from results.trust import Grade, Trust
from tests.results.builders import row

FOUND = Finding(
    check="square-beats-white-box",
    severity=Severity.FLATTERS,
    model="net@scores",
    attack="autoattack",
    seen="Square did",
)


def test_a_finding_is_told_once_a_classifier_and_threat() -> None:
    trust = Trust(Grade.D, "because", (FOUND,))
    rows = [row(model=model, group="net", findings=[FOUND], trust=trust) for model in ("net", "net@scores")]
    section = findings_section(rows)
    assert section is not None
    ((group, threat, grade, meaning, check, sentence),) = section.rows
    assert (group, grade, meaning, check) == ("net", "D", "may flatter", "square-beats-white-box")
    assert threat == f"{rows[0].dataset}, {rows[0].norm} 8/255"
    assert sentence.startswith("net@scores: autoattack: Square did. ")


def test_without_findings_there_is_no_section() -> None:
    assert findings_section([row()]) is None
