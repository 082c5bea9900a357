"""Images that change, vanish, or are cut off between the fingerprint of a data set and the reading of it."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.chaos.ledger import chance, injected
from tests.images import write_classes
from tests.sweep.apps import LONG

from graft.config import Config
from graft.data import pipeline, splits, store
from graft.data.image_set import Content, ImageSet
from graft.errors import GraftError

MakeConfig = Callable[..., Config]


def repaint(file: Path, chosen: random.Random) -> None:
    before = file.stat()
    Image.fromarray(np.full((24, 24, 3), chosen.randrange(256), np.uint8)).save(file)
    if chosen.random() < 0.5:  # as a copy keeps it
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def cut(file: Path, chosen: random.Random) -> None:
    os.truncate(file, chosen.randrange(file.stat().st_size))


def swap(file: Path, chosen: random.Random) -> None:
    other = chosen.choice([each for each in file.parent.iterdir() if each != file])
    one, two = file.read_bytes(), other.read_bytes()
    file.write_bytes(two)
    other.write_bytes(one)


CHANGES = {"repainted": repaint, "cut off": cut, "swapped": swap, "gone": lambda file, chosen: file.unlink()}


@pytest.mark.parametrize("change", CHANGES)
def test_images_that_change_between_fingerprint_and_read(
    make_config: MakeConfig, home: Path, tmp_path: Path, change: str
) -> None:
    chosen = chance(change)
    for number in range(10 if LONG else 1):
        with injected(f"an image {change} between fingerprint and read") as fault:
            folder = tmp_path / f"photos{number}"
            write_classes(folder, {"cat": 8, "dog": 8}, seed=number)
            config = make_config("dataset=image_folder", f"dataset.path={folder}", "dataset.image_size=8")
            images, parts = splits.choose(config.dataset)
            struck = chosen.randrange(16)

            # Others may have been read by then, or just be.
            def strike(row: int, images: ImageSet = images, folder: Path = folder, struck: int = struck) -> Content:
                if row == struck:
                    CHANGES[change](folder / images.names[row], chosen)
                return images.read(row)

            with pytest.raises(GraftError, match=r"(changed|cannot be read|is gone)") as caught:
                pipeline.prepare(replace(images, read=strike), parts, config)
            assert images.names[struck] in str(caught.value) or change == "swapped"
            assert not list((home / "mlruns/cache/images").glob("*/index.json")), "nothing of it is kept for good"
            # Once the data set rests, the same command takes it as it is, or says what is wrong with it.
            try:
                data = pipeline.prepare(*splits.choose(config.dataset), config)
            except GraftError:
                assert change == "cut off"
            else:
                for row, name in enumerate(data.images.names):
                    np.testing.assert_array_equal(
                        data.inputs.take(np.array([row]))[0], store.decode((folder / name).read_bytes(), 8)
                    )
            for kept in (home / "mlruns/cache/images").glob("*/index.json"):
                kept.unlink()
            fault.named()
