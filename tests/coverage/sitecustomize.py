"""Python imports this at the start of every process whose path has this folder: what `graft` executes there is noted.

`python -m tests.coverage` puts the folder on the path of the tests, and so of all commands and workers that they start.
What a process has executed it writes down when it ends; one that is killed writes nothing.
"""

from __future__ import annotations

import ast
import atexit
import hashlib
import json
import marshal
import os
import sys
import uuid
from multiprocessing import util
from pathlib import Path
from types import CodeType, ModuleType

FOLDER_VARIABLE = "GRAFT_COVERAGE"
SOURCES = [str(Path(__file__).parents[2] / "src" / package) for package in ("graft", "hydra_plugins")]


class Sources:
    """Which files are measured; asked for every import, so it must be quick."""

    def __init__(self) -> None:
        self._folders = tuple(str(Path(source).resolve()) + os.sep for source in SOURCES)

    def matches(self, file: object) -> bool:
        own = isinstance(file, str) and ("graft" in file) and file.endswith(".py")
        return own and os.path.realpath(file).startswith(self._folders)


def measure(folder: Path) -> None:
    """Notes what is executed of `SOURCES` from now on; at its end the process writes it to a file of its own.

    Slipcover's own way takes a process nearly two seconds, most of them for what is the same in each of hundreds: the
    sources are rewritten for the branches once, and which lines there are only `python -m tests.coverage` asks.
    """
    try:
        from slipcover import ImportManager, Slipcover, branch
        from slipcover.importer import SlipcoverLoader
    except ImportError:  # an environment that is none for development, such as the Estimator's
        return
    # No probe is taken out again: that would exchange code below running threads to save nanoseconds.
    measured = Slipcover(branch=True, d_miss_threshold=sys.maxsize)
    listing = {name: Slipcover.__dict__[name] for name in ("lines_from_code", "branches_from_code")}
    ImportManager(measured, Sources()).__enter__()
    rewritten = folder / "rewritten"

    # What `python -m` runs is not imported: its code is asked for.
    def code_of(loader: SlipcoverLoader, name: str) -> CodeType:
        source = loader.origin.read_bytes()
        identity = f"{sys.implementation.cache_tag} {loader.origin}\0".encode() + source
        kept = rewritten / hashlib.sha256(identity).hexdigest()
        try:
            code = marshal.loads(kept.read_bytes())
        except FileNotFoundError:
            code = compile(branch.preinstrument(ast.parse(source)), str(loader.origin), "exec")
            rewritten.mkdir(exist_ok=True)
            written = kept.with_suffix(f".{uuid.uuid4().hex}")
            written.write_bytes(marshal.dumps(code))
            written.rename(kept)
        try:
            for name in listing:
                setattr(Slipcover, name, staticmethod(lambda code: ()))
            return measured.instrument(code)
        finally:
            for name, original in listing.items():
                setattr(Slipcover, name, original)

    def exec_module(loader: SlipcoverLoader, module: ModuleType) -> None:
        measured.register_module(module)
        exec(code_of(loader, module.__name__), module.__dict__)

    SlipcoverLoader.get_code = code_of
    SlipcoverLoader.exec_module = exec_module

    def write() -> None:
        with measured.lock:
            for file, seen in measured._get_newly_seen().items():
                measured.all_seen[file].update(seen)
            executed = {
                os.path.realpath(file): [
                    sorted(each for each in seen if isinstance(each, int)),
                    sorted(each for each in seen if isinstance(each, tuple)),
                ]
                for file, seen in measured.all_seen.items()
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
