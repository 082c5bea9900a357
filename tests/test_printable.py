"""Names come from elsewhere, with data sets and archives; a terminal obeys what is in them unless it is written out."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.conftest import run_command
from tests.images import write_classes
from typer.testing import CliRunner

from graft.cli import app
from graft.printable import printable

TITLE = "\x1b]0;taken over\x07"  # renames the window of a terminal


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (TITLE, r"\x1b]0;taken over\x07"),
        ("gnp.\u202eexe", r"gnp.\u202eexe"),
        ("\r\x9b2J", r"\r\x9b2J"),
        ("\udcff", r"\udcff"),
        ("Maßliebchen 雛菊 👩\u200d🌾\n\tx", "Maßliebchen 雛菊 👩\u200d🌾\n\tx"),
    ],
)
def test_what_a_terminal_would_obey_is_written_out(said: str, shown: str) -> None:
    assert printable(said) == shown


def test_names_of_classes_and_files_are_shown_and_not_obeyed(home: Path) -> None:
    write_classes(home / "photos", {f"cat{TITLE}\u202egnp": 3, "[bold]dog": 3})
    (home / "photos" / "[bold]dog" / f"no{TITLE}.png").write_bytes(b"no image")
    done = CliRunner().invoke(app, ["datasets", str(home / "photos")])
    assert done.exit_code == 0, done.output
    assert "\x1b]" not in done.output
    assert r"cat\x1b]0;taken over\x07\u202egnp" in done.output
    assert "│ [bold]dog " in done.output
    assert r"no\x1b]0;taken over\x07.png" in done.output


def test_errors_are_shown_and_not_obeyed(home: Path) -> None:
    for command in (
        ["graft", "datasets", f"/nowhere{TITLE}"],
        ["python", "train.py", "dataset=image_folder", f"dataset.path='/nowhere{TITLE}'"],
        ["python", "train.py", "-m", "seed=0,1", f"hydra.sweeper.sampler='/nowhere{TITLE}'"],
    ):
        done = run_command(command, home)
        assert done.returncode == 2
        assert r"/nowhere\x1b]0;" in done.stderr
        assert "\x1b" not in done.stderr
