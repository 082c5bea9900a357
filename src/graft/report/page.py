"""The page: the answers first, in words, then what they rest on."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from graft.again import graft_command, rerun_command
from graft.comparison import Comparison, TrialRow
from graft.comparison.further import dropped, further_sweep
from graft.comparison.interval import METHOD
from graft.comparison.verdict import BESIDE, verdict
from graft.paths import CHECKOUT
from graft.report.cautions import cautions, more_epochs
from graft.report.figures import Drawn
from graft.report.reached import Reached, reached
from graft.report.record import SweepRecord

ROWS = 1000  # of the table; --json has all
TOP_LEVELS = 4
KEYS_ANSWERED = 3
VALUES_NAMED = 4
STATES = ("complete", "pruned", "failed", "interrupted", "running")


@dataclass(frozen=True)
class Shown:
    """A figure as the page has it: its words, and its markup if there was anything to draw."""

    drawn: Drawn
    markup: str | None


@dataclass(frozen=True)
class Answer:
    """A question, its answer, and what to type or where to look, as it is."""

    question: str
    answer: str
    code: str = ""


def render(record: SweepRecord, shown: Sequence[Shown]) -> str:
    """The page as HTML. Everything that was recorded is escaped; only our own figures are not."""
    environment = Environment(
        loader=PackageLoader("graft.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    compared = record.comparison
    counts = {state: sum(trial.state == state for trial in record.trials) for state in STATES}
    return environment.get_template("report.html.j2").render(
        sweep=compared.sweep,
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        counts=", ".join(f"{count} {state}" for state, count in counts.items() if count),
        total=len(record.trials),
        subject=_subject(record),
        verdict=verdict(compared),
        headline=_headline(record),
        answers=_answers(record),
        cautions=cautions(record),
        sides=compared.sides,
        given=_given(record),
        extraction=_extraction(record),
        slow_down=compared.slow_down,
        figures=[
            {"name": each.drawn.name, "title": each.drawn.title, "caption": each.drawn.caption, "markup": _own(each)}
            for each in shown
            if each.markup
        ],
        left_out=[(each.drawn.title, each.drawn.caption) for each in shown if not each.markup],
        levels=_levels(reached(record)),
        kinds=record.kinds,
        varied=record.varied,
        cached=any(trial.cached_features for trial in record.trials),
        rows=[_row(compared, trial, record.varied) for trial in compared.ranked[:ROWS]],
        more_rows=max(len(record.trials) - ROWS, 0),
        failures=[trial for trial in record.trials if trial.state == "failed"],
        curves_page=compared.curves_page,
        served=compared.served,
        pairing=compared.pairing,
        aside={key: both for key, both in compared.pairing.aside.items() if both[0] != both[1]},
        method=METHOD,
        test_images=compared.test_images,
        again=graft_command("report", compared.sweep, *compared.options),
    )


def _own(each: Shown) -> Markup:
    return Markup(each.markup)  # noqa: S704  matplotlib has escaped the names in it


def _subject(record: SweepRecord) -> str:
    """What was trained on what, in a sentence."""
    backbone, dataset = (record.everywhere(f"{group}.name") for group in ("backbone", "dataset"))
    network = f"A pretrained network, the backbone ({backbone})," if backbone else "Pretrained networks, the backbones,"
    on = f"the data set {dataset}" if dataset else "several data sets"
    return f"{network} got a new last part, the head, and learnt the classes of {on}."


def _headline(record: SweepRecord) -> str:
    found = verdict(record.comparison)
    if found:
        return found.which
    if not record.complete:
        return "No trial was completed, so there is nothing to compare yet."
    one = len(record.complete) == 1
    if record.kinds == ("frozen",):
        have = "The one completed trial has" if one else "All completed trials have"
        return f"{have} a frozen backbone: nothing here says whether fine-tuning is better."
    if record.kinds == ("fine-tuned",):
        are = "The one completed trial is" if one else "All completed trials are"
        return f"{are} fine-tuned: nothing here says whether a frozen backbone would do."
    return f"The completed trial{' does' if one else 's do'} not say whether the backbone was frozen."


def _answers(record: SweepRecord) -> list[Answer]:
    compared = record.comparison
    answers: list[Answer] = []
    if found := verdict(compared):
        answers += [
            Answer("By how much?", found.by_how_much),
            Answer("How sure is that?", found.how_sure, found.further),
            Answer("At what cost?", found.cost + _whole_trials(record)),
        ]
    elif record.complete:
        answers.append(Answer("For a comparison", _both_kinds(compared), further_sweep(compared)))
    answers += _which_value(record)
    if more := more_epochs(record):
        answers.append(Answer("Were the epochs enough?", more))
    if best := compared.best:
        another = f" ({', '.join(compared.objectives)})" if compared.objectives else ""
        by_another = f"; the sweep chose it by another objective{another}"
        chosen = ", by which it was chosen" if compared.best_by_accuracy else by_another
        tested = f", {best.test_accuracy:.4f} on the test images" if best.test_accuracy is not None else ""
        answers += [
            Answer(
                "Which checkpoint is the best?",
                f"Trial {best.number} ({best.name}): {best.best_val_accuracy:.4f} on the validation images"
                f"{chosen}{tested}.",
                best.checkpoint or "",
            ),
            Answer(
                "How is it run again?",
                f"In {CHECKOUT}, this trains it anew and proves that every number is the same:",
                rerun_command(best.run_id, *compared.options),
            ),
        ]
    return answers


def _which_value(record: SweepRecord) -> list[Answer]:
    """What is the best value of each key that was varied besides, for each kind of training on its own."""
    answers = []
    for key, of_kinds in list(record.contrasts.items())[:KEYS_ANSWERED]:
        several = len(record.kinds) > 1
        told = (f"{kind.capitalize()}: {each.told()}" if several else each.told() for kind, each in of_kinds.items())
        answers.append(Answer(f"Which {key}?", " ".join(told)))
    return answers


def _given(record: SweepRecord) -> list[tuple[str, list[str]]]:
    """What each kind of training was given, a row of the table side by side each, where it was recorded."""
    rows: list[tuple[str, list[str]]] = []
    kinds = [side.kind for side in record.comparison.sides]
    for label, key in (("learning rate", "learning_rate"), ("epochs at most", "epochs")):
        cells = [
            _values([trial.params[key] for trial in record.of_kind(kind) if key in trial.params]) for kind in kinds
        ]
        rows.append((label, cells))
    sizes = [
        _values([str(trial.training_images) for trial in record.of_kind(kind) if trial.training_images])
        for kind in kinds
    ]
    rows.append(("training images", [f"{int(size):,}" if size.isdecimal() else size for size in sizes]))
    return [(label, cells) for label, cells in rows if any(cells)]


def _values(texts: Sequence[str]) -> str:
    """The values of a key: a few one by one, of many numbers the lowest and the highest."""
    try:
        found = sorted(set(texts), key=float)
    except ValueError:
        found = sorted(set(texts))
    return ", ".join(found) if len(found) <= VALUES_NAMED else f"{found[0]} to {found[-1]}"


def _extraction(record: SweepRecord) -> str:
    """Which trials paid for the features; empty if none did, or it was not recorded."""
    paid = [trial for trial in record.trials if trial.extraction_seconds]
    if not paid:
        return ""
    first = ", ".join(f"trial {trial.number} {_duration(trial.extraction_seconds or 0.0)}" for trial in paid[:5])
    more = f" and {len(paid) - 5} more" if len(paid) > 5 else ""
    return f"Seconds in all hold what the extraction of features took, which the first trial pays: {first}{more}."


def _both_kinds(compared: Comparison) -> str:
    keys = dropped(compared)
    left = f" {' and '.join(keys)} may suit one kind only, and {'is' if len(keys) == 1 else 'are'} left to the default."
    return f"Train both kinds, with several seeds.{left if keys else ''} {BESIDE}"


def _whole_trials(record: SweepRecord) -> str:
    """What whole trials took, as they ran; nothing where it was not recorded."""
    medians = []
    for kind in ("fine-tuned", "frozen"):
        seconds = [trial.total_seconds for trial in record.of_kind(kind) if trial.total_seconds]
        if not seconds:
            return ""
        on_features = any(trial.cached_features for trial in record.of_kind(kind))
        how = " (on stored features)" if on_features else ""
        medians.append(f"{_duration(statistics.median(seconds))} {kind}{how}")
    return f" A whole trial as it ran took {medians[0]}, {medians[1]}."


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _levels(rows: Sequence[Reached]) -> list[tuple[float, list[Reached]]]:
    """The highest accuracies that were reached, a row of the table each."""
    levels = sorted({row.accuracy for row in rows})[-TOP_LEVELS:]
    return [(level, [row for row in rows if row.accuracy == level]) for level in levels]


def _row(compared: Comparison, trial: TrialRow, varied: Sequence[str]) -> dict[str, Any]:
    return {
        "number": trial.number,
        "kind": trial.kind,
        "best": trial is compared.best,
        "values": [trial.params.get(key, "") for key in varied],
        "val": _number(trial.best_val_accuracy, ".4f"),
        "test": _number(trial.test_accuracy, ".4f"),
        "gap": _number(trial.overfit_gap, "+.4f"),
        "epoch": _number(trial.epoch_seconds, ".3g"),
        "ran_on": "features" if trial.cached_features else "images" if trial.epoch_seconds is not None else "",
        "live": _number(trial.epoch_seconds_live, ".3g"),
        "total": _number(trial.total_seconds, ".3g"),
        "state": trial.state if trial.state != "failed" else f"failed: {trial.failure or 'unknown'}",
        "page": compared.run_page(trial),
        "name": trial.name,
    }


def _number(value: float | None, style: str) -> str:
    return "" if value is None else format(value, style)
