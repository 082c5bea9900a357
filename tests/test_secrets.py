"""What came from the environment, and passwords in addresses, are in no param, tag, artifact and log."""

from __future__ import annotations

import logging
import traceback
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
import yaml
from mlflow.tracking import MlflowClient
from omegaconf import OmegaConf
from tests.conftest import backbone_at, run_command
from tests.images import write_classes
from tests.processes import Training
from typer.testing import CliRunner

from graft.cli import app
from graft.errors import ConfigError
from graft.secrets import Secrets
from graft.tracking.local_record import FIELDS, LocalRecord

SECRET = "geheim-4711"
PASSWORD = "s3same-open"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_backbone: Path) -> Path:
    """Where a sweep was recorded whose photos the environment names, and whose storage has a password."""
    home = tmp_path_factory.mktemp("home")
    write_classes(home / SECRET / "photos", {"cat": 24, "dog": 24})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAFT_TEST_SECRET", SECRET)
        folder = "${oc.env:GRAFT_TEST_SECRET}"
        overrides = [
            "-m",
            "+size=smoke",
            "seed=1,2",
            "dataset=image_folder",
            "dataset.image_size=16",
            "hydra/launcher=basic",
        ]
        overrides += [f"dataset.path={home}/{folder}/photos", *backbone_at(tiny_backbone)]
        training = Training(overrides, home, home / "output", GRAFT_TEST_SECRET=SECRET)
        assert training.wait() == 0, training.errors
    return home


def test_what_the_environment_gave_is_recorded_nowhere(home: Path) -> None:
    files = [file for file in (home / "mlruns").rglob("*") if file.is_file() and "cache" not in file.parts]
    assert len(files) > 30
    assert [file for file in files if SECRET.encode() in file.read_bytes()] == []
    client = MlflowClient(f"sqlite:///{home}/mlruns/mlflow.db")
    trial, *_ = client.search_runs(["1"], "tags.`graft.kind` = 'trial'")
    written = f"{home}/${{oc.env:GRAFT_TEST_SECRET}}/photos"
    assert trial.data.params["dataset.path"] == written
    config = yaml.safe_load(Path(client.download_artifacts(trial.info.run_id, "config.yaml")).read_text())
    assert config["dataset"]["path"] == written


def test_a_rerun_asks_the_environment_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_HOME", str(home))
    client = MlflowClient(f"sqlite:///{home}/mlruns/mlflow.db")
    trial, *_ = client.search_runs(["1"], "tags.`graft.kind` = 'trial'")
    without = CliRunner().invoke(app, ["rerun", trial.info.run_id])
    assert "${oc.env:GRAFT_TEST_SECRET}" in str(without.exception)
    assert "dataset.path" in str(without.exception)
    monkeypatch.setenv("GRAFT_TEST_SECRET", SECRET)
    again = CliRunner().invoke(app, ["rerun", trial.info.run_id, "--verify"])
    assert again.exit_code == 0, again.output
    assert "differs" not in again.output
    test_what_the_environment_gave_is_recorded_nowhere(home)


def test_a_path_is_hidden_however_it_is_spelt(tmp_path: Path, tiny_backbone: Path) -> None:
    """A folder is recorded, and named by errors, from the root and without links."""
    write_classes(tmp_path / SECRET / "photos", {"cat": 24, "dog": 24})
    (tmp_path / "link").symlink_to(SECRET)
    overrides = ["+size=smoke", "dataset=image_folder", "dataset.image_size=16", *backbone_at(tiny_backbone)]

    def run(path: str, photos: str, *more: str) -> Training:
        training = Training([*more, *overrides, f"dataset.path={path}"], tmp_path, tmp_path / "out", PHOTOS=photos)
        training.wait()
        return training

    named = run("${oc.env:PHOTOS}", f"{tmp_path}/./{SECRET}//photos/")
    assert named.wait() == 0, named.errors
    part = run(f"{tmp_path}/${{oc.env:PHOTOS}}/photos", f".//{SECRET}/./")
    assert part.wait() == 0, part.errors
    files = [file for file in (tmp_path / "mlruns").rglob("*") if file.is_file() and "cache" not in file.parts]
    assert [file for file in files if SECRET.encode() in file.read_bytes()] == []
    sources = {line for file in files if file.name == "record.jsonl" for line in file.read_text().splitlines()}
    assert any("${oc.env:PHOTOS}" in line for line in sources)

    for path, photos in (
        ("${oc.env:PHOTOS}/foto", f"{tmp_path}/link/./"),
        ("${oc.env:PHOTOS}/foto", f"{tmp_path}/./{SECRET}//"),
        (f"{tmp_path}/${{oc.env:PHOTOS}}/photo", "link"),
    ):
        wrong = run(path, photos)
        assert wrong.wait() == 2
        assert "there is no folder" in wrong.errors
        assert SECRET not in wrong.errors + wrong.printed, (path, photos)
    swept = run("${oc.env:PHOTOS}/foto", f"{tmp_path}/./{SECRET}//", "-m", "seed=1,2", "hydra/launcher=basic")
    assert swept.wait() == 2
    assert "there is no folder" in swept.errors
    assert SECRET not in swept.errors + swept.printed


