"""Frames as they come: of a camera, a file at its own pace, the URL of a stream, or pictures on the standard input.

Nothing is kept, so that it may go on for hours. A file's pictures come in the order in which playing it shows them,
each converted as `video.read` converts it; a picture that is damaged is left out where the source goes on behind it.
"""

import contextlib
import itertools
import os
import re
import sys
import threading
import time
import typing

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter

from vidjax.data import jpeg, video
from vidjax.data.planes import FORMAT, size, store

FPS = 25.0  # of a source that does not say
PAUSES = (1, 2, 4, 8, 16)  # seconds before a URL that broke off is opened again
PATIENCE = (10.0, 10.0)  # seconds that opening a URL and waiting for its next packet may take
DRIFT = 2.0  # seconds that a live source's own times may be from ours
DAMAGED = 100  # pictures or packets in a row that may be damaged
PROTOCOLS = "http,https,httpproxy,tls,crypto,rtsp,rtmp,rtp,srtp,tcp,udp,hls"
URL = {"protocol_whitelist": PROTOCOLS, "rtsp_transport": "tcp"} | video.LIMIT


class Frame(typing.NamedTuple):
    """A picture of a stream, and when it came."""

    number: int  # from 0, since the source was opened last
    time: float  # seconds since the stream's first frame, by the source's clock where it has one
    arrived: float  # time.monotonic() when the data were there from which it was decoded
    piece: int  # how often the source has been opened anew
    picture: av.VideoFrame


def frames(source, raw="", pace=True, stop=None, tell=print):
    """Yields the Frames of a source until it ends or `stop`, a threading.Event, is set. VideoError.

    `source` is a camera's number, a URL, a file, or "-" for the standard input, which has RGB pictures as `raw`
    ("640x480@25") says, else JPEG pictures one behind the other. With `pace` a file's frames come when they are due,
    else as fast as they are asked for. A URL that breaks off is opened again, after pauses that grow; `tell` is given
    the sentence.
    """
    stop = stop or threading.Event()
    if raw and source != "-":
        raise video.VideoError(f"{source}: raw frames come on the standard input; give - in its place")
    if source == "-":
        made = _raw(sys.stdin.buffer, raw) if raw else _split(sys.stdin.buffer, pace)
    elif source.isdecimal():
        made = _camera(int(source))
    elif "://" in source:
        yield from _reopened(lambda: _container(source, source, pace, stop, live=True), source, stop, tell)
        return
    else:
        made = _container(source, f"file:{os.path.abspath(source)}", pace, stop, live=False)
    yield from _numbered(made, stop)


def counted(source):
    """Whether a net's stride counts this source's frames: those of files come at the rate that they have."""
    return source != "-" and not source.isdecimal() and "://" not in source


def picture(frame, short_side=0, pixels="rgb"):
    """An av.VideoFrame as `video.read` gives it: -> uint8 (H, W, 3), or I420 planes, upright and at that size."""
    form, turns = FORMAT[pixels], round(frame.rotation / 90) % 4
    sides = (frame.width, frame.height) if turns % 2 else (frame.height, frame.width)
    height, width = size(*sides, short_side, form.multiple)
    flat = (height, width) if turns % 2 else (width, height)
    out = np.empty(form.shape(height, width), np.uint8)
    reformatter = _local.__dict__.setdefault("reformatter", VideoReformatter())
    store(reformatter.reformat(frame, *flat, form.name, **form.options), turns, out)
    return out


_local = threading.local()


def _numbered(made, stop, piece=0, began=0.0):
    """Frames of (seconds, arrived, picture), whose first comes at `began` seconds."""
    with contextlib.closing(made):
        for number, (seconds, arrived, frame) in enumerate(made):
            if stop.is_set():
                return
            yield Frame(number, began + seconds, arrived, piece, frame)


def _reopened(make, name, stop, tell):
    """Frames of a live source that may break off: it is made again, and its times go on by our clock."""
    tries, first, last = 0, None, 0.0
    for piece in itertools.count():
        try:
            began = 0.0 if first is None else max(time.monotonic() - first, last + 1 / FPS)
            for frame in _numbered(make(), stop, piece, began):
                first, last, tries = frame.arrived if first is None else first, frame.time, 0
                yield frame
            return
        except video.VideoError as error:
            if first is None or tries == len(PAUSES) or stop.is_set():
                raise
            tell(f"{error}; it is opened again in {PAUSES[tries]} s")
            stop.wait(PAUSES[tries])
            tries += 1


def _container(name, path, pace, stop, live):
    """(seconds, arrived, picture) of what FFmpeg opens; an end of what has no length is an error where it is `live`."""
    options, what = {"options": video.OPTIONS, "timeout": video.IO_TIMEOUT}, "cannot be read as video"
    options |= {"options": URL, "timeout": PATIENCE} if live else {}
    try:
        with av.open(path, **options, **video.METADATA) as container:
            stream = container.streams.best("video")
            if stream is None or stream.codec_context is None:
                raise video.VideoError(f"{name}: there is no video stream that can be decoded")
            stream.codec_context.thread_type, stream.codec_context.thread_count = "SLICE", 1
            stream.codec_context.options = video.LIMIT
            endless = live and not container.duration
            due = _paced(stream, stop) if pace and not endless else lambda packet: None
            fps, made = float(stream.average_rate or stream.guessed_rate or FPS), _decoded(container, stream, due)
            for found in _by_arrival(made) if endless else _by_own_time(made, fps):
                what = "the stream broke off"
                yield found
            if endless:
                raise EOFError("it ended")
    except video.VideoError:
        raise
    except (EOFError, *video.FAILURES) as error:
        raise video.VideoError(f"{name}: {what} ({_reason(error)})") from error


