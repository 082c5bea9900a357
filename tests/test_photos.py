"""Real photos through the real backbone; skipped, with the reason, where the photos are absent."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from tests.conftest import run_command
from tests.serving import ask, free_port, serving
from typer.testing import CliRunner

from graft.cli import app

SIZE = 96
OF_A_CLASS = 10

Probabilities = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("photos")


@pytest.fixture(scope="module")
def flowers(photos: Path, home: Path) -> Run:
    """A run on all photos, whose model is logged when it ends."""
    # 96 pixels and 4 epochs in place of 256 and 10: a twentieth of the time, and still far above what chance gives.
    overrides = ["dataset=image_folder", f"dataset.path={photos}", f"dataset.image_size={SIZE}", "epochs=4"]
    done = run_command(["python", "train.py", *overrides], home)
    assert done.returncode == 0, done.stderr
    client = MlflowClient(f"sqlite:///{home}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name("graft")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    return run


def test_a_frozen_backbone_tells_flowers_apart(flowers: Run) -> None:
    assert flowers.data.metrics["test_accuracy"] > 0.7
    profiles = [entry.dataset.profile for entry in flowers.inputs.dataset_inputs]
    assert sum(json.loads(profile)["images"] for profile in profiles) == 1000


def test_all_ways_to_use_a_model_agree_on_fifty_photos(
    flowers: Run, photos: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    each = [sorted(folder.glob("*.jpg")) for folder in sorted(photos.iterdir()) if folder.is_dir()]
    files = [file for of_class in each for file in of_class[:: len(of_class) // OF_A_CLASS][:OF_A_CLASS]]
    assert len(files) == 50
    graft(home, "export", flowers.info.run_id, tmp_path / "model", "--tflite")
    names = json.loads((tmp_path / "model/classes.json").read_text())
    told = json.loads(graft(home, "predict", flowers.info.run_id, *files, "--json"))
    expected = np.array([[image["probabilities"][name] for name in names] for image in told])
    decoded = [tf.io.decode_jpeg(file.read_bytes(), channels=3).numpy() for file in files]
    ways = {
        "SavedModel, decoded": (1e-4, signature(tmp_path / "model", "serving_default", "images", decoded)),
        "SavedModel, encoded": (
            1e-4,
            signature(tmp_path / "model", "encoded", "contents", [file.read_bytes() for file in files]),
        ),
        "TFLite": (2e-2, tflite(tmp_path / "model/model.tflite", decoded)),
        "served by MLflow": (1e-4, served(home, flowers, tmp_path / "serve.log", decoded, names)),
    }
    for way, (tolerance, probabilities) in ways.items():
        difference = np.abs(probabilities - expected).max()
        with capsys.disabled():
            print(f"\n{way}: at most {difference:.1e} from graft predict on {len(files)} photos", end="")
        assert difference <= tolerance, way
        assert probabilities.argmax(axis=1).tolist() == expected.argmax(axis=1).tolist(), way


def graft(home: Path, *words: object) -> str:
    """In this process, which has TensorFlow already."""
    done = CliRunner().invoke(app, list(map(str, words)), env={"GRAFT_HOME": str(home)})
    assert done.exception is None, done.exception
    return done.stdout


def signature(folder: Path, name: str, argument: str, images: list[object]) -> Probabilities:
    """Of the exported model, one image after the other, for photos differ in size."""
    loaded = tf.saved_model.load(str(folder))
    function = loaded.signatures[name]
    return np.concatenate(
        [function(**{argument: tf.constant(image)[None]})["probabilities"].numpy() for image in images]
    )


def tflite(file: Path, images: list[npt.NDArray[np.uint8]]) -> Probabilities:
    interpreter = Interpreter(str(file))
    interpreter.allocate_tensors()
    (given,), (gives,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(image: npt.NDArray[np.uint8]) -> Probabilities:
        resized = tf.cast(tf.round(tf.image.resize(image[None], (SIZE, SIZE))), tf.uint8)
        interpreter.set_tensor(given["index"], resized.numpy())
        interpreter.invoke()
        return interpreter.get_tensor(gives["index"])

    return np.concatenate([run(image) for image in images])


def served(home: Path, run: Run, log: Path, images: list[npt.NDArray[np.uint8]], names: list[str]) -> Probabilities:
    """By `mlflow models serve`, as `graft log-model` names the command for the model that the run has left."""
    (command,) = re.findall(r"To serve it: (.+)", graft(home, "log-model", run.info.run_id))
    assert run.data.tags["graft.model"] in command
    port = free_port()
    with serving(["bash", "-c", f"exec env {command} --host 127.0.0.1 --port {port}"], home, port, log, "/ping"):
        answers = [answer for image in images for answer in ask(port, image[None])]
    return np.array([[answer["probabilities"][name] for name in names] for answer in answers])
