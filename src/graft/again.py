"""Commands that take up again what was recorded, as they are typed in the checkout.

`make` uses the programs in .venv without activating it.
"""

from __future__ import annotations

import os
import shlex

from graft.config import TrackingConfig
from graft.paths import CHECKOUT


def train_command(overrides: str, *more: str) -> str:
    """One run with the overrides of a recorded one.

    Args:
        overrides: Its tag ``graft.overrides``, quoted for a shell.
        more: Overrides that come after them, quoted too.
    """
    words = [python(), "train.py", overrides, *more]
    if "experiments=" in overrides:
        words.append("hydra.mode=RUN")  # an experiment may be a sweep of its own
    return " ".join(word for word in words if word)


def python() -> str:
    """How to type the Python that runs this."""
    return _program("python")


def rerun_command(run_id: str, *options: str) -> str:
    """The command that runs a recorded run again and proves that it is the same."""
    return graft_command("rerun", run_id, "--verify", *options)


def graft_command(*words: str) -> str:
    """A command of `graft`, quoted for a shell."""
    return f"{_program('graft')} {shlex.join(words)}"


def log_model_command(run_id: str, tracking: TrackingConfig) -> str:
    """The command that logs the model of a recorded run."""
    return f"{_program('graft')} log-model {shlex.join([run_id, *tracking.options()])}"


def serve_command(model_id: str, tracking: TrackingConfig) -> str:
    """The command that has MLflow answer requests with a logged model."""
    words = ["models", "serve", "--model-uri", f"models:/{model_id}", "--env-manager", "local", "--port", "5001"]
    return f"MLFLOW_TRACKING_URI={shlex.quote(tracking.uri)} {_program('mlflow')} {shlex.join(words)}"


def _program(name: str) -> str:
    inside = CHECKOUT / ".venv" / "bin" / name
    return str(inside.relative_to(CHECKOUT)) if inside.exists() and "VIRTUAL_ENV" not in os.environ else name
