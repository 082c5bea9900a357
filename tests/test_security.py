"""What `docs/security.md` promises of the code as it is written, and of what it leaves on the disk."""

from __future__ import annotations

import ast
import json
import os
import pickle
import re
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.storages.journal._base import BaseJournalSnapshot
from tests.conftest import backbone_at, run_command
from tests.images import write_classes

from graft.data import image_files, tfds
from graft.digests import file_sha256
from graft.errors import FatalError
from graft.features import parts
from graft.paths import CHECKOUT
from graft.sweep.cmaes_state import read_state
from graft.sweep.options import Part, make_sampler
from graft.sweep.storage import open_storage

SOURCES = [*sorted((CHECKOUT / "src").rglob("*.py")), CHECKOUT / "train.py"]

# Calls that run what they read. Those with an argument do so where it is not what stands here.
RUN_WHAT_THEY_READ = {
    "builtins.eval", "builtins.exec", "cloudpickle.load", "cloudpickle.loads", "dill.load", "dill.loads",
    "joblib.load", "marshal.load", "marshal.loads", "os.popen", "os.system", "pandas.read_pickle", "pickle.load",
    "pickle.loads", "pickle.Unpickler", "shelve.open", "subprocess.getoutput", "subprocess.getstatusoutput",
    "tensorflow.keras.models.load_model", "tf_keras.models.load_model", "torch.load", "yaml.full_load", "yaml.load",
    "yaml.load_all", "yaml.unsafe_load", "yaml.unsafe_load_all", "asyncio.create_subprocess_shell",
}  # fmt: skip
ONLY_WITH = {"allow_pickle": False, "shell": False}

ALLOWED = {
    ("src/graft/sweep/worker.py", "pickle.loads"): (3, "setup, application and jobs, from the worker's own pipe"),
    ("src/graft/sweep/ray_actor.py", "pickle.loads"): (1, "the setup that Ray hands the actor, from the controller"),
    ("src/graft/sweep/cmaes_state.py", "pickle.Unpickler"): (1, "only of classes that hold numbers"),
    ("src/graft/sweep/compose.py", "pickle.loads"): (1, "a copy of what the same object pickled, in memory"),
}


