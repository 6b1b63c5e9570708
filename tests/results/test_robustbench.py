"""RobustBench's entries: the counts that are known of them, and a mistake in the file is named."""

from pathlib import Path

import pytest

from results.claims import FOLDER, ClaimsError
from results.robustbench import COUNTERPARTS, QUOTED, load_robustbench, read_robustbench


def test_the_entries_are_those_that_are_known() -> None:
    entries = load_robustbench().entries
    gaps = [entry.overclaimed for entry in entries if entry.overclaimed is not None]
    assert len(entries) == 188
    assert len(gaps) == 185
    assert sum(abs(gap) > 5 for gap in gaps) == 16
    clustr = load_robustbench().entry("cifar10", "linf", "Alfarra2020ClusTR")
    assert (clustr.reported, clustr.autoattack, clustr.clean, clustr.eps) == (74.04, 0.0, 91.03, 8 / 255)
    assert clustr.architecture == "WideResNet-28-10"
    assert max(gaps) == clustr.overclaimed == 74.04
    assert len({(entry.dataset, entry.norm, entry.model_id) for entry in entries}) == 188


def test_every_counterpart_is_an_entry() -> None:
    for row in (*COUNTERPARTS.values(), *QUOTED.values()):
        assert load_robustbench().entry("cifar10", "linf", row.model_id)
    with pytest.raises(KeyError):
        load_robustbench().entry("cifar10", "l2", "Alfarra2020ClusTR")


@pytest.mark.parametrize(
    ("wrong", "right", "named"),
    [
        ("autoattack: 0.00,", "autoatack: 0.00,", "unknown field entries.26.autoatack; known: model_id"),
        ("autoattack: 0.00,", "", "entries.26.autoattack: Field required"),
        ("reported: 74.04,", "reported: 740.4,", "entries.26.reported: "),
        ("imagenet: 5000", "imagenett: 5000", "samples lacks imagenet"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, wrong: str, right: str, named: str) -> None:
    lines = (FOLDER / "robustbench.yaml").read_text().splitlines()
    changed = [line.replace(wrong, right) if "ClusTR" in line or "samples:" in line else line for line in lines]
    assert changed != lines
    path = tmp_path / "robustbench.yaml"
    path.write_text("\n".join(changed))
    with pytest.raises(ClaimsError) as caught:
        read_robustbench(path)
    assert named in str(caught.value)
    assert str(path) in str(caught.value)
