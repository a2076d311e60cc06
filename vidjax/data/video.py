"""Video files in and out with PyAV: frame-exact random access, one decoder thread, local files only.

Frame `k` is the `k`-th picture that playing the file shows. Packets are demuxed once (no decoding), ranked by
presentation time and the keyframes remembered; a read then seeks to a keyframe, counts pictures from its rank and
converts only those asked for. Timestamps of decoded frames are never used: after a seek they are wrong in AVI files
with B-frames.
"""

import collections
import contextlib
import functools
import io
import itertools
import os
import pathlib
import threading
import time
import typing

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from vidjax.data import packets, planes
from vidjax.data.planes import FORMAT, store
from vidjax.data.written import write

__all__ = ["VideoError", "forward", "probe", "read", "times", "write"]

MAX_PIXELS = 8192 * 4352  # an 8K picture; a file's decoder may hold 16 of them
TIME_LIMIT = 10.0  # seconds of processor time that reading a file may take, and 1 more for each frame asked for
IO_TIMEOUT = 60.0  # seconds of wall clock that opening a file or reading a packet may take
CACHED = 16 << 20  # bytes that the latest scans may keep in memory
SKIP = 2  # decoding so many unwanted pictures costs no more than a seek
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm,gif,mpeg,mpegts,mpegvideo,m4v,h264,hevc,flv,asf,ogg,mxf,rm,ivf"
LIMIT = {"max_pixels": str(MAX_PIXELS)}
OPTIONS = {"protocol_whitelist": "file", "format_whitelist": FORMATS} | LIMIT
# Metadata in Latin-1 must not make a video unreadable; PyAV 19 no longer minds it and has no such argument.
SCANS, HELD, LOCK = collections.OrderedDict(), {"bytes": 0}, threading.Lock()
METADATA = {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}
FAILURES = (av.error.FFmpegError, OSError, ValueError, ArithmeticError, LookupError, RuntimeError, MemoryError)


class VideoError(ValueError):
    """A file that cannot be read as video; one sentence that begins with the file's name."""


class _File(typing.NamedTuple):
    source: object  # path or bytes
    name: str  # how messages name it: always printable as UTF-8
    key: object  # stands for the content; None: unknown


class _Index(typing.NamedTuple):
    num_frames: int
    width: int
    height: int
    turns: int  # quarter turns counter-clockwise until upright
    fps: float
    duration: float
    starts: np.ndarray  # see packets.Order
    spare: np.ndarray


def probe(file, key=None, time_limit=None):
    """What a file holds: {num_frames, fps, width, height, duration}; packets are counted, the first frame is decoded.

    `file`, `key` and `time_limit` as for `read`. Width and height are those of the upright picture, `fps` the mean
    rate, duration in seconds. VideoError.
    """
    file = _file(file, key)
    with contextlib.ExitStack() as stack:
        index, _ = _index(file, _clock(file, time_limit), stack)
    height, width = _size(file, index, 0, 1)
    shape = {"width": width, "height": height}
    return {"num_frames": index.num_frames, "fps": index.fps, **shape, "duration": index.duration}


def read(file, indices, short_side=0, pixels="rgb", key=None, time_limit=None):
    """Decodes the frames `indices`, in any order, with repeats: -> uint8 RGB (len(indices), H, W, 3), upright.

    `file` is a path or the file's bytes; a hashable `key` that stands for those bytes spares their next scan.
    `short_side` > 0 resizes while converting, aspect kept, so that the shorter side has exactly that many pixels (also
    upwards). Non-square pixels are not stretched. `pixels="yuv420"` gives I420 planes in BT.601 full range instead,
    (len(indices), H * 3 // 2, W) with sizes rounded to even numbers. VideoError where a frame cannot be had, or not
    within `time_limit` seconds (None: TIME_LIMIT) of processor time plus one for each frame.
    """
    indices = np.asarray(indices, np.int64).reshape(-1)
    _check_request(indices, short_side, pixels)
    wanted, places = np.unique(indices, return_inverse=True)
    file = _file(file, key)
    with contextlib.ExitStack() as stack:
        made = _decoded(file, wanted, short_side, FORMAT[pixels], _clock(file, time_limit, wanted.size), stack)
        frames = _empty(file, (wanted.size, *next(made)))
        for frame, put in zip(frames, made, strict=True):
            put(frame)
    return frames if np.array_equal(wanted, indices) else frames[places]


def forward(file, indices, short_side=0, pixels="rgb", key=None, time_limit=None):
    """Yields the pictures that `read` of `indices` gives, which ascend without repeats, one after another.

    In one pass over the file, so that memory holds one picture however many are asked for. The iterator stays in one
    thread, whose own work counts as the reading's. VideoError.
    """
    indices = np.asarray(indices, np.int64).reshape(-1)
    _check_request(indices, short_side, pixels)
    file = _file(file, key)
    with contextlib.ExitStack() as stack:
        made = _decoded(file, indices, short_side, FORMAT[pixels], _clock(file, time_limit, indices.size), stack)
        shape = next(made)
        for put in made:
            frame = _empty(file, (1, *shape))[0]
            put(frame)
            yield frame


