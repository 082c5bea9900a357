"""Prediction: what a recorded run trained, put to use.

`trained_model` builds the model of a run from its record, and `predict` names the classes of image files.
"""
