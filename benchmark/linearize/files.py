"""The folder of an analysis: rows, matrices, trees and figures, one folder a model; effect.json with every number."""

import csv
import re
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import numpy as np

from benchmark.analysis_folder import open_folder, refuse_foreign
from benchmark.linearize.done import Done, read_done, write_done
from benchmark.linearize.request import Prepared, Subject
from benchmark.linearize.rewrite import Change
from results.clustering_effect import Effect, newick
from results.linearized import Analysis, Found, matrix_csv
from results.linearized_json import as_json
from results.store import StoreError, pack, write_whole

KIND = "bench analyze linearize"


class Folder:
    """Where an analysis writes; a folder of anything else is refused."""

    def __init__(self, path: Path, prepared: Prepared):
        self.path, self.groups = path, prepared.groups
        self._request = prepared.identity()
        self._taken: dict[str, str] = {}
        refuse_foreign(path, KIND, self._request)

    def open(self) -> None:
        """Make it, and say whose it is."""
        open_folder(self.path, KIND, self._request)

    def done(self, prepared: Prepared) -> Done:
        """What an earlier call of the same command computed."""
        return read_done(self.path, prepared.starts, len(self.groups.classes))

    def note(self, done: Done) -> None:
        write_done(self.path, done)

    def keep(self, subject: Subject, found: Found) -> None:
        """All that is known of one model but the numbers that go into effect.json."""
        from results.plots_clustering import cosine_figure, matrix_figure, misled_figure, save, tree_figure

        folder = self._of(found.model)
        names = self.groups.classes
        for mode in found.modes:
            rows = subject.rows[mode.bn]  # type: ignore[index]  # its modes are the request's
            arrays = {"rows": rows.rows, "labels": rows.labels, "classes": rows.classes, "head": rows.head}
            write_whole(folder / f"rows-{mode.bn}.safetensors", pack(arrays))
            norms = matrix_csv(np.array(mode.norms)[:, None], names, ["norm"])
            write_whole(folder / f"row-norms-{mode.bn}.csv", norms.encode())
            write_whole(folder / f"changes-{mode.bn}.csv", _changes(rows.changes).encode())
            for how, effect in (("raw", mode.raw), ("centred", mode.centred)):
                self._effect(folder, f"{mode.bn}-{how}", effect)
            title = f"{found.model}, batch norm {'dropped' if mode.bn == 'drop' else 'folded'}"
            save(cosine_figure(title, mode.raw, mode.centred, self.groups), folder / f"cosines-{mode.bn}")
            save(tree_figure(f"{title}, mean row taken out", mode.centred, self.groups), folder / f"tree-{mode.bn}")
        if found.distances is not None:
            write_whole(folder / "feature-distances.csv", matrix_csv(found.distances, names).encode())
            title = f"{found.model}: distances between class means of the features"
            save(matrix_figure(title, "distance", found.distances, self.groups), folder / "feature-distances")
        counts = found.misled.counts
        write_whole(folder / "misclassified.csv", matrix_csv(counts, names).encode())
        title = (
            f"{found.model}: {found.misled.broken} of {found.misled.right} misclassified under {found.misled.attack}"
        )
        save(misled_figure(title, found.misled, self.groups), folder / "misclassified")

    def finish(self, analysis: Analysis, text: str) -> None:
        """The control that all models share, every number, and what was printed."""
        from results.plots_clustering import cosine_figure, save

        if analysis.means is not None:
            folder = self._of("class-mean images")
            for how, effect in zip(("raw", "centred"), analysis.means, strict=True):
                self._effect(folder, how, effect)
            save(cosine_figure("class-mean images", *analysis.means, self.groups), folder / "cosines")
        write_whole(self.path / "effect.json", as_json(analysis).encode())
        write_whole(self.path / "effect.txt", text.encode())

    def _effect(self, folder: Path, stem: str, effect: Effect) -> None:
        names = self.groups.classes
        write_whole(folder / f"cosines-{stem}.csv", matrix_csv(effect.similarities, names).encode())
        write_whole(folder / f"tree-{stem}.nwk", newick(effect.linkage, names).encode())

    def _of(self, name: str) -> Path:
        """A model's folder; names may hold what a file system does not."""
        if name not in self._taken:
            plain = re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.") or "model"
            stems = (plain, *(f"{plain}-{i}" for i in range(2, len(self._taken) + 3)))
            self._taken[name] = next(stem for stem in stems if stem not in self._taken.values())
        folder = self.path / self._taken[name]
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:  # a file of that name, a full disk
            raise StoreError(f"{folder} cannot be made: {error.strerror}") from None
        return folder


def _changes(changes: Sequence[Change]) -> str:
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("operation", "where", "became"))
    writer.writerows((one.operation, one.where, one.became) for one in changes)
    return text.getvalue()
