"""Prepares a data set of TFDS and makes its index. Needs TensorFlow, so it runs as a process: see `graft.data.tfds`."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from graft.cache import marks
from graft.data.image_set import SPLITS, content_sha256, printable
from graft.data.tfds import FACTS, ROWS, SPLIT_OF, Request, files_state, known_names, png_pixels
from graft.errors import STATUS_INTERRUPTED, ConfigError, FatalError, GraftError
from graft.runtime import stderr_set_aside
from graft.suggestions import did_you_mean

with stderr_set_aside("TensorFlow was imported"):
    import tensorflow as tf
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.read_only_builder import builder_from_files
    from tensorflow_datasets.core.registered import DatasetNotFoundError

    tf.config.list_physical_devices()  # the rest of the messages comes with the first look for GPUs

HEADER, FOOTER = 12, 4  # bytes around a record in a TFRecord file: its length and the checksums
LINE = 300  # characters of an error of TFDS


def make(request: Request, folder: Path) -> None:
    """Writes the index of a set into `folder`, whole or not at all.

    Raises:
        ConfigError: if there is no such set, or it cannot be used.
        FatalError: if it cannot be downloaded.
    """
    builder = _prepared(request)
    key = f"dataset.name={request.name}"
    image, label = _image_and_label(builder, key)
    described = builder.info.features
    files = _record_files(builder, key)
    state = files_state([str(file.path) for file in files] + _folders_of(builder, request), key)
    # What TFDS encoded itself: the same pixels may be other bytes elsewhere, so the pixels are what counts.
    as_pixels = None not in described[image].shape[:2]
    rows = _Rows()
    for number, file in enumerate(files):
        for place, record in _records_of(file, key):
            features = tf.train.Example.FromString(record).features.feature
            images, labels = features[image].bytes_list.value, features[label].int64_list.value
            if len(images) != 1 or len(labels) != 1 or labels[0] >= described[label].num_classes:
                raise ConfigError(f"{key}: {file.path} has a record without an image and a label; it is damaged")
            if labels[0] < 0:  # as TFDS marks images whose labels are kept secret
                rows.unlabelled += 1
                continue
            # The same bytes are the same image, wherever in the record they are found.
            rows.add(images[0], labels[0], file.split, number, place + record.find(images[0]), as_pixels=as_pixels)
    if not rows.labels:
        told = f"none of its {rows.unlabelled} images has a label" if rows.unlabelled else "it has no image"
        raise ConfigError(f"{key}: {told} in the splits {', '.join(SPLIT_OF)}")
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    rows.save(partial / ROWS)
    facts = {
        "name": builder.info.full_name,
        "class_names": [printable(name) for name in described[label].names],
        "pixels": as_pixels,
        "unlabelled": rows.unlabelled,
        "records": [str(file.path) for file in files],
        "state": state,
    }
    marks.describe(partial, data_set=builder.info.full_name, images=len(rows.labels))
    (partial / FACTS).write_text(json.dumps(facts), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


@dataclass(frozen=True)
class _RecordFile:
    path: Path
    split: int  # place in SPLITS
    records: int  # how many there should be


@dataclass
class _Rows:
    """The columns of an index."""

    digests: list[bytes] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    splits: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    unlabelled: int = 0

    def add(self, content: bytes, label: int, split: int, file: int, offset: int, *, as_pixels: bool) -> None:
        """Adds an image that lies at `offset` of a file, with its number in TFDS's order."""
        pixels = png_pixels(content) if as_pixels else None
        self.digests.append(bytes.fromhex(content_sha256(content if pixels is None else pixels)))
        self.labels.append(label)
        self.splits.append(split)
        self.files.append(file)
        self.offsets.append(offset)
        self.lengths.append(len(content))
        self.numbers.append(len(self.numbers))

    def save(self, file: Path) -> None:
        digests = np.frombuffer(b"".join(self.digests), np.uint8).reshape(-1, hashlib.sha256().digest_size)
        np.savez(
            file,
            digests=digests,
            labels=np.array(self.labels, np.int32),
            splits=np.array(self.splits, np.int8),
            files=np.array(self.files, np.int32),
            offsets=np.array(self.offsets, np.int64),
            lengths=np.array(self.lengths, np.int64),
            numbers=np.array(self.numbers, np.int64),
        )


