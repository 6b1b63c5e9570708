"""The checksums of a run's files, as `sha256sum --check` reads them.

Most of a run can be computed again from its images, proofs, weights and data. What cannot (times, counts of passes,
where and when a unit was made) says nothing of robustness, and still shall not change unnoticed: a finished run writes
the checksum of every file it consists of. They protect against damage and careless edits, not against someone who
writes the checksums anew.
"""

import hashlib
import re
from pathlib import Path

from results.store import StoreError, write_whole
from results.verification import Kind, Problem

SUMS = "SHA256SUMS"
OF_THE_RUN = ("run.json", "plan.json", "leaderboard.md", "leaderboard.csv", "radii.csv")
_LINE = re.compile(r"([0-9a-f]{64})  ([^\n]+)\n")


def files_of(folder: Path) -> list[str]:
    """The files that a run consists of, as names below its folder; what other commands put beside them is not."""
    units = [path for pattern in ("*.json", "*.safetensors") for path in (folder / "units").glob(pattern)]
    paths = [*(folder / name for name in OF_THE_RUN), *units]
    return sorted(path.relative_to(folder).as_posix() for path in paths if path.is_file())


def refuse_own(path: Path) -> None:
    """StoreError for a file that a run consists of: what reads a run must not write over it."""
    target = path.resolve()
    for folder in target.parents[:2]:
        if (folder / "run.json").is_file() and target.relative_to(folder).as_posix() in (*files_of(folder), SUMS):
            raise StoreError(f"{path} is a file of the run in {folder}; choose another name")


def write_sums(folder: Path) -> None:
    """Write the checksums of the files as they are now."""
    lines = [f"{_sha256(folder / name)}  {name}\n" for name in files_of(folder)]
    write_whole(folder / SUMS, "".join(lines).encode())


def remove_sums(folder: Path) -> None:
    """The files are about to change; a run that is killed meanwhile has no checksums rather than old ones."""
    (folder / SUMS).unlink(missing_ok=True)


def listed(folder: Path) -> dict[str, str]:
    """The checksums by name, as far as they can be read; none where the run did not end."""
    try:
        text = (folder / SUMS).read_bytes().decode()
    except (OSError, UnicodeDecodeError):
        return {}
    return {name: sha256 for sha256, name in _LINE.findall(text)}


def check_sums(folder: Path) -> list[Problem]:
    """Files that are not those the run ended with; what cannot be read is told as well."""
    try:
        text = (folder / SUMS).read_bytes().decode()
    except FileNotFoundError:
        return [Problem(Kind.MISSING, SUMS, "is not there: the run did not end; the same `bench run` writes it")]
    except (OSError, UnicodeDecodeError) as error:
        return [Problem(Kind.REFUTED, SUMS, f"cannot be read: {error}")]
    known: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(keepends=True), start=1):
        match = _LINE.fullmatch(line)
        if match is None or match[2] in known:
            return [Problem(Kind.REFUTED, SUMS, f"line {number} is not a checksum, two spaces and the name of a file")]
        known[match[2]] = match[1]
    if list(known) != sorted(known):
        return [Problem(Kind.REFUTED, SUMS, "its lines are not in the order of the names")]
    problems = []
    present = files_of(folder)
    for name in sorted({*known, *present}):
        if name not in present:
            problems.append(Problem(Kind.MISSING, name, f"is not there, and was when the run ended ({SUMS} lists it)"))
        elif name not in known:
            problems.append(Problem(Kind.REFUTED, name, f"was not there when the run ended ({SUMS} does not list it)"))
        else:
            try:
                actual = _sha256(folder / name)
            except OSError as error:
                problems.append(Problem(Kind.REFUTED, name, f"cannot be read: {error.strerror}"))
                continue
            if actual != known[name]:
                problems.append(Problem(Kind.REFUTED, name, f"is not as the run left it: {SUMS} has another sha256"))
    return problems


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error
