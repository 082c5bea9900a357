"""The live table, the plain lines and the summary."""

from __future__ import annotations

import io
import os
import pty
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from tests.sweep.apps import App

from graft.sweep import display as module
from graft.sweep.display import Display, LiveDisplay, duration, summary
from graft.sweep.jobs import Printed, Reported
from graft.sweep.observer import BestTrial, SweepEnded
from graft.sweep.outcome import Outcome, State

SETTINGS = {"total": 10, "done": 2, "slots": 2, "objectives": ["accuracy"], "varied": ["lr", "trainable"]}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


def test_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    display = Display(**SETTINGS)  # type: ignore[arg-type]
    display.started(3, 0, ["lr=0.1", "trainable=true", "epochs=4"])
    display.printed(Printed(3, "hello"))
    display.ended(3, Outcome(State.COMPLETE, (0.93,)), 12.3)
    display.started(4, 0, ["lr=0.2", "trainable=true", "epochs=4"])
    display.ended(4, Outcome(State.FAILED, cause="diverged", message="loss is NaN\x1b[2J\nmore"), 90)
    assert capsys.readouterr().out.splitlines() == [
        "#3 | hello",
        "[3/10] #3 lr=0.1 trainable=true: accuracy=0.93 (12 s)",
        "[4/10] #4 lr=0.2 trainable=true: failed, diverged: loss is NaN\\x1b[2J (1 min 30 s)",
    ]


def test_the_time_left_counts_what_waits_and_what_runs(clock: Callable[[float], None]) -> None:
    display = Display(**SETTINGS)  # type: ignore[arg-type]
    display.started(2, 0, [])
    assert display.seconds_left() is None
    clock(10)
    display.ended(2, Outcome(State.COMPLETE, (1.0,)), 10)
    display.started(3, 0, [])
    display.started(4, 0, [])
    clock(4)
    # 5 trials wait and 2 have 6 s to go, in 2 slots.
    assert display.seconds_left() == (5 * 10 + 2 * 6) / 2


def test_the_live_table(clock: Callable[[float], None]) -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    display = LiveDisplay(**SETTINGS, console=console)  # type: ignore[arg-type]
    display.started(3, 1, ["lr=0.1", "epochs=4"])
    display.started(2, 0, ["lr=0.2", "epochs=4"])
    display.reported(Reported(3, 7, 0.5, {"images_per_second": 820.0}))
    display.reported(Reported(99, 1, 0.5))  # of a trial that has ended
    clock(65)
    with console.capture() as captured:
        console.print(display.render())
    lines = [line.split() for line in captured.get().splitlines()]
    assert lines[0] == ["trial", "overrides", "step", "accuracy", "images_per_second", "running"]
    assert lines[1] == ["#2", "lr=0.2", "1", "min", "05", "s"]
    assert lines[2] == ["#3", "attempt", "2", "lr=0.1", "7", "0.5", "820", "1", "min", "05", "s"]
    assert " ".join(lines[3]) == "2 of 10 trials done, time left unknown"


def test_the_summary() -> None:
    ended = SweepEnded(
        sweep="s",
        total=12,
        counts={"complete": 5, "failed": 6, "waiting": 1},
        best=(BestTrial(7, {"accuracy": 0.93}, ("lr=0.1",), Path("/swept/7")),),
        seconds=3725,
        failures={"ValueError": 1, "diverged": 5},
        interrupted=True,
    )
    messages = {n: ("diverged", f"loss {n}\nmore") for n in range(5)} | {9: ("ValueError", "no")}
    assert summary(ended, messages).splitlines() == [
        "Sweep s: 5 complete, 0 pruned, 6 failed, 1 waiting of 12 trials, in 1 h 02 min.",
        "Best: #7 accuracy=0.93 with lr=0.1",
        "  /swept/7",
        "Failed, diverged: 5 trials",
        "  #0: loss 0",
        "  #1: loss 1",
        "  #2: loss 2",
        "  and #3, #4",
        "Failed, ValueError: 1 trial",
        "  #9: no",
    ]


@pytest.mark.parametrize(("seconds", "text"), [(0.314, "0.31 s"), (9.96, "10 s"), (59, "59 s"), (200, "3 min 20 s")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_terminal_gets_the_table_and_the_jobs_lines_above_it(make_app: Callable[[str], App]) -> None:
    app = make_app("""
        import time
        import hydra
        from graft import trial

        @hydra.main(version_base=None)
        def main(config):
            print("hello from a job")
            for step in range(5):
                trial.report(step, step / 4, images_per_second=820.0)
                time.sleep(0.15)
            return 1.0

        if __name__ == "__main__":
            main()
    """)
    controller_end, terminal = pty.openpty()
    environment = {**app.environment, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    running = subprocess.Popen(app.command("+x=1,2"), cwd=app.folder, env=environment, stdout=terminal, stderr=terminal)
    os.close(terminal)
    shown = b""
    while True:
        try:
            chunk = os.read(controller_end, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not chunk:
            break
        shown += chunk
    assert running.wait() == 0
    os.close(controller_end)
    text = shown.decode()
    for expected in ("images_per_second", "#1 | hello from a job", "of 2 trials done", " left", "[2/2] #1 +x=2"):
        assert expected in text