def _prepared(request: Request) -> Any:
    """The builder of a set whose files are there; they are made where that is allowed and needed."""
    key = f"dataset.name={request.name}"
    try:
        return builder_from_files(request.name, data_dir=request.data_dir)
    except DatasetNotFoundError:
        if not request.download:
            raise ConfigError(f"{key}: {_not_prepared(request)}; dataset.download=true downloads it") from None
    except Exception as error:
        raise ConfigError(f"{key}: what is prepared in {request.data_dir} cannot be opened: {_line(error)}") from None
    try:
        builder = tfds.builder(request.name, data_dir=request.data_dir)
    except Exception as error:  # whatever a builder's own code raises
        near = did_you_mean(request.base_name, known_names() - {request.base_name})
        raise ConfigError(f"{key}: {_line(error)}{near}") from None
    try:
        builder.download_and_prepare()
    except Exception as error:
        raise FatalError(
            f"{key}: it cannot be downloaded and prepared: {_line(error)}\n"
            "Without the network, dataset.data_dir= names a folder in which TFDS prepared it"
        ) from None
    return builder


def _not_prepared(request: Request) -> str:
    base = Path(request.data_dir) / request.base_name
    there = sorted(str(file.parent.relative_to(request.data_dir)) for file in base.glob("**/features.json"))
    held = f", where there are {', '.join(there)}" if there else ""
    return f"it is not prepared in dataset.data_dir={request.data_dir}{held}"


def _folders_of(builder: Any, request: Request) -> list[str]:
    """The folders of the set: they change when another version or configuration is prepared."""
    prepared = Path(builder.data_dir)
    return [str(folder) for folder in (prepared, *prepared.parents) if Path(request.data_dir) in folder.parents]


def _image_and_label(builder: Any, key: str) -> tuple[str, str]:
    """The names of the features that hold image and label.

    Raises:
        ConfigError: saying what the set has, if it has not one of each.
    """
    features = builder.info.features
    held = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {"": features}
    images = [name for name, feature in held.items() if type(feature) is tfds.features.Image]
    labels = [name for name, feature in held.items() if type(feature) is tfds.features.ClassLabel]
    supervised = builder.info.supervised_keys or ("image", "label")
    if len(supervised) == 2 and supervised[0] in images and supervised[1] in labels:
        image, label = supervised
    elif len(images) == 1 and len(labels) == 1:
        (image,), (label,) = images, labels
    else:
        has = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in sorted(held.items()))
        raise ConfigError(f"{key}: this is no image classification set, one Image and one ClassLabel; it has {has}")
    shape, dtype = features[image].shape, np.dtype(features[image].np_dtype)
    if len(shape) != 3 or dtype != np.uint8:
        raise ConfigError(
            f"{key}: its images are {dtype} of shape {shape}; allowed are uint8 images of height, width and channels"
        )
    if features[label].num_classes is None or features[label].num_classes < 2:
        raise ConfigError(f"{key}: it has {features[label].num_classes} class(es); a classifier needs two or more")
    return image, label


def _record_files(builder: Any, key: str) -> list[_RecordFile]:
    splits = {name: split for name, split in builder.info.splits.items() if name in SPLIT_OF}
    if not splits:
        raise ConfigError(
            f"{key}: it has no split {', '.join(SPLIT_OF)}; it has {', '.join(builder.info.splits) or 'none at all'}"
        )
    file_format = builder.info.file_format
    if file_format is not None and file_format.value != "tfrecord":
        raise ConfigError(f"{key}: it was prepared as {file_format.value}; tfrecord, TFDS's default, can be read")
    return [
        _RecordFile(Path(os.fspath(path)), SPLITS.index(SPLIT_OF[name]), records)
        for name, split in sorted(splits.items())
        for path, records in zip(split.filepaths, split.shard_lengths, strict=True)
    ]


def _records_of(file: _RecordFile, key: str) -> Iterator[tuple[int, bytes]]:
    """The records of a file, each with the place where it starts. TensorFlow checks their checksums."""
    place, count = HEADER, 0
    try:
        records = tf.data.TFRecordDataset(str(file.path)).as_numpy_iterator()
        with stderr_set_aside("a file was opened", logging.DEBUG):  # TensorFlow tells the size of its buffer
            first = list(itertools.islice(records, 1))
        for record in itertools.chain(first, records):
            yield place, record
            place += len(record) + FOOTER + HEADER
            count += 1
    except tf.errors.OpError as error:
        raise ConfigError(f"{key}: {file.path} is damaged or cannot be read: {_line(error)}") from None
    if count != file.records:
        raise ConfigError(
            f"{key}: {file.path} holds {count} images and dataset_info.json says {file.records}; it is damaged"
        )


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:LINE]}"


def main() -> None:
    """Reads a request from stdin, and answers on stdout what is wrong with it."""
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what TFDS prints is no answer
    asked = json.load(sys.stdin)
    status, problems = 0, []
    try:
        make(Request(**asked["request"]), Path(asked["folder"]))
    except ConfigError as error:
        status, problems = error.status, list(error.problems)
    except GraftError as error:
        status, problems = error.status, [str(error)]
    except KeyboardInterrupt:
        raise SystemExit(STATUS_INTERRUPTED) from None
    json.dump({"status": status, "problems": problems}, answer)
    answer.close()


if __name__ == "__main__":
    main()
