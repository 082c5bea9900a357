"""Sweeps in Slurm jobs: places that are taken away, nodes that are lost, a killed command, what Slurm refuses."""

from __future__ import annotations

import grp
import json
import os
import pickle
import signal
import stat
import subprocess
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from optuna.trial import TrialState
from tests.sweep.apps import App, assert_nothing_lost_or_doubled, notes, runs, wait_for
from tests.sweep.fake_slurm import FakeSlurm

from graft.errors import ConfigError
from graft.sweep import slurm_cluster, slurm_queue
from graft.sweep.mailbox import FROM_WORKER, TO_WORKER, Inbox, NotOurs, make_mailbox, make_private, post
from graft.sweep.slurm_cluster import SlurmOptions, SlurmWorkers
from graft.sweep.slurm_place import NoPlace, Place
from graft.sweep.slurm_queue import SlurmQueue

pytestmark = pytest.mark.usefixtures("_submitit_is_installed")


@pytest.fixture
def _submitit_is_installed() -> None:
    pytest.importorskip("submitit", reason="submitit is not installed")


@pytest.fixture
def on_slurm(steps: App, slurm: FakeSlurm) -> App:
    return on(steps, slurm)


def on(app: App, slurm: FakeSlurm) -> App:
    """The application, set to run its sweeps in Slurm jobs."""
    app.environment |= slurm.environment
    app.launcher = ("hydra/launcher=graft_slurm", "hydra.launcher.slots=2")
    return app


def impatient(app: App) -> App:
    """The application, whose command looks at Slurm's queue more often, and says sooner that it waits."""
    source = app.folder / "app.py"
    patch = "from graft.sweep import slurm_place, slurm_queue\n"
    patch += "slurm_place.SAY_SECONDS = slurm_queue.LOOK_SECONDS = 1\n"
    source.write_text(patch + source.read_text())
    return app


def unforgotten(paths: Iterable[Path]) -> list[Path]:
    """Without what submitit writes once a job has ended, perhaps after the sweep has: that it has, and nothing else."""
    ended = pickle.dumps(("success", None), pickle.HIGHEST_PROTOCOL)

    def says_that_it_ended(path: Path) -> bool:
        try:
            return "_result.pkl" in path.name and ended.startswith(path.read_bytes())
        except FileNotFoundError:  # it had another name while it was written
            return True

    return [path for path in paths if not says_that_it_ended(path)]


def logs(app: App) -> str:
    return "".join(path.read_text() for path in app.folder.glob("multirun/*/*/.slurm/*_log.*"))


def test_a_slot_keeps_its_job_and_a_trial_can_have_one_of_its_own(on_slurm: App, slurm: FakeSlurm) -> None:
    (on_slurm.folder / "hold").touch()  # until both have a place
    running = on_slurm.start(
        "x=1,2,3,4", "hydra.launcher.partition=gpu", "hydra.launcher.gpus_per_node=1", "hydra.launcher.mem_gb=8",
        "hydra.launcher.additional_parameters={nice: 5}", "hydra.launcher.setup=['export FROM_SETUP=here']",
    )  # fmt: skip
    wait_for(lambda: len(notes(on_slurm, "start")) == 2)
    (on_slurm.folder / "hold").unlink()
    out, err = running.communicate(timeout=240)
    assert running.returncode == 0, err
    assert "4 trials (4 cells) in 2 slots of Slurm (a job for each slot, partition gpu, 1 GPU, 8 GB)" in out
    first = slurm.jobs()
    assert len(first) == 2
    wait_for(lambda: {job["state"] for job in slurm.jobs().values()} == {"COMPLETED"})
    options = first["100"]["options"]
    wanted = {"partition": "gpu", "gpus-per-node": "1", "mem": "8GB", "nice": "5", "job-name": "graft", "time": "240"}
    assert {key: options.get(key) for key in wanted} == wanted
    assert options["signal"] == "USR2@120"
    assert "export FROM_SETUP=here" in first["100"]["script"]

    done = on_slurm.run("x=5,6,7", "hydra.launcher.job_per=trial")
    assert done.status == 0, done.err
    assert len(slurm.jobs()) == 2 + 3
    assert len({pid for _, _, _, pid in notes(on_slurm, "start")}) == 2 + 3


