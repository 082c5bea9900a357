"""What `make test` prints of what was executed: of every process that it starts, and of files that none imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.coverage import __main__ as coverage
from tests.coverage.sitecustomize import FOLDER_VARIABLE

# Half of it in the process that is started, half in one that it starts.
PROGRAM = """
import subprocess, sys
from graft.cache import sizes
if len(sys.argv) == 1:
    subprocess.run([sys.executable, __file__, "again"], check=True)
    sizes.parse_size("1 GB", "max-size")
else:
    sizes.size_in_words(10**9)
"""


def test_what_started_processes_execute_is_added_up(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    written = tmp_path / "written"
    written.mkdir()
    environment = {**os.environ, FOLDER_VARIABLE: str(written), "PYTHONPATH": str(coverage.HERE)}
    subprocess.run([sys.executable, "program.py"], cwd=tmp_path, env=environment, check=True)
    one, other = (
        {name: len(lines) for name, (lines, _) in json.loads(file.read_text()).items()}
        for file in written.glob("*.json")
    )
    files = coverage.covered(written.glob("*.json"))["files"]
    (sizes,) = (name for name in files if name.endswith("graft/cache/sizes.py"))
    path = str(Path(sizes).resolve())
    there, share = coverage.share([files[sizes]], "lines")
    assert max(one[path], other[path]) < len(files[sizes]["executed_lines"]) < there
    assert share == 100 * len(files[sizes]["executed_lines"]) / there
    (untouched,) = (told for name, told in files.items() if name.endswith("graft/cli.py"))
    lines, share = coverage.share([untouched], "lines")
    assert (lines > 100, share) == (True, 0)
    rows = coverage.table(files, 2)
    assert rows[-1].startswith("in all")
    assert any(row.startswith("src/graft/sweep ") and row.endswith("0.0%  below 90") for row in rows)
