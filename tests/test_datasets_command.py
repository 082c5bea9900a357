"""`graft datasets`: what it says of a folder, an option and a set of TFDS, in words and as JSON."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from tests.images import write_classes
from typer.testing import CliRunner, Result

from graft import cli
from graft.data.decode import ORIENTATION
from graft.errors import ConfigError
from graft.paths import CHECKOUT


def graft(*arguments: str) -> Result:
    done = CliRunner().invoke(cli.app, ["datasets", *arguments])
    if isinstance(done.exception, Exception):
        raise done.exception
    return done


@pytest.fixture
def photos(tmp_path: Path, home: Path) -> Path:
    """Four cats, five dogs of another size, two pairs of copies, one unreadable file and one photo to be turned."""
    folder = tmp_path / "photos"
    write_classes(folder, {"cat": 4, "dog": 4}, size=8)
    Image.new("RGB", (30, 20)).save(folder / "dog" / "large.png")
    shutil.copy(folder / "cat" / "0000.png", folder / "cat" / "copy.png")
    shutil.copy(folder / "dog" / "0001.png", folder / "cat" / "stray.png")
    (folder / "dog" / "cut.png").write_bytes((folder / "dog" / "0000.png").read_bytes()[:60])
    exif = Image.Exif()
    exif[ORIENTATION] = 3
    Image.new("RGB", (8, 8)).save(folder / "dog" / "phone.jpg", exif=exif)
    return folder


def test_a_folder_is_described_as_json(photos: Path) -> None:
    told = json.loads(graft(str(photos), "--json").stdout)
    assert told["images"] == 13
    assert told["classes"] == {"cat": 6, "dog": 7}
    assert told["formats"] == {"PNG": 11, "JPEG": 1}
    assert told["width"] == [8, 8.0, 30]
    assert told["height"] == [8, 8.0, 20]
    assert told["unreadable"] == {"dog/cut.png": "a PNG that is damaged or cut off"}
    assert told["turned"] == ["dog/phone.jpg"]
    assert [set(group) for group in told["copies_within"]] == [{"cat/0000.png", "cat/copy.png"}]
    (group,) = told["copies_across"]
    assert {tuple(entry) for entry in group} == {("cat", "cat/stray.png"), ("dog", "dog/0001.png")}
    assert told["official"] == {}
    assert len(told["sha256"]) == 64


def test_and_in_words(photos: Path) -> None:
    words = graft(str(photos)).stdout
    for text in (
        "13 images, 2 classes",
        "width            8 to 30 pixels, median 8",
        "1 cannot be read:\n  dog/cut.png: a PNG that is damaged or cut off",
        "1 identical within a class:",
        "1 identical across classes:",
        "1 to be turned for display",
    ):
        assert text in words


def test_without_an_argument_the_options_are_listed(home: Path) -> None:
    told = json.loads(graft("--json").stdout)
    assert set(told) == {file.stem for file in (CHECKOUT / "conf" / "dataset").glob("*.yaml")}
    assert told["digits"].startswith("scikit-learn's handwritten digits")
    words = graft().stdout
    for name in told:
        assert name in words


def test_an_option_is_described(home: Path) -> None:
    told = json.loads(graft("digits", "--json").stdout)
    assert (told["name"], told["images"], told["classes"]["3"]) == ("digits", 1797, 183)
    assert told["formats"] == {"pixels": 1797}
    assert told["copies_across"] == []


def test_a_prepared_set_of_tfds_is_described(tmp_path: Path, home: Path) -> None:
    from tests.tfds_sets import pictures, prepare

    prepare(tmp_path, {"train": pictures(12), "test": pictures(8, seed=1)})
    told = json.loads(graft("cats_and_dogs", "--data-dir", str(tmp_path), "--json").stdout)
    assert told["official"] == {"train": 12, "val": 0, "test": 8}
    assert told["classes"] == {"cat": 10, "dog": 10}


def test_the_contact_sheet_shows_the_images_of_each_class(photos: Path, tmp_path: Path) -> None:
    sheet, colours = tmp_path / "sheet.png", {(10, 200, 30): "cat", (200, 10, 90): "dog"}
    for colour, name in colours.items():
        shutil.rmtree(photos / name)
        (photos / name).mkdir()
        Image.new("RGB", (5, 9), colour).save(photos / name / "plain.png")
    assert f"Contact sheet: {sheet}" in graft(str(photos), "--plot", str(sheet)).stdout
    with Image.open(sheet) as image:
        shown = {colour: count for count, colour in image.convert("RGB").getcolors(2**24)}
    assert all(shown[colour] > 1000 for colour in colours)
    assert not list(tmp_path.glob(".*.partial"))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["digits", "--plot", "sheet.docx"], "--plot=sheet.docx: allowed are files that end in .png"),
        (["digits", "--plot", "/nowhere/sheet.png"], "there is no folder /nowhere"),
        (["--plot", "sheet.png"], "of which data set?"),
        (["digits", "--download"], "digits is none"),
        (["digts"], "did you mean digits?"),
        (["x" * 300], "there is no such data set or folder"),
    ],
)
def test_a_mistake_is_answered(home: Path, arguments: list[str], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        graft(*arguments)
    assert text in str(caught.value)
