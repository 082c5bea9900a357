"""The main job through the public surface: `train.py -m trainable=true,false`, MLflow's client, `graft compare`."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import yaml
from filelock import FileLock
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from selenium.webdriver.remote.webelement import WebElement
from tests.browser import Browser, chromium, text_of, wait_for
from tests.conftest import backbone_at, run_command
from tests.serving import free_port, serving
from typer.testing import CliRunner

from graft.cli import app
from graft.config import Config
from graft.model import trained_part
from graft.paths import CHECKOUT
from graft.preparation import prepare

EPOCH_METRICS = [
    "train_loss",
    "train_accuracy",
    "val_loss",
    "val_accuracy",
    "epoch_seconds",
    "images_per_second",
    "learning_rate",
]
RUN_METRICS = [
    "best_val_accuracy",
    "best_epoch",
    "test_loss",
    "test_accuracy",
    "overfit_gap",
    "feature_extraction_seconds",
    "epoch_seconds_live",
    "total_seconds",
    "trainable_parameters",
]
DIGESTS = ("config_sha256", "dataset_sha256", "backbone_sha256", "lock_sha256", "commit")
SMALL = ["+size=smoke", "epochs=3"]


@dataclass
class Sweep:
    """A sweep that was run, and the means to look at it."""

    home: Path
    output: str
    client: MlflowClient
    parent: Run
    children: list[Run]

    def child(self, *, trainable: bool) -> Run:
        return next(run for run in self.children if run.data.params["trainable"] == str(trainable))

    def compare(self, *arguments: str) -> str:
        with pytest.MonkeyPatch.context() as patch:  # in this process, which has MLflow already
            patch.setenv("GRAFT_HOME", str(self.home))
            done = CliRunner().invoke(app, ["compare", *arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout


@pytest.fixture(scope="module")
def small(tiny_backbone: Path) -> list[str]:
    return [*SMALL, *backbone_at(tiny_backbone)]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory, small: list[str]) -> Sweep:
    home = tmp_path_factory.mktemp("main_job")
    words = ["-m", "trainable=true,false", *small, "tracking.log_model=true"]
    done = run_command(["python", str(CHECKOUT / "train.py"), *words], home, cwd=home)
    assert done.returncode == 0, done.stderr
    client = MlflowClient(f"sqlite:///{home}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name("graft")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    parents = [run for run in runs if run.data.tags["graft.kind"] == "sweep"]
    assert len(parents) == 1
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parents[0].info.run_id]
    assert len(runs) == 1 + len(children)
    return Sweep(home, done.stdout, client, parents[0], children)


def test_two_values_are_two_trials_never_more(sweep: Sweep) -> None:
    assert len(sweep.children) == 2
    assert {run.data.params["trainable"] for run in sweep.children} == {"True", "False"}
    assert [run.info.status for run in sweep.children] == ["FINISHED", "FINISHED"]
    assert sweep.parent.info.status == "FINISHED"


def test_every_metric_is_recorded_for_every_epoch_and_once_a_run(sweep: Sweep) -> None:
    for run in sweep.children:
        for name in EPOCH_METRICS:
            history = sweep.client.get_metric_history(run.info.run_id, name)
            assert [metric.step for metric in history] == [0, 1, 2], name
        for name in RUN_METRICS:
            assert len(sweep.client.get_metric_history(run.info.run_id, name)) == 1, name


def test_the_parent_sums_up(sweep: Sweep) -> None:
    metrics = sweep.parent.data.metrics
    assert (metrics["trials_complete"], metrics["trials_pruned"], metrics["trials_failed"]) == (2, 0, 0)
    assert metrics["best_val_accuracy"] == max(run.data.metrics["best_val_accuracy"] for run in sweep.children)
    assert metrics["sweep_seconds"] > 0


def test_tags_names_and_params_say_what_ran(sweep: Sweep) -> None:
    for run in sweep.children:
        tags = run.data.tags
        assert tags["graft.kind"] == "trial"
        assert tags["graft.sweep"] == sweep.parent.data.tags["graft.sweep"]
        assert tags["graft.attempt"] == "0"
        assert tags["graft.state"] == "complete"
        assert all(tags[f"graft.{name}"] for name in DIGESTS)
        assert tags["graft.unreadable_images"] == "0"
        trainable = run.data.params["trainable"].lower()
        assert tags["graft.overrides"].startswith(f"trainable={trainable} +size=smoke epochs=3 backbone.url=")
        assert {"head_width", "optimizer.name", "dataset.split_seed", "backbone.url"} <= run.data.params.keys()
    assert {run.data.tags["graft.trial"] for run in sweep.children} == {"0", "1"}
    assert sweep.child(trainable=True).info.run_name == "finetune lr=0.001 w=512 d=0"
    frozen, finetuned = sweep.child(trainable=False), sweep.child(trainable=True)
    assert finetuned.data.metrics["trainable_parameters"] > frozen.data.metrics["trainable_parameters"]
    assert frozen.data.tags["graft.dataset_sha256"] == finetuned.data.tags["graft.dataset_sha256"]
    assert frozen.data.tags["graft.config_sha256"] != finetuned.data.tags["graft.config_sha256"]


def test_times_on_stored_features_are_told_from_times_on_images(sweep: Sweep) -> None:
    frozen, finetuned = sweep.child(trainable=False), sweep.child(trainable=True)
    assert (frozen.data.tags["graft.features"], finetuned.data.tags["graft.features"]) == ("cached", "live")
    assert frozen.data.tags["graft.features_engine"] == "tensorflow", "xnnpack does not pay for so few images"
    assert frozen.data.metrics["feature_extraction_seconds"] > 0
    assert finetuned.data.metrics["feature_extraction_seconds"] == 0
    seconds = [m.value for m in sweep.client.get_metric_history(frozen.info.run_id, "epoch_seconds")]
    assert frozen.data.metrics["epoch_seconds_live"] > statistics.median(seconds[1:])
    printed = sweep.compare()
    assert "seconds an epoch on images" in printed
    assert "stored features" in printed


def test_three_inputs_carry_our_digest(sweep: Sweep) -> None:
    run = sweep.child(trainable=False)
    inputs = run.inputs.dataset_inputs
    assert {tag.value for entry in inputs for tag in entry.tags} == {"training", "validation", "test"}
    assert {run.data.tags["graft.dataset_sha256"][:36]} == {entry.dataset.digest for entry in inputs}


@pytest.mark.parametrize("trainable", [False, True])
def test_the_best_checkpoint_restores_to_the_recorded_test_accuracy(
    sweep: Sweep, trainable: bool, make_config: Callable[..., Config], small: list[str], tmp_path: Path
) -> None:
    run = sweep.child(trainable=trainable)
    folder = Path(sweep.client.download_artifacts(run.info.run_id, "checkpoints/best", str(tmp_path)))
    config = make_config(*small[1:], *SMALL[:1], f"trainable={str(trainable).lower()}")
    prepared = prepare(config)
    model, data = prepared.model, prepared.data
    trained = trained_part(model, config)
    checkpoint = tf.train.latest_checkpoint(str(folder))
    assert checkpoint is not None
    tf.train.Checkpoint(model=trained).restore(checkpoint).assert_existing_objects_matched().expect_partial()
    logits = model.predict(data.inputs.take(data.splits.test), verbose=0)
    accuracy = float(np.mean(logits.argmax(axis=1) == data.images.labels[data.splits.test]))
    assert run.data.metrics["test_accuracy"] == pytest.approx(accuracy, abs=1e-6)
    recorded = json.loads(
        Path(sweep.client.download_artifacts(run.info.run_id, "confusion.json", str(tmp_path))).read_text()
    )
    wanted = np.zeros((10, 10), dtype=int)
    np.add.at(wanted, (data.images.labels[data.splits.test], logits.argmax(axis=1)), 1)
    assert recorded == {"class_names": list(data.class_names), "counts": wanted.tolist()}


def test_artifacts_are_there(sweep: Sweep, tmp_path: Path) -> None:
    run_id = sweep.child(trainable=True).info.run_id
    root = Path(sweep.client.download_artifacts(run_id, "", str(tmp_path)))
    resolved = yaml.safe_load((root / "config.yaml").read_text())
    assert resolved["trainable"] is True
    assert resolved["learning_rate"] == 0.001
    assert "trainable=true" in yaml.safe_load((root / "overrides.yaml").read_text())
    assert (root / "plots" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (root / "plots" / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert (root / "checkpoints" / "best" / "checkpoint").is_file()


def test_trials_that_are_over_keep_no_state_in_their_folders(sweep: Sweep) -> None:
    for run in sweep.children:
        folder = Path(run.data.tags["graft.directory"]) / "checkpoints"
        assert {path.name for path in folder.iterdir() if path.is_dir()} == {"best", "closed"}


@pytest.fixture(scope="module")
def ui(sweep: Sweep) -> Iterator[str]:
    """The address of MLflow's pages over the sweep's record."""
    port = free_port()
    with serving(["make", "ui", f"PORT={port}"], sweep.home, port, sweep.home / "ui.log"):
        yield f"http://127.0.0.1:{port}"


def test_the_runs_page_shows_the_trials_under_their_sweep(sweep: Sweep, ui: str, tmp_path: Path) -> None:
    parent, children = sweep.parent.info.run_name, {run.info.run_name for run in sweep.children}
    with chromium(tmp_path) as browser:
        browser.get(f"{ui}/#/experiments/{sweep.parent.info.experiment_id}/runs")
        wait_for(browser, lambda page: rows_of_runs(page, {parent}), "the sweep")
        assert not rows_of_runs(browser, children), "they are shown before the sweep is unfolded"
        wait_for(browser, lambda page: unfolded(page, parent), "the sweep's button")
        shown = wait_for(
            browser,
            lambda page: (
                len(rows := rows_of_runs(page, {parent, *children})) == 3
                and [(name_in(row), row.find_element("css selector", "a").location["x"]) for row in rows]
            ),
            "its trials",
        )
        assert shown[0][0] == parent
        indents = [indent for _, indent in shown]
        assert indents[0] <= indents[1] == indents[2]


def rows_of_runs(browser: Browser, names: set[str]) -> list[WebElement]:
    """The cells with these runs' names, from the top of the page down."""
    cells = browser.find_elements("css selector", "[role=gridcell][col-id='attributes.`Run Name`']")
    return sorted((cell for cell in cells if name_in(cell) in names), key=lambda cell: cell.location["y"])


