"""A worker that runs out of memory: told by Python, killed by the system, or brought down by an allocation in C."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from optuna.trial import TrialState
from tests.chaos.ledger import chance, injected
from tests.sweep.apps import LONG, App

# `how` says who notices. A worker is limited, once a trial has begun, to what it has and half a gibibyte.
HUNGRY_APP = """
    import os, resource, signal
    import hydra
    import psutil
    from graft import trial

    @hydra.main(version_base=None, config_path=".", config_name="config")
    def main(config):
        now = trial.current()
        with open("log", "a") as log:
            log.write(f"{now.number} {now.attempt}\\n")
        if config.x == config.hungry and (config.always or now.attempt == 0):
            before = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + 2**29, before[1]))
            taken = []
            try:
                while True:
                    taken.append(bytearray(2**24))
            except MemoryError:
                taken.clear()
                resource.setrlimit(resource.RLIMIT_AS, before)
                if config.how == "told":
                    raise
                # What the kernel does to a process that takes the last page, and C++ to one that gets none.
                os.kill(os.getpid(), signal.SIGKILL if config.how == "killed" else signal.SIGABRT)
        return config.x

    if __name__ == "__main__":
        main()
"""


@pytest.mark.parametrize("how", ["told", "killed", "aborted"])
def test_a_worker_that_runs_out_of_memory_takes_no_other_trial_with_it(
    make_app: Callable[[str], App], how: str
) -> None:
    app = make_app(HUNGRY_APP)
    (app.folder / "config.yaml").write_text("x: 0\nhungry: 0\nhow: told\nalways: false\n")
    choose = chance(how)
    for number in range(5 if LONG else 1):
        with injected("a worker that runs out of memory") as fault:
            hungry, always = choose.randrange(6), choose.random() < 0.5
            (app.folder / "log").unlink(missing_ok=True)
            name = f"hydra.sweeper.study_name=mine{number}"
            done = app.run(
                "x=range(6)", f"hungry={hungry}", f"how={how}", f"always={always}", "hydra.launcher.slots=2", name
            )
            fails = how == "told" or always
            assert done.status == (1 if fails else 0), done.err
            for trial in app.study(f"mine{number}").trials:
                if fails and trial.number == hungry:
                    assert trial.state == TrialState.FAIL
                    cause = {"told": "MemoryError", "killed": "SIGKILL", "aborted": "SIGABRT"}[how]
                    assert trial.user_attrs["graft.failure"] == cause
                    assert cause in done.out
                else:
                    assert (trial.state, trial.values) == (TrialState.COMPLETE, [trial.number])
            others = [line for line in app.lines() if int(line.split()[0]) != hungry]
            assert sorted(others) == sorted(f"{other} 0" for other in range(6) if other != hungry)
            fault.named() if fails else fault.repaired()
