"""A writer of the store that is killed at any moment: whoever comes next finds it whole, or builds it."""

from __future__ import annotations

import json
import multiprocessing.process
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import backbone_at
from tests.processes import PROCESSES
from tests.sweep.apps import LONG

from graft.config import Config
from graft.data.splits import Rows
from graft.features.store import Features, Matrix, features_of

DIGESTS = [str(number) for number in range(60)]
BATCH = 4
SECONDS_A_BATCH = 0.01
WIDTH = 4096  # so that a write to a file takes a while, too
KILLS = 20 if LONG else 8


def vectors(digests: Sequence[str]) -> Matrix:
    return np.repeat(np.array([[int(digest)] for digest in digests], np.float32), WIDTH, axis=1)


def open_store(key: str, seconds_a_batch: float = 0) -> tuple[Features, int]:
    """The store, and how many images were extracted for it."""
    extracted = 0

    def backbone(rows: Rows) -> Iterator[Matrix]:
        nonlocal extracted
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            time.sleep(seconds_a_batch)
            extracted += len(batch)
            yield vectors([DIGESTS[row] for row in batch])

    return features_of(DIGESTS, key, backbone), extracted


def write(key: str, home: Path) -> None:
    os.environ["GRAFT_HOME"] = str(home)  # it is forked from a process that may have begun in another test
    open_store(key, SECONDS_A_BATCH)


def test_a_writer_killed_at_a_random_moment_leaves_all_or_nothing(home: Path) -> None:
    whole = len(DIGESTS) / BATCH * SECONDS_A_BATCH
    moments = random.Random(0)
    found = []
    for number in range(KILLS):
        writer = PROCESSES.Process(target=write, args=(f"store{number}", home))
        writer.start()
        folder = home / "mlruns" / "cache" / "features" / f"store{number}"
        while not folder.exists():
            assert writer.is_alive() or folder.exists()
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 1.6 * whole))
        writer.kill()
        writer.join()
        left = sorted(file.suffix for file in folder.iterdir() if file.name != "lock")
        features, extracted = open_store(f"store{number}")
        np.testing.assert_array_equal(features.take(np.arange(len(DIGESTS))), vectors(DIGESTS))
        assert extracted == (0 if left == [".json", ".npy"] else len(DIGESTS)), left
        assert {file.suffix for file in folder.iterdir()} == {"", ".json", ".npy"}
        found.append(extracted)
    assert len(DIGESTS) in found, "no writer was killed at work"


def train(config: Config, home: Path) -> None:
    """A real run in a fresh process, which leaves its curve behind."""
    from graft.run import run
    from graft.tracking.recorder import MemoryRecorder

    os.environ["GRAFT_HOME"] = str(home)
    result = run(config, MemoryRecorder(), home / "run")
    curve = [{name: value for name, value in epoch.items() if "second" not in name} for epoch in result.history]
    (home / "curve.json").write_text(json.dumps([curve, result.test_loss]))


def start(config: Config, home: Path) -> multiprocessing.process.BaseProcess:
    process = PROCESSES.Process(target=train, args=(config, home))
    process.start()
    return process


# What there is from the moment on that the images are written, the backbone is loaded, the features are written.
STAGES = ("cache/images", "cache/images/*/index.json", "cache/features/*/*.npy.partial")


@pytest.mark.skipif(not LONG, reason="trains 41 times, for minutes; GRAFT_LONG=1 runs it")
def test_a_run_killed_while_it_fills_the_cache_never_leads_to_a_wrong_curve(
    make_config: Callable[..., Config], tiny_backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config("dataset.image_size=64", "epochs=3", "features.engine=tensorflow", *backbone_at(tiny_backbone))

    def wait_for(pattern: str, home: Path, process: multiprocessing.process.BaseProcess) -> float:
        """When something of that name came to be."""
        while not list((home / "mlruns").glob(pattern)):
            assert process.is_alive()
            time.sleep(0.001)
        return time.monotonic()

    untouched = tmp_path / "untouched"
    untouched.mkdir()
    process = start(config, untouched)
    reached = [wait_for(pattern, untouched, process) for pattern in (*STAGES, "cache/features/*/*.json")]
    process.join()
    expected = json.loads((untouched / "curve.json").read_text())

    moments = random.Random(1)
    left: Counter[str] = Counter()
    while left.total() < KILLS:
        home = tmp_path / f"killed{moments.random()}"
        home.mkdir()
        killed = start(config, home)
        stage = left.total() % len(STAGES)
        wait_for(STAGES[stage], home, killed)
        time.sleep(moments.uniform(0, reached[stage + 1] - reached[stage]))
        killed.kill()
        killed.join()
        if killed.exitcode == 0:  # it was done before
            continue
        assert killed.exitcode == -signal.SIGKILL
        cache = home / "mlruns" / "cache"
        files = [file.relative_to(cache) for file in cache.rglob("*") if file.is_file() and "lock" not in file.name]
        left[" ".join(sorted({f"{file.parts[0]}/{suffixes(file)}" for file in files})) or "nothing"] += 1
        after = start(config, home)
        after.join()
        assert after.exitcode == 0
        assert json.loads((home / "curve.json").read_text()) == expected, left
    with capsys.disabled():
        print(f"\nKilled {KILLS} times in a run's first {reached[-1] - reached[0]:.1f} s, and left:")
        print("\n".join(f"  {count:2d} times {state}" for state, count in left.most_common()))


def suffixes(file: Path) -> str:
    return "*" + "".join(suffix for part in file.parts[1:] for suffix in Path(part).suffixes)
