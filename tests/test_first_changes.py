"""The three changes that CONTRIBUTING shows to newcomers, made as they stand there, in a copy of the checkout."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from mlflow.tracking import MlflowClient
from tests.conftest import backbone_at, run_command
from tests.images import write_classes

from graft.paths import CHECKOUT

TEXT = (CHECKOUT / "CONTRIBUTING.md").read_text().split("## A first change")[1].split("\n## ")[0]


def make_the_changes(checkout: Path, photos: Path) -> None:
    for name in ("conf", "experiments", "src"):
        shutil.copytree(CHECKOUT / name, checkout / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("train.py", "requirements.lock", "pyproject.toml"):
        shutil.copy(CHECKOUT / name, checkout / name)
    for text in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL):
        first, _, rest = text.partition("\n")
        (checkout / first.removeprefix("# ")).write_text(rest.replace("/data/mushrooms", str(photos)))
    (snippet,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    name = re.findall(r'metrics\["(\w+)"\]', snippet)[0]
    module = checkout / "src/graft/loop/result.py"
    source = module.read_text()
    changed = source.replace("SUMMARY_METRICS = (", f'SUMMARY_METRICS = (\n    "{name}",', 1)
    indented = "".join(f"        {line}\n" if line else "\n" for line in snippet.splitlines())
    changed = changed.replace("        return metrics\n", f"{indented}        return metrics\n", 1)
    assert changed.count(name) == 2
    module.write_text(changed)


def test_a_head_a_data_set_and_a_metric(tiny_backbone: Path, home: Path, tmp_path: Path) -> None:
    photos, checkout = tmp_path / "photos", tmp_path / "checkout"
    write_classes(photos, {"edible": 40, "poisonous": 12})
    make_the_changes(checkout, photos)
    done = run_command(
        [
            "python", "train.py", "-m", "head=wide", "dataset=mushrooms", "epochs=2", *backbone_at(tiny_backbone),
            "hydra.sweeper.objective=test_balanced_accuracy", "tracking.log_model=false",
        ],
        home, checkout, PYTHONPATH=str(checkout / "src"),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    client = MlflowClient(f"sqlite:///{home}/mlruns/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'graft'")
    (run,) = client.search_runs([experiment.experiment_id], "tags.`graft.kind` = 'trial'")
    assert {key: run.data.params[key] for key in ("head_width", "dropout_rate", "dataset.image_size")} == {
        "head_width": "1024",
        "dropout_rate": "0.2",
        "dataset.image_size": "96",
    }
    (sweep,) = client.search_runs([experiment.experiment_id], "tags.`graft.kind` = 'sweep'")
    assert json.loads(sweep.data.tags["graft.objectives"]) == {"test_balanced_accuracy": "maximize"}
    (folder,) = home.glob("mlruns/sweeps/*/*/0")
    rows = json.loads((folder / "confusion.json").read_text())["counts"]
    expected = sum(row[label] / sum(row) for label, row in enumerate(rows)) / len(rows)
    assert run.data.metrics["test_balanced_accuracy"] == expected
    assert f"test_balanced_accuracy={expected:g}"[:26] in done.stdout
