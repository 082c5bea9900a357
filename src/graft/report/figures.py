"""The report's figures: one function each, from the record to a drawing with its words.

A function whose figure the record has no data for gives the reason in its place.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from graft.comparison import TrialRow
from graft.comparison.interval import METHOD, SAME
from graft.comparison.varied import numbers
from graft.plots import draw_confusion
from graft.report.drawing import COLOURS, FAINT, INK, MARKERS, OTHER, PAPER, SIZE, new_figure
from graft.report.importance import MOST_TRIALS, importances, logarithmic
from graft.report.reached import reached
from graft.report.record import SweepRecord

THIN_CURVES = 40  # beyond it only the medians are drawn
KEYS_DRAWN = 8
FEW_TRIALS = 50
VALUES_NAMED = 12  # of a key whose values are no numbers
LEVELS_DRAWN = 400  # steps of a line
LINES_DRAWN = 500  # of the parallel coordinates
LOGARITHMIC = " (logarithmic)"
CLOSE_TIMES = 0.1  # to both sides of the middle; what differs by less looks the same


@dataclass(frozen=True)
class Drawn:
    """A figure and what goes with it.

    Attributes:
        name: Of its file, without a suffix.
        title: A few words.
        caption: What to see in it.
        figure: The drawing; None where there is nothing to draw, and then `caption` is the reason.
    """

    name: str
    title: str
    caption: str
    figure: Figure | None = None


def draw(record: SweepRecord) -> Iterator[Drawn]:
    """All figures, in the order of the page. Draw and save them within `graft.report.drawing.styled`."""
    yield difference(record)
    yield accuracy_against_time(record)
    yield curves(record)
    yield gap(record)
    yield epochs_to_reach(record)
    yield from by_key(record)
    yield importance(record)
    yield parallel_coordinates(record)
    yield confusion(record)


def difference(record: SweepRecord) -> Drawn:
    """The paired difference of every seed, and the interval of their mean."""
    name, title = "difference", "Difference of each seed"
    pairing = record.comparison.pairing
    found = pairing.interval
    if found is None or found.seeds < 2:
        reason = "There is one seed" if found else "There are no pairs of frozen and fine-tuned trials"
        return Drawn(name, title, f"{reason}, and so no spread of differences to draw.")
    by_seed = pairing.by_seed
    figure, axes = new_figure(height=1.6 + 0.24 * min(len(by_seed), 20))
    rows = list(range(len(by_seed), 0, -1))
    axes.axvline(0, color=INK, linewidth=1)
    for row, value in zip(rows, by_seed.values(), strict=True):
        kind = "fine-tuned" if value > 0 else "frozen" if value < 0 else None
        axes.plot(value, row, MARKERS[kind], color=COLOURS[kind])
    if found.low is not None and found.high is not None:
        axes.plot([found.low, found.high], [0, 0], color=INK, linewidth=2)
    axes.plot([found.mean], [0], "D", color=INK)
    seeds = [f"seed {seed}" for seed in by_seed] if len(by_seed) <= 20 else [""] * len(by_seed)
    axes.set_yticks([*rows, 0], [*seeds, "mean"])
    axes.set_ylim(-0.7, len(by_seed) + 0.7)
    axes.set_xlabel("test accuracy, fine-tuned minus frozen")
    axes.grid(axis="y", visible=False)
    return Drawn(
        name,
        title,
        "Right of the line at 0 fine-tuning is better, left of it the frozen backbone. The bar is the 95 % interval of "
        f"the mean ({METHOD}); where it crosses the line, chance may have decided.",
        figure,
    )


def accuracy_against_time(record: SweepRecord) -> Drawn:
    """Accuracy of every trial against what an epoch of it costs."""
    name, title = "accuracy_time", "Accuracy against time"
    timed = [trial for trial in record.complete if trial.epoch_seconds_live and trial.test_accuracy is not None]
    if not timed:
        return Drawn(name, title, "No trial was both timed and tested.")
    figure, axes = new_figure()
    for kind, trials in _by_kind(timed):
        axes.scatter(
            [trial.epoch_seconds_live or 0.0 for trial in trials],
            [trial.test_accuracy or 0.0 for trial in trials],
            color=COLOURS[kind],
            marker=MARKERS[kind],
            alpha=0.75,
            label=kind or "unknown",
        )
    seconds = [trial.epoch_seconds_live or 0.0 for trial in timed]
    logarithm = _maybe_logarithmic(axes, seconds, spans=4)
    if not logarithm:
        axes.set_xlim(*_time_limits(seconds))
    axes.set(
        xlabel=f"seconds an epoch, backbone run on every image{LOGARITHMIC if logarithm else ''}",
        ylabel="test accuracy",
    )
    _legend(axes)
    cached = " Trials that ran on stored features took less: the table has both." if _any_cached(timed) else ""
    return Drawn(
        name,
        title,
        "A point a trial; up is better, left is cheaper. Times are of epochs with the backbone run on every image, for "
        f"frozen trials too.{cached}",
        figure,
    )


def curves(record: SweepRecord) -> Drawn:
    """Training and validation accuracy by epoch."""
    name, title = "curves", "Accuracy by epoch"
    drawn = [trial for trial in record.trials if trial.number in record.curves]
    if not drawn:
        return Drawn(name, title, "No trial recorded an epoch.")
    figure, axes = new_figure()
    thin = ""
    for kind, trials in _by_kind(drawn):
        for split, dashes in (("train", (3, 2)), ("val", ())):
            lines = [getattr(record.curves[trial.number], split) for trial in trials]
            style: dict[str, Any] = {"color": COLOURS[kind], "dashes": dashes}
            if 1 < len(lines) <= THIN_CURVES:
                thin = ", thin ones single trials"
                for line in lines:
                    axes.plot(range(1, len(line) + 1), line, linewidth=0.7, alpha=0.35, **style)
            middle = _median_by_epoch(lines)
            words = {"train": "training", "val": "validation"}[split]
            dot: dict[str, Any] = {"marker": "."} if len(middle) == 1 else {}
            label = f"{kind or 'unknown'}, {words}"
            axes.plot(range(1, len(middle) + 1), middle, linewidth=2, label=label, **style, **dot)
    axes.set(xlabel="epoch", ylabel="accuracy")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(axes)
    return Drawn(
        name,
        title,
        f"Thick lines are medians{thin}. Where training (dashed) runs far above validation (solid), the network has "
        "learnt its training images by heart.",
        figure,
    )


def gap(record: SweepRecord) -> Drawn:
    """Training minus validation accuracy at the best epoch."""
    name, title = "gap", "Overfitting gap"
    trials = [trial for trial in record.complete if trial.overfit_gap is not None]
    if not trials:
        return Drawn(name, title, "No complete trial recorded its gap.")
    figure, axes = new_figure(height=2.9)
    groups = list(_by_kind(trials))
    for place, (kind, members) in enumerate(groups):
        gaps = [trial.overfit_gap or 0.0 for trial in members]
        spread = [place + 0.08 * (index % 5 - 2) for index in range(len(gaps))]  # side by side
        axes.scatter(spread, gaps, color=COLOURS[kind], marker=MARKERS[kind], alpha=0.75)
        axes.hlines(statistics.median(gaps), place - 0.3, place + 0.3, color=COLOURS[kind], linewidth=2)
    axes.axhline(0, color=INK, linewidth=1)
    axes.set_xticks(range(len(groups)), [kind or "unknown" for kind, _ in groups])
    axes.set_xlim(-0.6, len(groups) - 0.4)
    axes.grid(axis="x", visible=False)
    axes.set_ylabel("training minus validation accuracy")
    return Drawn(
        name,
        title,
        "At the epoch with the best validation accuracy; bars are medians. High above 0 is overfitting: better on the "
        "training images than on others.",
        figure,
    )


def epochs_to_reach(record: SweepRecord) -> Drawn:
    """Median epochs to a validation accuracy, for every accuracy that half of the trials reached."""
    name, title = "epochs_to_reach", "Epochs to reach an accuracy"
    rows = [row for row in reached(record, _levels_reached(record)) if row.epochs is not None]
    if not rows:
        return Drawn(name, title, "No accuracy was reached by half of the trials.")
    at_once = {row.accuracy for row in rows} - {row.accuracy for row in rows if (row.epochs or 0) > 1}
    start = max(at_once, default=0.0) if len(at_once) < len({row.accuracy for row in rows}) else 0.0
    rows = [row for row in rows if row.accuracy >= start]  # what the first epoch gives tells nothing
    figure, axes = new_figure(height=2.9)
    for kind in record.kinds:
        of_kind = [row for row in rows if row.kind == kind]
        epochs = [row.epochs or 0 for row in of_kind]
        levels = [row.accuracy for row in of_kind]
        # What was reached is reached for every accuracy below it, down to the next one.
        axes.plot(levels, epochs, drawstyle="steps-pre", color=COLOURS[kind], linewidth=2, label=kind)
        if of_kind:
            axes.plot(of_kind[-1].accuracy, epochs[-1], MARKERS[kind], color=COLOURS[kind])
    axes.set(xlabel="validation accuracy", ylabel="epochs, median", ylim=(0, None))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(axes)
    return Drawn(
        name,
        title,
        "How many epochs it took to a validation accuracy; the line ends (with a mark) where fewer than half of the "
        "trials got there. An epoch is not as long for both: the table below has seconds.",
        figure,
    )


def _levels_reached(record: SweepRecord) -> list[float]:
    """The validation accuracies at which an answer of `reached` may change."""
    found: list[float] = []
    for value in sorted({value for trial in record.complete for value in record.best_so_far(trial.number)}):
        if not found or value - found[-1] > SAME:
            found.append(value)
        else:
            found[-1] = value
    if len(found) > LEVELS_DRAWN:  # each is exact; some are left out
        places = range(LEVELS_DRAWN)
        found = [found[round(place * (len(found) - 1) / (LEVELS_DRAWN - 1))] for place in places]
    return found


def by_key(record: SweepRecord) -> Iterator[Drawn]:
    """Test accuracy against every varied key but `trainable`, which is a colour, and `seed`."""
    keys = [key for key in record.varied if key not in ("trainable", "seed")]
    for key in keys[:KEYS_DRAWN]:
        trials = [trial for trial in record.complete if key in trial.params]
        name, title = f"by_{key.replace('.', '_')}", f"Test accuracy by {key}"
        if len({trial.params[key] for trial in trials}) < 2:
            yield Drawn(name, title, "Complete trials have only one value of it.")
        else:
            yield _against(record, trials, key, name, title)
    if more := keys[KEYS_DRAWN:]:
        yield Drawn("by_more", "More keys", f"Also varied, and not drawn: {', '.join(more)}.")


def _against(record: SweepRecord, trials: Sequence[TrialRow], key: str, name: str, title: str) -> Drawn:
    figure, axes = new_figure()
    found = numbers(trials, key)
    if found is None:
        texts = sorted({trial.params[key] for trial in trials})
        places = {text: float(place) for place, text in enumerate(texts)}
        found = [places[trial.params[key]] for trial in trials]
        if len(texts) <= VALUES_NAMED:
            names = [text if len(text) <= 18 else text[:17] + "…" for text in texts]
            axes.set_xticks(range(len(texts)), names, rotation=20 if len(texts) > 3 else 0)
        logarithm = False
    else:
        logarithm = _maybe_logarithmic(axes, found)
    at = dict(zip((trial.number for trial in trials), found, strict=True))
    medians = ""
    for kind, members in _by_kind(trials):
        style: dict[str, Any] = {"color": COLOURS[kind]}
        tested = [trial.test_accuracy or 0.0 for trial in members]
        axes.scatter([at[trial.number] for trial in members], tested, marker=MARKERS[kind], alpha=0.5, **style)
        middle: dict[float, list[float]] = {}
        for trial, accuracy in zip(members, tested, strict=True):
            middle.setdefault(at[trial.number], []).append(accuracy)
        # A sampled value comes once: a line from one to the next would follow chance.
        if 2 * len(middle) <= len(members) or len(middle) <= VALUES_NAMED:
            line = [(value, statistics.median(middle[value])) for value in sorted(middle)]
            axes.plot([x for x, _ in line], [y for _, y in line], linewidth=2, label=kind or "unknown", **style)
            medians = ", lines are medians"
        else:
            axes.plot([], [], MARKERS[kind], label=kind or "unknown", **style)
    axes.set(xlabel=f"{key}{LOGARITHMIC if logarithm else ''}", ylabel="test accuracy")
    _legend(axes)
    others = [other for other in record.varied if other not in (key, "trainable")]
    mixed = f" Trials of one value still differ in {', '.join(others)}." if others else ""
    return Drawn(name, title, f"A point a trial{medians}.{mixed}", figure)


def importance(record: SweepRecord) -> Drawn:
    """How much each varied key decided."""
    name, title = "importance", "What decided the accuracy"
    found = importances(record)
    if isinstance(found, str):
        return Drawn(name, title, found)
    shown = sorted(found.items(), key=lambda item: item[1])[-15:]
    figure, axes = new_figure(height=1.2 + 0.34 * len(shown))
    bars = axes.barh([key for key, _ in shown], [value for _, value in shown], color=OTHER)
    axes.bar_label(bars, labels=[f"{value:.0%}" for _, value in shown], padding=3)
    axes.set(xlabel="part in the differences of validation accuracy", xlim=(0, 1.12))
    axes.grid(axis="y", visible=False)
    chance = " What is below seed decided less than chance." if "seed" in found else ""
    trials = len(record.complete)
    if trials < FEW_TRIALS:
        basis = f" From {trials} trials, so take it for a hint."
    elif trials > MOST_TRIALS:
        basis = f" From at most {MOST_TRIALS} of the {trials:,} trials, evenly spread."
    else:
        basis = ""
    return Drawn(name, title, f"By Optuna's fANOVA, over the complete trials.{chance}{basis}", figure)


def parallel_coordinates(record: SweepRecord) -> Drawn:
    """Every complete trial as a line through its values to its accuracy."""
    name, title = "parallel_coordinates", "Every trial as a line"
    keys = [key for key in record.varied if any(key in trial.params for trial in record.complete)][:KEYS_DRAWN]
    trials = [trial for trial in record.complete if all(key in trial.params for key in keys)]
    if len(keys) < 2 or len(trials) < 2:
        return Drawn(name, title, "It takes two varied keys, and two complete trials.")
    trials = sorted(trials, key=lambda trial: trial.best_val_accuracy or 0.0)[-LINES_DRAWN:]
    figure, axes = new_figure(height=SIZE[1] + 0.1 * len(keys))
    columns = [_scaled(trials, key) for key in keys]
    scores = [trial.best_val_accuracy or 0.0 for trial in trials]
    columns.append(_scale(scores, logarithm=False))
    for row, trial in enumerate(trials):
        line = [places[row] for places, _ in columns]
        best = trial is trials[-1]
        thickness: dict[str, Any] = (
            {"linewidth": 3, "alpha": 1.0, "zorder": 4} if best else {"linewidth": 1, "alpha": 0.5}
        )
        axes.plot(range(len(columns)), line, color=COLOURS[trial.kind], **thickness)
    for place, (_, ticks) in enumerate(columns):
        axes.axvline(place, color=FAINT, linewidth=1.5, zorder=0)
        for height, text in ticks:
            right = place < len(columns) - 1
            axes.text(
                place + (0.04 if right else -0.04),
                height,
                text if len(text) <= 12 else text[:11] + "…",
                ha="left" if right else "right",
                va="center",
                fontsize=8,
                zorder=6,
                bbox={"facecolor": PAPER, "edgecolor": "none", "alpha": 0.85, "pad": 0.8},
            )
    axes.set_xticks(range(len(columns)), [*(_folded(key) for key in keys), "validation\naccuracy"], fontsize=8)
    axes.set_yticks([])
    axes.set(xlim=(-0.15, len(columns) - 0.85), ylim=(-0.06, 1.06))
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_visible(False)
    for kind, _ in _by_kind(trials):
        axes.plot([], [], color=COLOURS[kind], label=kind or "unknown")
    _legend(axes)
    return Drawn(
        name,
        title,
        "From left to right through what was varied to the validation accuracy; the thick line is the best trial. "
        "Lines that end high show which values go together well.",
        figure,
    )


def confusion(record: SweepRecord) -> Drawn:
    """Which class the best trial took for which."""
    name, title = "confusion", "What the best trial confuses"
    if record.confusion is None or record.comparison.best is None:
        return Drawn(name, title, "The best trial has no record of it: it is older, or has more than 1,000 classes.")
    figure, axes = new_figure(height=4.4)
    draw_confusion(axes, record.class_names, record.confusion)
    axes.grid(visible=False)
    errors = sorted(
        (
            (count, true, predicted)
            for true, row in enumerate(record.confusion)
            for predicted, count in enumerate(row)
            if true != predicted and count
        ),
        key=lambda error: (-error[0], error[1:]),
    )[:3]
    names = record.class_names
    worst = "; ".join(
        f"{names[true]} taken for {names[predicted]}, {'once' if count == 1 else f'{count} times'}"
        for count, true, predicted in errors
    )
    return Drawn(
        name,
        title,
        f"Trial {record.comparison.best.number} on the test split: rows are what an image shows, columns what the "
        "network said. Right answers lie on the diagonal. "
        + (f"Most often: {worst}." if worst else "There is no wrong one."),
        figure,
    )


def _by_kind(trials: Sequence[TrialRow]) -> Iterator[tuple[str | None, list[TrialRow]]]:
    for kind in COLOURS:
        if members := [trial for trial in trials if trial.kind == kind]:
            yield kind, members


def _any_cached(trials: Sequence[TrialRow]) -> bool:
    return any(trial.cached_features for trial in trials)


def _median_by_epoch(lines: Sequence[Sequence[float]]) -> list[float]:
    """Over the trials that got as far, as long as half of them did: a median of the longest few would jump."""
    longest = max(map(len, lines))
    at = ([line[epoch] for line in lines if len(line) > epoch] for epoch in range(longest))
    return [statistics.median(values) for values in at if len(values) >= len(lines) / 2]


def _legend(axes: Axes) -> None:
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)


def _maybe_logarithmic(axes: Axes, values: Sequence[float], spans: float | None = None) -> bool:
    """Makes the axis of x logarithmic where the values span enough: `spans` times the lowest, or as `logarithmic`."""
    found = list(values)
    wide = logarithmic(found) if spans is None else min(found) > 0 and max(found) / min(found) >= spans
    if wide:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=_labelled(max(found) / min(found))))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.10g}"))  # its own may be a formula
    return wide


def _labelled(span: float) -> tuple[float, ...]:
    """What is labelled of each power of ten on a logarithmic axis: the fewer of them, the more."""
    if span < 10:
        return (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
    return (1.0, 2.0, 5.0) if span < 100 else (1.0,)


def _time_limits(seconds: Sequence[float]) -> tuple[float, float]:
    """The ends of an axis of times: never below 0, and never so near that chance looks like a difference."""
    low, high = min(seconds), max(seconds)
    around = max(0.05 * (high - low), CLOSE_TIMES * (low + high) / 2 - (high - low) / 2)
    return max(0.0, low - around), high + around


Ticks = list[tuple[float, str]]


def _scaled(trials: Sequence[TrialRow], key: str) -> tuple[list[float], Ticks]:
    found = numbers(trials, key)
    if found is not None and key != "seed":
        return _scale(found, logarithmic(found))
    texts = sorted({trial.params[key] for trial in trials}, key=lambda text: (len(text), text))
    places = {text: index / max(len(texts) - 1, 1) for index, text in enumerate(texts)}
    ticks = [(places[text], text) for text in texts] if len(texts) <= VALUES_NAMED else []
    return [places[trial.params[key]] for trial in trials], ticks


def _scale(values: Sequence[float], logarithm: bool) -> tuple[list[float], Ticks]:
    """Values from 0 to 1 along their axis, and what is written beside it."""
    on_axis = [math.log(value) for value in values] if logarithm else list(values)
    low, high = min(on_axis), max(on_axis)
    places = [(value - low) / (high - low) if high > low else 0.5 for value in on_axis]
    distinct = sorted(set(zip(places, values, strict=True)))
    close = any(after[0] - before[0] < 0.07 for before, after in itertools.pairwise(distinct))
    shown = {distinct[0], distinct[-1]} if close or len(distinct) > 6 else distinct
    return places, [(place, f"{value:.4g}") for place, value in sorted(shown)]


def _folded(key: str) -> str:
    return key.replace("_", "_\n", 1).replace(".", ".\n", 1) if len(key) > 9 else key
