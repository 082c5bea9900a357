"""Sweeps as MLflow has them, written by hand, and the commands that read them, in this process."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import pytest
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param
from mlflow.tracking import MlflowClient
from typer.testing import CliRunner, Result

from graft import cli
from graft.config import TrackingConfig
from graft.tracking.mlflow_store import Store, open_store

PARAMS = {
    "backbone.name": "efficientnet_lite0",
    "dataset.name": "digits",
    "default_learning_rates.frozen": "0.001",
    "default_learning_rates.finetuned": "1e-05",
    "head_width": "512",
    "dropout_rate": "0.0",
    "epochs": "2",
    "init_head": "random",
}


@dataclass(frozen=True)
class Trial:
    """What a trial left in the record."""

    trainable: bool
    seed: int = 0
    test: float | None = 0.9
    val: float | None = 0.9
    params: dict[str, object] = field(default_factory=dict)
    state: str = "complete"
    failure: str | None = None
    name: str = ""
    confusion: dict[str, object] | None = None
    overrides: str = ""
    curve: Sequence[float] = ()
    once: dict[str, float] = field(default_factory=dict)

    def recorded_params(self) -> dict[str, str]:
        if self.failure == "ConfigError":  # it failed before it could say anything
            return {}
        rate = PARAMS[f"default_learning_rates.{'finetuned' if self.trainable else 'frozen'}"]
        own = {"trainable": str(self.trainable), "seed": str(self.seed), "learning_rate": rate}
        return {**PARAMS, **own, **{key: str(value) for key, value in self.params.items()}}

    def metrics(self) -> list[Metric]:
        now = int(time.time() * 1000)
        metrics = []
        if self.val is not None:
            for step, value in enumerate(self.curve or (0.5 * self.val, self.val)):
                by_epoch = {
                    "train_accuracy": min(1.0, value + 0.02),
                    "val_accuracy": value,
                    "epoch_seconds": 6.0 if self.trainable else 0.1,
                }
                metrics += [Metric(name, value, now, step) for name, value in by_epoch.items()]
        if self.state == "complete":
            once = {
                "best_val_accuracy": self.val,
                "test_accuracy": self.test,
                "overfit_gap": 0.02,
                "epoch_seconds_live": 6.0 if self.trainable else 2.0,
                "trainable_parameters": 4_000_000 if self.trainable else 600_000,
                "total_seconds": 70.0 if self.trainable else 5.0,
                **self.once,
            }
            metrics += [Metric(name, value, now, 0) for name, value in once.items() if value is not None]
        return metrics


LOADING = ("src", "href", "xlink:href", "data", "poster", "srcset")


class Page(HTMLParser):
    """A page, taken apart: its text, its rows of tables, its links, and everything that it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[str] = []
        self.links: dict[str, str] = {}
        self.loads: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.figures: list[str] = []
        self.codes: list[str] = []
        self._in_code = False
        self._table: str | None = None
        self._link: str | None = None
        self._in_cell = False
        self._silent = 0
        self.source = text
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = {key: value or "" for key, value in attrs}
        self._silent += tag == "style"
        if tag == "a":
            self._link = given["href"]
            self.links[given["href"]] = ""
        else:
            self.loads += [given[key] for key in LOADING if key in given]
        if tag == "table":
            self._table = given["id"]
            self.tables[self._table] = []
        elif tag == "tr" and self._table:
            self.tables[self._table].append([])
        elif tag in ("td", "th") and self._table:
            self.tables[self._table][-1].append("")
            self._in_cell = True
        elif tag == "code":
            self.codes.append("")
            self._in_code = True
        elif tag == "figure":
            self.figures.append(given["id"].removeprefix("figure-"))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False
        self._silent -= tag == "style"
        if tag == "code":
            self._in_code = False
        if tag == "table":
            self._table = None
        elif tag == "a":
            self._link = None

    def handle_data(self, data: str) -> None:
        if self._silent:
            return
        self.text += data
        if self._in_code:
            self.codes[-1] += data
        if self._table and self._in_cell:
            self.tables[self._table][-1][-1] += data
        if self._link is not None:
            self.links[self._link] += data


@dataclass(frozen=True)
class Sweep:
    """A sweep in an experiment of its own, and what the commands say of it."""

    store: Store
    experiment: str
    name: str
    parent: str
    runs: tuple[str, ...]
    folder: Path

    def graft(self, command: str, *arguments: str) -> Result:
        return CliRunner().invoke(cli.app, [command, *arguments, "--experiment", self.experiment])

    def report(self, *arguments: str) -> Page:
        result = self.graft("report", *arguments)
        assert result.exception is None, result.output
        return Page(Path(result.stdout.strip().removeprefix("Report: ")).read_text())

    def numbers(self) -> dict[str, object]:
        result = self.graft("report", "--json")
        assert result.exception is None, result.output
        return dict(json.loads(result.stdout))


class Records:
    """One database for the tests of a session: making one takes longer than most of them."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._made = 0

    def sweep(
        self, trials: Sequence[Trial], *, name: str | None = None, test_images: int = 200, folder: bool = True
    ) -> Sweep:
        self._made += 1
        experiment = f"experiment-{self._made}"
        name = name or f"sweep-{self._made}"
        uri = f"sqlite:///{self.home}/mlruns/mlflow.db"
        artifacts = f"{self.home}/mlruns/artifacts"
        store = open_store(TrackingConfig(uri=uri, artifacts=artifacts, experiment=experiment))
        directory = self.home / "mlruns" / "sweeps" / str(self._made)
        if folder:
            directory.mkdir(parents=True)
        tags = {"graft.kind": "sweep", "graft.sweep": name, "graft.directory": str(directory)}
        parent = store.begin("a sweep", tags)
        runs = [self._trial(store, trial, number, name, parent, test_images) for number, trial in enumerate(trials)]
        return Sweep(store, experiment, name, parent, tuple(runs), directory)

    def _trial(self, store: Store, trial: Trial, number: int, sweep: str, parent: str, test_images: int) -> str:
        client: MlflowClient = store.client
        tags = {
            "graft.kind": "trial",
            "graft.sweep": sweep,
            "graft.trial": str(number),
            "graft.state": trial.state,
            "graft.features": "live" if trial.trainable else "cached",
            "graft.overrides": trial.overrides,
            "mlflow.parentRunId": parent,
            **({"graft.failure": trial.failure} if trial.failure else {}),
        }
        run = client.create_run(store.experiment_id, tags=tags, run_name=trial.name or f"trial {number}").info.run_id
        params = [Param(key, value) for key, value in trial.recorded_params().items()]
        client.log_batch(run, metrics=trial.metrics(), params=params)
        inputs = [
            DatasetInput(
                Dataset(f"digits-{context}", "0" * 36, "local", "digits", profile=f'{{"images": {images}}}'),
                [InputTag("mlflow.data.context", context)],
            )
            for context, images in (("training", 2 * test_images), ("test", test_images))
        ]
        client.log_inputs(run, inputs)
        if trial.confusion:
            client.log_dict(run, trial.confusion, "confusion.json")
        client.set_terminated(run, "FAILED" if trial.state == "failed" else "FINISHED")
        return str(run)


@pytest.fixture(scope="session")
def records(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Records]:
    home = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("GRAFT_HOME", str(home))
        yield Records(home)


def seeds(differences: Sequence[float], frozen: float = 0.9, **params: object) -> list[Trial]:
    """A pair a seed, with these differences of test accuracy."""
    return [
        Trial(trainable, seed, test=frozen + (difference if trainable else 0.0), params=dict(params))
        for seed, difference in enumerate(differences)
        for trainable in (True, False)
    ]
