"""Rows of records built by hand, where every number can be counted on the page."""

import dataclasses
import random

import pytest

from results.aggregate import UnsoundError, wilson
from results.leaderboard import Row, leaderboard
from tests.results.builders import record, results_of, unit, values


def _by_model(rows: list[Row]) -> dict[str, Row]:
    return {row.model: row for row in rows}


def test_a_row_holds_clean_each_attack_alone_and_the_worst_case_per_sample() -> None:
    units, records = results_of({("net", "clean"): "MSSS", ("net", "pgd20"): "MBSS", ("net", "cw100"): "MSBS"})
    (row,) = leaderboard(units, records)
    assert row.clean == wilson(3, 4)
    assert row.attacks == {"pgd20": wilson(2, 4), "cw100": wilson(2, 4)}
    assert row.robust_upper == wilson(1, 4)
    assert row.robust_lower == wilson(0, 4)
    assert (row.n, row.done, row.rank) == (4, 4, 1)


def test_parts_of_an_attack_make_one_column_over_all_samples() -> None:
    units = [unit(attack=a, start=s, stop=s + 2) for a in ("clean", "pgd20") for s in (0, 2)]
    records = [record(u, v) for u, v in zip(units, ["SS", "MS", "SB", "MB"], strict=True)]
    (row,) = leaderboard(units, reversed(records))
    assert row.clean == wilson(3, 4)
    assert row.attacks == {"pgd20": wilson(1, 4)}
    assert row.robust_upper == wilson(1, 4)


def test_heads_of_one_classifier_keep_their_columns_and_share_the_worst_case_and_the_rank() -> None:
    units, records = results_of(
        {
            ("net", "clean"): "MSSS",
            ("net", "pgd20"): "MSSB",
            ("net@scores", "clean"): "MSSS",
            ("net@scores", "pgd20"): "MBSS",
            ("other", "clean"): "SSSS",
            ("other", "pgd20"): "SSBB",
        }
    )
    rows = leaderboard(units, records)
    assert [(row.model, row.rank) for row in rows] == [("other", 1), ("net", 2), ("net@scores", 2)]
    found = _by_model(rows)
    assert found["net"].attacks == {"pgd20": wilson(2, 4)}
    assert found["net@scores"].attacks == {"pgd20": wilson(2, 4)}
    assert found["net"].robust_upper == found["net@scores"].robust_upper == wilson(1, 4)


def test_certified_samples_are_the_lower_bound_and_stand_in_the_upper() -> None:
    units, records = results_of({("net", "clean"): "MSSSS", ("net", "pgd20"): "MBSSS", ("net", "exact"): "MSCCS"})
    (row,) = leaderboard(units, records)
    assert row.robust_upper == wilson(3, 5)
    assert row.robust_lower == wilson(2, 5)


def test_a_sample_broken_through_one_head_and_certified_through_another_stops_the_table() -> None:
    units, records = results_of({("net", "pgd20"): "SB", ("net@scores", "exact"): "SC"})
    with pytest.raises(UnsoundError, match="sample 1 "):
        leaderboard(units, records)


def test_the_same_name_with_other_weights_is_another_classifier() -> None:
    one, first = results_of({("net", "pgd20"): "SB"}, weights_sha256="1" * 64)
    two, second = results_of({("net", "pgd20"): "SC"}, weights_sha256="2" * 64)
    rows = leaderboard(one + two, first + second)
    assert [row.robust_upper for row in rows] == [wilson(2, 2), wilson(1, 2)]


def test_ties_share_a_rank_and_the_next_rank_counts_them() -> None:
    units, records = results_of(
        {
            ("low", "pgd20"): "SBBB",
            ("tied-1", "pgd20"): "SSBB",
            ("best", "pgd20"): "SSSB",
            ("tied-2", "pgd20"): "BBSS",
        }
    )
    rows = leaderboard(units, records)
    assert {row.model: row.rank for row in rows} == {"best": 1, "tied-1": 2, "tied-2": 2, "low": 4}
    assert [row.rank for row in rows] == [1, 2, 2, 4]


def test_among_ties_the_better_clean_accuracy_comes_first() -> None:
    units, records = results_of(
        {
            ("dull", "clean"): "MSSS",
            ("dull", "pgd20"): "MSBB",
            ("keen", "clean"): "SSSS",
            ("keen", "pgd20"): "SBBB",
        }
    )
    rows = leaderboard(units, records)
    assert [(row.model, row.rank) for row in rows] == [("keen", 1), ("dull", 1)]


def test_every_threat_and_data_set_has_its_own_ranks() -> None:
    units, records = [], []
    for changes in ({"eps": 4 / 255}, {"eps": 8 / 255}, {"norm": "l2"}, {"dataset": "mnist"}):
        more = results_of({("a", "pgd20"): "SSBB", ("b", "pgd20"): "SBBB"}, **changes)
        units += more[0]
        records += more[1]
    rows = leaderboard(units, records)
    assert [(row.model, row.rank) for row in rows] == [("a", 1), ("b", 2)] * 4
    tables = [(row.dataset, row.norm, row.eps) for row in rows]
    assert tables == sorted(tables)


