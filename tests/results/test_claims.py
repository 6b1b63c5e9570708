"""Published numbers: every file reads, a mistake in one is named, and values are those that were copied."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from results.claims import FOLDER, Claim, ClaimsError, load_claims, papers, read_claims


def test_every_paper_that_ships_reads_and_loses_nothing() -> None:
    assert papers() == ("clustering-training", "clustr", "kmeans", "linearized")
    for name in papers():
        content = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
        read = load_claims(name).model_dump(exclude_unset=True)
        assert set(read) == set(content)
        for claim, written in zip(read["claims"], content["claims"], strict=True):
            assert set(claim) == set(written)
            assert all(claim[key] == value for key, value in written.items() if key != "eps")


def test_tables_and_radii_are_found() -> None:
    paper = load_claims("clustr")
    assert paper.eps == 8 / 255
    assert [claim.eps for claim in paper.of("4") if claim.dataset == "svhn"] == [2 / 255, 16 / 255, 25.5 / 255]
    (best,) = [c for c in paper.of("1") if (c.dataset, c.model) == ("cifar10", "clustr-qtrades")]
    assert (best.clean, best.pgd20, best.pgd100, best.magnet100, best.autoattack) == (91.03, 74.44, 74.04, 66.52, None)
    assert len(paper.of("E.1", "E.4")) == 4
    assert paper.training_minutes_on_a_gtx_1080ti["cifar10"]["trades"] == 534


def test_a_claim_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_claims("clustr").claims[0].clean = 1.0


@pytest.mark.parametrize(
    ("claim", "named"),
    [
        ("{dataset: cifar10, model: a, claen: 90}", "claims.0.claen; known: dataset"),
        ("{dataset: cifar10, model: a, clean: 900}", "claims.0.clean: "),
        ("{dataset: cifar10, model: a, clean: 90, eps: 8/zero}", "claims.0.eps: must be a number or a fraction"),
        ("{dataset: cifar10, clean: 90}", "claims.0.model: Field required"),
        ("{dataset: cifar10, model: a, note: nothing}", "claims.0: states none of clean"),
        ("{dataset: cifar10, model: a, clean_min: 9, clean_max: 8}", "claims.0: clean_min 9 is above clean_max 8"),
        ("{dataset: [cifar10", "is not YAML"),
        ("{dataset: 2001-99-99}", "is not YAML"),
        ("!!timestamp x", "is not YAML"),
        ("[" * 1000, "nested too deep"),
        ("{dataset: cifar10, model: a, clean: 90, eps: .inf}", "claims.0.eps: "),
        ("{dataset: cifar10, model: a, clean: 90, eps: 1/1e-320}", "claims.0.eps: "),
        ("{dataset: cifar10, model: a, clean: true}", "claims.0.clean: must be a number, got true"),
        ('{dataset: cifar10, model: "a\\e[31m", clean: 90}', "claims.0.model: must be one line"),
        ("{dataset: cifar10, model: a, clean: 90, nearest: 9999999999}", "claims.0.nearest: "),
        ("x" * 1_000_001, "is refused: it has more than"),
    ],
)
def test_a_mistake_is_named_in_one_line(tmp_path: Path, claim: str, named: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(f"title: t\nsource: s\nclaims:\n  - {claim}\n")
    with pytest.raises(ClaimsError) as caught:
        read_claims(path)
    assert named in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_field_of_a_paper_and_an_unknown_paper_are_named(tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text("titel: t\n")
    with pytest.raises(ClaimsError, match="unknown field titel; known: title"):
        read_claims(tmp_path / "wrong.yaml")
    with pytest.raises(ClaimsError, match="one of clustering-training, clustr, kmeans, linearized, got 'nope'"):
        load_claims("nope")
    with pytest.raises(ClaimsError, match="cannot be read"):
        read_claims(tmp_path / "absent.yaml")


def test_ranges_are_claims_too() -> None:
    claim = Claim(dataset="cifar10", model="a", autoattack_max=1)
    assert (claim.autoattack, claim.autoattack_max) == (None, 1)
