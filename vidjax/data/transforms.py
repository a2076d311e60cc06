"""Transforms of one clip: uint8 (T, H, W, C) in and out, one random choice for all its frames.

Random choices are drawn from the NumPy Generator that is given: the same generator state, the same clip.
"""

import math

import cv2
import numpy as np

cv2.setNumThreads(0)  # the pipeline reads in parallel; OpenCV's own threads would fight it

LUMA = np.array([0.299, 0.587, 0.114])


def resize(video, height, width):
    """(T, H, W, C) -> (T, height, width, C): bilinear, averaging areas where it shrinks more than twice."""
    t, h, w, c = video.shape
    if (h, w) == (height, width):
        return video
    shrinks = h > 2 * height or w > 2 * width
    out = np.empty((t, height, width, c), video.dtype)
    for source, target in zip(video, out, strict=True):
        target[...] = cv2.resize(
            source, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        ).reshape(height, width, c)
    return out


def resize_short(video, size):
    """Scales the shorter side to `size` pixels, aspect kept: (T, H, W, C) -> (T, H', W', C)."""
    _, h, w, _ = video.shape
    return resize(video, *(max(1, round(side * size / min(h, w))) for side in (h, w)))


def center_crop(video, size):
    """The square in the middle: (T, H, W, C) -> (T, size, size, C). ValueError where the video is smaller."""
    _, h, w, _ = video.shape
    return _crop(video, (h - size) // 2, (w - size) // 2, size)


def random_crop(video, rng, size):
    """A square drawn uniformly: (T, H, W, C) -> (T, size, size, C). ValueError where the video is smaller."""
    _, h, w, _ = video.shape
    return _crop(video, int(rng.integers(max(h - size, 0) + 1)), int(rng.integers(max(w - size, 0) + 1)), size)


def random_resized_crop(video, rng, size, scale=(0.35, 1.0), ratio=(3 / 4, 4 / 3)):
    """A rectangle of random area share and aspect (width / height), scaled to a square: -> (T, size, size, C).

    Ten draws; if none fits, the largest central rectangle within `ratio`. Inception's crop, arXiv:1409.4842, 6.
    """
    _, h, w, _ = video.shape
    for _ in range(10):
        area = h * w * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        ch, cw = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < ch <= h and 0 < cw <= w:
            y, x = int(rng.integers(h - ch + 1)), int(rng.integers(w - cw + 1))
            break
    else:
        ch, cw = min(h, max(1, round(w / ratio[0]))), min(w, max(1, round(h * ratio[1])))
        y, x = (h - ch) // 2, (w - cw) // 2
    return resize(video[:, y : y + ch, x : x + cw], size, size)


def flip(video):
    """Mirrors left and right: (T, H, W, C) -> same. An even C is flow, pairs of x and y: x changes sign.

    Flow is float around 0, or uint8 around 127.5 where x becomes 255 - x.
    """
    video = np.stack([cv2.flip(frame, 1).reshape(frame.shape) for frame in video])
    if video.shape[-1] % 2 == 0:
        video[..., ::2] = 255 - video[..., ::2] if video.dtype == np.uint8 else -video[..., ::2]
    return video


def color_jitter(video, rng, brightness=0.0, contrast=0.0, saturation=0.0):
    """Scales brightness, contrast and saturation of RGB by factors drawn from 1 +- each: (T, H, W, 3) -> same.

    Contrast is about the clip's mean grey. The three are one affine map, so values are rounded and clipped once.
    """
    b, c, s = (rng.uniform(max(0.0, 1 - share), 1 + share) for share in (brightness, contrast, saturation))
    t, h, w, _ = video.shape
    flat = np.ascontiguousarray(video).reshape(t * h, w, 3)
    grey = b * float(LUMA @ cv2.mean(flat)[:3])
    matrix = b * c * (s * np.eye(3) + (1 - s) * LUMA)
    offset = np.full((3, 1), (1 - c) * grey)
    return cv2.transform(flat, np.hstack([matrix, offset])).reshape(video.shape)


def three_crops(video, size):
    """Squares at both ends and in the middle of the longer side: (T, H, W, C) -> (3, T, size, size, C).

    The spatial views of SlowFast's test, arXiv:1812.03982, 4. ValueError where the video is smaller.
    """
    _, h, w, _ = video.shape
    y, x = (h - size) // 2, (w - size) // 2
    corners = [(y, 0), (y, x), (y, w - size)] if w >= h else [(0, x), (y, x), (h - size, x)]
    return np.stack([_crop(video, *corner, size) for corner in corners])


def views(video, size, crops):
    """The spatial views of a test, 1 or 3 of them: (T, H, W, C) -> (crops, T, size, size, C)."""
    if crops == 1:
        return center_crop(video, size)[None]
    if crops == 3:
        return three_crops(video, size)
    raise ValueError(f"crops must be 1 or 3, got {crops}")


def augment(video, label, rng, *, size, scale=(0.35, 1.0), ratio=(3 / 4, 4 / 3), flip=0.5, color=0.0, flip_labels=()):
    """The training transform: crop, flip with chance `flip`, jitter by `color`: -> ((T, size, size, C), label).

    A mirrored clip of class k becomes class `flip_labels[k]` where those are given ("left" is "right" then).
    """
    video = random_resized_crop(video, rng, size, scale, ratio)
    if rng.random() < flip:
        video, label = _mirror(video), flip_labels[label] if flip_labels else label
    if color:
        video = color_jitter(video, rng, color, color, color)
    return video, label


def evaluate(video, *, size, resize=0, crops=1):
    """The one transform of evaluation and prediction: (T, H, W, C) -> (crops, T, size, size, C).

    The shorter side becomes `resize` pixels (0: stays), in any case `size` at least.
    """
    short = max(resize or min(video.shape[1:3]), size)
    return views(resize_short(video, short), size, crops)


_mirror = flip  # in augment, `flip` is the chance of one


def _crop(video, y, x, size):
    _, h, w, _ = video.shape
    if min(h, w) < size:
        raise ValueError(f"a crop of {size} pixels needs a video at least as large, got {h}x{w}; resize_short first")
    return np.ascontiguousarray(video[:, y : y + size, x : x + size])
