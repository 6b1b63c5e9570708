"""What is kept of several diagnoses of one run."""

import pytest

from results.findings import Finding, Severity
from results.probed import Diagnosis, Probed


def _probed(samples: int, *found: Finding, eps: float = 0.1, weights: str = "w") -> Probed:
    return Probed(
        group="net",
        weights_sha256=weights,
        dataset="digits",
        data_sha256="d",
        norm="linf",
        eps=eps,
        samples=samples,
        standing=1,
        seed=0,
        probes=(),
        findings=found,
    )


def _found(count: int) -> Finding:
    seen = f"Square broke {count}"
    return Finding(check="gradient-masking", severity=Severity.FLATTERS, model="net", count=count, n=9, seen=seen)


def test_fewer_samples_or_another_seed_take_no_finding_away() -> None:
    """Or a second look that sees less would raise a grade."""
    diagnosis = Diagnosis().with_newer([_probed(100, _found(3))]).with_newer([_probed(5)])
    (kept,) = diagnosis.classifiers
    assert (kept.samples, kept.findings) == (5, (_found(3),))


def test_of_a_finding_made_again_the_newer_numbers_are_kept() -> None:
    (kept,) = Diagnosis().with_newer([_probed(5, _found(1))]).with_newer([_probed(100, _found(3))]).classifiers
    assert kept.findings == (_found(3),)


@pytest.mark.parametrize("other", [{"eps": 0.2}, {"weights": "v"}])
def test_findings_stay_with_their_weights_and_threat(other: dict[str, object]) -> None:
    diagnosis = Diagnosis().with_newer([_probed(100, _found(3))]).with_newer([_probed(100, **other)])  # type: ignore[arg-type]
    assert [one.findings for one in diagnosis.classifiers] == [(_found(3),), ()]