def unfolded(browser: Browser, name: str) -> bool:
    """Whether the run's trials were unfolded by a click, in a page that may draw itself anew at any moment."""
    for row in rows_of_runs(browser, {name}):
        row.find_element("css selector", "button").click()
        return True
    return False


def name_in(cell: WebElement) -> str:
    return cell.find_element("css selector", "a").text


def test_the_page_that_compare_names_has_both_curves_in_one_chart(sweep: Sweep, ui: str, tmp_path: Path) -> None:
    (page,) = re.findall(r"make ui, then http://127.0.0.1:5000(/\S+)", sweep.compare())
    with chromium(tmp_path) as browser:
        browser.get(ui + page)
        drawn = wait_for(browser, lambda page: len(found := curves(page)) == 2 and found, "two curves")
    assert drawn == {
        run.info.run_name: [m.value for m in sweep.client.get_metric_history(run.info.run_id, "val_accuracy")]
        for run in sweep.children
    }


def test_the_links_of_the_report_open(sweep: Sweep, ui: str, tmp_path: Path) -> None:
    (report,) = re.findall(r"^Report +(/\S+)", sweep.compare(), re.MULTILINE)
    with chromium(tmp_path) as browser:
        browser.get(Path(report).as_uri())
        links = {link.text: link.get_attribute("href") for link in browser.find_elements("css selector", "a")}
        opened = {text: str(link).replace("http://127.0.0.1:5000", ui) for text, link in links.items()}
        for run in sweep.children:
            browser.get(opened.pop(run.data.tags["graft.trial"]))
            for shown in (run.info.run_name, run.info.run_id):
                wait_for(browser, lambda page, shown=shown: shown in text_of(page), f"{shown} on the trial's page")
        (page,) = opened.values()
        browser.get(page)
        assert wait_for(browser, lambda page: len(found := curves(page)) == 2 and found, "two curves")