def test_what_a_trial_prints_is_in_its_folder_and_what_it_was_told_is_gone(on_slurm: App, slurm: FakeSlurm) -> None:
    app = on_slurm.folder / "app.py"
    app.write_text(
        app.read_text().replace("now = trial.current()", "now = trial.current(); print('said by', now.number)")
    )
    running = on_slurm.start("x=1,2", "password=hidden", "steps=20", "die_at=5")
    (on_slurm.folder / "hold").touch()
    wait_for(lambda: bool(notes(on_slurm, "start")))
    boxes = list(on_slurm.folder.glob("multirun/*/*/.slurm/mailbox-*"))
    assert len(boxes) == 2
    for box in boxes:
        assert [stat.S_IMODE(folder.stat().st_mode) for folder in (box, box.parent)] == [0o700] * 2
        assert {stat.S_IMODE(file.stat().st_mode) for file in box.iterdir()} == {0o600}
    (on_slurm.folder / "hold").unlink()
    out, err = running.communicate(timeout=240)
    assert running.returncode == 0, err
    assert "#0 | said by 0" in out
    (folder,) = on_slurm.folder.glob("multirun/*/*/0")
    told = (folder / "output.log").read_text().splitlines()
    assert [line.split(" on ")[0] for line in told] == ["-- attempt 0", "said by 0", "-- attempt 1", "said by 0"]
    assert "said by 0" in logs(on_slurm)
    left = {path.suffix for path in unforgotten((folder.parent / ".slurm").iterdir())}
    assert left <= {".sh", ".out", ".err"}


def test_a_trial_that_kills_its_process_is_retried_in_the_same_job(on_slurm: App, slurm: FakeSlurm) -> None:
    done = on_slurm.run("x=1", "die_at=1", "hydra.launcher.slots=1")
    assert done.status == 0, done.err
    (trial,) = on_slurm.study().trials
    assert (trial.values, trial.user_attrs["graft.attempt"], trial.user_attrs["graft.deaths"]) == ([1], 1, 1)
    assert "its process died (SIGKILL)" in done.out
    assert len(slurm.jobs()) == 1
    assert_nothing_lost_or_doubled(on_slurm, 1)


@pytest.mark.parametrize("job_per", ["slot", "trial"])
def test_a_warned_job_is_requeued_and_its_trial_goes_on(on_slurm: App, slurm: FakeSlurm, job_per: str) -> None:
    running = on_slurm.start(
        "x=1,2", "steps=400", "seconds=0.05", "hydra.launcher.slots=1", f"hydra.launcher.job_per={job_per}"
    )
    wait_for(lambda: len(notes(on_slurm, "step")) > 5)
    slurm.warn("100")
    wait_for(lambda: len(notes(on_slurm, "start")) > 1)
    (on_slurm.folder / "hurry").touch()
    out, err = running.communicate(timeout=240)
    assert running.returncode == 0, err
    assert "#0 x=1: its place was taken away; it waits again" in out
    # It goes on before another one begins, so that a sweep has few that are half done.
    assert [number for number, *_ in notes(on_slurm, "start")] == [0, 0, 1]
    assert slurm.calls("scontrol") == [["requeue", "100"]]
    jobs = slurm.jobs()
    assert jobs["100"]["starts"] == 2
    assert len(jobs) == (1 if job_per == "slot" else 2)
    trials = on_slurm.study().trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 2
    # It is not the trial's fault.
    assert [trial.user_attrs.get("graft.deaths", 0) for trial in trials] == [0, 0]
    assert sum(trial.user_attrs.get("graft.attempt", 0) for trial in trials) == 1
    assert_nothing_lost_or_doubled(on_slurm, 2)


def test_a_preempted_trial_that_does_not_stop_in_time_is_no_death(
    make_app: Callable[[str], App], slurm: FakeSlurm
) -> None:
    app = on(
        make_app("""
            import time
            import hydra
            from graft import trial

            @hydra.main(version_base=None)
            def main(config):
                with open("log", "a") as log:
                    log.write(f"{trial.current().attempt}\\n")
                if trial.current().attempt < 1:
                    time.sleep(3600)  # does not look whether it should stop
                return 1.0

            if __name__ == "__main__":
                main()
        """),
        slurm,
    )
    running = app.start("+x=1", "hydra.launcher.slots=1", "hydra.sweeper.max_retries=0")
    wait_for(lambda: bool(app.lines()))
    slurm.preempt("100")
    _, err = running.communicate(timeout=240)
    assert running.returncode == 0, err
    assert app.lines() == ["0", "1"]
    (trial,) = app.study().trials
    assert (trial.state, trial.user_attrs.get("graft.deaths", 0)) == (TrialState.COMPLETE, 0)
    # Slurm did not requeue it, so another job was submitted.
    assert len(slurm.jobs()) == 2


