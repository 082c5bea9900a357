"""Standard streams that do not end what they tell about. Imports nothing that takes time."""

from __future__ import annotations

import io
import os
import sys


class Output(io.TextIOWrapper):
    """A standard stream that goes silent where it cannot be written.

    Whoever read it may have gone (``| head``), the terminal may be closed, the disk behind it full: a night's sweep
    does not end by that. Characters that the stream's encoding lacks are written out.
    """

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError:
            self._go_silent()
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError:
            self._go_silent()

    def _go_silent(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        super().flush()  # what waits in its buffers goes there too


def keep_output_going() -> None:
    """Makes an `Output` of stdout and of stderr, once; streams that something else has replaced stay what they are."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:  # closed, so the next file would get its number, and what is printed would go into that
            os.open(os.devnull, os.O_RDWR)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            file = open(descriptor, "wb", closefd=False)  # noqa: SIM115 - for as long as the process lives
            setattr(sys, name, Output(file, encoding="utf-8", errors="backslashreplace", line_buffering=True))
        elif type(stream) is io.TextIOWrapper and stream.fileno() == descriptor:
            stream.flush()
            _REPLACED.append(stream)
            encoding, lines = stream.encoding, stream.line_buffering
            output = Output(stream.buffer, encoding=encoding, errors="backslashreplace", line_buffering=lines)
            setattr(sys, name, output)


_REPLACED: list[io.TextIOWrapper] = []
"""Kept: forgotten, they would close what they write to, and loggers may hold them."""
