"""Takes a SavedModel out of a .tar.gz that nobody vouches for: it is looked through first, then unpacked.

An archive is a list of names with bytes, and its author chose both. Names may lead out of the folder, members may be
links or devices, a few kilobytes may unfold to terabytes. So nothing is written before all of it was read within
bounds, and only what TensorFlow loads is written at all.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import shutil
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from graft.backbones.saved_model import GRAPH_FILES, LOADED_FOLDERS

SUFFIXES = (".tar.gz", ".tgz", ".tar")

MAX_MEMBERS = 10_000
MAX_BYTES = 16 * 2**30
# Weights hardly shrink when they are compressed, graphs do up to thirty times.
MAX_RATIO = 100
ALWAYS_ALLOWED = 64 * 2**20  # bytes that may come out whatever the ratio: a small module is mostly graph
# tarfile reads what belongs to a header, such as long names, into memory at once.
MAX_HEADER = 2**20
MAX_NAME = 255  # bytes; what file systems take
NAMED = 120  # characters of a name in a message; one may have a million
CHUNK = 2**20
BLOCK = 512

TF1_MODULE = "tfhub_module.pb"


class Refused(ValueError):
    """The archive is none, damaged, or has something in it that a SavedModel does not have."""


def unpack(archive: Path, folder: Path) -> None:
    """Writes the SavedModel that is in `archive`, at its top or in its only folder, into `folder`.

    Args:
        archive: A tar file, with gzip or plain.
        folder: Empty.

    Raises:
        Refused: with the reason. Nothing was written, unless the file changed meanwhile.
        OSError: if the archive cannot be read or the folder cannot be written.
    """
    with archive.open("rb") as file, _damage():
        members = _looked_through(file)
        top = _top(members)
        with _opened(file) as tar:
            for member in tar:
                path = PurePosixPath(member.name)
                if not member.isreg() or not path.is_relative_to(top) or not _is_loaded(path.relative_to(top)):
                    continue
                target = folder / path.relative_to(top)
                target.parent.mkdir(parents=True, exist_ok=True)
                source = tar.extractfile(member)
                assert source is not None
                with target.open("xb") as written:
                    shutil.copyfileobj(source, written, CHUNK)


def _looked_through(file: BinaryIO) -> list[tarfile.TarInfo]:
    """All members, after the whole archive was read to its end."""
    members: list[tarfile.TarInfo] = []
    names: set[PurePosixPath] = set()
    with _opened(file) as tar:
        for member in tar:
            if len(members) == MAX_MEMBERS:
                raise Refused(f"it has more than {MAX_MEMBERS:,} members")
            _check_member(member)
            path = PurePosixPath(member.name)
            if member.isreg() and path in names:
                raise Refused(f"it has two members with the name {_brief(member.name)}")
            names.add(path)
            members.append(member)
        stream = tar.fileobj
        assert isinstance(stream, _Bounded)
        stream.read_to_the_end(tar.offset)
    files = {PurePosixPath(member.name) for member in members if member.isreg()}
    if clash := next((path for path in names if files & set(path.parents)), None):
        raise Refused(f"{_brief(str(clash))} lies in something that is a file")
    return members


def _check_member(member: tarfile.TarInfo) -> None:
    shown = _brief(member.name)
    if member.size < 0:  # the next header would lie before this one, and be read again and again
        raise Refused(f"its member {shown} claims a size below zero")
    if member.issym() or member.islnk():
        raise Refused(f"its member {shown} is a link")
    if not (member.isreg() or member.isdir()) or member.issparse():
        raise Refused(f"its member {shown} is neither a file nor a folder")
    if member.name.startswith(("/", "\\")) or re.match(r"[a-zA-Z]:", member.name):
        raise Refused(f"its member {shown} has an absolute path")
    if ".." in re.split(r"[/\\]", member.name):
        raise Refused(f"its member {shown} would land outside its folder")
    parts = PurePosixPath(member.name).parts
    if "\0" in member.name or any(len(os.fsencode(part)) > MAX_NAME for part in parts):
        raise Refused(f"its member {shown} has a name that no file can have")
    if member.isreg() and not parts:
        raise Refused("it has a file without a name")


def _brief(name: str) -> str:
    return repr(name[:NAMED])


def _top(members: Sequence[tarfile.TarInfo]) -> PurePosixPath:
    """Where the SavedModel begins: `.`, or the one folder that everything is in."""
    files = {PurePosixPath(member.name) for member in members if member.isreg()}
    tops = {path.parts[0] for path in files}
    for top in (PurePosixPath(), PurePosixPath(next(iter(tops))) if len(tops) == 1 else PurePosixPath()):
        if top / TF1_MODULE in files:
            raise Refused(
                "it holds a module in the TF1 Hub format, which cannot be fine-tuned and has no place in TensorFlow 2"
            )
        if any(top / name in files for name in GRAPH_FILES):
            return top
    shown = ", ".join(sorted(str(path)[:NAMED] for path in files)[:5])
    raise Refused(f"there is no saved_model.pb at its top; it holds {shown or 'no file'}")


def _is_loaded(path: PurePosixPath) -> bool:
    return str(path) in GRAPH_FILES or path.parts[0] in LOADED_FOLDERS


@contextmanager
def _damage() -> Iterator[None]:
    try:
        yield
    except Refused:
        raise
    except (EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError) as error:
        raise Refused(f"it is damaged or was cut off: {str(error).rstrip('.')}") from error
    # What tarfile makes of headers that are none, and of thousands in a row for one member.
    except (ValueError, OverflowError, RecursionError) as error:
        raise Refused(f"it is damaged: {error}") from error


@contextmanager
def _opened(file: BinaryIO) -> Iterator[tarfile.TarFile]:
    file.seek(0, io.SEEK_END)
    size = file.tell()
    file.seek(0)
    beginning = file.read(BLOCK)
    file.seek(0)
    compressed = beginning.startswith(b"\x1f\x8b")
    if not compressed and beginning[257:262] != b"ustar" and not _has_checksum(beginning):
        raise Refused(f"it is no tar file, with gzip or plain: {_seems(beginning)}")
    most = min(MAX_BYTES, max(MAX_RATIO * size, ALWAYS_ALLOWED)) if compressed else MAX_BYTES
    inner: BinaryIO | gzip.GzipFile = gzip.GzipFile(fileobj=file, mode="rb") if compressed else file
    with tarfile.TarFile(fileobj=_Bounded(inner, most), mode="r") as tar:
        yield tar


def _has_checksum(header: bytes) -> bool:
    """Whether this is the header of a tar file from before there was a magic word."""
    try:
        return len(header) == BLOCK and tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape").size >= 0
    except tarfile.TarError:
        return False


def _seems(beginning: bytes) -> str:
    if not beginning:
        return "it is empty"
    if beginning.startswith(b"PK"):
        return "it seems to be a zip file"
    if re.match(rb"\s*<(!doctype|html|\?xml|head|body)", beginning, re.IGNORECASE):
        return "it is a web page"
    return f"it begins with {beginning[:16]!r}"


class _Bounded(io.RawIOBase):
    """What comes out of an archive, up to a bound."""

    def __init__(self, inner: BinaryIO | gzip.GzipFile, most: int) -> None:
        self._inner = inner
        self._most = most

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._inner.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        assert whence == io.SEEK_SET
        if offset < 0:
            raise Refused("one of its headers claims a size below zero")
        if offset > self._most:
            raise Refused(f"it unfolds to more than {self._most:,} bytes")
        return self._inner.seek(offset)

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_HEADER:
            raise Refused("one of its headers is too large")
        if self.tell() + size > self._most + MAX_HEADER:
            raise Refused(f"it unfolds to more than {self._most:,} bytes")
        return self._inner.read(size)

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read_to_the_end(self, offset: int) -> None:
        """From the mark that ends a tar file, which begins at `offset`: what follows may be zeros only.

        tarfile takes any header that it does not understand for the end, and what is compressed is checked
        against its checksum only at its own end.
        """
        self.seek(offset)
        end = self.read(BLOCK)
        if len(end) < BLOCK or any(end):
            raise Refused("it is damaged or was cut off: the mark at its end is missing")
        while more := self.read(CHUNK):
            if any(more):
                raise Refused("something follows after its end")
