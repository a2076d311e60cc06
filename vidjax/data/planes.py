"""What a decoded picture becomes: RGB, or the planes of I420, turned upright in an array."""

import typing

import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation


class Format(typing.NamedTuple):
    name: str  # FFmpeg's
    multiple: int  # of which width and height are
    options: dict  # of the conversion
    shape: typing.Callable  # (height, width) -> shape of a picture


FULL = {"interpolation": Interpolation.BILINEAR, "dst_color_range": ColorRange.JPEG, "threads": 1}
FORMAT = {
    "rgb": Format("rgb24", 1, FULL, lambda height, width: (height, width, 3)),
    "yuv420": Format(
        "yuvj420p", 2, FULL | {"dst_colorspace": Colorspace.ITU601}, lambda height, width: (height * 3 // 2, width)
    ),
}


def size(height, width, short_side, multiple):
    """Height and width of a picture whose shorter side becomes `short_side` pixels, 0 for as it is."""
    scale = short_side / min(height, width) if short_side else 1
    height, width = (max(1, round(side * scale / multiple)) * multiple for side in (height, width))
    return height, width


def store(frame, turns, out):
    """Copies the planes of a picture, turned upright, one behind the other into `out`."""
    flat, at = out.reshape(-1), 0
    for plane in frame.planes:
        pixels = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
        channels = 3 if len(frame.planes) == 1 else 1
        pixels = np.rot90(pixels[:, : plane.width * channels].reshape(plane.height, plane.width, channels), turns)
        flat[at : at + pixels.size].reshape(pixels.shape)[...] = pixels
        at += pixels.size
