"""The options of `hydra/sweeper=graft` and of `hydra/launcher=graft`, `graft_ray` and `graft_slurm`, with defaults."""

from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore

# No postponed annotations here. Hydra's plugin scan runs this module before it is in sys.modules, where
# dataclasses would look their names up.


@dataclass
class GraftSweeperConf:
    """See `graft.sweep.options.SweepOptions` for what is allowed."""

    _target_: str = "hydra_plugins.graft.sweeper.GraftSweeper"
    # The observer is made by the engine, once the space is known to be sound.
    _recursive_: bool = False
    # Trials in each cell that samples something; a pure grid needs none.
    n_trials: int | None = None
    # Seconds after which no further trial is started.
    timeout: float | None = None
    # Seconds after which a running trial is killed and fails.
    trial_timeout: float | None = None
    # Optuna's class by name, or {name: ..., option: value}.
    sampler: Any = "TPESampler"
    pruner: Any = None
    # minimize or maximize; a list of them for several objectives.
    direction: Any = "minimize"
    # Names of the returned values; also picks them from a returned mapping.
    objective: Any = None
    # null is a journal file beside Hydra's output folders; else its path, or a database URL.
    storage: str | None = None
    # A sweep with a name is gone on with by that name.
    study_name: str | None = None
    # How often a trial is started again whose process died.
    max_retries: int = 2
    # Failed trials that the sweep endures; null is any number.
    max_failures: int | None = None
    # Of the sampler.
    seed: int | None = None
    # Trials in a batch, for launchers other than Graft's.
    n_jobs: int = 1
    # _target_ of an observer, see graft.sweep.observer.
    observer: Any = None
    # The space in YAML; overrides on the command line win.
    params: Any = None


@dataclass
class GraftLauncherConf:
    """See `graft.sweep.local.LocalOptions` for what is allowed."""

    _target_: str = "hydra_plugins.graft.launcher.GraftLauncher"
    # Trials at a time; null is one a GPU, or one on a machine without.
    slots: int | None = None
    slots_per_gpu: int = 1
    # A new process for every trial.
    fresh_process: bool = False
    # A worker process is replaced after so many trials, or if it holds more GiB after one.
    recycle_after_trials: int | None = None
    recycle_above_gib: float | None = None
    # Pass on what trials print.
    show_output: bool = True


@dataclass
class GraftRayLauncherConf:
    """See `graft.sweep.ray_cluster.RayOptions` for what is allowed."""

    _target_: str = "hydra_plugins.graft.launcher.GraftRayLauncher"
    # null starts a Ray on this machine and stops it afterwards; or auto, HOST:PORT, ray://HOST:PORT.
    address: str | None = None
    # Trials at a time; null is as many as the cluster has room for at the start.
    slots: int | None = None
    # What a slot takes of a node; fractions share a GPU. null is one GPU where the cluster has any.
    num_cpus: float = 1.0
    num_gpus: float | None = None
    # Ray's own: code, packages and environment variables for nodes that lack them.
    runtime_env: Any = None
    # Seconds without contact after which a trial's worker ends itself, and the trial starts again elsewhere.
    lost_after: float = 30.0
    # As for hydra/launcher=graft.
    fresh_process: bool = False
    recycle_after_trials: int | None = None
    recycle_above_gib: float | None = None
    show_output: bool = True


@dataclass
class GraftSlurmLauncherConf:
    """See `graft.sweep.slurm_cluster.SlurmOptions` for what is allowed. The names are Hydra's submitit launcher's."""

    _target_: str = "hydra_plugins.graft.launcher.GraftSlurmLauncher"
    # Jobs that may wait and run at a time. It has to be said.
    slots: int | None = None
    # slot: a job keeps its place for many trials; trial: each trial waits in the queue for itself.
    job_per: str = "slot"
    # slurm; or local: jobs on this machine, to try things out.
    cluster: str = "slurm"
    # Of a job, that is of a slot.
    partition: str | None = None
    gpus_per_node: int | None = None
    cpus_per_task: int | None = None
    mem_gb: float | None = None
    # Minutes that a job may run; it is requeued then. Seconds of warning before.
    timeout_min: int = 240
    signal_delay_s: int = 120
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    name: str = "graft"
    # Lines of shell before Python starts, such as: module load cuda.
    setup: Any = None
    # Further options of sbatch by their long names.
    additional_parameters: Any = None
    # Scripts and logs of the jobs, on a path that all nodes see. A trial's output is in its own folder.
    folder: str = "${hydra.sweep.dir}/.slurm"
    # Seconds without contact after which a job is given up, and its trial starts again elsewhere.
    lost_after: float = 60.0
    # As for hydra/launcher=graft.
    fresh_process: bool = False
    recycle_after_trials: int | None = None
    recycle_above_gib: float | None = None
    show_output: bool = True


store = ConfigStore.instance()
store.store(group="hydra/sweeper", name="graft", node=GraftSweeperConf, provider="graft")
store.store(group="hydra/launcher", name="graft", node=GraftLauncherConf, provider="graft")
store.store(group="hydra/launcher", name="graft_ray", node=GraftRayLauncherConf, provider="graft")
store.store(group="hydra/launcher", name="graft_slurm", node=GraftSlurmLauncherConf, provider="graft")
