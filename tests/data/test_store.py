"""The store of resized images: filled once, never half, and honest about images that cannot be read."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.images import write_classes

from graft.config import Config
from graft.data import pipeline, splits, store
from graft.errors import ConfigError, FatalError

MakeConfig = Callable[..., Config]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_classes(tmp_path / "photos", {"cat": 6, "dog": 6})
    return tmp_path / "photos"


def prepared(make_config: MakeConfig, folder: Path, *overrides: str) -> pipeline.Data:
    config = make_config("dataset=image_folder", f"dataset.path={folder}", "dataset.image_size=8", *overrides)
    return pipeline.prepare(*splits.choose(config.dataset), config)


def pixels(data: pipeline.Data) -> np.ndarray:
    return data.inputs.take(np.arange(len(data.images)))


def test_pixels_are_the_images_own(make_config: MakeConfig, folder: Path) -> None:
    data = prepared(make_config, folder, "dataset.image_size=24")  # their own size: nothing to resize
    rows = np.arange(len(data.images))
    for row, stored in zip(rows, data.inputs.take(rows), strict=True):
        with Image.open(folder / data.images.names[row]) as original:
            np.testing.assert_array_equal(stored, np.asarray(original))


def test_images_that_are_decoded_side_by_side_keep_their_places(
    make_config: MakeConfig, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = pixels(prepared(make_config, folder))
    monkeypatch.setenv("GRAFT_HOME", str(tmp_path / "elsewhere"))
    at_once, started = store.decode, itertools.count()

    def slow_at_first(content: bytes, size: int) -> np.ndarray:
        time.sleep(0 if next(started) % 2 else 0.02)
        return at_once(content, size)

    monkeypatch.setattr(store, "decode", slow_at_first)
    np.testing.assert_array_equal(pixels(prepared(make_config, folder)), expected)


def test_images_are_stretched_to_a_square_by_bilinear_interpolation(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.linspace(0, 248, 32).astype(np.uint8)[None, :, None], (10, 32, 3))
    Image.fromarray(np.ascontiguousarray(ramp)).save(tmp_path / "ramp.png")
    small = store.decode((tmp_path / "ramp.png").read_bytes(), 16)
    assert small.shape == (16, 16, 3)
    np.testing.assert_allclose(small[7, :, 0], ramp[0, :, 0].reshape(16, 2).mean(axis=1), atol=0.51)


def test_grey_images_get_three_equal_channels(tmp_path: Path) -> None:
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "grey.png")
    grey = store.decode((tmp_path / "grey.png").read_bytes(), 8)
    assert (grey[..., 0] == grey[..., 1]).all()
    assert (grey[..., 0] == grey[..., 2]).all()
    assert grey[0, 5, 0] == 5


def test_a_store_is_filled_once(make_config: MakeConfig, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepared(make_config, folder)
    monkeypatch.setattr(store, "decode", lambda *_: pytest.fail("decoded again"))
    second = prepared(make_config, folder)
    np.testing.assert_array_equal(pixels(first), pixels(second))


def test_reading_a_store_adds_no_pages_of_it_to_the_process(make_config: MakeConfig, folder: Path) -> None:
    pixels(prepared(make_config, folder))
    assert "pixels.npy" not in Path("/proc/self/maps").read_text()


def test_a_store_that_is_removed_or_cut_while_it_is_in_use(make_config: MakeConfig, folder: Path, home: Path) -> None:
    data = prepared(make_config, folder)
    before = pixels(data)
    file = next((home / "mlruns/cache/images").glob("*/pixels.npy"))
    file.rename(home / "elsewhere")
    np.testing.assert_array_equal(pixels(data), before)
    os.truncate(home / "elsewhere", 500)
    with pytest.raises(FatalError, match="cut off"):
        pixels(data)


def test_a_cache_that_is_deleted_while_a_store_is_filled_costs_time_only(
    make_config: MakeConfig, folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = pixels(prepared(make_config, folder))
    at_once, started = store.decode, itertools.count()

    def while_deleted(content: bytes, size: int) -> np.ndarray:
        if next(started) == 5:
            shutil.rmtree(home / "mlruns/cache")
        return at_once(content, size)

    shutil.rmtree(home / "mlruns/cache")
    monkeypatch.setattr(store, "decode", while_deleted)
    np.testing.assert_array_equal(pixels(prepared(make_config, folder)), expected)
    assert next(started) > 2 * 6, "it was filled once more"


def test_another_size_or_another_image_is_another_store(make_config: MakeConfig, folder: Path, home: Path) -> None:
    prepared(make_config, folder)
    prepared(make_config, folder, "dataset.image_size=9")
    write_classes(folder / "more", {})
    Image.fromarray(np.full((8, 8, 3), 3, np.uint8)).save(folder / "cat" / "new.png")
    (folder / "more").rmdir()
    prepared(make_config, folder)
    assert len([entry for entry in (home / "mlruns/cache/images").iterdir() if entry.is_dir()]) == 3


def break_images(folder: Path) -> set[str]:
    whole = (folder / "cat" / "0000.png").read_bytes()
    (folder / "cat" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "dog" / "empty.jpg").write_bytes(b"")
    (folder / "dog" / "notes.txt").write_text("not an image")
    return {"cat/cut.png", "dog/empty.jpg", "dog/notes.txt"}


def test_unreadable_images_are_listed_and_stop_everything(make_config: MakeConfig, folder: Path) -> None:
    broken = break_images(folder)
    with pytest.raises(ConfigError) as caught:
        prepared(make_config, folder)
    assert "3 of 15 images cannot be read" in str(caught.value)
    for name in (*broken, "dataset.on_corrupt=skip"):
        assert name in str(caught.value)


def test_unreadable_images_can_be_left_out_and_are_counted(make_config: MakeConfig, folder: Path) -> None:
    whole = prepared(make_config, folder)
    broken = break_images(folder)
    data = prepared(make_config, folder, "dataset.on_corrupt=skip")
    assert set(data.unreadable) == broken
    assert data.sha256 == whole.sha256  # what is trained on is the same
    rows = np.arange(len(whole.images))
    assert data.images.digests == whole.images.digests
    np.testing.assert_array_equal(data.inputs.take(rows), whole.inputs.take(rows))
    used = [row for name in splits.SPLITS for row in getattr(data.splits, name).tolist()]
    assert sorted(used) == list(range(12))


def test_a_class_that_loses_all_its_readable_images_of_a_split_is_named(make_config: MakeConfig, folder: Path) -> None:
    for file in sorted((folder / "dog").iterdir()):
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
    with pytest.raises(ConfigError, match="no readable image of the class dog is left in the test split"):
        prepared(make_config, folder, "dataset.on_corrupt=skip")


def test_an_image_that_changes_after_it_was_hashed_is_noticed(make_config: MakeConfig, folder: Path) -> None:
    config = make_config("dataset=image_folder", f"dataset.path={folder}", "dataset.image_size=8")
    images, parts = splits.choose(config.dataset)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "cat" / "0003.png")
    with pytest.raises(FatalError, match=r"cat/0003\.png changed"):
        pipeline.prepare(images, parts, config)


@pytest.mark.parametrize("damage", ["cut", "emptied", "index gone", "index nonsense", "pixels zeroed"])
def test_a_damaged_store_is_made_again(make_config: MakeConfig, folder: Path, home: Path, damage: str) -> None:
    before = pixels(prepared(make_config, folder))
    stored = next(entry for entry in (home / "mlruns/cache/images").iterdir() if entry.is_dir())
    if damage == "cut":
        os.truncate(stored / "pixels.npy", 500)
    elif damage == "emptied":
        os.truncate(stored / "pixels.npy", 0)
    elif damage == "pixels zeroed":
        content = (stored / "pixels.npy").read_bytes()
        (stored / "pixels.npy").write_bytes(content[:128] + bytes(len(content) - 128))
    elif damage == "index gone":
        (stored / "index.json").unlink()
    else:
        (stored / "index.json").write_text('{"unreadable": ')
    np.testing.assert_array_equal(pixels(prepared(make_config, folder)), before)


def test_a_writer_that_is_killed_leaves_nothing_that_is_read(make_config: MakeConfig, folder: Path, home: Path) -> None:
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from graft.config_dataset import ImageFolderConfig\n"
        "from graft.data import splits, store\n"
        "real = store.decode\n"
        "def slow(content, size):\n"
        "    slow.count += 1\n"
        "    if slow.count == 8: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return real(content, size)\n"
        "slow.count = 0\n"
        "store.decode = slow\n"
        f"config = ImageFolderConfig(name='image_folder', path={str(folder)!r}, max_images=None, image_size=8,\n"
        "    splits='auto', split_seed=0, on_corrupt='error',\n"
        "    train_fraction=0.5, val_fraction=0.25, test_fraction=0.25)\n"
        "store.open_store(splits.choose(config)[0], 8, on_corrupt='error')\n"
    )
    killed = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not [entry for entry in (home / "mlruns/cache/images").iterdir() if (entry / "index.json").exists()]
    started = time.monotonic()
    data = prepared(make_config, folder)  # the dead process's lock is no obstacle
    assert len(data.images) == 12, time.monotonic() - started
