"""Python imports this at the start of every process whose path has this folder: what `graft` executes there is noted.

`python -m tests.coverage` puts the folder on the path of the tests, and so of all commands and workers that they start.
What a process has executed it writes down when it ends; one that is killed writes nothing.
"""

from __future__ import annotations

import ast
import atexit
import json
import os
import sys
import uuid
from multiprocessing import util
from pathlib import Path
from types import CodeType

FOLDER_VARIABLE = "GRAFT_COVERAGE"
SOURCES = [str(Path(__file__).parents[2] / "src" / package) for package in ("graft", "hydra_plugins")]


def measure(folder: Path) -> None:
    """Notes what is executed of `SOURCES` from now on; at its end the process writes it to a file of its own."""
    try:
        from slipcover import FileMatcher, ImportManager, Slipcover, branch
        from slipcover.importer import SlipcoverLoader
    except ImportError:  # an environment that is none for development, such as the Estimator's
        return
    # No probe is taken out again: that would exchange code below running threads to save nanoseconds.
    measured = Slipcover(branch=True, d_miss_threshold=sys.maxsize)
    ImportManager(measured, FileMatcher(sources=SOURCES)).__enter__()

    # What `python -m` runs is not imported: its code is asked for, and slipcover hands that out as it is.
    def code_of(loader: SlipcoverLoader, name: str) -> CodeType:
        tree = branch.preinstrument(ast.parse(loader.origin.read_bytes()))
        return measured.instrument(compile(tree, str(loader.origin), "exec"))

    SlipcoverLoader.get_code = code_of

    def write() -> None:
        try:
            files = measured.get_coverage()["files"]
        except FileNotFoundError:  # it asks for the working directory, which may be gone
            return
        executed = {
            str(Path(file).resolve()): [told["executed_lines"], told["executed_branches"]]
            for file, told in files.items()
        }
        if executed:
            unfinished = folder / uuid.uuid4().hex
            unfinished.write_text(json.dumps(executed))
            unfinished.rename(unfinished.with_suffix(".json"))

    # Registered first, and so called last.
    atexit.register(write)
    # A process that multiprocessing has forked ends without what is registered there.
    util.register_after_fork(measured, lambda _: util.Finalize(None, write, exitpriority=-100))


if FOLDER_VARIABLE in os.environ:
    measure(Path(os.environ[FOLDER_VARIABLE]))
