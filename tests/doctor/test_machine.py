"""CPUs, GPUs, disk, folders and locks as `graft doctor` sees them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pynvml
import pytest
from tests.doctor.conftest import Doctor, diagnosis

from graft.doctor.installation import cuda_packages


def test_the_cpu_is_named(doctor: Doctor) -> None:
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert f"{cpus} CPUs usable" in doctor().only("cpu").text


@pytest.mark.parametrize("name", ["mlruns", "mlruns/cache", "mlruns/artifacts"])
def test_a_file_in_the_place_of_a_folder_is_found_and_the_remedy_works(
    name: str, doctor: Doctor, home: Path, follow: Callable[[str | None], None]
) -> None:
    (home / name).parent.mkdir(exist_ok=True)
    (home / name).write_text("in the way")
    found = doctor()
    assert (found.exit_status, found.problems) == (1, ["writable"])
    assert f"{home / name} is in the place of a folder" in found.only("writable").text
    follow(found.only("writable").remedy)
    assert doctor().exit_status == 0


def test_a_folder_that_nobody_can_write_to(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_HOME", "/proc/graft")
    writable = doctor().only("writable")
    assert writable.status == "problem"
    assert writable.text.startswith("/proc cannot be written to")


def test_a_cache_elsewhere_is_looked_at_where_it_is(
    doctor: Doctor, tmp_path: Path, follow: Callable[[str | None], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "kept"))
    assert f"{tmp_path}, where kept will be made" in doctor().only("writable").text
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "images").write_text("in the way")
    found = doctor()
    assert f"{tmp_path}/kept/images is in the place of a folder" in found.only("writable").text
    assert any(f"free where {tmp_path}/kept lies" in disk.text for disk in found.all("disk"))
    follow(found.only("writable").remedy)
    assert f"{tmp_path}/kept and 0 folders in it" in doctor().only("writable").text
    monkeypatch.setenv("GRAFT_CACHE", "/proc/kept")
    assert doctor().only("writable").remedy == "export GRAFT_CACHE=/a/folder/that/can/be/written"
    monkeypatch.setenv("GRAFT_CACHE", "kept")
    assert {(each.name, each.status) for each in doctor().findings} >= {("machine", "problem"), ("cache", "problem")}


@pytest.mark.parametrize(("size", "status"), [("64m", "problem"), ("3g", "note"), ("6g", "ok")])
def test_free_disk(size: str, status: str, home: Path) -> None:
    inside = ["unshare", "--map-root-user", "--mount", "sh", "-c"]  # a disk of its own needs no rights there
    mount = f"mount -t tmpfs -o size={size} none '{home}'"
    if subprocess.run([*inside, mount], capture_output=True, check=False).returncode:
        pytest.skip("this system mounts no disk without rights")
    program = "import sys; from graft import cli; sys.argv = ['graft', 'doctor', '--json']; cli.main()"
    command = [*inside, f"{mount} && exec '{sys.executable}' -c \"$0\"", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    disk = diagnosis(done.stdout, done.returncode).only("disk")
    assert disk.status == status
    assert {"64m": "67.1 MB free", "3g": "3.2 GB free", "6g": "6.4 GB free"}[size] in disk.text
    assert (disk.remedy is None) is (status == "ok")


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with two GPUs, as NVML tells it."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 2)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda index: index)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUUID", lambda handle: f"GPU-{handle}")
    monkeypatch.setattr(pynvml, "nvmlDeviceGetName", lambda handle: "NVIDIA H100")


@pytest.mark.usefixtures("two_gpus")
def test_gpus_want_the_packages_that_tensorflow_uses_them_with(
    doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = cuda_packages()
    assert "nvidia-cudnn-cu12" in wanted
    for number, name in enumerate(wanted):
        if number == 1:
            monkeypatch.syspath_prepend(str(tmp_path))
            cuda = doctor().only("cuda")
            assert cuda.status == "problem"
            assert name in cuda.text
            assert cuda.remedy is not None
            assert "GPU=1" in cuda.remedy or "requirements-gpu.lock" in cuda.remedy
        folder = tmp_path / f"{name.replace('-', '_')}-1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    found = doctor()
    assert found.only("gpu").text == "2 × NVIDIA H100"
    assert found.only("cuda").status == "ok"
    assert "requirements-gpu.lock" in found.only("lock").text


def test_a_driver_that_does_not_work_is_a_problem(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    def mismatch() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)

    monkeypatch.setattr(pynvml, "nvmlInit", mismatch)
    gpu = doctor().only("gpu")
    assert gpu.status == "problem"
    assert "RM has detected an NVML/RM version mismatch" in gpu.text


@pytest.mark.usefixtures("two_gpus")
def test_hidden_gpus_are_a_note(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    found = doctor()
    assert (found.only("gpu").status, found.all("cuda")) == ("note", [])
    assert found.only("gpu").remedy == "unset CUDA_VISIBLE_DEVICES"


HOLDER = """
import sys
import filelock
with filelock.FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(not Path("/proc/self/fdinfo").is_dir(), reason="this system does not say who holds locks")
def test_a_lock_is_named_while_it_is_held(doctor: Doctor, home: Path) -> None:
    (home / "mlruns").mkdir()
    lock = home / "mlruns" / "optuna.journal.lock"
    command = [sys.executable, "-c", HOLDER, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        found = doctor().only("locks")
        holder.communicate()
    assert found.status == "ok"
    assert f"optuna.journal.lock by process {holder.pid}" in found.text
    lock.touch()  # a lock file that lies around is not held
    assert "no process" in doctor().only("locks").text
