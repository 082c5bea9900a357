from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from graft import digests
from graft.backbones import folder_cache


def write_model(folder: Path) -> None:
    (folder / "variables").mkdir()
    (folder / "variables" / "variables.index").write_bytes(b"index")
    (folder / "variables" / "variables.data-00000-of-00001").write_bytes(b"data")
    (folder / "saved_model.pb").write_bytes(b"graph")


def never(folder: Path) -> None:
    raise AssertionError("built again")


def flip_a_bit(folder: Path) -> None:
    (folder / "variables" / "variables.index").write_bytes(b"inddx")


def cut(folder: Path) -> None:
    os.truncate(folder / "saved_model.pb", 3)


def lose_a_file(folder: Path) -> None:
    (folder / "variables" / "variables.index").unlink()


def lose_the_manifest(folder: Path) -> None:
    (folder / folder_cache.MANIFEST).unlink()


def cut_the_manifest(folder: Path) -> None:
    os.truncate(folder / folder_cache.MANIFEST, 10)


def scramble_the_manifest(folder: Path) -> None:
    (folder / folder_cache.MANIFEST).write_bytes(b"\xff\xfe\x00")


def test_builds_once(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "model"
    folder_cache.ensure(folder, write_model)
    folder_cache.ensure(folder, never)
    assert (folder / "saved_model.pb").read_bytes() == b"graph"
    assert sorted(entry.name for entry in folder.parent.iterdir()) == ["model", "model.lock"]


@pytest.mark.parametrize(
    "damage", [flip_a_bit, cut, lose_a_file, lose_the_manifest, cut_the_manifest, scramble_the_manifest]
)
def test_a_damaged_folder_is_said_aloud_and_replaced(
    damage: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "model"
    folder_cache.ensure(folder, write_model)
    damage(folder)
    with caplog.at_level(logging.WARNING):
        folder_cache.ensure(folder, write_model)
    assert f"{folder} is damaged" in caplog.text
    assert (folder / "variables" / "variables.index").read_bytes() == b"index"
    folder_cache.ensure(folder, never)


def test_a_file_is_read_once_until_it_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"weights")
    first = digests.remembered_sha256(file)
    monkeypatch.setattr(digests, "SETTLED_NS", -(10**12))  # as if it was written long ago
    hits = digests._sha256_then.cache_info().hits
    assert [digests.remembered_sha256(file) for _ in range(3)] == [first] * 3
    assert digests._sha256_then.cache_info().hits == hits + 2
    file.write_bytes(b"weightz")
    os.utime(file, (0, 0))
    assert digests.remembered_sha256(file) != first


def test_what_a_killed_process_left_is_not_read(tmp_path: Path) -> None:
    leftover = tmp_path / "model.tmp"
    leftover.mkdir()
    (leftover / "saved_model.pb").write_bytes(b"half a gr")
    folder_cache.ensure(tmp_path / "model", write_model)
    assert (tmp_path / "model" / "saved_model.pb").read_bytes() == b"graph"
    assert not leftover.exists()


def test_a_failed_build_leaves_nothing_and_may_be_tried_again(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        write_model(folder)
        raise RuntimeError("no more disk")

    with pytest.raises(RuntimeError, match="no more disk"):
        folder_cache.ensure(tmp_path / "model", fail)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.lock"]
    folder_cache.ensure(tmp_path / "model", write_model)


def test_threads_build_once(tmp_path: Path) -> None:
    built = []
    together = threading.Barrier(4)

    def build(folder: Path) -> None:
        built.append(folder)
        write_model(folder)

    def ensure() -> None:
        together.wait()
        folder_cache.ensure(tmp_path / "model", build)

    threads = [threading.Thread(target=ensure) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1
    folder_cache.ensure(tmp_path / "model", never)
