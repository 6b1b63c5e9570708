"""What is written is read back bit for bit, whole or not at all, and never mistaken for something else."""

import errno
import hashlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from results.records import UnitRecord
from results.store import Store, StoreError, pack_adversarial, write_whole
from tests.results.builders import record, unit

CONFIGURATION = {"models": ["net"], "samples": 4, "threats": [{"norm": "linf", "eps": 8 / 255}]}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "run")
    made.open_for(CONFIGURATION)
    return made


def _broken_record() -> tuple[UnitRecord, bytes]:
    """A record with awkward distances, and two images with awkward values."""
    rng = np.random.default_rng(0)
    images = rng.random((2, 3, 5, 4), dtype=np.float32)
    images.flat[:4] = [0.0, 1.0, np.nextafter(np.float32(0), np.float32(1)), np.float32(1) - np.float32(2**-24)]
    payload = pack_adversarial(np.array([1, 3]), images)
    made = record(unit(), "SBMB").model_dump() | {
        "distances": [None, 0.1 + 0.2, None, float(np.nextafter(8 / 255, 1.0))],
        "adversarial_sha256": hashlib.sha256(payload).hexdigest(),
        "seconds": 1e-17,
    }
    return UnitRecord.model_validate(made), payload


def _files(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


def test_a_record_comes_back_bit_for_bit(store: Store) -> None:
    made, payload = _broken_record()
    store.write(made, payload)
    (back,) = store.read([made.unit])
    assert back.model_dump() == made.model_dump()
    assert store.keys() == {made.key}


def test_distances_come_back_bit_for_bit(store: Store) -> None:
    rng = np.random.default_rng(1)
    distances = [float(d) for d in rng.random(500) * 10.0 ** rng.integers(-12, 3, 500)]
    of = unit(stop=500)
    made = UnitRecord.model_validate(record(of, "B" * 500).model_dump() | {"distances": distances})
    store.write(made, None)
    assert store.read([of])[0].distances == distances


def test_images_come_back_bit_for_bit(store: Store) -> None:
    rng = np.random.default_rng(2)
    images = rng.random((3, 1, 28, 28), dtype=np.float32)
    payload = pack_adversarial(np.array([0, 2, 3]), images[:, :, ::-1, :])
    made = record(unit(), "BSBB").model_copy(update={"adversarial_sha256": hashlib.sha256(payload).hexdigest()})
    store.write(made, payload)
    arrays = store.read_adversarial(made)
    assert arrays["sample_ids"].tolist() == [0, 2, 3]
    assert arrays["x_adv"].dtype == np.float32
    assert arrays["x_adv"].tobytes() == np.ascontiguousarray(images[:, :, ::-1, :]).tobytes()


def test_only_the_asked_and_finished_units_are_read_in_the_asked_order(store: Store) -> None:
    units = [unit(seed=seed) for seed in range(4)]
    for of in units[:3]:
        store.write(record(of, "SSSS"), None)
    assert [r.unit.seed for r in store.read([units[2], units[3], units[0]])] == [2, 0]


def test_the_plan_comes_back(store: Store) -> None:
    units = [unit(), unit(params={"step_size": 2 / 255, "name": "x", "on": True, "none": None, "count": 3})]
    store.write_plan(units)
    assert store.read_plan() == units
    assert [u.key for u in store.read_plan()] == [u.key for u in units]


def _no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_no_record_and_no_partial_file(
    step: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = _broken_record()
    before = _files(store.folder)
    with monkeypatch.context() as disk:
        disk.setattr(os, step, _no_space)
        with pytest.raises(StoreError, match="cannot be written: No space left on device") as caught:
            store.write(made, None)
    assert f"{made.key}.json" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert _files(store.folder) == before
    assert store.keys() == set()
    store.write(made, None)
    assert store.read([made.unit]) == [made]


def test_a_disk_that_fills_up_between_images_and_record_leaves_the_unit_undone(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, payload = _broken_record()
    with monkeypatch.context() as disk:
        real, calls = os.fsync, [0]

        def second_fails(descriptor: int) -> None:
            calls[0] += 1
            real(descriptor) if calls[0] == 1 else _no_space()

        disk.setattr(os, "fsync", second_fails)
        with pytest.raises(StoreError, match="No space left"):
            store.write(made, payload)
    assert store.keys() == set()
    assert not list(store.units.glob("*.partial"))
    store.write(made, payload)
    assert store.read_adversarial(made)["sample_ids"].tolist() == [1, 3]


@contextmanager
def _file_size_limit(limit: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_really_stops_halfway_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")
    with _file_size_limit(5000), pytest.raises(StoreError, match=r"file cannot be written: File too large"):
        write_whole(path, b"n" * 100_000)
    assert path.read_bytes() == b"old"
    assert _files(tmp_path) == {"file"}
    write_whole(path, b"n" * 100_000)
    assert path.read_bytes() == b"n" * 100_000


def test_a_folder_that_a_full_disk_left_half_made_can_be_opened_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "run")
    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", _no_space)
        with pytest.raises(StoreError, match="No space left"):
            store.open_for(CONFIGURATION)
    store.open_for(CONFIGURATION)
    assert store.description()["configuration"] == CONFIGURATION


def test_a_folder_that_a_kill_left_half_made_can_be_opened_later(tmp_path: Path) -> None:
    """Killed inside `open_for`: the folders are there, run.json is not yet."""
    store = Store(tmp_path / "run")
    store.units.mkdir(parents=True)
    (store.folder / "run.json.partial").write_bytes(b'{"schema_ver')
    with store.opened(CONFIGURATION):
        assert store.description()["configuration"] == CONFIGURATION


def test_the_same_configuration_opens_the_folder_again(store: Store) -> None:
    made, _ = _broken_record()
    store.write(made, None)
    Store(store.folder).open_for(json.loads(json.dumps(CONFIGURATION)))
    Store(store.folder).open_for(CONFIGURATION | {"models": ("net",)})
    assert store.keys() == {made.key}


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"samples": 5}, "samples"),
        ({"models": ["net", "other"]}, "models"),
        ({"samples": 5, "models": []}, "models, samples"),
        ({"new": 1}, "new"),
        ({"threats": [{"norm": "linf", "eps": 4 / 255}]}, "threats"),
    ],
)
def test_a_folder_of_another_configuration_is_refused_and_the_difference_named(
    store: Store, changes: dict[str, Any], fields: str
) -> None:
    before = {path: path.read_bytes() for path in store.folder.rglob("*") if path.is_file()}
    with pytest.raises(StoreError) as caught:
        store.open_for(CONFIGURATION | changes)
    message = str(caught.value)
    assert str(store.folder) in message
    assert f"(it differs in {fields})" in message
    assert "\n" not in message
    assert {path: path.read_bytes() for path in store.folder.rglob("*") if path.is_file()} == before


