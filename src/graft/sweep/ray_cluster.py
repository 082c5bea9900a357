"""`hydra/launcher=graft_ray`: slots on a Ray cluster. Where a worker runs, and when, is Ray's to decide."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import socket
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graft.errors import ConfigError
from graft.sweep.liveness import DEAD_AFTER_SECONDS, here, mark_of_controller, process_lives
from graft.sweep.workers import PoolOptions, not_allowed

if TYPE_CHECKING:
    from graft.sweep.ray_worker import RayWorker

NAMESPACE = "graft"
"""Ray's namespace for our actors, in which a controller finds those of one that died."""

LOOPBACK = "127.0.0.1"

LOOPBACK_SWITCH = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Off, Ray takes the loopback address for its node's; otherwise even one given as such becomes the network's."""

LOCAL_OBJECT_STORE_BYTES = 100 << 20
"""Ray would take a third of the memory, and all that passes through it are messages."""

REACH_SECONDS = 10.0
"""How long an address may take to be reached."""


@dataclass(frozen=True)
class RayOptions(PoolOptions):
    """From `hydra.launcher`.

    Attributes:
        address: None starts a Ray on this machine and stops it afterwards; otherwise as `ray.init` takes it.
        num_cpus: CPUs that a slot takes of a node.
        num_gpus: GPUs that a slot takes of a node, fractions allowed; None is one where the cluster has any.
        runtime_env: Ray's, for code that nodes do not have.
        lost_after: Seconds without contact after which a worker ends its job, and the job is started elsewhere.
    """

    address: str | None = None
    num_cpus: float = 1.0
    num_gpus: float | None = None
    runtime_env: Mapping[str, Any] | None = None
    lost_after: float = 30.0

    def problems(self) -> list[str]:
        gpus = self.num_gpus
        return [
            *super().problems(),
            *not_allowed("num_cpus", self.num_cpus, self.num_cpus >= 0, "a number from 0"),
            *not_allowed(
                "num_gpus",
                gpus,
                gpus is None or 0 <= gpus <= 1 or (gpus > 1 and gpus == int(gpus)),
                "a number from 0 to 1, a whole number above, or null for one where the cluster has GPUs",
            ),
            *not_allowed("num_cpus", "0 with num_gpus=0", self.num_cpus != 0 or gpus != 0, "one of them above 0"),
            # Controllers on other hosts take the trials of a dead one up after that time.
            *not_allowed(
                "lost_after",
                self.lost_after,
                0 < self.lost_after < DEAD_AFTER_SECONDS,
                f"seconds above 0 and below {DEAD_AFTER_SECONDS:g}",
            ),
            *not_allowed(
                "runtime_env",
                self.runtime_env,
                self.runtime_env is None or isinstance(self.runtime_env, Mapping),
                "a mapping, as ray.init takes it, or null",
            ),
        ]


class RayWorkers:
    """Workers on a Ray cluster. See `graft.sweep.workers.Workers`."""

    shared = True

    def __init__(self, options: RayOptions) -> None:
        found = importlib.util.find_spec("ray")
        if found is None or found.origin is None:  # a mere folder of that name has no origin
            raise ConfigError("hydra/launcher=graft_ray needs Ray, which is not installed: pip install 'graft[ray]'")
        self._options = options
        self._connected = False
        self._slots = 0
        self._gpus = 0.0
        self._room = 0
        self._place = ""

    @property
    def slots(self) -> int:
        return self._slots

    @property
    def place(self) -> str:
        return self._place

    def open(self) -> None:
        self._connect()
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        options = self._options
        has_gpus = any(node.get("GPU") for node in nodes)
        self._gpus = float(has_gpus) if options.num_gpus is None else options.num_gpus
        self._room = sum(_room_on(node, options.num_cpus, self._gpus) for node in nodes)
        if options.slots is None and self._room == 0:
            raise ConfigError(
                f"No node of {self._cluster} has room for a slot, which takes {self._demand}. It has: "
                f"{'; '.join(_resources(node) for node in nodes)}. Allowed: a smaller hydra.launcher.num_cpus or "
                "hydra.launcher.num_gpus, or hydra.launcher.slots= where nodes will join: trials wait in Ray's queue."
            )
        self._slots = self._room if options.slots is None else options.slots
        waits = f"; room for {self._room} now, the others wait in Ray's queue" if self._slots > self._room else ""
        count = f"{len(nodes)} node{'s' * (len(nodes) != 1)}"
        self._place = f" on {self._cluster} ({count}; {self._demand} a slot{waits})"
        self._end_leftovers()

    def start(self, slot: int, setup: bytes) -> RayWorker:
        import ray

        from graft.sweep.ray_actor import WorkerActor
        from graft.sweep.ray_worker import RayWorker

        options = self._options
        travels = set(options.runtime_env or ())
        actor = (
            ray.remote(WorkerActor)
            .options(
                name=json.dumps({**here(left=False), "id": uuid.uuid4().hex}),
                namespace=NAMESPACE,
                num_cpus=options.num_cpus,
                num_gpus=self._gpus,
                # A worker that is lost is a trial's affair, and it decides whether there is another.
                max_restarts=0,
                max_task_retries=0,
                # A request to stop must not wait for messages to come.
                max_concurrency=4,
            )
            .remote(
                setup,
                controller=mark_of_controller(),
                # Of the node's own environment Ray leaves the rest as it is; these say where Graft's files are.
                environment={name: value for name, value in os.environ.items() if name.startswith("GRAFT_")},
                directory=os.getcwd(),
                sends_code=bool(travels & {"working_dir", "py_modules"}),
                sends_directory="working_dir" in travels,
                gpus=self._gpus > 0,
                lost_after=options.lost_after,
            )
        )
        return RayWorker(actor, demand=self._demand, lost_after=options.lost_after)

    def close(self) -> None:
        if self._connected:
            import ray

            self._connected = False
            ray.shutdown()

    @property
    def _cluster(self) -> str:
        address = self._options.address
        return "Ray on this machine" if address is None else f"the Ray cluster {address}"

    @property
    def _demand(self) -> str:
        return _resources({"CPU": self._options.num_cpus, "GPU": self._gpus})

    def _connect(self) -> None:
        if self._connected:
            return
        address = self._options.address
        if address is None:
            _prepare_loopback()
        import ray

        if ray.is_initialized():
            raise ConfigError(
                "The application has called ray.init, and hydra/launcher=graft_ray connects by itself. Allowed: to "
                "leave that to hydra.launcher.address, and to call it in the task."
            )
        settings: dict[str, Any] = {
            "runtime_env": None if self._options.runtime_env is None else dict(self._options.runtime_env),
            "namespace": NAMESPACE,
            "log_to_driver": False,  # what trials print comes through their own pipes
            "configure_logging": False,  # the application's logging is Hydra's
        }
        logging.getLogger("ray").setLevel(logging.ERROR)
        if address is None:
            settings |= {
                "address": "local",
                "include_dashboard": False,
                "_node_ip_address": LOOPBACK,
                "object_store_memory": LOCAL_OBJECT_STORE_BYTES,
            }
        elif address.startswith("ray://"):
            settings = {"address": address, "runtime_env": settings["runtime_env"], "namespace": NAMESPACE}
        else:
            settings["address"] = address
        from ray.exceptions import RayError

        from graft.sweep.ray_worker import gist

        try:
            _reach(address)
            ray.init(**settings)
        except (RayError, OSError, RuntimeError, ValueError) as error:
            ray.shutdown()
            if address is None:
                raise ConfigError(f"Ray could not be started on this machine: {gist(error)}") from error
            raise ConfigError(
                f"hydra.launcher.address={address} cannot be used: {gist(error)}. Allowed: null to start a Ray on this "
                "machine, auto or HOST:PORT on a machine of the cluster, ray://HOST:10001 on any other."
            ) from error
        self._connected = True

    def _end_leftovers(self) -> None:
        """Ends workers of controllers that died on this host and were connected through `ray://`.

        Ray keeps those for a while, should the connection come back, and their trials are about to be taken up.
        """
        import ray

        for name in ray.util.list_named_actors():
            try:
                owner = json.loads(name)
                if process_lives(owner) is False:
                    ray.kill(ray.get_actor(name))
            except (ValueError, KeyError, TypeError):  # it ended meanwhile, or is nobody of ours
                continue


def _prepare_loopback() -> None:
    """Has Ray listen on the loopback interface alone, and report to nobody."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if "ray" in sys.modules and os.environ.get(LOOPBACK_SWITCH) != "0":
        raise ConfigError(
            "The application imports Ray before hydra/launcher=graft_ray can keep a Ray of its own off the network. "
            "Allowed: to import it in the task, or hydra.launcher.address= of a cluster that runs."
        )
    os.environ[LOOPBACK_SWITCH] = "0"


def _reach(address: str | None) -> None:
    """Raises OSError if nobody listens at `address`; Ray itself would wait for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS).close()


def _room_on(node: Mapping[str, float], cpus: float, gpus: float) -> int:
    """How many slots a node has room for."""
    # Ray counts in ten-thousandths.
    rooms = [
        round(node.get(kind, 0) * 10_000) // round(taken * 10_000)
        for kind, taken in (("CPU", cpus), ("GPU", gpus))
        if taken
    ]
    return int(min(rooms, default=0))


def _resources(resources: Mapping[str, float]) -> str:
    """CPUs and GPUs in words."""
    parts = [
        f"{count:g} {kind}{'s' * (count != 1)}"
        for kind in ("CPU", "GPU")
        if (count := resources.get(kind, 0)) or kind == "CPU"
    ]
    return " and ".join(parts)
