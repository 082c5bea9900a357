"""The real download against a server on loopback: what it survives, and what it says when it gives up."""

from __future__ import annotations

import logging
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.backbones.http_server import Server, cut_off, redirect, status, whole

from graft.backbones import download

DATA = random.Random(1).randbytes(700_000)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "WAITS", (0.01, 0.01))
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


def fetched(address: str, folder: Path) -> bytes:
    download.fetch(address, folder / "file", "a test's file")
    return (folder / "file").read_bytes()


def test_a_file_comes_in_whole(server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert fetched(server.serve("/m.tar.gz", whole(DATA)), tmp_path) == DATA
    assert "Downloading a test's file from 127.0.0.1" in caplog.text
    assert "700.0 kB" in caplog.text


def test_progress_is_shown_on_a_terminal(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    address = server.serve("/m.tar.gz", whole(DATA))
    fetched(address, tmp_path)
    assert capfd.readouterr().err == ""
    (tmp_path / "file").unlink()
    monkeypatch.setenv("FORCE_COLOR", "1")  # which makes rich take anything for a terminal
    fetched(address, tmp_path)
    assert "a test's file" in capfd.readouterr().err


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed(code: int, server: Server, tmp_path: Path) -> None:
    server.serve("/there", whole(DATA))
    assert fetched(server.serve("/here", redirect("/there", code)), tmp_path) == DATA


def test_a_redirect_leads_to_http_only(server: Server, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    for elsewhere in (f"file://{tmp_path}/secret", "ftp://127.0.0.1/m"):
        with pytest.raises(download.Refused, match="neither http nor https"):
            fetched(server.serve("/m", redirect(elsewhere)), tmp_path)


def test_a_redirect_to_no_address_is_refused(server: Server, tmp_path: Path) -> None:
    with pytest.raises(download.Refused, match="no address"):
        fetched(server.serve("/m", redirect("http://[")), tmp_path)


def test_a_redirect_in_a_circle_ends(server: Server, tmp_path: Path) -> None:
    with pytest.raises(download.Refused, match="302"):
        fetched(server.serve("/m", redirect("/m")), tmp_path)


@pytest.mark.parametrize("code", [429, 500, 503])
def test_a_server_in_trouble_is_asked_again(code: int, server: Server, tmp_path: Path) -> None:
    assert fetched(server.serve("/m", status(code), whole(DATA)), tmp_path) == DATA
    assert len(server.asked) == 2


def test_a_server_that_stays_in_trouble_is_given_up(server: Server, tmp_path: Path) -> None:
    with pytest.raises(download.Unreachable, match=r"500.*\(tried 3 times\)"):
        fetched(server.serve("/m", status(500)), tmp_path)


@pytest.mark.parametrize(
    ("code", "advice"), [(404, "look at the name"), (403, "log in"), (401, "browser"), (451, "451")]
)
def test_a_refusal_is_not_asked_again(code: int, advice: str, server: Server, tmp_path: Path) -> None:
    with pytest.raises(download.Refused, match=f"{code}.*{advice}" if advice != "451" else "451"):
        fetched(server.serve("/m", status(code)), tmp_path)
    assert len(server.asked) == 1


def test_a_broken_connection_is_gone_on_from(server: Server, tmp_path: Path) -> None:
    address = server.serve("/m", cut_off(DATA, 500_000, '"v1"'), whole(DATA, '"v1"'))
    assert fetched(address, tmp_path) == DATA
    assert [asked for _, asked in server.asked] == [None, "bytes=500000-"]


@pytest.mark.parametrize("etags", [('"v1"', '"v2"'), (None, None), ('W/"v1"', 'W/"v1"')])
def test_another_version_is_not_put_together_with_the_first(
    etags: tuple[str | None, str | None], server: Server, tmp_path: Path
) -> None:
    other = bytes(reversed(DATA))
    assert fetched(server.serve("/m", cut_off(DATA, 500_000, etags[0]), whole(other, etags[1])), tmp_path) == other


def test_a_file_that_never_comes_whole_is_given_up(server: Server, tmp_path: Path) -> None:
    with pytest.raises(download.Unreachable, match="broke off after 500,000 of 700,000 bytes"):
        fetched(server.serve("/m", cut_off(DATA, 500_000)), tmp_path)


def test_a_silent_server_is_given_up(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "SECONDS_OF_SILENCE", 0.1)
    over = threading.Event()
    address = server.serve("/m", lambda handler: over.wait(240))
    with pytest.raises(download.Unreachable, match=r"silent for 0\.1 s"):
        fetched(address, tmp_path)
    over.set()


def test_a_slow_server_is_waited_for(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "SECONDS_OF_SILENCE", 2.0)

    def slowly(handler: object) -> None:
        handler.send_response(200)  # type: ignore[attr-defined]
        handler.send_header("Content-Length", "30")  # type: ignore[attr-defined]
        handler.end_headers()  # type: ignore[attr-defined]
        for byte in b"slow" * 5 + b"0123456789":
            time.sleep(0.01)
            handler.wfile.write(bytes([byte]))  # type: ignore[attr-defined]
            handler.wfile.flush()  # type: ignore[attr-defined]

    assert fetched(server.serve("/m", slowly), tmp_path) == b"slow" * 5 + b"0123456789"


def test_a_length_of_thousands_of_digits_is_none(server: Server, tmp_path: Path) -> None:
    def boastfully(handler: object) -> None:
        handler.send_response(200)  # type: ignore[attr-defined]
        handler.send_header("Content-Length", "9" * 5_000)  # type: ignore[attr-defined]
        handler.end_headers()  # type: ignore[attr-defined]
        handler.wfile.write(b"model")  # type: ignore[attr-defined]

    assert fetched(server.serve("/m", boastfully), tmp_path) == b"model"


def test_nobody_at_home_is_said(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(download.Unreachable, match="refused"):
        fetched(f"http://127.0.0.1:{port}/m", tmp_path)


def test_too_large_a_file_is_refused(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "MAX_BYTES", 600_000)
    with pytest.raises(download.Refused, match=r"more than 600\.0 kB"):
        fetched(server.serve("/m", whole(DATA)), tmp_path)
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize("address", ["http://127.0.0.1/a b", "http://127.0.0.1/\u00e9"])
def test_what_is_no_address_is_refused(address: str, tmp_path: Path) -> None:
    with pytest.raises(download.Refused, match="no address"):
        fetched(address, tmp_path)
