"""Pictures of a run."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from graft.loop.result import Confusion, History, best_epoch

CLASSES_NAMED = 60  # more names would lie over each other
CLASSES_COUNTED = 20
NAME_SHOWN = 16  # characters of a class's name


def curves(history: History, path: Path, title: str) -> None:
    """Writes loss and accuracy of training and validation over the epochs as a PNG."""
    figure = Figure(figsize=(9, 3.6))  # not pyplot: its figures live as long as the process
    epochs = range(1, len(history) + 1)
    for axes, measure in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for split, style in (("train", "--"), ("val", "-")):
            axes.plot(epochs, [epoch[f"{split}_{measure}"] for epoch in history], style, marker=".", label=split)
        axes.axvline(best_epoch(history) + 1, color="0.8", zorder=0, label="best epoch")
        axes.set(xlabel="epoch", ylabel=measure)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()
    figure.suptitle(title)
    figure.subplots_adjust(0.07, 0.14, 0.985, 0.9)  # known here; finding it out would take longer than the drawing
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def confusion(class_names: Sequence[str], counts: Confusion, path: Path, title: str) -> None:
    """Writes which class was taken for which as a PNG."""
    figure = Figure(figsize=(6, 5.4))
    axes = figure.subplots()
    draw_confusion(axes, class_names, counts)
    axes.set_title(title + ", test split", fontsize=10)
    figure.subplots_adjust(0.2, 0.2, 0.97, 0.93)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def draw_confusion(axes: Axes, class_names: Sequence[str], counts: Confusion) -> None:
    """Draws the confusion matrix: a row a true class, coloured by the fraction of its images.

    Up to `CLASSES_NAMED` classes are named, and up to `CLASSES_COUNTED` have their counts written in.
    """
    images = np.asarray(counts, dtype=float)
    fractions = images / np.maximum(images.sum(axis=1, keepdims=True), 1)  # a class may have no test image
    axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted class", ylabel="true class")
    classes = range(len(class_names))
    if len(class_names) <= CLASSES_NAMED:
        names = [name if len(name) <= NAME_SHOWN else name[: NAME_SHOWN - 1] + "…" for name in class_names]
        size = 9 if len(names) <= CLASSES_COUNTED else 6
        upright = max(map(len, names), default=0) > 3
        axes.set_xticks(classes, names, rotation=90 if upright else 0, fontsize=size, parse_math=False)
        axes.set_yticks(classes, names, fontsize=size, parse_math=False)
    if len(class_names) <= CLASSES_COUNTED:
        for true, predicted in itertools.product(classes, classes):
            if images[true, predicted]:
                colour = "white" if fractions[true, predicted] > 0.5 else "black"
                written = f"{images[true, predicted]:.0f}"
                axes.text(predicted, true, written, ha="center", va="center", color=colour, fontsize=8)
