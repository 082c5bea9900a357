"""`train.py`, with everything imported first, so that what it takes can be told from what its imports take.

    python benchmarks/train_after_imports.py REPORT.json key=value …

It is `python train.py key=value …` otherwise. The report holds `import_seconds`, and `seconds` from there to the end
of the command: Hydra's composition, plots and the record included.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import runpy
import sys
import time
import warnings
from pathlib import Path

from graft.importing import importing
from graft.run import import_libraries

TRAIN = Path(__file__).resolve().parents[1] / "train.py"
FURTHER_LIBRARIES = (
    "tensorflow_hub",
    "ai_edge_litert.interpreter",
    "mlflow.store.tracking.sqlalchemy_store",  # else imported with the first connection
    "matplotlib.pyplot",
    "hydra",
    "rich.progress",
)
"""What a frozen run imports beyond what a worker has imported before its first trial."""


def main(report: Path, overrides: list[str]) -> None:
    started = time.perf_counter()
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    os.environ.setdefault("MPLBACKEND", "agg")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import_libraries()
        with importing():
            for library in FURTHER_LIBRARIES:
                with contextlib.suppress(ModuleNotFoundError):  # one that Graft does without
                    importlib.import_module(library)
    imported = time.perf_counter()
    sys.argv = [str(TRAIN), *overrides]
    sys.path[0] = str(TRAIN.parent)

    def write() -> None:
        ended = time.perf_counter()
        report.write_text(json.dumps({"import_seconds": imported - started, "seconds": ended - imported}))

    atexit.register(write)  # train.py ends the process itself
    runpy.run_path(str(TRAIN), run_name="__main__")


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(__doc__)
        sys.exit(0 if len(sys.argv) > 1 else 2)
    main(Path(sys.argv[1]), sys.argv[2:])