def _reason(error):
    if isinstance(error, av.error.ExitError):
        return f"nothing came for {PATIENCE[1]:g} s"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _decoded(container, stream, due):
    """(seconds or None, arrived, picture) of a container's frames, each packet when it is `due`."""
    damaged = 0
    for packet in container.demux(stream):
        due(packet)
        arrived = time.monotonic()
        try:
            found, damaged = packet.decode(), 0
        except av.error.InvalidDataError:
            damaged += 1
            if damaged > DAMAGED:
                raise
            continue
        for frame in found:
            yield frame.time, arrived, frame


def _paced(stream, stop):
    """A function that waits until a packet would come if the file were played."""
    began = []

    def due(packet):
        if packet.dts is None:
            return
        seconds = float(packet.dts * stream.time_base)
        began[:] = began or [(time.monotonic(), seconds)]
        start, first = began[0]
        stop.wait(max(0.0, start + seconds - first - time.monotonic()))

    return due


def _by_own_time(made, fps):
    """Times from 0 on that a file says, or its rate where what it says does not ascend."""
    first = last = None
    for seconds, arrived, frame in made:
        if first is None:
            first, own = seconds or 0.0, 0.0
        else:
            own = last + 1 / fps if seconds is None else seconds - first
            own = own if own > last else last + 1 / fps
        last = own
        yield own, arrived, frame


def _by_arrival(made):
    """Times from 0 on that a live source says, or our clock's where those two drift apart; they never go back."""
    first, start, last = None, None, 0.0
    for seconds, arrived, frame in made:
        if start is None:
            first, start = seconds, arrived
        ours = arrived - start
        theirs = ours if seconds is None or first is None else seconds - first
        last = max(last, theirs if abs(theirs - ours) < DRIFT else ours)
        yield last, arrived, frame


def _camera(number):
    """(seconds, arrived, picture) of a camera of this machine."""
    capture = cv2.VideoCapture(number)
    try:
        if not capture.isOpened():
            raise video.VideoError(f"camera {number}: cannot be opened; is it there, and may this user read it?")
        start = None
        while True:
            there, found = capture.read()
            if not there:
                raise video.VideoError(f"camera {number}: no picture comes any more")
            arrived = time.monotonic()
            start = arrived if start is None else start
            yield arrived - start, arrived, av.VideoFrame.from_ndarray(np.ascontiguousarray(found), format="bgr24")
    finally:
        capture.release()


def _raw(file, text):
    """(seconds, arrived, picture) of RGB pictures without any header, of the size and at the rate that `text` says."""
    found = re.fullmatch(r"(\d+)x(\d+)@(\d+(?:\.\d+)?)", text)
    width, height, fps = (float(part) for part in found.groups()) if found else (0, 0, 0)
    if not width * height * fps:
        raise video.VideoError(f"raw frames need WIDTHxHEIGHT@FPS such as 640x480@25, not {text!r}")
    if width * height > video.MAX_PIXELS:
        raise video.VideoError(f"raw frames of {text} are refused, the limit is {video.MAX_PIXELS} pixels")
    shape = (int(height), int(width), 3)
    length = int(np.prod(shape))
    for number in itertools.count():
        content = file.read(length)
        if len(content) < length:
            if content:
                what = f"its frame {number} has {len(content)} bytes where {text} needs {length}"
                raise video.VideoError(f"standard input: {what}; is the size right?")
            return
        yield (
            number / fps,
            time.monotonic(),
            av.VideoFrame.from_ndarray(np.frombuffer(content, np.uint8).reshape(shape)),
        )


def of_jpegs(contents, name, stop):
    """Yields the Frames of JPEG pictures (time.monotonic() when it came, bytes), timed as they come. VideoError."""
    yield from _numbered(_jpegs(contents, name), stop)


def _split(file, live):
    """(seconds, arrived, picture) of JPEG pictures one behind the other, timed as they come, else at FPS."""
    contents, number = ((time.monotonic(), content) for content in jpeg.split(file)), 0
    for seconds, arrived, frame in _jpegs(contents, "standard input"):
        yield seconds if live else number / FPS, arrived, frame
        number += 1
    if not number:
        raise video.VideoError("standard input: it holds no JPEG picture; give --raw=WIDTHxHEIGHT@FPS for raw frames")


def _jpegs(contents, name):
    """(seconds, arrived, picture) of JPEG pictures (arrived, bytes)."""
    context, start, damaged = av.CodecContext.create("mjpeg", "r"), None, 0
    context.options = video.LIMIT
    for arrived, content in contents:
        start = arrived if start is None else start
        try:
            found, damaged = context.decode(av.Packet(content)), 0
        except av.error.FFmpegError as error:
            damaged += 1
            if damaged > DAMAGED:
                raise video.VideoError(f"{name}: no picture can be decoded ({_reason(error)})") from error
            continue
        for frame in found:
            yield arrived - start, arrived, frame
