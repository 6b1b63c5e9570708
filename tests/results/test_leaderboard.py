"""Rows of records built by hand, where every number can be counted on the page."""

import dataclasses
import random
from typing import Any

import pytest

from results.aggregate import UnsoundError, wilson
from results.leaderboard import Row, check_sound, leaderboard
from results.records import UnitRecord, WorkUnit
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


def _verified(cells: dict[tuple[str, str], str], **changes: Any) -> tuple[list[WorkUnit], list[UnitRecord]]:
    """Units and records of a table, those of exact and certify a verifier's."""
    units, records = [], []
    for cell, verdicts in cells.items():
        more = results_of({cell: verdicts}, proves=cell[1] in ("exact", "certify"), **changes)
        units += more[0]
        records += more[1]
    return units, records


def test_what_verifiers_prove_and_attacks_miss_is_counted_sample_by_sample() -> None:
    """Exact breaks samples 2, 3 and 4 and leaves 7 undecided; pgd20 misses 3 and 4, noise all three."""
    units, records = _verified(
        {
            ("net", "clean"): "MSSSSSSS",
            ("net", "exact"): "MCBBBCCS",
            ("net", "certify"): "MSSSSCSS",
            ("net", "pgd20"): "MCBSSCCS",
            ("net", "noise"): "MCSSSCCS",
        }
    )
    (row,) = leaderboard(units, records)
    assert row.proofs == {"exact": wilson(3, 8), "certify": wilson(1, 8)}
    assert values(row.attacks) == {"exact": 4 / 8, "certify": 7 / 8, "pgd20": 6 / 8, "noise": 7 / 8}
    assert (row.robust_lower, row.robust_upper) == (wilson(3, 8), wilson(4, 8))
    assert row.exactly_broken == 3
    assert row.missed == {"pgd20": 2, "noise": 3}


def test_what_a_certificate_cannot_prove_and_exact_breaks_is_broken() -> None:
    units, records = _verified({("net", "certify"): "SSCS", ("net", "exact"): "BCCB", ("net", "pgd20"): "SCCB"})
    (row,) = leaderboard(units, records)
    assert (row.robust_lower, row.robust_upper) == (wilson(2, 4), wilson(2, 4))
    assert (row.exactly_broken, row.missed) == (2, {"pgd20": 1})


def test_a_verifier_of_one_head_bounds_every_head_and_tells_what_each_misses() -> None:
    units, records = _verified(
        {
            ("net@scores", "clean"): "SSSM",
            ("net@scores", "exact"): "CBBM",
            ("net@scores", "pgd20"): "CSSM",
            ("net", "clean"): "SSSM",
            ("net", "pgd20"): "CBSM",
        }
    )
    rows = _by_model(leaderboard(units, records))
    assert {(row.robust_lower, row.robust_upper) for row in rows.values()} == {(wilson(1, 4), wilson(1, 4))}
    assert (rows["net@scores"].missed, rows["net"].missed) == ({"pgd20": 2}, {"pgd20": 1})
    assert (list(rows["net@scores"].proofs), list(rows["net"].proofs)) == (["exact"], [])


def test_nothing_is_missed_as_long_as_a_unit_is_missing() -> None:
    units, records = _verified({("net", "exact"): "CB", ("net", "pgd20"): "CS", ("net", "noise"): "CS"})
    (row,) = leaderboard(units, records[:2])
    assert (row.missed, row.exactly_broken, row.robust_lower) == ({}, 0, None)
    assert row.proofs == {"exact": wilson(1, 2)}


def test_a_verifier_done_in_part_has_no_column() -> None:
    units = [unit(attack=a, proves=a == "exact", start=s, stop=s + 2) for a in ("clean", "exact") for s in (0, 2)]
    (row,) = leaderboard(units, [record(u, "CB" if u.attack == "exact" else "SS") for u in units[:3]])
    assert (row.proofs, row.attacks, row.done) == ({}, {}, 2)


EVIDENCE = (
    r"sample 1 is both broken and certified \(linf 0\.03137\): net under pgd20, image in units/{}\.safetensors; net"
)


@pytest.mark.parametrize("order", [1, -1])
def test_a_contradiction_names_both_files_whatever_comes_first(order: int) -> None:
    units, records = _verified({("net", "exact"): "SC", ("net", "pgd20"): "SB", ("net", "noise"): "SC"})
    proof = records[0].model_copy(update={"proofs_sha256": "p" * 64})
    told = EVIDENCE.format(units[1].key) + f" under exact, proof in units/{units[0].key}\\.proofs\\.safetensors$"
    with pytest.raises(UnsoundError, match=told):
        check_sound([proof, *records[1:]][::order])
    with pytest.raises(UnsoundError, match=told):
        leaderboard(units, [proof, records[1]])  # unfinished, and yet it stops


def test_a_certificate_without_proofs_is_shown_by_its_record() -> None:
    units, records = results_of({("net", "mine:attack"): "SC", ("net", "pgd20"): "SB"})
    with pytest.raises(UnsoundError, match=f"mine:attack, proof in units/{units[0].key}.json$"):
        check_sound(records)


@pytest.mark.parametrize(
    "changes",
    [
        {"eps": 4 / 255},
        {"norm": "l2"},
        {"weights_sha256": "x" * 64},
        {"data_sha256": "x" * 64},
        {"dataset": "mnist"},
        {"group": "other"},
        {"start": 4, "stop": 8},
    ],
)
def test_certificates_are_about_their_own_threat_classifier_and_samples(changes: dict[str, Any]) -> None:
    check_sound([record(unit(attack="exact", proves=True), "CCCC"), record(unit(**changes), "BBBB")])


@pytest.mark.parametrize("seed", range(20))
def test_both_bounds_are_counts_by_hand_over_random_tables(seed: int) -> None:
    dice = random.Random(seed)
    n = dice.randint(1, 30)
    truth = [dice.choice("MCCBBS") for _ in range(n)]
    possible = {"M": "M", "C": "CS", "B": "BS", "S": "S"}
    cells = {("net", "clean"): "".join("M" if t == "M" else "S" for t in truth), ("net", "exact"): "".join(truth)}
    for attack in ("certify", "pgd20", "noise"):
        kinds = possible | {"B": "S"} if attack == "certify" else possible
        cells["net", attack] = "".join(dice.choice(kinds[t]) for t in truth)
    (row,) = leaderboard(*_verified(cells))
    assert row.robust_lower == wilson(truth.count("C"), n)
    assert row.robust_upper == wilson(truth.count("C") + truth.count("S"), n)
    broken = [i for i, t in enumerate(truth) if t == "B"]
    assert row.exactly_broken == len(broken)
    expected = {a: sum(cells["net", a][i] == "S" for i in broken) for a in ("pgd20", "noise")} if broken else {}
    assert row.missed == expected
    assert row.robust_lower is not None
    assert row.robust_upper is not None
    assert row.robust_lower.value <= row.robust_upper.value <= min(p.value for p in row.attacks.values())
    assert max(p.value for p in row.proofs.values()) <= row.robust_lower.value
