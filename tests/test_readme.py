"""Every command of the README, run; every link and key in it, looked up."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from tests.conftest import backbone_at, run_command
from tests.images import write_classes

from graft.config import Config
from graft.paths import CHECKOUT

README = (CHECKOUT / "README.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line and not line.startswith("#")
]
ELSEWHERE = {
    "make test": "this is it",
    "python train.py experiments=dropout": "test_experiments runs the smoke form of every experiment",
}


@pytest.fixture(scope="module")
def readme_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readme")


@pytest.fixture(scope="module")
def small(tiny_backbone: Path) -> list[str]:
    return ["+size=smoke", "dataset.image_size=8", "epochs=1", *backbone_at(tiny_backbone)]


def test_there_are_commands() -> None:
    assert "make sweep" in COMMANDS
    assert "graft compare" in COMMANDS
    assert len(COMMANDS) >= 6


@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in ELSEWHERE])
def test_a_command_of_the_readme_works(command: str, small: list[str], readme_home: Path) -> None:
    if not (readme_home / "photos").exists():
        write_classes(readme_home / "photos", {"daisy": 12, "rose": 12})
    command = command.replace("/path/to/photos", str(readme_home / "photos"))
    command = command.replace("/path/to/model", str(readme_home / "model"))
    words = shlex.split(command.replace("RUN_ID", latest_run(readme_home) if "RUN_ID" in command else ""))
    if words[0] == "make":
        words.append(f"ARGS={shlex.join(small)}")
    elif words[0] == "python":
        words += small
    done = run_command(words, readme_home)
    assert done.returncode == 0, done.stdout + done.stderr
    if words[-1] == "compare" or words[:2] == ["make", "sweep"]:
        assert "fine-tuned" in done.stdout


def latest_run(home: Path) -> str:
    client = MlflowClient(f"sqlite:///{home}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name("graft")
    assert experiment is not None
    ended = "tags.`graft.state` = 'complete' and tags.`graft.kind` = 'single'"
    return client.search_runs([experiment.experiment_id], ended, max_results=1)[0].info.run_id


def test_every_key_that_the_readme_sets_exists(make_config: Callable[..., Config]) -> None:
    for knob in re.findall(r"^\| `([a-z_.]+=[^`]+)` \|", README, re.MULTILINE):
        for value in re.split(r"\|", knob.split("=", 1)[1]):
            make_config(f"{knob.split('=')[0]}={value}")
    for group, options in re.findall(r"`(head|optimizer)=([a-z|]+)`", README):
        for option in options.split("|"):
            make_config(f"{group}={option}")
    flat = make_config().flat()
    also = re.search(r"Also: `([^`]+)`", README)
    assert also is not None
    assert set(also.group(1).split()) <= flat.keys()


def test_the_mistake_in_the_readme_gets_the_answer_in_the_readme(readme_home: Path) -> None:
    command, answer = re.search(r"```text\n\$ (python .*)\n(.*)\n```", README).groups()  # type: ignore[union-attr]
    done = run_command(shlex.split(command), readme_home)
    assert done.stderr.strip() == answer


def test_every_path_that_the_documents_name_exists() -> None:
    for page in ("README.md", "CONTRIBUTING.md", "mlruns/README.md"):
        text = (CHECKOUT / page).read_text()
        for name in re.findall(r"`((?:src|conf|experiments|mlruns|tests)/[\w./-]*|[A-Z]+\.md|train\.py)`", text):
            assert name.startswith("mlruns/") or (CHECKOUT / name).exists(), f"{page} names {name}"
        for target in re.findall(r"\]\((?!http)([^)#]+)", text):
            assert (CHECKOUT / page).parent.joinpath(target).exists(), f"{page} links to {target}"


def test_help_is_the_default_and_names_every_target() -> None:
    listed = run_command(["make"], CHECKOUT).stdout
    makefile = (CHECKOUT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony is not None
    for target in phony.group(1).split():
        assert re.search(rf"make {target} +\S", listed), f"{target} is not explained"


@pytest.fixture
def server(readme_home: Path) -> Iterator[Callable[[str], tuple[str, int]]]:
    """Starts a make target that serves pages, and ends it with everything that it started."""
    started: list[subprocess.Popen[bytes]] = []

    def start(target: str) -> tuple[str, int]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        env = {
            **os.environ,
            "GRAFT_HOME": str(readme_home),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        output = os.open(readme_home / f"{target}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        process = subprocess.Popen(
            ["make", target, f"PORT={port}"],
            cwd=CHECKOUT,
            env=env,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        os.close(output)
        started.append(process)
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
                    return answer.read().decode(), port
            except OSError:
                assert process.poll() is None, (readme_home / f"{target}.log").read_text()
                time.sleep(0.2)
        raise AssertionError(f"make {target} serves nothing")

    yield start
    for process in started:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


@pytest.mark.parametrize(("target", "title"), [("ui", "MLflow"), ("tensorboard", "TensorBoard")])
def test_pages_are_served_on_loopback_only(server: Callable[[str], tuple[str, int]], target: str, title: str) -> None:
    page, port = server(target)
    assert title in page
    listening = {
        line.split()[1]
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        for line in Path(table).read_text().splitlines()[1:]
        if line.split()[3] == "0A" and line.split()[1].endswith(f":{port:04X}")
    }
    assert listening == {f"0100007F:{port:04X}"}
