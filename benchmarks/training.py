"""Training: Graft against the chapter's program and against a bare Keras loop, on the same photos.

    python benchmarks/training.py --quick        some minutes, on 240 photos; its ratios are rougher
    python benchmarks/training.py                about an hour on two cores, on all photos

Every figure comes from a process of its own; contestants take turns, in changing order, and medians are compared. All
use EfficientNet-Lite0 at 224 pixels, batches of 32 and seed 0. The table goes to stdout, and every run with the machine
it ran on to `benchmarks/results/`. `--sections` runs some parts only and puts them into the same file.

Two kinds of seconds are told apart. "Without process start" is what comes after the imports, for every contestant:
Graft is started by `train_after_imports.py` for these. For the chapter's program the lists of photos are made before
its clock starts; Graft's time includes finding and hashing them. "With process start" is the whole command's time.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import machine
import photos
from contest import FOLDER, Bench, Run, forget, progress, take_turns

from graft.errors import ConfigError

EPOCHS = 10  # the chapter's
SWEEP = ("head_width=64,128,256,512", "dropout_rate=0,0.1,0.2,0.3,0.4")
TRIALS = 20
SWEEP_STARTS = {"from nothing": (), "warm store": (), "warm store, 2 slots": ("hydra.launcher.slots=2",)}
"""What there is when the sweep starts, and what is typed besides."""


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        max_images: About so many photos; None for all.
        rounds: How often the contestants of a section take turns.
        chapter_epochs: Epochs of the chapter's frozen run. Below `EPOCHS` the rest is extrapolated, and said to be.
        finetuned_epochs: Of every fine-tuning run; the first also traces and is left out.
        linear: Whether the cost of a quarter, half and all of the photos is compared.
    """

    max_images: int | None
    rounds: int
    chapter_epochs: int
    finetuned_epochs: int
    linear: bool


FULL = Plan(max_images=None, rounds=3, chapter_epochs=EPOCHS, finetuned_epochs=3, linear=True)
QUICK = Plan(max_images=240, rounds=1, chapter_epochs=2, finetuned_epochs=2, linear=False)


Sections = dict[str, dict[str, list[Run]]]
"""The runs of each section by contestant, as `benchmarks/results/` keeps them."""


@dataclass(frozen=True)
class Row:
    """One line of the table: two times (or rates), and what was promised of their ratio.

    Attributes:
        what: What was measured.
        baseline: Of the contestant that is compared with, with its unit.
        graft: Of Graft.
        ratio: How many times better Graft is.
        promised: The least that `ratio` should be; None where nothing was promised.
    """

    what: str
    baseline: str
    graft: str
    ratio: float
    promised: float | None

    def markdown(self) -> str:
        promise = "" if self.promised is None else f"{self.promised:.3g}"
        kept = "" if self.promised is None else "yes" if self.ratio >= self.promised else "no"
        return f"| {self.what} | {self.baseline} | {self.graft} | {_short(self.ratio)} | {promise} | {kept} |"


# Each section measures and returns its runs; what is made of them stands apart, so that a table can be made of a
# file of results again.


def measure_frozen(bench: Bench, plan: Plan) -> dict[str, list[Run]]:
    homes = iter(range(plan.rounds))

    def graft() -> Iterable[tuple[str, Run]]:
        home = bench.work / f"home-{next(homes)}"
        yield "graft, from nothing", bench.graft(home, f"epochs={EPOCHS}")
        forget(home, "features", "images")
        yield "graft, conversion kept", bench.graft(home, f"epochs={EPOCHS}")
        yield "graft, warm store", bench.graft(home, f"epochs={EPOCHS}")
        shutil.rmtree(home)

    def chapter() -> Iterable[tuple[str, Run]]:
        yield "chapter", bench.chapter("--epochs", str(plan.chapter_epochs))

    # Two runs of the chapter's program are enough, at five minutes each.
    return take_turns(min(2, plan.rounds), {"chapter": chapter, "graft": graft})


