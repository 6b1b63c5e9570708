"""A real `bench run`, killed without warning while its workers are at work."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import benchmark
from results.store import Store
from tests.benchmark.builders import essence, images_of, records_of
from tests.benchmark.conftest import Bench

CONFIG = """
models: [nominal]
threats: [{norm: linf, eps: 8/255}]
attacks: [noise@draws=80, "pgd20@steps=4,restarts=1"]
samples: 40
unit_size: 10
"""


def _start(folder: Path, config: Path) -> subprocess.Popen[bytes]:
    root = str(Path(benchmark.__file__).parent.parent)
    command = [sys.executable, "-m", "benchmark.cli", "run", str(config), "--out", str(folder), "--workers", "2"]
    environment = os.environ | {"PYTHONPATH": root}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def _parent(process: int) -> int | None:
    """The parent of a process that is alive; None for one that is gone or waits to be reaped."""
    try:
        state, parent = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return None
    return None if state == "Z" else int(parent)


def _descendants(process: int) -> set[int]:
    alive = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
    children = {p for p in alive if _parent(p) == process}
    return children | {q for p in children for q in _descendants(p)}


def test_a_killed_run_loses_the_units_at_work_only_and_leaves_no_worker(tmp_path: Path, bench: Bench) -> None:
    config, killed, whole = tmp_path / "small.yaml", tmp_path / "killed", tmp_path / "whole"
    config.write_text(CONFIG)
    store = Store(killed)
    process = _start(killed, config)
    try:
        assert _wait_until(lambda: bool(store.keys()) or process.poll() is not None, 120)
        workers = _descendants(process.pid)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = store.keys()
    units = store.read_plan()
    assert process.returncode == -signal.SIGKILL
    assert 0 < len(done) < len(units)
    assert len(workers) >= 2
    _wait_until(lambda: not any(map(_parent, workers)), 30)
    outlived = {worker for worker in workers if _parent(worker)}
    for worker in outlived:
        os.kill(worker, signal.SIGKILL)
    assert not outlived, "workers outlived the run"

    before = {path: path.read_bytes() for path in store.units.glob("*.json")}
    (store.units / "half.json.partial").write_bytes(b"{")
    resumed = bench("run", config, "--out", killed, "--workers", "1")
    assert resumed.code == 0, resumed.err
    assert {path: path.read_bytes() for path in before} == before
    assert not list(killed.rglob("*.partial"))

    uninterrupted = bench("run", config, "--out", whole, "--workers", "1")
    assert uninterrupted.code == 0, uninterrupted.err
    first, second = records_of(killed), records_of(whole)
    assert {key: essence(record) for key, record in first.items()} == {
        key: essence(record) for key, record in second.items()
    }
    assert images_of(killed) == images_of(whole) != {}
    assert resumed.out.replace(str(killed), str(whole)) == uninterrupted.out
