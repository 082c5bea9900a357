"""`python train.py …` in real processes that need not import TensorFlow: they are forked from one that has."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from graft.paths import CHECKOUT

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    [
        "graft.command",
        "graft.features.extract",
        "graft.loop.gradient_tape",
        "graft.loop.keras_fit",
        "graft.plots",
        "graft.run",
        "graft.tracking.mlflow_recorder",
        "graft.tracking.tensorboard",
        "hydra",
        "matplotlib.pyplot",
        "optuna",
        "pytest",
        "sklearn.datasets",
        "tensorflow_hub",
        "tests.frozen",
    ]
)


@dataclass(frozen=True)
class Blow:
    """A signal that a process sends itself at a given point.

    Attributes:
        function: Where, such as ``graft.run:train``: a module, a colon, a function or method in it.
        call: At which call of it in the process, counted from 1.
        after: Once that call has done its work, or before it begins.
        signal: Which one.
    """

    function: str
    call: int = 1
    after: bool = False
    signal: signal.Signals = signal.SIGKILL

    def arm(self) -> None:
        module, _, path = self.function.partition(":")
        *owners, name = path.split(".")
        owner: Any = importlib.import_module(module)
        for part in owners:
            owner = getattr(owner, part)
        original = getattr(owner, name)
        calls = 0

        def struck(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == self.call and not self.after:
                self.strike()
            result = original(*arguments, **options)
            if calls == self.call and self.after:
                self.strike()
            return result

        setattr(owner, name, struck)

    def strike(self) -> None:
        os.kill(os.getpid(), self.signal)


class Training:
    """A `python train.py …` under way, in a process of its own."""

    def __init__(
        self, arguments: Sequence[str], home: Path, output: Path, blow: Blow | None = None, **environment: str
    ) -> None:
        output.mkdir(parents=True, exist_ok=True)
        self._output = output
        environment |= {"GRAFT_HOME": str(home)}  # what it is forked from has an older one
        self._process: BaseProcess = PROCESSES.Process(target=_type, args=(list(arguments), environment, output, blow))
        self._process.start()

    def kill(self) -> None:
        self._process.kill()

    def terminate(self) -> None:
        """Asks it to end, as a scheduler does."""
        self._process.terminate()

    def running(self) -> bool:
        return self._process.is_alive()

    def wait(self) -> int:
        """The exit status; below 0 the signal that ended it."""
        self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode

    @property
    def errors(self) -> str:
        return (self._output / "err").read_text()

    @property
    def printed(self) -> str:
        return (self._output / "out").read_text()


def _type(arguments: list[str], environment: dict[str, str], output: Path, blow: Blow | None) -> None:
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(output / name, os.O_CREAT | os.O_TRUNC | os.O_WRONLY), descriptor)
    # A shell starts what it puts into the background with Ctrl-C ignored, the tests' own run perhaps among it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ |= environment
    os.environ.pop("HYDRA_FULL_ERROR", None)
    os.chdir(CHECKOUT)
    sys.argv = ["train.py", *arguments]
    if blow is not None:
        blow.arm()
    runpy.run_path(str(CHECKOUT / "train.py"), run_name="__main__")
