"""RandAugment (arXiv:1909.13719) of a clip: the same operations with the same strength on all its frames.

Operations and ranges are those of timm's "increasing" set, which PySlowFast's MViT recipes use; the image statistics of
autocontrast, equalize and contrast are the clip's, so that nothing flickers.
"""

import cv2
import numpy as np

LUMA = np.array([0.299, 0.587, 0.114])
MOST = 10.0  # the largest magnitude
FILL = (128, 128, 128)  # what moves in from outside
SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13  # Pillow's ImageFilter.SMOOTH


def rand_augment(video, rng, number, magnitude, *, geometric=True, noise=0.5, chance=0.5):
    """Applies `number` operations, each with `chance`: uint8 (T, H, W, 3) -> same.

    Strengths are normal about `magnitude` with deviation `noise`, within 0-10. Without `geometric` no pixel moves.
    """
    names = list(COLOR | GEOMETRIC if geometric else COLOR)
    for i in rng.integers(len(names), size=number):
        applied, level = rng.random() < chance, min(MOST, max(0.0, rng.normal(magnitude, noise))) / MOST
        sign = 1 if rng.random() < 0.5 else -1
        if applied:
            video = (COLOR | GEOMETRIC)[names[i]](video, level, sign)
    return video


def autocontrast(video, level=0, sign=1):
    """Stretches every channel so that its darkest value becomes 0 and its brightest 255."""
    counts = _histograms(video)
    low, high = (counts > 0).argmax(1)[:, None], 255 - (counts[:, ::-1] > 0).argmax(1)[:, None]
    stretched = (np.arange(256) - low) * 255 // np.maximum(high - low, 1)
    return _look_up(video, np.where(high > low, stretched, np.arange(256)))


def equalize(video, level=0, sign=1):
    """Makes the histogram of every channel flat, with Pillow's rounding."""
    counts = _histograms(video)
    tables = np.repeat(np.arange(256.0)[None], 3, 0)
    for table, count in zip(tables, counts, strict=True):
        step = (count.sum() - count[count > 0][-1]) // 255
        if step and (count > 0).sum() > 1:
            table[:] = (step // 2 + np.cumsum(count) - count) // step
    return _look_up(video, tables)


def invert(video, level=0, sign=1):
    """Light becomes dark."""
    return 255 - video


def posterize(video, level, sign=1):
    """Keeps the 4 to 0 most significant bits."""
    lost = 4 + int(level * 4)
    return video >> lost << lost if lost < 8 else np.zeros_like(video)


def solarize(video, level, sign=1):
    """Inverts values from 256 (level 0) or 0 (level 1) on."""
    values = np.arange(256)
    return _look_up(video, np.where(values < 256 - int(level * 256), values, 255 - values))


def solarize_add(video, level, sign=1):
    """Brightens values below 128 by up to 110."""
    values = np.arange(256)
    return _look_up(video, np.where(values < 128, values + int(level * 110), values))


def color(video, level, sign):
    """Saturation times 0.1 to 1.9."""
    factor = _factor(level, sign)
    return cv2.transform(_flat(video), factor * np.eye(3) + (1 - factor) * LUMA).reshape(video.shape)


def contrast(video, level, sign):
    """Contrast about the clip's mean grey times 0.1 to 1.9."""
    grey = round(float(LUMA @ cv2.mean(_flat(video))[:3]))
    return _look_up(video, grey + _factor(level, sign) * (np.arange(256) - grey))


def brightness(video, level, sign):
    """Brightness times 0.1 to 1.9."""
    return _look_up(video, _factor(level, sign) * np.arange(256))


def sharpness(video, level, sign):
    """Blurs, or adds what a blur takes away; the outermost pixels stay."""
    factor, out = _factor(level, sign), video.copy()
    for source, target in zip(video, out, strict=True):
        smooth = cv2.filter2D(source, -1, SMOOTH)
        target[1:-1, 1:-1] = cv2.addWeighted(source, factor, smooth, 1 - factor, 0)[1:-1, 1:-1]
    return out


def rotate(video, level, sign):
    """Turns about the centre by up to 30 degrees."""
    _, h, w, _ = video.shape
    return _warp(video, cv2.getRotationMatrix2D(((w - 1) / 2, (h - 1) / 2), sign * level * 30, 1))


def shear_x(video, level, sign):
    """Moves rows by up to 0.3 of their distance from the middle."""
    slope = sign * level * 0.3
    return _warp(video, np.array([[1, slope, -slope * (video.shape[1] - 1) / 2], [0, 1, 0]]))


def shear_y(video, level, sign):
    """Moves columns by up to 0.3 of their distance from the middle."""
    slope = sign * level * 0.3
    return _warp(video, np.array([[1, 0, 0], [slope, 1, -slope * (video.shape[2] - 1) / 2]]))


def translate_x(video, level, sign):
    """Moves sideways by up to 0.45 of the width."""
    return _warp(video, np.array([[1, 0, sign * level * 0.45 * video.shape[2]], [0, 1, 0]]))


def translate_y(video, level, sign):
    """Moves up or down by up to 0.45 of the height."""
    return _warp(video, np.array([[1, 0, 0], [0, 1, sign * level * 0.45 * video.shape[1]]]))


def _operations(*functions):
    return {function.__name__: function for function in functions}


COLOR = _operations(autocontrast, equalize, invert, posterize, solarize, solarize_add)
COLOR |= _operations(color, contrast, brightness, sharpness)
GEOMETRIC = _operations(rotate, shear_x, shear_y, translate_x, translate_y)


def _factor(level, sign):
    """0.1 to 1.9, further from 1 with the level."""
    return 1 + sign * 0.9 * level


def _flat(video):
    """All frames as one tall picture."""
    t, h, w, c = video.shape
    return np.ascontiguousarray(video).reshape(t * h, w, c)


def _histograms(video):
    """How often each value occurs in each channel of the clip: (3, 256)."""
    flat = _flat(video)
    return np.stack([cv2.calcHist([flat], [i], None, [256], [0, 256]).ravel() for i in range(3)]).astype(np.int64)


def _look_up(video, table):
    """Replaces value v of channel c by table[c, v] or table[v], rounded and clipped."""
    table = np.clip(np.round(np.broadcast_to(table, (3, 256))), 0, 255).astype(np.uint8)
    return cv2.LUT(_flat(video), np.ascontiguousarray(table.T)[None]).reshape(video.shape)


def _warp(video, matrix):
    """Moves the pixel at (x, y) to matrix @ (x, y, 1)."""
    _, h, w, _ = video.shape
    out = np.empty_like(video)
    for source, target in zip(video, out, strict=True):
        cv2.warpAffine(source, matrix, (w, h), dst=target, borderMode=cv2.BORDER_CONSTANT, borderValue=FILL)
    return out
