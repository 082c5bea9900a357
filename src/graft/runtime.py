"""TensorFlow as every run wants it: imported quietly, seeded, deterministic, sharing its GPU."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from graft.config import Config

log = logging.getLogger(__name__)


def set_up(config: Config) -> None:
    """Prepares this process for a run, whatever ran in it before."""
    for noisy in ("absl", "tensorflow"):
        logging.getLogger(noisy).setLevel(logging.WARNING)  # they report every checkpoint that is written
    if "tensorflow" not in sys.modules:
        with stderr_set_aside("TensorFlow was imported"):
            import tensorflow as tf

            tf.config.list_physical_devices()  # the rest of the messages comes with the first look for GPUs
    import tensorflow as tf
    import tf_keras
    from tensorflow.python.framework import config as tf_config  # tf.config can turn determinism on, but not off

    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)  # several processes may share it
    tf_keras.backend.clear_session()  # layers are named and numbered as in a new process
    tf_keras.utils.set_random_seed(config.seed)
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    else:
        tf_config.disable_op_determinism()


@contextmanager
def stderr_set_aside(during: str, failure_level: int = logging.ERROR) -> Iterator[None]:
    """Keeps what C++ code writes to stderr out of sight, unless the block fails.

    TensorFlow 2.21 prints a dozen lines about CPU instructions and missing CUDA drivers before any of its own
    settings for logging take effect, and its converters print more. They go to the log.

    Args:
        during: What happened meanwhile, for the log.
        failure_level: How loudly the log tells it if the block fails.
    """
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ:  # who sets it wants to see
        yield
        return
    sys.stderr.flush()
    with tempfile.TemporaryFile() as aside:
        stderr = os.dup(2)
        os.dup2(aside.fileno(), 2)
        level = logging.DEBUG
        try:
            yield
        except Exception:
            level = failure_level
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            aside.seek(0)
            log.log(level, "While %s: %s", during, aside.read().decode(errors="replace"))