@pytest.mark.parametrize("requeued", [True, False])
def test_a_lost_node_loses_no_trial(on_slurm: App, slurm: FakeSlurm, requeued: bool) -> None:
    running = on_slurm.start("x=range(4)", "steps=400", "seconds=0.1", "hydra.launcher.lost_after=5")
    # Both are in the middle of a trial.
    wait_for(lambda: {0, 1} <= {number for number, _, step, _ in notes(on_slurm, "step") if step > 3})
    slurm.lose_node("101", requeued=requeued)
    (on_slurm.folder / "hurry").touch()
    out, err = running.communicate(timeout=240)
    assert running.returncode == 0, err
    assert out.count("its process died (node lost)") == 1, out
    assert [trial.state for trial in on_slurm.study().trials] == [TrialState.COMPLETE] * 4
    assert sum(trial.user_attrs.get("graft.deaths", 0) for trial in on_slurm.study().trials) == 1
    assert_nothing_lost_or_doubled(on_slurm, 4)
    assert len(notes(on_slurm, "end")) == 4


def test_a_killed_command_leaves_nothing_that_runs_and_is_gone_on_with(on_slurm: App, slurm: FakeSlurm) -> None:
    command = ["x=1,2,3,4", "steps=400", "seconds=0.1", "hydra.launcher.slots=3"]
    first = on_slurm.start(*command)
    wait_for(lambda: len({pid for *_, pid in notes(on_slurm, "step")}) == 2)
    wait_for(lambda: len(slurm.jobs()) == 3)
    first.kill()
    first.communicate()
    workers = {pid for *_, pid in notes(on_slurm, "step")}

    second = on_slurm.start(*command)
    wait_for(lambda: not any(runs(pid) for pid in workers))
    (on_slurm.folder / "hurry").touch()
    out, err = second.communicate(timeout=240)
    assert second.returncode == 0, err
    assert "It goes on: 0 of 4" in out
    # Among them the one that still waited in Slurm's queue.
    assert {arguments[0] for arguments in slurm.calls("scancel")} >= {"100", "101", "102"}
    assert_nothing_lost_or_doubled(on_slurm, 4)


def test_a_job_that_hears_nothing_of_the_command_ends_by_itself(on_slurm: App, slurm: FakeSlurm) -> None:
    first = on_slurm.start("x=1,2", "steps=1000", "seconds=0.1", "hydra.launcher.lost_after=5")
    wait_for(lambda: len({pid for *_, pid in notes(on_slurm, "step")}) == 2)
    first.kill()
    first.communicate()
    wait_for(lambda: all(job["state"] == "COMPLETED" for job in slurm.jobs().values()))
    assert not any(runs(pid) for *_, pid in notes(on_slurm, "step"))
    assert not list(on_slurm.folder.glob("multirun/*/*/.slurm/mailbox-*"))
    assert "Nothing heard of the sweep for 5 s" in logs(on_slurm)


