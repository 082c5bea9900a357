"""A server on loopback that answers as it is told, well or badly."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[[BaseHTTPRequestHandler], None]


def whole(data: bytes, etag: str | None = None) -> Answer:
    """All of `data`, or the rest of it if the client has the beginning of this version, or does not say of which."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        start = 0
        if "Range" in handler.headers and handler.headers.get("If-Range", etag) == etag:
            start = int(handler.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        _send(handler, data[start:], len(data) - start, etag)

    return answer


def cut_off(data: bytes, after: int, etag: str | None = None) -> Answer:
    """The beginning of `data`, where the whole was promised."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        _send(handler, data[:after], len(data), etag)
        handler.close_connection = True

    return answer


def status(code: int) -> Answer:
    return lambda handler: handler.send_error(code)


def redirect(location: str, code: int = 302) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        handler.send_header("Location", location)
        _send(handler, b"", 0, None)

    return answer


def _send(handler: BaseHTTPRequestHandler, data: bytes, length: int, etag: str | None) -> None:
    if etag:
        handler.send_header("ETag", etag)
    handler.send_header("Content-Length", str(length))
    handler.end_headers()
    handler.wfile.write(data)


@dataclass
class Server:
    """Runs while entered.

    Attributes:
        asked: The paths, with their queries, that were asked for, and each request's Range.
    """

    asked: list[tuple[str, str | None]] = field(default_factory=list)
    _answers: dict[str, list[Answer]] = field(default_factory=dict)

    def __enter__(self) -> Server:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append((self.path, self.headers.get("Range")))
                answers = server._answers.get(self.path.split("?")[0], [status(404)])
                (answers.pop(0) if len(answers) > 1 else answers[0])(self)

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def serve(self, path: str, *answers: Answer) -> str:
        """Answers to `path` in turn, the last one again and again; gives the address."""
        self._answers[path] = list(answers)
        return self.address + path
