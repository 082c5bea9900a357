"""Every command of the README, run; every link and key in it, looked up."""

from __future__ import annotations

import http.client
import json
import re
import shlex
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from tests.conftest import backbone_at, run_command
from tests.images import write_classes
from tests.serving import free_port, listening, serving

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
    targets = [target for line in re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE) for target in line.split()]
    assert "experiment" in targets
    for target in targets:
        assert re.search(rf"make {target} +\S", listed), f"{target} is not explained"


@pytest.mark.parametrize(
    ("target", "title"), [("ui", "MLflow"), ("tensorboard", "TensorBoard"), ("dashboard", "Optuna")]
)
def test_pages_are_served_on_loopback_only(readme_home: Path, target: str, title: str) -> None:
    port = free_port()
    with serving(["make", target, f"PORT={port}"], readme_home, port, readme_home / f"{target}.log") as page:
        assert title in page
        assert listening(port) == {"0100007F"}
        if target == "ui":  # any page of the web may have a browser ask an address of this machine
            for header in ({"Host": "elsewhere.example"}, {"Origin": "http://elsewhere.example"}):
                with closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
                    path = "/api/2.0/mlflow/experiments/search"
                    connection.request("POST", path, '{"max_results": 1}', header)
                    assert connection.getresponse().status == http.HTTPStatus.FORBIDDEN


def test_the_dashboard_shows_the_sweeps_of_the_journal(readme_home: Path) -> None:
    port = free_port()
    command = ["make", "dashboard", f"PORT={port}"]
    with serving(command, readme_home, port, readme_home / "studies.log", "/api/studies") as answer:
        studies = json.loads(answer)["study_summaries"]
    assert studies
    assert all(study["study_name"].startswith("train-") for study in studies)


def test_without_a_sweep_there_is_no_dashboard_but_the_command_that_makes_one(tmp_path: Path) -> None:
    done = run_command(["make", "dashboard"], tmp_path)
    assert done.returncode != 0
    assert "There is no sweep yet: make sweep" in done.stdout
    assert not (tmp_path / "mlruns").exists()
