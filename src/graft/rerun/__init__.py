"""Recorded runs, run again and compared number by number."""

from graft.rerun.again import Rerun, rerun

__all__ = ["Rerun", "rerun"]
