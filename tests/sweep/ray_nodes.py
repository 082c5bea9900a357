"""A Ray cluster of several nodes on this machine, in a process of its own that is told what to do through stdin."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from graft.paths import CHECKOUT
from graft.sweep.ray_cluster import LOOPBACK_SWITCH

NODE = {"num_cpus": 1, "object_store_memory": 80 << 20, "node_ip_address": "127.0.0.1"}


class RayNodes:
    """The process as a test sees it."""

    def __init__(self, **environment: str) -> None:
        # For whoever connects as well: nothing but loopback, and nobody but us.
        self.environment = {
            LOOPBACK_SWITCH: "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        of_nodes = {**os.environ, **self.environment, "PYTHONWARNINGS": "ignore", **environment}
        of_nodes.pop("CUDA_VISIBLE_DEVICES", None)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.sweep.ray_nodes"],
            cwd=CHECKOUT,
            env=of_nodes,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def add(self, **settings: Any) -> str:
        """Starts a node, the head first; returns the address of the cluster."""
        return self._tell({"add": settings})

    def kill(self, index: int) -> str:
        """Kills a node and all that runs on it, as a power failure does; the head is 0."""
        return self._tell({"kill": index})

    def close(self) -> None:
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait(240)

    def _tell(self, command: dict[str, Any]) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(command), file=self._process.stdin, flush=True)
        for line in self._process.stdout:
            if line.startswith("answer "):
                return line.split()[1]
        raise AssertionError(f"the cluster's process ended with {self._process.wait()}")


@contextlib.contextmanager
def ray_nodes(**environment: str) -> Iterator[RayNodes]:
    """Nodes with `environment` beside that of this process."""
    nodes = RayNodes(**environment)
    try:
        yield nodes
    finally:
        nodes.close()


def main() -> None:
    from ray.cluster_utils import Cluster

    cluster, nodes = Cluster(), []
    try:
        for line in sys.stdin:
            command = json.loads(line)
            if "add" in command:
                nodes.append(cluster.add_node(**{**NODE, **command["add"]}))
            else:
                cluster.remove_node(nodes.pop(command["kill"]), allow_graceful=False)
            print("answer", cluster.address, flush=True)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
