"""The cache, `graft.paths.cache()`: what can be made again, each kind in a folder of its own.

`marks` and `removal` are for the code that makes and uses entries. `graft cache` lists and removes them with `manage`,
reads sizes with `sizes` and prints with `tables`. None imports TensorFlow.
"""
