"""Prediction: what a recorded run trained, put to use.

`trained_model` builds the model of a run from its record, `predict` names the class of image files, and `export` writes
it as a SavedModel, or for TFLite, that needs no Graft.
"""
