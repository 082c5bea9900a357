"""What determinism costs: seconds an epoch with `deterministic=true`, the default, and with `deterministic=false`.

    python benchmarks/determinism.py [--rounds 7]

Lite0 on the digits at 64 pixels, frozen on stored features, fine-tuned, and fine-tuned with `augment=standard`. Both
take turns epoch by epoch in one process, so that a change of the machine's speed meets both; each has compiled steps of
its own. An epoch trains and validates; medians count.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from hydra import compose, initialize_config_dir

from graft import runtime
from graft.config import Config, from_hydra
from graft.paths import CHECKOUT
from graft.preparation import Prepared, prepare

CASES = {
    "frozen, on stored features": [],
    "fine-tuned": ["trainable=true"],
    "fine-tuned, `augment=standard`": ["trainable=true", "augment=standard"],
}
SHORT = 10  # so many times as many turns for epochs of less than a second


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="epochs of each contestant")
    options = parser.parse_args()
    print("| seconds an epoch | true: median, least | false: median, least | true's median in false's |")
    print("|---|---|---|---|", flush=True)
    for name, overrides in CASES.items():
        measured = measure(overrides, options.rounds)
        strict, loose = (statistics.median(seconds) for seconds in measured.values())
        columns = [f"{statistics.median(seconds):.3f}, {min(seconds):.3f}" for seconds in measured.values()]
        print(f"| {name} | {' | '.join(columns)} | {strict / loose:.2f} |", flush=True)


def measure(overrides: list[str], rounds: int) -> dict[bool, list[float]]:
    contestants: dict[bool, tuple[Config, Prepared]] = {}
    for deterministic in (True, False):
        with initialize_config_dir(str(CHECKOUT / "conf"), version_base="1.3"):
            always = ["epochs=1", f"deterministic={str(deterministic).lower()}"]
            config = from_hydra(compose("config", overrides=[*always, *overrides]))
        contestants[deterministic] = config, prepare(config)
        turn(*contestants[deterministic])  # traces
    if min(turn(*contestant) for contestant in contestants.values()) < 1:
        rounds *= SHORT
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for number in range(rounds):
        for deterministic in (True, False) if number % 2 else (False, True):
            seconds[deterministic].append(turn(*contestants[deterministic]))
    return seconds


def turn(config: Config, prepared: Prepared) -> float:
    """Seconds that an epoch took."""
    from graft.loop import gradient_tape
    from graft.tracking.recorder import MemoryRecorder

    runtime.set_up(config)
    with tempfile.TemporaryDirectory() as folder:
        fitted = gradient_tape.fit(
            prepared.trainer, prepared.data, config, Path(folder), MemoryRecorder(), lambda: None
        )
    return fitted.history[0]["epoch_seconds"]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as home:
        os.environ["GRAFT_HOME"] = home
        main()
