"""The folder of a `bench analyze` verb: it belongs to one request, and what is in it is never another's."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmark.errors import RequestError
from results.printable import printable
from results.store import write_whole

MARKER = "analysis.json"


def refuse_foreign(path: Path, kind: str, request: Mapping[str, Any]) -> None:
    """RequestError, one line, for a folder that holds anything but this very analysis."""
    try:
        if path.exists() and not path.is_dir():
            raise RequestError(f"--out {path} is not a folder")
        held = [part.name for part in path.iterdir()] if path.exists() else []
    except OSError as error:
        raise RequestError(f"--out {path} cannot be read: {error.strerror}") from None
    if all(name == f"{MARKER}.partial" for name in held):  # what a kill in the first moment leaves
        return
    try:
        present: Any = json.loads((path / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        present = None
    if not isinstance(present, dict) or present.get("kind") != kind:
        raise RequestError(f"--out {path} exists and holds no such analysis; choose another folder")
    wanted = json.loads(json.dumps(_description(kind, request)))["request"]
    held_for = present.get("request")
    if held_for != wanted:
        ours, other = (_fields(one) for one in (wanted, held_for))
        differs = ", ".join(sorted(key for key in {*ours, *other} if ours.get(key) != other.get(key)))
        raise RequestError(
            f"--out {path} holds another analysis; choose another folder (it differs in {printable(differs)})"
        )


def open_folder(path: Path, kind: str, request: Mapping[str, Any]) -> None:
    """Make it, and say whose it is."""
    refuse_foreign(path, kind, request)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"--out {path} cannot be made: {error.strerror}") from None
    text = json.dumps(_description(kind, request), indent=1, sort_keys=True) + "\n"
    write_whole(path / MARKER, text.encode())


@contextlib.contextmanager
def kept(path: Path) -> Iterator[None]:
    """The folder kept from other analyses meanwhile; RequestError when one is using it."""
    folder = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RequestError(
                    f"--out {path} is in use by another bench analyze; wait for it, or choose another folder"
                ) from None
        yield
    finally:
        os.close(folder)


def _fields(request: object) -> dict[str, Any]:
    """A request with the fields of its configuration among its own; those of another schema may be anything."""
    whole = dict(request) if isinstance(request, dict) else {}
    inner = whole.pop("configuration", None)
    return whole | (inner if isinstance(inner, dict) else {})


def _description(kind: str, request: Mapping[str, Any]) -> dict[str, Any]:
    return {"kind": kind, "request": dict(request)}
