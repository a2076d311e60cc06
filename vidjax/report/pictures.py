"""The pictures of a page, as data URIs: the confusion matrix of many classes, filmstrips and short clips."""

import base64

import cv2
import numpy as np

from vidjax.data import preview
from vidjax.report.confusion import shares

FRAMES, HEIGHT = 8, 96  # of a filmstrip, and its height in pixels
CLIP_BYTES = 150_000  # a clip that takes more is left out, its filmstrip stays
CORRECT, WRONG = (47, 114, 225), (240, 96, 18)  # RGB of the matrix's cells, legible on light and dark


def heat(confusion):
    """The matrix as a PNG data URI: colour says right or wrong, opacity the square root of the row's share."""
    part = shares(confusion)
    alpha = np.where(part > 0, 0.35 + 0.65 * np.sqrt(part), 0)
    colour = np.where(np.eye(len(part), dtype=bool)[..., None], CORRECT, WRONG)
    pixels = np.concatenate([colour[..., ::-1], np.round(255 * alpha)[..., None]], axis=-1)
    return image(".png", pixels.astype(np.uint8))


def strip(video):
    """Frames (n, H, W, 3) as at most FRAMES small JPEG data URIs, evenly spaced."""
    if not len(video):
        return []
    chosen = np.linspace(0, len(video) - 1, min(len(video), FRAMES)).round().astype(int)
    scale = min(1, HEIGHT / video[0].shape[0])
    small = [cv2.resize(video[i], None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) for i in chosen]
    return [image(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80]) for picture in small]


def clip(video):
    """All frames as a playable data URI of about three seconds; "" for fewer than two, or where it cannot be made."""
    if len(video) < 2:
        return ""
    data = preview.webm(video, fps=min(12, max(3, round(len(video) / 3))))
    return f"data:video/webm;base64,{_text(data)}" if 0 < len(data) <= CLIP_BYTES else ""


def image(kind, pixels, options=()):
    """Pixels as OpenCV has them (H, W, BGR or BGRA) as a data URI of a `.png` or `.jpg`."""
    data = cv2.imencode(kind, np.ascontiguousarray(pixels), list(options))[1].tobytes()
    return f"data:image/{'png' if kind == '.png' else 'jpeg'};base64,{_text(data)}"


def _text(data):
    return base64.b64encode(data).decode()
