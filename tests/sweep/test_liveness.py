"""Who lives, whatever the clocks say."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from graft.sweep.liveness import here, mark_of_controller, process_lives


def test_a_clock_that_was_set_makes_nobody_look_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = here(left=False)
    # What psutil takes the beginning of all processes from moves with the clock.
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: 0.0)
    assert process_lives(shown) is True
    assert here(left=False)["started"] == shown["started"]


def test_a_process_that_ended_is_dead_and_one_of_its_number_is_another() -> None:
    shown = here(left=False)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert process_lives({**shown, "pid": child.pid}) is False
    child.communicate()
    assert process_lives({**shown, "pid": child.pid}) is False
    assert process_lives({**shown, "pid": os.getpid()}) is True
    assert process_lives({**shown, "host": "elsewhere"}) is None


def test_the_workers_of_a_controller_are_not_those_of_a_later_one_of_its_number() -> None:
    """Numbers come again when a machine or a container is restarted, and leftover workers are killed by their mark."""
    shown = here(left=False)
    assert mark_of_controller(shown) == mark_of_controller()
    assert mark_of_controller({**shown, "started": "another boot 4711"}) != mark_of_controller()
