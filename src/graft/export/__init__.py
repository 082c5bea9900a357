"""Export: a trained model for programs that know nothing of Graft.

`folder` writes it as a SavedModel, or for TFLite, with preprocessing inside; `logged` hands that to
MLflow, which serves it.
"""
