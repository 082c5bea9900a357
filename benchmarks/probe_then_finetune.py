"""Whether fine-tuning from a probed head gets further, or there sooner, than from a random one.

    python benchmarks/probe_then_finetune.py [key=value …]        digits, or what the keys say

For three seeds, fine-tuning with `init_head=random` and with `init_head=probe`: the epochs, and the seconds with those
of the probe, until the best validation accuracy of the plain run is reached.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from graft.paths import CHECKOUT

SEEDS = (0, 1, 2)


def run(home: Path, seed: int, init_head: str, overrides: list[str]) -> tuple[list[float], list[float], float]:
    """Validation accuracy and seconds of every epoch, and the seconds of the probe."""
    directory = home / f"{init_head}-{seed}"
    command = [sys.executable, "train.py", "trainable=true", *overrides, f"seed={seed}", f"init_head={init_head}"]
    command.append("tracking.log_model=false")
    subprocess.run(
        [*command, f"hydra.run.dir={directory}"],
        cwd=CHECKOUT,
        env={**os.environ, "GRAFT_HOME": str(home)},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    history = json.loads((directory / "checkpoints/history.json").read_text())
    probe = directory / "probe/checkpoints/history.json"
    probed = sum(epoch["epoch_seconds"] for epoch in json.loads(probe.read_text())) if probe.is_file() else 0.0
    return [epoch["val_accuracy"] for epoch in history], [epoch["epoch_seconds"] for epoch in history], probed


def reached(accuracies: list[float], wanted: float) -> int | None:
    """Epochs until `wanted` was reached, or None."""
    return next((epoch + 1 for epoch, accuracy in enumerate(accuracies) if accuracy >= wanted), None)


def main(overrides: list[str]) -> None:
    epochs: dict[str, list[float]] = {"random": [], "probe": []}
    print(f"{' '.join(overrides) or 'digits'}\n")
    print("| seed | plain: best, at epoch | from a probe: best, at epoch | epochs to the plain one's best | seconds |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as home:
        for seed in SEEDS:
            plain, plain_seconds, _ = run(Path(home), seed, "random", overrides)
            probed, seconds, probe_seconds = run(Path(home), seed, "probe", overrides)
            wanted = max(plain)
            plain_epochs, probed_epochs = reached(plain, wanted), reached(probed, wanted)
            assert plain_epochs is not None
            epochs["random"].append(plain_epochs)
            epochs["probe"].append(probed_epochs or float("inf"))
            to_there = f"{sum(plain_seconds[:plain_epochs]):.0f} plain"
            if probed_epochs is not None:
                to_there += f", {sum(seconds[:probed_epochs]) + probe_seconds:.0f} with the probe's {probe_seconds:.1f}"
            print(
                f"| {seed} | {wanted:.4f}, {plain_epochs} | {max(probed):.4f}, {reached(probed, max(probed))} | "
                f"{plain_epochs} plain, {probed_epochs or 'never'} from the probe | {to_there} |",
                flush=True,
            )
    medians = {name: statistics.median(values) for name, values in epochs.items()}
    print(f"\nMedian epochs to the plain one's best: {medians['random']} plain, {medians['probe']} from the probe")


if __name__ == "__main__":
    main(sys.argv[1:])
