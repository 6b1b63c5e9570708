"""`bench claims`: which measured rows stand for which published number, and the verdict on each."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from benchmark.errors import RequestError
from benchmark.reproduce.items import CLUSTERING_TRAINING, CLUSTR
from benchmark.reproduce.kmeans_studies import STRENGTH, TRANSFER
from benchmark.reproduce.studies import Line, Study
from model_zoo.errors import ModelError
from model_zoo.registry import zoo_cards
from model_zoo.weights import read_card
from results.aggregate import wilson
from results.claims import Claim, Paper, load_claims, papers, read_claims
from results.evidence import Evidence, Figure, committed, from_runs
from results.kept import Kept, shipped
from results.notes import show_eps
from results.printable import printable
from results.published import ATTACKED, Number, numbers_of, reported_of
from results.robustbench import NAME as ROBUSTBENCH
from results.robustbench import QUOTED, Entry, counterpart, load_robustbench
from results.verdicts import UNDECIDED, Held, Judgement, Ruling, judge

CHOICES = (*papers(), ROBUSTBENCH)


def hold(runs: Sequence[Path], named: Sequence[str] = (), file: Path | None = None) -> Held:
    """Every published number of these papers (default: all) against runs, or against the results that ship.

    Raises RequestError, StoreError or ClaimsError, one line, for what cannot be judged.
    """
    unknown = [name for name in named if name not in CHOICES]
    if unknown:
        raise RequestError(f"--paper must be one of {', '.join(CHOICES)}, got {unknown[0]!r}")
    if file is not None and named:
        raise RequestError("give --file or --paper, not both")
    if file is not None and file.stem in CHOICES:  # the models that stand for a source's are found by its name
        raise RequestError(f"--file {file}: {file.stem} is the name of a source that ships; give the file another")
    chosen = {printable(file.stem): read_claims(file)} if file is not None else _chosen(named)
    if not any(paper.claims for paper in chosen.values()) and ROBUSTBENCH not in named and (named or file):
        raise RequestError(f"{', '.join(chosen)}: no claim in numbers, so there is nothing to measure")
    evidence = from_runs(runs, architecture_of) if runs else [*committed(architecture_of), *kept_evidence()]
    evidence = [_authors(piece) for piece in evidence]
    judgements = [
        judge(number, _about(name, claim, number, evidence))
        for name, paper in chosen.items()
        for claim in paper.claims
        for number in _assumed(name, numbers_of(name, paper, claim))
    ]
    rows = [piece for piece in evidence if piece.model.startswith("robustbench:")]
    if ROBUSTBENCH in named or (not named and file is None and (not runs or rows)):
        judgements += judge_robustbench(rows)
    _check(runs, judgements)
    return Held(tuple(judgements), chosen, tuple(map(str, runs)), whole=ROBUSTBENCH in named)


def _chosen(named: Sequence[str]) -> dict[str, Paper]:
    return {name: load_claims(name) for name in papers() if not named or name in named}


def counterparts(paper: str, claim: Claim) -> tuple[str, ...]:
    """The classifiers that stand for a claim's model: as the tables of `bench reproduce` have it, or by its name."""
    tables = [
        table for table in (*CLUSTR, *CLUSTERING_TRAINING) if table.paper == paper and claim.table in table.tables
    ]
    stand_in = [model for table in tables for model, name in table.claimed_as.items() if name == claim.model]
    own = claim.model + (f"@nearest={claim.nearest}" if claim.nearest else "")
    return tuple(dict.fromkeys([*stand_in, own]))


def architecture_of(group: str) -> str | None:
    """The architecture of a classifier by its card, None where it has none."""
    base, suffix, _ = group.partition(".safetensors")
    if suffix:
        try:
            return read_card(Path(base + suffix)).architecture
        except ModelError:
            return None
    card = zoo_cards().get(group.partition("@")[0])
    return None if card is None else card.architecture


def _about(name: str, claim: Claim, number: Number, evidence: Sequence[Evidence]) -> list[Evidence]:
    """What is measured of a claim's model, RobustBench's row of it included."""
    models = counterparts(name, claim)
    row = counterpart(name, claim.table, claim.model)
    found = [piece for piece in evidence if piece.model in models]
    for entry in load_robustbench().entries:
        if row is not None and (entry.dataset, entry.norm, entry.model_id) == (number.dataset, "linf", row.model_id):
            quoted = (name, claim.table or "", claim.model) in QUOTED
            found.append(robustbench_evidence(entry, row.same, number if quoted else None))
    return found


