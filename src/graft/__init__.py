"""Graft: sweeps over transfer learning on images. Importing this package imports nothing heavy."""

import os

# TensorFlow reads this when it is first imported: `hub.KerasLayer` is a layer of tf_keras, not of Keras 3.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