def frozen_rows(sections: Sections) -> list[Row]:
    runs = sections["frozen"]
    epoch = median(later_epochs(runs["chapter"]))
    trained = median(ten_epochs(run) for run in runs["chapter"])
    run = min(len(run["epochs"]) for run in runs["chapter"])
    note = "" if run >= EPOCHS else f" (the chapter's extrapolated from {run} epochs)"
    rows = [ratio_row("Frozen epoch from the second on", epoch, median(later_epochs(runs["graft, warm store"])), 100)]
    for start, promised in (("from nothing", 10), ("conversion kept", 20), ("warm store", 80)):
        mine = runs[f"graft, {start}"]
        what = f"Frozen, {EPOCHS} epochs, without process start, {start}{note}"
        rows.append(ratio_row(what, trained, median(run["total_seconds"] for run in mine), promised))
        rows.append(ratio_row("— to the end of the command", trained, median(run["seconds"] for run in mine), None))
    return rows


def measure_extraction(bench: Bench, plan: Plan) -> dict[str, list[Run]]:
    sizes = [round(share * bench.photo_count()) for share in (0.25, 1)]

    def extract(engine: str) -> Callable[[], Iterable[tuple[str, Run]]]:
        def run() -> Iterable[tuple[str, Run]]:
            for size in sizes:
                forget(bench.home, "features")
                options = ["epochs=1", f"features.engine={engine}"]
                run = bench.graft(bench.home, *options, max_images=size)
                yield f"{engine}, {size} photos", {**run, "engine": engine, "photos": size}

        return run

    contestants = {engine: extract(engine) for engine in ("xnnpack", "tensorflow")}
    for _ in contestants["xnnpack"]():  # converts, unless the run for warming up did
        pass
    return take_turns(plan.rounds, contestants)


def extraction_rows(sections: Sections) -> list[Row]:
    plain, fast = (images_per_second(sections["extraction"], engine) for engine in ("tensorflow", "xnnpack"))
    if plain <= 0 or fast <= 0:
        progress("extraction: more photos took no longer; the machine is too busy for so few of them")
        return []
    what = "Extraction alone, XNNPACK against `tf.function`"
    return [Row(what, f"{_short(plain)} images/s", f"{_short(fast)} images/s", fast / plain, 3)]


def images_per_second(runs: dict[str, list[Run]], engine: str) -> float:
    """What an engine extracts once it is set up: from the seconds that more photos take more."""
    seconds: dict[int, list[float]] = {}
    for run in (run for of_label in runs.values() for run in of_label if run["engine"] == engine):
        seconds.setdefault(run["photos"], []).append(run["feature_extraction_seconds"])
    (few, few_seconds), (many, many_seconds) = sorted(seconds.items())
    return (many - few) / (median(many_seconds) - median(few_seconds))


def measure_sweep(bench: Bench, plan: Plan) -> dict[str, list[Run]]:
    home = bench.work / "home-sweep"
    options = ["trainable=false", f"epochs={EPOCHS}", *SWEEP]
    runs: dict[str, list[Run]] = {}
    for start, more in SWEEP_STARTS.items():  # a finished sweep is never reused: each is another one
        runs[f"graft, {start}"] = [bench.sweep(home, *options, *more)]
        progress(f"sweep, {start}: {runs[f'graft, {start}'][0]['wall_seconds']:.1f} s")
    return runs


def sweep_rows(sections: Sections) -> list[Row]:
    if "frozen" not in sections:
        progress("the sweep is compared with the chapter's runs of the section `frozen`: run that one, too")
        return []
    chapter = [run["import_seconds"] + ten_epochs(run) for run in sections["frozen"]["chapter"]]
    twenty = statistics.mean(chapter) * TRIALS
    source = f"{len(chapter)} measured run{'s' * (len(chapter) > 1)} of the chapter's, times {TRIALS // len(chapter)}"
    return [
        ratio_row(
            f"{TRIALS}-trial frozen sweep, with process start, {start} ({source})",
            twenty,
            sections["sweep"][f"graft, {start}"][0]["wall_seconds"],
            60,
        )
        for start in SWEEP_STARTS
        if f"graft, {start}" in sections["sweep"]
    ]


