"""Sets of TFDS, prepared here through its own builders: read by their place, divided, and refused with a reason."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds_api
from PIL import Image
from tests.conftest import backbone_at, run_command
from tests.tfds_sets import pictures, prepare

from graft.cache import manage
from graft.config import Config
from graft.data import pipeline, splits, tfds, tfds_index
from graft.data.image_set import ImageSet, content_sha256
from graft.errors import ConfigError, FatalError
from graft.paths import CHECKOUT
from graft.run import run
from graft.tracking.recorder import MemoryRecorder

MakeConfig = Callable[..., Config]
Load = Callable[..., ImageSet]


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sets: encoded images of any size without splits, and small grey ones with a test split."""
    folder = tmp_path_factory.mktemp("tfds")
    prepare(folder, {"train": [(png(pixels), label) for pixels, label in pictures(40)]})
    grey = {"train": pictures(60, channels=1), "test": pictures(20, channels=1, seed=1)}
    prepare(folder, grey, name="grey_ones", shape=(12, 12, 1))
    return folder


@pytest.fixture
def overrides(data_dir: Path) -> list[str]:
    return ["dataset=tfds", f"dataset.data_dir={data_dir}", "dataset.download=false"]


def counts(parts: splits.Splits) -> tuple[int, int, int]:
    return len(parts.train), len(parts.val), len(parts.test)


def test_a_prepared_set_trains_offline(
    make_config: MakeConfig, overrides: list[str], tiny_backbone: Path, tmp_path: Path
) -> None:
    smoke = ["+size=smoke", *backbone_at(tiny_backbone), "dataset.image_size=8", "learning_rate=0.01"]
    result = run(make_config(*overrides, "dataset.name=cats_and_dogs", *smoke), MemoryRecorder(), tmp_path)
    assert len(result.history) == 2
    assert result.test_accuracy is not None


def test_a_set_of_files_is_the_same_set_as_a_folder_of_them(
    make_config: MakeConfig, overrides: list[str], tmp_path: Path
) -> None:
    for number, (pixels, label) in enumerate(pictures(40)):
        folder = tmp_path / ("cat", "dog")[label]
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.png").write_bytes(png(pixels))
    of_folder = splits.choose(make_config("dataset=image_folder", f"dataset.path={tmp_path}").dataset)
    of_tfds = splits.choose(make_config(*overrides, "dataset.name=cats_and_dogs").dataset)
    assert of_tfds[0].sha256() == of_folder[0].sha256()
    assert of_tfds[0].digests == of_folder[0].digests
    for name in splits.SPLITS:
        np.testing.assert_array_equal(getattr(of_tfds[1], name), getattr(of_folder[1], name))


def test_pixels_that_tfds_encoded_are_what_counts_and_get_three_channels(
    make_config: MakeConfig, overrides: list[str]
) -> None:
    config = make_config(*overrides, "dataset.name=grey_ones", "dataset.image_size=12")
    data = pipeline.prepare(*splits.choose(config.dataset), config)
    given = {pixels.tobytes(): label for pixels, label in pictures(60, channels=1) + pictures(20, channels=1, seed=1)}
    assert len(data.images) == len(given)
    stored = data.inputs.take(np.arange(len(given)))
    assert (stored[..., :1] == stored).all()
    for pixels, label in zip(stored[..., 0], data.images.labels, strict=True):
        assert given[np.ascontiguousarray(pixels).tobytes()] == label
    assert data.class_names == ("cat", "dog")


def test_official_splits_stay_and_the_validation_split_is_cut_from_train(
    make_config: MakeConfig, overrides: list[str]
) -> None:
    named = [*overrides, "dataset.name=grey_ones"]
    images, parts = splits.choose(make_config(*named).dataset)
    assert counts(parts) == (44, 16, 20)  # a quarter of each class, rounded
    tested = {images.digests[row] for row in parts.test}
    assert tested == {content_sha256(pixels) for pixels, _ in pictures(20, channels=1, seed=1)}
    other, other_parts = splits.choose(make_config(*named, "dataset.split_seed=1").dataset)
    assert other.digests == images.digests
    np.testing.assert_array_equal(np.sort(other_parts.test), np.sort(parts.test))
    assert set(other_parts.val.tolist()) != set(parts.val.tolist())
    again, resplit = splits.choose(make_config(*named, "dataset.splits=resplit").dataset)
    assert counts(resplit) == (40, 20, 20)
    assert again.sha256() != images.sha256()  # other images test