def robustbench_evidence(entry: Entry, authors: bool, quoted: Number | None = None) -> Evidence:
    """A row of RobustBench as a measurement; of a number that is quoted from it, under the number's eps."""
    n = load_robustbench().samples[entry.dataset]
    shares = [("autoattack", entry.autoattack), *([("external", entry.external)] if entry.external is not None else [])]
    return Evidence(
        source=f"RobustBench {entry.model_id}",
        model=entry.model_id,
        dataset=entry.dataset,
        norm=entry.norm,
        eps=quoted.eps if quoted is not None and quoted.eps is not None else entry.eps,
        n=n,
        clean=wilson(round(entry.clean * n / 100), n),
        figures=tuple(Figure(attack, wilson(round(share * n / 100), n)) for attack, share in shares),
        architecture=entry.architecture,
        authors=authors,
        remark=f"RobustBench's row {entry.model_id}, {entry.architecture}, {entry.norm} {show_eps(entry.eps)}",
    )


def judge_robustbench(measured: Sequence[Evidence] = ()) -> list[Judgement]:
    """What papers report of RobustBench's models against AutoAttack on it, or against a run of ours of that model."""
    source = load_robustbench()
    found = []
    for entry in source.entries:
        number = reported_of(entry, source)
        if number is not None:
            name = f"robustbench:{entry.norm.capitalize()}/{entry.dataset}/{entry.model_id}"
            ours = [piece for piece in measured if piece.model == name]
            found.append(judge(number, [*ours, dataclasses.replace(robustbench_evidence(entry, True), remark="")]))
    return found


def _authors(piece: Evidence) -> Evidence:
    """RobustBench's models, by their names, are the authors' own weights."""
    return dataclasses.replace(piece, authors=True) if piece.model.startswith("robustbench:") else piece


def _assumed(name: str, numbers: Sequence[Number]) -> list[Number]:
    """Numbers of the k-means paper, whose eps is unknown, at the eps where its starting point is met."""
    if name != "kmeans":
        return list(numbers)
    return [
        dataclasses.replace(
            number,
            norm="linf",
            eps=STRENGTH[number.dataset],
            assumed=True,
            remark=f"the paper's eps is unknown: held at linf {STRENGTH[number.dataset]:g}, where undefended k-means "
            "comes down to about the accuracy that the paper starts from; from linf 0.5 on, one grey image is allowed "
            "for every sample, so that nothing can be robust there",
        )
        if number.quantity in ATTACKED and number.eps is None and number.dataset in STRENGTH
        else number
        for number in numbers
    ]


def kept_evidence() -> list[Evidence]:
    """The kept measurements of the models that stand for the k-means paper's."""
    kept = shipped("kmeans")
    if kept is None:
        return []
    return [piece for study in TRANSFER for line in study.lines if line.claim for piece in _kept(study, line, kept)]


def _kept(study: Study, line: Line, kept: Kept) -> list[Evidence]:
    """One piece of evidence a threat, from the study's own measures of one line."""
    (training,) = line.trainings
    names = {(measure.name, measure.norm, measure.eps, measure.samples) for measure in study.measures}
    threats: dict[tuple[str, float, int], list[Figure]] = {}
    for one in kept.measured:
        if one.model == training.key and (one.attack, one.norm, one.eps, one.n) in names:
            figures = threats.setdefault((one.norm, one.eps, one.n), [])
            figures.append(Figure(one.attack, wilson(one.stands, one.n)))
    model = next((model for model in kept.models if model.key == training.key), None)
    clean = None
    if model is not None and model.clean_accuracy is not None and model.clean_samples:
        clean = wilson(round(model.clean_accuracy * model.clean_samples), model.clean_samples)
    return [
        Evidence(
            source="results/kept/kmeans.json",
            model=line.claim,
            dataset=training.dataset,
            norm=norm,
            eps=eps,
            n=n,
            clean=clean,
            figures=tuple(figures),
        )
        for (norm, eps, n), figures in threats.items()
    ]


def _check(runs: Sequence[Path], judgements: Sequence[Judgement]) -> None:
    """RequestError for runs by which no claim can be judged."""
    ours = [one for one in judgements if one.number.paper != ROBUSTBENCH] or judgements
    attacked = [one for one in ours if one.number.quantity != "clean"]
    asked = attacked or ours
    if runs and not any(_judged(one, tuple(map(str, runs))) for one in asked):
        reasons = dict.fromkeys(one.because for one in asked if one.ruling is Ruling.NOT_MEASURED)
        raise RequestError(
            f"{', '.join(map(str, runs))}: none of {len(asked)} claims can be judged by it; a verdict needs a claim's "
            f"model under its own attack and a stronger one, such as pgd20 and autoattack; {next(iter(reasons), '')}"
        )


def _judged(one: Judgement, runs: tuple[str, ...]) -> bool:
    """Whether runs had a part in a verdict: that of the claim, or of the same pattern elsewhere."""
    if one.gap is not None and one.gap.evidence.source in runs:
        return True
    if one.evidence is None or one.evidence.source not in runs:
        return False
    return one.ruling not in UNDECIDED or (
        one.ruling is Ruling.NOT_COMPARABLE and one.number.quantity in ("autoattack", "clean")
    )
