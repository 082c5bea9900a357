"""The images that a backbone is given: by the configuration, or by the module itself where that leaves it open."""

from __future__ import annotations

from dataclasses import dataclass

from graft.backbones import source
from graft.backbones.source import Backbone
from graft.errors import ConfigError


@dataclass(frozen=True)
class Images:
    """The images that a backbone is given.

    Attributes:
        input_size: Height and width in pixels; None if only the data set names one.
        value_range: The values that black and white have.
    """

    input_size: int | None
    value_range: tuple[float, float]


def images_of(backbone: Backbone, image_size: int | None = None) -> Images:
    """The images that `backbone` takes, by the configuration or, where that leaves it open, by the module itself.

    Args:
        backbone: It is checked, and downloaded if it has to be.
        image_size: Height and width in pixels that the data set asks for, if it does.

    Raises:
        ConfigError: if neither says it, or they contradict each other; and as `check`.
        FatalError: as `check`.
    """
    source.check(backbone)
    problems: list[str] = []
    told = source.interface_of(backbone)
    size = image_size or backbone.input_size or told.input_size
    key = "dataset.image_size" if image_size else "backbone.input_size"
    if size is None:
        problems.append(
            f"backbone.input_size is not set, and the module at backbone.url={backbone.url} takes any size; give the "
            "pixels a side that it was trained at, as backbone.input_size=224"
        )
    elif told.input_size not in (None, size):
        also = " or null" if image_size else ""
        problems.append(
            f"{key}={size}: the module at backbone.url={backbone.url} takes images of {told.input_size} pixels a side "
            f"and no others; give {key}={told.input_size}{also}"
        )
    value_range = backbone.value_range or source.range_of(backbone)
    if value_range is None:
        problems.append(
            f"backbone.value_range is not set, and the module at backbone.url={backbone.url} does not say it; give "
            "what black and white are for it: backbone.value_range=[0,1] is TF Hub's convention, and there are [-1,1] "
            "and [0,255]"
        )
    if backbone.feature_width is not None and told.feature_width not in (None, backbone.feature_width):
        problems.append(
            f"backbone.feature_width={backbone.feature_width}: the module at {backbone.url} gives {told.feature_width} "
            f"features; set backbone.feature_width={told.feature_width} or null"
        )
    if problems or value_range is None:
        raise ConfigError(problems)
    return Images(backbone.input_size or told.input_size, value_range)
