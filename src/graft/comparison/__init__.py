"""Comparing the trials of a sweep: transfer against fine-tuning first, then every trial, best first.

`record` reads the sweep from MLflow, `pairing` finds trials that differ in nothing but `trainable`, `interval` says how
sure their difference is, `verdict` puts it into words, `contrast` sets the values of another key side by side,
`further` has the command of a sweep that would say more, and `telling` prints.
"""

from graft.comparison.record import Comparison, Side, TrialRow, compare, read
from graft.comparison.telling import as_json, show

__all__ = ["Comparison", "Side", "TrialRow", "as_json", "compare", "read", "show"]
