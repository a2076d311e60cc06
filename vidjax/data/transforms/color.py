"""Colours of RGB clips: uint8 (T, H, W, 3) in and out, one random choice for all frames of a clip.

Jitter, hue, grey-scale and lighting are affine in the pixel: they are composed, and values rounded and clipped once.
"""

import math

import cv2
import numpy as np

from vidjax.data.transforms.randaugment import LUMA, rand_augment

# ImageNet's colours (AlexNet, 4.1): standard deviations and directions, as columns; the numbers of fb.resnet.torch.
LIGHT_SCALES = 255 * np.array([0.2175, 0.0188, 0.0045])
LIGHT = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])

# Luma and two chroma axes of NTSC (YIQ); turning the chroma plane changes the hue and keeps the luma.
YIQ = np.array([LUMA, [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])


def photometric(
    video,
    rng,
    *,
    color=0.0,
    hue=0.0,
    grey=0.0,
    lighting=0.0,
    randaugment=(0, 9),
    geometric=True,
    erase=0.0,
):
    """The training transform of colours: (T, H, W, 3) -> same; nothing is drawn for what is 0.

    `color` jitters brightness, contrast and saturation by up to this share, `hue` by up to this part of a full turn;
    `grey` is the chance of a grey clip, `lighting` the standard deviation of AlexNet's PCA noise (0.1 there),
    `randaugment` its number of operations and magnitude (0-10), `geometric` whether these may move pixels (not beside
    flow), `erase` the chance of an erased box.
    """
    matrix, offset = np.eye(3), np.zeros(3)
    if color or hue:
        matrix, offset = _jitter(video, rng, color, color, color, hue)
    if grey and rng.random() < grey:
        matrix, offset = LUMA @ matrix + np.zeros((3, 1)), np.full(3, LUMA @ offset)
    if lighting:
        offset = offset + LIGHT @ (rng.normal(0, lighting, 3) * LIGHT_SCALES)
    video = _affine(video, matrix, offset)
    if randaugment[0]:
        video = rand_augment(video, rng, *randaugment, geometric=geometric)
    return erased(video, rng) if erase and rng.random() < erase else video


def color_jitter(video, rng, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0):
    """Scales brightness, contrast and saturation of RGB by factors drawn from 1 +- each: (T, H, W, 3) -> same.

    Contrast is about the clip's mean grey. Hue turns by up to +-`hue` of the full circle, luma kept.
    """
    return _affine(video, *_jitter(video, rng, brightness, contrast, saturation, hue))


def erased(video, rng, area=(0.02, 1 / 3), aspect=(0.3, 1 / 0.3)):
    """Noise in one box, the same in all frames: (T, H, W, C) -> same. Random Erasing, arXiv:1708.04896, as a tube.

    Its share of the picture is in `area`, its height / width in `aspect`; if none of ten draws fits, there is no box.
    """
    _, height, width, c = video.shape
    for _ in range(10):
        share = height * width * rng.uniform(*area)
        ratio = math.exp(rng.uniform(*np.log(aspect)))
        h, w = round(math.sqrt(share * ratio)), round(math.sqrt(share / ratio))
        if 0 < h < height and 0 < w < width:
            y, x = rng.integers(height - h + 1), rng.integers(width - w + 1)
            video = video.copy()
            video[:, y : y + h, x : x + w] = rng.integers(0, 256, (h, w, c), np.uint8)
            return video
    return video


def _jitter(video, rng, brightness, contrast, saturation, hue=0.0):
    """The random affine map of `color_jitter`: a 3 x 3 matrix and an offset."""
    b, c, s = (rng.uniform(max(0.0, 1 - share), 1 + share) for share in (brightness, contrast, saturation))
    t, h, w, _ = video.shape
    grey = b * float(LUMA @ cv2.mean(np.ascontiguousarray(video).reshape(t * h, w, 3))[:3])
    matrix = b * c * (s * np.eye(3) + (1 - s) * LUMA)
    if hue:
        matrix = _turn(rng.uniform(-hue, hue)) @ matrix
    return matrix, np.full(3, (1 - c) * grey)


def _turn(share):
    """The matrix that turns the hue of RGB by this share of the circle in the chroma plane of YIQ."""
    c, s = math.cos(2 * math.pi * share), math.sin(2 * math.pi * share)
    return np.linalg.inv(YIQ) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ YIQ


def _affine(video, matrix, offset):
    """matrix @ pixel + offset, rounded and clipped: (T, H, W, 3) -> same."""
    if np.array_equal(matrix, np.eye(3)) and not offset.any():
        return video
    t, h, w, _ = video.shape
    flat = np.ascontiguousarray(video).reshape(t * h, w, 3)
    return cv2.transform(flat, np.column_stack([matrix, offset])).reshape(video.shape)
