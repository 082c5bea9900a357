"""The record: what a run leaves behind, through one small interface with several implementations.

    recorder.py         the interface, and the recorder that keeps everything in memory
    console.py          shows a run while it goes on
    tensorboard.py      writes TensorBoard's events
    trial_reporter.py   tells the sweep
    system_metrics.py   samples the machine

Into MLflow, by way of a file in the run's folder, so that nothing is lost while MLflow cannot be reached:

    mlflow_recorder.py  what is said of a run
    sweep_observer.py   what is said of a sweep
    local_record.py     the file: what was said, and how much of it was sent
    delivery.py         sends it, at once or in the background
    mlflow_run.py       takes a run's statements down in MLflow
    mlflow_sweep.py     takes a sweep's statements down
    sync.py             sends what waits

And from there:

    mlflow_store.py     opens and searches MLflow's store
    recorded_run.py     a run read back whole
    inspection.py, sqlite_record.py, tagged_run.py   many runs read back by their tags, quickly
    logged_model.py, best_model.py, served_model.py  models that MLflow keeps and serves
"""
