"""Downloads one file over HTTP: shown, resumed where the server can, tried again where that may help.

tensorflow_hub has a download of its own. It waits for a silent server for ever, gives up at the first broken
connection, unpacks while it reads, and counts a cut-off body as a bad archive; it imports TensorFlow, too.
"""

from __future__ import annotations

import http.client
import logging
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import IO
from urllib.parse import urljoin, urlsplit

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from graft.cache.sizes import size_in_words

log = logging.getLogger(__name__)

SECONDS_OF_SILENCE = 30.0  # after which a connection counts as broken
WAITS = (1.0, 4.0, 15.0)  # seconds before each further attempt
MAX_BYTES = 8 * 2**30
CHUNK = 2**18
# What a server says when it may well do better a moment later.
PASSING = (408, 425, 429, 500, 502, 503, 504)


class Refused(Exception):
    """The server will not give the file, however often it is asked. The text says why."""


class Unreachable(Exception):
    """The file could not be had this time. The text says why."""


@dataclass
class _Download:
    """What is known of a file while it comes in.

    Attributes:
        validator: Of the version that `target` is a piece of, if the server names it: only more of that one fits.
    """

    address: str
    target: Path
    progress: Progress
    task: TaskID
    validator: str | None = field(default=None)


def fetch(address: str, target: Path, title: str) -> None:
    """Writes what lies at `address` into the file `target`.

    Args:
        address: http:// or https://. Redirects are followed, to these two only.
        target: What it holds of an earlier attempt of this call is gone on from; it does not exist before.
        title: What the progress is called.

    Raises:
        Refused: for an address that is none, and what the server says about it that is not going to change.
        Unreachable: if the network or the server failed in all attempts.
        OSError: if `target` cannot be written.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    started = time.perf_counter()
    log.info("Downloading %s from %s", title, urlsplit(address).netloc)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        download = _Download(address, target, progress, progress.add_task(title, total=None))
        for wait in (*WAITS, None):
            try:
                _attempt(download)
                break
            except Unreachable as error:
                if wait is None:
                    raise Unreachable(f"{error} (tried {len(WAITS) + 1} times)") from error
                log.warning("Downloading %s: %s; trying again in %g s", title, error, wait)
                time.sleep(wait)
    seconds = time.perf_counter() - started
    log.info("Downloaded %s: %s in %.1f s", title, size_in_words(target.stat().st_size), seconds)


def _attempt(download: _Download) -> None:
    """Downloads the file, or the rest of it."""
    have = download.target.stat().st_size if download.target.exists() and download.validator else 0
    headers = {"User-Agent": "graft", "Accept-Encoding": "identity"}
    if have and download.validator:
        headers |= {"Range": f"bytes={have}-", "If-Range": download.validator}
    with _failures_told():
        request = urllib.request.Request(download.address, headers=headers)  # noqa: S310 - the handlers are ours
        response = _opener().open(request, timeout=SECONDS_OF_SILENCE)
    with response:
        if response.status != 206 or not _goes_on(response.headers, have):
            if response.status == 206:
                download.validator = None
                raise Unreachable("the server sent another piece than it was asked for")
            have = 0
        download.validator = _validator(response.headers)
        length = response.headers.get("Content-Length")
        total = have + int(length) if length and re.fullmatch("[0-9]{1,18}", length) else None
        _check_size(total or 0)
        download.progress.update(download.task, completed=have, total=total)
        with download.target.open("ab" if have else "wb") as file:
            received = _copy(response, file, have, download)
    if total is not None and received != total:
        raise Unreachable(f"the connection broke off after {received:,} of {total:,} bytes")


def _copy(response: http.client.HTTPResponse, file: IO[bytes], received: int, download: _Download) -> int:
    while True:
        with _failures_told():
            chunk = response.read1(CHUNK)
        if not chunk:
            return received
        received += len(chunk)
        _check_size(received)
        file.write(chunk)
        download.progress.update(download.task, completed=received)


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        raise Refused(f"it has more than {size_in_words(MAX_BYTES)}")


def _goes_on(headers: Message, have: int) -> bool:
    return bool(have) and headers.get("Content-Range", "").startswith(f"bytes {have}-")


def _validator(headers: Message) -> str | None:
    """A strong ETag, or the date of the last change (RFC 9110, If-Range)."""
    tag = headers.get("ETag")
    return tag if tag and re.match('"', tag) else headers.get("Last-Modified")


@contextmanager
def _failures_told() -> Iterator[None]:
    """Makes `Refused` or `Unreachable` of what the network raises."""
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        said = f"the server says {error.code} {' '.join(str(error.reason).split())}".rstrip()
        if error.code in PASSING:
            raise Unreachable(said) from error
        raise Refused(said + _advice(error.code)) from error
    # Spaces, letters that an address has only as %xx, and half a bracket, also in what a server sends on to.
    except (http.client.InvalidURL, ValueError) as error:
        raise Refused(f"this is no address: {error}") from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise Refused(f"the server's certificate is not trusted: {error.reason.verify_message}") from error
        raise Unreachable(_in_words(error.reason)) from error
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(_in_words(error)) from error


def _in_words(error: object) -> str:
    if isinstance(error, TimeoutError):
        return f"the server was silent for {SECONDS_OF_SILENCE:g} s"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())[:200] or type(error).__name__


def _advice(code: int) -> str:
    if code in (404, 410):
        return "; look at the name and the version in it"
    if code in (401, 403):
        return (
            "; it may want you to log in, or to accept its terms. Download it with a browser, and give the file: "
            "backbone.url=/folder/model.tar.gz"
        )
    return ""


class _HttpOnly(urllib.request.HTTPRedirectHandler):
    def http_error_302(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage
    ) -> http.client.HTTPResponse | None:
        target = urljoin(req.full_url, headers.get("Location", ""))
        if urlsplit(target).scheme not in ("http", "https"):
            raise Refused(f"the server sends on to {target[:200]}, which is neither http nor https")
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_HttpOnly())