def test_an_incomplete_row_says_how_far_it_is_and_is_neither_bounded_nor_ranked() -> None:
    units, records = results_of(
        {
            ("half", "clean"): "SSSS",
            ("half", "pgd20"): "SSSS",
            ("half", "cw100"): "SSSS",
            ("done", "clean"): "SSSS",
            ("done", "pgd20"): "BBBB",
            ("done", "cw100"): "SSSS",
        }
    )
    missing = units[2]
    rows = leaderboard(units, [r for r in records if r.key != missing.key])
    assert [(row.model, row.rank) for row in rows] == [("done", 1), ("half", None)]
    half = _by_model(rows)["half"]
    assert half.done < half.n == 4
    assert half.robust_upper is None
    assert half.robust_lower is None
    assert half.clean == wilson(4, 4)
    assert half.attacks == {"pgd20": wilson(4, 4)}


def test_an_attack_done_in_part_has_no_column_and_counts_its_samples() -> None:
    units = [unit(attack=a, start=s, stop=s + 2) for a in ("clean", "pgd20") for s in (0, 2)]
    records = [record(u, "SS") for u in units[:3]]
    (row,) = leaderboard(units, records)
    assert (row.n, row.done) == (4, 2)
    assert row.attacks == {}
    assert row.clean == wilson(4, 4)
    assert row.robust_upper is None


def test_a_head_without_its_records_leaves_the_whole_classifier_unranked() -> None:
    units, records = results_of({("net", "pgd20"): "SSSS", ("net@scores", "pgd20"): "SSSS"})
    rows = leaderboard(units, records[:1])
    assert [(row.rank, row.robust_upper) for row in rows] == [(None, None), (None, None)]
    assert _by_model(rows)["net@scores"].done == 0


def test_with_no_record_at_all_nothing_is_defined() -> None:
    units, _ = results_of({("net", "clean"): "SS", ("net", "pgd20"): "SS"})
    (row,) = leaderboard(units, [])
    assert (row.n, row.done, row.rank) == (2, 0, None)
    assert (row.clean, row.attacks, row.robust_upper, row.robust_lower) == (None, {}, None, None)


def test_records_of_units_that_are_not_planned_change_nothing() -> None:
    units, records = results_of({("net", "pgd20"): "SS"})
    _, strangers = results_of({("net", "cw100"): "BB"})
    assert leaderboard(units, records + strangers) == leaderboard(units, records)


def test_protocols_are_not_mixed() -> None:
    one, first = results_of({("a", "pgd20"): "SS"}, protocol=1)
    two, second = results_of({("b", "pgd20"): "SS"}, protocol=2)
    with pytest.raises(ValueError, match="mix protocols 1, 2"):
        leaderboard(one + two, first + second)


def test_flags_are_carried_once_with_the_name_of_their_attack() -> None:
    units = [unit(attack=a, start=s, stop=s + 1) for a in ("clean", "pgd20") for s in (0, 1)]
    records = [record(u, "S", flags=("gradient is zero",) if u.attack == "pgd20" else ()) for u in units]
    (row,) = leaderboard(units, records)
    assert row.flags == ["pgd20: gradient is zero"]


def test_flags_of_unfinished_rows_are_carried_too() -> None:
    units = [unit(start=s, stop=s + 1) for s in (0, 1)]
    (row,) = leaderboard(units, [record(units[0], "S", flags=("odd",))])
    assert row.flags == ["pgd20: odd"]


@pytest.mark.parametrize("seed", range(20))
def test_the_worst_case_is_the_count_of_samples_that_stand_everywhere(seed: int) -> None:
    """Random tables, counted by brute force: the upper bound, and that no column lies below it."""
    dice = random.Random(seed)
    n = dice.randint(1, 30)
    clean = [dice.choice("MSSS") for _ in range(n)]
    cells = {
        (head, attack): "".join("M" if right == "M" else dice.choice("SSB") for right in clean)
        for head in ("net", "net@scores", "net@probabilities")
        for attack in ("pgd20", "autoattack")
    }
    cells |= {(head, "clean"): "".join(clean) for head in ("net", "net@scores", "net@probabilities")}
    rows = leaderboard(*results_of(cells))
    stand = sum(all(column[i] == "S" for column in cells.values()) for i in range(n))
    for row in rows:
        assert row.robust_upper == wilson(stand, n)
        assert row.clean is not None
        alone = {attack: v.count("S") / n for (head, attack), v in cells.items() if head == row.model}
        assert values(row.attacks) | {"clean": row.clean.value} == alone
        assert row.robust_upper.value <= min(alone.values())


def test_the_order_of_the_units_does_not_change_the_rows() -> None:
    cells = {(m, a): v for m, v in [("a", "SSBB"), ("b", "SBBB"), ("c", "SSSB")] for a in ("clean", "pgd20")}
    units, records = results_of(cells)
    expected = [dataclasses.asdict(row) for row in leaderboard(units, records)]
    for seed in range(5):
        random.Random(seed).shuffle(units)
        assert [dataclasses.asdict(row) for row in leaderboard(units, records)] == expected


def test_a_flag_of_every_attack_is_said_once_without_their_names() -> None:
    units = [unit(attack=a, start=0, stop=1) for a in ("clean", "pgd20")]
    (row,) = leaderboard(units, [record(u, "S", flags=("trained in the dark",)) for u in units])
    assert row.flags == ["trained in the dark"]
