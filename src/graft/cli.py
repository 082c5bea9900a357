"""The `graft` command: what is done with runs once they are recorded."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError

from graft.again import graft_command, serve_command
from graft.backbones import listing
from graft.cache import manage, sizes, tables
from graft.cluster import servers
from graft.config import EXPERIMENT, STORE, TrackingConfig
from graft.console import PlainConsole
from graft.disk import refusal_of, unwritable_of
from graft.errors import STATUS_DIVERGED_RERUN, STATUS_FAILED, STATUS_INTERRUPTED, ConfigError, GraftError
from graft.leaving import leaving_at_once
from graft.output import keep_output_going
from graft.plain_json import plain_json
from graft.printable import printable
from graft.secrets import Secrets

if TYPE_CHECKING:
    from graft.export.trained import TrainedModel

WIDTH = 160  # characters, where nothing says how many there are

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
cache_app = typer.Typer(no_args_is_help=True)
app.add_typer(cache_app, name="cache")
cluster_app = typer.Typer(no_args_is_help=True)
app.add_typer(cluster_app, name="cluster")

TrackingUri = Annotated[str, typer.Option(help="MLflow tracking URI; a relative SQLite path starts at the checkout.")]
Experiment = Annotated[str, typer.Option(help="Name of the MLflow experiment.")]
RunId = Annotated[str, typer.Argument(help="Id of a run, or its first characters, 6 at least.")]
Sweep = Annotated[str | None, typer.Argument(help="Study name or parent run id; the latest sweep if left out.")]
Port = Annotated[
    int | None,
    typer.Option(min=1, max=65535, help="Port of 127.0.0.1: 5442 for PostgreSQL, 5000 for MLflow if left out."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON in place of tables.")]


@app.callback()
def graft() -> None:
    """Transfer learning on images: compare what `python train.py` recorded, manage what it keeps, check both."""


@app.command()
def compare(
    sweep: Sweep = None,
    by: Annotated[
        str | None, typer.Option(metavar="KEY", help="A key that the sweep varied: one row for each of its values.")
    ] = None,
    tracking_uri: TrackingUri = STORE,
    experiment: Experiment = EXPERIMENT,
    as_json: AsJson = False,
) -> None:
    """Compare the trials of a sweep: transfer against fine-tuning, accuracy against time."""
    from graft import comparison  # late: MLflow takes seconds to import, and --help needs none of it
    from graft.comparison import by_key as table

    tracking = _tracking(tracking_uri, experiment)
    if sweep is None:
        _tell_latest_elsewhere(tracking)
    found = comparison.compare(tracking, sweep)
    if by is not None:
        compared = table.by_key(found, by)
        if as_json:
            print(plain_json(table.as_json(compared)))
        else:
            table.show(compared, _console())
    elif as_json:
        print(plain_json(comparison.as_json(found)))
    else:
        comparison.show(found, _console())


@app.command()
def report(
    sweep: Sweep = None,
    output: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder for the page; the sweep's own if left out.")
    ] = None,
    tracking_uri: TrackingUri = STORE,
    experiment: Experiment = EXPERIMENT,
    as_json: AsJson = False,
) -> None:
    """Write a page about a sweep: which is better, by how much, how sure, at what cost. --json prints its numbers."""
    from graft.report import written as reporting  # late, as above

    written = reporting.write(_tracking(tracking_uri, experiment), sweep, output)
    if as_json:
        print(plain_json(reporting.as_json(written)))
    else:
        print(f"Report: {written.page}")


@app.command()
def rerun(
    run: Annotated[
        str,
        typer.Argument(help="Id of a run, or its first characters, 6 at least; or name of a sweep: all its trials."),
    ],
    verify: Annotated[
        bool, typer.Option("--verify", help="Extract features anew; status 3 if any recorded number differs.")
    ] = False,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key; any number of times.")
    ] = None,
    tracking_uri: TrackingUri = STORE,
    experiment: Experiment = EXPERIMENT,
    as_json: AsJson = False,
) -> None:
    """Run a recorded run again, name what has changed since, and compare the two number by number."""
    from graft.rerun import rerun as run_again  # late, as above
    from graft.rerun import telling

    tracking = _tracking(tracking_uri, experiment)
    logging.basicConfig(level=logging.INFO, format="[%(name)s] %(message)s", stream=sys.stderr)
    console = PlainConsole(stderr=as_json)
    done = run_again(tracking, run, assignments or [], verify=verify, teller=telling.Teller(console))
    if as_json:
        print(plain_json(telling.as_json(done)))
    elif len(done) > 1:
        console.print(telling.summary(done))
    if any(each.verified == "diverged" for each in done):
        raise typer.Exit(STATUS_DIVERGED_RERUN)
    if any(each.failure for each in done):
        raise typer.Exit(STATUS_FAILED)


@app.command()
def predict(
    run: RunId,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE…", help="Image files: JPEG, PNG, GIF, BMP or WebP.")],
    tracking_uri: TrackingUri = STORE,
    experiment: Experiment = EXPERIMENT,
    as_json: AsJson = False,
) -> None:
    """Name the classes of images, with the best checkpoint of a recorded run."""
    from graft.prediction import predict as prediction  # late, as above

    prediction.check(images)
    trained = _trained(tracking_uri, experiment, run)
    predictions = prediction.predict(trained, images)
    if as_json:
        print(plain_json(prediction.as_json(predictions)))
    else:
        prediction.show(predictions, _console())


@app.command()
def export(
    run: RunId,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to; nothing may be there yet.")],
    tflite: Annotated[bool, typer.Option("--tflite", help="A model.tflite, too.")] = False,
    tracking_uri: TrackingUri = STORE,
    experiment: Experiment = EXPERIMENT,
) -> None:
    """Write the model of a recorded run as a SavedModel that takes images as they are and needs no Graft."""
    from graft.export import folder as exporting  # late, as above
    from graft.recording import CLASSES

    exporting.check(folder)
    trained = _trained(tracking_uri, experiment, run)
    exporting.export(trained, folder, tflite=tflite)
    print(f"{trained.name}: {folder}, {len(trained.class_names)} classes in {folder / CLASSES}")
    if tflite:
        size = trained.image_size
        print(f"For TFLite: {folder / exporting.TFLITE}, of images of {size} x {size} pixels")


@app.command("log-model")
def log_model(run: RunId, tracking_uri: TrackingUri = STORE, experiment: Experiment = EXPERIMENT) -> None:
    """Log the model of a recorded run in MLflow, which can then serve it; done by itself for a sweep's best trial."""
    from graft.export import logged  # late, as above
    from graft.prediction import trained_model

    tracking = _tracking(tracking_uri, experiment)
    store, recorded = trained_model.find(tracking, run)
    model_id = logged.log_model(store, recorded.id, lambda: trained_model.of_run(store, recorded, tracking))
    print(f"{recorded.name}: models:/{model_id}")
    print(f"To serve it: {serve_command(model_id, tracking)}")


