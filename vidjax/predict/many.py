"""Many videos at once: threads decode windows of several files while the device computes batches of them."""

import collections
import contextlib
import os
import typing

import numpy as np

from vidjax.data import video
from vidjax.predict import turns, windows

LONG = 4096  # frames from which on a video is decoded in several places at once
AHEAD = 32 << 20  # bytes of windows that a thread may have ready
WHOLE = -1  # the place of a whole video's views


class Begun(typing.NamedTuple):
    """A file that can be read: what it is, which windows it has, and iterators over its later parts."""

    number: int
    record: dict
    times: np.ndarray
    clips: np.ndarray
    spans: np.ndarray
    later: list


class Seen(typing.NamedTuple):
    """What the model sees of a window of file `number`, {key: (crops, ...)}; of the whole video at place WHOLE."""

    number: int
    place: int
    views: dict


class Failed(typing.NamedTuple):
    """Why a file cannot be read."""

    number: int
    error: video.VideoError


def scored(predictor, paths, *, stride="", window="", protocol="", threads=4, progress=None, layers=(), raw=False):
    """Yields (path, result of `Predictor`, or the VideoError of a file that cannot be read) in the order of the paths.

    Memory holds a few windows and frames for each of the threads, however long and many the videos are. `progress` is
    called after each window, with those that are done and those known so far. `layers` and `raw` are those of
    `evaluate.eval_step`: results then have `features` {layer: (W, ...)} in place of scores.
    """
    how = {"stride": stride, "window": window, "protocol": protocol, "threads": threads}
    step = predictor.compiled("", layers, raw) if layers else None
    waiting = collections.deque(opened(predictor, i, path, **how) for i, path in enumerate(paths))
    sheet, batches, turn = Sheet(protocol, progress), Batches(predictor, protocol, step), 0
    with contextlib.closing(turns.taken(waiting, threads, depth(predictor))) as items:
        for item in items:
            if isinstance(item, Begun):
                waiting.extendleft(reversed(item.later))
                sheet.begin(item)
            elif isinstance(item, Failed):
                sheet.files[item.number] = item.error
            else:
                sheet.put(batches.add(item))
            while turn < len(paths) and (result := sheet.take(turn)) is not None:
                yield paths[turn], result
                turn += 1
        sheet.put(batches.rest())
    for i in range(turn, len(paths)):
        yield paths[i], sheet.take(i)


def depth(predictor):
    """How many windows a thread may have ready."""
    size = sum(x.nbytes for x in predictor.blank().values()) * predictor.meta["preprocess"]["crops"]
    return int(np.clip(AHEAD // max(size, 1), 1, 8))


def opened(predictor, number, path, *, stride, window, protocol, threads):
    """Yields a file's Begun, its whole views if a protocol asks for them, and what is Seen of its (first) windows."""
    try:
        record = {"id": os.path.basename(path), "path": path, "error": ""} | video.probe(path)
        indices, spans = windows.cut(predictor.section, record["num_frames"], record["fps"], stride, window)
        pieces = np.array_split(np.arange(len(indices)), min(threads, len(indices), 1 + record["num_frames"] // LONG))
        parts = [part(predictor, number, record, indices, places) for places in pieces]
        yield Begun(number, record, video.times(path), indices, spans, parts[1:])
        if protocol:
            yield Seen(number, WHOLE, predictor.whole_views(record, protocol))
        yield from parts[0]
    except video.VideoError as error:
        yield Failed(number, error)


def part(predictor, number, record, indices, places):
    """Yields what is Seen of some windows that follow one another."""
    made = windows.views(predictor.section, predictor.meta["preprocess"], record, indices[places])
    try:
        for place, views in zip(places.tolist(), made, strict=True):
            yield Seen(number, place, views)
    except video.VideoError as error:
        yield Failed(number, error)


class Batches:
    """Windows of any files, computed `predictor.at_once` at a time, one batch while the next is filled."""

    def __init__(self, predictor, protocol, step=None):
        self.predictor, self.protocol, self.step = predictor, protocol, step
        self.full, self.flying = [], collections.deque()

    def add(self, seen):
        """Takes a window, or a whole video's views; -> [(what was Seen, its scores)] of what is done meanwhile."""
        if seen.place == WHOLE:
            self.flying.append(([seen], self.predictor.whole_scores(seen.views, self.protocol)))
            return self.land(2)
        if self.full and shapes(seen) != shapes(self.full[0]):  # clips as long as their videos
            self.launch()
        self.full.append(seen)
        if len(self.full) == self.predictor.at_once:
            self.launch()
        return self.land(2)

    def launch(self):
        """Sends what is there to the device."""
        self.flying.append((self.full, self.predictor.batch([seen.views for seen in self.full], self.step)))
        self.full = []

    def land(self, most):
        """Waits until no more than `most` batches are on the device; -> what came of the others."""
        found = []
        while len(self.flying) > most:
            seen, scores = self.flying.popleft()
            found += zip(seen, rows(scores), strict=False)  # the last batch is padded
        return found

    def rest(self):
        """What is not done yet."""
        if self.full:
            self.launch()
        return self.land(0)


def rows(made):
    """What the device gave of a batch, window by window: scores, or {layer: activation}."""
    if not isinstance(made, dict):
        return np.asarray(made)
    arrays = {name: np.asarray(x) for name, x in made.items()}
    return [dict(zip(arrays, each, strict=True)) for each in zip(*arrays.values(), strict=True)]


def shapes(seen):
    """Shapes of what is seen of a window."""
    return {key: x.shape for key, x in seen.views.items()}


class Sheet:
    """Scores of files, filled in as they come: `files` has the Begun, or the error, of each number."""

    def __init__(self, protocol, progress=None):
        self.protocol, self.progress = protocol, progress or (lambda done, known: None)
        self.files, self.scores, self.left, self.whole = {}, {}, {}, {}
        self.done = self.known = 0

    def begin(self, begun):
        """Notes a file and how many scores it waits for."""
        self.files[begun.number] = begun
        self.scores[begun.number] = [None] * len(begun.spans)
        self.left[begun.number] = len(begun.spans) + bool(self.protocol)
        self.known += len(begun.spans)

    def put(self, found):
        """Writes scores down."""
        for seen, scores in found:
            if seen.place != WHOLE:
                self.done += 1
                self.progress(self.done, self.known)
            if seen.number not in self.left:
                continue  # a later part of a file that failed
            if seen.place == WHOLE:
                self.whole[seen.number] = scores
            else:
                self.scores[seen.number][seen.place] = scores
            self.left[seen.number] -= 1

    def take(self, number):
        """The result of a file, or its error, once; None as long as scores are missing."""
        begun = self.files.get(number)
        if isinstance(begun, Exception):
            self.left.pop(number, None)
            self.scores.pop(number, None)
            return begun
        if begun is None or self.left[number]:
            return None
        self.left.pop(number)
        del self.files[number]
        return finished(begun, self.scores.pop(number), self.whole.pop(number, None))


def finished(begun, scores, whole):
    """The result of `Predictor` for a file."""
    times, spans = begun.times, begun.spans
    if isinstance(scores[0], dict):
        made = {"features": {name: np.stack([one[name] for one in scores]) for name in scores[0]}}
    else:
        made = {"scores": np.stack(scores)}
        made["video"] = made["scores"].mean(0) if whole is None else whole
    return made | {
        **{key: begun.record[key] for key in ("path", "num_frames", "fps", "width", "height")},
        "times": times,
        "start": times[spans[:, 0]],
        "end": times[spans[:, 1]],
        "frames": spans,
        "clips": begun.clips,
    }
