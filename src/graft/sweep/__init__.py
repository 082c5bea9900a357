"""The sweep engine: Hydra composes, Optuna remembers, warm worker processes run.

It works for any Hydra application, and knows no TensorFlow, no MLflow and nothing of what is trained.
Of the rest of Graft it uses `trial.py`, `errors.py` and small things such as `disk.py` and
`console.py`. Read in this order:

    options.py      what the user may set under hydra.sweeper
    space.py        what each key may be -> cells, each with fixed and sampled keys
    overrides.py    overrides and params -> that space, or all that is wrong with them
    compose.py      overrides -> configuration, composed once a combination of groups
    checks.py       what can be known to be wrong before anything starts
    identity.py     what makes two commands mean the same sweep
    jobs.py         what a launcher is handed and what it answers
    slots.py        one job at a time in a warm worker; workers.py says what a worker is
    process.py      a worker process from here, worker.py from within; application.py is what it is sent once
    local.py        workers of this machine; devices.py is the GPU that each sees
    ray_cluster.py  workers of a Ray cluster; ray_actor.py runs on a node, ray_worker.py is it from here
    slurm_cluster.py  workers in Slurm jobs; slurm_job.py runs on a node, slurm_place.py and slurm_worker.py are it
                    from here, slurm_queue.py is Slurm's queue, mailbox.py how both sides talk
    batches.py      our sweeps over other launchers, and our slots under other sweepers
    outcome.py      what happened -> what is recorded; one pure function
    storage.py      where studies live, and the lock between controllers; journal.py is the default,
                    database.py a server that may be restarted
    opening.py      which sweep a command means
    study.py        the studies of one sweep: claim, finish, resume, join; distributions.py is a space in Optuna's
                    terms, started.py and cmaes_state.py are what it does differently from Optuna
    presence.py     how a controller shows that it lives; liveness.py says what that means
    reporting.py    how a running trial reaches its study
    observer.py     what a sweep tells whoever keeps other records of it
    display.py      what the user sees meanwhile
    signals.py      Ctrl-C and SIGTERM, read when the controller is ready to
    controller.py   the loop that ties them together
    run.py          what is around it: a command is read, checked, opened, and closed again

Importing this package loads nothing else, for Hydra imports the plugins that sit on top of it in
every application of the environment.
"""
