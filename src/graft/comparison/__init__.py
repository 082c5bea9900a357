"""Comparing the trials of a sweep: transfer against fine-tuning first, then every trial, best first.

    record.py    the sweep, read back from MLflow
    varied.py    which keys it varied
    pairing.py   trials that differ in nothing but `trainable`, two by two
    interval.py  how sure their difference is
    verdict.py   that in words
    further.py   the command of a sweep that would say more
    telling.py   what `graft compare` prints
    contrast.py  which value of another key did best, for the report
    by_key.py    the same for every value of a key: `graft compare --by KEY`

None imports TensorFlow.
"""

from graft.comparison.record import Comparison, Side, TrialRow, compare, read
from graft.comparison.telling import as_json, show

__all__ = ["Comparison", "Side", "TrialRow", "as_json", "compare", "read", "show"]