def in_a_terminal(app: App, *overrides: str) -> subprocess.Popen[str]:
    """Starts a sweep whose processes all hear the Ctrl-C."""
    return subprocess.Popen(
        app.command(*overrides), cwd=app.folder, env=app.environment, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def came_to(slurm: FakeSlurm) -> list[tuple[str, int]]:
    """The last state of each job, and how often it was started."""
    wait_for(lambda: not {job["state"] for job in slurm.jobs().values()} & {"PENDING", "RUNNING"})
    return [(job["state"], job["starts"]) for job in slurm.jobs().values()]


@pytest.mark.parametrize("job_per", ["slot", "trial"])
def test_ctrl_c_ends_running_trials_and_takes_waiting_jobs_out_of_the_queue(
    on_slurm: App, slurm: FakeSlurm, job_per: str
) -> None:
    launched = ("hydra.launcher.slots=3", f"hydra.launcher.job_per={job_per}")
    (on_slurm.folder / "hold").touch()
    running = in_a_terminal(on_slurm, "x=range(4)", "steps=1000", "seconds=0.05", *launched)
    wait_for(lambda: len(notes(on_slurm, "start")) == 2 and len(slurm.jobs()) == 3)
    os.killpg(running.pid, signal.SIGINT)
    # Before a running trial leaves its node to the job that waits.
    wait_for(lambda: slurm.jobs()["102"]["state"] != "PENDING")
    (on_slurm.folder / "hold").unlink()
    _, err = running.communicate(timeout=240)
    assert running.returncode == 130, err
    assert [trial.state for trial in on_slurm.study().trials] == [TrialState.WAITING] * 4
    assert "Traceback" not in err
    assert came_to(slurm) == [("COMPLETED", 1), ("COMPLETED", 1), ("CANCELLED", 0)]


def test_ctrl_c_takes_a_job_out_of_the_queue_that_lost_its_node(on_slurm: App, slurm: FakeSlurm) -> None:
    slurm.cancel_slowly(0.5)  # the running job could end meanwhile, and leave its node to the waiting one
    running = in_a_terminal(on_slurm, "x=range(4)", "steps=1000", "seconds=0.1")
    wait_for(lambda: len({pid for *_, pid in notes(on_slurm, "step")}) == 2)
    with FakeSlurmNodes(slurm, 1):
        (warned,) = (number for number, job in slurm.jobs().items() if job["node"] == "node1")
        slurm.warn(warned)
        wait_for(lambda: slurm.jobs()[warned]["state"] == "PENDING")
        os.killpg(running.pid, signal.SIGINT)
        _, err = running.communicate(timeout=240)
        assert running.returncode == 130, err
        assert sorted(came_to(slurm)) == [("CANCELLED", 1), ("COMPLETED", 1)]


class Ending:
    """A place whose end takes as long as it is told to."""

    def __init__(self, ended: list[str], name: str, until: threading.Event, *, waits: bool) -> None:
        self._ended, self._name, self._until = ended, name, until
        self.waits = waits

    def end(self) -> None:
        assert self._until.wait(240)
        self._ended.append(self._name)


@pytest.mark.parametrize("silent", [False, True], ids=["Slurm answers", "Slurm is silent"])
def test_waiting_jobs_end_first_but_hold_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent: bool
) -> None:
    monkeypatch.setattr(slurm_cluster, "ANSWER_SECONDS", 0.1 if silent else 240.0)
    workers = SlurmWorkers(SlurmOptions(slots=3, folder=str(tmp_path)))
    ended: list[str] = []
    answered, at_once = threading.Event(), threading.Event()
    at_once.set()
    places = {
        0: Ending(ended, "runs", at_once, waits=False),
        1: Ending(ended, "waits", answered, waits=True),
        2: Ending(ended, "waits, too", answered, waits=True),
    }
    monkeypatch.setattr(workers, "_places", places)
    closing = threading.Thread(target=workers.close)
    closing.start()
    if silent:
        wait_for(lambda: ended == ["runs"])
    answered.set()
    closing.join()
    assert sorted(ended) == ["runs", "waits", "waits, too"]
    assert ended.index("runs") == (0 if silent else 2)


def test_a_waiting_job_says_so(on_slurm: App, slurm: FakeSlurm) -> None:
    with FakeSlurmNodes(slurm, 1):
        done = impatient(on_slurm).run("x=1,2", "steps=40", "seconds=0.1")
    assert done.status == 0, done.err
    assert "waits in Slurm's queue as job 101" in done.out


class FakeSlurmNodes:
    """Fewer nodes than slots for a while."""

    def __init__(self, slurm: FakeSlurm, nodes: int) -> None:
        self._file = Path(slurm.environment["FAKE_SLURM"]) / "nodes"
        self._nodes = nodes

    def __enter__(self) -> None:
        self._set(self._nodes)

    def __exit__(self, *_: object) -> None:
        self._set(2)

    def _set(self, nodes: int) -> None:
        partial = self._file.with_suffix(".partial")
        partial.write_text(str(nodes))
        partial.replace(self._file)


def test_what_slurm_refuses_is_said(on_slurm: App, slurm: FakeSlurm) -> None:
    done = on_slurm.run("x=1,2", "hydra.launcher.partition=nowhere")
    assert done.status == 2, done.err
    assert "A job cannot be submitted: sbatch: error: invalid partition specified: nowhere" in done.err
    assert "Traceback" not in done.err
    assert [trial.state for trial in on_slurm.study().trials] == [TrialState.WAITING] * 2