@pytest.mark.parametrize(
    ("said", "recorded"),
    [
        (f"http://me:{PASSWORD}@host/x", "http://***@host/x"),
        (f"postgresql+psycopg://me:{PASSWORD}@host:5432/db and more", "postgresql+psycopg://***@host:5432/db and more"),
        (f"https://host/m.tar.gz?tf-hub-format=compressed&X-Amz-Signature={PASSWORD}&a=b",
         "https://host/m.tar.gz?tf-hub-format=compressed&X-Amz-Signature=***&a=b"),
        (f"https://host/m?access_token={PASSWORD}", "https://host/m?access_token=***"),
        ("https://host/m?format=compressed", "https://host/m?format=compressed"),
        ("someone@example.org", "someone@example.org"),
        (f"https://me:{PASSWORD}@home@host/x", "https://***@host/x"),
        (f"https://host/m?sv=1&sig={PASSWORD}#access_token={PASSWORD}", "https://host/m?sv=1&sig=***#access_token=***"),
        (f"https://host/m?a=b&pass={PASSWORD}", "https://host/m?a=b&pass=***"),
        (f"{{'uri': 'https://host?token={PASSWORD}\'s', 'b': 1}}", "{'uri': 'https://host?token=***', 'b': 1}"),
        (f"postgresql://me:it's/{PASSWORD}@host/db", "postgresql://***@host/db"),
        (f"postgresql://me:1/{PASSWORD}@host/db", "postgresql://***@host/db"),
        (f"postgresql://me:my {PASSWORD}@host/db and more", "postgresql://***@host/db and more"),
        (f"mysql://me:my+%2F{PASSWORD}@host/db", "mysql://***@host/db"),
        ("postgresql://host:5432/db of me@example.org", "postgresql://host:5432/db of me@example.org"),
        ("https://host:8080/models@v1", "https://host:8080/models@v1"),
        ("http://[::1]:5000/ and me@example.org", "http://[::1]:5000/ and me@example.org"),
        ("http://127.0.0.1:5000: ask me@example.org", "http://127.0.0.1:5000: ask me@example.org"),
        ("https://host/ me: someone@example.org", "https://host/ me: someone@example.org"),
        ({"a": [f"http://{PASSWORD}@host", 3, None, 0.5, True]}, {"a": ["http://***@host", 3, None, 0.5, True]}),
    ],
)  # fmt: skip
def test_addresses_lose_names_passwords_and_tokens(said: object, recorded: object) -> None:
    assert Secrets().out_of(said) == recorded


