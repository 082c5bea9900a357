"""What the pixels alone are worth, without any backbone: logistic regression on them.

    python benchmarks/raw_pixels.py dataset=fashion_mnist dataset.splits=resplit dataset.max_images=20000 [--side 28]

The images are those of a run with the same keys, made so many pixels a side. The strength of the regularisation is
chosen on the validation images, and the test images are asked once.
"""

from __future__ import annotations

import argparse
import io

import numpy as np
from hydra import compose, initialize_config_dir
from PIL import Image
from sklearn.linear_model import LogisticRegression

from graft.config import from_hydra
from graft.data import splits
from graft.data.image_set import Content
from graft.paths import CHECKOUT

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)  # scikit-learn's C, the inverse of the penalty


def picture(content: Content) -> Image.Image:
    if isinstance(content, bytes):
        return Image.open(io.BytesIO(content)).convert("RGB")
    return Image.fromarray(content.squeeze())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--side", type=int, default=28, help="pixels")
    options = parser.parse_args()
    with initialize_config_dir(str(CHECKOUT / "conf"), version_base="1.3"):
        config = from_hydra(compose("config", overrides=options.overrides))
    images, parts = splits.choose(config.dataset)

    def pixels(rows: np.ndarray) -> np.ndarray:
        size = (options.side, options.side)
        return np.stack([np.asarray(picture(images.read(row)).resize(size)).ravel() for row in rows]) / 255

    train, val, test = (pixels(rows) for rows in (parts.train, parts.val, parts.test))
    labels = images.labels
    fitted = [LogisticRegression(C=strength, max_iter=300).fit(train, labels[parts.train]) for strength in STRENGTHS]
    best = max(fitted, key=lambda model: model.score(val, labels[parts.val]))
    print(f"{len(train)} images of {options.side} pixels, C={best.C:g}")
    print(f"validation accuracy {best.score(val, labels[parts.val]):.4f}")
    print(f"test accuracy {best.score(test, labels[parts.test]):.4f}")


if __name__ == "__main__":
    main()
