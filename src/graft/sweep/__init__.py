"""The sweep engine: Hydra composes, Optuna remembers, warm worker processes run.

It works for any Hydra application and knows no TensorFlow, no MLflow and none of the rest of Graft
but its errors. Read in this order:

    options.py      what the user may set under hydra.sweeper
    space.py        overrides and params -> cells, each with fixed and sampled keys
    compose.py      overrides -> configuration, composed once a combination of groups
    jobs.py         what a launcher is handed and what it answers
    workers.py      slots and their warm processes; worker.py is the other end of the pipe
    outcome.py      what happened -> what is recorded; one pure function
    storage.py      where studies live, and the lock between controllers
    study.py        the studies of one sweep: claim, finish, resume, join
    observer.py     what a sweep tells whoever keeps other records of it
    display.py      what the user sees meanwhile
    controller.py   the loop that ties them together

Importing this package loads nothing else, for Hydra imports the plugins that sit on top of it in
every application of the environment.
"""
