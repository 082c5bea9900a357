"""`graft datasets`: which data sets there are, and what is in one of them."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from graft.config import from_hydra
from graft.config_dataset import AnyDatasetConfig
from graft.console import PlainConsole
from graft.data import sources, tfds
from graft.data.image_set import ImageSet
from graft.errors import ConfigError
from graft.paths import CHECKOUT, anchored, records
from graft.suggestions import did_you_mean

if TYPE_CHECKING:
    from graft.data.summary import Summary

GROUP = CHECKOUT / "conf" / "dataset"
SHOWN = 20  # lines of one kind; --json has all
IN_A_ROW, SIDE, ROWS = 8, 96, 100  # on the contact sheet: images of a class, their size in pixels, classes
PICTURES = (".png", ".jpg", ".jpeg", ".pdf", ".svg", ".webp")


def options() -> dict[str, str]:
    """The options of `dataset=`, each with what it says of itself."""
    told = {}
    for file in sorted(GROUP.glob("*.yaml")):
        lines = file.read_text(encoding="utf-8").splitlines()
        comments = [line[2:] for line in lines if line.startswith("# ") and not line.startswith("# @")]
        told[file.stem] = " ".join(comments[: _lines_of_first_paragraph(lines)])
    return told


def find(target: str, data_dir: str | None, *, download: bool) -> tuple[AnyDatasetConfig, ImageSet]:
    """The data set that a name or a path means, and its images.

    Args:
        target: An option of `dataset=`, a folder, or the name of a set of TFDS.
        data_dir: Folder of prepared data sets of TFDS, None for TFDS's own.
        download: Whether a set that is not there may be downloaded.

    Raises:
        ConfigError: if it means nothing, or the data set cannot be used.
        FatalError: if it cannot be downloaded.
    """
    config = _config(target, data_dir, download=download)
    return config, sources.load(config)


def summarise(images: ImageSet) -> Summary:
    """What is in a data set: reads and decodes every image once.

    Raises:
        OSError: if an image is gone since it was found.
    """
    from graft.runtime import stderr_set_aside

    with stderr_set_aside("TensorFlow was imported"):
        import tensorflow as tf

        from graft.data import summary

        tf.config.list_physical_devices()  # the rest of the messages comes with the first look for GPUs

    return summary.summarise(images)


def as_json(config: AnyDatasetConfig, summary: Summary) -> dict[str, Any]:
    """Everything that is known of a data set, as plain data."""
    return {"name": config.name, "source": config.source, **asdict(summary)}


def show_options(told: Mapping[str, str], console: PlainConsole) -> None:
    """Prints the options of `dataset=`."""
    table = Table(title="dataset=", title_justify="left")
    table.add_column("name", no_wrap=True)
    table.add_column("what it is", overflow="fold")
    for name, words in told.items():
        table.add_row(name, words)
    console.print(table)


def show(config: AnyDatasetConfig, summary: Summary, console: PlainConsole) -> None:
    """Prints what is in a data set."""
    say = functools.partial(console.print, highlight=False, markup=False, soft_wrap=True)
    say(f"{config.name}: {summary.images:,} images, {len(summary.classes)} classes")
    table = Table()
    table.add_column("class", overflow="fold")
    table.add_column("images", justify="right")
    for name, count in list(summary.classes.items())[:SHOWN]:
        table.add_row(name, f"{count:,}")
    if len(summary.classes) > SHOWN:
        table.add_row(f"and {len(summary.classes) - SHOWN} more", "")
    console.print(table)
    if summary.official:
        say("official splits  " + ", ".join(f"{name} {count:,}" for name, count in summary.official.items()))
    say("formats          " + (", ".join(f"{name} {count:,}" for name, count in summary.formats.items()) or "none"))
    for label, found in (("width", summary.width), ("height", summary.height)):
        if found:
            say(f"{label:<16} {found[0]:,} to {found[2]:,} pixels, median {found[1]:,.0f}")
    say(f"fingerprint      {summary.sha256}")
    _say_some(say, "cannot be read", [f"{name}: {reason}" for name, reason in summary.unreadable.items()])
    _say_some(say, "to be turned for display (EXIF), which Graft does not do", list(summary.turned))
    _say_some(say, "identical within a class", ["  =  ".join(names) for names in summary.copies_within])
    _say_some(
        say,
        "identical across classes",
        ["  =  ".join(f"{name} ({label})" for label, name in group) for group in summary.copies_across],
    )


def plot(images: ImageSet, file: str, title: str) -> Path:
    """Writes a contact sheet: some images of each of the first classes, in a row each.

    Raises:
        ConfigError: if the file cannot be written there.
    """
    from matplotlib.figure import Figure

    from graft.data.summary import samples

    path = anchored(file)
    drawn = samples(images, ROWS, IN_A_ROW, SIDE)
    figure = Figure(figsize=(IN_A_ROW + 2, len(drawn) + 0.6), layout="constrained")
    axes = figure.subplots(len(drawn), IN_A_ROW, squeeze=False)
    for row, (name, pictures) in zip(axes, drawn.items(), strict=True):
        for cell, axis in enumerate(row):
            axis.set_axis_off()
            if cell < len(pictures):
                axis.imshow(pictures[cell])
        row[0].set_title(name, loc="left", fontsize=8, parse_math=False)
    more = len(images.class_names) - len(drawn)
    figure.suptitle(f"{title}: the first {len(drawn)} classes, {more} more" if more else title, parse_math=False)
    partial = path.with_name(f".{path.name}.partial")
    try:
        figure.savefig(partial, dpi=SIDE, format=path.suffix[1:].lower())
        os.replace(partial, path)
    except OSError as error:
        raise ConfigError(f"--plot={file}: it cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def check_plot(file: str) -> None:
    """Says what is wrong with the name of a picture before anything is read.

    Raises:
        ConfigError: if its folder is not there, or it is no picture by its suffix.
    """
    path = anchored(file)
    if path.suffix.lower() not in PICTURES:
        raise ConfigError(f"--plot={file}: allowed are files that end in {', '.join(PICTURES)}")
    if not path.parent.is_dir():
        raise ConfigError(f"--plot={file}: there is no folder {path.parent}")


def _config(target: str, data_dir: str | None, *, download: bool) -> AnyDatasetConfig:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    chosen, values = _meant(target, data_dir)
    os.environ.setdefault("GRAFT_HOME", str(records().parent))
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CHECKOUT / "conf"), version_base="1.3"):
        composed = compose("config", overrides=[f"dataset={chosen}"])
    if "data_dir" in composed.dataset:
        values |= {"download": download, **({"data_dir": data_dir} if data_dir is not None else {})}
    elif data_dir is not None or download:
        raise ConfigError(f"--data-dir and --download are for data sets of TFDS; {target} is none")
    for key, value in values.items():
        OmegaConf.update(composed, f"dataset.{key}", value)
    return from_hydra(composed).dataset


def _meant(target: str, data_dir: str | None) -> tuple[str, dict[str, Any]]:
    """The option of `dataset=` that a target means, and the keys to set."""
    needs_more = {"tfds": "give the name of a data set of TFDS in its place", "image_folder": "give the folder itself"}
    if target in needs_more:
        raise ConfigError(f"{target}: {needs_more[target]}")
    told = options()
    if target in told:
        return target, {}
    if not target:
        raise ConfigError(f"Which data set? A folder, a name of TFDS, or one of {', '.join(told)}")
    if (
        (os.sep in target and not _is_of_tfds(target, data_dir))
        or target.startswith((".", "~"))
        or os.path.isdir(anchored(target))  # not Path's, which raises for a name that is too long
    ):
        return "image_folder", {"path": target}
    if _is_of_tfds(target, data_dir):
        return "tfds", {"name": target}
    raise ConfigError(
        f"{target}: there is no such data set or folder"
        f"{did_you_mean(target, {*told, *tfds.known_names()} - needs_more.keys())}"
    )


def _is_of_tfds(target: str, data_dir: str | None) -> bool:
    base = target.split("/")[0].split(":")[0]
    folder = Path(tfds.own_data_dir()) if data_dir is None else anchored(data_dir)
    return bool(base) and (base in tfds.known_names() or os.path.isdir(folder / base))


def _say_some(say: Any, what: str, lines: list[str]) -> None:
    if lines:
        say(f"{len(lines)} {what}:")
        for line in lines[:SHOWN]:
            say(f"  {line}")
        if len(lines) > SHOWN:
            say(f"  and {len(lines) - SHOWN} more (--json has all)")


def _lines_of_first_paragraph(lines: list[str]) -> int:
    """How many comment lines a file starts with, not counting Hydra's own."""
    count = 0
    for line in lines:
        if line.startswith("# @"):
            continue
        if not line.startswith("# "):
            break
        count += 1
    return count
