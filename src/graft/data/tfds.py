"""Data sets of TensorFlow Datasets (TFDS), read from their prepared files.

Preparing a set, and reading its files for the first time, needs TFDS and TensorFlow. That happens once, in a process
of its own (`graft.data.tfds_index`), and leaves an index in the cache: the digest, the label and the place of each
image. With it an image is read by its place, without TensorFlow, in any order, whatever the size of the set. The index
is made anew when a file of the set has changed, and when another version has been prepared.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
import json
import logging
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import numpy.typing as npt

from graft.cache import marks
from graft.data.image_set import SPLITS, Content, ImageSet, Split
from graft.errors import STATUS_CONFIG, ConfigError, FatalError
from graft.paths import cache
from graft.suggestions import did_you_mean

log = logging.getLogger(__name__)

VERSION = 1  # goes up when an index holds something else
ROWS, FACTS = "rows.npz", "index.json"
COLUMNS = ("digests", "labels", "splits", "files", "offsets", "lengths", "numbers")
DAMAGED = (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile)
"""What comes of reading an index that is not what was written."""

SPLIT_OF: dict[str, Split] = {"train": "train", "validation": "val", "test": "test"}
"""The splits of TFDS that are used. Others, such as svhn's `extra`, are not."""


@dataclass(frozen=True)
class Request:
    """What an index is made of.

    Attributes:
        name: As TFDS takes it, such as ``emnist/letters`` or ``mnist:3.0.1``.
        data_dir: Folder of prepared sets.
        download: Whether the set may be downloaded and prepared there.
    """

    name: str
    data_dir: str
    download: bool

    @property
    def base_name(self) -> str:
        """The name without configuration and version."""
        return re.split("[/:]", self.name)[0]


def load(name: str, data_dir: str | None, *, download: bool) -> ImageSet:
    """A set of TFDS, prepared first where that is wanted and needed.

    Args:
        name: As TFDS takes it.
        data_dir: Folder of prepared sets, None for TFDS's own.
        download: Whether the set may be downloaded; without, nothing touches the network.

    Raises:
        ConfigError: if there is no such set, if it is not there and must not be downloaded, if it is no image
            classification set, or if its files are damaged.
        FatalError: if it cannot be downloaded.
    """
    request = Request(name, data_dir or own_data_dir(), download)
    _refuse_unknown(request)
    key = hashlib.sha256(f"{VERSION} {request.name} {request.data_dir}".encode(errors="surrogateescape")).hexdigest()
    folder = cache() / "indexes" / f"{request.base_name}-{key[:24]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder.with_name(f"{folder.name}.lock")):
        if not _is_current(folder):
            _make(request, folder)
        try:
            images = _read(folder, (folder / FACTS).stat().st_mtime_ns)
        except DAMAGED as error:
            log.warning("The index %s is damaged and is made again: %s", folder, error)
            _make(request, folder)
            images = _read(folder, (folder / FACTS).stat().st_mtime_ns)
        marks.touch(folder)
        return images


def is_whole(folder: Path) -> bool:
    """Whether the index in `folder` can be read, its rows to the last byte: they have checksums of their own."""
    try:
        json.loads((folder / FACTS).read_text(encoding="utf-8"))
        _columns(folder)
    except DAMAGED:
        return False
    return True


def own_data_dir() -> str:
    """The folder that TFDS uses where it is told none."""
    return str(Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser().absolute())


@functools.cache
def known_names() -> set[str]:
    """Names of all sets of TFDS, and some that are none: read from its package's files, as importing takes seconds."""
    spec = importlib.util.find_spec("tensorflow_datasets")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    names = {entry.name for entry in (package / "datasets").iterdir() if entry.name.isidentifier()}
    for folder in package.iterdir():
        if folder.is_dir() and folder.name not in ("core", "datasets", "testing", "scripts", "proto"):
            for file in folder.rglob("*.py"):
                classes = re.findall(r"^class (\w+)\(", file.read_text(encoding="utf-8"), re.MULTILINE)
                names |= {_snake_case(name) for name in classes if not name.endswith(("Test", "Config"))}
    return {name for name in names if not name.startswith("_")}


def _snake_case(name: str) -> str:
    """As TFDS names its sets by their classes."""
    return re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", re.sub("(.)([A-Z][a-z0-9]+)", r"\1_\2", name)).lower()