@pytest.mark.parametrize("command", ["compare sweep", "sync mlruns/run", "doctor"])
def test_an_address_with_a_token_is_refused_and_not_repeated(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFT_HOME", str(tmp_path))
    LocalRecord(tmp_path / "mlruns" / "run").say("begin", {key: {} for key in FIELDS["begin"]})
    done = run_command(
        ["graft", *command.split(), "--tracking-uri", f"http://host?token={PASSWORD}"], tmp_path, tmp_path
    )
    assert done.returncode != 0
    assert "--tracking-uri=http://host?token=***: " in done.stdout + done.stderr
    assert "MLFLOW_TRACKING_TOKEN" in done.stdout + done.stderr
    assert PASSWORD not in done.stdout + done.stderr


@pytest.mark.parametrize("quotes", ["", '"'])
def test_an_override_with_a_token_is_refused_and_not_repeated(tmp_path: Path, quotes: str) -> None:
    """Without quotes Hydra cannot read it."""
    address = f"tracking.uri={quotes}http://host?token={PASSWORD}{quotes}"
    training = Training(["tracking=server", address], tmp_path, tmp_path / "output")
    assert training.wait() == 2
    assert "http://host?token=***" in training.errors
    assert PASSWORD not in training.errors + training.printed


def test_a_short_value_is_hidden_at_its_key_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_TEST_SEED", "7")
    secrets = Secrets.of(OmegaConf.create({"seed": "${oc.decode:${oc.env:GRAFT_TEST_SEED}}", "epochs": 7}))
    assert secrets.out_of({"seed": 7, "epochs": 7, "name": "7 of 17"}) == {
        "seed": "${oc.decode:${oc.env:GRAFT_TEST_SEED}}",
        "epochs": 7,
        "name": "7 of 17",
    }


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("${oc.env:GRAFT_TEST_SECRET}", "GRAFT_TEST_SECRET"),
        ("${oc.env:'GRAFT_TEST_SECRET'}", "GRAFT_TEST_SECRET"),
        ("${oc.env:GRAFT_TEST_NONE,${oc.env:GRAFT_TEST_SECRET}}", "GRAFT_TEST_SECRET"),
        ("${oc.env:${oc.env:GRAFT_TEST_WHICH}}", None),
        ("${oc.env:${which}}", None),
        ("http://host/${oc.env:GRAFT_TEST_SECRET}", "GRAFT_TEST_SECRET"),
    ],
)
def test_however_it_is_written_it_is_hidden_everywhere(
    monkeypatch: pytest.MonkeyPatch, written: str, name: str | None
) -> None:
    monkeypatch.setenv("GRAFT_TEST_SECRET", SECRET)
    monkeypatch.setenv("GRAFT_TEST_WHICH", "GRAFT_TEST_SECRET")
    secrets = Secrets.of(OmegaConf.create({"key": written, "which": "GRAFT_TEST_SECRET"}))
    said = {"key": SECRET, "other": f"in {SECRET}", SECRET: 1, "quoted": f"%2F{SECRET}"}
    assert secrets.out_of(said)["key"] == written
    assert SECRET not in str(secrets.out_of(said))
    assert name is None or f"${{oc.env:{name}}}" in secrets.out_of(f"in {SECRET}") or written in secrets.out_of(SECRET)


def test_mappings_lists_and_names_made_of_a_secret_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_TEST_JSON", "{user: me, password: geheim-0815}")
    monkeypatch.setenv("GRAFT_TEST_SECRET", SECRET)
    config = OmegaConf.create(
        {
            "login": "${oc.decode:${oc.env:GRAFT_TEST_JSON}}",
            "list": ["x", "${oc.env:GRAFT_TEST_SECRET}"],
            "url": "http://host/a/${oc.env:GRAFT_TEST_SECRET}",
        }
    )
    secrets = Secrets.of(config)
    plain = OmegaConf.to_container(config, resolve=True)
    assert secrets.out_of(plain) == {
        "login": "${oc.decode:${oc.env:GRAFT_TEST_JSON}}",
        "list": ["x", "${oc.env:GRAFT_TEST_SECRET}"],
        "url": "http://host/a/${oc.env:GRAFT_TEST_SECRET}",
    }
    assert secrets.out_of("password geheim-0815") == "password ${oc.decode:${oc.env:GRAFT_TEST_JSON}}"


def test_what_is_swept_and_what_goes_wrong_are_hidden(home: Path, tmp_path: Path) -> None:
    overrides = ["-m", "+size=smoke", "backbone.value_range=[0,1]", "hydra/launcher=basic"]
    overrides += ["backbone.url=${oc.env:GRAFT_TEST_A},${oc.env:GRAFT_TEST_B}"]
    folders = {f"GRAFT_TEST_{name}": str(home / f"{SECRET}-{name}") for name in "AB"}
    training = Training(overrides, tmp_path, tmp_path / "output", **folders)
    assert training.wait() == 2
    assert "backbone.url" in training.errors
    assert SECRET not in training.errors + training.printed


