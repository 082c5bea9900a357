"""`graft doctor`: looks at an installation and its records, and says what is well and what to do about the rest.

    report.py        what was found, and how it is printed
    installation.py  Python, packages, the lock, the checkout
    machine.py       CPUs, GPUs, disk, folders that have to be writable
    locks.py         file locks that processes hold
    records.py       the MLflow database and the Optuna journal as files
    cache.py         digests of stored images, features and converted backbones
    runs.py          runs that are recorded as running, and artifacts that are gone
    examination.py   all of it, in order

Nothing here imports TensorFlow, starts training or changes anything, but for `--close-dead`.
"""