def test_a_folder_with_something_else_in_it_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StoreError, match="exists and is not a run folder"):
        Store(tmp_path).open_for(CONFIGURATION)
    assert _files(tmp_path) == {"thesis.tex"}


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    Store(tmp_path).open_for(CONFIGURATION)
    assert Store(tmp_path).description()["configuration"] == CONFIGURATION


def test_a_file_in_the_folders_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(StoreError, match="exists and is not a run folder"):
        Store(tmp_path / "run").open_for(CONFIGURATION)


def test_a_folder_that_cannot_be_made_is_a_store_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    with pytest.raises(StoreError, match="file/run") as caught:
        Store(tmp_path / "file" / "run").open_for(CONFIGURATION)
    assert "\n" not in str(caught.value)


def test_a_run_of_another_schema_is_refused(store: Store) -> None:
    marker = store.folder / "run.json"
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {"schema_version": 99}))
    with pytest.raises(StoreError, match="another schema version"):
        store.open_for(CONFIGURATION)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[]", b"null", b"", b"[" * 100_000, b"9" * 5000])
def test_a_damaged_run_json_is_refused_in_one_line(store: Store, content: bytes) -> None:
    (store.folder / "run.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"run\.json") as caught:
        store.open_for(CONFIGURATION)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_run_is_told_from_a_run(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is not a run folder"):
        Store(tmp_path / "nothing").read_plan()


@pytest.mark.parametrize("content", [None, "{", '[{"model": "net"}]', "7", "[" * 100_000])
def test_a_missing_or_damaged_plan_is_named_in_one_line(store: Store, content: str | None) -> None:
    if content is not None:
        (store.folder / "plan.json").write_text(content)
    with pytest.raises(StoreError, match=r"plan\.json cannot be read") as caught:
        store.read_plan()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"eps": float("inf")}, "eps inf"),
        ({"norm": "l7"}, "no threat has the norm l7"),
        ({"stop": 10**12}, "no unit has samples 0 to 1000000000000"),
        ({"model": "\x1b[31m"}, "a name holds control characters"),
        ({"model": "\ud800"}, "a name holds control characters"),
    ],
)
def test_a_plan_that_no_run_makes_is_refused(store: Store, change: dict[str, Any], said: str) -> None:
    content = unit().model_dump(mode="json") | change
    (store.folder / "plan.json").write_text(json.dumps([content]))
    with pytest.raises(StoreError, match=r"plan\.json cannot be read") as caught:
        store.read_plan()
    assert said in str(caught.value)


