"""Units on this machine: in this process, or in one single-threaded process a core."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context

import torch

from benchmark.executors.memory import keep_freed_memory
from benchmark.runner import Outcome
from results.aggregate import UnsoundError
from results.records import WorkUnit

RunUnit = Callable[[WorkUnit], Outcome]


@dataclass(frozen=True)
class Failure:
    """A unit that raised: no verdict, no record; the next run tries it again."""

    unit: WorkUnit
    reason: str


def execute(run_unit: RunUnit, units: Iterable[WorkUnit], workers: int) -> Iterator[Outcome | Failure]:
    """Yield outcomes as they finish. UnsoundError goes through and ends the run.

    `run_unit` must be picklable when `workers` > 1. One thread a process is faster than many threads in
    one for small networks; that both give the same numbers is tested, not promised by the kernels.
    """
    todo = list(units)
    if workers <= 1 or len(todo) <= 1:
        for unit in todo:
            yield _attempt(run_unit, unit)
        return
    pool = ProcessPoolExecutor(
        min(workers, len(todo)),
        mp_context=get_context("spawn"),
        initializer=_start_worker,
        initargs=(os.getpid(),),
    )
    try:  # not `with`, which would let every pending unit run after an error
        futures = {pool.submit(_attempt, run_unit, unit): unit for unit in todo}
        for future in as_completed(futures):
            try:
                yield future.result()
            except BrokenProcessPool:
                yield Failure(futures[future], "its worker process was killed (out of memory?)")
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _attempt(run_unit: RunUnit, unit: WorkUnit) -> Outcome | Failure:
    try:
        return run_unit(unit)
    except UnsoundError:
        raise
    except Exception as error:
        return Failure(unit, " ".join(f"{type(error).__name__}: {error}".split()))


def _start_worker(parent: int) -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()


def _end_with_parent(parent: int) -> None:
    """A killed run must not leave workers computing for nobody."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
