"""What is kept in the cache, read to the last byte and compared with the digests that it was stored with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from graft.backbones import folder_cache
from graft.cache import manage
from graft.cache.manage import Entry
from graft.cache.sizes import size_in_words
from graft.data import image_files, tfds
from graft.doctor.report import Check
from graft.features import parts, tflite_file

LARGE_BYTES = 2 * 10**9  # takes seconds to read, so that even a log should say what is going on


def check_cache() -> Iterator[Check]:
    """One check a kind, and one for each damaged entry. Reads everything; shows how far it is on a terminal."""
    # Of unfinished ones only leftovers are there, which nothing reads.
    entries = [entry for entry in manage.entries() if entry.path.is_dir() and entry.about != "unfinished"]
    total = sum(entry.size for entry in entries)
    console = Console(stderr=True)
    if total > LARGE_BYTES and not console.is_terminal:
        console.print(f"Reading {size_in_words(total)} of stored images, features and backbones …", soft_wrap=True)
    columns = (TextColumn("Reading what is stored"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    found = []
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=total)
        for kind in manage.KINDS:
            of_kind = [entry for entry in entries if entry.kind == kind]
            damaged = []
            for entry in of_kind:
                if harm := WHAT_IS_WRONG[kind](entry.path):
                    damaged.append(_damaged(entry, harm))
                progress.advance(bar, entry.size)
            found += damaged or [_whole(kind, of_kind)]
    yield from found


def _whole(kind: str, entries: list[Entry]) -> Check:
    if not entries:
        return Check(kind, "ok", "none stored")
    size = size_in_words(sum(entry.size for entry in entries))
    return Check(kind, "ok", f"{len(entries)} stored, {size}, as they were written")


def _damaged(entry: Entry, harm: str) -> Check:
    text = f"{entry.about} ({entry.path}): {harm}; without it, what is needed is made again"
    return Check(entry.kind, "problem", text, f"graft cache rm {entry.id}")


def _of_images(folder: Path) -> str:
    whole = image_files.read_index(folder) is not None
    return "" if whole or not folder.exists() else "the pixels are not those that were written"


def _of_features(folder: Path) -> str:
    indexes = parts.index_files(folder)
    # Another process may remove a part meanwhile, its index first.
    damaged = [index for index in indexes if parts.read_part(index) is None and index.exists()]
    named = ", ".join(index.stem for index in damaged[:3])
    return f"{len(damaged)} of {len(indexes)} parts are not what was written: {named}" if damaged else ""


def _of_backbones(folder: Path) -> str:
    whole = folder_cache.is_whole(folder)
    return "" if whole or not folder.exists() else "the SavedModel is not what was written"


def _of_engines(folder: Path) -> str:
    whole = folder_cache.is_whole(folder, tflite_file.digest)
    return "" if whole or not folder.exists() else "the converted file is not what was written"


def _of_indexes(folder: Path) -> str:
    return "" if tfds.is_whole(folder) or not folder.exists() else "the rows are not those that were written"


WHAT_IS_WRONG: dict[str, Callable[[Path], str]] = {
    "images": _of_images,
    "features": _of_features,
    "backbones": _of_backbones,
    "engines": _of_engines,
    "indexes": _of_indexes,
}
