"""One sweep: its command is read and checked, its study opened, and its launcher, until all of it is closed again."""

from __future__ import annotations

import queue
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.types import HydraContext, TaskFunction
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from graft import disk
from graft.errors import ConfigError
from graft.sweep.checks import check_cells
from graft.sweep.compose import Composer, hydra_config_set
from graft.sweep.controller import Controller
from graft.sweep.identity import identify
from graft.sweep.jobs import Event, JobLauncher
from graft.sweep.observer import NoObserver, SweepEnded, SweepObserver
from graft.sweep.opening import open_sweep
from graft.sweep.options import SweepOptions
from graft.sweep.overrides import read_space
from graft.sweep.space import Space
from graft.sweep.storage import file_of, resolve_storage


def run_sweep(
    *,
    hydra_context: HydraContext,
    task_function: TaskFunction,
    config: DictConfig,
    launcher: JobLauncher,
    given: Mapping[str, Any],
    arguments: Sequence[str],
) -> SweepEnded:
    """Runs a sweep, or goes on with one, until every trial is final or its timeout has passed.

    Args:
        hydra_context: Hydra's, as a sweeper gets it.
        task_function: What a job runs.
        config: Composed for the sweep itself.
        launcher: Runs the jobs; opened and closed here.
        given: The settings under `hydra.sweeper`.
        arguments: The task's overrides.

    Returns:
        What the observer was told in the end.

    Raises:
        ConfigError: with every problem; nothing was started.
        SweepFailed: if some trial failed.
        Interrupted: if trials are left; how to go on was printed.
        FatalError: if a trial raised one, or the study cannot be written any more; the sweep was stopped.
    """
    loader = hydra_context.config_loader
    options, space = _read(given, arguments, loader)
    observer = _make_observer(options)
    digests = check_cells(space, Composer(loader, config), observer)
    identity = identify(config, space, options, digests)
    storage = resolve_storage(options.storage, Path(config.hydra.runtime.cwd))
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    try:
        # Before there is a study: this refuses a task that cannot be sent to a worker.
        launcher.open(hydra_context=hydra_context, task_function=task_function, config=config, listener=events.put)
        with disk.told(file_of(storage) or storage):
            study = open_sweep(
                storage=storage,
                job_name=str(config.hydra.job.name),
                space=space,
                options=options,
                identity=identity,
                directory=_sweep_directory(config),
            )
        controller = Controller(
            study=study,
            space=space,
            options=options,
            storage=storage,
            observer=observer,
            launcher=launcher,
            composer=Composer(loader, config, sweep_directory=study.directory),
            events=events,
        )
        try:
            return controller.run(config)
        finally:
            # Workers first: a trial must not be free for others while it still runs here.
            launcher.close()
            study.presence.leave()
    finally:
        launcher.close()


def _read(given: Mapping[str, Any], arguments: Sequence[str], loader: Any) -> tuple[SweepOptions, Space]:
    """Options and space; the problems of both are raised together."""
    problems: list[str] = []
    options = space = None
    try:
        options = SweepOptions.check(given)
    except ConfigError as error:
        problems += error.problems
    try:
        named = given["params"]  # of what is no mapping the options tell
        params = OmegaConf.to_container(named, resolve=True) if isinstance(named, DictConfig) else {}
        space = read_space(arguments, params, n_trials=given["n_trials"], config_loader=loader)  # type: ignore[arg-type]
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    assert options is not None
    assert space is not None
    return options, space


def _make_observer(options: SweepOptions) -> SweepObserver:
    if options.observer is None:
        return NoObserver()
    try:
        observer: SweepObserver = instantiate(options.observer)
    except InstantiationException as error:
        # Hydra's text names the target and what went wrong, over several lines.
        raise ConfigError(f"hydra.sweeper.observer cannot be made: {' '.join(str(error).split())}") from error
    return observer


def _sweep_directory(config: DictConfig) -> Path:
    with hydra_config_set(config):
        directory = Path(str(OmegaConf.select(config, "hydra.sweep.dir")))
    return Path(config.hydra.runtime.cwd) / directory
