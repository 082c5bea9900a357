"""Writing the report: beside the sweep's other files, and into its MLflow run."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from graft import comparison, files
from graft.config import TrackingConfig
from graft.errors import ConfigError
from graft.paths import expanded, records
from graft.report import drawing, figures, page
from graft.report.cautions import cautions
from graft.report.importance import importances
from graft.report.reached import reached
from graft.report.record import SweepRecord, collect
from graft.tracking.mlflow_store import Store, open_store
from graft.tracking.tagged_run import DIRECTORY_TAG, REPORT_TAG

PAGE = "report.html"
PLOTS = "plots"


@dataclass(frozen=True)
class Written:
    """A report that was written.

    Attributes:
        page: The HTML file.
        record: What it was made of.
        left_out: Figures that the record has no data for, and why, by name.
    """

    page: Path
    record: SweepRecord
    left_out: dict[str, str]


def write(tracking: TrackingConfig, sweep: str | None, output: str | None = None) -> Written:
    """Writes the report of a sweep, and logs it to the sweep's run.

    Args:
        tracking: Which store and experiment.
        sweep: A study name or the id of a parent run; None takes the latest sweep.
        output: The folder; None takes `report` in the sweep's own.

    Raises:
        ConfigError: if there is no such sweep, or nothing can be written to `output`.
        FatalError: if the store cannot be used.
    """
    folder = None if output is None else _usable(output)
    return _write(open_store(tracking, create=False), sweep, folder)


def write_for(store: Store, parent_run_id: str) -> Written:
    """As `write`, from a store that is open."""
    return _write(store, parent_run_id, None)


def as_json(written: Written) -> dict[str, object]:
    """The numbers of the report as plain data."""
    record = written.record
    found = importances(record)
    return {
        "report": str(written.page),
        **comparison.as_json(record.comparison),
        "varied": list(record.varied),
        "epochs_to_reach": [asdict(row) for row in reached(record)],
        "contrasts": {
            key: {kind: asdict(each) for kind, each in of_kinds.items()} for key, of_kinds in record.contrasts.items()
        },
        "cautions": cautions(record),
        "importances": found if isinstance(found, dict) else None,
        "confusion": None
        if record.confusion is None
        else {"class_names": record.class_names, "counts": record.confusion},
        "left_out": written.left_out,
    }


def _write(store: Store, sweep: str | None, folder: Path | None) -> Written:
    compared = comparison.read(store, sweep)
    parent = compared.parent_run_id
    tags = store.client.get_run(parent).data.tags
    folder = folder or _folder(tags.get(DIRECTORY_TAG, ""), compared.sweep)
    record = collect(store, compared)
    shown: list[page.Shown] = []
    left_out: dict[str, str] = {}
    plots = folder / PLOTS
    with drawing.styled():
        for drawn in figures.draw(record):
            if drawn.figure is None:
                left_out[drawn.name] = drawn.caption
                (plots / f"{drawn.name}.png").unlink(missing_ok=True)  # of an earlier report of the same sweep
            markup = drawing.save(drawn.figure, drawn.name, plots) if drawn.figure else None
            shown.append(page.Shown(drawn, markup))
    html = folder / PAGE
    files.write(html, page.render(record, shown))
    store.client.log_artifact(parent, str(html))
    if plots.is_dir():
        for drawn in (each.drawn for each in shown if each.markup):
            store.client.log_artifact(parent, str(plots / f"{drawn.name}.png"), PLOTS)
    store.set_tags(parent, {REPORT_TAG: str(html)})
    return Written(html, replace(record, comparison=replace(compared, report=str(html))), left_out)


def _usable(output: str) -> Path:
    folder = expanded(output).absolute()  # as a shell completes it: from where the user is
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PAGE).touch()
    except OSError as error:
        raise ConfigError(
            f"--output={output}: nothing can be written there ({error.strerror}); allowed is a folder, which is made "
            "where there is none"
        ) from None
    return folder


def _folder(directory: str, sweep: str) -> Path:
    """Where a sweep's report goes: its own folder, or one of the home where that is on another machine."""
    if directory and Path(directory).is_dir():
        return Path(directory) / "report"
    return records() / "reports" / re.sub(r"[^\w.-]+", "_", sweep).lstrip(".")
