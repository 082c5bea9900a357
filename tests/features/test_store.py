"""The feature store: by image, once for ever, whoever writes, dies or damages it."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tests.conftest import backbone_at

from graft.config import Config
from graft.data import splits
from graft.data.splits import Rows
from graft.data.store import open_store
from graft.errors import FatalError
from graft.features import store
from graft.features.store import Features, Matrix, features_of
from graft.paths import CHECKOUT
from graft.preparation import prepare

MakeConfig = Callable[..., Config]
WIDTH = 3


class Backbone:
    """Gives every image a vector that can be told from every other, and counts what it was asked for."""

    def __init__(self, digests: Sequence[str]) -> None:
        self.digests = digests
        self.asked: list[str] = []

    def __call__(self, rows: Rows) -> Iterator[Matrix]:
        for start in range(0, len(rows), 4):
            batch = [self.digests[row] for row in rows[start : start + 4]]
            self.asked += batch
            yield vectors(batch)


def vectors(digests: Sequence[str]) -> Matrix:
    return np.array([[int(digest), -int(digest), 1] for digest in digests], np.float32)


def opened(digests: Sequence[str]) -> tuple[Features, list[str]]:
    backbone = Backbone(digests)
    return features_of(digests, "key", backbone), backbone.asked


def check(features: Features, digests: Sequence[str]) -> None:
    rows = np.random.default_rng(0).permutation(len(digests))
    np.testing.assert_array_equal(features.take(rows), vectors([digests[row] for row in rows]))


def part_files(home: Path, suffix: str) -> list[Path]:
    return sorted((home / "mlruns/cache/features/key").glob(f"*{suffix}"))


FULL_DISK = """
import sys
import numpy as np
from graft.errors import FatalError
from graft.features.store import features_of

digests = [str(number) for number in range(1000)]
try:
    features_of(digests, "key", lambda rows: (np.ones((100, 64), np.float32) for _ in range(10)))
except FatalError as error:
    print(error)
"""


def test_a_full_disk_is_an_error_that_says_where(home: Path) -> None:
    folder = home / "mlruns/cache/features"
    folder.mkdir(parents=True)
    mount = f"mount -t tmpfs -o size=64k none '{folder}' && exec '{sys.executable}' -c \"$0\""
    inside = ["unshare", "--map-root-user", "--mount", "sh", "-c"]  # a disk of its own needs no rights there
    if subprocess.run([*inside, f"mount -t tmpfs none '{folder}'"], capture_output=True, check=False).returncode:
        pytest.skip("this system mounts no disk without rights")
    done = subprocess.run([*inside, mount, FULL_DISK], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr  # written through a memory map, it would be killed by SIGBUS
    assert done.stdout.startswith(f"The features cannot be stored in {folder}/key: No space left on device")


TEN = [str(number) for number in range(10)]


def test_every_image_is_extracted_once(home: Path) -> None:
    first, asked = opened(TEN)
    assert asked == TEN
    assert first.extraction_seconds > 0
    again, asked = opened(TEN[::-1])
    assert asked == []
    assert again.extraction_seconds == 0
    assert again.seconds_an_image == first.seconds_an_image
    check(first, TEN)
    check(again, TEN[::-1])
    assert first.spec.shape == (WIDTH,)


def test_more_images_extract_only_what_is_new(home: Path) -> None:
    opened(TEN[:6])
    mixed = ["7", "0", "8", "5", "9", "2"]
    features, asked = opened(mixed)
    assert asked == ["7", "8", "9"]
    assert len(features.parts) == 2
    check(features, mixed)


def test_copies_of_an_image_share_their_features(home: Path) -> None:
    features, asked = opened(["1", "2", "1", "1"])
    assert asked == ["1", "2"]
    check(features, ["1", "2", "1", "1"])


@pytest.mark.parametrize("damage", ["flipped bit", "cut", "emptied", "index cut", "features gone"])
def test_a_damaged_part_is_extracted_again_and_the_others_stay(home: Path, damage: str) -> None:
    opened(TEN[:5])
    whole = set(part_files(home, ".npy"))
    opened(TEN)
    (broken,) = set(part_files(home, ".npy")) - whole
    if damage == "flipped bit":
        content = bytearray(broken.read_bytes())
        content[-1] ^= 1
        broken.write_bytes(content)
    elif damage == "cut":
        os.truncate(broken, broken.stat().st_size - 1)
    elif damage == "emptied":
        os.truncate(broken, 0)
    elif damage == "index cut":
        os.truncate(broken.with_suffix(".json"), 10)
    else:
        broken.unlink()
    features, asked = opened(TEN)
    assert asked == TEN[5:]
    check(features, TEN)


WRITER = """
import os, signal, sys
from tests.features.test_store import Backbone, TEN, opened
from graft.features import store
class Dying(Backbone):
    def __call__(self, rows):
        for number, batch in enumerate(super().__call__(rows)):
            if sys.argv[1] == str(number): os.kill(os.getpid(), signal.SIGKILL)
            yield batch