def times(file):
    """When playing a file shows each picture and when the last one ends: float64 seconds (num_frames + 1,), ascending.

    Second 0 is where players begin: with the sound, where that is before the first picture. Pictures of a file without
    usable times are `probe`'s fps apart, and the last one stays as long as the mean of all. VideoError.
    """
    info, file = probe(file), _file(file, None)
    with _open(file) as (container, stream):
        ranked = packets.order(packets.pictures(container.demux(stream), stream.codec_context.name))
        sound = [s.start_time * s.time_base for s in container.streams.audio if s.start_time is not None]
        base = stream.time_base
    if len(ranked.times) != info["num_frames"] or not ranked.ticks:
        return np.arange(info["num_frames"] + 1) / info["fps"]
    lead = max(0.0, float(ranked.times[0] * base - min(sound))) if sound else 0.0
    shown, n = (ranked.times - ranked.times[0]) * base.numerator / base.denominator, info["num_frames"]
    return lead + np.append(shown, ranked.ticks * n * base.numerator / ((n - 1) * base.denominator))


def _check_request(indices, short_side, pixels):
    if indices.size == 0 or indices.min() < 0 or short_side < 0:
        raise ValueError(f"read needs frame numbers >= 0 and short_side >= 0, got {indices.tolist()} and {short_side}")
    if pixels not in FORMAT:
        raise ValueError(f"pixels must be one of {', '.join(FORMAT)}, not {pixels!r}")


def _file(source, key):
    if isinstance(source, bytes):
        return _File(source, f"video of {len(source)} bytes" if key is None else str(key), key)
    name = os.fspath(source).encode(errors="replace").decode()
    try:
        stat = os.stat(source)
    except (OSError, ValueError) as error:
        raise VideoError(f"{name}: {_reason(error)}") from error
    return _File(source, name, (os.fspath(source), stat.st_mtime_ns, stat.st_size))


def _opened(source):
    """What PyAV opens; `file:` keeps it from taking part of a name for a protocol, and it wants names in UTF-8."""
    if isinstance(source, bytes):
        return io.BytesIO(source)
    path = os.path.abspath(source)
    try:
        path.encode()
    except UnicodeEncodeError:
        return io.BytesIO(pathlib.Path(path).read_bytes())
    return f"file:{path}"


@contextlib.contextmanager
def _open(file):
    """Opens a file: yields (container, video stream); whatever PyAV raises inside becomes a VideoError."""
    try:
        if not isinstance(file.source, bytes) and not os.path.isfile(file.source):
            raise VideoError(f"{file.name}: not a file")
        with av.open(_opened(file.source), options=OPTIONS, timeout=IO_TIMEOUT, **METADATA) as container:
            stream = container.streams.best("video")
            if stream is None or stream.codec_context is None:
                raise VideoError(f"{file.name}: there is no video stream that can be decoded")
            context = stream.codec_context
            _check_pixels(file.name, context.width, context.height)
            context.thread_type, context.thread_count, context.options = "SLICE", 1, LIMIT
            yield container, stream
    except VideoError:
        raise
    except FAILURES as error:
        raise VideoError(f"{file.name}: cannot be read as video ({_reason(error)})") from error


def _reason(error):
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _check_pixels(name, width, height):
    if width * height > MAX_PIXELS:
        raise VideoError(f"{name}: pictures of {width}x{height} pixels are refused, the limit is {MAX_PIXELS} pixels")


def _clock(file, limit, frames=0):
    """A function that raises VideoError when this thread has worked for longer than reading `file` may take."""
    limit, start = (TIME_LIMIT if limit is None else limit) + frames, time.thread_time()

    def check():
        if time.thread_time() - start > limit:
            raise VideoError(f"{file.name}: reading takes longer than the limit of {limit:g} s; re-encode the file")

    return check


def _size(file, index, short_side, multiple):
    """Height and width of the upright pictures that a read returns."""
    height, width = (index.width, index.height) if index.turns % 2 else (index.height, index.width)
    height, width = planes.size(height, width, short_side, multiple)
    _check_pixels(file.name, width, height)
    return height, width


def _index(file, check, stack):
    """The scan of a file, from memory where the same was scanned lately, and the file if it is open for more."""
    with LOCK:
        if file.key in SCANS:
            SCANS.move_to_end(file.key)
            return SCANS[file.key], None
    container, stream = stack.enter_context(_open(file))
    index = _scan(file, container, stream, check)
    if file.key is not None:
        _remember(file.key, index)
    again = stream.codec_context.name == "h264" and index.starts[0, 1] != packets.UNKNOWN
    return index, (container, stream) if again else None