def measure_finetuning(bench: Bench, plan: Plan) -> dict[str, list[Run]]:
    epochs = str(plan.finetuned_epochs)
    return take_turns(
        plan.rounds,
        {
            "graft": lambda: [("graft", bench.graft(bench.home, "trainable=true", f"epochs={epochs}"))],
            "chapter": lambda: [
                ("chapter, training=True", bench.chapter("--trainable", "--training-true", "--epochs", epochs))
            ],
            "keras": lambda: [("bare Keras", bench.bare_keras("--trainable", "--epochs", epochs))],
        },
    )


def finetuning_rows(sections: Sections) -> list[Row]:
    runs = sections["finetuning"]
    mine = median(later_epochs(runs["graft"]))
    return [
        ratio_row(
            f"Fine-tuning epoch, training and validation, against {name}", median(later_epochs(runs[key])), mine, p
        )
        for name, key, p in (
            ("the chapter's loop with `training=True`", "chapter, training=True", 1),
            ("a bare Keras loop", "bare Keras", 1 / 1.05),
        )
    ]


def measure_linear(bench: Bench, plan: Plan) -> dict[str, list[Run]]:
    def run(size: int) -> Callable[[], Iterable[tuple[str, Run]]]:
        def once() -> Iterable[tuple[str, Run]]:
            forget(bench.home, "features", "images")
            yield str(size), bench.graft(bench.home, f"epochs={EPOCHS}", max_images=size)

        return once

    sizes = [round(share * bench.photo_count()) for share in (0.25, 0.5, 1)]
    return take_turns(plan.rounds, {str(size): run(size) for size in sizes})


def linear_lines(runs: dict[str, list[Run]]) -> list[str]:
    """A table of its own: what more photos cost, with the conversion kept."""
    if not runs:
        return []
    lines = [
        "",
        f"| photos | frozen, {EPOCHS} epochs | extraction | an epoch from the second on | ms a photo more |",
        "|---|---|---|---|---|",
    ]
    before: tuple[int, float] | None = None
    for name, of_size in sorted(runs.items(), key=lambda item: int(item[0])):
        total = median(run["total_seconds"] for run in of_size)
        extraction = median(run["feature_extraction_seconds"] for run in of_size)
        more = "" if before is None else f"{1000 * (total - before[1]) / (int(name) - before[0]):.1f}"
        epoch = median(later_epochs(of_size))
        lines.append(f"| {name} | {total:.2f} s | {extraction:.2f} s | {epoch:.3f} s | {more} |")
        before = int(name), total
    return lines


SECTIONS = {
    "frozen": (measure_frozen, frozen_rows),
    "extraction": (measure_extraction, extraction_rows),
    "sweep": (measure_sweep, sweep_rows),
    "finetuning": (measure_finetuning, finetuning_rows),
    "linear": (measure_linear, lambda sections: []),
}


def later_epochs(runs: Iterable[Run]) -> list[float]:
    """Seconds of training and validation of every epoch but a run's first, which also traces."""
    return [epoch_seconds(epoch) for run in runs for epoch in run["epochs"][1:] or run["epochs"]]


def epoch_seconds(epoch: dict[str, float]) -> float:
    return epoch["epoch_seconds"] if "epoch_seconds" in epoch else epoch["train_seconds"] + epoch["val_seconds"]


def ten_epochs(run: Run) -> float:
    """Seconds of a training of `EPOCHS` epochs after the imports; epochs that were not run count as later ones."""
    return run["total_seconds"] + (EPOCHS - len(run["epochs"])) * median(later_epochs([run]))


def ratio_row(what: str, baseline: float, graft: float, promised: float | None) -> Row:
    return Row(what, f"{_short(baseline)} s", f"{_short(graft)} s", baseline / graft, promised)


def median(values: Iterable[float]) -> float:
    return statistics.median(values)


