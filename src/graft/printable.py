"""Words that others chose, such as the names of folders and of classes, as they may be shown on a terminal."""

from __future__ import annotations

import io
import sys
import unicodedata

# What turns the direction of a line, so that it reads otherwise than it is (Unicode Standard Annex 9).
DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: str) -> str:
    """`text` with what a terminal would obey written out; ends of lines and tabs stay."""
    return "".join(_written_out(each) if _is_obeyed(each) else each for each in text)


def print_what_cannot_be_shown() -> None:
    r"""Has letters that the terminal's encoding lacks written out, as ``\xe9``: none of them may end a command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _is_obeyed(character: str) -> bool:
    # Cc: control characters. Cs: bytes of a file's name that are no text, which cannot be printed at all.
    return character not in "\n\t" and (character in DIRECTIONS or unicodedata.category(character) in ("Cc", "Cs"))


def _written_out(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
