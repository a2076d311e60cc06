"""Which frames of a video a clip takes: pure functions of its length, -> int64 frame numbers (size,) or (clips, size).

A clip of `size` frames at `stride` spans (size - 1) * stride + 1 frames. In a video shorter than that, `short="loop"`
starts the video again (I3D's rule) and `short="clamp"` repeats its last frame. ValueError where num_frames, size,
stride or a count is < 1.
"""

import numpy as np

SAMPLERS = ("random_clip", "segments", "evenly_spaced")


def train(sampler, num_frames, size, stride, rng):
    """The clip that a training step takes, by the sampler's name: -> (size,); `stride` matters to random_clip alone."""
    if sampler == "random_clip":
        return random_clip(num_frames, size, stride, rng)
    if sampler == "segments":
        return segments(num_frames, size, rng)
    if sampler == "evenly_spaced":
        return evenly_spaced(num_frames, size)
    raise ValueError(f"there is no sampler {sampler!r}; take one of {', '.join(SAMPLERS)}")


def evaluation(sampler, num_frames, size, stride, clips):
    """The clips by which a model trained with `sampler` is evaluated: -> (clips, size).

    Uniform clips for random_clip; for segments, clip k of K takes the frame at (k + 1/2) / K of each segment.
    """
    _check(num_frames=num_frames, size=size, clips=clips)
    if sampler == "random_clip":
        return uniform_clips(num_frames, size, stride, clips)
    if sampler == "segments":
        k, i = np.arange(clips, dtype=np.int64)[:, None], np.arange(size, dtype=np.int64)
        return (2 * (clips * i + k) + 1) * num_frames // (2 * clips * size)
    if sampler == "evenly_spaced":
        return np.tile(evenly_spaced(num_frames, size), (clips, 1))
    raise ValueError(f"there is no sampler {sampler!r}; take one of {', '.join(SAMPLERS)}")


def random_clip(num_frames, size, stride, rng, short="loop"):
    """Consecutive frames from a uniformly drawn start: -> (size,)."""
    return _clip(int(rng.integers(_room(num_frames, size, stride) + 1)), num_frames, size, stride, short)


def center_clip(num_frames, size, stride, short="loop"):
    """Consecutive frames from the middle of the video: -> (size,)."""
    return _clip(_room(num_frames, size, stride) // 2, num_frames, size, stride, short)


def segments(num_frames, size, rng=None):
    """One frame from each of `size` equal parts, drawn with rng and central without: -> (size,).

    TSN's sampling, arXiv:1608.00859, 3.1. Parts shorter than a frame repeat frames.
    """
    _check(num_frames=num_frames, size=size)
    i = np.arange(size, dtype=np.int64)
    if rng is None:
        return (2 * i + 1) * num_frames // (2 * size)
    low = i * num_frames // size
    return rng.integers(low, np.maximum((i + 1) * num_frames // size, low + 1))


def evenly_spaced(num_frames, size):
    """From the first frame to the last at equal steps, rounded down; the middle one for size 1: -> (size,)."""
    _check(num_frames=num_frames, size=size)
    return _spread(num_frames - 1, size)


def uniform_clips(num_frames, size, stride, clips, short="loop"):
    """Clips at equally spaced starts, the first at frame 0, the last at the end; one is central: -> (clips, size).

    The temporal views of SlowFast's test, arXiv:1812.03982, 4.
    """
    _check(clips=clips)
    starts = _spread(_room(num_frames, size, stride), clips)
    return np.stack([_clip(start, num_frames, size, stride, short) for start in starts])


def windows(num_frames, size, stride, hop, short="loop"):
    """Clips at every `hop`-th frame; one more, where those do not reach it, ends at the last frame: -> (n, size)."""
    _check(hop=hop)
    room = _room(num_frames, size, stride)
    starts = [*range(0, room, hop), room]
    return np.stack([_clip(start, num_frames, size, stride, short) for start in starts])


def _room(num_frames, size, stride):
    """The last start from which a whole clip fits, 0 where none does."""
    _check(num_frames=num_frames, size=size, stride=stride)
    return max(0, num_frames - (size - 1) * stride - 1)


def _clip(start, num_frames, size, stride, short):
    indices = start + stride * np.arange(size, dtype=np.int64)
    if short == "loop":
        return indices % num_frames
    if short == "clamp":
        return np.minimum(indices, num_frames - 1)
    raise ValueError(f"short must be loop or clamp, not {short!r}")


def _spread(last, count):
    if count == 1:
        return np.array([last // 2], np.int64)
    return np.arange(count, dtype=np.int64) * last // (count - 1)


def _check(**counts):
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
