"""Engines: the same features within what is promised, and never an engine that was not seen to give them."""

from __future__ import annotations

import itertools
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import backbone_at
from tests.features import modules

from graft import runtime
from graft.config import Config
from graft.errors import ConfigError
from graft.features import extract, xnnpack
from graft.features.store import Features
from graft.run import prepare

Extract = Callable[..., Features]


@pytest.fixture(scope="module")
def backbones(tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    folder = tmp_path_factory.mktemp("modules")
    made = {
        "convolutions": modules.Convolutions(),
        "attention": modules.Attention(),
        "flip": modules.WithRandomFlip(),
    }
    # Its antialiased resize is nothing that TFLite knows.
    return {"resize": tiny_backbone} | {name: modules.save(module, folder / name) for name, module in made.items()}


@pytest.fixture
def features(make_config: Callable[..., Config], backbones: Mapping[str, Path]) -> Extract:
    """The features of 64 digits, in the test's own home."""

    def extracted(backbone: str, *overrides: str) -> Features:
        always = [*backbone_at(backbones[backbone]), "backbone.batch_norm_momentum=null"]
        found = prepare(make_config(*always, "dataset.image_size=8", "dataset.max_images=61", *overrides)).features
        assert found is not None
        return found

    return extracted


@pytest.fixture
def worthwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` wants a conversion for a few small images, too."""
    monkeypatch.setattr(extract, "WORTH_CONVERTING", 0)


def everything(features: Features) -> np.ndarray:
    return features.take(np.arange(len(features.row_of)))


@pytest.mark.parametrize("backbone", ["attention", "convolutions"])
def test_every_engine_gives_the_features_of_tensorflow(features: Extract, backbone: str) -> None:
    exact = features(backbone, "features.engine=tensorflow")
    expected = everything(exact)
    for engine in ("xnnpack", "constants"):
        fast = features(backbone, f"features.engine={engine}")
        assert (exact.engine, fast.engine) == ("tensorflow", engine)
        assert fast.extraction_seconds > 0, "engines have stores of their own"
        assert fast.seconds_an_image > 0
        assert np.abs(everything(fast) - expected).max() <= 1e-4 * np.abs(expected).max()


def test_auto_does_not_convert_for_a_few_images(features: Extract, home: Path) -> None:
    assert features("convolutions").engine == "tensorflow"
    assert not (home / "mlruns/cache/engines").exists()


@pytest.mark.usefixtures("worthwhile")
def test_auto_takes_xnnpack_where_it_pays_and_says_why(
    features: Extract, caplog: pytest.LogCaptureFixture, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO):
        assert features("convolutions").engine == "xnnpack"
    assert "by xnnpack (64 images are worth a conversion for the CPU)" in caplog.text
    assert [file.name for file in (home / "mlruns/cache/engines").glob("*/*.tflite")] == ["model.tflite"]
    assert capfd.readouterr().err == "", "converting is quiet"


@pytest.mark.parametrize(("images", "engine"), [(499, "tensorflow"), (500, "xnnpack")])
def test_how_many_images_there_are_decides(images: int, engine: str) -> None:
    assert extract.choose_engine(images)[0] == engine


@pytest.mark.usefixtures("worthwhile")
def test_a_gpu_has_better_things_to_do(features: Extract, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "has_gpu", lambda: True)
    assert features("convolutions").engine == "tensorflow"


def test_auto_does_not_look_at_what_is_stored(features: Extract) -> None:
    features("convolutions", "features.engine=xnnpack")
    found = features("convolutions")
    assert found.engine == "tensorflow"
    assert found.extraction_seconds > 0


@pytest.mark.parametrize("engine", ["tensorflow", "constants", "xnnpack"])
def test_features_do_not_depend_on_which_images_are_extracted_with_them(
    features: Extract, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by = f"features.engine={engine}"
    at_once = features("convolutions", by, "dataset.max_images=131")
    monkeypatch.setenv("GRAFT_HOME", str(tmp_path))
    features("convolutions", by, "dataset.max_images=34")
    in_parts = features("convolutions", by, "dataset.max_images=131")  # others in the batches, at other places
    assert (len(at_once.parts), len(in_parts.parts)) == (1, 2)
    np.testing.assert_array_equal(everything(in_parts), everything(at_once))


def test_a_module_that_cannot_be_converted_is_refused_in_words(features: Extract, home: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        features("resize", "features.engine=xnnpack")
    assert "features.engine=xnnpack: it cannot be used for backbone.url=" in str(caught.value)
    assert "it cannot be converted: TFLite has no tf.ScaleAndTranslate; allowed are auto" in str(caught.value)
    assert not list((home / "mlruns/cache/engines").glob("*/*.tflite"))
    assert not list((home / "mlruns/cache/features").glob("*/*.json"))


@pytest.mark.usefixtures("worthwhile")
def test_auto_falls_back_to_tensorflow_and_says_so(
    features: Extract, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = features("resize")
    assert found.engine == "tensorflow"
    assert "not extracted by xnnpack: it cannot be converted: TFLite has no tf.ScaleAndTranslate" in caplog.text
    same = features("resize", "features.engine=tensorflow")
    assert same.extraction_seconds == 0
    monkeypatch.setattr("tensorflow.lite.TFLiteConverter.from_concrete_functions", lambda *_: pytest.fail("again"))
    caplog.clear()
    assert features("resize", "dataset.max_images=80").engine == "tensorflow"
    assert "TFLite has no tf.ScaleAndTranslate" in caplog.text, "as if it were tried for the first time"


def test_a_module_with_something_random_inside_is_found_out(
    features: Extract, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for engine in ("xnnpack", "constants"):
        with pytest.raises(ConfigError, match="other features each time, so something in it is random"):
            features("flip", f"features.engine={engine}", "deterministic=false")
    monkeypatch.setattr(extract, "WORTH_CONVERTING", 0)
    assert features("flip", "deterministic=false").engine == "tensorflow"
    assert "not extracted by xnnpack" in caplog.text
    assert "the stored ones are one draw. features=live draws anew" in caplog.text


def test_an_engine_that_gives_other_features_is_refused(features: Extract, monkeypatch: pytest.MonkeyPatch) -> None:
    real = xnnpack.Tflite.__call__
    monkeypatch.setattr(xnnpack.Tflite, "__call__", lambda engine, images: real(engine, images) * 1.001)
    with pytest.raises(ConfigError, match=r"differ from TensorFlow's by 0\.001 of the largest value; 0\.0001 is"):
        features("convolutions", "features.engine=xnnpack")
    drift = itertools.count(1)
    monkeypatch.setattr(xnnpack.Tflite, "__call__", lambda engine, images: real(engine, images) * next(drift))
    with pytest.raises(ConfigError, match="it gives the same images other features each time"):
        features("convolutions", "features.engine=xnnpack", "dataset.image_size=9")
    monkeypatch.setattr(xnnpack.Tflite, "__call__", real)
    with pytest.raises(ConfigError, match=r"differ from TensorFlow's by 0\.001"):  # it is not asked again
        features("convolutions", "features.engine=xnnpack", "dataset.max_images=80")


def test_a_conversion_is_kept_and_a_damaged_one_made_again(
    features: Extract, home: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = features("convolutions", "features.engine=xnnpack")
    (file,) = (home / "mlruns/cache/engines").glob("*/model.tflite")
    written = file.stat().st_mtime_ns
    with monkeypatch.context() as patched:  # what was converted and checked needs no SavedModel any more
        patched.setattr("graft.backbones.hub_layer", lambda *_, **__: pytest.fail("the backbone was loaded"))
        more = features("convolutions", "features.engine=xnnpack", "dataset.max_images=80")
    assert more.extraction_seconds > 0
    assert file.stat().st_mtime_ns == written
    assert more.seconds_an_image == first.seconds_an_image, "a live image costs what it cost"

    with pytest.raises(ConfigError, match=r"backbone\.feature_width=7"):
        features("convolutions", "features.engine=xnnpack", "dataset.max_images=90", "backbone.feature_width=7")

    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    caplog.clear()
    features("convolutions", "features.engine=xnnpack", "dataset.max_images=100")
    assert "is damaged and is replaced" in caplog.text
    assert file.stat().st_mtime_ns != written
    features("convolutions", "features.engine=xnnpack", "backbone.value_range=[-1,1]")
    assert len(list((home / "mlruns/cache/engines").glob("*/model.tflite"))) == 2


def test_a_cache_that_is_deleted_during_a_conversion_costs_time_only(
    features: Extract, home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    at_once, started = xnnpack.to_tflite, itertools.count()

    def while_deleted(function: object) -> bytes:
        if next(started) == 0:
            shutil.rmtree(home / "mlruns/cache")
        return at_once(function)  # type: ignore[arg-type]

    monkeypatch.setattr(xnnpack, "to_tflite", while_deleted)
    assert features("convolutions", "features.engine=xnnpack").engine == "xnnpack"
    assert next(started) == 2
    assert "was removed while it was being made" in caplog.text
