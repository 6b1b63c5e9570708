"""Groups that ship against what is known elsewhere of them, and files that are wrong, each with its line."""

from pathlib import Path

import pytest

from results.groups import FOLDER, Groups, GroupsError, groups_of, read_groups, shipped

CLOTHES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")

COARSE = [
    *(4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11, 6, 11, 5, 10, 7, 6, 13, 15, 3, 15, 0, 11, 1),
    *(10, 12, 14, 16, 9, 11, 5, 5, 19, 8, 8, 15, 13, 14, 17, 18, 10, 16, 4, 17, 4, 2, 0, 17, 4, 18, 17, 10, 3, 2, 12),
    *(12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16, 12, 9, 13, 15, 13, 16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0),
    *(17, 8, 14, 13),
]
"""The data set's own coarse label of each fine label, as its files have them."""


def test_cifar100_has_the_coarse_labels_of_its_files() -> None:
    groups = groups_of("cifar100", (), 100)
    assert list(groups.labels) == COARSE
    assert {len(groups.members(group)) for group in range(20)} == {5}
    of = {name: groups.names[label] for name, label in zip(groups.classes, groups.labels, strict=True)}
    assert (of["whale"], of["willow_tree"], of["worm"]) == (
        "aquatic mammals",
        "trees",
        "non-insect invertebrates",
    )
    assert (groups.classes[0], groups.classes[99]) == ("apple", "worm")
    assert list(groups.classes) == sorted(groups.classes)


def test_cifar10_has_four_vehicles() -> None:
    groups = groups_of("cifar10:validation", (), 10)
    assert groups.members(groups.names.index("vehicles")) == [0, 1, 8, 9]
    assert groups_of("cifar10-q75", (), 10).labels == groups.labels


def test_fashion_mnist_has_tops_footwear_and_others_with_a_reason() -> None:
    groups = groups_of("fashion-mnist", CLOTHES, 10)
    assert groups.classes == CLOTHES
    assert {name: groups.members(g) for g, name in enumerate(groups.names)} == {
        "tops": [0, 2, 3, 4, 6],
        "footwear": [5, 7, 9],
        "others": [1, 8],
    }
    assert groups.order == [0, 2, 3, 4, 6, 5, 7, 9, 1, 8]
    assert groups.reason


def test_every_file_that_ships_is_for_some_data_set_and_gives_its_reason() -> None:
    assert len(shipped()) == len(list(FOLDER.glob("*.yaml"))) == 3
    assert all(content.datasets and content.reason for _, content in shipped())


@pytest.mark.parametrize("dataset", ["mnist", "digits", "svhn", "npz:mine.npz"])
def test_a_data_set_without_groups_is_told_in_one_line(dataset: str) -> None:
    with pytest.raises(GroupsError, match=r"has no groups of classes here: .*--groups FILE") as caught:
        groups_of(dataset, (), 10)
    assert "\n" not in str(caught.value)


def written(tmp_path: Path, text: str, num_classes: int = 4, names: tuple[str, ...] = ()) -> Groups:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return groups_of("npz:x.npz", names, num_classes, path)


def test_members_go_by_name_or_number(tmp_path: Path) -> None:
    found = written(tmp_path, "groups: {a: [0, two], b: [1, 3]}", names=("zero", "one", "two", "three"))
    assert found.labels == (0, 1, 0, 1)
    assert found.classes == ("zero", "one", "two", "three")
    assert written(tmp_path, "groups: {a: [0, 2], b: [1, 3]}").classes == ("0", "1", "2", "3")
    assert written(tmp_path, "{classes: [w, x, y, z], groups: {a: [w, 1], b: [y, z]}}").classes == ("w", "x", "y", "z")


def test_names_that_look_like_numbers_are_not_taken_for_places(tmp_path: Path) -> None:
    """Folders named 0 to 10 come in the order of their letters, where class 2 is the folder 10."""
    names = tuple(sorted(map(str, range(11))))
    with pytest.raises(GroupsError, match=r"groups\.low: 2 is the name of class 3; write '2' in quotes for that one"):
        written(tmp_path, "groups: {low: [0, 1, 2, 3, 4], high: [5, 6, 7, 8, 9, 10]}", 11, names)
    quoted = "groups: {low: ['0', '1', '2', '3'], high: ['4', '5', '6', '7', '8', '9', '10']}"
    assert [names[index] for index in written(tmp_path, quoted, 11, names).members(0)] == ["0", "1", "2", "3"]


def test_a_file_cannot_put_the_classes_of_a_data_set_in_another_order(tmp_path: Path) -> None:
    text = "{classes: [cat, apple, dog, bus], groups: {animals: [cat, dog], others: [apple, bus]}}"
    with pytest.raises(GroupsError, match="classes: 'apple' has the number 1 there and 0 in npz:"):
        written(tmp_path, text, names=("apple", "bus", "cat", "dog"))
    assert written(tmp_path, text, names=("Cat", "Apple", "dog", "Bus")).labels == (0, 1, 0, 1)


WRONG = {
    "{classes: [0, 1], groups: {a: [0], b: [1]}}": "classes.0: must be a name, in quotes where it looks like a number",
    "group: {a: [0]}": "unknown field group; known: groups, classes, datasets, reason",
    "{groups: {a: [0, 1], b: [2]}}": "class '3' is in no group (1 of 4 are in none)",
    "{groups: {a: [0, 1], b: [1, 2, 3]}}": "class '1' is in 'a' and in 'b'",
    "{groups: {a: [0, 0], b: [1, 2, 3]}}": "class '0' is twice in 'a'",
    "{groups: {a: [0, 1], b: [2, 4]}}": "groups.b: no class 4, they are numbered 0 to 3",
    "{groups: {a: [0, cat], b: [2, 3]}}": "groups.a: unknown class 'cat'; known: 0, 1, 2, 3",
    "{classes: [x, y], groups: {a: [x], b: [y]}}": "it is for 2 classes, npz:x.npz has 4",
    "{classes: [x, y, y, z], groups: {a: [x, y], b: [z]}}": "classes: 'y' is there twice",
    "{groups: {a: [0, 1, 2, 3]}}": "there must be two groups or more",
    "{groups: {a: [0], b: [1], c: [2], d: [3]}}": "there must be two groups or more",
    "{groups: {a: []}}": "groups.a",
    "{groups: {a: [true]}}": "groups.a.0",
    "{groups: {a: [1.5]}}": "groups.a.0",
    "{groups: [1]}": "groups: Input should be a valid dictionary",
    "[1, 2]": "the file: must name groups and their classes",
    "": "the file: must name groups and their classes",
    "{groups: {a: [2, 3], a: [0, 1], b: [2, 3]}}": "'a' is there twice",
    "{groups: {a: [0": "is not YAML",
    '{groups: {"a\\eb": [0, 1], b: [2, 3]}}': "must be one line",
    "{reason: 3, groups: {a: [0, 1], b: [2, 3]}}": "reason: ",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_file_is_told_in_one_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(GroupsError) as caught:
        written(tmp_path, text)
    message = str(caught.value)
    assert WRONG[text] in message
    assert "mine.yaml" in message
    assert message.isprintable()


def test_files_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    with pytest.raises(GroupsError, match="cannot be read"):
        read_groups(tmp_path / "none.yaml")
    with pytest.raises(GroupsError, match="cannot be read"):
        read_groups(tmp_path)
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(GroupsError, match="not text"):
        read_groups(tmp_path / "x.yaml")
    (tmp_path / "x.yaml").write_bytes(b"#" * 1_000_001)
    with pytest.raises(GroupsError, match="more than"):
        read_groups(tmp_path / "x.yaml")