def test_names_and_other_spellings_of_a_secret_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_TEST_FOLDER", '/data/of us/geheim "name"')
    secrets = Secrets.of(OmegaConf.create({"backbone": {"url": "${oc.env:GRAFT_TEST_FOLDER}"}}))
    for said in (
        'geheim "name"',
        '"/data/of us/geheim \\"name\\""',
        "http://host?at=%2Fdata%2Fof%20us%2Fgeheim%20%22name%22",
    ):
        assert "geheim" not in secrets.out_of(said)


def test_a_secret_is_hidden_as_addresses_and_python_spell_it(monkeypatch: pytest.MonkeyPatch) -> None:
    password = "ge/h\\ 'eim"
    monkeypatch.setenv("GRAFT_TEST_SECRET", password)
    secrets = Secrets.of(OmegaConf.create({"key": "${oc.env:GRAFT_TEST_SECRET}"}))
    for said in (password, quote_plus(password), quote(password, safe=" +"), repr(password)):
        assert "eim" not in secrets.out_of(said)


def test_errors_and_what_they_came_from_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_TEST_SECRET", SECRET)
    secrets = Secrets.of(OmegaConf.create({"path": "${oc.env:GRAFT_TEST_SECRET}"}))

    @secrets.out_of_errors()
    def fail() -> None:
        try:
            Path(SECRET, "gone").read_bytes()
        except OSError as error:
            raise ConfigError([f"path={SECRET}: no such file"]) from error

    with pytest.raises(ConfigError) as caught:
        fail()
    told = "".join(traceback.format_exception(caught.value)) + str(caught.value.problems)
    assert SECRET not in told
    assert "path=${oc.env:GRAFT_TEST_SECRET}: no such file" in told
    assert "'${oc.env:GRAFT_TEST_SECRET}/gone'" in told


def test_logs_are_watched(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("GRAFT_TEST_SECRET", SECRET)
    Secrets.of(OmegaConf.create({"path": "${oc.env:GRAFT_TEST_SECRET}"})).watch()
    logging.getLogger("graft.anything").warning("cannot read %s from %s", SECRET, f"http://me:{PASSWORD}@host")
    said = [record.message for record in caplog.records if record.name == "graft.anything"]
    assert said == ["cannot read ${oc.env:GRAFT_TEST_SECRET} from http://***@host"]
    try:
        raise OSError(SECRET)
    except OSError:
        logging.getLogger("graft.anything").exception("failed")
    assert SECRET not in caplog.text
    assert "OSError: ${oc.env:GRAFT_TEST_SECRET}" in caplog.text
    for handler in logging.getLogger().handlers:
        handler.filters.clear()


def test_a_line_whose_arguments_do_not_fit_ends_nothing_and_is_watched(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("GRAFT_TEST_SECRET", SECRET)
    Secrets.of(OmegaConf.create({"path": "${oc.env:GRAFT_TEST_SECRET}"})).watch()
    logging.getLogger("some.library").warning("read %d images", SECRET)
    assert caplog.messages == ["read %d images ('${oc.env:GRAFT_TEST_SECRET}',)"]
    for handler in logging.getLogger().handlers:
        handler.filters.clear()


def test_a_record_that_cannot_be_read_gives_nothing_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_TEST_SECRET", SECRET)
    secrets = Secrets.of({"name": ["${oc.decode:[}", "${oc.env:GRAFT_TEST_SECRET}"]})
    assert secrets.out_of(f"in {SECRET}") == "in ${oc.env:GRAFT_TEST_SECRET}"


def test_a_text_full_of_addresses_takes_no_time_that_grows_with_its_square() -> None:
    """Ten minutes, in which a test that hangs is ended, and more, where each beginning is looked at to the end."""
    text = "a://b:c " * 90_000
    assert Secrets().out_of(text) == text
    hidden = Secrets().out_of(f"{text}d://e:{'f' * 1_500}@g")
    assert "f" not in hidden
    assert hidden.endswith("://***@g")
