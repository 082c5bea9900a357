"""`make audit`: vulnerabilities are printed, and a source that cannot be reached fails nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from graft.paths import CHECKOUT

BAD = {
    "dependencies": [
        {"name": "fine", "version": "1.0", "vulns": []},
        {"name": "pillow", "version": "11.0", "vulns": [{"id": "PYSEC-2099-1", "fix_versions": ["11.1"]}]},
        {"name": "left-out", "skip_reason": "it is of another platform"},
    ]
}
GOOD = {"dependencies": BAD["dependencies"][:1]}


def audit(programs: Path, answer: str | None, status: int) -> subprocess.CompletedProcess[str]:
    """Runs it where pip-audit gives this answer; None where it is not installed."""
    git = shutil.which("git")
    assert git is not None
    (programs / "git").symlink_to(git)
    if answer is not None:
        (programs / "answer").write_text(answer)
        (programs / "pip-audit").write_text(
            f"#!/bin/sh\n/bin/cat {programs}/answer\necho 'ERROR: no connection' >&2\nexit {status}\n"
        )
        (programs / "pip-audit").chmod(0o755)
    command = [sys.executable, str(CHECKOUT / ".ci" / "audit.py")]
    return subprocess.run(command, env={"PATH": str(programs)}, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("answer", "status", "said", "ends"),
    [
        (None, 0, "not asked, pip-audit is not installed", 0),
        ("", 1, "not asked, pip-audit says: ERROR: no connection", 0),
        (json.dumps(GOOD), 0, "requirements.lock: no known vulnerability", 0),
        (json.dumps(BAD), 1, "VULNERABLE pillow 11.0: PYSEC-2099-1, fixed in 11.1", 1),
    ],
)
def test_it_says_what_is_known(tmp_path: Path, answer: str | None, status: int, said: str, ends: int) -> None:
    done = audit(tmp_path, answer, status)
    assert done.returncode == ends, done.stderr
    assert said in done.stdout
    for lock in CHECKOUT.glob("requirements*.lock"):
        count = sum(1 for line in lock.read_text().splitlines() if line[:1].isalnum())
        assert f"{lock.name}: {count} packages, last changed 20" in done.stdout


def test_make_test_asks_and_is_not_failed_by_the_answer() -> None:
    makefile = (CHECKOUT / "Makefile").read_text()
    recipe = makefile.split("\ntest: ")[1].split("\n\n")[0]
    assert "\n\t-@$(IN_VENV) python .ci/audit.py\n" in recipe
    assert (CHECKOUT / ".ci" / "run").read_text().rstrip().endswith("exec make test")
