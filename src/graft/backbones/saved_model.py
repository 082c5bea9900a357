"""What a folder with a SavedModel is made of, as files. Needs no TensorFlow."""

from __future__ import annotations

import hashlib
from pathlib import Path

from graft.digests import remembered_sha256

GRAPH_FILES = ("saved_model.pb", "saved_model.pbtxt")

# The folders beside the graph that TensorFlow loads. Everything else in a SavedModel (fingerprint.pb,
# keras_metadata.pb, assets.extra, a README) has no effect on what the model computes.
LOADED_FOLDERS = ("variables", "assets")


def content_digest(folder: Path) -> str:
    """SHA-256 of everything that decides what the SavedModel in `folder` computes.

    It covers the names, sizes and bytes of the graph, the variables and the assets; not the place and
    times of the files. Files of 100 MB take a fraction of a second, the first time in a process.

    Raises:
        OSError: if a file cannot be read.
    """
    files = [folder / name for name in GRAPH_FILES]
    files += [file for name in LOADED_FOLDERS for file in (folder / name).rglob("*")]
    total = hashlib.sha256()
    for file in sorted(file for file in files if file.is_file()):
        # One line a file, and a name cannot hold the character that ends it unescaped.
        total.update(
            f"{remembered_sha256(file)} {file.relative_to(folder).as_posix()!r}\n".encode("utf-8", "surrogateescape")
        )
    return total.hexdigest()
