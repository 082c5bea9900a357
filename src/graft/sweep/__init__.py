"""The sweep engine: Hydra composes, Optuna remembers, warm worker processes run.

It works for any Hydra application and knows no TensorFlow, no MLflow and none of the rest of Graft
but its errors. Read in this order:

    options.py      what the user may set under hydra.sweeper
    space.py        what each key may be -> cells, each with fixed and sampled keys
    overrides.py    overrides and params -> that space, or all that is wrong with them
    compose.py      overrides -> configuration, composed once a combination of groups
    checks.py       what can be known to be wrong before anything starts
    identity.py     which sweep is meant, when one is resumed
    jobs.py         what a launcher is handed and what it answers
    workers.py      slots; process.py is a slot's process from here, worker.py from within,
                    application.py what it is sent once, devices.py the GPU it sees
    batches.py      our sweeps over other launchers, and our slots under other sweepers
    outcome.py      what happened -> what is recorded; one pure function
    storage.py      where studies live, and the lock between controllers; journal.py is the default
    study.py        the studies of one sweep: claim, finish, resume, join
    liveness.py     which controllers of a sweep live
    reporting.py    how a running trial reaches its study
    observer.py     what a sweep tells whoever keeps other records of it
    display.py      what the user sees meanwhile
    controller.py   the loop that ties them together

Importing this package loads nothing else, for Hydra imports the plugins that sit on top of it in
every application of the environment.
"""
