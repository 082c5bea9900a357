"""Data: image sets, their splits, the store of resized images, and the tf.data pipeline over it.

    image_set.py      labelled images that are not read yet, whatever they come from
    sources.py        from a configuration to the image set that it names
    image_folder.py, fashion_mnist.py, tfds.py  a source each, of those that take more than some lines
    tfds_index.py     what needs TensorFlow of TFDS, in a process of its own
    splits.py         which image trains, which one validates, which one tests
    decode.py         from a file's bytes to pixels
    store.py          every image decoded and resized once
    image_files.py    the store's files, and whether they are whole
    augment.py        what becomes of a training image in one epoch
    pipeline.py       shuffles and batches, over stored images or stored features
    summary.py        what is in a data set, for `graft datasets`

Up to `splits`, and but for `tfds_index`, nothing imports TensorFlow.
"""
