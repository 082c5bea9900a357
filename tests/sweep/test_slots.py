"""GPUs and slots: which device a trial sees, and that no trial waits for another."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from tests.sweep.apps import App

from graft.errors import ConfigError
from graft.sweep import process
from graft.sweep.devices import slot_devices, visible_gpus
from graft.sweep.jobs import Died, Job, Returned
from graft.sweep.slots import Slot
from graft.sweep.workers import PoolOptions


class Idle:
    """A worker that is there, and says whether it lives."""

    jobs, last_lines, alive = 0, (), True

    def __init__(self) -> None:
        self.sent: list[Job] = []

    def wait_until_ready(self, say: object, better: object, show: object) -> None: ...
    def send_job(self, job: Job) -> None:
        self.sent.append(job)

    def messages(self, patience: float) -> list[dict[str, object] | str]:
        return [
            {"kind": "answer", "returned": {"values": [1.0], "plain": 1.0, "shown": "1.0"}, "told": None, "last": False}
        ]

    def memory_gib(self) -> float:
        return 0.0

    def quit(self) -> None: ...


def test_a_worker_that_died_between_two_jobs_costs_no_trial_an_attempt() -> None:
    started: list[Idle] = []

    def start() -> Idle:
        started.append(Idle())
        return started[-1]

    slot = Slot(0, start, PoolOptions(), lambda event: None)  # type: ignore[arg-type]
    jobs = [Job(number, (), OmegaConf.create()) for number in range(3)]
    for job in jobs:
        if job.number == 2:
            started[-1].alive = False
        answer = slot.run(job)
        assert answer is not None
        assert isinstance(answer.ending, Returned)
    assert [worker.sent for worker in started] == [jobs[:2], jobs[2:]]


@pytest.mark.parametrize("error", [EOFError, ConnectionResetError])
def test_a_worker_that_dies_while_it_starts_before_there_is_a_job_is_replaced_once(error: type[Exception]) -> None:
    class Dying(Idle):
        def wait_until_ready(self, say: object, better: object, show: object) -> None:
            raise error

        def kill(self) -> None: ...
        def last_words(self) -> list[str]:
            return []

        def cause_of_death(self) -> str:
            return "SIGKILL"

    workers = [Dying(), Idle(), Dying()]
    slot = Slot(0, lambda: workers.pop(0), PoolOptions(fresh_process=True), lambda event: None)  # type: ignore[arg-type,return-value]
    slot.warm_up()
    endings = []
    for number in range(2):
        answer = slot.run(Job(number, (), OmegaConf.create()))
        assert answer is not None
        endings.append(type(answer.ending))
    assert endings == [Returned, Died], "the second one had a job"


def test_a_worker_that_sends_its_output_elsewhere_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task may have its output in a file of its own; the end of the pipe must not be news again and again."""
    elsewhere = tmp_path / "python"
    elsewhere.write_text("#!/bin/sh\necho begins\nexec >/dev/null 2>&1\nsleep 60\n")
    elsewhere.chmod(0o700)
    monkeypatch.setattr(process.sys, "executable", str(elsewhere))
    looks: list[list[Any]] = []
    usual = process.wait

    def wait(watched: list[Any], patience: float) -> list[Any]:
        looks.append(usual(watched, patience))
        return looks[-1]

    monkeypatch.setattr(process, "wait", wait)
    worker = process.Process(None, b"")
    try:
        said: list[Any] = []
        while not said:
            said += worker.messages(0.2)
        said += [line for _ in range(5) for line in worker.messages(0.2)]
        assert said == ["begins"]
        assert looks[-1] == []
    finally:
        worker.kill()
        worker.quit()


