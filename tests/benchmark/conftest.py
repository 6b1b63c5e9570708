"""The command line in this process, modules a user might write, and shape checks switched off on demand."""

import itertools
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import jaxtyping
import pytest
import torch

from benchmark.cli import main


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Small batches are slower on many threads, and far slower on cores that are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Finished:
    """What a command left: exit code, what it printed, and the files that are new under the working directory."""

    code: int
    out: str
    err: str
    created: list[str]

    def refused(self) -> str:
        """The one line of a wrong request; fails unless exit code, streams and folder are as promised."""
        assert self.code == 2, self.err
        assert self.out == ""
        assert self.created == []
        assert self.err.endswith("\n")
        assert self.err.count("\n") == 1, self.err
        assert self.err.startswith("error: ")
        return self.err.removeprefix("error: ").rstrip("\n")


Bench = Callable[..., Finished]


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def bench(workdir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bench:
    """Run `bench ARGUMENTS` in this process, log lines on stderr included."""

    def run(*arguments: str | Path) -> Finished:
        before = set(workdir.rglob("*"))
        with monkeypatch.context() as context:
            context.setattr(sys, "argv", ["bench", *map(str, arguments)])
            context.setattr(sys, "path", list(sys.path))
            context.setattr(logging.root, "handlers", [])
            capsys.readouterr()
            with pytest.raises(SystemExit) as exit_:
                main()
        streams = capsys.readouterr()
        assert isinstance(exit_.value.code, int)
        created = sorted(str(path.relative_to(workdir)) for path in set(workdir.rglob("*")) - before)
        return Finished(exit_.value.code, streams.out, streams.err, created)

    return run


_numbers = itertools.count()


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Write a module a user might have written onto the Python path; returns its name."""
    folder = tmp_path / "user"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    written: list[str] = []

    def write(source: str) -> str:
        name = f"users_module_{next(_numbers)}"
        (folder / f"{name}.py").write_text(source)
        written.append(name)
        return name

    yield write
    for name in written:
        sys.modules.pop(name, None)


@pytest.fixture
def as_installed() -> Iterator[None]:
    """Without the shape checks of the tests, as a user runs the code."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
