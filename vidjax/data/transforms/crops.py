"""The geometry of a clip, drawn once and applied to every modality of it: RGB, grey, depth, flow, I420.

A `Crop` is a rectangle of the source that becomes a square: scaled, then mirrored, then rotated about the square's
centre. What a rotation needs from outside the rectangle comes from the source, and past its edge from its last pixels.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np

from vidjax.data.transforms.resize import mirror, resize

MULTI_SCALE = (1, 0.875, 0.75, 0.66)  # TSN's shares of the shorter side, arXiv:1608.00859, 3.2


class Crop(NamedTuple):
    """Rectangle (y, x, height, width) in pixels of the source -> square of `size`, mirrored, turned by `angle` degrees.

    Positive angles turn counter-clockwise as seen.
    """

    y: float
    x: float
    height: float
    width: float
    size: int
    flip: bool = False
    angle: float = 0.0


def draw(
    rng,
    height,
    width,
    *,
    size,
    crop="random_resized",
    scale=(0.35, 1.0),
    ratio=(3 / 4, 4 / 3),
    short_sides=(256, 320),
    flip=0.5,
    rotate=0.0,
):
    """A random Crop of a source of `height` x `width` pixels, mirrored with chance `flip`, turned within +-`rotate`.

    `crop`: random_resized (share of the area in `scale`, width / height in `ratio`), multi_scale (TSN's sides and
    places), scale_jitter (a square of a source whose shorter side is drawn from `short_sides`), random or center (a
    square of `size` pixels, unscaled), whole (the picture squeezed to a square). No draw fails: what a small source
    lacks is cut smaller and scaled up.
    """
    if crop == "random_resized":
        rectangle = _random_resized(rng, height, width, scale, ratio)
    elif crop == "multi_scale":
        rectangle = _multi_scale(rng, height, width, size)
    elif crop == "scale_jitter":
        # uniform, as PySlowFast's Kinetics recipes draw it
        rectangle = _place(rng, height, width, size * min(height, width) / round(rng.uniform(*short_sides)))
    elif crop == "random":
        rectangle = _place(rng, height, width, size)
    elif crop == "center":
        side = min(size, height, width)
        rectangle = (height - side) // 2, (width - side) // 2, side, side
    elif crop == "whole":
        rectangle = 0, 0, height, width
    else:
        raise ValueError(f"crop is random_resized, multi_scale, scale_jitter, random, center or whole, not {crop!r}")
    flipped = bool(rng.random() < flip)
    return Crop(*rectangle, size, flipped, float(rng.uniform(-rotate, rotate)) if rotate else 0.0)


def _random_resized(rng, height, width, scale, ratio):
    """Inception's crop, arXiv:1409.4842, 6: ten draws; if none fits, the largest central one within `ratio`."""
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < h <= height and 0 < w <= width:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    h, w = min(height, max(1, round(width / ratio[0]))), min(width, max(1, round(height * ratio[1])))
    return (height - h) // 2, (width - w) // 2, h, w


def _multi_scale(rng, height, width, size):
    """TSN's crop: sides from MULTI_SCALE at most one step apart, at one of 13 places of a 5 x 5 grid."""
    sides = [int(min(height, width) * share) for share in MULTI_SCALE]
    sides = [max(1, size if abs(side - size) < 3 and size <= min(height, width) else side) for side in sides]
    pairs = [(h, w) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1]
    h, w = pairs[rng.integers(len(pairs))]
    y, x = places(height, width, h, w)[rng.integers(13)]
    return y, x, h, w


def places(height, width, h, w):
    """TSN's 13 places (y, x) of a rectangle h x w: corners, centre, middles of the sides, centres of the quarters."""
    dy, dx = (height - h) // 4, (width - w) // 4
    grid = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2), (2, 0), (2, 4), (4, 2), (0, 2), (1, 1), (1, 3), (3, 1), (3, 3)]
    return [(i * dy, j * dx) for i, j in grid]


def _place(rng, height, width, side):
    """A square of about `side` pixels, at most the source's shorter side, anywhere."""
    side = max(1, min(round(side), height, width))
    return int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1)), side, side


def squares(height, width, size, crops):
    """The Crops of a test, none scaled: 1, 3, 4, 5 or 10 of them. ValueError where the source is smaller than `size`.

    1: the centre. 3: both ends of the longer side and the middle (SlowFast). 4: both ends and their mirror images
    (Karpathy 2014). 5: the corners, row by row, and the centre. 10: those, then their mirror images (two-stream).
    """
    _check(height, width, size)
    bottom, right = height - size, width - size
    y, x = bottom // 2, right // 2
    start, centre, end = [(y, 0), (y, x), (y, right)] if width >= height else [(0, x), (y, x), (bottom, x)]
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), centre]
    rows = {1: [centre], 3: [start, centre, end], 4: [start, end], 5: corners, 10: corners}
    if crops not in rows:
        raise ValueError(f"crops must be 1, 3, 4, 5 or 10, got {crops}")
    found = [Crop(y, x, size, size, size) for y, x in rows[crops]]
    return found + [crop._replace(flip=True) for crop in found] if crops in (4, 10) else found


def _check(height, width, size):
    if min(height, width) < size:
        raise ValueError(
            f"a crop of {size} pixels needs a video at least as large, got {height}x{width}; resize_short first"
        )


def random_crop(video, rng, size):
    """A square drawn uniformly: (T, H, W, C) -> (T, size, size, C). ValueError where the video is smaller."""
    _, h, w, _ = video.shape
    _check(h, w, size)
    return cut(video, Crop(*_place(rng, h, w, size), size))


