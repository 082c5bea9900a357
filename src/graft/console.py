"""The console that tables and progress are shown on."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from graft.printable import printable


class PlainConsole(Console):
    r"""A console that shows words as they are: ``[b]`` is no markup, and an escape character comes as ``\x1b``."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        return super().render_str(printable(text), **settings)
