"""Archives that are taken, and a table of those that are not: nothing of these is ever written."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.backbones.archives import Member, member, tar, targz

from graft.backbones import archive

MODEL = [member("saved_model.pb", b"graph"), member("variables/variables.index", b"index")]
LINK, SYMLINK, DEVICE, PIPE = tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        written.writestr("saved_model.pb", b"graph")
    return file.getvalue()


def with_damaged_header(members: list[Member]) -> bytes:
    data = bytearray(tar(members))
    data[1024] ^= 1  # the first letter of the second member's name
    return bytes(data)


def long_header(size: int) -> bytes:
    name = member("././@LongLink", type=tarfile.GNUTYPE_LONGNAME, size=size)
    return targz([name, *MODEL])


def long_name(name: str) -> bytes:
    data = name.encode() + b"\0"
    return targz([member("././@LongLink", data, type=tarfile.GNUTYPE_LONGNAME), member("x"), *MODEL])


def long_names(count: int) -> bytes:
    return targz([*[member("././@LongLink", b"x\0", type=tarfile.GNUTYPE_LONGNAME)] * count, *MODEL])


WHOLE = targz(MODEL)
RANDOM = random.Random(0).randbytes(300_000)

REFUSED: dict[str, tuple[bytes | Callable[[], bytes], str]] = {
    "nothing": (b"", "empty"),
    "a web page": (b"<!DOCTYPE html><html>Sign in</html>", "a web page"),
    "a zip file": (zipped(), "zip file"),
    "some bytes": (b"0123456789" * 100, "begins with b'0123456789012345'"),
    "gzip of something else": (gzip.compress(b"hello" * 300), "damaged"),
    "gzip of nothing": (gzip.compress(b""), "damaged"),
    "gzip, cut off": (WHOLE[:-40], "cut off"),
    "gzip without its checksum": (WHOLE[:-8], "cut off"),
    "gzip with a wrong checksum": (WHOLE[:-8] + bytes(4) + WHOLE[-4:], "damaged"),
    "gzip with a damaged byte": (WHOLE[:60] + bytes([WHOLE[60] ^ 255]) + WHOLE[61:], "damaged"),
    "tar, cut off in a file": (tar([*MODEL, member("variables/data", RANDOM)])[:-200_000], "cut off"),
    "tar, cut off between files": (tar(MODEL)[:1024], "the mark at its end is missing"),
    "tar with a damaged header": (with_damaged_header(MODEL), "damaged"),
    "tar with something after its end": (tar(MODEL) + b"more".ljust(512), "after its end"),
    "an absolute path": (targz([*MODEL, member("/etc/passwd", b"x")]), "'/etc/passwd' has an absolute path"),
    "a drive": (targz([*MODEL, member("C:/x", b"x")]), "absolute path"),
    "a path that leads out": (targz([*MODEL, member("variables/../../x", b"x")]), "outside its folder"),
    "a path that leads out backwards": (targz([*MODEL, member("variables\\..\\..\\x", b"x")]), "outside its folder"),
    "a link": (targz([*MODEL, member("assets", type=SYMLINK, linkname="/etc")]), "'assets' is a link"),
    "a hard link": (targz([*MODEL, member("x", type=LINK, linkname="saved_model.pb")]), "'x' is a link"),
    "a device": (targz([*MODEL, member("null", type=DEVICE)]), "neither a file nor a folder"),
    "a pipe": (targz([*MODEL, member("pipe", type=PIPE)]), "neither a file nor a folder"),
    "a name twice": (targz([*MODEL, member("saved_model.pb", b"other")]), "two members with the name"),
    "a name with a dot twice": (targz([*MODEL, member("./saved_model.pb", b"other")]), "two members with the name"),
    "a file in a file": (targz([*MODEL, member("saved_model.pb/x", b"x")]), "lies in something that is a file"),
    "a name that is too long": (long_name("x" * 300), "a name that no file can have"),
    "headers without end": (long_names(3000), "damaged"),
    "a header whose number is none": (targz([member("x", pax_headers={"GNU.sparse.size": ""}), *MODEL]), "damaged"),
    "a size below zero": (targz([*MODEL, member("x", pax_headers={"size": "-1024"})]), "size below zero"),
    "a size far below zero": (targz([member("x", pax_headers={"size": "-99999"}), *MODEL]), "size below zero"),
    "a header of a gigabyte": (long_header(2**30), "headers is too large"),
    "a file that claims a terabyte": (
        targz([*MODEL, member("variables/data", size=2**33 - 1)]),
        "unfolds to more than",
    ),
    "zeros without end": (
        lambda: targz([*MODEL, member("variables/data", bytes(2**27))]),
        "unfolds to more than 67,108,864",
    ),
    "too many members": (lambda: targz(member(str(number)) for number in range(10_001)), "more than 10,000 members"),
    "a TF1 module": (targz([*MODEL, member("tfhub_module.pb", b"\x08\x03")]), "TF1"),
    "no module": (targz([member("README.md", b"hello")]), "no saved_model.pb at its top; it holds README.md"),
    "no file": (targz([member("variables", type=tarfile.DIRTYPE)]), "it holds no file"),
    "two modules": (targz([member("a/saved_model.pb", b"x"), member("b/saved_model.pb", b"x")]), "no saved_model.pb"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_nothing_is_written_of_what_is_refused(case: str, tmp_path: Path) -> None:
    data, reason = REFUSED[case]
    file, folder = tmp_path / "archive", tmp_path / "deep" / "folder"
    file.write_bytes(data() if callable(data) else data)
    folder.mkdir(parents=True)
    with pytest.raises(archive.Refused) as refused:
        archive.unpack(file, folder)
    assert reason in str(refused.value)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["archive", "deep", "folder"]


@pytest.mark.parametrize("below", ["", "./", "model/", "./model/"])
@pytest.mark.parametrize("compress", [tar, targz])
def test_a_module_is_found_at_the_top_or_in_the_only_folder(below: str, compress: object, tmp_path: Path) -> None:
    members = [member(below + info.name, data) for info, data in MODEL]
    members.append(member(below + "assets/words.txt", b"words"))
    members.append(member(below + "README.md", b"not loaded by anything"))
    (tmp_path / "archive").write_bytes(compress(members))  # type: ignore[operator]
    (tmp_path / "model").mkdir()
    archive.unpack(tmp_path / "archive", tmp_path / "model")
    files = {
        str(path.relative_to(tmp_path / "model")): path for path in (tmp_path / "model").rglob("*") if path.is_file()
    }
    assert {name: path.read_bytes() for name, path in files.items()} == {
        "saved_model.pb": b"graph",
        "variables/variables.index": b"index",
        "assets/words.txt": b"words",
    }


def test_weights_of_many_megabytes_come_out_as_they_were(tmp_path: Path) -> None:
    weights = RANDOM * 20
    (tmp_path / "archive").write_bytes(targz([*MODEL, member("variables/data", weights)]))
    (tmp_path / "model").mkdir()
    archive.unpack(tmp_path / "archive", tmp_path / "model")
    assert (tmp_path / "model" / "variables" / "data").read_bytes() == weights


@pytest.mark.parametrize("members", [[], [member("saved_model.pb", b"graph")]], ids=["no module", "a file in a file"])
def test_long_names_make_no_long_message(members: list[Member], tmp_path: Path) -> None:
    deep = "a/" * 2_000
    files = [member(f"{deep}{number}", b"x") for number in range(6)]
    files += [member(deep + "0/x", b"x")] if members else []
    (tmp_path / "archive").write_bytes(tar([*members, *files]))
    (tmp_path / "model").mkdir()
    with pytest.raises(archive.Refused) as refused:
        archive.unpack(tmp_path / "archive", tmp_path / "model")
    assert len(str(refused.value)) < 1_000
