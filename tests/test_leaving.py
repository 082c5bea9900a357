"""How a process that loaded something heavy ends: as Python would end it, without freeing what it holds."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import atexit, sys, threading, time, types
from graft.leaving import leaving_at_once

class Held:
    def __del__(self):
        print("freed")

held = Held()
if {heavy}:
    sys.modules["tensorflow"] = types.ModuleType("tensorflow")
atexit.register(print, "handler", end="")
def late():
    time.sleep(0.3)
    print("thread")
with leaving_at_once():
    threading.Thread(target=late).start()
    sys.stdout.write("no end of line ")
    {end}
print("after")
"""


def ended(end: str, *, heavy: bool = True) -> tuple[int, str, str]:
    program = PROGRAM.format(end=end, heavy=heavy)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("end", "status", "told"),
    [
        ("pass", 0, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit(3)", 3, ""),
        ("sys.exit('in words')", 1, "in words\n"),
        ("sys.exit(True)", 1, ""),
        ("sys.exit(('of', 'any', 'kind'))", 1, "('of', 'any', 'kind')\n"),
    ],
)
def test_threads_are_waited_for_handlers_called_and_the_status_kept(end: str, status: int, told: str) -> None:
    assert ended(end) == (status, "no end of line thread\nhandler", told)


def test_ctrl_c_while_it_leaves_changes_nothing_any_more() -> None:
    interrupt = "threading.Timer(0.1, signal.raise_signal, [signal.SIGINT]).start()"
    program = PROGRAM.format(end=interrupt, heavy=True).replace("import atexit,", "import atexit, signal,")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("handler")


def test_an_error_and_a_process_with_nothing_heavy_end_as_ever() -> None:
    status, out, err = ended("raise KeyError('oh')")
    assert (status, out) == (1, "no end of line thread\nhandlerfreed\n")
    assert err.endswith("KeyError: 'oh'\n")
    assert ended("pass", heavy=False) == (0, "no end of line after\nthread\nhandlerfreed\n", "")
    assert ended("sys.exit(3)", heavy=False) == (3, "no end of line thread\nhandlerfreed\n", "")
