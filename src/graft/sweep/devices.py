"""GPUs of this machine, and which of them each slot sees."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from graft.errors import ConfigError

VISIBLE = "CUDA_VISIBLE_DEVICES"


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` names them.

    A list that is set already is obeyed, so that a scheduler's choice stands. Otherwise NVML counts
    them, because it needs no CUDA context, which would cost memory on every GPU. They are named by
    UUID: NVML numbers devices by bus address and CUDA by speed.
    """
    given = os.environ.get(VISIBLE)
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip() not in ("", "-1", "NoDevFiles")]
    import pynvml

    with _handles() as handles:
        return [pynvml.nvmlDeviceGetUUID(handle) for handle in handles]


def installed_gpus() -> list[str]:
    """What the GPUs of this machine are called, whatever `CUDA_VISIBLE_DEVICES` says."""
    import pynvml

    with _handles() as handles:
        return [pynvml.nvmlDeviceGetName(handle) for handle in handles]


def gpu_use() -> list[dict[str, float]]:
    """How much the GPUs that this process may use are in use, in the order in which it names them.

    Each has what it tells of `utilization_percentage`, `memory_usage_megabytes`, `memory_usage_percentage` and
    `power_usage_watts`. The names are those of MLflow's system metrics; the megabytes are MiB. A part of a GPU (MIG)
    is left out.
    """
    import pynvml

    visible = visible_gpus()
    with _handles() as handles:
        by_name = {pynvml.nvmlDeviceGetUUID(handle): handle for handle in handles}
        by_name |= {str(index): handle for index, handle in enumerate(handles)}
        return [_use_of(by_name[name]) for name in visible if name in by_name]


def _use_of(handle: Any) -> dict[str, float]:
    import pynvml

    use: dict[str, float] = {}
    # Not every GPU measures all of it, least of all one that is divided (MIG).
    with suppress(pynvml.NVMLError):
        use["utilization_percentage"] = float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    with suppress(pynvml.NVMLError):
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        use["memory_usage_megabytes"] = memory.used / (1 << 20)
        use["memory_usage_percentage"] = 100 * memory.used / memory.total
    with suppress(pynvml.NVMLError):
        use["power_usage_watts"] = pynvml.nvmlDeviceGetPowerUsage(handle) / 1000
    return use


@contextmanager
def _handles() -> Iterator[list[Any]]:
    """NVML's handles of all GPUs, for as long as the block lasts."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no driver, hence no GPU
        yield []
        return
    try:
        yield [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    finally:
        pynvml.nvmlShutdown()


def nvml_trouble() -> str | None:
    """What NVML says where NVIDIA's driver is installed and does not work; None if it works, or is not installed."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_LibraryNotFound:
        return None
    except pynvml.NVMLError as error:
        return str(error)
    pynvml.nvmlShutdown()
    return None


def slot_devices(slots: int | None, slots_per_gpu: int) -> list[str | None]:
    """What each slot sets `CUDA_VISIBLE_DEVICES` to; None leaves it alone.

    Args:
        slots: How many slots; None for all that the GPUs offer, or one on a machine without.
        slots_per_gpu: Slots that share a GPU.

    Raises:
        ConfigError: if there are more slots than the GPUs offer.
    """
    gpus = visible_gpus()
    if not gpus:
        return [None] * (slots or 1)
    # GPU by GPU before any is shared, so that fewer slots than places are spread out.
    places = gpus * slots_per_gpu
    if slots is not None and slots > len(places):
        raise ConfigError(
            f"hydra.launcher.slots={slots} is more than {len(gpus)} GPU{'s' * (len(gpus) > 1)} with "
            f"hydra.launcher.slots_per_gpu={slots_per_gpu} offer. Allowed: up to {len(places)}, or "
            f"hydra.launcher.slots_per_gpu={-(-slots // len(gpus))}, or {VISIBLE}= (empty) for jobs that need no GPU."
        )
    return list(places[: slots or len(places)])