def test_a_run_without_a_configuration_is_damaged(store: Store) -> None:
    (store.folder / "run.json").write_text('{"schema_version": 2, "configuration": [1]}')
    with pytest.raises(StoreError, match="it holds no configuration"):
        store.description()


def test_a_units_folder_that_is_none_is_named(store: Store) -> None:
    store.units.rmdir()
    assert store.keys() == set()
    store.units.write_text("")
    with pytest.raises(StoreError, match="units cannot be read"):
        store.keys()


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    end = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_whole(pipe, b"text")
    assert (os.read(end, 10), pipe.is_fifo()) == (b"text", True)
    os.close(end)


def _truncate(text: str) -> str:
    return text[: len(text) // 2]


def _empty(_: str) -> str:
    return ""


def _other_seed(text: str) -> str:
    return text.replace('"seed":0', '"seed":1').replace('"seed": 0', '"seed": 1')


def _shorter(text: str) -> str:
    content = json.loads(text)
    content["verdicts"].pop()
    return json.dumps(content)


@pytest.mark.parametrize("damage", [_truncate, _empty, _other_seed, _shorter])
def test_a_damaged_record_is_named_with_the_remedy(store: Store, damage: Callable[[str], str]) -> None:
    made, payload = _broken_record()
    store.write(made, payload)
    path = store.units / f"{made.key}.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(StoreError, match="remove it to run its unit again") as caught:
        store.read([made.unit])
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_record_under_the_name_of_another_is_refused(store: Store) -> None:
    one, two = unit(seed=1), unit(seed=2)
    store.write(record(one, "SSSS"), None)
    (store.units / f"{one.key}.json").rename(store.units / f"{two.key}.json")
    with pytest.raises(StoreError, match="the record of another unit"):
        store.read([two])


def test_images_that_were_changed_are_named(store: Store) -> None:
    made, payload = _broken_record()
    store.write(made, payload)
    path = store.units / f"{made.key}.safetensors"
    path.write_bytes(payload[:-1] + bytes([payload[-1] ^ 1]))
    with pytest.raises(StoreError, match="sha256 differs") as caught:
        store.read_adversarial(made)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [None, b"", b"not safetensors", b"\xff" * 64])
def test_images_that_are_gone_or_no_safetensors_are_named(store: Store, content: bytes | None) -> None:
    made, payload = _broken_record()
    store.write(made, payload)
    path = store.units / f"{made.key}.safetensors"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(StoreError, match="cannot be read") as caught:
        store.read_adversarial(made)
    assert str(path) in str(caught.value)


OPEN = """
import json, sys
from pathlib import Path
from results.store import Store, StoreError
try:
    with Store(Path(sys.argv[1])).opened(json.loads(sys.argv[2])):
        print("opened")
except StoreError as error:
    print(error)
"""


def _open_elsewhere(folder: Path) -> str:
    command = [sys.executable, "-c", OPEN, str(folder), json.dumps(CONFIGURATION)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_a_second_process_is_refused_while_the_first_works_and_let_in_afterwards(store: Store) -> None:
    with store.opened(CONFIGURATION):
        at_work = store.units / "key.json.partial"
        at_work.write_bytes(b"being written")
        assert _open_elsewhere(store.folder) == f"{store.folder} is in use by another bench run"
        assert at_work.exists()
    assert _open_elsewhere(store.folder) == "opened"


def test_leftovers_of_a_killed_run_are_removed_and_records_kept(store: Store) -> None:
    made, payload = _broken_record()
    store.write(made, payload)
    (store.units / "a.json.partial").write_bytes(b"{")
    (store.units / "b.safetensors.partial").write_bytes(b"")
    with store.opened(CONFIGURATION):
        assert _files(store.units) == {f"{made.key}.json", f"{made.key}.safetensors"}
        assert store.keys() == {made.key}


def test_a_partial_record_is_no_record(store: Store) -> None:
    made, _ = _broken_record()
    (store.units / f"{made.key}.json.partial").write_text(made.model_dump_json())
    assert store.keys() == set()
    assert store.read([made.unit]) == []
