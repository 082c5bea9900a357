"""Frozen features: what a frozen backbone makes of an image, computed once and kept.

    extract.py      runs the backbone over the images that have no features yet
    engines.py      the ways to run it, and which one is taken
    live.py         as a live epoch runs it, which all others are held against
    xnnpack.py      converted, by kernels made for CPUs
    conversion.py   from TensorFlow to a TFLite file
    tflite_file.py  that file, and its digest
    store.py        keeps what the backbone gave, by image, for every later run
    parts.py        the store's files, and whether they are whole

`parts` and `tflite_file` need no TensorFlow.
"""
