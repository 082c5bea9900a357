"""Sweeps on a Ray cluster: nodes that die, a cluster without room, a controller that is killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import psutil
import pytest
from optuna.trial import TrialState
from tests.sweep.apps import LONG, App, assert_nothing_lost_or_doubled, notes, read_until, runs, wait_for
from tests.sweep.ray_nodes import RayNodes, ray_nodes

from graft.errors import ConfigError
from graft.sweep.ray_cluster import RayOptions

pytestmark = pytest.mark.usefixtures("_ray_is_installed")


@pytest.fixture
def _ray_is_installed() -> None:
    pytest.importorskip("ray", reason="Ray is not installed")


@pytest.fixture
def three_nodes() -> Iterator[tuple[RayNodes, str]]:
    """A cluster of three nodes, each with a CPU and a pretended GPU; the head is one of them."""
    with ray_nodes() as nodes:
        address = nodes.add(num_gpus=1)
        for _ in range(2):
            nodes.add(num_gpus=1)
        yield nodes, address


@pytest.fixture
def on_one_node(steps: App, one_ray_node: tuple[RayNodes, str]) -> App:
    return on(steps, *one_ray_node)


def on(app: App, nodes: RayNodes, address: str) -> App:
    """The application, set to run its sweeps on a cluster."""
    app.environment |= nodes.environment
    app.launcher = ("hydra/launcher=graft_ray", f"hydra.launcher.address={address}")
    return app


def test_a_node_that_is_lost_twice_loses_no_trial(steps: App, three_nodes: tuple[RayNodes, str]) -> None:
    nodes, address = three_nodes
    trials = 60 if LONG else 24
    running = on(steps, nodes, address).start(
        f"x=range({trials})", "steps=10", "seconds=0.15", "hydra.launcher.lost_after=10", "hydra.sweeper.study_name=s"
    )

    wait_for(lambda: len(notes(steps, "end")) >= 3, seconds=120)
    nodes.kill(2)
    ended = {number for number, *_ in notes(steps, "end")}
    nodes.add(num_gpus=1)
    # The trial that was lost is taken up where it has a place: on the node that came back.
    wait_for(lambda: any(attempt for _, attempt, *_ in notes(steps, "step")), seconds=120)
    nodes.kill(2)
    ended |= {number for number, *_ in notes(steps, "end")}
    nodes.add(num_gpus=1)
    out, err = running.communicate(timeout=240)

    assert running.returncode == 0, err
    assert "3 slots on the Ray cluster" in out
    assert "3 nodes; 1 CPU and 1 GPU a slot" in out
    found = steps.study().trials
    assert [(trial.state, trial.values) for trial in found] == [(TrialState.COMPLETE, [x]) for x in range(trials)]
    assert_nothing_lost_or_doubled(steps, trials)
    # One may have come to its end without being heard of.
    again = [(number, begin, attempt) for number, attempt, begin, _ in notes(steps, "start") if attempt]
    assert len(notes(steps, "end")) == trials + sum(number in ended for number, *_ in again)
    # A node had one slot, so each time one trial was taken up again: where its checkpoint was.
    assert sum(trial.user_attrs.get("graft.deaths", 0) for trial in found) == 2
    assert sum(trial.user_attrs.get("graft.attempt", 0) for trial in found) == 2
    assert out.count("its process died (node lost)") == 2, out
    steps_made = notes(steps, "step")
    for number, begin, attempt in again:
        # The last step may have been kept, and not yet noted.
        assert begin - sum(n == number and a < attempt for n, a, *_ in steps_made) in (0, 1)
    folders = {path.parent.parent for path in steps.folder.glob("multirun/*/*/*/checkpoint")}
    assert len(folders) == 1


def test_a_trial_that_kills_its_process_is_retried(on_one_node: App) -> None:
    done = on_one_node.run("x=1", "die_at=1", "hydra.launcher.slots=1")
    assert done.status == 0, done.err
    (trial,) = on_one_node.study().trials
    assert (trial.values, trial.user_attrs["graft.attempt"], trial.user_attrs["graft.deaths"]) == ([1], 1, 1)
    assert "its process died (SIGKILL)" in done.out
    assert_nothing_lost_or_doubled(on_one_node, 1)


def test_a_trial_outlives_its_actor(on_one_node: App) -> None:
    running = on_one_node.start("x=1", "steps=400", "seconds=0.1", "hydra.launcher.slots=1")
    wait_for(lambda: bool(notes(on_one_node, "step")))
    *_, worker = notes(on_one_node, "step")[0]
    psutil.Process(worker).parent().kill()
    wait_for(lambda: len(notes(on_one_node, "start")) == 2)
    (on_one_node.folder / "hurry").touch()
    out, err = running.communicate(timeout=240)
    assert running.returncode == 0, err
    assert "its process died (Ray actor died)" in out
    assert not runs(worker)
    assert_nothing_lost_or_doubled(on_one_node, 1)


def test_a_killed_controller_takes_its_workers_along_and_is_gone_on_with(on_one_node: App) -> None:
    command = ["x=1,2,3,4", "steps=400", "seconds=0.1"]
    first = on_one_node.start(*command)
    wait_for(lambda: len({pid for *_, pid in notes(on_one_node, "step")}) == 2)
    first.kill()
    first.communicate()
    workers = {pid for *_, pid in notes(on_one_node, "step")}
    wait_for(lambda: not any(runs(pid) for pid in workers))
    assert not notes(on_one_node, "end")
    (on_one_node.folder / "hurry").touch()

    done = on_one_node.run(*command)
    assert done.status == 0, done.err
    assert "It goes on: 0 of 4" in done.out
    assert [trial.state for trial in on_one_node.study().trials] == [TrialState.COMPLETE] * 4
    assert_nothing_lost_or_doubled(on_one_node, 4)


def test_a_controller_that_is_cut_off_loses_its_workers_and_no_trial(on_one_node: App) -> None:
    running = on_one_node.start("x=1,2", "steps=400", "seconds=0.1", "hydra.launcher.lost_after=5")
    wait_for(lambda: len({pid for *_, pid in notes(on_one_node, "step")}) == 2)
    running.send_signal(signal.SIGSTOP)
    workers = {pid for *_, pid in notes(on_one_node, "step")}
    wait_for(lambda: not any(runs(pid) for pid in workers))
    assert not notes(on_one_node, "end")
    (on_one_node.folder / "hurry").touch()
    running.send_signal(signal.SIGCONT)
    _, err = running.communicate(timeout=240)
    assert running.returncode == 0, err
    assert [trial.user_attrs["graft.deaths"] for trial in on_one_node.study().trials] == [1, 1]
    assert_nothing_lost_or_doubled(on_one_node, 2)


def test_ctrl_c_ends_running_trials_and_those_that_wait_in_rays_queue(on_one_node: App) -> None:
    running = on_one_node.start("x=range(4)", "steps=1000", "seconds=0.05", "hydra.launcher.slots=3")
    wait_for(lambda: len({pid for *_, pid in notes(on_one_node, "step")}) == 2)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=240)
    assert running.returncode == 130, err
    assert "room for 2 now, the others wait in Ray's queue" in out
    assert [trial.state for trial in on_one_node.study().trials] == [TrialState.WAITING] * 4
    assert sum(bool(trial.intermediate_values) for trial in on_one_node.study().trials) == 2
    assert "Traceback" not in err


def test_a_trial_that_waits_for_a_place_moves_to_one_that_is_free(on_one_node: App) -> None:
    # Slots that have a place keep it to the end, so the third would never get one.
    done = on_one_node.run("x=range(4)", "steps=20", "hydra.launcher.slots=3")
    assert done.status == 0, done.err
    assert "room for 2 now, the others wait in Ray's queue" in done.out
    assert [trial.state for trial in on_one_node.study().trials] == [TrialState.COMPLETE] * 4
    assert_nothing_lost_or_doubled(on_one_node, 4)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


DEVICE_APP = """
    import json, os, time
    import hydra

    @hydra.main(version_base=None)
    def main(config):
        with open("log", "a") as log:
            log.write(json.dumps([os.environ["CUDA_VISIBLE_DEVICES"], os.environ["GRAFT_HOME"], os.getcwd()]) + "\\n")
        # Nobody ends before all have begun, so they are all in different slots.
        while len(open("log").readlines()) < config.together:
            time.sleep(0.02)
        return 0.0

    if __name__ == "__main__":
        main()
