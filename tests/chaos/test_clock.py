"""The system's clock set an hour back or ahead: between attempts, while a sweep runs, and between two commands on one.

A test cannot set the machine's clock. So the time of day that Python and psutil tell in a test's processes is that of a
file, which the test changes. What counts on is told by another clock, in them as on a machine whose clock is set.
"""

from __future__ import annotations

import time

import pytest
from tests.chaos.ledger import Doubled, chance, injected
from tests.chaos.test_kills import at_work, check_sweep, command, end, recorded
from tests.sweep.apps import LONG, App, notes, wait_for

HOUR = 3600.0

# Python imports it when it starts, from wherever PYTHONPATH leads.
SITE = """
    import os, time
    import psutil

    def ahead():
        try:
            with open(os.environ["CHAOS_CLOCK"]) as file:
                return float(file.read() or 0)
        except (OSError, ValueError):
            return 0.0

    now, now_ns, booted = time.time, time.time_ns, psutil._pslinux.boot_time
    time.time = lambda: now() + ahead()
    time.time_ns = lambda: now_ns() + int(ahead() * 10**9)
    psutil._pslinux.boot_time = lambda: booted() + ahead()
"""


class Clock:
    """The time of day in an application's processes."""

    def __init__(self, app: App) -> None:
        (app.folder / "site").mkdir()
        lines = [line.removeprefix("    ") for line in SITE.splitlines()]
        (app.folder / "site" / "sitecustomize.py").write_text("\n".join(lines))
        self._file = app.folder / "clock"
        path = [str(app.folder / "site"), *filter(None, [app.environment.get("PYTHONPATH")])]
        app.environment |= {"PYTHONPATH": ":".join(path), "CHAOS_CLOCK": str(self._file)}

    def set(self, ahead: float) -> None:
        partial = self._file.with_suffix(".partial")
        partial.write_text(str(ahead))
        partial.replace(self._file)


@pytest.fixture
def clock(steps: App) -> Clock:
    return Clock(steps)


def test_a_clock_that_is_set_while_a_sweep_runs_and_between_its_starts(steps: App, clock: Clock) -> None:
    moments, before = chance("clock"), {}
    for _ in range(12 if LONG else 2):
        with injected("the clock set within a sweep, and before its next start") as fault:
            running = at_work(steps, *command(0.3, "hydra.sweeper.trial_timeout=120", "hydra.sweeper.timeout=300"))
            time.sleep(moments.uniform(0, 0.5))
            clock.set(moments.choice([-1, 1]) * moments.uniform(0, HOUR))
            time.sleep(moments.uniform(0, 0.5))
            assert running.poll() in (None, 0)
            end(running)
            clock.set(moments.choice([-1, 1]) * moments.uniform(0, HOUR))
            after = recorded(steps)
            assert before.items() <= after.items()
            before = after
            fault.repaired()
    done = steps.run(*command(0.3))
    assert done.status == 0, done.err
    check_sweep(steps)


@pytest.mark.parametrize("ahead", [HOUR, -HOUR], ids=["ahead", "back"])
def test_a_controller_that_joins_after_the_clock_was_set_takes_no_other_for_dead(
    steps: App, clock: Clock, ahead: float
) -> None:
    with injected("the clock set between the starts of two controllers of one sweep") as fault:
        (steps.folder / "hold").touch()  # so that the first leaves trials for the other one, however late that is
        first = steps.start(*command())
        wait_for(lambda: len(notes(steps, "start")) == 2)
        clock.set(ahead)
        second = steps.start(*command())
        wait_for(lambda: len(notes(steps, "start")) > 2)
        (steps.folder / "hold").unlink()
        for each in (first, second):
            out, err = each.communicate(timeout=240)
            assert each.returncode == 0, err
            if "starts again" in out or "taken over" in out:
                raise Doubled(out)
        assert len({pid for *_, pid in notes(steps, "step")}) > 2, "both were at work"
        assert all(attempt == 0 for _, attempt, *_ in notes(steps, "start"))
        check_sweep(steps)
        fault.repaired()
