"""What `make test` prints of what was executed: of every process that it starts, and of files that none imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.coverage import __main__ as coverage
from tests.coverage.sitecustomize import FOLDER_VARIABLE

# Some of it in the process that is started, some in one that it starts, and in one that it forks.
PROGRAM = """
import multiprocessing, subprocess, sys
from graft.cache import sizes
if len(sys.argv) == 1:
    subprocess.run([sys.executable, __file__, "again"], check=True)
    subprocess.run([sys.executable, "-m", "graft.cli", "--help"], check=True, stdout=subprocess.DEVNULL)
    forked = multiprocessing.get_context("fork").Process(target=sizes.size_in_words, args=(10**9,))
    forked.start()
    forked.join()
else:
    sizes.parse_size("1 GB", "max-size")
"""


def test_what_started_processes_execute_is_added_up(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    written = tmp_path / "written"
    written.mkdir()
    environment = {**os.environ, FOLDER_VARIABLE: str(written), "PYTHONPATH": str(coverage.HERE)}
    subprocess.run([sys.executable, "program.py"], cwd=tmp_path, env=environment, check=True)
    processes = list(written.glob("*.json"))
    assert len(processes) == 4
    files = coverage.covered(processes)["files"]
    (sizes,) = (name for name in files if name.endswith("graft/cache/sizes.py"))
    path = str(Path(sizes).resolve())
    alone = [len(json.loads(file.read_text())[path][0]) for file in processes]
    there, share = coverage.share([files[sizes]], "lines")
    together = len(files[sizes]["executed_lines"])
    assert max(alone) < together < there
    assert share == 100 * together / there
    (started,) = (told for name, told in files.items() if name.endswith("graft/cli.py"))
    assert coverage.share([started], "lines")[1] > 20
    (untouched,) = (told for name, told in files.items() if name.endswith("graft/rerun/again.py"))
    lines, share = coverage.share([untouched], "lines")
    assert (lines > 100, share) == (True, 0)
    rows = coverage.table(files, 2)
    assert rows[-1].startswith("in all")
    assert any(row.startswith("src/graft/sweep ") and row.endswith("0.0%  below 90") for row in rows)
