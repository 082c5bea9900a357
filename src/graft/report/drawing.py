"""How the report's figures look, and how they become files: a PNG beside the page and an SVG inside it."""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = "#24292f"
FAINT = "#d0d7de"
PAPER = "#fefefe"
FROZEN = "#0072b2"  # with the next one a pair that the colour-blind tell apart: Okabe and Ito, Color Universal Design
FINETUNED = "#d55e00"
OTHER = "#6e7781"
COLOURS = {"frozen": FROZEN, "fine-tuned": FINETUNED, None: OTHER}
MARKERS = {"frozen": "o", "fine-tuned": "^", None: "s"}

SIZE = (4.7, 3.5)
"""Inches. At the width of a phone the letters are still 9 pixels high."""

HEAVY = 1_000_000  # characters of an SVG, beyond which the PNG takes its place in the page

# In the page, the reader's light or dark theme decides what these are.
THEMED = {
    INK: "currentColor",
    PAPER: "var(--page)",
    FAINT: "var(--line)",
    FROZEN: "var(--frozen)",
    FINETUNED: "var(--finetuned)",
}

STYLE: dict[Any, Any] = {
    "text.parse_math": False,  # names are the user's own words, and $ is no formula in them
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.formatter.useoffset": False,  # a tick is to be read without sums
    "axes.formatter.limits": (-15, 15),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}


@contextmanager
def styled() -> Iterator[None]:
    """Within the block, matplotlib draws in the report's style."""
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # of a name in another script
        yield


def new_figure(height: float = SIZE[1]) -> tuple[Figure, Axes]:
    """An empty figure of this height in inches, and its axes."""
    # Not pyplot: its figures live as long as the process.
    figure = Figure(figsize=(SIZE[0], height), layout="constrained")
    return figure, figure.subplots()


def save(figure: Figure, name: str, folder: Path) -> str:
    """Writes `name`.png into `folder`; gives the markup that shows the figure in the page."""
    folder.mkdir(parents=True, exist_ok=True)
    png = folder / f"{name}.png"
    figure.savefig(png, dpi=150, facecolor="white")
    figure.set_layout_engine("none")  # it has laid the figure out already
    drawn = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(drawn, format="svg", transparent=True, metadata=nothing)
    svg = _inline(drawn.getvalue(), name)
    if len(svg) <= HEAVY:
        return svg
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(png.read_bytes()).decode()}">'


def _inline(svg: str, name: str) -> str:
    """An SVG file as a part of a page: without its head, of any width, in the page's colours, with ids of its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    head, rest = svg.split(">", 1)
    head = re.sub(r' (?:width|height)="[^"]*"', "", head)
    svg = f'{head} aria-hidden="true">{rest}'
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", svg)
    for colour, themed in THEMED.items():
        svg = svg.replace(colour, themed)
    return svg
