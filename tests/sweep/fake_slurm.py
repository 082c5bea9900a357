"""A Slurm of this machine: `sbatch`, `srun`, `squeue`, `scancel` and `scontrol requeue`, as far as Graft uses them.

A job waits until one of a few nodes is free, runs its script in a session of its own with Slurm's environment, is sent
SIGTERM and after a while SIGKILL where it is cancelled or requeued, and comes back under its number where it was
requeued. A folder, named by FAKE_SLURM, is all that the commands have in common.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

COMMANDS = ("sbatch", "srun", "squeue", "scancel", "scontrol")
KILL_WAIT_SECONDS = 30


class FakeSlurm:
    """The cluster as a test sees it.

    Args:
        folder: Empty.
        nodes: How many jobs run at a time; what its file says, which tests change meanwhile, holds.
    """

    def __init__(self, folder: Path, nodes: int = 2) -> None:
        self._folder = folder
        (folder / "bin").mkdir(parents=True)
        (folder / "jobs").mkdir()
        (folder / "nodes").write_text(str(nodes))
        for name in COMMANDS:
            program = folder / "bin" / name
            program.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__)} {name} "$@"\n')
            program.chmod(0o755)
        self.environment = {"FAKE_SLURM": str(folder), "PATH": f"{folder}/bin{os.pathsep}{os.environ['PATH']}"}

    def jobs(self) -> dict[str, dict[str, Any]]:
        """All jobs there ever were, by number."""
        return {path.stem: read(path) for path in sorted((self._folder / "jobs").glob("*.json"), key=number_of)}

    def calls(self, command: str) -> list[list[str]]:
        """The arguments of each call of a command."""
        path = self._folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [arguments for name, *arguments in map(json.loads, lines) if name == command]

    def warn(self, job: str) -> None:
        """What `--signal=USR2@…` does some time before the end, and preemption where Slurm is told to."""
        for process in self._tasks(job):
            process.send_signal(signal.SIGUSR2)

    def preempt(self, job: str) -> None:
        """What preemption does: SIGTERM, and after a while SIGKILL."""
        change(self._folder / "jobs" / f"{job}.json", preempted=True)

    def deaf(self, deaf: bool) -> None:
        """Whether squeue gets no answer."""
        (self._folder / "deaf").touch() if deaf else (self._folder / "deaf").unlink()

    def refuse(self, times: int) -> None:
        """Refuses so many of the next submissions."""
        (self._folder / "refuse").write_text(str(times))

    def cancel_slowly(self, seconds: float) -> None:
        """How long scancel takes before it does anything."""
        (self._folder / "slow").write_text(str(seconds))

    def cancel(self, job: str) -> None:
        change(self._folder / "jobs" / f"{job}.json", cancelled=True)

    def lose_node(self, job: str, *, requeued: bool) -> None:
        """A power failure; with Slurm's JobRequeue the job waits for another node."""
        change(self._folder / "jobs" / f"{job}.json", requeued=requeued, lost=True)
        for process in [*self._tasks(job), *self._workers(job)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def close(self) -> None:
        for job in self.jobs():
            change(self._folder / "jobs" / f"{job}.json", cancelled=True, requeued=False)
        deadline = time.monotonic() + 60
        while any(fields["state"] in ("PENDING", "RUNNING") for fields in self.jobs().values()):
            assert time.monotonic() < deadline, self.jobs()
            time.sleep(0.05)

    def _tasks(self, job: str) -> list[psutil.Process]:
        return tasks_of(self.jobs()[job]["pid"])

    def _workers(self, job: str) -> list[psutil.Process]:
        return [child for task in self._tasks(job) for child in task.children(recursive=True)]


def number_of(path: Path) -> int:
    return int(path.stem)


def read(path: Path) -> dict[str, Any]:
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        return dict(json.load(file))


def change(path: Path, **fields: Any) -> dict[str, Any]:
    with path.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        job = {**json.load(file), **fields}
        file.seek(0)
        file.truncate()
        json.dump(job, file)
    return job


def sbatch(folder: Path, script: str) -> None:
    lines = Path(script).read_text().splitlines()
    options = dict(
        shlex.split(line.removeprefix("#SBATCH --"))[0].partition("=")[::2]
        for line in lines
        if line.startswith("#SBATCH --")
    )
    refused = int((folder / "refuse").read_text()) if (folder / "refuse").exists() else 0
    if refused:
        (folder / "refuse").write_text(str(refused - 1))
        sys.exit("sbatch: error: too many jobs")
    if options.get("partition") == "nowhere":
        sys.exit("sbatch: error: invalid partition specified: nowhere")
    job = folder / f"submission-{os.getpid()}"
    job.write_text(json.dumps({"state": "PENDING", "options": options, "script": "\n".join(lines), "starts": 0}))
    number = len(list((folder / "jobs").iterdir())) + 100
    while True:
        try:
            os.link(job, folder / "jobs" / f"{number}.json")  # whole, or not at all
            break
        except FileExistsError:
            number += 1
    subprocess.Popen(
        [sys.executable, __file__, "daemon", str(number)],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    print(f"Submitted batch job {number}")


def daemon(folder: Path, number: str) -> None:
    """What keeps a job: waits for a node, runs the script, and again if it is to be requeued."""
    path = folder / "jobs" / f"{number}.json"
    while True:
        with free_node(folder, path) as node:
            if node is None:
                change(path, state="CANCELLED")
                return
            job = change(path, state="RUNNING", requeued=False, preempted=False, lost=False, node=node)
            output = job["options"]["output"].replace("%j", number)
            with open(output, "ab") as log:
                script = subprocess.Popen(
                    ["bash", "-c", job["script"]],
                    env={**os.environ, "SLURM_JOB_ID": number, "SLURM_RESTART_COUNT": str(job["starts"])},
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            change(path, pid=script.pid, starts=job["starts"] + 1)
            watch(path, script)
        if not read(path).get("requeued"):
            change(path, state="COMPLETED" if script.returncode == 0 else "FAILED")
            return
        change(path, state="PENDING")
        time.sleep(0.5)


def watch(path: Path, script: subprocess.Popen[bytes]) -> None:
    """Until it ends; it is told to where somebody cancels, requeues or preempts it, and killed later."""
    told: float | None = None
    while script.poll() is None:
        time.sleep(0.05)
        job = read(path)
        if job.get("lost"):  # nobody is there to be told
            signal_all(script.pid, signal.SIGKILL)
            continue
        if told is None and (job.get("cancelled") or job.get("requeued") or job.get("preempted")):
            told = time.monotonic()
            signal_all(script.pid, signal.SIGTERM)
        if told is not None and time.monotonic() - told > KILL_WAIT_SECONDS:
            signal_all(script.pid, signal.SIGKILL)


def signal_all(pid: int, number: int) -> None:
    """Slurm signals the tasks of a job; SIGKILL reaches all that they started."""
    tasks = tasks_of(pid)
    below = [child for task in tasks for child in task.children(recursive=True)] if number == signal.SIGKILL else []
    for process in [*tasks, *below]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def tasks_of(pid: int) -> list[psutil.Process]:
    """The processes that `srun` became; a shell may have become it without a process of its own."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
        script = psutil.Process(pid)
        for process in (script, *script.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                found += [process] if "submitit.core._submit" in process.cmdline() else []
    return found


@contextlib.contextmanager
def free_node(folder: Path, path: Path) -> Iterator[str | None]:
    """A node, once one is free; None if the job was cancelled before."""
    while not read(path).get("cancelled"):
        time.sleep(0.05)
        before = [other for other in path.parent.iterdir() if number_of(other) < number_of(path)]
        if any(read(other)["state"] == "PENDING" for other in before):
            continue
        for index in range(int((folder / "nodes").read_text())):
            with (folder / f"node{index}.lock").open("w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                if read(path).get("cancelled"):  # as Slurm has it, whose queue knows of it before a node is free
                    break
                yield f"node{index}"
                return
    yield None


def srun(arguments: list[str]) -> None:
    paths = {}
    while arguments[0].startswith("--"):
        option = arguments.pop(0)
        if option in ("--output", "--error"):
            paths[option] = arguments.pop(0).replace("%j", os.environ["SLURM_JOB_ID"]).replace("%t", "0")
    for option, descriptor in (("--output", 1), ("--error", 2)):
        os.dup2(os.open(paths[option], os.O_WRONLY | os.O_CREAT | os.O_APPEND, stat.S_IRUSR | stat.S_IWUSR), descriptor)
    os.environ |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "1", "SLURM_NODEID": "0"}
    os.execvp(arguments[0], arguments)


def squeue(folder: Path) -> None:
    if (folder / "deaf").exists():
        sys.exit("slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
    for path in sorted((folder / "jobs").glob("*.json")):
        job = read(path)
        if job["state"] in ("PENDING", "RUNNING"):
            print(f"{path.stem}|{job['options'].get('comment', '(null)')}")


def main() -> None:
    folder = Path(os.environ["FAKE_SLURM"])
    command, *arguments = sys.argv[1:]
    if command == "daemon":
        daemon(folder, *arguments)
        return
    with (folder / "calls").open("a") as calls:
        calls.write(json.dumps([command, *arguments]) + "\n")
    match command:
        case "sbatch":
            sbatch(folder, *arguments)
        case "srun":
            srun(arguments)
        case "squeue":
            squeue(folder)
        case "scancel":
            time.sleep(float((folder / "slow").read_text()) if (folder / "slow").exists() else 0)
            change(folder / "jobs" / f"{arguments[0]}.json", cancelled=True)
        case "scontrol":
            assert arguments[0] == "requeue"
            change(folder / "jobs" / f"{arguments[1]}.json", requeued=True)


if __name__ == "__main__":
    main()
