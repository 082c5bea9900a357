"""`hydra/launcher=graft`, `graft_ray`, `graft_slurm`: warm worker processes, one a slot, for any sweeper of Hydra's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hydra_plugins.graft._exit import exit_with

if TYPE_CHECKING:
    from graft.sweep.slots import WorkerPool


class GraftLauncher(Launcher):
    """A `graft.sweep.jobs.JobLauncher` that is also a launcher of Hydra's."""

    def __init__(self, **given: Any) -> None:
        self.given = given
        self.config: DictConfig | None = None
        self.hydra_context: HydraContext | None = None
        self.task_function: TaskFunction | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config
        self.hydra_context = hydra_context
        self.task_function = task_function
        from graft.errors import GraftError

        try:
            self._pool = self._make_pool()
        except GraftError as error:
            exit_with(error)
        # The rest of JobLauncher, for sweepers that keep slots busy instead of launching batches.
        self.open, self.warm_up = self._pool.open, self._pool.warm_up
        self.submit, self.flush = self._pool.submit, self._pool.flush
        self.stop, self.kill, self.close = self._pool.stop, self._pool.kill, self._pool.close
        self.cancel = self._pool.cancel

    def _make_pool(self) -> WorkerPool:
        from graft.sweep.local import LocalOptions, LocalWorkers
        from graft.sweep.slots import WorkerPool

        options = LocalOptions.of(_plain(self.given))
        return WorkerPool(options, LocalWorkers(options))

    @property
    def slots(self) -> int:
        return self._pool.slots

    @property
    def place(self) -> str:
        return self._pool.place

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from graft.errors import GraftError
        from graft.sweep.batches import launch_batch

        assert self.hydra_context is not None
        assert self.task_function is not None
        assert self.config is not None
        try:
            return launch_batch(
                self._pool,
                hydra_context=self.hydra_context,
                task_function=self.task_function,
                config=self.config,
                job_overrides=job_overrides,
                initial_job_idx=initial_job_idx,
            )
        except GraftError as error:
            exit_with(error)


class GraftRayLauncher(GraftLauncher):
    """The same on a Ray cluster."""

    def _make_pool(self) -> WorkerPool:
        from graft.sweep.ray_cluster import RayOptions, RayWorkers
        from graft.sweep.slots import WorkerPool

        options = RayOptions.of(_plain(self.given))
        return WorkerPool(options, RayWorkers(options))


class GraftSlurmLauncher(GraftLauncher):
    """The same in jobs of Slurm."""

    def _make_pool(self) -> WorkerPool:
        from graft.sweep.slots import WorkerPool
        from graft.sweep.slurm_cluster import SlurmOptions, SlurmWorkers

        options = SlurmOptions.of(_plain(self.given))
        return WorkerPool(options, SlurmWorkers(options))


def _plain(given: dict[str, Any]) -> dict[str, Any]:
    """The options with lists and mappings as Python's own."""
    from omegaconf import OmegaConf

    return {
        key: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        for key, value in given.items()
    }