def curves(browser: Browser) -> dict[str, list[float]]:
    """What is drawn in the page's only chart, by the runs' names, as Plotly keeps it."""
    return dict(
        browser.execute_script(
            "const charts = document.querySelectorAll('.js-plotly-plot');"
            "return charts.length == 1 ? charts[0].data.map(line => [line.name, Array.from(line.y)]) : []"
        )
    )


def test_tensorboard_events_lie_in_the_trials_folder(sweep: Sweep) -> None:
    events = list((sweep.home / "mlruns" / "sweeps").rglob("events.out.tfevents.*"))
    assert {event.parent.name for event in events} == {"train", "validation"}
    assert len(events) == 4


def test_runs_and_models_are_found_by_what_they_are(sweep: Sweep) -> None:
    experiment = [sweep.parent.info.experiment_id]
    finetuned = sweep.child(trainable=True)
    reached = finetuned.data.metrics["best_val_accuracy"]
    condition = "params.trainable = 'True' and metrics.best_val_accuracy > {}"
    for query, expected in ((condition.format(reached - 1e-6), [finetuned]), (condition.format(reached), [])):
        found = sweep.client.search_runs(experiment, f"{query} and tags.`graft.kind` = 'trial'")
        assert [run.info.run_id for run in found] == [run.info.run_id for run in expected]
    best = max(sweep.children, key=lambda run: run.data.metrics["best_val_accuracy"])
    accuracy = best.data.metrics["best_val_accuracy"]
    (model,) = sweep.client.search_logged_models(experiment)
    for name in ("val_accuracy", "best_val_accuracy"):
        for least, count in ((accuracy - 1e-6, 1), (accuracy, 0)):
            query = f"metrics.{name} > {least} and params.trainable = '{best.data.params['trainable']}'"
            assert len(sweep.client.search_logged_models(experiment, query)) == count
    assert model.source_run_id == best.info.run_id
    assert model.tags["graft.sweep"] == sweep.parent.data.tags["graft.sweep"]
    tags = [sweep.client.get_run(run.info.run_id).data.tags.get("graft.model") for run in (best, sweep.parent)]
    assert tags == [model.model_id, model.model_id]
    assert f"models:/{model.model_id}" in sweep.output
    for run in sweep.children:
        outputs = run.outputs.model_outputs if run.outputs else []
        assert [output.model_id for output in outputs] == ([model.model_id] if run == best else [])


