"""Tables of studies from kept results alone: text and markdown."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from tabulate import tabulate

from benchmark.reproduce.studies import Line, Measure, Study
from benchmark.reproduce.trainings import Training
from results.aggregate import Proportion, wilson
from results.claims import Claim, Paper
from results.curves import LADDERS
from results.kept import Kept, KeptMeasurement, KeptModel, KeptRadii
from results.notes import show_eps

NOT_RUN = "not run"

Grid = tuple[list[str], list[list[str]]]
"""Headers, and the cells of each line."""


@dataclass(frozen=True)
class Known:
    """Kept results, to be asked by training."""

    kept: Kept

    def model(self, training: Training) -> KeptModel | None:
        return next((model for model in self.kept.models if model.key == training.key), None)

    def measurement(self, training: Training, measure: Measure) -> KeptMeasurement | None:
        wanted = (training.key, measure.name, measure.norm, measure.eps, measure.samples)
        for one in self.kept.measured:
            if (one.model, one.attack, one.norm, one.eps, one.n) == wanted:
                return one
        return None

    def radii(self, training: Training, norm: str, samples: int) -> list[KeptRadii]:
        """Curves of a model, the exact one first."""
        found = [one for one in self.kept.radii if (one.model, one.norm, one.n) == (training.key, norm, samples)]
        return sorted(found, key=lambda one: one.attack != "exact-radius")


def table(study: Study, kept: Kept, paper: Paper) -> Grid:
    """The study's table, "not run" where nothing is kept."""
    known = Known(kept)
    if study.radii:
        return _curves(study, known)
    return _by_threat(study, known) if study.by_threat else _by_line(study, known, paper)


def complete(study: Study, kept: Kept) -> bool:
    """Whether all of a study's models are there, and all measurements that apply to some of them."""
    known = Known(kept)
    models = all(known.model(training) is not None for training in study.trainings)
    if study.radii:
        threats = {(measure.norm, measure.samples) for measure in study.measures}
        return models and all(known.radii(t, norm, n) for t in study.measured for norm, n in threats)
    return models and all(
        any(known.measurement(training, measure) for training in study.measured) for measure in study.measures
    )


def fixed_width(grid: Grid) -> str:
    return tabulate(grid[1], grid[0], tablefmt="simple", disable_numparse=True)


def markdown(grid: Grid) -> str:
    headers = [" ".join(name.split()) for name in grid[0]]
    return tabulate(grid[1], headers, tablefmt="github", disable_numparse=True)


def _by_line(study: Study, known: Known, paper: Paper) -> Grid:
    claims = {line: _claim(line, paper) for line in study.lines}
    claimed = any(claims.values())
    headers = [*study.varied, *(["published\nclean"] if claimed else []), "clean\n(all test images)"]
    for measure in study.measures:
        if claimed and measure.kind == "transfer":
            headers.append("published\ntransfer")
        headers.append(f"{measure.heading}\n{measure.norm} {show_eps(measure.eps)}, n = {measure.samples}")
        if _promises(measure, study):
            headers.append("of these,\nbroken by exact")
    rows = []
    for line in study.lines:
        claim = claims[line]
        cells = [*line.labels]
        if claimed:
            cells.append(_published_clean(claim))
        cells.append(_over_seeds([_clean(known.model(training)) for training in line.trainings]))
        for measure in study.measures:
            found = [known.measurement(training, measure) for training in line.trainings]
            if claimed and measure.kind == "transfer":
                cells.append("–" if claim is None or claim.transfer is None else f"{claim.transfer:.0f}")
            cells.append(_robust(found))
            if _promises(measure, study):
                cells.append(_denied(found))
        rows.append(cells)
    return headers, rows


