"""PostgreSQL and an MLflow server on this machine: what a sweep of many workers shares in the place of two files.

Both are Graft's own, listen on 127.0.0.1 alone, and keep everything in `mlruns/cluster/`: the databases in `postgres/`,
what runs leave behind in `artifacts/`, the password in `pgpass`, the logs of both. `servers.py` starts and stops them,
`postgresql.py` and `mlflow_server.py` say what each of them is.
"""