"""


@pytest.mark.parametrize(
    ("demand", "devices"),
    [
        ([], ["0", "1"]),
        (["hydra.launcher.num_gpus=0.5", "hydra.launcher.num_cpus=0"], ["0", "0", "1", "1"]),
        (["hydra.launcher.num_gpus=0"], ["", ""]),
    ],
)
def test_each_slot_has_the_gpus_that_ray_gave_it_and_the_surroundings_of_the_command(
    make_app: Callable[[str], App], one_ray_node: tuple[RayNodes, str], demand: list[str], devices: list[str]
) -> None:
    app = on(make_app(DEVICE_APP), *one_ray_node)
    app.environment["GRAFT_HOME"] = "/home/of/graft"
    done = app.run(f"+x=range({len(devices)})", f"+together={len(devices)}", *demand)
    assert done.status == 0, done.err
    seen = [json.loads(line) for line in app.lines()]
    assert sorted(device for device, *_ in seen) == devices
    assert {(home, directory) for _, home, directory in seen} == {("/home/of/graft", str(app.folder))}


def test_code_travels_by_the_runtime_environment(
    make_app: Callable[[str], App], one_ray_node: tuple[RayNodes, str]
) -> None:
    app = on(
        make_app("""
            import hydra

            @hydra.main(version_base=None)
            def main(config):
                import os
                from sent import number
                assert os.path.exists("sent.txt")
                return number()

            if __name__ == "__main__":
                main()
        """),
        *one_ray_node,
    )
    code = app.folder / "code"
    code.mkdir()
    (code / "sent.py").write_text("def number(): return 17.0")
    (code / "sent.txt").touch()
    done = app.run("+x=1", "hydra.launcher.runtime_env={working_dir: code}")
    assert done.status == 0, done.err
    assert [trial.values for trial in app.study().trials] == [[17.0]]


def test_a_ray_of_its_own_keeps_off_the_network_and_ends_with_ctrl_c(make_app: Callable[[str], App]) -> None:
    app = make_app("""
        import time
        import hydra
        import psutil

        @hydra.main(version_base=None)
        def main(config):
            raylet = next(parent for parent in psutil.Process().parents() if "raylet" in parent.name())
            controller = raylet.parent()
            heard_at = {
                connection.laddr.ip
                for process in (controller, *controller.children(recursive=True))
                for connection in process.net_connections("inet")
                if connection.status == psutil.CONN_LISTEN
            }
            with open("log", "a") as log:
                log.write(" ".join([str(raylet.pid), *heard_at]) + "\\n")
            time.sleep(3600)

        if __name__ == "__main__":
            main()
    """)
    app.launcher = ("hydra/launcher=graft_ray",)
    # As in a terminal, where Ctrl-C reaches Ray's processes too.
    running = subprocess.Popen(
        app.command("+x=1", "hydra.launcher.num_gpus=0"),
        cwd=app.folder,
        env=app.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for(lambda: bool(app.lines()))
    os.killpg(running.pid, signal.SIGINT)
    printed = read_until(running, "Press Ctrl-C again")
    os.killpg(running.pid, signal.SIGINT)
    rest, err = running.communicate(timeout=240)
    out = printed + rest

    assert running.returncode == 130, err
    assert "on Ray on this machine (1 node; 1 CPU a slot)" in out
    assert [trial.state for trial in app.study().trials] == [TrialState.WAITING]
    raylet, *heard_at = app.lines()[0].split()
    assert {address.removeprefix("::ffff:") for address in heard_at} == {"127.0.0.1"}
    assert not runs(int(raylet))


LEFTOVER = """
import json, sys
import ray
from graft.sweep.liveness import here