def test_graft_compare_prints_the_recorded_numbers(sweep: Sweep) -> None:
    frozen, finetuned = sweep.child(trainable=False), sweep.child(trainable=True)
    printed = sweep.compare()
    for run in (frozen, finetuned):
        assert f"{run.data.metrics['best_val_accuracy']:.4f}" in printed
        assert f"{run.data.metrics['test_accuracy']:.4f}" in printed
        assert f"{int(run.data.metrics['trainable_parameters']):,}" in printed
        assert run.info.run_id in printed
    assert "checkpoints/best" in printed
    assert "make ui" in printed


def test_the_sweep_leaves_a_report_and_says_where(sweep: Sweep) -> None:
    (told,) = (line for line in sweep.output.splitlines() if line.startswith("Report: "))
    page = Path(told.removeprefix("Report: "))
    assert page == Path(sweep.parent.data.tags["graft.directory"]) / "report" / "report.html"
    text = page.read_text()
    best = max(sweep.children, key=lambda run: run.data.metrics["best_val_accuracy"])
    assert f"rerun {best.info.run_id} --verify" in text.replace("</span> <span>", " ")
    for run in sweep.children:
        assert f"{run.data.metrics['test_accuracy']:.4f}" in text
        assert f"/runs/{run.info.run_id}" in text
    assert {"report.html", "plots"} <= {each.path for each in sweep.client.list_artifacts(sweep.parent.info.run_id)}
    assert f"Report     {page}" in sweep.compare()


def test_the_command_that_compare_gives_proves_the_best_trial(sweep: Sweep) -> None:
    again = next(line for line in sweep.compare().splitlines() if line.startswith("Again"))
    words = shlex.split(again.removeprefix("Again"))
    done = run_command(["graft", *words[1:]], sweep.home)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Exact: all " in done.stdout
    best = max(sweep.children, key=lambda run: run.data.metrics["best_val_accuracy"])
    assert sweep.client.get_run(best.info.run_id).data.tags["graft.verified"] == "exact"


