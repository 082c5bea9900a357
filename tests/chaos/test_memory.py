"""A worker that runs out of memory: told by Python, brought down by an allocation in C, or killed by the kernel."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from optuna.trial import TrialState
from tests.chaos.ledger import chance, injected
from tests.sweep.apps import LONG, App

# `how` says who notices. A worker is limited, once a trial has begun, to what it has and half a gibibyte; one that is
# starved joins a group of processes in which the kernel kills whoever takes more than a quarter of one.
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
            if config.how == "starved":
                with open(os.path.join(os.environ["MEMORY_GROUP"], "cgroup.procs"), "w") as group:
                    group.write(str(os.getpid()))
                touched = []
                while True:
                    touched.append(b"x" * 2**24)
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
                # What a service manager does to a process that takes too much, and C++ to one that gets nothing.
                os.kill(os.getpid(), signal.SIGKILL if config.how == "killed" else signal.SIGABRT)
        return config.x

    if __name__ == "__main__":
        main()
"""


KINDS = dict.fromkeys(("told", "killed", "aborted"), "a worker that runs out of memory")
KINDS["starved"] = "a worker that the kernel kills for its memory"


@pytest.fixture
def memory_group() -> Iterator[Path]:
    """A control group, of either version, in which all processes together have a quarter of a gibibyte."""
    tried = (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max"))
    for parent, limit in tried:
        folder = Path(parent) / f"graft-test-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            (folder / limit).write_text(str(2**28))
        except OSError:
            folder.rmdir()
            continue
        yield folder
        folder.rmdir()
        return
    pytest.skip("limits memory by a control group, which needs root and a system that lets it")


@pytest.mark.parametrize("how", ["told", "killed", "aborted", "starved"])
def test_a_worker_that_runs_out_of_memory_takes_no_other_trial_with_it(
    make_app: Callable[[str], App], how: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "starved":
        monkeypatch.setenv("MEMORY_GROUP", str(request.getfixturevalue("memory_group")))
    app = make_app(HUNGRY_APP)
    (app.folder / "config.yaml").write_text("x: 0\nhungry: 0\nhow: told\nalways: false\n")
    choose = chance(how)
    for number in range(5 if LONG else 1):
        with injected(KINDS[how]) as fault:
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
                    cause = {"told": "MemoryError", "aborted": "SIGABRT"}.get(how, "SIGKILL")
                    assert trial.user_attrs["graft.failure"] == cause
                    assert cause in done.out
                else:
                    assert (trial.state, trial.values) == (TrialState.COMPLETE, [trial.number])
            others = [line for line in app.lines() if int(line.split()[0]) != hungry]
            assert sorted(others) == sorted(f"{other} 0" for other in range(6) if other != hungry)
            fault.named() if fails else fault.repaired()
