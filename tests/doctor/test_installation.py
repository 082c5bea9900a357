"""The installation as `graft doctor` sees it: packages, the lock, the checkout, and that looking changes nothing."""

from __future__ import annotations

import os
import platform
import shutil
from importlib import metadata
from pathlib import Path

import pytest
from tests.conftest import run_command
from tests.doctor.conftest import Diagnosis, Doctor, diagnosis

from graft.doctor.installation import locked_here
from graft.paths import CHECKOUT
from graft.tracking.mlflow_store import Store


def test_a_new_installation_is_well_and_stays_as_it_is(doctor: Doctor, home: Path) -> None:
    found = doctor()
    assert (found.exit_status, found.problems) == (0, [])
    assert f"tensorflow {metadata.version('tensorflow')}" in found.only("packages").text
    assert platform.python_version() in found.only("python").text
    for name in ("mlflow", "optuna"):
        assert "does not exist yet" in found.only(name).text
    assert list(home.iterdir()) == []


def test_a_record_is_looked_at_without_anything_heavy_and_stays_as_it_is(store: Store, home: Path) -> None:
    store.client.create_run(store.experiment_id, tags={"graft.kind": "single"})
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in home.rglob("*") if path.is_file()}
    program = (
        "import sys\n"
        "from graft import cli\n"
        "sys.argv = ['graft', 'doctor']\n"
        "try: cli.app()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert not {'tensorflow', 'mlflow', 'optuna', 'hydra'} & sys.modules.keys(), 'heavy'\n"
    )
    done = run_command(["python", "-c", program], home, COLUMNS="80")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0].startswith("ok       python     ")
    assert lines[-1] == "1 note."  # of the run, whose process nobody knows
    assert [line for line in lines if len(line) > 80 and "/" not in line] == []
    after = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in home.rglob("*") if path.is_file()}
    assert after == before


def test_a_package_of_another_version_is_named_with_what_installs_the_right_one(
    doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "absl_py-0.0.1.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: absl_py\nVersion: 0.0.1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = doctor()
    lock = found.only("lock")
    assert (found.exit_status, lock.status) == (1, "problem")
    assert f"absl-py 0.0.1 in place of {_locked('absl-py')}" in lock.text
    assert lock.remedy is not None
    assert "requirements.lock" in lock.remedy or lock.remedy == "make -B setup"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the checkout, without git."""
    folder = tmp_path / "copy"
    shutil.copytree(CHECKOUT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copytree(CHECKOUT / "conf", folder / "conf", symlinks=True)
    shutil.copytree(CHECKOUT / "experiments", folder / "experiments")
    for name in ("train.py", "pyproject.toml", "requirements.lock"):
        shutil.copy(CHECKOUT / name, folder)
    return folder


def doctor_of(checkout: Path, home: Path) -> Diagnosis:
    program = "import sys; from graft import cli; sys.argv = ['graft', 'doctor', '--json']; cli.main()"
    done = run_command(["python", "-c", program], home, checkout, PYTHONPATH=str(checkout / "src"))
    assert done.stderr == ""
    return diagnosis(done.stdout, done.returncode)


def test_no_git_is_a_note_and_a_missing_file_or_package_a_problem(copy: Path, home: Path) -> None:
    (copy / "conf" / "config.yaml").unlink()
    lock = copy / "requirements.lock"
    lock.write_text(lock.read_text() + "not-there-at-all==1.2 ; sys_platform != 'another' \\\n    --hash=sha256:0\n")
    found = doctor_of(copy, home)
    assert found.exit_status == 1
    assert found.problems == ["lock", "checkout"]
    assert found.only("commit").status == "note"
    assert "is no git checkout" in found.only("commit").text
    assert "conf/config.yaml" in found.only("checkout").text
    assert found.only("checkout").remedy == f"copy conf/config.yaml from another checkout of Graft into {copy}"
    assert "not-there-at-all missing" in found.only("lock").text


def test_a_damaged_git_checkout_is_a_note_and_a_damaged_lock_a_problem(copy: Path, home: Path) -> None:
    (copy / ".git").mkdir()
    (copy / ".git" / "HEAD").write_bytes(os.urandom(20))
    lock = copy / "requirements.lock"
    lock.write_text("absl-py==\n" + lock.read_text())
    found = doctor_of(copy, home)
    assert found.problems == ["lock"]
    assert "'absl-py==' is no line of a lock" in found.only("lock").text
    assert found.only("lock").remedy == f"git -C {copy} checkout HEAD -- requirements.lock"
    assert found.only("commit").status == "note"
    assert "git cannot read this checkout: fatal: " in found.only("commit").text


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-gpu.lock"])
def test_every_line_of_the_locks_is_understood(name: str) -> None:
    names = [package.name for package in locked_here((CHECKOUT / name).read_text())]
    assert len(names) == len(set(names)) > 100
    assert "numpy" in names
    assert ("nvidia-cudnn-cu12" in names) == (name == "requirements-gpu.lock")


def test_a_line_counts_where_its_marker_holds() -> None:
    lock = """
        here==1.0 ; sys_platform != 'another' \\
            --hash=sha256:0
        elsewhere==1.0 ; python_full_version < '3.2'
    """
    assert [package.name for package in locked_here(lock)] == ["here"]


@pytest.mark.parametrize("line", ["some>=1.0", "some", "some==1.0 ; sys_platform", "== 1.0"])
def test_what_is_no_line_of_a_lock_is_named(line: str) -> None:
    with pytest.raises(ValueError, match="is no line of a lock"):
        locked_here(line)


def _locked(name: str) -> str:
    packages = locked_here((CHECKOUT / "requirements.lock").read_text())
    return next(package.version for package in packages if package.name == name)
