"""The folder of an analysis: whose it is, and what is no folder for it."""

from pathlib import Path

import pytest

from benchmark.analysis_folder import MARKER, kept, open_folder, refuse_foreign
from benchmark.errors import RequestError


def test_a_folder_belongs_to_one_request(tmp_path: Path) -> None:
    open_folder(tmp_path / "a", "kind", {"seed": 0, "splits": ((1, 2),)})
    open_folder(tmp_path / "a", "kind", {"seed": 0, "splits": ((1, 2),)})
    for kind, request in (("kind", {"seed": 1}), ("other", {"seed": 0, "splits": ((1, 2),)})):
        with pytest.raises(RequestError, match="choose another folder"):
            refuse_foreign(tmp_path / "a", kind, request)


def test_a_folder_of_another_request_says_in_which_fields(tmp_path: Path) -> None:
    open_folder(tmp_path / "a", "kind", {"starts": 2, "configuration": {"seed": 0, "samples": 5}})
    with pytest.raises(RequestError, match=r"\(it differs in samples, starts\)$"):
        refuse_foreign(tmp_path / "a", "kind", {"starts": 3, "configuration": {"seed": 0, "samples": 6}})


def test_a_folder_that_a_kill_left_before_it_was_anybodys_is_free(tmp_path: Path) -> None:
    (tmp_path / f"{MARKER}.partial").write_bytes(b"{")
    open_folder(tmp_path, "kind", {})
    (tmp_path / "mine.txt").touch()
    (tmp_path / MARKER).unlink()
    with pytest.raises(RequestError, match="holds no such analysis"):
        open_folder(tmp_path, "kind", {})


@pytest.mark.parametrize("asked", ["exists", "iterdir"])
def test_a_folder_that_may_not_be_looked_at_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    def denied(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, asked, denied)
    with pytest.raises(RequestError, match=r"^--out \S+ cannot be read: Permission denied$"):
        refuse_foreign(tmp_path, "kind", {})


def test_a_folder_is_used_by_one_analysis_at_a_time(tmp_path: Path) -> None:
    with kept(tmp_path), pytest.raises(RequestError, match="is in use by another bench analyze"), kept(tmp_path):
        pass
    with kept(tmp_path):
        pass
    with pytest.raises(OSError, match="of the work"), kept(tmp_path):
        raise OSError("of the work")
