"""From a stream's frames to what a net sees of each, in a thread of its own: never more of them waiting than it may."""

import collections
import functools
import threading
import typing

import numpy as np

from vidjax import data
from vidjax.data import clips, live, modalities

PICTURES = ("rgb", "flow", "difference")  # the modalities that frames alone give
SPAN = 10.0  # seconds that the frames of a net of whole videos are taken from
SPANNING = {"tsm_dense": lambda size: max(1, 64 // size)}  # strides that samplers have of themselves


class Row(typing.NamedTuple):
    """What the net sees of one frame: arrays (crops, 1, ...) by wire key, and when it came."""

    inputs: dict
    time: float  # seconds, see live.Frame
    end: float  # when the next frame was due, as far away as the one before
    arrived: float
    piece: int


def rate(clip, asked=0.0):
    """Frames a second that a net sees of a stream, from its `clip` section (sampler, size, stride).

    Those `asked` for; else every `stride`-th of 25. A net that is trained on frames of whole videos has them from the
    last ten seconds, at least one a second.
    """
    if asked:
        return asked
    if consecutive(clip):
        return live.FPS / stride(clip)
    return max(clip["size"] / SPAN, 1.0)


def consecutive(clip):
    """Whether a net is trained on frames that follow one another at a stride."""
    return clips.SAMPLERS[clip["sampler"]][1] in ("uniform", "full", "linspace", "tsm_dense")


def stride(clip):
    """The distance of a consecutive net's frames."""
    return SPANNING[clip["sampler"]](clip["size"]) if clip["sampler"] in SPANNING else clip["stride"]


def every(first, step):
    """A choice of frames: every `step`-th from number `first` on; a function of (number, time)."""
    return lambda number, time: number >= first and (number - first) % step == 0


def at_rate(first, wanted):
    """A choice of frames by their times: those nearest to `wanted` a second, from number `first` on, none twice.

    The next frame's time is not known, so it is taken to be as far away as the one before. Of a slower stream all.
    """
    seen = []  # the first frame's time, the last one's, and the number of the next due

    def choose(number, time):
        if number < first:
            return False
        begin, last, due = seen or (time, time, 0)
        reach = time - begin + min(time - last, 1 / wanted) / 2
        chosen = reach * wanted >= due - 1e-6
        seen[:] = begin, time, int(reach * wanted + 1e-6) + 1 if chosen else due
        return chosen

    return choose


def reach(section):
    """How many frames before and after a frame belong to what the net sees of it, as of its flow: (before, after)."""
    many = 1 << 20
    before, length = modalities.room(section, many)
    return before, many - before - length


def check(section):
    """ValueError for a net that sees what a stream of frames does not have."""
    options, asked = section["flow"], section["modalities"]
    lacking = [key for key in asked if key not in PICTURES]
    if lacking:
        raise ValueError(f"a stream has frames alone: this net sees {', '.join(lacking)} too, so it needs whole files.")
    if "flow" in asked and options["source"] == "stored":
        raise ValueError("a stream has no stored flow: give a net whose config.data.flow.source is online or device.")


def rows(frames, section, views, choice):
    """Yields the Row of each chosen frame, by the transforms of evaluation (`data.read_views`).

    `section` and `views` are a predictor's, `choice` makes a choice for each piece of the stream.
    """
    (before, after), piece = reach(section), None
    for frame in frames:
        if frame.piece != piece:
            piece, kept, due, chosen, last = frame.piece, {}, collections.deque(), choice(before), frame.time
        wanted = chosen(frame.number, frame.time)
        if wanted:
            due.append((frame.number, frame.time, 2 * frame.time - last))
        last = frame.time
        if wanted or before or after:
            kept[frame.number] = live.picture(frame.picture, section["short_side"], section["pixels"])
        while due and due[0][0] + after <= frame.number:
            number, *times = due.popleft()
            record = {"id": "", "path": "", "error": "", "num_frames": frame.number + 1}
            record["forward"] = functools.partial(held, kept)
            inputs = data.read_views(section, views, record, np.array([[number]]))
            yield Row(inputs, *times, frame.arrived, piece)
        oldest = (due[0][0] if due else frame.number + 1) - before
        for number in [number for number in kept if number < oldest]:
            del kept[number]


def held(kept, indices, short_side, pixels):
    """The frames `indices` of those that are kept, which have that size and kind already."""
    return np.stack([kept[number] for number in np.asarray(indices).tolist()])


class Waiting:
    """Rows between the thread that makes them and the net: the oldest goes where `drop` and there are `size` of them.

    Else the thread waits. `frames`, `chosen` and `dropped` count.
    """

    def __init__(self, size, drop):
        self.size, self.drop = size, drop
        self.items, self.changed = collections.deque(), threading.Condition()
        self.frames = self.chosen = self.dropped = 0
        self.ended, self.error = False, None

    def fill(self, frames, make):
        """Puts what `make(frames)` yields; an error is kept for the one who takes."""
        error = None
        try:
            for item in make(self.counted(frames)):
                if not self.put(item):
                    break
        except Exception as found:  # of any kind: it is raised in the main thread
            error = found
        self.end(error)

    def counted(self, frames):
        """The same frames, counted."""
        for frame in frames:
            self.frames += 1
            yield frame

    def put(self, item):
        """Adds a row; False where nobody takes any more."""
        with self.changed:
            self.chosen += 1
            while self.drop and len(self.items) >= self.size:
                self.items.popleft()
                self.dropped += 1
            self.changed.wait_for(lambda: len(self.items) < self.size or self.ended)
            self.items.append(item)
            self.changed.notify_all()
            return not self.ended

    def end(self, error=None, forget=False):
        """No row comes any more; those that wait stay to be taken unless they are to be forgotten."""
        with self.changed:
            self.ended, self.error = True, self.error or error
            if forget:
                self.items.clear()
            self.changed.notify_all()

    def __iter__(self):
        """Yields (row, whether another one waits) until the end; raises the thread's error then."""
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.items or self.ended)
                if not self.items:
                    break
                found, more = self.items.popleft(), bool(self.items)
                self.changed.notify_all()
            yield found, more
        if self.error:
            raise self.error


def in_turn(waiting, turn):
    """What `waiting` yields; whoever takes it holds the lock `turn` until the next is asked for."""
    for item in waiting:
        with turn:
            yield item


def started(waiting, frames, make):
    """A thread that fills `waiting`; it ends with the program."""
    thread = threading.Thread(target=waiting.fill, args=(frames, make), name="stream", daemon=True)
    thread.start()
    return thread


def blank(section, views):
    """A row of zeros, to compile the net on."""
    inputs = modalities.zeros(section, 1, views["size"])
    return Row({key: np.stack([x] * views["crops"]) for key, x in inputs.items()}, 0.0, 0.0, 0.0, 0)
