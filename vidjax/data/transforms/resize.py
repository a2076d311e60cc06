"""Scaling and mirroring of a clip: (T, H, W, C) in and out, the same for all its frames."""

import cv2
import numpy as np

cv2.setNumThreads(0)  # the pipeline reads in parallel; OpenCV's own threads would fight it


def resize(video, height, width, linear=False):
    """(T, H, W, C) -> (T, height, width, C): bilinear, averaging areas where it shrinks more than twice.

    `linear` never averages: between the two nearest pixels each way, as OpenCV's resize by default.
    """
    t, h, w, c = video.shape
    if (h, w) == (height, width):
        return video
    method = cv2.INTER_AREA if (h > 2 * height or w > 2 * width) and not linear else cv2.INTER_LINEAR
    out = np.empty((t, height, width, c), video.dtype)
    for source, target in zip(video, out, strict=True):
        cv2.resize(source, (width, height), dst=target, interpolation=method)
    return out


def short_shape(height, width, size):
    """(height, width) of a picture scaled so that its shorter side has `size` pixels, aspect kept."""
    return tuple(max(1, round(side * size / min(height, width))) for side in (height, width))


def resize_short(video, size):
    """Scales the shorter side to `size` pixels, aspect kept: (T, H, W, C) -> (T, H', W', C)."""
    _, h, w, _ = video.shape
    return resize(video, *short_shape(h, w, size))


def flip(video):
    """Mirrors left and right: (T, H, W, C) -> same. An even C is flow, pairs of x and y: x changes sign.

    Flow is float around 0, or uint8 around 127.5 where x becomes 255 - x.
    """
    video = mirror(video)
    if video.shape[-1] % 2 == 0:
        video[..., ::2] = 255 - video[..., ::2] if video.dtype == np.uint8 else -video[..., ::2]
    return video


def mirror(video):
    """Mirrors left and right, whatever the channels mean: (T, H, W, C) -> same, a copy."""
    out = np.empty(video.shape, video.dtype)
    for source, target in zip(video, out, strict=True):
        cv2.flip(source, 1, dst=target)
    return out
