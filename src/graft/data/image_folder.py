"""Image folders: one sub-folder a class, or `train/`, `val/` and `test/` with one sub-folder a class each.

Every visible file of a class counts as an image: its content decides whether it is one, not its suffix. Links are
followed. What file managers leave behind is passed over.
"""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from graft.config_dataset import ImageFolderConfig
from graft.cpus import usable_cpus
from graft.data.image_set import SPLITS, ImageSet, Split, printable
from graft.digests import file_sha256
from graft.errors import ConfigError
from graft.suggestions import did_you_mean

SPLIT_OF: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
LEFT_BEHIND = {"thumbs.db", "desktop.ini", "__macosx"}
LISTED = 20  # problems named in one message
FILES_A_TASK = 64  # most are known and only looked at, which is not worth a task each


@dataclass(frozen=True)
class _File:
    path: Path
    class_name: str
    split: Split | None


def read_folder(config: ImageFolderConfig) -> ImageSet:
    """Finds and hashes the images of a folder.

    Raises:
        ConfigError: if there are no classes, one only, or one without an image; if splits are incomplete; and if a file
            or folder cannot be read, or is neither.
    """
    root = Path(config.path)
    where = f"dataset.path={printable(str(root))}"
    divided = _split_folders(root, where)
    files = [
        file for split, folder in (divided or {None: root}).items() for file in _files_by_class(folder, split, where)
    ]
    class_names = sorted({file.class_name for file in files})
    if len(class_names) == 1:
        raise ConfigError(
            f"{where}: there is one class only ({printable(class_names[0])}); a classifier needs two or more"
        )
    shown = [printable(name) for name in class_names]
    if len(set(shown)) < len(shown):
        raise ConfigError(
            f"{where}: two classes have the same name once it is printed; rename one of {', '.join(shown)}"
        )
    if divided:
        _refuse_other_classes(files, list(divided), where)
    places = {name: number for number, name in enumerate(class_names)}
    return ImageSet(
        class_names=tuple(shown),
        labels=np.array([places[file.class_name] for file in files], np.int32),
        digests=_digests([file.path for file in files]),
        names=tuple(printable(str(file.path.relative_to(root))) for file in files),
        read=lambda row: files[row].path.read_bytes(),
        official=np.array([SPLITS.index(file.split or "train") for file in files], np.int8) if divided else None,
    )


def _split_folders(root: Path, where: str) -> dict[Split | None, Path] | None:
    """The folder of each split; None if the sub-folders are classes."""
    folders = _sub_folders(root, where)
    if not folders:
        raise ConfigError(f"{where}: there is no sub-folder; one sub-folder a class is wanted")
    splits = {folder: SPLIT_OF[folder.name.lower()] for folder in folders if folder.name.lower() in SPLIT_OF}
    if "train" not in splits.values() or (len(splits) < len(folders) and len(splits) == 1):
        if len(splits) < len(folders):
            return None  # classes, one of which may happen to be called train or test
        raise ConfigError(f"{where}: there is no train/ beside {', '.join(folder.name + '/' for folder in folders)}")
    if len(splits) < len(folders):
        others = ", ".join(f"{printable(folder.name)}/" for folder in folders if folder not in splits)
        raise ConfigError(
            f"{where}: there are splits ({', '.join(folder.name + '/' for folder in splits)}) and other folders "
            f"({others}) side by side; allowed are classes alone, or train/, val/ and test/ alone"
        )
    if len(splits) == 1:
        (only,) = splits
        raise ConfigError(
            f"{where}: there is {only.name}/ and no other split; with dataset.path={printable(str(only))} Graft "
            "divides its images itself"
        )
    by_split: dict[Split | None, Path] = {}
    for folder, split in splits.items():
        if split in by_split:
            raise ConfigError(f"{where}: {by_split[split].name}/ and {folder.name}/ are the same split; one is wanted")
        by_split[split] = folder
    return by_split


