"""Optical flow of consecutive frames by OpenCV, as numbers, as bytes and as a picture to look at.

Flow is float32 (T - 1, H, W, 2) in pixels per frame; channel 0 is x (to the right), 1 is y (down); field k goes from
frame k to frame k + 1. Stored and in batches it is uint8 of 255 / 2 steps per `bound`.
"""

import functools

import cv2
import numpy as np

from vidjax.data.transforms.resize import resize as scale

BOUND = 20.0  # pixels per frame; Carreira & Zisserman 2017, 2.4
PRESETS = {name: getattr(cv2, f"DISOPTICAL_FLOW_PRESET_{name.upper()}") for name in ("ultrafast", "fast", "medium")}
SMALLEST = 32  # pixels a side; on smaller pictures OpenCV's DIS fails, below 16 it may crash the process


def estimate(video, method="dis", **options):
    """Flow of a clip by one of METHODS and its options: uint8 RGB (T, H, W, 3) -> float32 (T - 1, H, W, 2)."""
    return estimator(method, **options)(video)


def estimator(method="dis", **options):
    """A picklable function video -> flow, which is `estimate` with its method and options tried and filled in."""
    if method not in METHODS:
        raise ValueError(f"there is no host flow {method!r}, only {', '.join(METHODS)}")
    function = functools.partial(METHODS[method], **options)
    try:
        function(np.zeros((1, 1, 1, 3), np.uint8))
    except TypeError as error:
        raise ValueError(f"flow {method!r} does not take these options: {error}") from error
    return function


def dis(video, preset="medium"):
    """Dense inverse search, arXiv:1603.03590: uint8 RGB (T, H, W, 3) -> float32 (T - 1, H, W, 2).

    `preset` is one of PRESETS, from the quickest to the most exact.
    """
    if preset not in PRESETS:
        raise ValueError(f"there is no preset {preset!r} of DIS flow, only {', '.join(PRESETS)}")
    algorithm = cv2.DISOpticalFlow_create(PRESETS[preset])
    _, h, w, _ = video.shape
    border = (0, max(0, SMALLEST - h), 0, max(0, SMALLEST - w))

    def pair(one, other):
        one, other = (cv2.copyMakeBorder(grey, *border, cv2.BORDER_REPLICATE) for grey in (one, other))
        return algorithm.calc(one, other, None)[:h, :w]

    return _pairs(video, pair if any(border) else lambda one, other: algorithm.calc(one, other, None))


def farneback(video, scale=0.5, levels=3, window=15, iterations=3, neighbours=5, sigma=1.2):
    """Polynomial expansion, Farneback 2003: uint8 RGB (T, H, W, 3) -> float32 (T - 1, H, W, 2).

    A pyramid of `levels` pictures each `scale` times the last; averages over `window` pixels; polynomials fitted to
    `neighbours` pixels under a Gaussian of `sigma`.
    """

    def pair(one, other):
        return cv2.calcOpticalFlowFarneback(one, other, None, scale, levels, window, iterations, neighbours, sigma, 0)

    return _pairs(video, pair)


METHODS = {"dis": dis, "farneback": farneback}


def quantise(flow, bound=BOUND):
    """Flow clipped at +-`bound` pixels, as bytes: float (..., 2) -> uint8 of the same shape; 0 lies at 127.5."""
    return np.clip(np.rint(np.asarray(flow) * (127.5 / bound) + 127.5), 0, 255).astype(np.uint8)


def dequantise(flow, bound=BOUND):
    """The flow that bytes stand for, wrong by at most half a quantum (`bound` / 127.5): uint8 -> float32."""
    return ((flow.astype(np.float32) - 127.5) * (bound / 127.5)).astype(np.float32)


def resize(flow, height, width):
    """Flow in pixels of a resized picture: float (T, H, W, 2) -> (T, height, width, 2); vectors scale with sides.

    Bilinear, averaging areas where it shrinks more than twice.
    """
    _, h, w, _ = flow.shape
    return scale(flow, height, width) * np.array([width / w, height / h], flow.dtype)


def color(flow, bound=0.0):
    """A picture of flow for people: (..., H, W, 2) -> uint8 RGB (..., H, W, 3); direction is hue, length saturation.

    White is no motion, red is to the right, green-yellow down; the deepest colour is `bound` pixels, by default the
    longest vector's length.
    """
    x, y = np.moveaxis(np.asarray(flow, np.float32), -1, 0)
    length, sextant = np.hypot(x, y), np.arctan2(y, x) * np.float32(3 / np.pi)
    depth = np.minimum(length / (bound or max(float(length.max(initial=0)), 1e-6)), 1)
    places = [(sextant + start) % 6 for start in (5, 3, 1)]  # of HSV's red, green and blue
    shares = [np.clip(np.minimum(place, 4 - place), 0, 1) for place in places]
    return np.rint(255 - 255 * np.stack(shares, -1) * depth[..., None]).astype(np.uint8)


def _pairs(video, function):
    """Applies a function of two grey pictures to each pair of consecutive frames."""
    t, h, w, _ = video.shape
    if t < 1:
        raise ValueError("flow needs at least one frame, got none")
    out = np.empty((t - 1, h, w, 2), np.float32)
    last = None
    for i, frame in enumerate(video if t > 1 else ()):
        grey = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
        if i:
            out[i - 1] = function(last, grey)
        last = grey
    return out
