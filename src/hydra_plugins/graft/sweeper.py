"""`hydra/sweeper=graft`."""

from __future__ import annotations

from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hydra_plugins.graft._exit import exit_with


class GraftSweeper(Sweeper):
    """Hands a sweep to `graft.sweep.run` and turns its errors into exit statuses."""

    def __init__(self, **given: Any) -> None:
        self.given = given
        self.hydra_context: HydraContext | None = None
        self.task_function: TaskFunction | None = None
        self.config: DictConfig | None = None
        self.launcher: Launcher | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        from graft import disk
        from graft.errors import GraftError
        from graft.output import keep_output_going
        from graft.secrets import Secrets
        from graft.sweep.batches import BatchLauncher
        from graft.sweep.run import run_sweep

        keep_output_going()
        assert self.hydra_context is not None
        assert self.task_function is not None
        assert self.config is not None
        # By attribute and not by type: Hydra's plugin scan makes every plugin class twice.
        ours = hasattr(self.launcher, "submit")
        launcher: Any = self.launcher
        if not ours:
            launcher = BatchLauncher(launcher, self.given["n_jobs"])
        try:
            secrets = Secrets.of(self.config) | Secrets.in_address(str(self.given["storage"]))
            with secrets.out_of_errors(), disk.told(str(self.config.hydra.sweep.dir)):
                return run_sweep(
                    hydra_context=self.hydra_context,
                    task_function=self.task_function,
                    config=self.config,
                    launcher=launcher,
                    given=self.given,
                    arguments=arguments,
                )
        except GraftError as error:
            exit_with(error)