def random_resized_crop(video, rng, size, scale=(0.35, 1.0), ratio=(3 / 4, 4 / 3)):
    """A rectangle of random area share and aspect (width / height), scaled to a square: -> (T, size, size, C)."""
    _, h, w, _ = video.shape
    return cut(video, Crop(*_random_resized(rng, h, w, scale, ratio), size))


def cut(video, crop):
    """A crop of pictures of any channels: (T, H, W, C) -> (T, size, size, C), bilinear, areas where it shrinks > 2x."""
    whole = all(float(value).is_integer() for value in crop[:4])
    if crop.angle or not whole:
        return _warp(video, crop)
    y, x, h, w = (int(value) for value in crop[:4])
    video = resize(video[:, y : y + h, x : x + w], crop.size, crop.size)
    return mirror(video) if crop.flip else np.ascontiguousarray(video)


def _warp(video, crop):
    """`cut` for rectangles between pixels and for rotations."""
    t, height, width, c = video.shape
    size, shrink = crop.size, np.array([crop.width, crop.height]) / crop.size
    scale = np.ones(2)  # of x and y, where areas are averaged before
    if shrink.max() > 2:
        scale = np.clip(np.round([width, height] / shrink), 1, [width, height]) / [width, height]
        video = resize(video, round(height * scale[1]), round(width * scale[0]))
    linear = np.diag(shrink * scale) @ np.diag([-1 if crop.flip else 1, 1]) @ rotation(-crop.angle)
    centre = np.array([crop.x + crop.width / 2, crop.y + crop.height / 2]) * scale
    matrix = np.column_stack([linear, centre - 0.5 - linear @ np.full(2, (size - 1) / 2)])  # pixel centres are at .5
    out = np.empty((t, size, size, c), video.dtype)
    method = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    for source, target in zip(video, out, strict=True):
        cv2.warpAffine(source, matrix, (size, size), dst=target, flags=method, borderMode=cv2.BORDER_REPLICATE)
    return out


def rotation(angle):
    """The 2 x 2 matrix that turns (x, y), y down, by `angle` degrees counter-clockwise as seen."""
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return np.array([[c, s], [-s, c]])


def cut_flow(flow, crop):
    """A crop of flow whose vectors follow it: (T, H, W, 2L) -> (T, size, size, 2L), pairs of x and y.

    Float is in pixels of the picture, before and after. uint8 is quantised around 127.5 and stays so, of the same
    bound: vectors that the scaling makes longer than it are clipped.
    """
    turn = np.diag([-1 if crop.flip else 1, 1]) @ np.diag([crop.size / crop.width, crop.size / crop.height])
    return turned(cut(flow, crop), rotation(crop.angle) @ turn)


def turned(flow, matrix):
    """Vectors times a 2 x 2 matrix: (T, H, W, 2L) -> same, float or quantised uint8."""
    if np.array_equal(matrix, np.eye(2)):
        return flow
    pairs = np.ascontiguousarray(flow).reshape(-1, 1, 2)
    if flow.dtype != np.uint8:
        return cv2.transform(pairs, matrix).reshape(flow.shape)
    if matrix[0, 1] or matrix[1, 0]:
        offset = 127.5 - matrix @ np.full(2, 127.5)
        return cv2.transform(pairs, np.column_stack([matrix, offset])).reshape(flow.shape)
    values = 127.5 + (np.arange(256)[:, None] - 127.5) * np.diag(matrix)
    table = np.clip(np.round(values), 0, 255).astype(np.uint8)[None]
    return cv2.LUT(pairs, table).reshape(flow.shape)


def planes(frames):
    """The planes of I420 frames as views: (T, H * 3 / 2, W) -> (T, H, W, 1) and two of (T, H / 2, W / 2, 1)."""
    t, rows, width = frames.shape
    height = rows * 2 // 3
    if rows % 3 or height % 2 or width % 2:
        raise ValueError(f"I420 frames have an even height and width and H * 3 / 2 rows, got {rows} rows of {width}")
    flat = np.ascontiguousarray(frames).reshape(t, rows * width)
    luma, chroma = height * width, height * width // 4
    parts = flat[:, :luma], flat[:, luma : luma + chroma], flat[:, luma + chroma :]
    half = (t, height // 2, width // 2, 1)
    return parts[0].reshape(t, height, width, 1), parts[1].reshape(half), parts[2].reshape(half)


def joined(luma, *chroma):
    """I420 frames from their planes: the inverse of `planes`."""
    t, height, width, _ = luma.shape
    return np.concatenate([part.reshape(t, -1) for part in (luma, *chroma)], axis=1).reshape(t, height * 3 // 2, width)


def cut_i420(frames, crop):
    """A crop of I420 frames: (T, H * 3 / 2, W) -> (T, size * 3 / 2, size), the chroma where the luma is; size even."""
    if crop.size % 2:
        raise ValueError(f"a crop of I420 frames has an even size, got {crop.size}")
    half = crop._replace(**{name: getattr(crop, name) / 2 for name in ("y", "x", "height", "width")})
    half = half._replace(size=crop.size // 2)
    luma, *chroma = planes(frames)
    return joined(cut(luma, crop), *(cut(plane, half) for plane in chroma))


def resize_flow(flow, height, width, linear=False):
    """Scales a field and its vectors: (T, H, W, 2L) -> (T, height, width, 2L), float or quantised uint8."""
    _, h, w, _ = flow.shape
    return turned(resize(flow, height, width, linear), np.diag([width / w, height / h]))


def resize_i420(frames, height, width, linear=False):
    """Scales I420 frames to the nearest even size: (T, H * 3 / 2, W) -> (T, height * 3 / 2, width)."""
    height, width = (max(2, 2 * round(side / 2)) for side in (height, width))
    luma, *chroma = planes(frames)
    half = (height // 2, width // 2, linear)
    return joined(resize(luma, height, width, linear), *(resize(plane, *half) for plane in chroma))
