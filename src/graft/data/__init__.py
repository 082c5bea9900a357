"""Data: image sets, their splits, the store of resized images, and the tf.data pipeline over it.

`sources` finds the images and hashes them, `splits` divides them, `store` decodes and resizes each of them
once, `pipeline` shuffles and batches. The first two import no TensorFlow, nor do the sources' own modules:
`image_folder`, `fashion_mnist` and `tfds`, for which `tfds_index` does what needs it in a process of its own.
"""
