"""Backbones that come over the network or out of an archive: from the handle to the SavedModel in the cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tests.backbones import archives
from tests.backbones.choice import Choice
from tests.backbones.http_server import Server, cut_off, redirect, status, whole
from tests.backbones.test_interface import classifier, signatures_only
from tests.backbones.test_layer import mean_color, save_module
from tests.conftest import run_command

from graft import backbones
from graft.backbones import SavedBackbone, download, saved_model
from graft.cache import manage
from graft.errors import ConfigError, FatalError
from graft.paths import CHECKOUT


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "WAITS", (0.01,))
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture(scope="module")
def packed(tiny: Path) -> bytes:
    return archives.of_folder(tiny)


def cached(home: Path) -> list[str]:
    folder = home / "mlruns" / "cache" / "backbones"
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock") if folder.exists() else []


def refusal(choice: Choice, kind: type[Exception] = ConfigError) -> str:
    with pytest.raises(kind) as refused:
        backbones.check(choice)
    return str(refused.value)


def test_a_module_comes_from_a_hub(server: Server, packed: bytes, tiny: Path, home: Path) -> None:
    """As TF Hub does it: the page of the module sends on to its archive if the query asks for that."""
    server.serve("/bucket/3.tar.gz", whole(packed))
    url = server.serve("/google/tiny/feature_vector/3", redirect("/bucket/3.tar.gz?signed=x"))
    saved = backbones.resolve(Choice(url))
    assert saved.sha256 == saved_model.content_digest(tiny)
    assert [path for path, _ in server.asked] == [
        "/google/tiny/feature_vector/3?tf-hub-format=compressed",
        "/bucket/3.tar.gz?signed=x",
    ]
    layer = backbones.hub_layer(saved, Choice(url), trainable=False)
    images = np.random.default_rng(0).random((2, 64, 64, 3), np.float32)
    np.testing.assert_array_equal(layer(images), tf.saved_model.load(str(tiny))(images, training=False))

    assert backbones.resolve(Choice(url)) == saved
    assert len(server.asked) == 2  # it is not downloaded twice
    (entry,) = manage.entries()
    assert entry.about == f"tiny as a SavedModel from {url}"
    assert (entry.kind, entry.path) == ("backbones", saved.path)
    assert cached(home) == [saved.path.name]


def test_a_module_comes_from_kaggle(
    server: Server, packed: bytes, tiny: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAGGLE_API_ENDPOINT", server.address)
    server.serve("/api/v1/models/google/tiny/tensorFlow2/feature-vector/2/download", whole(packed))
    choice = Choice("kaggle:google/tiny/tensorFlow2/feature-vector/2", value_range=None)
    assert backbones.resolve(choice).sha256 == saved_model.content_digest(tiny)
    assert backbones.images_of(choice).value_range == (0.0, 1.0)  # published there, it keeps to TF Hub's convention


@pytest.mark.parametrize("below", ["", "mine/"])
def test_an_archive_is_asked_for_as_it_is(below: str, server: Server, tiny: Path, home: Path) -> None:
    url = server.serve("/mine.tar.gz", whole(archives.of_folder(tiny, below)))
    assert backbones.resolve(Choice(f"{url}?version=3")).sha256 == saved_model.content_digest(tiny)
    assert [path for path, _ in server.asked] == ["/mine.tar.gz?version=3"]


def test_an_archive_on_this_machine_is_unpacked_once(packed: bytes, tiny: Path, home: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.tar.gz"
    file.write_bytes(packed)
    saved = backbones.resolve(Choice(str(file)))
    assert saved.sha256 == saved_model.content_digest(tiny)
    assert backbones.resolve(Choice(str(file))) == saved
    changed = shutil.copytree(tiny, tmp_path / "changed")
    (changed / "assets" / "words.txt").write_text("other words")
    file.write_bytes(archives.of_folder(changed))
    assert backbones.resolve(Choice(str(file))).sha256 != saved.sha256
    assert len(cached(home)) == 2


def test_a_pin_is_of_the_content(server: Server, packed: bytes, tiny: Path, home: Path) -> None:
    url = server.serve("/mine.tar.gz", whole(packed))
    digest = saved_model.content_digest(tiny)
    text = refusal(Choice(url, sha256="f" * 64))
    assert f"backbone.sha256={'f' * 64}" in text
    assert digest in text
    text = refusal(Choice(url, sha256=hashlib.sha256(packed).hexdigest()))
    assert "the SHA-256 of the archive" in text
    assert digest in text
    assert cached(home) == []
    assert backbones.resolve(Choice(url, sha256=digest.upper())).sha256 == digest
    assert digest in refusal(Choice(url, sha256="f" * 64))  # what is cached is not taken for another either


def tf1_module(folder: Path) -> Path:
    save_module(folder, mean_color)
    (folder / "tfhub_module.pb").write_bytes(b"\x08\x03")
    return folder


def without_graph(folder: Path) -> Path:
    save_module(folder, mean_color)
    (folder / "saved_model.pb").unlink()
    return folder


def damaged(folder: Path) -> Path:
    graph = save_module(folder, mean_color) / "saved_model.pb"
    os.truncate(graph, graph.stat().st_size - 1)
    return folder


USELESS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a TF1 module": (tf1_module, "TF1"),
    "no graph": (without_graph, "no saved_model.pb"),
    "a damaged graph": (damaged, "saved_model.pb is damaged"),
    "signatures only": (signatures_only, "cannot be called"),
    "a classifier": (classifier, "a classifier"),
    "a map": (lambda folder: save_module(folder, lambda images: images), "a feature vector, float32 (None, width)"),
    "a dict": (lambda folder: save_module(folder, lambda images: {"x": mean_color(images)}), "gives a dict"),
}


@pytest.mark.parametrize("case", USELESS)
def test_nothing_is_left_of_a_module_that_is_none(case: str, server: Server, home: Path, tmp_path: Path) -> None:
    save, reason = USELESS[case]
    url = server.serve("/mine.tar.gz", whole(archives.of_folder(save(tmp_path / "module"))))
    text = refusal(Choice(url))
    assert text.startswith(f"backbone.url={url}: ")
    assert reason in text
    assert cached(home) == []


def test_a_handle_that_promises_features_is_believed(server: Server, home: Path, tmp_path: Path) -> None:
    packed = archives.of_folder(classifier(tmp_path / "module"))
    backbones.check(Choice(server.serve("/google/theirs/feature_vector/1", whole(packed))))


def test_nothing_is_left_of_a_bad_download(server: Server, packed: bytes, home: Path) -> None:
    for answer, kind, reason in (
        (status(404), ConfigError, "404"),
        (status(500), FatalError, "500"),
        (cut_off(packed, len(packed) // 2), FatalError, "broke off"),
        (whole(packed[:-100]), ConfigError, "cut off"),
        (whole(b"<html>Sign in to go on</html>"), ConfigError, "a web page"),
        (whole(archives.targz([archives.member("../x", b"x")])), ConfigError, "outside its folder"),
    ):
        text = refusal(Choice(server.serve("/mine.tar.gz", answer)), kind)
        assert text.startswith(f"backbone.url={server.address}/mine.tar.gz: ")
        assert reason in text
        assert cached(home) == []


def test_what_was_damaged_in_the_cache_is_downloaded_again(server: Server, packed: bytes, home: Path) -> None:
    url = server.serve("/mine.tar.gz", whole(packed))
    saved = backbones.resolve(Choice(url))
    (saved.path / "saved_model.pb").write_bytes(b"")
    assert backbones.resolve(Choice(url)) == saved
    assert len(server.asked) == 2


def test_two_processes_download_once(server: Server, packed: bytes, home: Path) -> None:
    url = server.serve("/mine.tar.gz", whole(packed))
    program = "from graft import backbones; from tests.backbones.choice import Choice\n"
    program += f"print(backbones.resolve(Choice({url!r})))"
    command = [sys.executable, "-c", program]
    processes = [subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate()[0] for process in processes]
    assert outputs[0] == outputs[1] != ""
    assert len(server.asked) == 1


def test_downloading_imports_no_tensorflow(server: Server, packed: bytes, home: Path) -> None:
    url = server.serve("/mine.tar.gz", whole(packed))
    program = (
        "import sys; from graft import backbones; from tests.backbones.choice import Choice\n"
        f"choice = Choice({url!r}); backbones.check(choice); backbones.images_of(choice); backbones.resolve(choice)\n"
        "print(sorted({'tensorflow', 'tf_keras', 'tensorflow_hub'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_a_command_that_is_refused_says_so_before_tensorflow(server: Server, home: Path) -> None:
    url = server.serve("/mine.tar.gz", status(404))
    done = run_command(["python", "train.py", f"backbone.url={url}"], home)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"backbone.url={url}: it cannot be downloaded: the server says 404")
    assert "Traceback" not in done.stderr


def test_a_module_of_someone_else_works_frozen_and_is_fine_tuned_if_it_can_be(
    server: Server, home: Path, tmp_path: Path
) -> None:
    class Theirs(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = tf.Variable(tf.ones((3, 5)), name="weights")
            self.seen = tf.Variable(0.0, trainable=False)
            self.regularization_losses = [tf.function(lambda: tf.reduce_sum(self.weights**2), input_signature=[])]

        @tf.function
        def __call__(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
            if training:
                self.seen.assign_add(1.0)
            return mean_color(images) @ self.weights

    class Plain(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3))])
        def __call__(self, images: tf.Tensor) -> tf.Tensor:
            return mean_color(images)

    theirs = Theirs()
    for training in (False, True):
        theirs.__call__.get_concrete_function(tf.TensorSpec((None, None, None, 3)), training=training)
    # A tf.Module's own lists are properties, which are not saved; as plain attributes they are.
    root: Any = tf.train.Checkpoint(module=theirs)
    root.__call__, root.variables = theirs.__call__, [theirs.weights, theirs.seen]
    root.trainable_variables, root.regularization_losses = [theirs.weights], theirs.regularization_losses
    tf.saved_model.save(root, str(tmp_path / "theirs"))
    tf.saved_model.save(Plain(), str(tmp_path / "plain"))

    images = np.full((2, 64, 64, 3), 0.5, np.float32)
    for name, width in (("theirs", 5), ("plain", 3)):
        url = server.serve(f"/{name}.tar.gz", whole(archives.of_folder(tmp_path / name)))
        choice = Choice(url, feature_width=width)
        saved: SavedBackbone = backbones.resolve(choice)
        assert backbones.hub_layer(saved, choice, trainable=False)(images).shape == (2, width)
        if name == "theirs":
            layer = backbones.hub_layer(saved, choice, trainable=True)
            layer(images, training=True)
            assert len(layer.trainable_weights) == 1
            assert [float(loss) for loss in layer.losses] == [15.0]
            assert float(layer.non_trainable_weights[0]) == 1.0
        else:
            with pytest.raises(ConfigError, match="lists no trainable variables, so it cannot be fine-tuned"):
                backbones.hub_layer(saved, choice, trainable=True)
