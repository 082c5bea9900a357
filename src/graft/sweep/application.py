"""What a worker needs once: the task and Hydra's surroundings, as a pickle."""

from __future__ import annotations

import contextlib
import logging
import pickle
import sys
from collections.abc import Mapping
from typing import Any

import cloudpickle
from hydra import version
from hydra.core.utils import JobRuntime
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from graft.errors import ConfigError
from graft.sweep.worker import resolver_table

log = logging.getLogger(__name__)


def pickled_application(hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> bytes:
    """What a worker needs once: where modules are found, the task, and Hydra's surroundings.

    Args:
        hydra_context: As Hydra hands it to a sweeper.
        task_function: What a job runs.
        config: Composed for the sweep itself.

    Raises:
        ConfigError: if something of it cannot be pickled; the text names it.
    """
    application = {
        "task": task_function,
        "hydra_context": HydraContext(config_loader=None, callbacks=hydra_context.callbacks),  # type: ignore[arg-type]
        "job_name": JobRuntime.instance().get("name"),
        "version_base": str(version.getbase()),
        "resolvers": _own_resolvers(),
        "environment": _environment(config.hydra.job.env_set),
    }
    try:
        pickled = cloudpickle.dumps(application)
    except Exception as error:
        raise ConfigError(_what_cannot_be_pickled(application, error)) from error
    return pickle.dumps({"path": sys.path, "argv": sys.argv, "application": pickled})


def _environment(env_set: DictConfig) -> dict[str, str]:
    """What `hydra.job.env_set` sets before anything is swept; what hangs on the job is set when it comes."""
    same = {}
    for name in env_set:
        with contextlib.suppress(OmegaConfBaseException, ValueError):  # such as ${hydra.job.num}
            same[str(name)] = str(env_set[name])
    return same


def _own_resolvers() -> dict[str, Any]:
    """Resolvers that the application registered, as far as they can be sent to another process."""
    sendable = {}
    for name, resolver in resolver_table().items():
        if name.startswith("oc.") or name in ("hydra", "now", "python_version"):
            continue
        try:
            cloudpickle.dumps(resolver)
        except Exception as error:
            log.warning("The resolver %s cannot be sent to worker processes: %s", name, error)
        else:
            sendable[name] = resolver
    return sendable


def _what_cannot_be_pickled(application: Mapping[str, Any], error: Exception) -> str:
    task = application["task"]
    name = f"{getattr(task, '__module__', '?')}.{getattr(task, '__qualname__', repr(task))}"
    culprits = _unpicklable_parts(task)
    if not culprits and not _picklable(application["hydra_context"].callbacks):
        culprits = ["hydra.callbacks"]
    because = f", because of {', '.join(culprits)}" if culprits else ""
    return (
        f"The task {name} cannot be sent to a worker process{because}: {error}. Make such objects inside the task, or "
        "use hydra/launcher=basic."
    )


def _unpicklable_parts(task: Any) -> list[str]:
    """The global names and captured variables of `task` that cannot be pickled by themselves."""
    code, parts = getattr(task, "__code__", None), dict[str, Any]()
    if code is not None:
        parts |= {name: task.__globals__[name] for name in code.co_names if name in task.__globals__}
        for name, cell in zip(code.co_freevars, task.__closure__ or (), strict=True):
            with contextlib.suppress(ValueError):  # a variable that is not set yet
                parts[name] = cell.cell_contents
    return [f"{name} ({type(part).__name__})" for name, part in parts.items() if not _picklable(part)]


def _picklable(part: Any) -> bool:
    try:
        cloudpickle.dumps(part)
    except Exception:
        return False
    return True