def _remember(key, index):
    """Keeps a scan, and forgets those longest unused beyond CACHED bytes."""
    with LOCK:
        HELD["bytes"] += _bytes(index) - (_bytes(SCANS[key]) if key in SCANS else 0)
        SCANS[key] = index
        while HELD["bytes"] > CACHED:
            HELD["bytes"] -= _bytes(SCANS.popitem(last=False)[1])


def _bytes(index):
    return 1000 + index.starts.nbytes + index.spare.nbytes


def _scan(file, container, stream, check):
    """Demuxes the whole file and decodes its first picture: -> _Index."""
    frames = []
    found = packets.pictures(_until_first(container, stream, frames, check), stream.codec_context.name)
    base, rate = stream.time_base, stream.average_rate or stream.guessed_rate
    count, ticks, starts, spare, _ = packets.order(found) if found.pts else (0, 0, (), (), ())
    if not frames or not count:
        raise VideoError(f"{file.name}: there is no frame that can be decoded")
    frame = frames[0]
    fps = float((count - 1) / (ticks * base) if ticks else rate or 25)
    return _Index(count, frame.width, frame.height, round(frame.rotation / 90) % 4, fps, count / fps, starts, spare)


def _until_first(container, stream, frames, check):
    """Demuxes, and decodes until there are `frames`."""
    codec = stream.codec_context
    for packet in container.demux(stream):
        check()
        if not frames:
            frames += packet.decode()
        if not frames and packet.size and codec.name == "h264":  # does not wait for pictures that come before it
            frames += codec.decode(None)
            codec.flush_buffers()
        yield packet


def _decoded(file, wanted, short_side, form, check, stack):
    """Yields the shape of a picture, then for each of the ascending numbers `wanted` a function that stores it."""
    index, opened = _index(file, check, stack)
    if wanted[-1] >= index.num_frames:
        raise VideoError(f"{file.name}: frame {wanted[-1]} cannot be decoded, there are only {index.num_frames} frames")
    size, wanted, done = _size(file, index, short_side, form.multiple), wanted.tolist(), 0
    yield form.shape(*size)
    flat, reformatter = size if index.turns % 2 else size[::-1], VideoReformatter()
    plain = index._replace(starts=index.starts[:1], spare=index.spare[:0])
    for way, used in ((index, opened), (plain, None)):  # exactly, then counting all pictures from the beginning
        with contextlib.nullcontext(used) if used else _open(file) as (container, stream):
            problem = "the file ends before it"
            try:
                for frame in _pick(container, stream, way, wanted[done:], check, bool(used)):
                    _check_pixels(file.name, frame.width, frame.height)
                    picture = reformatter.reformat(frame, *flat, form.name, **form.options)
                    done += 1
                    yield functools.partial(store, picture, index.turns)
            except av.error.FFmpegError as error:
                problem = _reason(error)
        if done == len(wanted):
            return
    raise VideoError(f"{file.name}: frame {wanted[done]} of {index.num_frames} cannot be decoded ({problem})")


def _empty(file, shape):
    try:
        return np.empty(shape, np.uint8)
    except MemoryError as error:
        raise VideoError(f"{file.name}: no memory for {shape[0]} frames of {np.prod(shape[1:])} bytes") from error


def _pick(container, stream, index, wanted, check, used):
    """Yields the decoded frames numbered `wanted`, seeking to keyframes; ends early where the file does.

    A `used` container is not at the beginning. Pictures that are neither wanted nor referred to are not decoded.
    """
    left_out = index.spare[~np.isin(index.spare[:, 0], wanted)]
    unwanted = frozenset(left_out[:, 1].tolist())
    places = wanted - np.searchsorted(left_out[:, 0], wanted)  # counted without those left out
    starts = index.starts[np.searchsorted(index.starts[:, 0], wanted, "right") - 1]
    starts[:, 0] -= np.searchsorted(left_out[:, 0], starts[:, 0])
    frames, position = _from(container, stream, index.starts[0], unwanted, check, used), 0
    for place, start in zip(places, starts, strict=True):
        if start[0] - position > SKIP:
            frames, position = _from(container, stream, start, unwanted, check, True), start[0]
        frame = next(itertools.islice(frames, place - position, None), None)
        if frame is None:
            return
        position = place + 1
        yield frame


def _from(container, stream, start, unwanted, check, seek):
    """Yields the frames that count from one start on; nothing where a `seek` does not find the keyframe's packet.

    After a seek, pictures that come out before the key frame belong to the group before it.
    """
    _, dts, *place = start.tolist()
    if seek:
        container.seek(dts, stream=stream)
    found = key = not seek
    for packet in container.demux(stream):
        check()
        found = found or [packet.pos, packet.size] == place
        if found and packet.pts not in unwanted:
            for frame in packet.decode():
                key = key or frame.key_frame
                if key:
                    yield frame
