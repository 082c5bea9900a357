"""The `graft` command: what is done with runs once they are recorded."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console

from graft.config import TrackingConfig
from graft.errors import ConfigError, GraftError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

TrackingUri = Annotated[str, typer.Option(help="MLflow tracking URI; a relative SQLite path starts at the checkout.")]
Experiment = Annotated[str, typer.Option(help="Name of the MLflow experiment.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON in place of tables.")]


@app.callback()
def graft() -> None:
    """Transfer learning on images: compare what `python train.py` recorded."""


@app.command()
def compare(
    sweep: Annotated[
        str | None, typer.Argument(help="Study name or parent run id; the latest sweep if left out.")
    ] = None,
    tracking_uri: TrackingUri = "sqlite:///mlruns/mlflow.db",
    experiment: Experiment = "graft",
    as_json: AsJson = False,
) -> None:
    """Compare the trials of a sweep: transfer against fine-tuning, accuracy against time."""
    from graft import comparison  # late: MLflow takes seconds to import, and --help needs none of it

    tracking = _tracking(tracking_uri, experiment)
    found = comparison.compare(tracking, sweep)
    if as_json:
        print(json.dumps(comparison.as_json(found), indent=2))
    else:
        comparison.show(found, Console())


def _tracking(uri: str, experiment: str) -> TrackingConfig:
    try:
        return TrackingConfig(uri=uri, artifacts=None, experiment=experiment)
    except ValidationError as error:
        options = {"uri": "--tracking-uri", "experiment": "--experiment"}
        raise ConfigError(
            [
                f"{options[str(problem['loc'][0])]}={problem['input']}: {problem['msg'].removeprefix('Value error, ')}"
                for problem in error.errors()
            ]
        ) from None


def main() -> None:
    """Entry point of the console script: an error of ours ends it with its status and no traceback."""
    try:
        app()
    except GraftError as error:
        print(error, file=sys.stderr)
        raise SystemExit(error.status) from None
