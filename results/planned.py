"""Whether plan.json says all that was run: what reads only the plan would take a unit left out for none at all."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from results.checksums import SUMS, listed
from results.records import WorkUnit
from results.store import StoreError


def check_plan(folder: Path, units: Sequence[WorkUnit]) -> None:
    """StoreError for a plan that names a unit twice, leaves out samples of an attack, or was changed since the run.

    An attack that is gone as a whole shows only where the run has ended, by its checksums; `bench verify` plans anew.
    """
    path = folder / "plan.json"
    if len({unit.key for unit in units}) < len(units):
        raise StoreError(f"{path} names a unit twice; bench verify says more")
    parts: dict[tuple[object, ...], dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    for unit in units:
        parts[unit.classifier][f"{unit.model} under {unit.attack}"] |= set(range(unit.start, unit.stop))
    for attacks in parts.values():
        every = set[int]().union(*attacks.values())
        for name, samples in attacks.items():
            if samples < every:
                left = len(every - samples)
                raise StoreError(f"{path} leaves out {left} of {len(every)} samples of {name}; bench verify says more")
    known = listed(folder).get("plan.json")
    if known is not None and hashlib.sha256(path.read_bytes()).hexdigest() != known:
        raise StoreError(f"{path} is not as the run left it: {SUMS} has another sha256; bench verify says more")
