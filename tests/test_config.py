"""Typed configuration: what is accepted, what is derived, and what a wrong value is answered."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf
from pydantic import ValidationError
from tests.conftest import run_command

from graft.backbones import handle
from graft.config import Config, from_hydra
from graft.errors import ConfigError
from graft.paths import CHECKOUT
from graft.tracking.mlflow_store import open_store

MakeConfig = Callable[..., Config]


def wants_photos(file: Path) -> bool:
    """Whether a data set is a folder that this machine does not have."""
    values = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    assert isinstance(values, dict)
    dataset = values.get("dataset", values)
    return dataset.get("name") == "image_folder" and not (CHECKOUT / str(dataset.get("path"))).is_dir()


def test_every_option_of_every_group_makes_a_configuration(make_config: MakeConfig, tmp_path: Path) -> None:
    needs = {
        ("backbone", "custom"): ["backbone.url=/models/mine"],
        ("dataset", "tfds"): ["dataset.name=cifar10"],
        ("tracking", "server"): ["tracking.uri=http://127.0.0.1:5000"],
    }
    seen = 0
    for group in ("backbone", "dataset", "features", "head", "loop", "optimizer", "tracking", "experiments"):
        for file in sorted((CHECKOUT / "conf" / group).glob("*.yaml")):
            own = [f"dataset.path={tmp_path}"] if group == "dataset" and wants_photos(file) else []
            make_config(f"{group}={file.stem}", *own, *needs.get((group, file.stem), []))
            seen += 1
    assert seen >= 15
    assert make_config("+size=smoke").epochs == 2


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], 1e-3),
        (["dataset=image_folder", "dataset.path=.", "trainable=false"], 1e-3),
        (["dataset=image_folder", "dataset.path=.", "trainable=true"], 1e-5),
        (["dataset=image_folder", "dataset.path=.", "trainable=true", "learning_rate=0.5"], 0.5),
        (["default_learning_rates.finetuned=0.25", "trainable=true"], 0.25),
        (["dataset=image_folder", "dataset.path=.", "optimizer=sgd"], 1e-2),
    ],
)
def test_learning_rate_follows_trainable_unless_it_is_given(
    make_config: MakeConfig, overrides: list[str], expected: float
) -> None:
    assert make_config(*overrides).learning_rate == expected


@pytest.mark.parametrize(
    ("head", "width", "rate"),
    [("chapter", 512, 0.0), ("compact", 64, 0.0), ("dropout", 512, 0.5), ("linear", 0, 0.0)],
)
def test_head_sets_the_two_flat_knobs_and_the_command_line_wins(
    make_config: MakeConfig, head: str, width: int, rate: float
) -> None:
    chosen = make_config(f"head={head}")
    assert (chosen.head_width, chosen.dropout_rate) == (width, rate)
    assert make_config(f"head={head}", "head_width=7").head_width == 7


WRONG: list[tuple[list[str], list[str]]] = [
    (["dropout_rate=1.5", "head_width=-3"], ["dropout_rate=1.5: allowed is", "below 1", "head_width=-3: allowed is"]),
    (["epochs=0"], ["epochs=0: allowed is a whole number from 1"]),
    (["epochs=2.0"], ["epochs=2.0: allowed is a whole number from 1"]),
    (
        ["batch_size=99999999999999999999"],
        ["batch_size=99999999999999999999: allowed is a whole number from 1 and below"],
    ),
    (["learning_rate=1e-50"], ["learning_rate=1e-50: ", "in float32, where this is 0"]),
    (["dropout_rate=0.999999999999"], ["dropout_rate=0.999999999999: ", "in float32, where this is 1"]),
    (["batch_size=true"], ["batch_size=true: allowed is a whole number"]),
    (["trainable=1"], ["trainable=1: allowed is true (fine-tune) or false (transfer)"]),
    (["trainable=null"], ["trainable=null: allowed is true"]),
    (["learning_rate=0"], ["learning_rate=0: allowed is a number above 0"]),
    (["learning_rate=inf"], ["learning_rate=inf: allowed is a number above 0"]),
    (["seed=-1"], ["seed=-1: allowed is"]),
    (["patience=0"], ["patience=0: allowed is", "null"]),
    (["features=cached", "trainable=true"], ["features=cached", "trainable=true", "features=live"]),
    (["features=cached", "augment=flip"], ["features=cached", "augment=flip", "features=live", "augment=none"]),
    (["features.memory_budget_mb=-1"], ["features.memory_budget_mb=-1: allowed is a whole number of megabytes from 0"]),
    (["mixed_precision=yess"], ["mixed_precision=yess: allowed is auto, true or false"]),
    (["init_head=prob"], ["init_head=prob: allowed is random or probe"]),
    (["init_head=probe"], ["init_head=probe", "trainable=false", "init_head=random"]),
    (["augment=flp"], ["augment=flp: allowed is none, flip or standard; did you mean flip?"]),
    (["features.engine=XNNPACK"], ["features.engine=XNNPACK: allowed is", "did you mean xnnpack?"]),
    (["mixed_precision=autoo"], ["mixed_precision=autoo: allowed is auto, true or false; did you mean auto?"]),
    (["features.engine=xnpack"], ["features.engine=xnpack: allowed is auto, xnnpack, constants or tensorflow"]),
    (["features=live", "features.engine=xnnpack"], ["features.engine=xnnpack: with features=live nothing is"]),
    (["features.mode=cache"], ["features.mode=cache: allowed is auto, cached or live"]),
    (["+foo=1"], ["foo=1: there is no such key"]),
    (["+dataset.imagesize=3"], ["dataset.imagesize=3: there is no such key; did you mean image_size?"]),
    (
        ["dataset.name=digit"],
        [
            "dataset.name=digit: allowed are digits, image_folder, fashion_mnist, and with dataset=tfds (in a file, "
            "source: tfds) any name of TFDS's; did you mean digits?"
        ],
    ),
    (["dataset.name=3"], ["dataset.name=3: allowed are digits, image_folder, "]),
    (["~dataset.name"], ["dataset.name is not set; allowed are digits, image_folder, "]),
    (
        ["dataset=image_folder", "dataset.path=.", "+dataset.source=image_folder", "dataset.name=image_folders"],
        ["dataset.name=image_folders: allowed is image_folder; did you mean image_folder?"],
    ),
    (["+dataset.source=digit"], ["dataset.source=digit: allowed are digits, ", "; did you mean digits?"]),
    (["optimizer.name=adm"], ["optimizer.name=adm: allowed are adam, adamw, sgd; did you mean adam?"]),
    (["+image_size=64"], ["image_size=64: there is no such key; did you mean dataset.image_size?"]),
    (["+foo.bar=1"], ["foo={'bar': 1}: there is no such key"]),
    (["dataset.on_corrupt=skp"], ["dataset.on_corrupt=skp: allowed is error or skip"]),
    (
        ["dataset.train_fraction=0.7"],
        ["train_fraction, val_fraction and test_fraction must add up to 1; they give 1.2"],
    ),
    (["dataset=image_folder"], ["dataset.path is not set", "one sub-folder a class"]),
    (["dataset=image_folder", "dataset.path='~nobody9/x'"], ["dataset.path=~nobody9/x: ~nobody9 is no user of this"]),
    (["dataset=tf_flowers", "dataset.data_dir='~nobody9'"], ["dataset.data_dir=~nobody9: ~nobody9 is no user"]),
    (["tracking.uri='sqlite:///~nobody9/x'"], ["tracking.uri=sqlite:///~nobody9/x: ~nobody9 is no user of this"]),
    (["tracking.artifacts='~nobody9/x'"], ["tracking.artifacts=~nobody9/x: ~nobody9 is no user of this"]),
    (["dataset=image_folder", "dataset.path=/nowhere"], ["dataset.path=/nowhere: there is no folder /nowhere"]),
    (["optimizer=sgd", "optimizer.momentum=3"], ["optimizer.momentum=3: allowed is a number from 0 and below 1"]),
    (["+optimizer.momentum=0.9"], ["optimizer.momentum=0.9: there is no such key"]),
    (["head=linear", "dropout_rate=0.2"], ["dropout_rate=0.2", "head_width=0"]),
    (["backbone.sha256=abc"], ["backbone.sha256=abc: allowed is 64 hexadecimal digits, auto, or null"]),
    (["backbone.value_range=[1,0]"], ["backbone.value_range=[1, 0]: two finite numbers are wanted, the lower first"]),
    (["backbone.batch_norm_momentum=1"], ["backbone.batch_norm_momentum=1: allowed is a number between 0 and 1"]),
    (["tracking=server"], ["tracking.uri is not set"]),
    (["tracking.uri=file:///tmp/x"], ["tracking.uri=file:///tmp/x", "sqlite:///"]),
    (["tracking.uri='sqlite:////a%20b/x.db'"], ["tracking.uri=sqlite:////a%20b/x.db: %20 means something else"]),
    (["tracking.uri='sqlite:///x.db?timeout=5'"], ["tracking.uri=sqlite:///x.db?timeout=5: ? means something else"]),
    (["tracking.artifacts='s3://bucket/x'"], ["tracking.artifacts=s3://bucket/x: an address is for the server to"]),
    (["tracking.artifacts='/a%41b'"], ["tracking.artifacts=/a%41b: MLflow takes %41 for another character"]),
    (["tracking=server", 'tracking.uri="http://bob:secret@host"'], ["MLFLOW_TRACKING_USERNAME"]),
    (["tracking=server", 'tracking.uri="http://host?access_token=secret"'], ["MLFLOW_TRACKING_TOKEN"]),
    (["dataset.image_size=100000"], ["dataset.image_size=100000: allowed is a whole number of pixels from 1 to 4096"]),
    (["head_width=100000000000"], ["head_width=100000000000: allowed is a whole number from 0 to 65536"]),
    (["backbone.value_range=[0,inf]"], ["two finite numbers"]),
    (["backbone.input_size=0"], ["backbone.input_size=0: allowed is a whole number of pixels from 1 to 4096, or auto"]),
    (["backbone.input_size=atuo"], ["backbone.input_size=atuo: allowed is a whole number of pixels from 1 to 4096"]),
    (["+backbone.known.width=3"], ["known=", "feature_width"]),
    (["learning_rate=${learning_rate}"], ["learning_rate: this leads back to itself"]),
    (["seed={a:${epochs}}", "epochs={b:${seed}}"], ["this leads back to itself"]),
    (["learning_rate=${foo}"], ["learning_rate: Interpolation key 'foo' not found"]),
]


@pytest.mark.parametrize(("overrides", "texts"), WRONG, ids=[" ".join(overrides) for overrides, _ in WRONG])
def test_wrong_values_are_named_with_what_is_allowed(
    make_config: MakeConfig, overrides: list[str], texts: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        make_config(*overrides)
    for text in texts:
        assert text in str(caught.value)


@pytest.mark.parametrize(
    ("group", "text", "answer"),
    [
        (
            "head",
            "head_width: 1024\ndropout_rate: 0.2\n",
            "head={'head_width': 1024, 'dropout_rate': 0.2}: there is no such key; a file of head/ sets keys of the "
            "top level if its first line is # @package _global_",
        ),
        ("mine", "epochs: 3\n", "mine={'epochs': 3}: there is no such key; a file of mine/ sets keys of the top level"),
        (
            "dataset",
            "name: digits\ndefault_learning_rates:\n  frozen: 0.1\n  finetuned: 0.1\n",
            "there is no such key; default_learning_rates is a key of the top level, which a file sets if its first "
            "line is # @package _global_",
        ),
        (
            "dataset",
            "# @package _global_\nname: digits\nimage_size: 96\n",
            "image_size=96: there is no such key; did you mean dataset.image_size?",
        ),
    ],
)
def test_a_file_whose_keys_are_one_level_off_is_told_by_its_first_line(
    compose_config: Callable[..., DictConfig], tmp_path: Path, group: str, text: str, answer: str
) -> None:
    (tmp_path / group).mkdir()
    (tmp_path / group / "own.yaml").write_text(text)
    chosen = f"{'+' if group == 'mine' else ''}{group}=own"
    with pytest.raises(ConfigError) as caught:
        from_hydra(compose_config(chosen, f"hydra.searchpath=[file://{tmp_path}]"))
    assert answer in str(caught.value)


def test_numbers_of_a_group_hold_for_its_own_url_alone(make_config: MakeConfig) -> None:
    own = make_config("backbone=mobilenet_v2").backbone
    assert (own.name, own.input_size, own.value_range, own.feature_width) == ("mobilenet_v2", 224, (0.0, 1.0), 1280)
    other = make_config("backbone=mobilenet_v2", "backbone.url=/models/mine").backbone
    assert other.name == "mine"
    assert (other.input_size, other.value_range, other.feature_width, other.batch_norm_momentum) == (None,) * 4
    given = make_config("backbone.url=/models/mine", "backbone.input_size=96", "backbone.value_range=[-1,1]").backbone
    assert (given.input_size, given.value_range) == (96, (-1.0, 1.0))
    assert make_config("backbone.batch_norm_momentum=null").backbone.batch_norm_momentum is None
    assert make_config("backbone=mobilenet_v2", "backbone.input_size=128").backbone.input_size == 128


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("package:efficientnet_lite0", "efficientnet_lite0"),
        ("https://tfhub.dev/google/tf2-preview/inception_v3/feature_vector/4", "inception_v3"),
        ("https://www.kaggle.com/models/google/inception-v3/TensorFlow2/feature-vector/2", "inception-v3"),
        ("kaggle:google/mobilenet-v2/tensorFlow2/100-224-feature-vector/2", "100-224-feature-vector"),
        ("https://host/models/mine.tar.gz?version=3", "mine"),
        ("/models/mine.tgz", "mine"),
        ("/models/mine/", "mine"),
        ("/models/7", "models"),
        ("/", "/"),
    ],
)
def test_a_backbone_is_called_by_what_tells_most_of_its_url(make_config: MakeConfig, url: str, name: str) -> None:
    assert make_config(f"backbone.url='{url}'").backbone.name == name


def test_a_folder_with_a_similar_name_is_suggested(make_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(ConfigError, match=f"did you mean {tmp_path}/photos"):
        make_config("dataset=image_folder", f"dataset.path={tmp_path}/fotos")


def test_relative_paths_start_at_the_checkout_and_records_at_the_home(
    make_config: MakeConfig, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf").mkdir()
    config = make_config("dataset=image_folder", "dataset.path=conf")
    assert config.dataset.model_dump()["path"] == str(CHECKOUT / "conf")
    assert config.tracking.uri == f"sqlite:///{home}/mlruns/mlflow.db"


@pytest.mark.parametrize("folder", ["a?b", "a%20b"])
def test_a_home_that_no_database_can_lie_in_is_refused_before_anything_is_made(tmp_path: Path, folder: str) -> None:
    home = tmp_path / folder
    for command in (["python", "train.py"], ["python", "train.py", "-m", "seed=1,2"], ["graft", "compare"]):
        done = run_command(command, home)
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith(f"GRAFT_HOME={home}: "), done.stderr
        assert "Traceback" not in done.stderr
    assert not any(tmp_path.iterdir())


def test_other_signs_in_a_home_mean_themselves(make_config: MakeConfig, home: Path) -> None:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("GRAFT_HOME", str(home / "a%b #&;[1]"))
        tracking = make_config().tracking
        open_store(tracking)
        assert (home / "a%b #&;[1]/mlruns/mlflow.db").exists()


def test_flat_names_every_leaf_once_and_the_learning_rate_is_the_one_in_use(make_config: MakeConfig) -> None:
    flat = make_config("dataset=image_folder", "dataset.path=.", "trainable=true").flat()
    assert flat["learning_rate"] == 1e-5
    assert flat["trainable"] is True
    assert flat["backbone.name"] == "efficientnet_lite0"
    assert flat["backbone.value_range"] == "[0.0, 1.0]"
    assert not any(isinstance(value, dict | list | tuple) for value in flat.values())


def test_digest_follows_what_decides_the_result_and_nothing_else(make_config: MakeConfig) -> None:
    digest = make_config().sha256()
    assert make_config("tracking.experiment=other").sha256() == digest
    assert make_config("seed=1").sha256() != digest
    for decisive in (
        "augment=flip",
        "learning_rate_schedule=cosine",
        "class_weights=balanced",
        "dataset.splits=resplit",
    ):
        assert make_config(decisive).sha256() != digest
    assert make_config("learning_rate=0.001").sha256() == digest  # the same as the default for frozen digits


def test_where_the_data_lie_does_not_decide_the_result(make_config: MakeConfig, tmp_path: Path) -> None:
    digest = make_config("dataset=tf_flowers").sha256()
    assert (
        make_config("dataset=tf_flowers", f"dataset.data_dir={tmp_path}", "dataset.download=false").sha256() == digest
    )
    assert make_config("dataset=tfds", "dataset.name=tf_flowers").sha256() == digest
    assert make_config("dataset=tfds", "dataset.name=cifar10").sha256() != digest


def test_features_are_stored_only_where_every_epoch_has_the_same(make_config: MakeConfig) -> None:
    assert make_config("features=auto").cached_features
    assert not make_config("features=auto", "augment=standard").cached_features
    assert not make_config("features=auto", "trainable=true").cached_features
    assert not make_config("features=live").cached_features


def test_a_sweep_over_trainable_may_name_an_engine(make_config: MakeConfig) -> None:
    assert make_config("trainable=true", "features.engine=xnnpack").trainable


def test_a_configuration_cannot_be_changed(make_config: MakeConfig) -> None:
    config = make_config()
    with pytest.raises((ValidationError, dataclasses.FrozenInstanceError)):
        config.epochs = 3  # type: ignore[misc]


def test_several_mistakes_in_several_groups_come_in_one_error(compose_config: Callable[..., object]) -> None:
    with pytest.raises(ConfigError) as caught:
        from_hydra(compose_config("dataset.name=digit", "trainable=1", "learning_rate=0"))  # type: ignore[arg-type]
    assert len(caught.value.problems) == 3


def test_a_number_that_python_does_not_write_out_is_told(compose_config: Callable[..., DictConfig]) -> None:
    """YAML reads hexadecimal numbers of any length."""
    config = compose_config()
    config.epochs = 16**5_000
    with pytest.raises(ConfigError, match="epochs=a number of thousands of digits: allowed is a whole number from 1"):
        from_hydra(config)


def test_an_address_that_is_none_is_told_by_the_backbone(make_config: MakeConfig) -> None:
    backbone = make_config("backbone.url='http://['").backbone
    assert backbone.name == "["
    with pytest.raises(ConfigError, match=r"backbone.url=http://\[: this is no address"):
        handle.remote(backbone.url)
