"""Long experiments in a process of their own: started, found running, asked how far they are."""

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmark.errors import RequestError
from results.store import write_whole

_LOCK, _PROGRESS, LOG = "fresh.lock", "progress.json", "fresh.log"


@contextmanager
def working(folder: Path) -> Iterator[Callable[[str], None]]:
    """Holds the folder, hands out what notes each thing that begins; RequestError where another process holds it."""
    with (folder / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RequestError(f"{folder} is in use: {progress(folder)}") from None

        def told(what: str) -> None:
            write_whole(folder / _PROGRESS, json.dumps({"process": os.getpid(), "doing": what}).encode())

        yield told


def is_running(folder: Path) -> bool:
    """Whether a process holds the folder."""
    path = folder / _LOCK
    if not path.exists():
        return False
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def progress(folder: Path) -> str:
    """What was begun last, and the last line of the log."""
    try:
        state = json.loads((folder / _PROGRESS).read_text(encoding="utf-8"))
        doing = f"process {state['process']}, {state['doing']}"
    except (OSError, ValueError, KeyError, TypeError):
        doing = "nothing begun yet"
    lines = (folder / LOG).read_text(encoding="utf-8").splitlines() if (folder / LOG).exists() else []
    return doing + (f"; last in {folder / LOG}: {lines[-1]}" if lines else "")


def start(arguments: Sequence[str], folder: Path) -> int:
    """`bench` with these arguments, detached from this terminal, its output appended to the log: its process number."""
    with (folder / LOG).open("ab") as log:
        process = subprocess.Popen(  # a list, no shell
            [sys.executable, "-m", "benchmark.cli", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return process.pid
