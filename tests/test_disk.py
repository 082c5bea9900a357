"""Errors of a disk that is full or read-only are told as that, wherever they come from, and nothing else is."""

from __future__ import annotations

import errno
import io
import logging
import os
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from graft.disk import told, unwritable_of
from graft.errors import FatalError

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def chained(outer: Exception, cause: BaseException) -> Exception:
    outer.__cause__ = cause
    return outer


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/a/b"), "/a/b: No space left on device. Please make room"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS), "/a/b"), "/a/b: Read-only file system. Please make that disk"),
        (FULL, "/place: No space left on device. Please make room on that disk. Then the same command goes on."),
        (chained(RuntimeError("of a library"), FULL), "/place: No space left on device"),
        (chained(FatalError("The features cannot be stored in /f: No space left on device"), FULL),
         "The features cannot be stored in /f: No space left on device. Please make room"),
        (OperationalError("", None, sqlite3.OperationalError("database or disk is full")), "/place: No space left on"),
    ],
)  # fmt: skip
def test_a_disk_that_takes_nothing_more_is_told(error: Exception, text: str) -> None:
    unwritable = unwritable_of(error, "/place")
    assert unwritable is not None
    assert str(unwritable).startswith(text)


def test_what_tensorflow_says_of_a_full_disk_names_the_file() -> None:
    import tensorflow as tf

    message = (
        "{{function_node __wrapped__SaveV2}} /run/ckpt-3_temp/part-0.tempstate12; No space left on device [Op:SaveV2]"
    )
    unwritable = unwritable_of(tf.errors.ResourceExhaustedError(None, None, message), "/place")
    assert str(unwritable).startswith("/run/ckpt-3_temp/part-0.tempstate12: No space left on device.")


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOENT, "no such file", "/a"), ValueError("No space left on device"), FatalError("no")]
)
def test_other_errors_stay_as_they_are(error: Exception) -> None:
    assert unwritable_of(error) is None
    with pytest.raises(type(error)) as caught, told("/place"):
        raise error
    assert caught.value is error


class FullFile(io.StringIO):
    def write(self, text: str) -> int:
        raise FULL


def test_a_log_that_has_no_room_prints_no_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    handler = logging.StreamHandler(FullFile())
    log = logging.getLogger("of a full disk")
    log.propagate = False
    log.addHandler(handler)
    try:
        with told(tmp_path):
            log.error("a line")
        assert capsys.readouterr().err == ""
        log.error("another line")
        assert "No space left on device" in capsys.readouterr().err, "only while somebody tells"
    finally:
        log.removeHandler(handler)
