"""Which frames of a video each window of time is made of, and their pictures in one pass over the file."""

import re

import numpy as np

from vidjax import data
from vidjax.data import clips, forward, modalities

REACH = {  # of samplers whose clips are consecutive frames: (frames from the first to the last, frames it stands for)
    "random_clip": lambda size, stride: ((size - 1) * stride + 1, size * stride),
    "linspace_clip": lambda size, stride: (size * stride, size * stride),
    "tsm_dense": lambda size, stride: (64, 64),
}


def cut(section, num_frames, fps, stride="", window=""):
    """The windows of a video: -> (the frames that a net sees of each (W, T), the frames it stands for (W, 2)).

    A window is a clip such as the net was trained on; one begins every `stride` ("0.5s" or "8f", frames; default: when
    the one before has ended), and the last ends with the video. A net that sees frames from all over a video has one
    window, or with `window` (as `stride`) as many as such pieces of the video. ValueError.
    """
    clip, (first, length) = section["clip"], modalities.room(section, num_frames)
    hop, asked = frames(stride, fps, "stride"), frames(window, fps, "window")
    if clip["sampler"] in REACH:
        if asked:
            raise ValueError(
                f"the net sees clips of {clip['size']} frames at stride {clip['stride']}, so windows are as long as"
                " these: leave --window out."
            )
        reach, standing = REACH[clip["sampler"]](clip["size"], clip["stride"])
    else:
        reach = standing = min(asked or length, length)
    last = max(0, length - reach)
    starts = first + np.array([*range(0, last, hop or standing), last])
    (inside,) = clips.evaluation(num_frames=min(reach, length), clips=1, **clip)
    spans = np.stack([starts, np.minimum(starts + standing, num_frames)], 1)
    spans[0, 0], spans[-1, 1] = 0, num_frames
    return starts[:, None] + inside, spans


def frames(text, fps, name):
    """The number of frames, at least 1, that "0.5s" (seconds) or "8f" (frames) means; 0 for nothing. ValueError."""
    if not text:
        return 0
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|f)", str(text).strip())
    if not match or not float(match[1]) or (match[2] == "f" and not float(match[1]).is_integer()):
        raise ValueError(f"--{name} is a time such as 0.5s or a number of frames such as 8f, not {text!r}.")
    return max(1, round(float(match[1]) * (fps if match[2] == "s" else 1)))


def views(section, preprocess, record, windows):
    """Yields what `data.read_views` gives for each window (W, T) in turn, {key: (crops, ...)}.

    Pictures are decoded once, in one pass, and held as long as a window to come needs them. VideoError.
    """
    found = [modalities.frames_needed(section, window, record["num_frames"]).values() for window in windows]
    needed = [np.concatenate([np.ravel(numbers) for numbers in asked]) for asked in found if asked]
    if needed:
        record = record | {"forward": forward.Forward(record["path"], np.unique(np.concatenate(needed)))}
        earliest = np.minimum.accumulate([numbers.min() for numbers in reversed(needed)])[::-1]
    for i, window in enumerate(windows):
        if needed:
            record["forward"].forget(earliest[i])
        yield data.read_views(section, preprocess, record, window[None])
