"""Whether the stores' memory grows with the data set: its peak while they are filled, and while they are read.

    python benchmarks/memory.py [--images 5000 20000]

Promised: it does not. So many random PNGs of 64 pixels are decoded, stored and run through a small backbone with 1,024
features an image by one fresh process; another opens both stores and reads every row twice, in random order. Anonymous
memory is what a process cannot be without; the resident set also counts the pages of mapped files, the features here,
which the system takes back when it wants. What the imports took is told apart.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the small backbone, which the tests have

import numpy as np

SIZE = 64
FILTERS = 64  # of the backbone; 16 features each
KEYS = {"RssAnon": "anonymous", "VmRSS": "resident"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[5_000, 20_000])
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return
    peaks: dict[str, list[dict[str, float]]] = {"fill": [], "read": []}
    with tempfile.TemporaryDirectory(prefix="graft-bench-") as folder:
        from tests.tiny_backbone import save_tiny_backbone

        save_tiny_backbone(Path(folder) / "backbone", width=FILTERS)
        for count in options.images:
            case = Path(folder) / str(count)
            write_images(case / "photos", count)
            for work, found in peaks.items():
                found.append(run(case))
                stored = sum(file.stat().st_size for file in (case / "mlruns/cache").rglob("*.npy")) / 1e6
                print(f"{count:6d} images, {stored:.0f} MB stored, {work}: {in_words(found[-1])}", flush=True)
    for work, found in peaks.items():
        ratio = found[-1]["anonymous_peak"] / found[0]["anonymous_peak"]
        grown = [peak["anonymous_peak"] - peak["anonymous_before"] for peak in found]
        print(
            f"{work}: peak anonymous memory {ratio:.2f} times; above the imports {grown[0]:.0f} and {grown[-1]:.0f} MB"
        )


def in_words(peak: dict[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.1f}" for name, value in peak.items())


def write_images(folder: Path, count: int) -> None:
    from PIL import Image

    for name in ("one", "two"):
        (folder / name).mkdir(parents=True)

    def write(number: int) -> None:
        pixels = np.random.default_rng(number).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
        Image.fromarray(pixels).save(folder / ("one", "two")[number % 2] / f"{number}.png", compress_level=1)

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(write, range(count)):
            pass


def run(case: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", str(case)]
    done = subprocess.run(command, env={**os.environ, "GRAFT_HOME": str(case)}, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(case: Path) -> dict[str, float]:
    """MB before and at the peak, and the seconds that the work took; what is there already is read."""
    import photos

    from graft import backbones, preparation, runtime
    from graft.config import from_hydra
    from graft.data import splits

    composed = photos.composed(case / "photos", None)
    composed.dataset.image_size = SIZE
    composed.backbone.url = str(case.parent / "backbone")
    composed.backbone.name = "small"
    composed.backbone.value_range = [0.0, 1.0]
    composed.features.engine = "tensorflow"
    config = preparation.check(from_hydra(composed))
    runtime.set_up(config)
    from graft.data import pipeline
    from graft.features.extract import extract

    before, peak = memory(), memory()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.005):
            for name, value in memory().items():
                peak[name] = max(peak[name], value)

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    data = pipeline.prepare(*splits.choose(config.dataset), config)
    features = extract(data, backbones.resolve(config.backbone), config)
    opened = time.perf_counter() - started
    if not features.extraction_seconds:
        for _ in range(2):
            rows = np.random.default_rng(0).permutation(len(data.images))
            for start in range(0, len(rows), 32):
                features.take(rows[start : start + 32])
                data.inputs.take(rows[start : start + 32])
    over.set()
    watcher.join()
    return {
        **{f"{name}_before": value for name, value in before.items()},
        **{f"{name}_peak": value for name, value in peak.items()},
        "seconds_to_open": opened,
    }


def memory() -> dict[str, float]:
    """Memory of the process in MB, as the kernel counts it."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(lines[key].split()[0]) * 1024 / 1e6 for key, name in KEYS.items()}


if __name__ == "__main__":
    main()
