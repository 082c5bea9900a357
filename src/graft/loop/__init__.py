"""Training loops behind one signature: `fit(trainer, data, config, directory, recorder, stop_reason) -> TrainResult`.

A loop is handed its recorder and its stop signal; it knows no MLflow, no Optuna and no Hydra.
"""