def _files_by_class(folder: Path, split: Split | None, where: str) -> list[_File]:
    inside = f"{where}/{folder.name}" if split else where
    classes = _sub_folders(folder, where)
    if not classes:
        raise ConfigError(f"{inside}: there is no sub-folder; one sub-folder a class is wanted")
    found = {
        class_folder.name: list(_files_below(class_folder, frozenset({_identity(class_folder)}), where))
        for class_folder in classes
    }
    if empty := [printable(name) for name, files in found.items() if not files]:
        wanted = "" if split else "; every class needs at least three"
        raise ConfigError(f"{inside}: no image in the class {', '.join(empty)}{wanted}")
    return [_File(path, name, split) for name, files in found.items() for path in files]


def _refuse_other_classes(files: list[_File], splits: list[Split | None], where: str) -> None:
    """Checks that every split has the same classes, as a class that is misspelt in one of them is two."""
    by_split = {split: {file.class_name for file in files if file.split == split} for split in splits}
    trained = by_split["train"]
    problems = []
    for split in splits:
        problems += [
            f"{where}: the class {printable(name)} is in {split}/ and not in train/{did_you_mean(name, trained)}"
            for name in sorted(by_split[split] - trained)
        ]
        problems += [
            f"{where}: the class {printable(name)} is in train/ and not in {split}/"
            for name in sorted(trained - by_split[split])
        ]
    if problems:
        raise ConfigError(problems[:LISTED])


def _sub_folders(folder: Path, where: str) -> list[Path]:
    return [Path(entry.path) for entry in _entries(folder, where) if _is_folder(entry)]


def _files_below(folder: Path, inside: frozenset[tuple[int, int]], where: str) -> Iterator[Path]:
    """All files in a folder and those inside it; `inside` is that folder and those around it."""
    for entry in _entries(folder, where):
        path = Path(entry.path)
        if _is_folder(entry):
            if (identity := _identity(path)) in inside:
                raise ConfigError(f"{where}: {printable(entry.path)} leads back to a folder that it lies in")
            yield from _files_below(path, inside | {identity}, where)
        elif entry.is_symlink() or entry.is_file():  # a link that leads nowhere is told with what cannot be read
            yield path
        else:
            raise ConfigError(f"{where}: {printable(entry.path)} is neither a file nor a folder")


def _entries(folder: Path, where: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise ConfigError(f"{where}: {printable(str(folder))} cannot be read: {error.strerror}") from error
    return sorted((entry for entry in visible if entry.name.lower() not in LEFT_BEHIND), key=lambda entry: entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # such as a link to itself
        return False


def _identity(folder: Path) -> tuple[int, int]:
    state = folder.stat()
    return state.st_dev, state.st_ino


def _digests(paths: list[Path]) -> tuple[str, ...]:
    parts = [paths[start : start + FILES_A_TASK] for start in range(0, len(paths), FILES_A_TASK)]
    with ThreadPoolExecutor(max_workers=usable_cpus()) as pool:
        told = [each for part in pool.map(lambda part: [_file_sha256(path) for path in part], parts) for each in part]
    if problems := [error for error in told if isinstance(error, OSError)]:
        texts = [
            f"dataset.path: {printable(str(error.filename))} cannot be read: {error.strerror}"
            for error in problems[:LISTED]
        ]
        more = [f"and {len(problems) - LISTED} more"] if len(problems) > LISTED else []
        raise ConfigError([*texts, *more])
    return tuple(digest for digest in told if isinstance(digest, str))


def _file_sha256(path: Path) -> str | OSError:
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):
            return OSError(0, "it is no file", str(path))
        return _sha256_of(path, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
    except OSError as error:
        return error


@functools.cache  # a warm worker asks before every trial, and a large set takes minutes to read
def _sha256_of(path: Path, *_state: int) -> str:
    """The digest of a file that is still what its `_state` says."""
    return file_sha256(path)
