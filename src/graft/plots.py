"""Pictures of a run."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from graft.loop.result import History, best_epoch


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
