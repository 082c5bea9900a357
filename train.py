"""Trains a new head on a pretrained backbone: `python train.py key=value …`, or a sweep with `-m key=a,b …`."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext

try:
    import hydra
    from omegaconf import DictConfig

    from graft import trial
    from graft.command import exit_statuses
    from graft.leaving import leaving_at_once
    from graft.paths import CHECKOUT, home
except ModuleNotFoundError as error:
    sys.exit(f"{error.name} is not installed for {sys.executable}. Run `make setup`, then use .venv/bin/python.")

CONF = CHECKOUT / "conf"
os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra re-raises, so that exit_statuses can tell errors apart
with exit_statuses(CONF):
    os.environ["GRAFT_HOME"] = str(home())  # for conf/, and for the workers of a sweep


def import_libraries() -> None:
    from graft.run import import_libraries

    import_libraries()


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
@trial.initializer(import_libraries)
def main(config: DictConfig) -> float | dict[str, float]:
    from graft.run import train  # late: it is not needed for --help, nor for a configuration that is wrong

    # The sweep decides what a trial's error means. A run on its own ends here, before Hydra adds lines of its own.
    with nullcontext() if trial.current() else exit_statuses(CONF):
        return train(config)


if __name__ == "__main__":
    with leaving_at_once(), exit_statuses(CONF):
        main()
