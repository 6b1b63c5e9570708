"""Evidence from runs and from committed tables is what was measured, and nothing incomplete is evidence."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from results.evidence import COMMITTED, HOME, committed, from_rows, from_runs, read_rows
from results.leaderboard import leaderboard
from results.records import UnitRecord, WorkUnit
from results.render import as_csv
from results.store import Store, StoreError
from tests.results.builders import record, results_of, unit

CELLS = {
    ("net", "clean"): "SSSM",
    ("net", "pgd20"): "SSBM",
    ("net", "autoattack"): "SBBM",
    ("net@scores", "clean"): "SSSM",
    ("net@scores", "pgd20"): "SSSM",
}


def write(folder: Path, units: Sequence[WorkUnit], records: Sequence[UnitRecord]) -> Path:
    store = Store(folder)
    store.open_for({"name": folder.name})
    store.write_plan(units)
    for one in records:
        store.write(one, None)
    return folder


def test_a_run_is_read_with_heads_worst_case_and_samples(tmp_path: Path) -> None:
    (piece,) = from_runs([write(tmp_path / "run", *results_of(CELLS))], lambda _: "small-resnet")
    assert (piece.model, piece.dataset, piece.n, piece.architecture) == ("net", "digits", 4, "small-resnet")
    assert piece.clean is not None
    assert piece.upper is not None
    assert (piece.clean.value, piece.upper.value) == (0.75, 0.25)
    assert {(one.kind, one.head): one.share.value for one in piece.figures} == {
        ("pgd20", ""): 0.5,
        ("autoattack", ""): 0.25,
        ("pgd20", "scores"): 0.75,
    }
    stands = {(one.kind, one.head): one.stands for one in piece.figures}
    assert stands["pgd20", ""] == {0: True, 1: True, 2: False, 3: False}


def test_a_committed_table_says_what_its_run_says(tmp_path: Path) -> None:
    rows = leaderboard(*results_of(CELLS | {("net", "exact"): "CBBM"}, proves=True))
    path = tmp_path / "leaderboard.csv"
    path.write_text(as_csv(rows))
    read = from_rows(read_rows(path), "here", lambda _: None)
    assert read == from_rows(rows, "here", lambda _: None)


def test_options_that_are_no_head_are_part_of_the_name(tmp_path: Path) -> None:
    cells = {
        ("a/b@c/net.safetensors@nearest=4", "pgd20"): "SB",
        ("a/b@c/net.safetensors@nearest=4,scores", "pgd20"): "SS",
    }
    units = [unit(model=m, group="a/b@c/net.safetensors@nearest=4", attack=a, stop=2) for m, a in cells]
    records = [record(one, letters) for one, letters in zip(units, cells.values(), strict=True)]
    (piece,) = from_runs([write(tmp_path / "run", units, records)], lambda _: None)
    assert (piece.model, piece.nearest) == ("net@nearest=4", 4)
    assert [one.head for one in piece.figures] == ["", "scores"]


def test_incomplete_and_mixed_runs_are_refused_in_one_line(tmp_path: Path) -> None:
    units, records = results_of(CELLS)
    half = write(tmp_path / "half", units, records[:-1])
    with pytest.raises(StoreError, match=r"half is incomplete: 4 of 5 units are done"):
        from_runs([half], lambda _: None)
    new = write(tmp_path / "new", units, records)
    old = write(tmp_path / "old", *results_of(CELLS, protocol=2))
    with pytest.raises(StoreError, match=r"new, .*old: verdicts cannot mix protocols 2, 3") as caught:
        from_runs([new, old], lambda _: None)
    assert "\n" not in str(caught.value)
    with pytest.raises(StoreError, match=r"has no run\.json"):
        from_runs([tmp_path], lambda _: None)


@pytest.mark.parametrize(
    "text", ["", "a,b\n1,2\n", "rank,model,group,dataset,norm,eps,n,done,flags\n1,a,a,d,linf,x,4,4,\n"]
)
def test_another_file_is_no_table(tmp_path: Path, text: str) -> None:
    path = tmp_path / "leaderboard.csv"
    path.write_text(text)
    if not text:
        assert read_rows(path) == []
        return
    with pytest.raises(StoreError, match="is not the CSV of a leaderboard"):
        read_rows(path)


def test_an_unfinished_table_is_no_evidence(tmp_path: Path) -> None:
    units, records = results_of(CELLS)
    path = tmp_path / "leaderboard.csv"
    path.write_text(as_csv(leaderboard(units, records[:-1])))
    with pytest.raises(StoreError, match="is incomplete: net"):
        read_rows(path)


def test_the_committed_tables_agree_with_the_pages_beside_them() -> None:
    """Every share of the CSV stands in the markdown of the same run, in percent."""
    pieces = committed(lambda _: None)
    assert len({piece.source for piece in pieces}) == sum(
        len(list((HOME / folder).glob("*.csv"))) for folder in COMMITTED
    )
    for piece in pieces:
        page = (HOME / piece.source).with_suffix(".md").read_text()
        for figure in piece.figures:
            assert f" {100 * figure.share.value:.2f} " in page, (piece.source, piece.model, figure.attack)
