"""Maps drawn over clips: red where it spoke for the class, blue where against."""

import cv2
import numpy as np

SIDE = 224  # pixels that a small clip is enlarged to
GAP = 4  # pixels between the frames of a strip
TALL = 72  # pixels of the curve below a strip
FOR, AGAINST = np.array([255, 40, 20]), np.array([20, 90, 255])  # RGB


def pictures(seen):
    """What a net sees (T, H, W, C) as pictures (T, H, W, 3) in [0, 1]: colours as they are, of flow how much moves."""
    if seen.shape[-1] == 3:
        return seen
    size = np.sqrt((seen.astype(np.float32) ** 2).mean(-1, keepdims=True))
    return np.repeat(size / max(size.max(), 1e-6), 3, -1)


def drawn(clip, heat, strength=0.75):
    """A clip (T, H, W, 3) in [0, 1] in grey with a map (T, H, W) in [-1, 1] as colour: uint8 (T, h, w, 3).

    Enlarged by a whole number to SIDE pixels or more.
    """
    scale = max(1, -(-SIDE // min(clip.shape[1:3])))
    size = clip.shape[2] * scale, clip.shape[1] * scale
    grow = lambda x, how: np.stack([cv2.resize(one, size, interpolation=how) for one in x])  # noqa: E731
    grey = grow(np.clip(clip, 0, 1).astype(np.float32).mean(-1), cv2.INTER_NEAREST)[..., None] * 255
    heat = grow(np.clip(heat, -1, 1).astype(np.float32), cv2.INTER_LINEAR)[..., None]
    alpha = strength * np.abs(heat)
    return (grey * (1 - alpha) + np.where(heat > 0, FOR, AGAINST) * alpha + 0.5).astype(np.uint8)


def strip(clip, overlay, heat, count=8):
    """Evenly spaced frames side by side, the clip's above the overlay's, on white, and `curve` of the map below them.

    uint8 (2 h + 2 GAP + TALL, ..., 3).
    """
    at = np.linspace(0, len(clip) - 1, min(count, len(clip))).round().astype(int)
    size = overlay.shape[2], overlay.shape[1]
    plain = [cv2.resize(clip[i].astype(np.float32), size, interpolation=cv2.INTER_NEAREST) for i in at]
    rows = (np.clip(plain, 0, 1) * 255 + 0.5).astype(np.uint8), overlay[at]
    apart = [np.pad(row, ((0, 0), (0, GAP), (0, GAP), (0, 0)), constant_values=255) for row in rows]
    whole = np.concatenate([np.concatenate(list(row), 1) for row in apart])[:, :-GAP]
    return np.concatenate([whole, curve(heat, whole.shape[1])])


def curve(heat, width):
    """How much each frame counts, its pixels' mean, as bars from a middle line: (T, H, W) -> uint8 (TALL, width, 3)."""
    values = heat.mean((1, 2)) if len(heat) else np.zeros(1)
    values = values / max(np.abs(values).max(), 1e-9)
    drawn = np.full((TALL, width, 3), 255, np.uint8)
    middle = TALL // 2 if values.min() < 0 else TALL - 1
    at = (np.arange(len(values) + 1) * (width + GAP) / len(values)).round().astype(int)
    for value, left, right in zip(values, at[:-1], at[1:] - GAP, strict=True):
        end = round(middle - value * (middle - 1))
        drawn[min(end, middle) : max(end, middle), left : max(right, left + 1)] = FOR if value > 0 else AGAINST
    drawn[middle] = 128
    return drawn
