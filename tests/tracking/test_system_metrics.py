"""`tracking.system_metrics=true`: what processor, memory and the GPUs in use do."""

from __future__ import annotations

from types import SimpleNamespace

import pynvml
import pytest

from graft.tracking import system_metrics
from graft.tracking.recorder import MemoryRecorder
from graft.tracking.system_metrics import SystemMetricsRecorder


@pytest.fixture
def recorder() -> MemoryRecorder:
    return MemoryRecorder()


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs, the second of which this process may use. There is none here."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-b")
    for name, value in {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda index: "ab"[index],
        "nvmlDeviceGetUUID": lambda handle: f"GPU-{handle}",
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(used={"a": 0, "b": 1 << 30}[handle], total=1 << 32),
        "nvmlDeviceGetUtilizationRates": lambda handle: SimpleNamespace(gpu={"a": 1, "b": 87}[handle]),
        "nvmlDeviceGetPowerUsage": lambda handle: 250_000,
    }.items():
        monkeypatch.setattr(pynvml, name, value)


def test_samples_are_numbered_on_and_lie_apart(recorder: MemoryRecorder, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(system_metrics, "time", SimpleNamespace(monotonic=lambda: now))
    sampler = SystemMetricsRecorder(recorder, first=3, every_seconds=5)
    for number in range(20):
        now += 0.2
        sampler.log_step({"loss": 1.0}, step=number, epoch=0, of=20)  # no time for a sample
    assert recorder.metrics == {}
    for number in range(2):
        now += 5
        sampler.log_metrics({"val_loss": 1.0}, step=number)
    sampler.close("complete")
    assert set(recorder.metrics["system/cpu_utilization_percentage"]) == {3, 4}
    assert 0 < recorder.metrics["system/process_memory_megabytes"][3] < 1 << 20
    assert 0 < recorder.metrics["system/system_memory_usage_percentage"][3] <= 100


def test_a_short_run_has_one(recorder: MemoryRecorder) -> None:
    SystemMetricsRecorder(recorder).close("complete")
    assert set(recorder.metrics["system/cpu_utilization_percentage"]) == {0}


def test_only_the_gpus_in_use_are_measured(recorder: MemoryRecorder, two_gpus: None) -> None:
    SystemMetricsRecorder(recorder).close("complete")
    of_gpus = {name: values[0] for name, values in recorder.metrics.items() if "gpu" in name}
    assert of_gpus == {
        "system/gpu_0_utilization_percentage": 87,
        "system/gpu_0_memory_usage_megabytes": 1024,
        "system/gpu_0_memory_usage_percentage": 25,
        "system/gpu_0_power_usage_watts": 250,
    }


def test_a_gpu_that_measures_little_ends_no_run(
    recorder: MemoryRecorder, two_gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_supported(handle: str) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    monkeypatch.setattr(pynvml, "nvmlDeviceGetUtilizationRates", not_supported)  # as on one that is divided
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", not_supported)  # as on one without memory of its own
    SystemMetricsRecorder(recorder).close("complete")
    assert {name for name in recorder.metrics if "gpu" in name} == {"system/gpu_0_power_usage_watts"}
