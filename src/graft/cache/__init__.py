"""`mlruns/cache`: what can be made again, each kind in a folder of its own.

`marks` is for the code that makes and uses entries, `manage` for `graft cache`, which lists and removes them. Neither
imports TensorFlow.
"""
