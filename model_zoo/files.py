"""Files that are there whole or not at all."""

import os
from pathlib import Path


def write_whole(path: Path, payload: bytes, temporary: Path | None = None) -> None:
    """Write under a temporary name in the same folder, flush to the disk, and rename.

    Where several processes may write the same file, each gives a `temporary` of its own.
    """
    temporary = temporary or path.with_name(path.name + ".partial")
    with temporary.open("wb") as file:
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
