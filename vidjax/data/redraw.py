"""A copy of a video with something drawn on its pictures: its size, its times, its sound, upright, as H.264 MP4."""

import contextlib
import fractions
import heapq
import os

import av
import numpy as np

from vidjax.data import video, written

KEPT = ("aac", "ac3", "alac", "eac3", "flac", "mp2", "mp3", "opus")  # codecs of sound that an MP4 file may hold
TICKS = 90_000  # of the copy's times at least a second, as many as make those of a constant rate exact
END = float("inf")


def copy(path, target, draw, crf=20):
    """Writes the MP4 file `target`: every picture of `path` after `draw(number, picture)`, which changes it in place.

    Pictures are uint8 (H, W, 3), one at a time. They keep their times, also those of a variable rate, and the shape of
    their pixels; odd sizes are kept as `video.write` keeps them. Sound that MP4 knows is copied as it is, other sound
    becomes AAC. `target` appears only when complete. VideoError; OSError where it cannot be written.
    """
    info, times = video.probe(path), video.times(path)
    with written.whole(target) as partial, contextlib.ExitStack() as stack:
        source = stack.enter_context(opened(path))
        options = {"movflags": "faststart"}
        container = stack.enter_context(av.open(f"file:{partial}", "w", format="mp4", options=options))
        stream = add_pictures(container, source.streams.best("video"), info, crf)
        sound = sounds(source, container)
        next(sound)  # its stream is added before the first packet
        shown = pictures(path, stream, times, draw)
        for _, packets in heapq.merge(shown, sound, key=lambda made: made[0]):
            container.mux(packets)


def opened(path):
    """The container of a file that video.probe has read."""
    return av.open(f"file:{os.path.abspath(path)}", options=video.OPTIONS, timeout=video.IO_TIMEOUT, **video.METADATA)


def add_pictures(container, source, info, crf):
    """A stream for pictures of the size that `probe` found, with pixels of the same shape as those of `source`."""
    rate = fractions.Fraction(info["fps"]).limit_denominator(65535)
    stream = container.add_stream("libx264", rate=rate, options={"crf": str(crf), "preset": "veryfast"})
    stream.width, stream.height = info["width"], info["height"]
    stream.pix_fmt = "yuv444p" if stream.width % 2 or stream.height % 2 else "yuv420p"
    context, shape = stream.codec_context, source.sample_aspect_ratio or fractions.Fraction(1)
    turned = (source.width, source.height) != (info["width"], info["height"])
    context.sample_aspect_ratio = 1 / shape if turned else shape
    context.time_base = fractions.Fraction(1, rate.numerator * -(-TICKS // rate.numerator))
    context.colorspace, context.color_range = 5, 1  # BT.601 in video range, which RGB becomes here
    return stream


def pictures(path, stream, times, draw):
    """Yields (second, packets) of the drawn pictures of a file."""
    tick = stream.codec_context.time_base
    for number, picture in enumerate(video.forward(path, np.arange(len(times) - 1), time_limit=END)):
        draw(number, picture)
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = round(times[number] / tick), tick
        yield times[number], stream.encode(frame)
    yield END, stream.encode(None)


def sounds(source, container):
    """Adds a stream for the sound of `source`, if it has some; yields None, then (second, packets) of it."""
    stream = source.streams.best("audio")
    if stream is None or stream.codec_context is None:
        yield
        return
    began = [s.start_time * s.time_base for s in (*source.streams.audio, source.streams.best("video")) if s.start_time]
    zero = min(began, default=0)
    kept = stream.codec_context.name.removesuffix("float") in KEPT  # decoders are called mp3float
    target = container.add_stream_from_template(stream) if kept else container.add_stream("aac", stream.rate)
    yield
    with contextlib.suppress(av.error.FFmpegError):  # sound that ends in the middle
        yield from (copied if kept else encoded)(source, stream, target, zero)


def copied(source, stream, target, zero):
    """Yields (second, packets) of sound as it is, `zero` seconds earlier."""
    shift = round(zero / stream.time_base)
    for packet in source.demux(stream):
        if packet.size and packet.dts is not None:
            packet.pts = (packet.dts if packet.pts is None else packet.pts) - shift
            packet.dts -= shift
            packet.stream = target
            yield float(packet.dts * stream.time_base), [packet]


def encoded(source, stream, target, zero):
    """Yields (second, packets) of sound encoded anew, `zero` seconds earlier."""
    resampler = av.AudioResampler("fltp", stream.layout, stream.rate)
    for frame in source.decode(stream):
        if frame.pts is not None:
            frame.pts -= round(zero / frame.time_base)
        for part in resampler.resample(frame):
            yield float(part.time or 0), target.encode(part)
    yield END, target.encode(None)