def test_official_splits_are_refused_where_there_are_none(make_config: MakeConfig, overrides: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"dataset\.splits=official: cats_and_dogs comes undivided"):
        splits.choose(make_config(*overrides, "dataset.name=cats_and_dogs", "dataset.splits=official").dataset)


def test_images_are_read_by_their_place_and_the_index_is_made_once(
    make_config: MakeConfig, overrides: list[str], monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    named = make_config(*overrides, "dataset.name=cats_and_dogs").dataset
    first, _ = splits.choose(named)
    given = {png(pixels): label for pixels, label in pictures(40)}
    assert {first.read(row): first.labels[row] for row in range(len(first))} == given
    monkeypatch.setattr(tfds_index, "make", lambda *_: pytest.fail("made again"))
    tfds._read.cache_clear()
    assert splits.choose(named)[0].sha256() == first.sha256()
    (entry,) = (entry for entry in manage.entries() if entry.kind == "indexes")
    assert entry.about == "where the 40 images of cats_and_dogs/1.0.0 lie"


@pytest.mark.parametrize("left", [0, 1000])
def test_a_damaged_index_is_made_again(
    make_config: MakeConfig, overrides: list[str], left: int, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    named = make_config(*overrides, "dataset.name=cats_and_dogs").dataset
    before = splits.choose(named)[0].sha256()
    (entry,) = (entry for entry in manage.entries() if entry.kind == "indexes")
    os.truncate(entry.path / tfds.ROWS, left)
    tfds._read.cache_clear()
    assert splits.choose(named)[0].sha256() == before
    assert "is damaged and is made again" in caplog.text


def test_a_set_that_changes_gets_a_new_index(make_config: MakeConfig, tmp_path: Path, home: Path) -> None:
    prepare(tmp_path, {"train": pictures(12)})
    config = make_config("dataset=tfds", f"dataset.data_dir={tmp_path}", "dataset.name=cats_and_dogs").dataset
    assert len(splits.choose(config)[0]) == 12
    prepare(tmp_path, {"train": pictures(16)}, version="1.1.0")
    assert len(splits.choose(config)[0]) == 16


def test_neither_tensorflow_nor_the_network_is_used_once_there_is_an_index(data_dir: Path, home: Path) -> None:
    """The first time TFDS reads the set in a process of its own. Whoever asks sees the network in neither."""
    program = (
        "import os, sys\n"
        "def forbid(event, arguments):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo', 'socket.gethostbyname', 'socket.sendto'):\n"
        "        os.write(2, f'NETWORK {event} {arguments}'.encode()); os._exit(9)\n"
        "sys.addaudithook(forbid)\n"
    )
    hook = home / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(program)
    loading = (
        "import sys\n"
        "from graft.data import tfds\n"
        f"print(len(tfds.load('cats_and_dogs', {str(data_dir)!r}, download=False)))\n"
        "print([name for name in ('tensorflow', 'tensorflow_datasets') if name in sys.modules])\n"
    )
    path = os.pathsep.join([str(hook), str(CHECKOUT / "src")])
    env = {**os.environ, "PYTHONPATH": path, "GRAFT_HOME": str(home)}
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", loading], env=env, capture_output=True, text=True, check=False)
        assert done.stdout.splitlines() == ["40", "[]"], done.stderr
    connecting = "import socket; socket.create_connection(('127.0.0.1', 9))"
    seen = subprocess.run([sys.executable, "-c", connecting], env=env, capture_output=True, text=True, check=False)
    assert seen.stderr.startswith("NETWORK socket.")  # the hook does forbid


def test_what_is_not_there_is_not_downloaded_and_the_command_ends_with_2(data_dir: Path, home: Path) -> None:
    overrides = ["dataset=tfds", f"dataset.data_dir={data_dir}", "dataset.name=cats_and_dog", "dataset.download=false"]
    done = run_command(["python", "train.py", *overrides], home)
    assert done.returncode == 2
    assert done.stderr.strip() == (
        f"dataset.name=cats_and_dog: it is not prepared in dataset.data_dir={data_dir}, where there are cats_and_dogs, "
        "grey_ones; did you mean cats_and_dogs? dataset.download=true downloads it"
    )


def test_a_download_that_fails_ends_with_1_and_the_way_out(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(tfds_api.download.DownloadManager, "download_and_extract", no_network)
    config = make_config("dataset=tfds", f"dataset.data_dir={tmp_path}", "dataset.name=mnist").dataset
    with pytest.raises(
        FatalError, match=r"mnist: it cannot be downloaded and prepared: OSError: Network is unreach"
    ) as e:
        splits.choose(config)
    assert e.value.status == 1
    assert "dataset.data_dir=" in str(e.value)
    assert not list(tmp_path.glob("mnist/3*"))


def test_the_builder_of_tf_flowers_on_real_photos(
    photos: Path, make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_backbone: Path
) -> None:
    """What TFDS downloads is an archive of such folders; here it is made of some of the photos."""
    archive, given = tmp_path / "flower_photos.tgz", 0
    with tarfile.open(archive, "w:gz", compresslevel=1) as packed:
        for folder in sorted(entry for entry in photos.iterdir() if entry.is_dir()):
            (tmp_path / "photos" / folder.name).mkdir(parents=True)
            for photo in sorted(folder.iterdir())[:8]:
                packed.add(photo, f"flower_photos/{folder.name}/{photo.name}")
                shutil.copy(photo, tmp_path / "photos" / folder.name)
                given += 1
    monkeypatch.setattr(
        tfds_api.download.DownloadManager, "download", lambda *_: tfds_api.core.as_path(archive), raising=True
    )
    (tmp_path / "data").mkdir()
    overrides = ["dataset=tf_flowers", f"dataset.data_dir={tmp_path}/data", "dataset.image_size=32", "epochs=1"]
    config = make_config(*overrides, *backbone_at(tiny_backbone))
    images, parts = splits.choose(config.dataset)
    assert len(images) == given == 40
    assert images.class_names == ("dandelion", "daisy", "tulips", "sunflowers", "roses")
    assert counts(parts) == (20, 10, 10)
    of_folder = splits.choose(make_config("dataset=image_folder", f"dataset.path={tmp_path}/photos").dataset)[0]
    assert images.sha256() == of_folder.sha256()
    assert run(config, MemoryRecorder(), tmp_path / "run").test_accuracy is not None


@pytest.fixture
def broken(data_dir: Path, tmp_path: Path) -> Path:
    """A copy of the prepared sets, to break."""
    shutil.copytree(data_dir, tmp_path / "broken")
    return tmp_path / "broken"


def record_file(data_dir: Path) -> Path:
    (file,) = (data_dir / "cats_and_dogs" / "1.0.0").glob("*.tfrecord*")
    return file


@pytest.mark.parametrize("damage", ["cut", "cut between records", "a bit", "gone"])
def test_a_damaged_file_is_named(make_config: MakeConfig, broken: Path, damage: str) -> None:
    file = record_file(broken)
    content = file.read_bytes()
    if damage == "cut":
        file.write_bytes(content[:-100])
    elif damage == "cut between records":
        file.write_bytes(content[: 12 + int.from_bytes(content[:8], "little") + 4])
    elif damage == "a bit":
        file.write_bytes(content[:300] + bytes([content[300] ^ 1]) + content[301:])
    else:
        file.unlink()
    config = make_config("dataset=tfds", f"dataset.data_dir={broken}", "dataset.name=cats_and_dogs").dataset
    with pytest.raises(ConfigError, match="damaged") as caught:
        splits.choose(config)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("name", ["features.json", "dataset_info.json"])
def test_a_damaged_description_is_told(make_config: MakeConfig, broken: Path, name: str) -> None:
    os.truncate(record_file(broken).with_name(name), 200)
    config = make_config("dataset=tfds", f"dataset.data_dir={broken}", "dataset.name=cats_and_dogs").dataset
    with pytest.raises(ConfigError, match=f"what is prepared in {broken} cannot be opened"):
        splits.choose(config)


@pytest.mark.parametrize("name", ["cats_and_dogs/small", "cats_and_dogs:2.0.0"])
def test_another_configuration_or_version_is_told_what_there_is(
    make_config: MakeConfig, overrides: list[str], name: str
) -> None:
    with pytest.raises(ConfigError, match=r"where there are cats_and_dogs/1\.0\.0; dataset\.download=true"):
        splits.choose(make_config(*overrides, f"dataset.name='{name}'").dataset)


def test_a_file_that_changes_after_it_was_indexed_is_noticed(make_config: MakeConfig, broken: Path) -> None:
    overrides = ["dataset=tfds", f"dataset.data_dir={broken}", "dataset.name=cats_and_dogs", "dataset.image_size=12"]
    config = make_config(*overrides)
    images, parts = splits.choose(config.dataset)
    file = record_file(broken)
    content = bytearray(file.read_bytes())
    place = content.find(b"\x89PNG") + 50
    content[place] ^= 1
    file.write_bytes(content)
    with pytest.raises(FatalError, match=r"cats_and_dogs/1\.0\.0 train\[\d+\] changed"):
        pipeline.prepare(images, parts, config)


def sets_that_are_none() -> dict[str, tuple[dict[str, object], object, str]]:
    features = tfds_api.features
    label = features.ClassLabel(num_classes=2)
    return {
        "no_image": ({"text": features.Text(), "label": label}, ("words", 0), "it has label (ClassLabel), text (Text)"),
        "no_label": (
            {"image": features.Image(), "number": features.Scalar(np.int64)},
            (pictures(1)[0][0], 5),
            "it has image (Image), number (Scalar)",
        ),
        "two_images": (
            {"left": features.Image(), "right": features.Image(), "label": label},
            (pictures(1)[0][0], pictures(1)[0][0], 0),
            "it has label (ClassLabel), left (Image), right (Image)",
        ),
        "deep": (
            {"image": features.Image(shape=(4, 4, 1), dtype=np.uint16), "label": label},
            (np.zeros((4, 4, 1), np.uint16), 0),
            "its images are uint16",
        ),
        "one_class": (
            {"image": features.Image(), "label": features.ClassLabel(num_classes=1)},
            (pictures(1)[0][0], 0),
            "it has 1 class(es); a classifier needs two or more",
        ),
        "secret": (
            {"image": features.Image(), "label": label},
            (pictures(1)[0][0], -1),
            "none of its 1 images has a label",
        ),
    }


@pytest.mark.parametrize("name", list(sets_that_are_none()))
def test_a_set_that_is_none_of_image_classification_is_told_what_it_has(
    make_config: MakeConfig, tmp_path: Path, name: str
) -> None:
    features, example, text = sets_that_are_none()[name]
    prepare(tmp_path, {"train": [example]}, name=name, features=features)  # type: ignore[list-item,arg-type]
    config = make_config("dataset=tfds", f"dataset.data_dir={tmp_path}", f"dataset.name={name}").dataset
    with pytest.raises(ConfigError) as caught:
        splits.choose(config)
    assert text in str(caught.value)
    assert str(caught.value).startswith(f"dataset.name={name}: ")


def test_a_prepared_set_in_place_of_the_folder_around_it_is_told(make_config: MakeConfig, data_dir: Path) -> None:
    inside = data_dir / "grey_ones" / "1.0.0"
    with pytest.raises(ConfigError, match=f"the folder around all of them is wanted: {data_dir}$"):
        splits.choose(make_config("dataset=tfds", f"dataset.data_dir={inside}", "dataset.name=grey_ones").dataset)


def test_every_image_classification_set_of_tfds_is_known_by_name() -> None:
    """Names are read from TFDS's files, as importing them takes seconds; this is what they would give."""
    named = set(tfds_api.list_builders(with_community_datasets=False))
    assert {"mnist", "cifar10", "tf_flowers", "fashion_mnist", "imagenette", "eurosat"} <= tfds.known_names()
    assert named - tfds.known_names() == set()