def _short(value: float) -> str:
    """Three digits that count."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.3g}"


def heading(results: dict[str, Any]) -> list[str]:
    """What was measured on what, and how busy it was."""
    on = results["machine"]
    sections = results["sections"].values()
    commits = sorted({section["commit"][:7] + section["commit"][40:] for section in sections})
    loads = [load for section in sections for load in section["load"]]
    train, val, test = results["photos"]
    return [
        f"{on['cpu']}, {on['cores']} cores, {on['memory_gib']} GiB, {on['system']}, Python {on['python']}, "
        f"TensorFlow {on['tensorflow']}, commit {', '.join(commits)};",
        f"{train} photos train, {val} validate, {test} test; load average {results['load_before']:.1f} before, "
        f"{min(loads):.1f} to {max(loads):.1f} during the sections; medians.",
    ]


def table(results: dict[str, Any]) -> list[str]:
    """The results as RESULTS.md shows them."""
    sections = {name: section["runs"] for name, section in results["sections"].items()}
    lines = ["| | baseline | Graft | times | promised | kept |", "|---|---|---|---|---|---|"]
    for name, (_, rows) in SECTIONS.items():
        if name in sections:
            lines += [row.markdown() for row in rows(sections)]
    lines += linear_lines(sections.get("linear", {}))
    lines += ["", "| | runs | validation accuracy | peak memory |", "|---|---|---|---|"]
    for name, runs in sections.items():
        for label, of_label in runs.items():
            curves = [run["epochs"][-1]["val_accuracy"] for run in of_label if "epochs" in run]
            accuracy = f"{median(curves):.3f}" if curves else ""
            memory = median(run["peak_memory_mb"] for run in of_label)
            lines.append(f"| {name}: {label} | {len(of_label)} | {accuracy} | {memory:.0f} MB |")
    return lines


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="benchmarks/training.py"
    )
    parser.add_argument("--photos", type=Path, help=f"one sub-folder a class; {photos.SHARED} if left out and there")
    parser.add_argument("--quick", action="store_true", help="some minutes in place of an hour")
    parser.add_argument("--sections", type=lambda text: text.split(","), help=f"some of {','.join(SECTIONS)}")
    parser.add_argument("--max-images", type=int, help="fewer photos, to see that it works")
    parser.add_argument("--rounds", type=int, help="how often contestants take turns")
    parser.add_argument("--module", type=Path, help="a SavedModel in the place of EfficientNet-Lite0")
    parser.add_argument("--output", type=Path, help="the file of results; in benchmarks/results if left out")
    options = parser.parse_args(arguments)
    options.photos = (options.photos or photos.SHARED).resolve()
    if not options.photos.is_dir():
        parser.error(f"there are no photos at {options.photos}; --photos=FOLDER names some, one sub-folder a class")
    if unknown := [name for name in options.sections or [] if name not in SECTIONS]:
        parser.error(f"there is no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    chosen = QUICK if options.quick else FULL
    plan = Plan(
        max_images=options.max_images or chosen.max_images,
        rounds=options.rounds or chosen.rounds,
        chapter_epochs=chosen.chapter_epochs,
        finetuned_epochs=chosen.finetuned_epochs,
        linear=chosen.linear,
    )
    try:
        counts = [len(split.files) for split in photos.split(options.photos, plan.max_images)]
    except ConfigError as error:
        sys.exit(f"{error}")
    described = machine.describe()
    name = f"{machine.slug(described)}-{date.today()}{'-quick' * options.quick}.json"
    output = options.output or FOLDER / "results" / name
    results: dict[str, Any] = json.loads(output.read_text()) if output.is_file() else {}
    if results.get("photos") != counts:  # ratios across other photos would mean nothing
        results = {"photos": counts, "sections": {}}
    results |= {"machine": described, "load_before": machine.load()}
    if machine.load() > machine.BUSY * described["cores"]:
        progress(f"The machine is not quiet: its load average is {machine.load():.2f}")

    with tempfile.TemporaryDirectory(prefix="graft-bench-") as work:
        bench = Bench(plan.max_images, options.photos, options.module and options.module.resolve(), Path(work))
        progress("warming up: one run of Graft")
        bench.warm_up()
        for section in options.sections or [name for name in SECTIONS if name != "linear" or plan.linear]:
            progress(f"== {section}")
            loads = [machine.load()]
            runs = SECTIONS[section][0](bench, plan)
            loads.append(machine.load())
            results["sections"][section] = {"load": loads, "commit": described["commit"], "runs": runs}
            # After every section: an hour is long, and what was measured stays.
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(json.dumps(results, indent=1) + "\n")

    print("\n".join([*heading(results), "", *table(results)]))
    progress(f"\nEvery run: {output}")


if __name__ == "__main__":
    main()
