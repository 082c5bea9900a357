"""`graft cache`: what is listed, what goes, what stays, and that nothing but time is lost."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import filelock
import numpy as np
import pytest
from tests.conftest import Command, backbone_at, run_command
from tests.images import write_classes

from graft import paths
from graft.cache import manage, marks, sizes
from graft.cache.manage import Entry
from graft.config_dataset import ImageFolderConfig
from graft.data import sources
from graft.data.splits import Rows
from graft.data.store import ImageStore, open_store
from graft.errors import ConfigError
from graft.features.store import Features, Matrix, features_of
from graft.paths import CHECKOUT

CURVE = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
KEY = "0123456789abcdef01234567"
DIGESTS = [str(number) for number in range(10)]


@pytest.fixture
def cache(home: Path) -> Path:
    return home / "mlruns" / "cache"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_classes(tmp_path / "photos", {"cat": 4, "dog": 4})
    return tmp_path / "photos"


def open_images(photos: Path, size: int = 8) -> ImageStore:
    fractions = {"train_fraction": 0.5, "val_fraction": 0.25, "test_fraction": 0.25}
    others = {"max_images": None, "image_size": size, "splits": "auto", "split_seed": 0, "on_corrupt": "error"}
    config = ImageFolderConfig.model_validate({"name": "image_folder", "path": str(photos), **others, **fractions})
    return open_store(sources.load(config), size, on_corrupt="error")


def open_features(key: str = KEY) -> Features:
    def backbone(rows: Rows) -> Iterator[Matrix]:
        for row in rows:
            yield np.full((1, 5), row, np.float32)

    return features_of(DIGESTS, key, backbone)


def write_folder(folder: Path, size: int = 100) -> None:
    """An entry as it was made before entries said what they are."""
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(bytes(size))


def only(kind: str) -> Entry:
    (entry,) = (entry for entry in manage.entries() if entry.kind == kind)
    return entry


def age(cache: Path, kind: str, seconds: float) -> None:
    path = only(kind).path
    now = path.stat().st_mtime
    os.utime(path, (now - seconds, now - seconds))


def test_an_empty_cache_says_so(home: Path) -> None:
    done = run_command(["graft", "cache", "ls"], home)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("The cache is empty")


def test_every_kind_is_listed_in_words_and_needs_no_tensorflow(cache: Path, photos: Path) -> None:
    open_images(photos)
    open_features()
    marks.describe(only("features").path, backbone="tiny", image_size=8)
    assert open_features().extraction_seconds == 0
    write_folder(cache / "backbones" / f"tiny-{KEY[8:]}")
    write_folder(cache / "engines" / f"xnnpack-{KEY[::-1]}")
    marks.describe(only("engines").path, backbone="tiny", image_size=8)
    write_folder(cache / "engines" / f"xnnpack-{KEY[1:]}0")
    program = (
        "import sys\n"
        "from graft import cli\n"
        "sys.argv = ['graft', 'cache', 'ls', '--json']\n"
        "try: cli.app()\n"
        "except SystemExit: pass\n"
        "assert not {'tensorflow', 'mlflow', 'optuna', 'hydra'} & sys.modules.keys(), 'heavy'\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    listed = {entry["about"]: entry for entry in json.loads(done.stdout)}
    assert {about: entry["kind"] for about, entry in listed.items()} == {
        "8 images of 8 px: cat, dog": "images",
        "5 features of 10 images of 8 px by tiny (tensorflow)": "features",
        "tiny as a SavedModel": "backbones",
        "tiny for xnnpack, images of 8 px": "engines",
        "a backbone for xnnpack": "engines",
    }
    assert listed["tiny as a SavedModel"]["size"] == 100
    assert listed["8 images of 8 px: cat, dog"]["size"] > 8 * 8 * 8 * 3
    assert len({entry["id"] for entry in listed.values()}) == 5


def test_entries_that_do_not_say_what_they_are_are_listed_all_the_same(cache: Path, photos: Path) -> None:
    open_images(photos)
    (only("images").path / "about.json").unlink()
    assert only("images").about == "8 images of 8 px"
    (only("images").path / "about.json").write_text('{"classes": [')
    assert only("images").about == "8 images of 8 px"


def test_what_is_removed_is_made_again_the_same(home: Path, photos: Path) -> None:
    pixels = open_images(photos).take(np.arange(8))
    other = open_images(photos, size=9)
    open_features()
    entry = next(entry for entry in manage.entries() if entry.about.startswith("8 images of 8 px"))
    done = run_command(["graft", "cache", "rm", entry.id], home)
    assert done.returncode == 0, done.stderr
    assert f"Removed {entry.id}" in done.stdout
    assert "made again" in done.stdout
    assert [entry.kind for entry in manage.entries()] == ["features", "images"]
    assert open_features().extraction_seconds == 0
    assert other.file.shape[1] == 9
    np.testing.assert_array_equal(open_images(photos).take(np.arange(8)), pixels)


def test_a_kind_or_everything_goes_at_once(cache: Path, photos: Path) -> None:
    open_images(photos)
    open_features()
    open_features(KEY[::-1])
    assert len(manage.remove(manage.choose(["features"])).removed) == 2
    assert [entry.kind for entry in manage.entries()] == ["images"]
    assert open_features().extraction_seconds > 0
    done = manage.remove(manage.choose([], everything=True))
    assert (len(done.removed), done.left) == (2, 0)
    assert manage.entries() == []


def test_two_nodes_with_caches_of_their_own_train_the_same(
    home: Path, train: Command, tiny_backbone: Path, tmp_path: Path
) -> None:
    curves = []
    for node in ("one", "two"):
        settings = ["+size=smoke", *backbone_at(tiny_backbone), f"hydra.run.dir={tmp_path}/run-{node}"]
        done = train(*settings, GRAFT_CACHE=str(tmp_path / node))
        assert done.returncode == 0, done.stderr
        history = json.loads((tmp_path / f"run-{node}/checkpoints/history.json").read_text())
        curves.append([[epoch[name] for name in CURVE] for epoch in history])
        listed = run_command(["graft", "cache", "ls", "--json"], home, GRAFT_CACHE=str(tmp_path / node))
        assert {entry["kind"] for entry in json.loads(listed.stdout)} == {"images", "features"}
        assert all(entry["path"].startswith(str(tmp_path / node)) for entry in json.loads(listed.stdout))
    assert curves[0] == curves[1]
    assert not (home / "mlruns" / "cache").exists()
    assert manage.entries() == []


def test_a_relative_place_for_it_is_refused(home: Path, train: Command, tmp_path: Path) -> None:
    for done in (
        train("+size=smoke", cwd=tmp_path, GRAFT_CACHE="local/graft"),
        train("-m", "+size=smoke", "seed=0,1", cwd=tmp_path, GRAFT_CACHE="local/graft"),
        run_command(["graft", "cache", "rm", "--all"], home, tmp_path, GRAFT_CACHE="local/graft"),
    ):
        assert done.returncode == 2
        assert f"GRAFT_CACHE=local/graft: allowed is an absolute path, such as {tmp_path}/local/graft" in done.stderr
    assert not (tmp_path / "local").exists()


def test_a_place_for_it_of_nobody_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_CACHE", "~nobody-of-that-name/cache")
    with pytest.raises(ConfigError, match="~nobody-of-that-name is no user of this machine"):
        paths.cache()


def test_an_unknown_name_removes_nothing_and_is_told_the_nearest(home: Path, photos: Path) -> None:
    open_features()
    done = run_command(["graft", "cache", "rm", only("features").id, "0123456f", "featurs"], home)
    assert done.returncode == 2
    assert "0123456f: there is no such entry in the cache; did you mean 01234567?" in done.stderr
    assert "featurs: there is no such entry in the cache; did you mean features?" in done.stderr
    assert only("features")
    with pytest.raises(ConfigError, match="--all"):
        manage.choose([])


def test_links_are_not_followed(cache: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    write_folder(precious / "model")
    for kind in ("backbones", "engines"):
        (cache / kind).mkdir(parents=True)
    (cache / "backbones" / "linked-0123456789abcdef").symlink_to(precious)
    write_folder(cache / "engines" / "xnnpack-0123456789abcdef")
    (cache / "engines" / "xnnpack-0123456789abcdef" / "inside").symlink_to(precious)
    (cache / "images").symlink_to(precious)
    assert {entry.kind for entry in manage.entries()} == {"backbones", "engines"}
    assert sum(entry.size for entry in manage.entries()) < 100 + 2 * len(str(precious)) + 1
    assert not manage.remove(manage.choose([], everything=True)).skipped
    assert (precious / "model" / "saved_model.pb").is_file()
    assert not list((cache / "backbones").iterdir())
    assert not [path for path in (cache / "engines").iterdir() if path.suffix != ".lock"]
    assert (cache / "images").is_symlink()


def test_pruning_takes_what_was_not_used_the_longest(home: Path, cache: Path, photos: Path) -> None:
    open_images(photos)
    open_features()
    write_folder(cache / "backbones" / f"tiny-{KEY[:16]}", size=3000)
    for kind, seconds in (("images", 300), ("features", 200), ("backbones", 100)):
        age(cache, kind, seconds)
    open_images(photos)  # used again: now the features are the oldest
    fits = only("images").size + 3000
    done = run_command(["graft", "cache", "prune", "--max-size", f"{fits}B", "--json"], home)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [entry["kind"] for entry in told["removed"]] == ["features"]
    assert told["left"] == fits
    assert not manage.prune(fits).removed
    assert [entry.kind for entry in manage.prune(fits - 1).removed] == ["backbones"]


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("1500 B", 1500), ("2GB", 2 * 10**9), ("1.5 gib", 3 * 2**29), ("500mb", 5 * 10**8), (".5k", 500)],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert sizes.parse_size(text, "--max-size") == size


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("2GBB", "did you mean 2GB?"),
        ("-1GB", "allowed is a number from 0"),
        ("much", "such as 500MB"),
        ("", "2GB"),
        ("5", "a unit"),
        ("9" * 400 + "B", "such as 500MB"),
    ],
)
def test_a_wrong_size_is_refused(text: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        sizes.parse_size(text, "--max-size")
    assert str(caught.value).startswith(f"--max-size={text}: ")
    assert hint in str(caught.value)


def test_what_is_being_written_is_skipped_and_said(home: Path, cache: Path, photos: Path) -> None:
    open_images(photos)
    open_features()
    images, features = only("images").path, only("features").path
    with filelock.FileLock(features / "lock"), filelock.FileLock(images.with_suffix(".lock")):
        done = run_command(["graft", "cache", "rm", "--all"], home)
    assert done.returncode == 1
    assert done.stdout.count("Skipped") == 2
    assert "a running process is reading or writing it" in done.stdout
    assert {entry.kind for entry in manage.entries()} == {"images", "features"}


HOLDER = """
import sys
from pathlib import Path
from graft.backbones import folder_cache
def build(folder):
    (folder / "saved_model.pb").write_bytes(b"graph")
