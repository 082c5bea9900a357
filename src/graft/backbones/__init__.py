"""Backbones: from the handle in the configuration to a layer that turns images into feature vectors.

    check(backbone)                             what can be said against it before anything is loaded
    images_of(backbone, image_size)             -> the images that it takes, as it says itself
    resolve(backbone)                           -> a TF2 SavedModel on disk, and the digest of its content
    hub_layer(saved, backbone, trainable=...)   -> hub.KerasLayer, images to [batch, feature_width]

Importing this package and calling `check` and `images_of` load no TensorFlow, because a wrong configuration has to be
refused in well under the seconds that TensorFlow takes to import; they download what is not on this machine.
`resolve` loads TensorFlow only when a backbone has to be converted, `hub_layer` always.
"""

from graft.backbones.images import Images, images_of
from graft.backbones.layer import check_width, draws, hub_layer
from graft.backbones.source import Backbone, SavedBackbone, check, is_to_be_converted, resolve

__all__ = [
    "Backbone",
    "Images",
    "SavedBackbone",
    "check",
    "check_width",
    "draws",
    "hub_layer",
    "images_of",
    "is_to_be_converted",
    "resolve",
]
