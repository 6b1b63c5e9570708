"""What papers report against what AutoAttack leaves, as a figure."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from results.evidence import PAPERS, Evidence
from results.notes import show_eps
from results.robustbench import NAME, load_robustbench
from results.store import write_whole
from results.verdicts import Held

SUFFIXES = (".png", ".svg")

BLUE, ORANGE, GREEN, BLACK = "#0072B2", "#D55E00", "#009E73", "#222222"
"""Okabe and Ito's palette, which survives colour blindness; the shapes of the points differ too."""

CLUSTR = "Alfarra2020ClusTR"
NAMED = 9
"""How many of the most overclaimed entries are named."""

PLACES = (
    *((8, 0, "left"), (-8, 0, "right"), (0, 10, "center"), (0, -10, "center")),
    *((side * 3, rise, "left" if side > 0 else "right") for rise in (9, -9, 17, 25) for side in (1, -1)),
)
"""Where a label may stand: so far to the right of its point and above it, in points, and its alignment."""


def draw(held: Held, path: Path) -> None:
    """All entries of RobustBench that report a number, ClusTR's marked, and the weak and strong numbers measured here.

    Raises StoreError where the file cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with plt.rc_context({"font.size": 10, "svg.hashsalt": "claims", "svg.fonttype": "path"}):
        figure, (axes, key) = plt.subplots(
            1,
            2,
            figsize=(11, 6.9),
            layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1),
            gridspec_kw={"width_ratios": (7, 4)},
        )
        key.axis("off")
        axes.plot([0, 100], [0, 100], color=BLACK, linewidth=1, zorder=1)
        axes.text(91, 93.5, "equal", rotation=45, rotation_mode="anchor", ha="center", color=BLACK)
        axes.set(xlim=(-2, 100), ylim=(-6, 100), aspect="equal")
        axes.set_xlabel("robust accuracy as reported, or under the claim's attack here (%)")
        axes.set_ylabel("robust accuracy under AutoAttack, or under the strongest attack here (%)")
        axes.set_title("Below the line: a stronger attack leaves less than is reported", fontsize=11)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        labels = [*_entries(axes), *_measured(axes, key, held)]
        axes.legend(loc="upper left", frameon=False)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # or saving would move the points away under their labels
        _place(figure, axes, labels)
        metadata = {"Date": None} if path.suffix == ".svg" else {}
        drawn = BytesIO()
        figure.savefig(drawn, dpi=150, metadata=metadata, format=path.suffix.removeprefix("."))
        plt.close(figure)
    write_whole(path, drawn.getvalue())


@dataclass(frozen=True)
class Label:
    """A text beside a point, in percent."""

    text: str
    x: float
    y: float
    color: str


def _entries(axes: Any) -> list[Label]:
    entries = [entry for entry in load_robustbench().entries if entry.overclaimed is not None]
    others = [entry for entry in entries if entry.model_id != CLUSTR]
    axes.scatter(
        [entry.reported for entry in others],
        [entry.autoattack for entry in others],
        s=26,
        color=BLUE,
        alpha=0.55,
        linewidths=0,
        zorder=2,
        label=f"RobustBench, linf and l2 ({len(entries)} entries)",
    )
    (clustr,) = (entry for entry in entries if entry.model_id == CLUSTR)
    axes.scatter(
        [clustr.reported],
        [clustr.autoattack],
        s=170,
        marker="*",
        color=ORANGE,
        zorder=4,
        label=f"ClusTR on RobustBench: {clustr.reported:.2f} reported, {clustr.autoattack:.2f} left",
    )
    worst = sorted(others, key=lambda entry: -(entry.overclaimed or 0))[:NAMED]
    labels = [Label(entry.model_id, entry.reported or 0, entry.autoattack, BLACK) for entry in worst]
    return [Label(clustr.model_id, clustr.reported or 0, clustr.autoattack, ORANGE), *labels]


def _measured(axes: Any, key: Any, held: Held) -> list[Label]:
    """Ours, numbered, with a key beside the axes. Judgements that share a measurement give one point."""
    points: dict[str, tuple[float, float]] = {}
    for one in held.judgements:
        piece, weak, strong = one.evidence, one.measured, one.strongest
        ours = piece is not None and not piece.authors and not one.differs and one.number.paper != NAME
        if ours and piece is not None and weak is not None and strong is not None:
            points.setdefault(_named(piece), (100 * weak.value, 100 * strong.share.value))
        if one.gap is not None:
            head = ", paper's head" if one.gap.weak.head == PAPERS else ""
            weak = one.gap.weak.share
            points.setdefault(_named(one.gap.evidence) + head, (100 * weak.value, 100 * one.gap.strong.share.value))
    if not points:
        return []
    axes.scatter(
        [weak for weak, _ in points.values()],
        [strong for _, strong in points.values()],
        s=44,
        marker="D",
        facecolors="white",
        edgecolors=GREEN,
        linewidths=1.6,
        zorder=3,
        label="measured here: the claim's attack against the strongest",
    )
    ordered = sorted(points.items(), key=lambda item: item[1][1] - item[1][0])
    lines = [
        f"{number}  {name}:\n     {weak:.1f} to {strong:.1f}"
        for number, (name, (weak, strong)) in enumerate(ordered, start=1)
    ]
    text = "\n".join(["Measured here, in % of the test images", *lines])
    key.text(0, 1, text, transform=key.transAxes, va="top", fontsize=8, color=GREEN, linespacing=1.4)
    return [Label(str(number), *point, GREEN) for number, (_, point) in enumerate(ordered, start=1)]


def _named(piece: Evidence) -> str:
    return f"{piece.model}, {piece.dataset}, {show_eps(piece.eps)}"


def _place(figure: Any, axes: Any, labels: Sequence[Label]) -> None:
    """Each label at the first place beside its point where it hides no other label and no marked point."""
    from matplotlib.transforms import Bbox

    renderer = figure.canvas.get_renderer()
    taken = []
    for label in labels:
        x, y = axes.transData.transform((label.x, label.y))
        taken.append(Bbox.from_bounds(x - 5, y - 5, 10, 10))
    for label in sorted(labels, key=lambda one: one.color != GREEN):
        for dx, dy, side in PLACES:
            drawn = axes.annotate(
                label.text,
                (label.x, label.y),
                xytext=(dx, dy),
                textcoords="offset points",
                ha=side,
                va="center",
                fontsize=8,
                color=label.color,
            )
            box = drawn.get_window_extent(renderer)
            inside = axes.bbox.contains(box.x0, box.y0) and axes.bbox.contains(box.x1, box.y1)
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            drawn.remove()
