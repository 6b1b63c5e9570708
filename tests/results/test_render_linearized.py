"""What is printed of an analysis, and its numbers as JSON."""

import dataclasses
import json

import numpy as np
import pytest

from results.clustering_effect import cosines, effect_of, permutation_test
from results.clustering_verdict import Mode, Ruling, Verdict, judge
from results.groups import Groups, groups_of
from results.linearized import Analysis, Found, Told, matrix_csv
from results.linearized_json import as_json
from results.misled import misled
from results.render_linearized import WIDTH, _p, terminal

CLOTHES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


def found(name: str, groups: Groups, broken: int) -> Found:
    rows = np.random.default_rng(0).normal(size=(10, 20))
    raw, centred = (effect_of(cosines(rows, centred), groups.labels, 0) for centred in (False, True))
    test = permutation_test(centred.similarities, groups.labels, 0)
    starts = tuple(np.linspace(-1, 1, 39).tolist())
    norms = tuple(float(i + 1) for i in range(10))
    modes = tuple(Mode(bn, norms, raw, centred, starts, test, None) for bn in ("drop", "fold"))
    counts = np.zeros((10, 10), dtype=np.int64)
    counts[0, 6] = broken
    told = tuple(Told(mode.bn, "Jacobians at two images differ by 1e-16", "identity: 7 relu") for mode in modes)
    attacked = misled("pgd20", 100, 90, counts, groups.labels, 0)
    verdict = judge(modes, None)
    return Found(name, "0" * 64, told, modes, verdict, None, None, None, attacked, ("standard model: none",))


@pytest.fixture
def analysis() -> Analysis:
    groups = groups_of("fashion-mnist", CLOTHES, 10)
    models = (found("mine", groups, 4), found("other\x1b[2J", groups, 0))
    return Analysis("fashion-mnist", 10_000, groups, None, models, "pgd20 at linf eps = 8/255", 0)


def test_one_table_with_a_verdict_a_model_and_the_rule_below(analysis: Analysis) -> None:
    text = terminal(analysis)
    table = text[text.index(" model") :]
    assert table.count("not shown") == 2 + 1  # in the rule too
    assert text.index("adv. inside") < text.index("not shown") < text.index("Verdict (p <= 0.05)")
    assert "100 % of 4" in table
    assert "none of 90" in " ".join(table.split())
    assert "identity: 7 relu. Self-check: Jacobians" in text
    assert "Row norms 1 (t-shirt) to 10 (ankle boot)" in text
    assert "not to be had: mine: standard model: none" in text
    assert "\x1b" not in text
    assert max(map(len, text[: text.index(" model")].splitlines())) <= WIDTH


def test_families_of_seeds_have_a_table_of_their_own(analysis: Analysis) -> None:
    assert "p seeds" not in terminal(analysis)
    (one, _) = analysis.models
    named = [("plain", None), ("plain-seed1", None), ("at", "plain"), ("at-seed1", "plain")]
    models = tuple(dataclasses.replace(one, model=name, standard=standard) for name, standard in named)
    several = dataclasses.replace(analysis, models=models)
    text = " ".join(terminal(several).split())
    value = f"{one.modes[0].centred.test.statistic:+.2f}"
    assert f"at drop {value} {value} +0.00 (plain: {value} {value}) 1.000 (0.33)" in text
    assert "p seeds asks of trainings" in text
    families = json.loads(as_json(several))["families"]
    assert [(each["family"], each["against"], each["bn"], each["p"]) for each in families] == [
        ("at", "plain", "drop", 1.0),
        ("at", "plain", "fold", 1.0),
    ]


def test_a_long_verdict_is_wrapped_and_not_cropped(analysis: Analysis) -> None:
    beside = ("only with batch norm folded", "class-mean images explain it", "no more than nominal shows")
    (first, *_) = analysis.models
    long = dataclasses.replace(first, verdict=Verdict(Ruling.DEPENDS, beside))
    text = terminal(dataclasses.replace(analysis, models=(long,)))
    table = text[text.index(" model") : text.index("S: mean cosine")]
    column = min(line.index("verdict") for line in table.splitlines() if "verdict" in line)
    words = " ".join(line[column:].strip() for line in table.splitlines()[2:])
    assert " ".join(words.split()).startswith(f"depends on the mode: {'; '.join(beside)}")


def test_json_has_every_number_and_null_for_the_undefined(analysis: Analysis) -> None:
    content = json.loads(as_json(analysis))
    mine, other = content["models"]
    assert mine["verdict"] == "not shown"
    assert [mode["bn"] for mode in mine["modes"]] == ["drop", "fold"]
    assert np.array(mine["modes"][0]["centred"]["cosines"]).shape == (10, 10)
    assert mine["modes"][0]["centred"]["test"]["partitions"] == 2520
    assert mine["adversarial"]["share_inside"] == 1.0
    assert (other["adversarial"]["share_inside"], other["adversarial"]["test"]) == (None, None)
    assert (mine["classifier_rows"], mine["feature_distances"], content["class_mean_images"]) == (None, None, None)
    assert content["groups"]["footwear"] == ["sandal", "sneaker", "ankle boot"]


def test_matrices_as_csv_are_named() -> None:
    assert matrix_csv(np.array([[1.0, 0.25], [0.25, 1.0]]), ["a", "b"]) == "class,a,b\na,1.0,0.25\nb,0.25,1.0\n"


@pytest.mark.parametrize(
    ("p", "shown"),
    [
        (1e-5, "1e-05"),
        (1 / 2520, "0.0004"),
        (0.0447, "0.045"),
        (126 / 2520, "0.050"),
        (127 / 2520, "0.0504"),
        (0.05001, "0.05001"),
        (0.0253, "0.0253"),
        (0.025, "0.025"),
        (1.0, "1.000"),
    ],
)
def test_p_is_never_zero_nor_rounded_to_the_other_side_of_a_level(p: float, shown: str) -> None:
    assert _p(p) == shown