@ray.remote(num_cpus=2)
class Leftover:
    def begin(self): ...

ray.init(sys.argv[1], namespace="graft")
ray.get(Leftover.options(name=json.dumps(here(left=False)), lifetime="detached").remote().begin.remote())
"""


def test_what_a_dead_controller_left_in_the_cluster_is_ended(app: App, one_ray_node: tuple[RayNodes, str]) -> None:
    nodes, address = one_ray_node
    on(app, nodes, address)
    subprocess.run([sys.executable, "-c", LEFTOVER, address], env=app.environment, check=True, capture_output=True)
    # It has all of the cluster, so nothing runs beside it.
    running = app.start("x=1", "hydra.launcher.num_gpus=0")
    try:
        wait_for(lambda: bool(app.lines()))
    finally:
        running.kill()
        running.communicate()


@pytest.mark.skipif(not LONG, reason="takes most of a minute")
def test_a_killed_controller_connected_from_afar_takes_its_workers_along(steps: App) -> None:
    port = free_port()
    with ray_nodes() as nodes:
        nodes.add(num_cpus=2, ray_client_server_port=port)
        app = on(steps, nodes, f"ray://127.0.0.1:{port}")
        command = ["x=1,2", "steps=80", "seconds=0.1"]
        first = app.start(*command)
        wait_for(lambda: len({pid for *_, pid in notes(app, "step")}) == 2)
        first.kill()
        first.communicate()
        # Ray waits for the connection to come back.
        assert all(runs(pid) for *_, pid in notes(app, "step"))

        done = app.run(*command)
        assert done.status == 0, done.err
        assert_nothing_lost_or_doubled(app, 2)


def test_what_the_cluster_can_never_give_is_refused(app: App, one_ray_node: tuple[RayNodes, str]) -> None:
    done = on(app, *one_ray_node).run("x=1", "hydra.launcher.num_gpus=4")
    assert done.status == 2
    assert "has room for a slot, which takes 1 CPU and 4 GPUs. It has: 2 CPUs and 2 GPUs." in done.err
    assert not app.journal.exists()


def test_an_address_where_no_cluster_is_is_refused(app: App) -> None:
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1"):
        done = app.run("x=1", "hydra/launcher=graft_ray", f"hydra.launcher.address={address}")
        assert done.status == 2, done.err
        assert f"hydra.launcher.address={address} cannot be used: " in done.err
        assert "Traceback" not in done.err


def test_settings_that_are_not_allowed_are_refused_together() -> None:
    with pytest.raises(ConfigError) as refused:
        RayOptions(slots=0, num_cpus=-1, num_gpus=1.5, lost_after=0, runtime_env="code")  # type: ignore[arg-type]
    assert [problem.split("=")[0] for problem in refused.value.problems] == [
        f"hydra.launcher.{key}" for key in ("slots", "num_cpus", "num_gpus", "lost_after", "runtime_env")
    ]
    with pytest.raises(ConfigError, match="num_cpus=0 with num_gpus=0"):
        RayOptions(num_cpus=0, num_gpus=0)
