"""Which frames of a video a clip takes: pure functions of its length, -> int64 frame numbers (size,) or (clips, size).

A clip of `size` frames at `stride` spans (size - 1) * stride + 1 frames. In a video shorter than that, `short="loop"`
starts the video again (I3D's rule) and `short="clamp"` repeats its last frame. ValueError where num_frames, size,
stride or a count is < 1. Rules that carry a project's name take the very frames its published code takes.
"""

import math

import numpy as np


def train(sampler, num_frames, size, stride, rng):
    """The clip that a training step takes, by the sampler's name in SAMPLERS: -> (size,), (<= size,) for full."""
    return _named(sampler)[0](num_frames, size, stride, rng)


def evaluation(sampler, num_frames, size, stride, clips):
    """The clips by which a model trained with `sampler` is evaluated, by its rule in RULES: -> (clips, size)."""
    _check(num_frames=num_frames, size=size, clips=clips)
    return RULES[_named(sampler)[1]](num_frames, size, stride, clips)


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


def segment_clips(num_frames, size, clips):
    """Clip k of K takes the frame at (k + 1/2) / K of each of `size` equal parts: -> (clips, size)."""
    _check(num_frames=num_frames, size=size, clips=clips)
    k, i = np.arange(clips, dtype=np.int64)[:, None], np.arange(size, dtype=np.int64)
    return (2 * (clips * i + k) + 1) * num_frames // (2 * clips * size)


def evenly_spaced(num_frames, size):
    """From the first frame to the last at equal steps, rounded down; the middle one for size 1: -> (size,)."""
    _check(num_frames=num_frames, size=size)
    return _spread(num_frames - 1, size)


def evenly_stepped(num_frames, size, length=1):
    """From the first frame on at equal whole steps, the largest that fit; all frame 0 where none does: -> (size,).

    TSN's test (eval_net.py) of `length` = 1 frame or 5 flow fields from each start.
    """
    _check(num_frames=num_frames, size=size, length=length)
    step = max(0, num_frames - length) // (size - 1) if size > 1 else 0
    return step * np.arange(size, dtype=np.int64)


