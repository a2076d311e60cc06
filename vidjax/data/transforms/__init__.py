"""Transforms of one clip: uint8 (T, H, W, C) in and out, one random choice for all its frames.

Geometry is drawn once (`draw`) and applied to every modality (`cut`, `cut_flow`, `cut_i420`); colours change in RGB
alone (`photometric`). Random choices come from the NumPy Generator that is given: the same state, the same clip.
"""

import numpy as np

from vidjax.data.transforms.color import color_jitter, photometric
from vidjax.data.transforms.crops import (
    Crop,
    cut,
    cut_flow,
    cut_i420,
    draw,
    random_crop,
    random_resized_crop,
    resize_flow,
    resize_i420,
    squares,
)
from vidjax.data.transforms.randaugment import LUMA
from vidjax.data.transforms.resize import flip, resize, resize_short, short_shape

__all__ = ["LUMA", "Crop", "color_jitter", "flip", "random_crop", "random_resized_crop", "resize_short"]

INTERPOLATIONS = ("area", "linear")
GEOMETRY = ("size", "crop", "scale", "ratio", "short_sides", "flip", "rotate")  # of `augment`'s options, `draw`'s
KINDS = {  # of frames: how they are scaled, how they are cut
    "rgb": (resize, cut),
    "flow": (resize_flow, cut_flow),
    "i420": (resize_i420, cut_i420),
}


def augment(video, label, rng, *, flip_labels=(), **options):
    """The training transform of RGB: `draw` and `cut`, then `photometric`: -> ((T, size, size, C), label).

    `options` are those of `draw` (GEOMETRY) and of `photometric`. A mirrored clip of class k becomes class
    `flip_labels[k]` where those are given ("left" is "right" then).
    """
    geometry = {key: options.pop(key) for key in GEOMETRY if key in options}
    crop = draw(rng, *video.shape[1:3], **geometry)
    return photometric(cut(video, crop), rng, **options), mirrored_label(label, crop, flip_labels)


def mirrored_label(label, crop, flip_labels):
    """The class, or the classes of a multi-label video, that a crop shows."""
    if not (crop.flip and flip_labels):
        return label
    return tuple(flip_labels[k] for k in label) if isinstance(label, tuple) else flip_labels[label]


def evaluate(video, *, size, resize=0, crops=1, kind="rgb", interpolation="area"):
    """The one transform of evaluation and prediction: (T, H, W, C) -> (crops, T, size, size, C).

    The shorter side becomes `resize` pixels (0: stays), in any case `size` at least; or the picture is squeezed to the
    pair `resize` (height, width). `kind` as in `views`. "linear" `interpolation` never averages areas: as nets trained
    behind OpenCV's resize saw their pictures.
    """
    height, width = _sides(video, kind)
    if isinstance(resize, tuple | list):
        shape = tuple(max(side, size) for side in resize)
    else:
        shape = short_shape(height, width, max(resize or min(height, width), size))
    return views(_of(kind)[0](video, *shape, interpolation == "linear"), size, crops, kind)


def views(video, size, crops, kind="rgb"):
    """The spatial views of a test (`squares`): (T, H, W, C) -> (crops, T, size, size, C).

    `kind` is rgb, flow (T, H, W, 2L), whose mirror images move the other way, or i420 (T, H * 3 / 2, W).
    """
    found = squares(*_sides(video, kind), size, crops)
    return np.stack([_of(kind)[1](video, crop) for crop in found])


def center_crop(video, size):
    """The square in the middle: (T, H, W, C) -> (T, size, size, C). ValueError where the video is smaller."""
    return views(video, size, 1)[0]


def three_crops(video, size):
    """Squares at both ends and in the middle of the longer side: (T, H, W, C) -> (3, T, size, size, C).

    The spatial views of SlowFast's test, arXiv:1812.03982, 4. ValueError where the video is smaller.
    """
    return views(video, size, 3)


def _of(kind):
    if kind not in KINDS:
        raise ValueError(f"kind is rgb, flow or i420, not {kind!r}")
    return KINDS[kind]


def _sides(video, kind):
    """Height and width of the pictures."""
    return (video.shape[1] * 2 // 3, video.shape[2]) if kind == "i420" else video.shape[1:3]
