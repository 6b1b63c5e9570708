"""Published numbers that a run has something to say of, as a section of the page."""

from collections.abc import Sequence

from results.page.content import Section
from results.render_claims import COLUMNS, LEGEND, cells_of, sources_of
from results.robustbench import NAME as ROBUSTBENCH
from results.verdicts import UNDECIDED, Held, Judgement


def claims_section(held: Held) -> Section | None:
    """Those with a verdict, or with the same pattern on other data; None where there are none."""
    told = [one for one in held.judgements if _told(one, held.runs)]
    if not told:
        return None
    sources = sources_of(told)
    return Section(
        title="Published claims",
        columns=("paper, table", *COLUMNS, "evidence"),
        rows=tuple(
            (
                f"{one.number.paper}, {one.number.table}" if one.number.table else one.number.paper,
                *cells_of(one, sources).values(),
                one.because if one.ruling not in UNDECIDED else "",
            )
            for one in told
        ),
        note=" ".join([*(f"[{number}] {source}." for source, number in sources.items()), LEGEND]),
    )


def _told(one: Judgement, runs: Sequence[str]) -> bool:
    """RobustBench's own rows are told only where a run attacked their models."""
    if one.number.paper == ROBUSTBENCH and (one.evidence is None or one.evidence.source not in runs):
        return False
    return one.ruling not in UNDECIDED or one.gap is not None
