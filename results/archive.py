"""A run in a zip file, unpacked with distrust: nothing outside a temporary folder, and not too much in it."""

import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from results.printable import printable
from results.store import StoreError

MOST_MEMBERS, MOST_BYTES, MOST_RATIO = 100_000, 8 * 2**30, 200
"""A run of 10,000 samples under a hundred attacks stays below; images and records shrink to a tenth at best."""


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """The folder of the run that a zip file holds, at the top or below; it is removed afterwards.

    Raises StoreError, one line, for what is no zip file, holds no run or several, and for members that a run does not
    have: links, absolute names or names with "..", names twice, and sizes out of proportion.
    """
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError:
        raise StoreError(f"{path} does not exist") from None
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise StoreError(f"{path} is neither the folder of a run nor a zip file of one: {error}") from None
    with archive, tempfile.TemporaryDirectory(prefix="bench-verify-") as name:
        target = Path(name)
        members = _checked(path, archive, shutil.disk_usage(target).free)
        top = _top(path, members)
        try:
            for member, inside in members.items():
                if inside.is_relative_to(top):
                    _extract(archive, member, target / inside.relative_to(top))
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError) as error:
            raise StoreError(printable(f"{path}: {member.filename} cannot be unpacked: {error}")) from None
        yield target


def _checked(path: Path, archive: zipfile.ZipFile, free: int) -> dict[zipfile.ZipInfo, PurePosixPath]:
    """The files of the archive, all of them harmless."""
    infos = archive.infolist()
    if len(infos) > MOST_MEMBERS:
        raise StoreError(f"{path} is refused: {len(infos)} members, a run has at most {MOST_MEMBERS}")
    members: dict[zipfile.ZipInfo, PurePosixPath] = {}
    for info in infos:
        reason = _unsafe(info)
        if reason:
            raise StoreError(printable(f"{path} is refused: its member {info.filename!r} {reason}"))
        if not info.is_dir():
            members[info] = PurePosixPath(info.filename)
    if len(set(members.values())) != len(members):
        raise StoreError(f"{path} is refused: it holds two members of one name")
    total = sum(info.file_size for info in members)  # zipfile never unpacks more than a member declares
    if total > MOST_BYTES or total > MOST_RATIO * max(1, path.stat().st_size) or total > free:
        raise StoreError(f"{path} is refused: it would unpack to {total:,} bytes")
    return members


def _unsafe(info: zipfile.ZipInfo) -> str:
    """Why a member is refused, if it is."""
    name = info.orig_filename
    mode = info.external_attr >> 16
    if name.startswith("/") or "\\" in name or ":" in name.partition("/")[0] or "\0" in name:
        return "has no plain relative name"
    if any(part in ("", ".", "..") for part in name.removesuffix("/").split("/")):
        return "has a name that leads elsewhere"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is neither a file nor a folder"
    if info.flag_bits & 1:
        return "is encrypted"
    return ""


def _top(path: Path, members: dict[zipfile.ZipInfo, PurePosixPath]) -> PurePosixPath:
    """The folder in the archive that is the run: the one with a run.json, or with a plan.json where that is lost."""
    for marker in ("run.json", "plan.json"):
        found = sorted({inside.parent for inside in members.values() if inside.name == marker})
        if len(found) > 1:
            raise StoreError(printable(f"{path} holds {len(found)} runs: {', '.join(map(str, found[:3]))}"))
        if found:
            return found[0]
    raise StoreError(f"{path} is not the zip file of a run: it holds no run.json")


def _extract(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(member) as packed, target.open("xb") as file:
        shutil.copyfileobj(packed, file)
