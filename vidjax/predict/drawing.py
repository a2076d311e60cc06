"""Labels drawn on pictures: text that fits, on a dark box in the upper left corner."""

import functools

import cv2
import numpy as np

from vidjax.data import redraw
from vidjax.predict import segments

SMALLEST, LARGEST, SHARE = 9, 44, 1 / 18  # pixels of the font, and its share of the picture's shorter side
WHITE, GREY, DIM = 255, 185, 0.25  # of what is above the threshold and below; the box keeps so much of the picture


def annotate(path, target, result, names, *, top=3, threshold=segments.THRESHOLD):
    """Writes a copy of a video as `redraw.copy` does, with the `top` classes of each moment's window drawn on it.

    A moment belongs to a window as in `segments`; classes below the threshold are grey.
    """
    at = segments.edges(result["frames"])

    @functools.lru_cache(2)
    def box(window, height, width):
        scores = result["scores"][window]
        order = np.argsort(-scores, kind="stable")[:top]
        lines = [(f"{names[i]}  {scores[i]:.0%}", WHITE if scores[i] >= threshold else GREY) for i in order]
        return caption(lines, height, width)

    def draw(number, picture):
        window = int(np.searchsorted(at, number, "right")) - 1
        blend(picture, box(min(max(window, 0), len(at) - 2), *picture.shape[:2]))

    redraw.copy(path, target, draw)


def blend(picture, box):
    """Draws a caption in the upper left corner of a picture (H, W, 3), in place."""
    region = picture[: box.shape[0], : box.shape[1]]
    region[:] = np.maximum((region * DIM).astype(np.uint8), box[..., None])


def caption(lines, height, width):
    """The brightness of a box with lines of (text, brightness): uint8 (h, w), no larger than a picture.

    The font shrinks until all lines, wrapped between words where they are too long, fill no more than half the height;
    at the smallest size the last of them are left out, and what is still too long ends in an ellipsis.
    """
    size = float(np.clip(min(height, width) * SHARE, SMALLEST, LARGEST))
    room = lambda size: max(1, int(height / 2 / leading(size)))  # noqa: E731
    while len(wrapped(lines, size, width)) > room(size) and size > SMALLEST:
        size = max(SMALLEST, 0.9 * size)
    rows = wrapped(lines, size, width)
    if len(rows) > room(size):
        rows = rows[: room(size)]
        rows[-1] = (shortened(f"{rows[-1][0]}…", size, width), rows[-1][1])
    margin = int(size / 3)
    wide = max(measure(text, size) for text, _ in rows) + 2 * margin + 1
    box = np.zeros((min(height, len(rows) * leading(size) + 2 * margin), min(width, wide)), np.uint8)
    for i, (text, brightness) in enumerate(rows):
        write(box, text, (margin, margin + i * leading(size) + int(0.8 * leading(size))), size, brightness)
    return box


def leading(size):
    """Pixels from line to line."""
    return int(np.ceil(1.3 * size))


def wrapped(lines, size, width):
    """Lines broken between words, or inside one that is longer than the picture is wide: [(text, brightness)]."""
    room, rows = width - 2 * int(size / 3) - 1, []
    for text, brightness in lines:
        row = ""
        for word in text.split():
            joined = f"{row} {word}" if row else word
            if measure(joined, size) <= room:
                row = joined
                continue
            rows += [(row, brightness)] if row else []
            while measure(word, size) > room and len(word) > 1:
                count = next((n for n in range(len(word) - 1, 0, -1) if measure(word[:n], size) <= room), 1)
                rows.append((word[:count], brightness))
                word = word[count:]
            row = word
        rows.append((row, brightness))
    return rows


def shortened(text, size, width):
    """A text that ends in an ellipsis, with as many of its letters as the picture is wide."""
    room = width - 2 * int(size / 3) - 1
    while measure(text, size) > room and len(text) > 1:
        text = f"{text[:-2]}…"
    return text


FONT = cv2.FontFace("sans") if hasattr(cv2, "FontFace") else None  # OpenCV 5's, of many scripts


@functools.lru_cache(4096)
def measure(text, size):
    """The width of a text in pixels."""
    if FONT is None:
        return cv2.getTextSize(plain(text), cv2.FONT_HERSHEY_SIMPLEX, size / 30, 1)[0][0]
    return cv2.getTextSize((1 << 15, 1 << 15), text, (0, 0), FONT, round(size), 400)[2]


def write(box, text, at, size, brightness):
    """Writes a text into a box (H, W), `at` (x, y) of its base line."""
    if FONT is None:
        cv2.putText(box, plain(text), at, cv2.FONT_HERSHEY_SIMPLEX, size / 30, brightness, 1, cv2.LINE_AA)
    else:
        box[:] = cv2.putText(box, text, at, (brightness,) * 3, FONT, round(size), 400)[1]


def plain(text):
    """A text in the letters that OpenCV 4 has."""
    return text.replace("…", "...").encode("ascii", "replace").decode()
