"""What one attempt at a run leaves for the next one."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from graft import attempts


def test_what_attempts_paid_adds_up(tmp_path: Path) -> None:
    assert attempts.paid(tmp_path, "extraction", 2.5) == 2.5
    assert attempts.paid(tmp_path, "probe", 1.0) == 1.0
    assert attempts.paid(tmp_path, "extraction", 0.0) == 2.5
    assert attempts.paid(tmp_path, "extraction", 0.25) == 2.75


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b'{"extraction": "much"}'])
def test_a_damaged_sum_is_told_and_begun_anew(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    attempts.paid(tmp_path, "extraction", 2.0)
    file = tmp_path / "checkpoints" / attempts.PAID
    file.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert attempts.paid(tmp_path, "extraction", 3.0) == 3.0
    assert str(file) in caplog.text
    assert attempts.paid(tmp_path, "extraction", 1.0) == 4.0