@app.command()
def sync(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="FOLDER…", help="Folders of runs and sweeps; all if left out.")
    ] = None,
    tracking_uri: Annotated[
        str | None, typer.Option(help="Where to, in place of where the runs were meant to be recorded.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Send what MLflow did not get of runs and sweeps, because its server was gone. Status 1 if some still waits."""
    from graft.tracking import local_record
    from graft.tracking import sync as sending  # late, as above

    waiting = local_record.waiting_records(folders or [])
    sent = sending.sync(waiting, tracking_uri)
    if as_json:
        done = list(sent)
        print(plain_json(sending.as_json(done)))
    else:
        done = sending.show(sent, _console())
    if any(each.waiting for each in done):
        raise typer.Exit(STATUS_FAILED)


def _trained(tracking_uri: str, experiment: str, run: str) -> TrainedModel:
    from graft.prediction import trained_model  # late, as above

    return trained_model.load(_tracking(tracking_uri, experiment), run)


def _tell_latest_elsewhere(tracking: TrackingConfig) -> None:
    """Says so where the sweep that was recorded last on this machine is not in the store that is looked into."""
    from graft.tracking import local_record

    latest = local_record.latest_sweep()
    if latest is not None and latest[1] != tracking.uri:
        name, uri = latest
        command = graft_command("compare", name, "--tracking-uri", uri)
        print(f"The latest sweep on this machine was recorded elsewhere: {command}\n", file=sys.stderr)


@app.command()
def doctor(
    tracking_uri: TrackingUri = STORE,
    experiment: Experiment = EXPERIMENT,
    close_dead: Annotated[
        bool,
        typer.Option("--close-dead", help="Mark runs whose process died as interrupted; they can still go on."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check the installation and what was recorded; every problem comes with its remedy. Status 1 if there is one.

    Nothing is changed, but with --close-dead.
    """
    from graft.doctor import report
    from graft.doctor.examination import examine

    checks = examine(_tracking(tracking_uri, experiment), close_dead=close_dead)
    if as_json:
        found = list(checks)
        print(plain_json(report.as_json(found)))
    else:
        found = report.show(checks, _console())
    if report.has_problem(found):
        raise typer.Exit(STATUS_FAILED)


@app.command()
def datasets(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME|PATH", help="An option of dataset=, a folder, or a name of TFDS; none lists them."
        ),
    ] = None,
    data_dir: Annotated[str | None, typer.Option(help="Folder of prepared data sets of TFDS.")] = None,
    download: Annotated[bool, typer.Option("--download", help="Download what is not there.")] = False,
    plot: Annotated[str | None, typer.Option(metavar="FILE", help="Write a contact sheet, such as sheet.png.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what is in a data set: classes, counts, sizes, unreadable images and copies."""
    from graft import datasets as found  # late: Hydra takes half a second

    if target is None:
        if plot is not None:
            raise ConfigError(f"--plot={plot}: of which data set? graft datasets NAME|PATH --plot {plot}")
        told = found.options()
        print(plain_json(told)) if as_json else found.show_options(told, _console())
        return
    if plot is not None:
        found.check_plot(plot)
    config, images = found.find(target, data_dir, download=download)
    summary = found.summarise(images)
    if as_json:
        print(plain_json(found.as_json(config, summary)))
    else:
        found.show(config, summary, _console())
    if plot is not None:
        print(f"Contact sheet: {found.plot(images, plot, config.name)}", file=sys.stderr if as_json else sys.stdout)


@app.command()
def backbones(
    target: Annotated[
        str | None,
        typer.Argument(metavar="NAME|URL", help="One to look at, and its digest; all with a name if left out."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the backbones that have a name, what is known of each, and whether it is on this machine.

    One that is named is downloaded, if it has to be, and looked at, not loaded: its digest pins it.
    """
    if target is not None:
        option = listing.look_up(target)
        if as_json:
            print(plain_json(listing.as_json([option])))
        else:
            listing.show_one(option, _console())
        return
    listed = listing.options()
    if as_json:
        print(plain_json(listing.as_json(listed)))
    else:
        listing.show(listed, _console())


@cache_app.callback()
def cache() -> None:
    """See and remove what is kept so that it is not made again: pixels, features, backbones.

    Nothing is lost with any of it but the time to make it, or to download it, again.
    """


@cache_app.command("ls")
def cache_ls(as_json: AsJson = False) -> None:
    """List what is kept, what was used last first."""
    listed = manage.entries()
    if as_json:
        print(plain_json(tables.as_json(listed)))
    else:
        tables.show(listed, _console())


@cache_app.command("rm")
def cache_rm(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="ID…", help="Ids of `graft cache ls`, or kinds such as features.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove everything.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove entries; they are made again when they are wanted. Status 1 if one is in use and stays."""
    done = manage.remove(manage.choose(names or [], everything))
    _end(done, as_json, failed=bool(done.skipped))


@cache_app.command("prune")
def cache_prune(
    max_size: Annotated[str, typer.Option(help="How much may stay, such as 500MB or 2GB.")],
    as_json: AsJson = False,
) -> None:
    """Remove what was not used the longest until the rest fits. Status 1 if what is in use does not fit."""
    limit = sizes.parse_size(max_size, "--max-size")
    done = manage.prune(limit)
    _end(done, as_json, failed=done.left > limit)


@cluster_app.callback()
def cluster() -> None:
    """PostgreSQL and an MLflow server on this machine, for sweeps of many workers; all in `mlruns/cluster`."""


@cluster_app.command("up")
def cluster_up(postgres_port: Port = None, mlflow_port: Port = None) -> None:
    """Start what does not run of the two, and print how a sweep uses them."""
    servers.up(postgres_port, mlflow_port)


@cluster_app.command("down")
def cluster_down() -> None:
    """Stop both; their data stays."""
    servers.down()


def _end(done: manage.Removal, as_json: bool, *, failed: bool) -> None:
    if as_json:
        print(plain_json(tables.removal_as_json(done)))
    else:
        tables.show_removal(done, _console())
    if failed:
        raise typer.Exit(STATUS_FAILED)


def _console() -> PlainConsole:
    """For tables. What is no terminal has no width that they would have to keep to."""
    return PlainConsole() if sys.stdout.isatty() or "COLUMNS" in os.environ else PlainConsole(width=WIDTH)


def _tracking(uri: str, experiment: str) -> TrackingConfig:
    try:
        return TrackingConfig(uri=uri, artifacts=None, experiment=experiment)
    except ValidationError as error:
        options = {"uri": "--tracking-uri", "experiment": "--experiment"}
        with Secrets().out_of_errors():
            raise ConfigError(
                [
                    f"{options[str(problem['loc'][0])]}={problem['input']}: "
                    f"{problem['msg'].removeprefix('Value error, ')}"
                    for problem in error.errors()
                ]
            ) from None


def main() -> None:
    """Entry point of the console script: an error of ours ends it with its status and no traceback."""
    keep_output_going()
    with leaving_at_once():
        try:
            app()
        except GraftError as error:
            print(printable(str(error)), file=sys.stderr)
            raise SystemExit(error.status) from None
        except OSError as error:
            if (told := unwritable_of(error) or refusal_of(error)) is None:
                raise
            print(printable(str(told)), file=sys.stderr)
            raise SystemExit(told.status) from None
        except KeyboardInterrupt:
            print("Interrupted", file=sys.stderr)
            raise SystemExit(STATUS_INTERRUPTED) from None


if __name__ == "__main__":
    main()
