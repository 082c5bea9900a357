"""TensorFlow as every run wants it: imported quietly, seeded, deterministic, sharing its GPU."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from graft.config import Config
from graft.cpus import cpu_flags, cpu_model, usable_cpus
from graft.errors import ConfigError
from graft.importing import importing, keep_imported

log = logging.getLogger(__name__)

TENSOR_CORES = (7, 0)  # the compute capability of the first GPUs that multiply float16 matrices faster
VECTOR_INSTRUCTIONS = ("amx_tile", "avx512f", "avx2", "avx")  # the widest first; kernels are chosen by them
NO_TENSOR_CORES = (
    "mixed_precision=true: there is no GPU here that gains from it (compute capability 7.0 or above); allowed here are "
    "mixed_precision=auto and false"
)


def import_tensorflow() -> None:
    """Imports TensorFlow and Keras, and looks for GPUs, without the lines that TensorFlow prints then."""
    if "tensorflow" not in sys.modules:
        with stderr_set_aside("TensorFlow was imported"), importing():
            import tensorflow as tf
            import tf_keras  # noqa: F401 - here, because it takes long, too

            tf.config.list_physical_devices()  # the rest of the messages comes with the first look for GPUs
        keep_imported()


def set_up(config: Config) -> None:
    """Prepares this process for a run, whatever ran in it before."""
    for noisy in ("absl", "tensorflow", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.WARNING)  # they report every checkpoint, and every look for fonts
    import_tensorflow()
    import tensorflow as tf
    from tensorflow.python.framework import config as tf_config  # tf.config can turn determinism on, but not off

    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)  # several processes may share it
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    else:
        tf_config.disable_op_determinism()
    set_precision(half=False)  # what is not training, such as extraction, keeps to float32


def has_gpu() -> bool:
    """Whether TensorFlow runs on a GPU here."""
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def device() -> str:
    """What TensorFlow computes on here, as far as it can decide the last bits of a result.

    GPUs by name, or the CPU with its widest vector instructions and how many of it this process may use.
    """
    import tensorflow as tf

    if gpus := tf.config.list_physical_devices("GPU"):
        return ", ".join(tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus)
    usable = usable_cpus()
    vectors = next((flag for flag in VECTOR_INSTRUCTIONS if flag in cpu_flags()), "")
    return f"{' '.join([cpu_model(), vectors]).strip()}, {usable} CPU{'s' * (usable > 1)}"


def half_precision(config: Config) -> bool:
    """Whether matrices are multiplied in float16, with variables and everything sensitive in float32.

    TensorFlow rewrites the graph for it, so that it reaches into the modules of TF Hub, which Keras' policies do
    not. A head on stored features has nothing to gain.

    Raises:
        ConfigError: for ``mixed_precision=true`` where no GPU gains from it.
    """
    import tensorflow as tf

    if config.mixed_precision is False:
        return False
    gpus = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
    gains = any(details.get("compute_capability", (0, 0)) >= TENSOR_CORES for details in gpus)
    if config.mixed_precision is True and not gains:
        raise ConfigError(NO_TENSOR_CORES)
    return gains and not config.cached_features


def set_precision(half: bool) -> None:
    """Makes TensorFlow run the functions that follow in float16 where that is safe, or in the precision they have."""
    import tensorflow as tf

    if half or tf.config.optimizer.get_experimental_options().get("auto_mixed_precision"):
        tf.config.optimizer.set_experimental_options({"auto_mixed_precision": half})


def forget(config: Config) -> None:
    """Makes Keras, and every generator of random numbers, what they are in a new process.

    TensorFlow then prepares every function once more before it runs it: a second of a head's, ten of a backbone's.
    """
    import tf_keras

    tf_keras.backend.clear_session()
    tf_keras.utils.set_random_seed(config.seed)


@contextmanager
def stderr_set_aside(during: str, failure_level: int = logging.ERROR) -> Iterator[None]:
    """Keeps what C++ code writes to stderr out of sight, unless the block fails.

    TensorFlow 2.21 prints a dozen lines about CPU instructions and missing CUDA drivers before any of its own
    settings for logging take effect, and its converters print more. They go to the log. It holds for the whole process:
    what other threads write meanwhile is kept, too.

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