folder_cache.ensure(Path(sys.argv[1]), build)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_backbone_in_use_stays_until_its_process_ends(cache: Path) -> None:
    folder = cache / "backbones" / f"tiny-{KEY[:16]}"
    for _ in range(2):  # the process that makes it, and one that finds it
        command = [sys.executable, "-c", HOLDER, str(folder)]
        holder = subprocess.Popen(command, cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        done = manage.prune(0)
        assert [reason for _, reason in done.skipped] == ["a running process uses it"]
        assert done.left > 0
        assert (folder / "saved_model.pb").is_file()
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    assert manage.prune(0).left == 0
    assert not folder.exists()


def test_a_reader_reads_on(home: Path, photos: Path) -> None:
    images, features = open_images(photos), open_features()
    rows = np.arange(8)
    before = images.take(rows), features.take(rows)
    assert not manage.remove(manage.choose([], everything=True)).skipped
    np.testing.assert_array_equal(images.take(rows), before[0])
    np.testing.assert_array_equal(features.take(rows), before[1])


def test_whoever_opens_while_it_is_removed_finds_all_or_nothing(home: Path, photos: Path) -> None:
    pixels = open_images(photos).take(np.arange(8))
    over = threading.Event()
    removed = []

    def remove_again_and_again() -> None:
        while not over.is_set():
            removed.extend(manage.remove(manage.entries()).removed)

    remover = threading.Thread(target=remove_again_and_again)
    remover.start()
    try:
        for number in itertools.count():
            if number >= 40 and len(removed) > 2:
                break
            assert remover.is_alive()
            np.testing.assert_array_equal(open_images(photos).take(np.arange(8)), pixels)
            np.testing.assert_array_equal(open_features().take(np.arange(10))[:, 0], np.arange(10))
    finally:
        over.set()
        remover.join()


def test_what_killed_processes_left_is_listed_and_goes(cache: Path) -> None:
    write_folder(cache / "images" / f"{KEY}.partial")
    write_folder(cache / "engines" / f"xnnpack-{KEY[::-1]}.tmp")
    write_folder(cache / "backbones" / f"tiny-{KEY[8:]}.removed")
    assert {entry.about for entry in manage.entries()} == {"unfinished"}
    assert manage.remove(manage.choose([], everything=True)).left == 0
    assert not [path for kind in cache.iterdir() for path in kind.iterdir() if path.is_dir()]