FAKE_NVML = """
class NVMLError(Exception): ...
def nvmlInit(): ...
def nvmlShutdown(): ...
def nvmlDeviceGetCount(): return 4
def nvmlDeviceGetHandleByIndex(index): return index
def nvmlDeviceGetUUID(handle): return f"GPU-{handle}"
"""


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = types.ModuleType("pynvml")
    exec(FAKE_NVML, fake.__dict__)
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("four_gpus")
@pytest.mark.parametrize(
    ("slots", "per_gpu", "devices"),
    [
        (None, 1, ["GPU-0", "GPU-1", "GPU-2", "GPU-3"]),
        (2, 1, ["GPU-0", "GPU-1"]),
        (None, 2, ["GPU-0", "GPU-1", "GPU-2", "GPU-3"] * 2),
        (5, 2, ["GPU-0", "GPU-1", "GPU-2", "GPU-3", "GPU-0"]),
    ],
)
def test_slots_are_spread_over_the_gpus(slots: int | None, per_gpu: int, devices: list[str]) -> None:
    assert slot_devices(slots, per_gpu) == devices


@pytest.mark.usefixtures("four_gpus")
def test_more_slots_than_the_gpus_offer_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"slots=6 is more than 4 GPUs .*slots_per_gpu=2"):
        slot_devices(6, 1)


@pytest.mark.usefixtures("four_gpus")
def test_a_schedulers_choice_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, visible in (("2,3", ["2", "3"]), ("", []), ("-1", []), ("GPU-a, GPU-b", ["GPU-a", "GPU-b"])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
        assert visible_gpus() == visible


def test_without_gpus_there_is_one_slot_or_as_many_as_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert slot_devices(None, 1) == [None]
    assert slot_devices(3, 1) == [None] * 3


DEVICE_APP = """
    import json, os, time
    import hydra

    assert "tensorflow" not in __import__("sys").modules

    @hydra.main(version_base=None)
    def main(config):
        seen = os.environ["CUDA_VISIBLE_DEVICES"], os.environ["TF_FORCE_GPU_ALLOW_GROWTH"]
        note("begin", *seen)
        while sum("begin" in line for line in open("log")) < config.together:
            time.sleep(0.02)
        note("end", *seen)
        return 0.0

    def note(*fields):
        # One write for a line, so that lines of several processes do not mix.
        with open("log", "a") as log:
            log.write(json.dumps(fields) + "\\n")

    if __name__ == "__main__":
        main()
"""


@pytest.mark.parametrize("per_gpu", [1, 2])
def test_a_trial_sees_one_device_and_shares_it_only_if_asked_to(make_app: Callable[[str], App], per_gpu: int) -> None:
    app = make_app(DEVICE_APP)
    (app.folder / "pynvml.py").write_text(FAKE_NVML)
    del app.environment["CUDA_VISIBLE_DEVICES"]
    # As many as there is room for are at work at a time.
    done = app.run("+x=range(8)", f"+together={4 * per_gpu}", f"hydra.launcher.slots_per_gpu={per_gpu}")
    assert done.status == 0, done.err
    on_device = dict.fromkeys((f"GPU-{n}" for n in range(4)), 0)
    most = dict(on_device)
    used = dict(on_device)
    for what, device, growth in map(json.loads, app.lines()):
        on_device[device] += 1 if what == "begin" else -1
        most[device] = max(most[device], on_device[device])
        used[device] += what == "begin"
        assert growth == "true"
    assert sum(used.values()) == 8
    assert max(most.values()) == per_gpu
    assert min(used.values()) >= 1


def test_a_long_trial_holds_up_no_other(make_app: Callable[[str], App]) -> None:
    app = make_app("""
        import os, time
        import hydra

        # The first trial ends when all others have: with a barrier it would never be.
        @hydra.main(version_base=None)
        def main(config):
            if config.x == 0:
                while len(open("log").readlines() if os.path.exists("log") else []) < 6:
                    time.sleep(0.02)
            with open("log", "a") as log:
                log.write(f"{config.x}\\n")
            return 0.0

        if __name__ == "__main__":
            main()
    """)
    done = app.run("+x=range(7)", "hydra.launcher.slots=2", "hydra.sweeper.trial_timeout=60")
    assert done.status == 0, done.err
    assert app.lines()[-1] == "0"