if sys.argv[1] == "before index":
    real = os.replace
    def replace(source, target):
        if str(target).endswith(".json"): os.kill(os.getpid(), signal.SIGKILL)
        real(source, target)
    os.replace = replace
store.features_of(TEN, "key", Dying(TEN))
"""


@pytest.mark.parametrize("moment", ["0", "1", "before index"])
def test_a_writer_that_is_killed_leaves_nothing_that_is_read(home: Path, moment: str) -> None:
    opened(TEN[:2])
    command = [sys.executable, "-c", WRITER, moment]
    killed = subprocess.run(command, cwd=CHECKOUT, check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    features, asked = opened(TEN)
    assert asked == TEN[2:]
    check(features, TEN)
    assert not part_files(home, ".partial")


@pytest.mark.parametrize("removed_at", ["the beginning", "the middle", "the end"])
def test_a_cache_that_is_deleted_during_an_extraction_costs_time_only(
    home: Path, removed_at: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The whole cache, as the documents allow; what was stored before is gone with it."""
    opened(TEN[:2])
    backbone, times = Backbone(TEN), itertools.count(1)

    def disturbed(rows: Rows) -> Iterator[Matrix]:
        time = next(times)
        if time == 1 and removed_at == "the beginning":
            shutil.rmtree(home / "mlruns/cache")
        for number, batch in enumerate(backbone(rows)):
            if time == 1 and removed_at == "the middle" and number == 1:
                shutil.rmtree(home / "mlruns/cache")
            yield batch
        if time == 1 and removed_at == "the end":
            shutil.rmtree(home / "mlruns/cache")

    check(features_of(TEN, "key", disturbed), TEN)
    assert backbone.asked[-len(TEN) :] == TEN
    assert "key was removed while it was being made" in caplog.text
    assert opened(TEN)[1] == []


def test_a_cache_that_is_deleted_again_and_again_is_an_error(home: Path) -> None:
    def disturbed(rows: Rows) -> Iterator[Matrix]:
        shutil.rmtree(home / "mlruns/cache")
        yield vectors(TEN)

    with pytest.raises(FatalError, match=r"features cannot be stored in .*/key: No such file or directory"):
        features_of(TEN, "key", disturbed)


def test_two_processes_at_once_extract_once(home: Path) -> None:
    program = (
        "import time\n"
        "from tests.features.test_store import Backbone, TEN\n"
        "from graft.features import store\n"
        "class Slow(Backbone):\n"
        "    def __call__(self, rows):\n"
        "        for batch in super().__call__(rows):\n"
        "            time.sleep(0.5)\n"
        "            yield batch\n"
        "backbone = Slow(TEN)\n"
        "store.features_of(TEN, 'key', backbone)\n"
        "print(len(backbone.asked))\n"
    )
    command = [sys.executable, "-c", program]
    racers = [subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert sorted(racer.communicate()[0].strip() for racer in racers) == ["0", "10"]


def test_larger_than_memory_is_mapped_and_not_read(home: Path) -> None:
    features, _ = opened(TEN)
    assert all(isinstance(part, np.memmap) for part in features.parts)
    assert not features.parts[0].flags.writeable


@pytest.fixture
def small(make_config: MakeConfig, tiny_backbone: Path) -> MakeConfig:
    always = [*backbone_at(tiny_backbone), "dataset.image_size=8", "dataset.max_images=60"]
    return lambda *overrides: make_config(*always, *overrides)


def features_in(config: Config) -> Features:
    features = prepare(config).features
    assert features is not None
    return features


@pytest.mark.parametrize(
    ("change", "extracted"),
    [
        ("seed=1", False),
        ("head_width=3", False),
        ("dataset.train_fraction=0.6 dataset.val_fraction=0.2 dataset.test_fraction=0.2", False),
        ("dataset.image_size=9", True),
        ("backbone.value_range=[-1,1]", True),
    ],
)
def test_the_key_is_what_decides_a_feature_and_nothing_else(small: MakeConfig, change: str, extracted: bool) -> None:
    assert features_in(small("dataset.max_images=null")).extraction_seconds > 0
    assert (features_in(small(*change.split())).extraction_seconds > 0) is extracted


def test_features_are_what_the_backbone_gives(small: MakeConfig, tiny_backbone: Path) -> None:
    features = features_in(small())
    images = open_store(splits.choose(small().dataset)[0], 8, on_corrupt="error")
    rows = np.arange(len(images.images))
    expected = tf.saved_model.load(str(tiny_backbone))(images.take(rows).astype(np.float32) / 255, training=False)
    np.testing.assert_allclose(features.take(rows), expected, rtol=1e-4, atol=1e-5)


def test_the_store_is_where_the_documents_say(home: Path) -> None:
    opened(TEN)
    assert store.cache() == home / "mlruns" / "cache"
    assert len(part_files(home, ".json")) == 1