def part_starts(num_frames, size):
    """The first frames of `size` parts of max(n // size, 1) frames each, the last repeated where they end: -> (size,).

    The rule of many small Keras nets; frames past the last whole part are never seen.
    """
    _check(num_frames=num_frames, size=size)
    return np.minimum(max(num_frames // size, 1) * np.arange(size, dtype=np.int64), num_frames - 1)


def random_frames(num_frames, size, rng):
    """Frames drawn without repetition, in order; in a shorter video all frames equally often: -> (size,)."""
    _check(num_frames=num_frames, size=size)
    all_frames = np.tile(np.arange(num_frames, dtype=np.int64), size // num_frames)
    return np.sort(np.concatenate([all_frames, rng.choice(num_frames, size % num_frames, replace=False)]))


def full(num_frames, stride=1, maximum=None):
    """Every `stride`-th frame of the video, the middle `maximum` of them where those are more: -> (n,)."""
    _check(num_frames=num_frames, stride=stride)
    indices = np.arange(0, num_frames, stride, dtype=np.int64)
    return indices if maximum is None else _middle(indices, maximum)


def uniform_clips(num_frames, size, stride, clips, short="loop"):
    """Clips at equally spaced starts, the first at frame 0, the last at the end; one is central: -> (clips, size).

    The temporal views of SlowFast's test, arXiv:1812.03982, 4.
    """
    _check(clips=clips)
    starts = _spread(_room(num_frames, size, stride), clips)
    return np.stack([_clip(start, num_frames, size, stride, short) for start in starts])


def non_overlapping(num_frames, size, stride, clips, rng=None):
    """One clip in each of `clips` equal parts of the video, drawn with rng and central without: -> (clips, size).

    A part shorter than a clip is looped, so no frame is in two clips (where there are as many frames as clips).
    """
    _check(num_frames=num_frames, size=size, stride=stride, clips=clips)
    edges = np.arange(clips + 1) * num_frames // clips
    lengths = np.maximum(np.diff(edges), 1)
    room = [_room(length, size, stride) for length in lengths]
    starts = np.array(room) // 2 if rng is None else rng.integers(np.array(room) + 1)
    parts = zip(edges, starts, lengths, strict=False)
    return np.stack([edge + _clip(start, length, size, stride, "loop") for edge, start, length in parts])


def windows(num_frames, size, stride, hop, short="loop", tail="cover"):
    """Clips at every `hop`-th frame: -> (n, size), n >= 1. What becomes of the frames that those do not reach:

    "cover": one more clip ends at the last frame; "drop": no clip has them (C3D's clips); "every": each start that is
    a frame of the video is a clip, moved back to end at the last frame (LRCN's code: its last clips are equal).
    """
    _check(hop=hop)
    room = _room(num_frames, size, stride)
    starts = {
        "cover": [*range(0, room, hop), room],
        "drop": range(0, room + 1, hop),
        "every": [min(start, room) for start in range(0, num_frames, hop)],
    }
    if tail not in starts:
        raise ValueError(f"tail must be cover, drop or every, not {tail!r}")
    return np.stack([_clip(start, num_frames, size, stride, short) for start in starts[tail]])


def tsm_segments(num_frames, size, rng=None, length=1, val=False):
    """TSM's starts of `length` consecutive frames (flow fields), one in each of `size` parts: -> (size,).

    With rng its training rule, without its test's; `val`: its validation's, frame 0 throughout in short videos.
    """
    _check(num_frames=num_frames, size=size, length=length)
    places = max(1, num_frames - length + 1)
    average = (num_frames - length + 1) // size
    if rng is None:
        first = val and num_frames <= size + length - 1
        return np.zeros(size, np.int64) if first else _ticks(places, size, 0.5)
    if average > 0:
        return average * np.arange(size) + rng.integers(average, size=size)
    return np.sort(rng.integers(places, size=size)) if num_frames > size else np.zeros(size, np.int64)


def tsm_dense(num_frames, size, rng, span=64):
    """TSM's dense sampling: `size` frames at equal whole steps over `span` frames from a drawn start: -> (size,)."""
    _check(num_frames=num_frames, size=size)
    last = max(0, num_frames - span)
    return (int(rng.integers(max(last, 1))) + span // size * np.arange(size, dtype=np.int64)) % num_frames


def tsm_dense_clips(num_frames, size, clips, span=64):
    """TSM's test by dense sampling (10 clips there), starts from the first to the last: -> (clips, size)."""
    _check(num_frames=num_frames, size=size, clips=clips)
    starts = np.linspace(0, max(0, num_frames - span), num=clips, dtype=np.int64)
    return (starts[:, None] + span // size * np.arange(size)) % num_frames


def ssv2_segments(num_frames, size, rng=None):
    """PySlowFast's frames for Something-Something: of parts with rounded ends, the middle or drawn: -> (size,)."""
    _check(num_frames=num_frames, size=size)
    edges = np.round((num_frames - 1) / size * np.arange(size + 1)).astype(np.int64)
    if rng is None:
        return (edges[:-1] + edges[1:]) // 2
    return rng.integers(edges[:-1], edges[1:], endpoint=True)


def linspace_clip(num_frames, size, stride, rng, fps=30.0):
    """PySlowFast's training clip: -> (size,); see linspace_clips."""
    _check(num_frames=num_frames, size=size, stride=stride)
    span = stride * size / 30 * fps
    return _linspace(rng.uniform(0, max(num_frames - span, 0)), span, num_frames, size)


def linspace_clips(num_frames, size, stride, clips, offset=False, fps=30.0):
    """PySlowFast's test clips, `size` numbers spread over size * stride frames and rounded down: -> (clips, size).

    Clip k starts at k / clips of the room, so that none is at the end; with `offset` (MViT) at k whole steps that
    reach the end, and one clip is central. A video of other `fps` is read at 30 frames a second.
    """
    _check(num_frames=num_frames, size=size, stride=stride, clips=clips)
    span = stride * size / 30 * fps
    room = max(num_frames - span, 0)
    starts = [room * k / clips for k in range(clips)]
    if offset:
        starts = [k * math.floor(room / (clips - 1)) for k in range(clips)] if clips > 1 else [math.floor(room / 2)]
    return np.stack([_linspace(start, span, num_frames, size) for start in starts])


def dmvr_clips(num_frames, size, stride, clips):
    """ViViT's test clips (DMVR): uniform where a clip counts as size * stride frames long, looped: -> (clips, size)."""
    _check(num_frames=num_frames, size=size, stride=stride, clips=clips)
    last = max(0, num_frames - size * stride)
    starts = np.array([last // 2])
    if clips > 1:
        starts = (np.float32(last) / np.float32(clips - 1) * np.arange(clips, dtype=np.float32)).astype(np.int64)
        starts[-1] = last
    return (starts[:, None] + stride * np.arange(size)) % num_frames


def strided_clips(num_frames, size, stride, clips):
    """VideoMAE's test clips of Kinetics, `size` in a row of every `stride`-th frame, clamped: -> (clips, size)."""
    _check(size=size, clips=clips)
    indices = full(num_frames, stride)
    step = max((len(indices) - size) / max(clips - 1, 1), 0)
    starts = (step * np.arange(clips)).astype(np.int64)
    return indices[np.minimum(starts[:, None] + np.arange(size), len(indices) - 1)]


def stack(starts, num_frames, length):
    """`length` consecutive frames (flow fields) from each start, the last repeated: (...) -> (..., length)."""
    return np.minimum(np.asarray(starts, np.int64)[..., None] + np.arange(length), num_frames - 1)


def pad(indices, length):
    """Frames (..., n) to `length` of them -> (indices, mask), both (..., length), mask bool.

    Too few repeat the last one, masked; of too many the middle ones stay.
    """
    indices = _middle(np.asarray(indices, np.int64), length)
    n = indices.shape[-1]
    last = np.repeat(indices[..., -1:], length - n, axis=-1)
    mask = np.broadcast_to(np.arange(length) < n, (*indices.shape[:-1], length))
    return np.concatenate([indices, last], axis=-1), mask.copy()


def bucket(length, buckets):
    """The smallest of `buckets` that holds `length` frames, else the largest, to which `pad` cuts them."""
    if not buckets:
        raise ValueError("buckets must name at least one length")
    return min((b for b in buckets if b >= length), default=max(buckets))


RULES = {  # the clips of a test: f(num_frames, size, stride, clips, or the hop of windows) -> (clips, size)
    "uniform": uniform_clips,
    "non_overlapping": non_overlapping,
    "linspace": linspace_clips,
    "linspace_offset": lambda n, size, stride, clips: linspace_clips(n, size, stride, clips, offset=True),
    "dmvr": dmvr_clips,
    "strided": strided_clips,
    "center": lambda n, size, stride, clips: _same(center_clip(n, size, stride), clips),
    "segments": lambda n, size, _, clips: segment_clips(n, size, clips),
    "segment_starts": lambda n, size, _, clips: _ticks(n, size, np.arange(clips)[:, None] / clips),
    "tsm_segments": lambda n, size, _, clips: _ticks(n, size, (np.arange(clips)[:, None] + 0.5) / clips),
    "tsm_dense": lambda n, size, _, clips: tsm_dense_clips(n, size, clips),
    "ssv2_segments": lambda n, size, _, clips: _same(ssv2_segments(n, size), clips),
    "evenly_spaced": lambda n, size, _, clips: _same(evenly_spaced(n, size), clips),
    "evenly_stepped": lambda n, size, _, clips: _same(evenly_stepped(n, size), clips),
    "part_starts": lambda n, size, _, clips: _same(part_starts(n, size), clips),
    "full": lambda n, size, stride, clips: _same(full(n, stride, size), clips),
    "windows": windows,
    "windows_drop": lambda n, size, stride, hop: windows(n, size, stride, hop, tail="drop"),
    "windows_every": lambda n, size, stride, hop: windows(n, size, stride, hop, tail="every"),
}

SAMPLERS = {  # a config's name: (f(num_frames, size, stride, rng) -> (size,), its rule of evaluation)
    "random_clip": (random_clip, "uniform"),
    "segments": (lambda n, size, _, rng: segments(n, size, rng), "segments"),
    "evenly_spaced": (lambda n, size, _, rng: evenly_spaced(n, size), "evenly_spaced"),
    "evenly_stepped": (lambda n, size, _, rng: evenly_stepped(n, size), "evenly_stepped"),
    "part_starts": (lambda n, size, _, rng: part_starts(n, size), "part_starts"),
    "random_frames": (lambda n, size, _, rng: random_frames(n, size, rng), "evenly_spaced"),
    "full": (lambda n, size, stride, rng: full(n, stride, size), "full"),
    "tsm_segments": (lambda n, size, _, rng: tsm_segments(n, size, rng), "tsm_segments"),
    "tsm_dense": (lambda n, size, _, rng: tsm_dense(n, size, rng), "tsm_dense"),
    "ssv2_segments": (lambda n, size, _, rng: ssv2_segments(n, size, rng), "ssv2_segments"),
    "linspace_clip": (linspace_clip, "linspace"),
}


def _named(sampler):
    if sampler not in SAMPLERS:
        raise ValueError(f"there is no sampler {sampler!r}; take one of {', '.join(SAMPLERS)}")
    return SAMPLERS[sampler]


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


def _ticks(num_frames, size, share):
    """The frame at `share` of each of `size` equal parts, rounded as TSN's and TSM's code rounds it."""
    tick = num_frames / size
    return (tick * share + tick * np.arange(size)).astype(np.int64)


def _linspace(start, span, num_frames, size):
    """torch.linspace(start, start + span - 1, size) in float32, clamped and cut to whole numbers: -> (size,).

    As its scalar kernel rounds; its vector kernels put a frame of 1 clip in 800 next to ours, each CPU another.
    """
    low, high = np.float32(start), np.float32(start + span - 1)
    i = np.arange(size, dtype=np.float32)
    step = (high - low) / np.float32(max(size - 1, 1))
    numbers = np.where((i < size // 2) | (size == 1), low + step * i, high - step * (size - 1 - i))
    return np.clip(numbers, 0, num_frames - 1).astype(np.int64)


def _middle(indices, length):
    start = max(0, indices.shape[-1] - length) // 2
    return indices[..., start : start + length]


def _same(clip, clips):
    return np.tile(clip, (clips, 1))


def _check(**counts):
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