def png_pixels(content: bytes) -> npt.NDArray[np.uint8] | None:
    """The pixels of an 8-bit PNG in grey or RGB, [height, width, 1 or 3]; None for any other image."""
    from PIL import Image  # late: most sets are kept as they were photographed

    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            if image.mode not in ("L", "RGB"):
                return None
            pixels = np.asarray(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return pixels[..., np.newaxis] if pixels.ndim == 2 else pixels


def files_state(paths: list[str], key: str = "") -> list[list[Any]]:
    """What tells that files and folders are what they were.

    Of each its path, its size in bytes, 0 for a folder, and its time of change in nanoseconds since 1970.

    Raises:
        ConfigError: starting with `key`, if one is not there.
    """
    states = []
    for path in paths:
        try:
            state = os.stat(path)
        except OSError as error:
            raise ConfigError(f"{key}: {path} is damaged or cannot be read: {error.strerror}") from error
        states.append([path, 0 if os.path.isdir(path) else state.st_size, state.st_mtime_ns])
    return states


def _refuse_unknown(request: Request) -> None:
    """Says what can be said of a name before TFDS is imported."""
    data_dir = Path(request.data_dir)
    key = f"dataset.name={request.name}"
    if (data_dir / request.base_name).is_dir():
        return
    if (data_dir / "features.json").is_file():
        above = next(
            (parent.parent for parent in data_dir.parents if parent.name == request.base_name), "the folder above it"
        )
        raise ConfigError(
            f"dataset.data_dir={data_dir}: this is one prepared data set; the folder around all of them is wanted: "
            f"{above}"
        )
    known = known_names()
    if not request.download:
        there = (
            sorted(folder.name for folder in data_dir.iterdir() if _holds_a_set(folder)) if data_dir.is_dir() else []
        )
        held = f"there are {', '.join(there[:20])}" if there else "nothing is"
        near = did_you_mean(request.base_name, there or known)
        raise ConfigError(
            f"{key}: it is not prepared in dataset.data_dir={data_dir}, where {held}{near or '; '}"
            f"{' ' if near else ''}dataset.download=true downloads it"
        )
    if request.base_name not in known:
        near = did_you_mean(request.base_name, known) or "; https://www.tensorflow.org/datasets/catalog has them all"
        raise ConfigError(f"{key}: TFDS has no such data set{near}")


def _holds_a_set(folder: Path) -> bool:
    return next(folder.glob("**/features.json"), None) is not None


def _is_current(folder: Path) -> bool:
    """Whether there is an index, of files that are what they were."""
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        return (
            bool(facts["state"] == files_state([path for path, _, _ in facts["state"]])) and (folder / ROWS).is_file()
        )
    except (OSError, ValueError, KeyError, TypeError, ConfigError):
        return False


def _make(request: Request, folder: Path) -> None:
    if "tensorflow" in sys.modules:  # so another process would gain nothing
        from graft.data import tfds_index

        tfds_index.make(request, folder)
        return
    command = [sys.executable, "-m", "graft.data.tfds_index"]
    # The process must see no GPU: whoever trains may have all of its memory.
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    asked = json.dumps({"request": asdict(request), "folder": str(folder)})
    done = subprocess.run(
        command, input=asked, env=environment, stdout=subprocess.PIPE, encoding="utf-8", errors="replace", check=False
    )
    try:
        told = json.loads(done.stdout)
    except ValueError:
        raise FatalError(
            f"dataset.name={request.name}: the process that reads it ended with status {done.returncode}"
        ) from None
    if problems := told["problems"]:
        raise ConfigError(problems) if told["status"] == STATUS_CONFIG else FatalError("\n".join(problems))


@functools.lru_cache(maxsize=2)  # a warm worker asks before every trial
def _read(folder: Path, _changed: int) -> ImageSet:
    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    digests, labels, splits, files, offsets, lengths, numbers = _columns(folder)
    paths: list[str] = facts["records"]
    if facts["unlabelled"]:
        log.warning("%d images of %s have no label and are left out", facts["unlabelled"], facts["name"])

    def read(row: int) -> Content:
        descriptor = os.open(paths[files[row]], os.O_RDONLY)
        try:
            content = os.pread(descriptor, int(lengths[row]), int(offsets[row]))
        finally:
            os.close(descriptor)
        pixels = png_pixels(content) if facts["pixels"] else None
        return content if pixels is None else pixels

    of_tfds = {split: name for name, split in SPLIT_OF.items()}
    return ImageSet(
        class_names=tuple(facts["class_names"]),
        labels=labels,
        digests=tuple(digest.tobytes().hex() for digest in digests),
        names=tuple(
            f"{facts['name']} {of_tfds[SPLITS[split]]}[{number}]"
            for split, number in zip(splits.tolist(), numbers.tolist(), strict=True)
        ),
        read=read,
        official=splits if {0} < set(np.unique(splits).tolist()) else None,
    )


def _columns(folder: Path) -> list[npt.NDArray[Any]]:
    # Opened here: NumPy would leave a file open that turns out to be damaged.
    with (folder / ROWS).open("rb") as file, np.load(file) as rows:
        return [rows[name] for name in COLUMNS]