def test_what_goes_wrong_with_one_job_is_no_trials_fault_and_no_other_slots(on_slurm: App, slurm: FakeSlurm) -> None:
    with FakeSlurmNodes(slurm, 1):
        running = impatient(on_slurm).start("x=range(4)", "steps=80", "seconds=0.1")

        def pending() -> list[str]:
            return [number for number, job in slurm.jobs().items() if job["state"] == "PENDING"]

        wait_for(lambda: bool(notes(on_slurm, "step") and pending()))
        (waiting,) = pending()
        # Its slot asks for another place, which it is refused at first.
        slurm.refuse(1)
        slurm.cancel(waiting)
        out, err = running.communicate(timeout=240)
    assert running.returncode == 0, err
    assert "A job cannot be submitted: sbatch: error: too many jobs. Another job is submitted in" in out
    trials = on_slurm.study().trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 4
    assert not any(trial.user_attrs.get("graft.attempt", 0) for trial in trials)


def test_a_folder_that_takes_no_files_is_no_trials_death(tmp_path: Path) -> None:
    workers = SlurmWorkers(SlurmOptions(slots=1, folder=str(tmp_path / "gone")))
    with pytest.raises(NoPlace, match=r"No mailbox can be made in .*gone: No such file"):
        workers.of(0)


def test_nothing_is_started_while_nobody_knows_what_a_killed_command_left(on_slurm: App, slurm: FakeSlurm) -> None:
    command = ["x=1,2", "steps=400", "seconds=0.1", "password=hidden"]
    first = on_slurm.start(*command)
    wait_for(lambda: len({pid for *_, pid in notes(on_slurm, "step")}) == 2)
    first.kill()
    first.communicate()
    slurm.deaf(True)
    asked = len(slurm.calls("squeue"))
    second = on_slurm.start(*command)
    wait_for(lambda: len(slurm.calls("squeue")) > asked + 2)
    # Jobs of the first may run on other machines, where only Slurm reaches them.
    assert len(slurm.jobs()) == 2
    workers = {pid for *_, pid in notes(on_slurm, "step")}
    slurm.deaf(False)
    wait_for(lambda: not any(runs(pid) for pid in workers))
    (on_slurm.folder / "hurry").touch()
    _, err = second.communicate(timeout=240)
    assert second.returncode == 0, err
    assert_nothing_lost_or_doubled(on_slurm, 2)
    assert not [
        path
        for path in unforgotten(on_slurm.folder.rglob("*"))
        if path.name.startswith("mailbox-") or path.suffix == ".pkl"
    ]


def test_keys_that_do_not_exist_are_refused(on_slurm: App) -> None:
    done = on_slurm.run("x=1", "+hydra.launcher.nodes=2", "+hydra.launcher.timout_min=3")
    assert done.status == 2, done.err
    assert "hydra.launcher.nodes does not exist. Allowed: slots," in done.err
    assert "did you mean timeout_min?" in done.err
    assert "Traceback" not in done.err


def test_a_job_that_was_cancelled_before_it_began_is_said(on_slurm: App, slurm: FakeSlurm) -> None:
    with FakeSlurmNodes(slurm, 0):
        running = impatient(on_slurm).start("x=1", "hydra.launcher.slots=1")
        wait_for(lambda: bool(slurm.jobs()))
        slurm.cancel("100")
        wait_for(lambda: len(slurm.jobs()) == 2)  # once may be an accident
        slurm.cancel("101")
        _, err = running.communicate(timeout=240)
    assert running.returncode == 2, err
    assert "Slurm's job 101 left the queue before it began; somebody may have cancelled it." in err


def test_a_job_that_cannot_begin_is_said(on_slurm: App, slurm: FakeSlurm) -> None:
    done = impatient(on_slurm).run(
        "x=1", "hydra.launcher.slots=1", "hydra.launcher.setup=['echo no such module >&2; exit 3']"
    )
    assert done.status == 2, done.err
    assert "Slurm's job 101 ended before it began to work" in done.err
    assert "It last printed: no such module" in done.err


def test_without_slurm_the_launcher_says_what_to_do(steps: App) -> None:
    done = steps.run("x=1", "hydra/launcher=graft_slurm", "hydra.launcher.slots=2")
    assert done.status == 2, done.err
    assert "hydra/launcher=graft_slurm cannot be used" in done.err
    assert "hydra.launcher.cluster=local" in done.err
    assert not steps.journal.exists()


