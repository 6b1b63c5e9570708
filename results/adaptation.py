"""Group labels on classes that a model has never seen: results, the paired comparison, and their table.

Domain adaptation after Bai et al. 2021 (arXiv 2111.12922): a model learns some classes of each group (the source) and
is asked for the group of images of the others (the target).
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Annotated

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from results.aggregate import wilson
from results.paired import Pair, holm, pair

Marks = Annotated[str, Field(pattern=r"^[01]+$")]
"""One digit an image of the target, in the order of the data set's test images: 1 where the group is right."""


_MOST_GROUPS = 4
"""That the table names one by one."""


class Adapted(BaseModel):
    """One model of one split. `source` is its accuracy on the test images of the classes it was trained on.

    `zero_shot`: the group of the class it predicts; `zero_shot_by_group`: the share that is right in each group.
    `fine_tuned`: the group by a linear layer on its features, trained on a few images of the target.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    left_out: tuple[int, ...]
    source: float
    zero_shot: Marks
    zero_shot_by_group: dict[str, float]
    fine_tuned: Marks
    command: str
    weights_sha256: str


class Adaptation(BaseModel):
    """An experiment: its models, and what guessing and the bare pixels reach on the same images.

    `largest` is the share of the largest group in each split's target; `shots` the images a class of the target that
    the fine-tuned layers were trained on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    classes: tuple[str, ...]
    groups: dict[str, tuple[str, ...]]
    shots: int
    seed: int
    largest: dict[str, float]
    pixels: dict[str, Marks]
    models: tuple[Adapted, ...]


def split_key(left_out: Sequence[int]) -> str:
    return ",".join(map(str, left_out))


def marks(right: Sequence[bool]) -> str:
    return "".join("1" if one else "0" for one in right)


def against(found: Adaptation, reference: str, what: str) -> dict[tuple[str, str], tuple[Pair, float]]:
    """Each model against the reference method of its split, by (split, method): the pair, and its p after Holm.

    `what` is `zero_shot` or `fine_tuned`. Splits without the reference are left out.
    """
    first = {split_key(one.left_out): getattr(one, what) for one in found.models if one.method == reference}
    pairs = {
        (split_key(one.left_out), one.method): pair(_right(getattr(one, what)), _right(first[split_key(one.left_out)]))
        for one in found.models
        if one.method != reference and split_key(one.left_out) in first
    }
    adjusted = holm([one.p for one in pairs.values()])
    return {key: (one, p) for (key, one), p in zip(pairs.items(), adjusted, strict=True)}


def table(found: Adaptation, reference: str = "standard") -> str:
    """Markdown: a line a model, what the splits leave out, and each method's mean over the splits."""
    compared = {what: against(found, reference, what) for what in ("zero_shot", "fine_tuned")}
    lines = []
    for key, largest in found.largest.items():
        for one in (one for one in found.models if split_key(one.left_out) == key):
            line = {"left out": key, "model": one.method, "source": f"{100 * one.source:.1f}"}
            for what, title in (("zero_shot", "zero-shot"), ("fine_tuned", "fine-tuned")):
                line[title] = _share(getattr(one, what))
                line[f"{title} against {reference}"] = _difference(compared[what].get((key, one.method)))
                if what == "zero_shot":
                    line["by group"] = _by_group(one.zero_shot_by_group)
            lines.append(line)
        lines.append({"left out": key, "model": "pixels", "fine-tuned": _share(found.pixels[key])})
        lines.append({"left out": key, "model": "largest group", "zero-shot": f"{100 * largest:.1f}"})
    frame = pd.DataFrame(lines, dtype=str).fillna("")
    align = ["left", "left", *["right"] * (frame.shape[1] - 2)]
    shown = frame.to_markdown(index=False, disable_numparse=True, colalign=align)
    return "\n".join([_head(found), "", shown, "", *_means(found, reference, compared)])


def _right(digits: str) -> Mapping[int, bool]:
    return {place: digit == "1" for place, digit in enumerate(digits)}


def _share(digits: str) -> str:
    found = wilson(digits.count("1"), len(digits))
    return f"{100 * found.value:.1f} ({100 * found.low:.1f} to {100 * found.high:.1f})"


def _by_group(shares: Mapping[str, float]) -> str:
    """Each group's share; of many groups the lowest and the highest."""
    if len(shares) <= _MOST_GROUPS:
        return ", ".join(f"{group} {100 * share:.0f}" for group, share in shares.items())
    ends = (min(shares, key=lambda group: shares[group]), max(shares, key=lambda group: shares[group]))
    return " to ".join(f"{group} {100 * shares[group]:.0f}" for group in ends)


def _difference(compared: tuple[Pair, float] | None) -> str:
    if compared is None:
        return ""
    return f"{100 * compared[0].difference:+.1f} (p {compared[1]:.2g})"


def _head(found: Adaptation) -> str:
    numbers = {name: number for number, name in enumerate(found.classes)}
    groups = "; ".join(
        f"{group}: {', '.join(f'{name} ({numbers[name]})' for name in names)}" for group, names in found.groups.items()
    )
    return (
        f"{found.dataset}: the group of test images of classes left out of the training (source: accuracy on the "
        f"others), {found.shots} images a class for fine-tuning, in percent. {groups}."
    )


def _means(
    found: Adaptation, reference: str, compared: Mapping[str, Mapping[tuple[str, str], tuple[Pair, float]]]
) -> list[str]:
    lines = []
    for method in dict.fromkeys(one.method for one in found.models):
        models = [one for one in found.models if one.method == method]
        told = []
        for what, title in (("zero_shot", "zero-shot"), ("fine_tuned", "fine-tuned")):
            mean = statistics.mean(getattr(one, what).count("1") / len(getattr(one, what)) for one in models)
            pairs = [pair for (_, name), (pair, _) in compared[what].items() if name == method]
            better = f", above {reference} in {sum(p.difference > 0 for p in pairs)} of {len(pairs)}" if pairs else ""
            told.append(f"{title} {100 * mean:.1f}{better}")
        lines.append(f"- {method}, mean of {len(models)} splits: {'; '.join(told)}")
    return lines
