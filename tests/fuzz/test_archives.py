"""Archives from anyone: what is in them lies in the folder afterwards, or they are refused and nothing is written."""

from __future__ import annotations

import gzip
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.backbones.archives import Member, member, tar, targz
from tests.fuzz.examples import damaged, fuzzed, tree, variants

from graft.backbones import archive

PARTS = st.one_of(
    st.sampled_from(["saved_model.pb", "variables", "assets", "variables.index", "tfhub_module.pb", "model", "x"]),
    st.sampled_from(
        ["..", ".", "", "...", "..\\..", "C:", "~", "a" * 255, "a" * 300, "é" * 200, "\udcff", " ", "\n", "..\0"]
    ),
    st.text(max_size=4),
)
NAMES = st.one_of(
    st.sampled_from(
        ["saved_model.pb", "variables/variables.index", "./saved_model.pb", "model/saved_model.pb", "assets/a"]
    ),
    st.tuples(st.sampled_from(["", "/", "./", "../", "//", "\\"]), st.lists(PARTS, max_size=4).map("/".join)).map(
        "".join
    ),
    st.integers(0, 600).map(lambda depth: "variables/" + "a/" * depth + "x"),
)
SIZES = st.sampled_from([0, 1, 511, 512, 513, 2**20, 2**31, 2**33 - 1, 2**40, 2**62, 2**80, -1, -(2**40)])
TYPES = st.one_of(
    st.sampled_from([bytes([code]) for code in b"01234567LKSgxXADNV\0"]), st.binary(min_size=1, max_size=1)
)
PAX = st.sampled_from(["path", "size", "linkpath", "GNU.sparse.major", "GNU.sparse.size", "hdrcharset", "mtime", "uid"])


@st.composite
def members(draw: st.DrawFn) -> Member:
    """A file, or something that should not be there."""
    attributes: dict[str, Any] = {}
    for name, values in (
        ("size", SIZES), ("type", TYPES), ("linkname", st.sampled_from(["/etc/passwd", "..", "saved_model.pb", "x"])),
        ("mode", st.sampled_from([0, 0o777, 0o4755, -1])), ("mtime", st.sampled_from([0, -1, 2**40, 1.5])),
        ("pax_headers", st.dictionaries(PAX, st.one_of(st.text(max_size=6), SIZES.map(str), NAMES), max_size=2)),
    ):  # fmt: skip
        if draw(st.integers(0, 7)) == 0:
            attributes[name] = draw(values)
    return member(draw(NAMES), draw(st.binary(max_size=40)), **attributes)


MODEL = [member("saved_model.pb", b"graph"), member("variables/variables.index", b"index")]


@st.composite
def archives(draw: st.DrawFn) -> bytes:
    added = draw(st.lists(members(), max_size=4))
    listed = [*MODEL, *added] if draw(st.booleans()) else added
    if draw(st.integers(0, 3)) == 0:
        listed = [*listed, *listed[:1]]
    try:
        written = tar(draw(st.permutations(listed)))
    except (ValueError, UnicodeError, OverflowError, tarfile.TarError, AttributeError):
        written = tar(MODEL)  # no tar file can say it
    # Damage below the compression reaches the headers, damage above it the checksums.
    if draw(st.integers(0, 2)) == 0:
        written = draw(damaged(st.just(written)))
    return gzip.compress(written, 1) if draw(st.booleans()) else written


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder two below one with things of others in it."""
    around = tmp_path_factory.mktemp("around")
    (around / "others").mkdir()
    (around / "others" / "precious").write_bytes(b"gold")
    (around / "deep").mkdir()
    (around / "deep" / "saved_model.pb").write_bytes(b"another")
    return around / "deep" / "folder"


def unpacked(data: bytes, folder: Path) -> dict[str, bytes | str] | None:
    """What lies in the folder afterwards; None if the archive was refused."""
    around = folder.parent.parent
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (around / "archive").write_bytes(data)
    before = tree(around)
    refused = None
    try:
        archive.unpack(around / "archive", folder)
    except archive.Refused as error:
        refused = str(error)
    inside = tree(folder)
    outside = {name: content for name, content in tree(around).items() if not name.startswith("deep/folder/")}
    assert outside == before
    if refused is None:
        return inside
    assert refused.strip()
    assert len(refused) < 3_000
    assert not inside
    return None


@fuzzed("archives", 200, 4_000)
@given(st.one_of(archives(), damaged(archives()), damaged(st.just(targz(MODEL))), damaged(st.just(tar(MODEL)))))
def test_any_archive_is_unpacked_into_its_folder_or_refused(place: Path, data: bytes) -> None:
    unpacked_or_refused(place, data)


@fuzzed("archives", 8, 800)
@given(st.one_of(archives(), st.just(tar(MODEL))), st.integers(0, 2**32))
def test_any_damage_is_unpacked_into_its_folder_or_refused(place: Path, whole: bytes, seed: int) -> None:
    for data in variants("archives", whole, seed, 12):
        unpacked_or_refused(place, data)


def unpacked_or_refused(place: Path, data: bytes) -> None:
    inside = unpacked(data, place)
    if inside is not None:
        assert all(isinstance(content, bytes) or content == "folder" for content in inside.values())
        assert {name.split("/")[0] for name in inside} <= {*archive.GRAPH_FILES, *archive.LOADED_FOLDERS}
        assert sum(len(content) for content in inside.values()) <= max(archive.ALWAYS_ALLOWED, 100 * len(data))
        assert unpacked(data, place) == inside


RIGHT = st.dictionaries(
    st.lists(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=6), min_size=1, max_size=3).map(
        "/".join
    ),
    st.binary(max_size=600),
    max_size=5,
)


@fuzzed("archives", 50, 1_000)
@given(RIGHT, st.sampled_from(["", "./", "model/"]), st.booleans())
def test_a_right_archive_comes_out_as_it_is(place: Path, files: dict[str, bytes], below: str, compress: bool) -> None:
    # No name may be a folder of another one.
    files = {n: d for n, d in files.items() if not any(other != n and other.startswith(f"{n}/") for other in files)}
    wanted = {"saved_model.pb": b"graph", **{f"variables/{name}": data for name, data in files.items()}}
    written = [member(below + name, data) for name, data in wanted.items()]
    inside = unpacked((targz if compress else tar)(written), place)
    assert inside is not None
    assert {name: data for name, data in inside.items() if data != "folder"} == wanted


@fuzzed("archives", 50, 1_000)
@given(st.integers(1, 10_000), st.booleans())
def test_an_archive_that_is_cut_off_is_refused(place: Path, cut: int, compress: bool) -> None:
    whole = (targz if compress else tar)([*MODEL, member("variables/data", bytes(range(256)) * 4)])
    # Blocks of zeros end a tar file; that one of many is missing is no damage that anyone can see.
    end = len(whole) if compress else -len(whole.rstrip(b"\0")) // 512 * -512 + 512
    assert unpacked(whole[: (end - cut) % end], place) is None
