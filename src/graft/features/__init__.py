"""Frozen features: what a frozen backbone makes of an image, computed once and kept.

`extract` runs the backbone, `store` keeps what it gave, by image, for every later run.
"""