def dangers(source: str) -> Iterator[str]:
    """The calls in a module that run, or hand to a shell, what they are given; by whatever name they were imported."""
    tree = ast.parse(source)
    names = {"eval": "builtins.eval", "exec": "builtins.exec"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.split(".")[0]  # what `import os.path` makes known
                names[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        # Also where a function is only named, to be called by another.
        if isinstance(node, ast.Name | ast.Attribute) and (name := full_name(node, names)) in RUN_WHAT_THEY_READ:
            yield name
        if isinstance(node, ast.Call):
            for keyword in node.keywords:
                fine = isinstance(keyword.value, ast.Constant) and keyword.value.value is ONLY_WITH.get(
                    keyword.arg or ""
                )
                if keyword.arg in ONLY_WITH and not fine:
                    yield f"{keyword.arg}="


def full_name(node: ast.expr, names: dict[str, str]) -> str | None:
    if isinstance(node, ast.Attribute):
        owner = full_name(node.value, names)
        return owner and f"{owner}.{node.attr}"
    return names.get(node.id) if isinstance(node, ast.Name) else None


def test_nothing_runs_what_it_reads_but_what_is_sent_to_a_worker() -> None:
    found = Counter(
        (str(file.relative_to(CHECKOUT)), danger) for file in SOURCES for danger in dangers(file.read_text())
    )
    assert found == {place: count for place, (count, _) in ALLOWED.items()}


@pytest.mark.parametrize(
    ("source", "danger"),
    [
        ("import pickle as p\np.load(open('x', 'rb'))", "pickle.load"),
        ("from cloudpickle import loads as read\nread(b'')", "cloudpickle.loads"),
        ("import numpy as np\nnp.load('x', allow_pickle=True)", "allow_pickle="),
        ("import numpy as np\nnp.load('x', allow_pickle=chosen)", "allow_pickle="),
        ("import subprocess\nsubprocess.run('ls', shell=True)", "shell="),
        ("import os\nos.system('ls')", "os.system"),
        ("import yaml\nyaml.load('x')", "yaml.load"),
        ("import torch\nlist(map(torch.load, files))", "torch.load"),
        ("from tf_keras import models\nmodels.load_model('x')", "tf_keras.models.load_model"),
        ("eval('1')", "builtins.eval"),
    ],
)
def test_every_spelling_is_found(source: str, danger: str) -> None:
    assert list(dangers(source)) == [danger]


def test_what_is_harmless_is_not() -> None:
    source = "import numpy, yaml, subprocess\nnumpy.load('x')\nyaml.safe_load('x')\nsubprocess.run(['ls'], shell=False)"
    assert list(dangers(source)) == []


class Bomb:
    """Whoever unpickles it makes a file."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self._trace,)


def test_a_pickle_in_a_store_is_damage_and_is_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    bomb = np.empty(1, object)
    bomb[0] = Bomb(trace)
    np.save(tmp_path / "part.npy", bomb)
    np.save(tmp_path / image_files.PIXELS, bomb)
    np.savez(tmp_path / tfds.ROWS, digests=bomb, labels=bomb, splits=bomb)
    index = {"images": ["x"], "seconds_an_image": 0.0, "sha256": file_sha256(tmp_path / "part.npy")}
    (tmp_path / "part.json").write_text(json.dumps(index))
    (tmp_path / image_files.INDEX).write_text(
        json.dumps({"sha256": file_sha256(tmp_path / image_files.PIXELS), "unreadable": {}})
    )
    (tmp_path / tfds.FACTS).write_text(json.dumps({"records": [], "unlabelled": 0}))
    assert parts.read_part(tmp_path / "part.json") is None
    assert image_files.read_index(tmp_path) is None
    with pytest.raises(ValueError, match="pickle"):
        tfds._read(tmp_path, 0)
    assert not trace.exists()
    pickle.loads(pickle.dumps(Bomb(trace)))
    assert trace.exists(), "the bomb is one"


def test_a_pickle_in_a_study_is_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    with pytest.raises(FatalError, match="do not go on with this study"):
        read_state(pickle.dumps([np.zeros(2), Bomb(trace)]))
    held = np.empty(1, object)
    held[0] = Bomb(trace)
    with pytest.raises(FatalError, match="do not go on with this study"):
        read_state(pickle.dumps(held))
    assert not trace.exists()
    np.testing.assert_array_equal(read_state(pickle.dumps(np.arange(3.0))), [0, 1, 2])
    # Optuna's other pickles are of journals that take snapshots, and ours is none that does.
    assert not isinstance(open_storage(str(tmp_path / "study.journal"))._backend, BaseJournalSnapshot)


def test_the_sampler_that_keeps_a_pickle_reads_it_there(tmp_path: Path) -> None:
    """Optuna asks its own method, by a name that another version may change."""
    pytest.importorskip("cmaes", reason="cmaes is not installed")
    study = optuna.create_study(sampler=make_sampler(Part("CmaEsSampler", {"n_startup_trials": 1}), seed=0))
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1) ** 2 + trial.suggest_float("y", 0, 1), n_trials=20)
    assert any("cma:optimizer" in key for trial in study.trials for key in trial.system_attrs)
    assert study.best_value < 0.5
    poisoned = study.trials[-1]
    own = {key: value for key, value in poisoned.system_attrs.items() if "optimizer" not in key}
    poisoned.system_attrs = own | {"cma:optimizer:0": pickle.dumps(Bomb(tmp_path / "trace")).hex()}
    study.add_trial(poisoned)
    with pytest.raises(FatalError, match="do not go on with this study"):
        study.optimize(lambda trial: trial.suggest_float("x", 0, 1) + trial.suggest_float("y", 0, 1), n_trials=1)
    assert not (tmp_path / "trace").exists()


def test_no_source_listens_on_every_interface() -> None:
    for file in [*SOURCES, *(CHECKOUT / "src").rglob("*.yaml"), CHECKOUT / "Makefile"]:
        assert not re.search(r"0\.0\.0\.0|\[::\]|['\"]::['\"]", file.read_text()), file


def test_every_server_of_the_makefile_is_told_where_to_listen() -> None:
    recipes = (CHECKOUT / "Makefile").read_text().replace("\\\n", " ").splitlines()
    servers = [line for line in recipes if re.search(r"IN_VENV\) (mlflow|optuna-dashboard|tensorboard) ", line)]
    assert len(servers) == 3
    assert all("--host 127.0.0.1" in line for line in servers)


def test_no_command_turns_the_checks_of_mlflow_off() -> None:
    for file in [*SOURCES, CHECKOUT / "Makefile", *(CHECKOUT / ".ci").iterdir()]:
        assert not re.search(
            r"SECURITY_MIDDLEWARE|security-middleware|allowed-hosts|ALLOWED_HOSTS|cors-allowed|CORS_ALLOWED|FRAME_OPTIONS",
            file.read_text(),
        ), file


SECRET = "geheim-1507"


@pytest.mark.parametrize(("umask", "values"), [(0o077, "1"), (0o027, "1,2")], ids=["a run, 077", "a sweep, 027"])
def test_files_are_for_whom_the_umask_says_and_hold_no_secret(
    tiny_backbone: Path, tmp_path: Path, umask: int, values: str
) -> None:
    """With Graft's own launcher, whose workers are processes, and with all that a run leaves behind, the cache too."""
    home, photos = tmp_path / "home", tmp_path / SECRET / "photos"
    home.mkdir()
    write_classes(photos, {"cat": 24, "dog": 24})
    words = ["python", "train.py", *(["-m"] if "," in values else []), "+size=smoke", "epochs=1", f"seed={values}"]
    words += [
        "dataset=image_folder",
        "dataset.image_size=16",
        f"dataset.path={tmp_path}/${{oc.env:GRAFT_TEST_SECRET}}/photos",
    ]
    words += backbone_at(tiny_backbone)
    done = run_command(["sh", "-c", f'umask {umask:03o}; exec "$@"', "sh", *words], home, GRAFT_TEST_SECRET=SECRET)
    assert done.returncode == 0, done.stdout + done.stderr
    assert SECRET not in done.stdout + done.stderr
    found = list((home / "mlruns").rglob("*"))
    assert {"mlflow.db", "record.jsonl", "config.yaml", "checkpoints", "cache"} <= {path.name for path in found}
    wider = {
        str(path.relative_to(home)): oct(stat.S_IMODE(path.lstat().st_mode))
        for path in found
        if not path.is_symlink() and path.lstat().st_mode & umask
    }
    assert wider == {}
    holding = [path for path in found if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert holding == []
    assert not [path for path in found if SECRET in os.fspath(path.relative_to(home))]