def test_settings_that_are_not_allowed_are_refused_together() -> None:
    with pytest.raises(ConfigError) as refused:
        SlurmOptions(
            cluster="pbs", job_per="node", timeout_min=0, cpus_per_task=0, gpus_per_node=-1, mem_gb=0,
            signal_delay_s=-1, lost_after=500, setup="module load cuda", additional_parameters={"comment": "mine"},  # type: ignore[arg-type]
        )  # fmt: skip
    keys = [problem.split("=")[0].split(" ")[0] for problem in refused.value.problems]
    assert keys == [
        f"hydra.launcher.{key}"
        for key in (
            "slots", "cluster", "job_per", "timeout_min", "cpus_per_task", "gpus_per_node", "mem_gb",
            "signal_delay_s", "lost_after", "setup", "additional_parameters",
        )
    ]  # fmt: skip


class NoQueue:
    """Has no job, and forgets what it is told."""

    def holds(self, job: str) -> bool:
        return False

    def cancel(self, job: str) -> None: ...
    def log(self, job: str) -> Path:
        return Path("/nowhere")


def test_a_place_that_was_given_up_is_not_taken_for_one_again(tmp_path: Path) -> None:
    """Slurm may begin a job once more that was lost with its node, just before it is told to cancel it."""
    box = make_mailbox(tmp_path)
    place = Place(NoQueue(), "17", box, lost_after=0.1)
    post(box / FROM_WORKER, {"of": "first", "kind": "hello"})
    place.messages(0)
    assert (place.tenancy, place.over) == ("first", False)
    place.abandon()
    post(box / FROM_WORKER, {"of": "second", "kind": "hello"})
    place.messages(0)
    assert (place.tenancy, place.over) == ("first", True)


def test_a_place_that_cannot_be_told_what_to_run_counts_as_silent(tmp_path: Path) -> None:
    """A full file server: the job of a trial is lost on its way, and the node goes on saying that it lives."""
    box = make_mailbox(tmp_path)
    place = Place(NoQueue(), "17", box, lost_after=60)
    post(box / FROM_WORKER, {"of": "first", "kind": "hello"})
    place.messages(0)
    place.post("start")
    assert not place.silent
    (box / TO_WORKER).unlink()
    (box / TO_WORKER).mkdir()  # what cannot be written to, by root neither
    place.post("job")
    post(box / FROM_WORKER, {"of": "first", "kind": "beat"})
    place.messages(0)
    assert place.silent


def test_a_job_is_in_the_queue_for_as_long_as_slurm_does_not_say_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    now, listed = [0.0], [None]
    monkeypatch.setattr(slurm_queue.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(slurm_queue, "_squeue", lambda: listed[0])
    queue = SlurmQueue(None)
    for now[0] in range(60):
        assert queue.holds("17"), "Slurm's daemon is restarting"
    listed[0] = {}  # type: ignore[call-overload]
    held = [queue.holds("17") for now[0] in range(60, 120)]
    assert held[0]
    assert not held[-1]


def test_a_mailbox_keeps_messages_apart_from_what_a_killed_writer_left(tmp_path: Path) -> None:
    box = make_mailbox(tmp_path)
    file = box / FROM_WORKER
    inbox = Inbox(file)
    assert inbox.look() == []
    post(file, {"kind": "one"})
    with file.open("ab") as torn:
        torn.write(b'{"kind": "tw')
    assert inbox.look() == [{"kind": "one"}]
    post(file, {"kind": "three", "text": "a\nb"})
    assert inbox.look() == [{"kind": "three", "text": "a\nb"}]
    whole = json.dumps({"kind": "four"}).encode() + b"\n"
    for end in (5, len(whole)):
        with file.open("ab") as slow:
            slow.write(whole[end - 5 : end] if end == 5 else whole[5:])
    assert inbox.look() == [{"kind": "four"}]
    assert Inbox(file, from_now=True).look() == []


def test_a_folder_that_others_may_write_to_is_refused(on_slurm: App, slurm: FakeSlurm) -> None:
    """What lies there is run: submitit's pickles, and what a mailbox sends."""
    shared = on_slurm.folder / "shared"
    shared.mkdir()
    for mode, folder, said in (
        (0o1777, shared, f"others may write to {shared} (mode 1777)"),
        (0o770, shared, f"others may write to {shared} (mode 770)"),
        (0o777, shared / "own", f"everybody may write to {shared}, and so replace {shared}/own"),
    ):
        shared.chmod(mode)
        done = on_slurm.run("x=1", f"hydra.launcher.folder={folder}")
        assert done.status == 2, done.err
        assert f"hydra.launcher.folder={folder}: {said}" in done.err
        assert "Traceback" not in done.err
    assert slurm.jobs() == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="gives folders to other users and groups, which only root may")