def test_a_sweep_as_a_whole_is_run_again(sweep: Sweep) -> None:
    done = run_command(["graft", "rerun", sweep.parent.data.tags["graft.sweep"], "--verify"], sweep.home)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 2 trials are exact" in done.stdout
    (parent,) = (
        run
        for run in sweep.client.search_runs([sweep.parent.info.experiment_id])
        if run.data.tags.get("graft.rerun_of") == sweep.parent.info.run_id
    )
    assert (parent.info.status, parent.data.tags["graft.verified"]) == ("FINISHED", "exact")
    children = [
        run.data.tags["graft.rerun_of"]
        for run in sweep.client.search_runs([sweep.parent.info.experiment_id])
        if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id
    ]
    assert sorted(children) == sorted(run.info.run_id for run in sweep.children)


def test_graft_compare_finds_a_sweep_by_name_and_by_parent_run(sweep: Sweep) -> None:
    latest = json.loads(sweep.compare("--json"))
    by_name = json.loads(sweep.compare(sweep.parent.data.tags["graft.sweep"], "--json"))
    by_id = json.loads(sweep.compare(sweep.parent.info.run_id, "--json"))
    assert latest == by_name == by_id
    assert [side["kind"] for side in latest["sides"]] == ["frozen", "fine-tuned"]
    frozen, finetuned = latest["sides"]
    assert latest["slow_down"] == pytest.approx(finetuned["epoch_seconds_live"] / frozen["epoch_seconds_live"])


def test_an_unknown_sweep_is_named_with_the_latest_ones(sweep: Sweep) -> None:
    done = run_command(["graft", "compare", "nothing"], sweep.home)
    assert done.returncode == 2
    assert sweep.parent.data.tags["graft.sweep"] in done.stderr
    assert "Traceback" not in done.stderr


def test_a_store_that_cannot_be_read_is_named_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "mlruns").mkdir()
    (tmp_path / "mlruns" / "mlflow.db").write_text("this is no database, however long one looks at it" * 99)
    for arguments in ([], ["--tracking-uri", "file:///tmp/x"]):
        done = run_command(["graft", "compare", *arguments], tmp_path)
        assert done.returncode in (1, 2)
        assert "tracking" in done.stderr
        assert "Traceback" not in done.stderr


def test_without_a_record_compare_says_how_to_make_one(tmp_path: Path) -> None:
    done = run_command(["graft", "compare"], tmp_path)
    assert done.returncode == 1
    assert "python train.py" in done.stderr
    assert not (tmp_path / "mlruns").exists()


def test_a_second_sweep_is_a_new_one_and_a_failing_trial_does_not_end_it(sweep: Sweep, small: list[str]) -> None:
    # Diverges: the loss overflows within the first epoch.
    arguments = ["-m", "trainable=false", "optimizer=sgd", "learning_rate=1e30,0.01", *small]
    done = run_command(["python", str(CHECKOUT / "train.py"), *arguments], sweep.home)
    assert done.returncode == 1, done.stderr
    assert "diverged" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    seen = json.loads(sweep.compare("--json"))
    assert seen["sweep"] != sweep.parent.data.tags["graft.sweep"]
    failed, complete = seen["trials"]
    assert (failed["state"], failed["failure"]) == ("failed", "diverged")
    assert complete["state"] == "complete"
    assert sweep.client.get_run(failed["run_id"]).info.status == "FAILED"
    parent = sweep.client.get_run(seen["parent_run_id"])
    assert (parent.data.metrics["trials_complete"], parent.data.metrics["trials_failed"]) == (1, 1)