def _by_threat(study: Study, known: Known) -> Grid:
    columns = list(dict.fromkeys((measure.heading, measure.kind) for measure in study.measures))
    planned = {(measure.heading, (measure.norm, measure.eps, measure.samples)) for measure in study.measures}
    threats = list(dict.fromkeys((measure.norm, measure.eps, measure.samples) for measure in study.measures))
    truth = any(kind == "exact" for _, kind in columns)
    headers = [*study.varied, "threat", "n", "clean\n(all test images)"]
    for heading, kind in columns:
        headers += [heading, *(["of these,\nbroken by exact"] if truth and kind == "transfer" else [])]
    rows = []
    for line in study.lines:
        clean = _over_seeds([_clean(known.model(training)) for training in line.trainings])
        for norm, eps, samples in threats:
            cells = [*line.labels, f"{norm} {show_eps(eps)}", str(samples), clean]
            for heading, kind in columns:
                found = [
                    _measured(study, known, training, heading, (norm, eps, samples)) for training in line.trainings
                ]
                asked = (heading, (norm, eps, samples)) in planned
                cells.append(_robust(found) if asked else "–")
                if truth and kind == "transfer":
                    cells.append(_denied(found))
            rows.append(cells)
    return headers, rows


def _measured(
    study: Study, known: Known, training: Training, heading: str, threat: tuple[str, float, int]
) -> KeptMeasurement | None:
    for measure in study.measures:
        if (measure.heading, (measure.norm, measure.eps, measure.samples)) == (heading, threat):
            return known.measurement(training, measure)
    return None


def _curves(study: Study, known: Known) -> Grid:
    """Robust accuracy at every eps of the ladder: exact, or proven."""
    norm, samples = study.measures[0].norm, study.measures[0].samples
    ladder: list[str] = []
    rows = []
    for line in study.lines:
        for training in line.trainings:
            found = known.radii(training, norm, samples)
            if not found:
                rows.append([*line.labels, NOT_RUN])
            for one in found:
                ladder = ladder or list(one.robust)
                kind = "exact" if one.attack == "exact-radius" else "proven at least"
                median = "–" if one.median is None else f"{one.median:.4f}"
                rows.append([*line.labels, kind, *(f"{100 * k / one.n:.2f}" for k in one.robust.values()), median])
    named = {f"{eps:.6g}": show_eps(eps) for eps in LADDERS[norm]}  # kept rounded, shown as 2/255
    headers = [*study.varied, f"n = {samples}", *(named.get(eps, eps) for eps in ladder), "median radius"]
    return headers, [row + [""] * (len(headers) - len(row)) for row in rows]


def _promises(measure: Measure, study: Study) -> bool:
    """Whether the table says what `exact` makes of the samples that this transfer attack leaves standing."""
    about = (measure.norm, measure.eps, measure.samples)
    return measure.kind == "transfer" and any(
        other.kind == "exact" and (other.norm, other.eps, other.samples) == about for other in study.measures
    )


def _claim(line: Line, paper: Paper) -> Claim | None:
    dataset = line.trainings[0].dataset
    found = [claim for claim in paper.claims if line.claim and (claim.model, claim.dataset) == (line.claim, dataset)]
    return found[0] if found else None


def _published_clean(claim: Claim | None) -> str:
    if claim is None or (claim.clean is None and claim.clean_min is None):
        return "–"
    return f"{claim.clean:.0f}" if claim.clean is not None else f"above {claim.clean_min:.0f}"


def _clean(model: KeptModel | None) -> Proportion | None:
    if model is None or model.clean_accuracy is None or model.clean_samples is None:
        return None
    return wilson(round(model.clean_accuracy * model.clean_samples), model.clean_samples)


def _over_seeds(found: Sequence[Proportion | None]) -> str:
    """Percent: one model with its 95 % interval, several with their mean, standard deviation and range."""
    known = [100 * one.value for one in found if one is not None]
    if len(known) < len(found) or not known:
        return NOT_RUN
    if len(known) == 1:
        (only,) = found
        assert only is not None
        return f"{known[0]:.2f} [{100 * only.low:.1f}, {100 * only.high:.1f}]"
    return f"{statistics.mean(known):.2f} ± {statistics.stdev(known):.2f} ({min(known):.1f} to {max(known):.1f})"


def _robust(found: Sequence[KeptMeasurement | None]) -> str:
    return _over_seeds([None if one is None else wilson(one.stands, one.n) for one in found])


def _denied(found: Sequence[KeptMeasurement | None]) -> str:
    """The share of the samples left standing that an exact verifier breaks."""
    shares = []
    for one in found:
        if one is None or one.missed is None or not one.stands:
            return "–"
        shares.append(100 * one.missed / one.stands)
    return f"{statistics.mean(shares):.1f} %"
