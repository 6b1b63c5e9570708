"""The table of group labels on unseen classes, by hand on a few images."""

import pytest

from results.adaptation import Adaptation, Adapted, against, marks, split_key, table


def adapted(method: str, left_out: tuple[int, ...], zero_shot: str, fine_tuned: str = "1111111111") -> Adapted:
    return Adapted(
        method=method,
        left_out=left_out,
        source=0.9,
        zero_shot=zero_shot,
        zero_shot_by_group={"solids": 0.125, "figures": 1.0},
        fine_tuned=fine_tuned,
        command="bench train",
        weights_sha256="0" * 64,
    )


FOUND = Adaptation(
    dataset="toys",
    classes=("ball", "doll", "cube", "bear"),
    groups={"solids": ("ball", "cube"), "figures": ("doll", "bear")},
    shots=5,
    seed=0,
    largest={"0,1": 0.5, "2,3": 0.6},
    pixels={"0,1": "1100000000", "2,3": "1000000000"},
    models=(
        adapted("standard", (0, 1), "1100000000"),
        adapted("robust", (0, 1), "0111111110"),
        adapted("standard", (2, 3), "1111100000"),
        adapted("robust", (2, 3), "1111000000", "0111111111"),
    ),
)


def test_models_are_compared_image_by_image_within_their_split() -> None:
    found = against(FOUND, "standard", "zero_shot")
    first, adjusted = found["0,1", "robust"]
    assert (first.n, first.kept, first.lost) == (10, 7, 1)
    assert first.p == pytest.approx(2 * 9 / 256), "1 or fewer of 8 flips of a coin, both sides"
    assert adjusted == pytest.approx(4 * 9 / 256), "two tests, Holm"
    second, _ = found["2,3", "robust"]
    assert (second.kept, second.lost, second.p) == (0, 1, 1.0)
    assert set(found) == {("0,1", "robust"), ("2,3", "robust")}


def test_a_split_without_the_reference_is_compared_with_nothing() -> None:
    alone = FOUND.model_copy(update={"models": FOUND.models[1:]})
    assert set(against(alone, "standard", "zero_shot")) == {("2,3", "robust")}


def test_the_table_shows_shares_differences_guesses_and_means() -> None:
    text = table(FOUND)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert lines[0] == [
        "left out",
        "model",
        "source",
        "zero-shot",
        "zero-shot against standard",
        "by group",
        "fine-tuned",
        "fine-tuned against standard",
    ]
    rows = {(line[0], line[1]): line for line in lines[2:]}
    assert rows["0,1", "robust"][3].startswith("80.0 (")
    assert rows["0,1", "robust"][4] == "+60.0 (p 0.14)"
    assert rows["0,1", "standard"][4] == ""
    assert rows["0,1", "robust"][5] == "solids 12, figures 100"
    assert rows["2,3", "pixels"][6].startswith("10.0 (")
    assert rows["2,3", "largest group"][3] == "60.0"
    assert "solids: ball (0), cube (2); figures: doll (1), bear (3)" in text
    mean = "- robust, mean of 2 splits: zero-shot 60.0, above standard in 1 of 2; fine-tuned 95.0, above standard in "
    assert f"{mean}0 of 2" in text
    assert "- standard, mean of 2 splits: zero-shot 35.0; fine-tuned 100.0" in text


def test_of_many_groups_the_table_names_the_worst_and_the_best() -> None:
    many = FOUND.models[0].model_copy(
        update={"zero_shot_by_group": {"a": 0.5, "b": 0.25, "c": 0.75, "d": 0.5, "e": 0.5}}
    )
    assert "| b 25 to c 75 " in table(FOUND.model_copy(update={"models": (many,)}))


def test_marks_and_keys() -> None:
    assert marks([True, False, True]) == "101"
    assert split_key((3, 4)) == "3,4"
    with pytest.raises(ValueError, match="pattern"):
        adapted("standard", (0,), "12")
