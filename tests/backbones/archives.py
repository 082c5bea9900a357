"""Archives as TF Hub serves them, and as nobody should."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

Member = tuple[tarfile.TarInfo, bytes]


def member(name: str, data: bytes = b"", **attributes: object) -> Member:
    """A file, or with `type=` something else."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for attribute, value in attributes.items():
        setattr(info, attribute, value)
    return info, data


def tar(members: Iterable[Member]) -> bytes:
    """A plain tar file; sizes are those that the members claim."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as written:
        for info, data in members:
            file.write(info.tobuf(tarfile.PAX_FORMAT))
            file.write(data + bytes(-len(data) % 512))
            written.offset = file.tell()
    return file.getvalue()


def targz(members: Iterable[Member]) -> bytes:
    return gzip.compress(tar(members), compresslevel=1)


def of_folder(folder: Path, below: str = "") -> bytes:
    """What `tar czf` makes of a folder."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return targz(member(below + file.relative_to(folder).as_posix(), file.read_bytes()) for file in files)