@pytest.mark.parametrize("fails", ["interrupted", "IsADirectoryError"])
def test_a_sweep_whose_best_model_cannot_be_logged_is_complete_and_says_how_to_log_it(
    small: list[str], tmp_path: Path, fails: str
) -> None:
    lock = tmp_path / "mlruns/log-model.lock"
    lock.parent.mkdir()
    words = ["python", "train.py", "-m", "trainable=false", *small, "tracking.log_model=true"]
    if fails == "interrupted":
        with FileLock(lock):  # so that it waits
            done = interrupt(words, tmp_path, at="Logging the model of the best trial")
    else:
        lock.mkdir()
        done = run_command(words, tmp_path)
        lock.rmdir()
    assert done.returncode == 0, done.stdout + done.stderr
    assert fails in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    command = re.search(r"To log it: (\S*graft log-model \w+)", done.stdout + done.stderr)
    assert command is not None
    client = MlflowClient(f"sqlite:///{tmp_path}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name("graft")
    assert experiment is not None
    (parent,) = client.search_runs([experiment.experiment_id], "tags.`graft.kind` = 'sweep'")
    assert (parent.info.status, "graft.model" in parent.data.tags) == ("FINISHED", False)
    if fails == "interrupted":
        return
    done = run_command(shlex.split(command.group(1)), tmp_path)
    assert done.returncode == 0, done.stderr
    (model,) = client.search_logged_models([experiment.experiment_id])
    assert client.get_run(parent.info.run_id).data.tags["graft.model"] == model.model_id


def interrupt(words: list[str], home: Path, at: str) -> subprocess.CompletedProcess[str]:
    """Runs a command, and presses Ctrl-C as soon as it prints `at`."""
    env = {**os.environ, "GRAFT_HOME": str(home), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    process = subprocess.Popen(
        words,
        cwd=CHECKOUT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A shell starts what it puts into the background, the tests' own run perhaps, with Ctrl-C ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None
    printed = ""
    with process:
        for line in process.stdout:
            printed += line
            if at in line:
                process.send_signal(signal.SIGINT)
    return subprocess.CompletedProcess(words, process.wait(), printed, "")


def test_a_cell_that_cannot_run_stops_the_sweep_before_it_starts(sweep: Sweep, small: list[str]) -> None:
    before = json.loads(sweep.compare("--json"))["sweep"]
    arguments = ["-m", "head_width=8,0", "dropout_rate=0,0.5", *small]
    done = run_command(["python", str(CHECKOUT / "train.py"), *arguments], sweep.home)
    assert done.returncode == 2
    assert "dropout_rate=0.5" in done.stderr
    assert "head_width=0" in done.stderr
    assert json.loads(sweep.compare("--json"))["sweep"] == before


def test_an_objective_that_no_run_has_is_refused(sweep: Sweep, small: list[str]) -> None:
    arguments = ["-m", "seed=0,1", "hydra.sweeper.objective=best_val_acuracy", *small]
    done = run_command(["python", str(CHECKOUT / "train.py"), *arguments], sweep.home)
    assert done.returncode == 2
    assert "did you mean best_val_accuracy?" in done.stderr


def test_a_single_run_has_no_parent_and_the_same_curve_as_the_trial(sweep: Sweep, small: list[str]) -> None:
    done = run_command(["python", str(CHECKOUT / "train.py"), "trainable=false", *small], sweep.home)
    assert done.returncode == 0, done.stderr
    assert "epoch 3/3" in done.stdout
    run = sweep.client.search_runs([sweep.parent.info.experiment_id], "tags.`graft.kind` = 'single'")[0]
    assert "mlflow.parentRunId" not in run.data.tags
    trial = sweep.child(trainable=False)
    for name in ("train_loss", "val_loss", "train_accuracy", "val_accuracy"):
        curves = [
            [metric.value for metric in sweep.client.get_metric_history(one.info.run_id, name)] for one in (run, trial)
        ]
        assert curves[0] == curves[1], name  # bit-identical, in a process of its own
    assert run.data.metrics["feature_extraction_seconds"] == 0  # the sweep has extracted them
    assert "graft.model" not in run.data.tags, "+size=smoke sets tracking.log_model=false"


def test_the_model_of_a_trial_that_turns_out_best_is_logged_too_and_the_sweep_names_it(sweep: Sweep) -> None:
    client, parent = sweep.client, sweep.parent.info.run_id
    models = client.search_logged_models([sweep.parent.info.experiment_id])
    logged = {model.source_run_id: model.model_id for model in models}
    (other,) = (run for run in sweep.children if run.info.run_id not in logged)
    done = run_command(["graft", "log-model", other.info.run_id], sweep.home)
    assert done.returncode == 0, done.stderr
    assert client.get_run(parent).data.tags["graft.model"] in logged.values(), "another trial is best"
    client.set_tag(parent, "graft.best_trial", other.data.tags["graft.trial"])
    done = run_command(["graft", "log-model", other.info.run_id], sweep.home)
    assert f"models:/{client.get_run(parent).data.tags['graft.model']}\n" in done.stdout
    assert client.get_run(parent).data.tags["graft.model"] not in logged.values()
    assert len(client.search_logged_models([sweep.parent.info.experiment_id])) == 2