def test_a_folder_that_others_may_replace_is_refused(on_slurm: App, slurm: FakeSlurm) -> None:
    """Whoever owns a folder above, or may write to it, may put another one in the place of the one in it."""
    shared, link = on_slurm.folder / "shared", on_slurm.folder / "link"
    shared.mkdir()
    link.symlink_to(on_slurm.folder)
    users, other = grp.getgrnam("users").gr_gid, 54321
    replaced = "replace {folder}, which code is read from"
    elsewhere = "choose another hydra.launcher.folder"
    closed = f"Close it with chmod g-w {shared}, or {elsewhere}"
    theirs = f"belongs to another user (uid {other}), who may so {replaced}; {elsewhere}"
    for (owner, group), mode, folder, said in (
        ((0, users), 0o2775, shared / "own", f"the group users may write to {shared}, and so {replaced}. {closed}"),
        ((0, other), 0o775, shared / "own", f"the group {other} may write to {shared}, and so {replaced}. {closed}"),
        ((other, 0), 0o755, shared / "own", f"{shared} {theirs}"),
        ((other, 0), 0o1777, shared / "own", f"{shared} {theirs}"),
        ((0, 0), 0o755, link / "own", f"{link} {theirs}"),
    ):
        os.chown(shared, owner, group)
        shared.chmod(mode)
        os.chown(link, other, 0, follow_symlinks=False)
        done = on_slurm.run("x=1", f"hydra.launcher.folder={folder}")
        assert done.status == 2, done.err
        assert f"hydra.launcher.folder={folder}: {said.format(folder=folder)}" in done.err
        assert "Traceback" not in done.err
    assert slurm.jobs() == {}

    os.chown(shared, 0, users)
    shared.chmod(0o3777)
    make_private(shared / "own")  # the sticky bit keeps it
    os.chown(shared, 0, 0)
    shared.chmod(0o775)
    make_private(shared / "own")  # root's own group
    os.chown(link, 0, 0, follow_symlinks=False)
    make_private(link / "shared" / ".." / "shared" / "own")


def test_nothing_is_taken_from_what_somebody_else_could_have_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = make_mailbox(tmp_path)
    file = box / TO_WORKER
    inbox = Inbox(file)

    def refused(why: str) -> None:
        with pytest.raises(NotOurs, match=why):
            inbox.look()
        with pytest.raises(NotOurs, match=why):
            post(file, {"kind": "secret"})

    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text('{"kind": "job"}\n')
    file.rename(box / "aside")
    file.symlink_to(elsewhere)
    refused("is a link")
    (box / "aside").replace(file)
    for mode in (0o620, 0o602):
        file.chmod(mode)
        refused("others may write")
    file.chmod(0o600)
    monkeypatch.setattr(os, "geteuid", lambda: file.stat().st_uid + 1)
    refused("another user")
    monkeypatch.undo()
    post(file, {"kind": "beat"})
    assert inbox.look() == [{"kind": "beat"}]
    assert elsewhere.read_text() == '{"kind": "job"}\n'


def test_a_job_whose_mailbox_is_somebody_elses_ends_at_once(on_slurm: App, slurm: FakeSlurm) -> None:
    running = on_slurm.start(
        "x=1", "steps=1000", "seconds=0.1", "hydra.launcher.slots=1", "hydra.launcher.lost_after=5"
    )
    wait_for(lambda: bool(notes(on_slurm, "step")))
    (box,) = on_slurm.folder.glob("multirun/*/*/.slurm/mailbox-*")
    (box / TO_WORKER).chmod(0o666)
    wait_for(lambda: f"This job ends: others may write to {box / TO_WORKER}" in logs(on_slurm))
    running.kill()
    running.communicate()
    wait_for(lambda: not any(runs(pid) for *_, pid in notes(on_slurm, "step")))


def test_a_mailbox_passes_over_what_is_nested_too_deeply(tmp_path: Path) -> None:
    file = make_mailbox(tmp_path) / FROM_WORKER
    file.write_bytes(b"[" * 100_000)
    post(file, {"kind": "beat"})
    assert Inbox(file).look() == [{"kind": "beat"}]
