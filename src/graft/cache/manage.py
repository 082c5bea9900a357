"""Lists, removes and prunes what lies in the cache.

An entry is what its makers make at once: the pixels of one set of images, the features that one backbone gave, a
converted or downloaded backbone, a converted engine. Removing one costs that it is made again, and nothing else. It is
removed under its makers' own lock, and is for them there as a whole or not at all. Links are not followed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import filelock
import numpy as np

from graft import paths
from graft.cache import marks
from graft.errors import ConfigError
from graft.suggestions import did_you_mean

KINDS = ("images", "features", "backbones", "engines", "indexes")
# What its makers put beside an entry under its name: unfinished work, and what was being removed.
LEFTOVERS = (".partial", ".tmp", ".removed")
ID_LENGTH = 8  # hexadecimal digits of its key, enough for millions of entries


@dataclass(frozen=True)
class Entry:
    """One thing in the cache that can be removed.

    Attributes:
        id: What `rm` calls it.
        kind: One of `KINDS`, the folder that it lies in.
        about: What it is, in words.
        size: Of its files, in bytes.
        used: When it was last used or made, in seconds since 1970.
        path: Its folder.
    """

    id: str
    kind: str
    about: str
    size: int
    used: float
    path: Path


@dataclass
class Removal:
    """What became of the entries that were to go.

    Attributes:
        removed: Those that are gone.
        skipped: Those that stayed, each with the reason.
        left: Size of what is left in the cache, in bytes.
    """

    removed: list[Entry] = field(default_factory=list)
    skipped: list[tuple[Entry, str]] = field(default_factory=list)
    left: int = 0


def entries() -> list[Entry]:
    """All entries, the one that was used last first."""
    found = [_entry(kind, folder) for kind in KINDS for folder in _entry_folders(paths.cache() / kind)]
    return sorted((entry for entry in found if entry.size), key=lambda entry: (-entry.used, entry.id))


def choose(names: Sequence[str], everything: bool = False) -> list[Entry]:
    """The entries that `names` means: ids, names of folders, or whole kinds.

    Raises:
        ConfigError: for names of no entry, and if there are no names and not `everything` is wanted.
    """
    there = entries()
    if everything and names:
        raise ConfigError(f"--all with {' '.join(names)}: allowed is one of them")
    if everything:
        return there
    if not names:
        raise ConfigError(f"Which entries? Give ids of graft cache ls, kinds ({', '.join(KINDS)}), or --all")
    known = {name for entry in there for name in (entry.id, entry.path.name)}
    problems = [
        f"{name}: there is no such entry in the cache{did_you_mean(name, [*known, *KINDS]) or '; see graft cache ls'}"
        for name in names
        if name not in known and name not in KINDS
    ]
    if problems:
        raise ConfigError(problems)
    return [entry for entry in there if {entry.id, entry.path.name, entry.kind} & set(names)]


def remove(chosen: Sequence[Entry]) -> Removal:
    """Removes entries; those that are being written or held by a running process stay."""
    done = Removal()
    for entry in chosen:
        if reason := _remove(entry):
            done.skipped.append((entry, reason))
        else:
            done.removed.append(entry)
    done.left = sum(entry.size for entry in entries())
    return done


def prune(max_size: int) -> Removal:
    """Removes what was not used the longest, one by one, until all the rest has at most `max_size` bytes."""
    done = Removal()
    there = entries()
    done.left = sum(entry.size for entry in there)
    for entry in reversed(there):
        if done.left <= max_size:
            break
        if reason := _remove(entry):
            done.skipped.append((entry, reason))
        else:
            done.removed.append(entry)
            done.left -= entry.size
    return done


def _entry_folders(folder: Path) -> list[Path]:
    """The folders of the entries of one kind; those of which only leftovers are there, too."""
    if folder.is_symlink() or not folder.is_dir():
        return []
    folders = [path for path in folder.iterdir() if path.is_dir()]
    return sorted({path.with_suffix("") if path.suffix in LEFTOVERS else path for path in folders})


def _files_of(entry: Path) -> Iterator[Path]:
    """All files of an entry, unfinished ones too. Its lock stays for ever, or two processes could hold two."""
    for top in (entry, *(entry.with_name(entry.name + suffix) for suffix in LEFTOVERS)):
        if top.is_symlink():
            yield top
        else:
            for folder, _, files in os.walk(top):  # which follows no links inside
                yield from (Path(folder) / name for name in files if Path(folder) / name != entry / "lock")


def _entry(kind: str, folder: Path) -> Entry:
    size = 0
    for file in _files_of(folder):
        with contextlib.suppress(OSError):  # a running process may just have moved it
            size += file.lstat().st_size
    try:
        used = folder.lstat().st_mtime
    except OSError:
        used = 0.0  # there are leftovers only
    key = re.search(r"[0-9a-f]{8,}$", folder.name)
    return Entry(
        id=key.group()[:ID_LENGTH] if key else folder.name,
        kind=kind,
        about=_about(kind, folder),
        size=size,
        used=used,
        path=folder,
    )


def _about(kind: str, folder: Path) -> str:
    if folder.is_symlink():
        return "a link; what it leads to stays"
    facts = marks.facts_of(folder)
    name = re.sub(r"-[0-9a-f]{8,}$", "", folder.name)
    match kind:
        case "images":
            words = _images_in_words(folder, facts)
        case "features":
            words = _features_in_words(folder, facts)
        case "indexes":
            words = f"where the {facts.get('images', '?')} images of {facts.get('data_set', name)} lie"
        case "engines":
            size = f", images of {facts['image_size']} px" if "image_size" in facts else ""
            words = f"{facts.get('backbone', 'a backbone')} for {name}{size}"
        case _:
            words = f"{name} as a SavedModel" + (f" from {facts['url']}" if "url" in facts else "")
    return words if words and folder.is_dir() else "unfinished"


def _images_in_words(folder: Path, facts: dict[str, marks.Fact]) -> str:
    shape = _shape(folder / "pixels.npy")
    if shape is None:
        return ""
    classes = facts.get("classes")
    named = f": {', '.join(classes[:5])}{', …' if len(classes) > 5 else ''}" if isinstance(classes, list) else ""
    return f"{shape[0]} images of {shape[1]} px{named}"


def _features_in_words(folder: Path, facts: dict[str, marks.Fact]) -> str:
    images, width, engines = 0, 0, set()
    for index_file in folder.glob("*.json"):
        shape = _shape(index_file.with_suffix(".npy"))
        if shape is not None and index_file.name != marks.ABOUT:
            images, width = images + shape[0], shape[1]
            with contextlib.suppress(OSError, ValueError, AttributeError):
                engines.add(json.loads(index_file.read_text(encoding="utf-8")).get("engine", "tensorflow"))
    if not images:
        return ""
    size = f" of {facts['image_size']} px" if "image_size" in facts else ""
    by = f" by {facts['backbone']}" if "backbone" in facts else ""
    return f"{width} features of {images} images{size}{by} ({', '.join(sorted(engines))})"


def _shape(file: Path) -> tuple[int, ...] | None:
    try:
        with file.open("rb") as opened:
            np.lib.format.read_magic(opened)
            shape, _, _ = np.lib.format.read_array_header_1_0(opened)
    except (OSError, ValueError):
        return None
    return shape if len(shape) >= 2 else None


def _remove(entry: Entry) -> str:
    """Removes `entry`; gives the reason if it cannot go now, or nothing."""
    # Its makers' own lock. Features have it inside, as other processes may be waiting for it there.
    lock = entry.path / "lock" if entry.kind == "features" else entry.path.with_name(f"{entry.path.name}.lock")
    try:
        if entry.path.is_symlink():
            entry.path.unlink()
            return ""
        with filelock.FileLock(lock, timeout=0):
            return _remove_features(entry.path) if entry.kind == "features" else _remove_folder(entry.path)
    except filelock.Timeout:
        return "a running process is reading or writing it"
    except OSError as error:
        return f"it cannot be removed: {error.strerror}"


def _remove_folder(folder: Path) -> str:
    removed = folder.with_name(f"{folder.name}.removed")
    shutil.rmtree(removed, ignore_errors=True)
    if folder.is_dir():
        claimed = marks.claim(folder)
        if claimed is None:
            return "a running process uses it"
        try:
            os.replace(folder, removed)  # gone in one step, for whoever looks
        finally:
            os.close(claimed)
    for suffix in LEFTOVERS:
        leftover = folder.with_name(folder.name + suffix)
        if leftover.is_symlink():
            leftover.unlink()
        elif leftover.is_dir():
            shutil.rmtree(leftover)
    return ""


def _remove_features(folder: Path) -> str:
    # Without its index a part is not there; so indexes go first, should this be the last that the process does.
    for file in sorted(folder.iterdir(), key=lambda file: file.suffix != ".json"):
        if file.name != "lock":
            file.unlink()
    return ""
