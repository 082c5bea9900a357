"""Graft's sweeper and launcher for Hydra: thin shells over `graft.sweep`.

Hydra imports every module here at the start of every application in the environment, whether it
sweeps or not. So they import Hydra alone, and the engine only when it is used.
"""
