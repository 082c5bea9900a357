"""How MLflow runs a logged model. This file is copied into every model, and runs there without Graft."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel


class ServedModel(PythonModel):
    """Decoded images to the probabilities of all classes.

    Needs the artifact ``saved_model``: a folder as `graft export` writes it.
    """

    _skip_type_hint_validation = (
        True  # the signature says what `predict` takes; MLflow would warn that its types do not
    )

    def load_context(self, context: Any) -> None:
        import tensorflow as tf  # late: MLflow runs this file once to log it

        folder = Path(context.artifacts["saved_model"])
        self._class_names: list[str] = json.loads((folder / "classes.json").read_text(encoding="utf-8"))
        # Of a folder with `[` in its path TensorFlow would not find the weights: it takes that for a pattern.
        with tempfile.TemporaryDirectory() as elsewhere:
            link = Path(elsewhere) / "saved_model"
            link.symlink_to(folder.absolute(), target_is_directory=True)
            self._loaded = tf.saved_model.load(str(link))  # its functions live as long as it does

    # Without types: MLflow would make a second signature of them.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Of uint8 RGB images [batch, height, width, 3]: a ``label`` and ``probabilities``, the most probable first."""
        import tensorflow as tf

        images = tf.constant(np.asarray(model_input, np.uint8))
        answer = self._loaded.signatures["serving_default"](images=images)
        return [self._in_words(of_image) for of_image in answer["probabilities"].numpy()]

    def _in_words(self, probabilities: Any) -> dict[str, Any]:
        order = np.argsort(-probabilities)
        by_name = {self._class_names[place]: float(probabilities[place]) for place in order}
        return {"label": next(iter(by_name)), "probabilities": by_name}


set_model(ServedModel())
