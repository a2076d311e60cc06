"""The sound of a clip, from the same file as its pictures: samples, VGGish's log-mel examples, log-mel maps.

Time is counted in seconds from the video's first picture. A file without a sound track is no error of the data:
`clip` masks it. Features are float32: a map of 128 x 80 is 40 KB, 2 % of the pictures of a 16 x 224 x 224 clip.
"""

import contextlib
import fractions
import functools
import io
import math
import os
import pathlib
import time

import av
import numpy as np

from vidjax.data import records, video

RATE = 16000  # samples per second of all features
WINDOW, HOP, FFT = 400, 160, 512  # samples: 25 ms, 10 ms, and the next power of two
LOW, HIGH = 125.0, 7500.0  # Hz
OFFSET = 0.01  # inside the logarithm
BANDS, EXAMPLE = 64, 96  # VGGish: mel bands, and frames (0.96 s) of an example
KINDS = ("spectrogram", "vggish")
PREROLL = 0.5  # seconds decoded before what is wanted: after a seek a codec's first frames are not right yet
TAPS = 64  # of the resampler: twice FFmpeg's, whose loss of 29 % at 7500 Hz would reach VGGish's bands
REACH = 0.02  # seconds that the resampler looks to either side, rounded up
ONE_THREAD = 2**18  # products in a matrix product that OpenBLAS does not give to threads: 0.5 ms, not 0.5-12, a clip
MAX_SECONDS, MAX_RATE = 600, 768_000


class NoAudio(video.VideoError):
    """A file without a sound track."""


def read(file, start, end, rate=RATE, name=""):
    """The sound from second `start` to `end`: -> (mono float32 (round((end - start) * rate),) in [-1, 1], real).

    `file` is a path or the file's bytes, `name` how messages name it. Second 0 is the first picture; the channels' mean
    is resampled on the grid of whole samples from there, so that two reads agree on what they share. `real` counts the
    samples that are inside the track, the others are 0. After a seek Matroska's times are known to 1 ms. NoAudio,
    VideoError.
    """
    count = round((end - start) * rate) if math.isfinite(end - start) else 0
    if count < 1 or end - start > MAX_SECONDS or not 0 < rate <= MAX_RATE:
        raise ValueError(
            f"read needs start < end, at most {MAX_SECONDS} s apart, and a rate of 1 to {MAX_RATE} Hz; "
            f"got {start} to {end} at {rate}"
        )
    name = name or (f"video of {len(file)} bytes" if isinstance(file, bytes) else os.fspath(file))
    name = name.encode(errors="replace").decode()
    if start > 2 * PREROLL:
        try:
            return _read(file, start, end, rate, name, seek=True)
        except NoAudio:
            raise
        except video.VideoError:  # once more, from the beginning
            pass
    return _read(file, start, end, rate, name, seek=False)


def clip_span(indices, fps):
    """When the frames of a clip are on screen, seconds: from the first one's beginning to the last one's end."""
    if not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"sound needs the video's frames per second, got {fps}")
    return float(np.min(indices)) / fps, (float(np.max(indices)) + 1) / fps


def log_mel(samples):
    """VGGish's log-mel spectrogram at 16 kHz: (samples,) -> float32 (1 + (samples - 400) // 160, 64).

    log(mel + 0.01) of the magnitudes of a 512-point Fourier transform over periodic Hann windows of 25 ms every 10 ms;
    64 triangles, equal on HTK's mel scale, over 125-7500 Hz (Hershey et al. 2017; AudioSet's VGGish input).
    """
    starts = np.arange(0, len(samples) - WINDOW + 1, HOP)
    return np.log(_mel(samples, starts, BANDS, FFT) + OFFSET).astype(np.float32)


def windows(samples):
    """VGGish's examples, one after the other, what is left over dropped: (samples,) -> float32 (N, 96, 64)."""
    rows = log_mel(samples)
    count = len(rows) // EXAMPLE
    return rows[: count * EXAMPLE].reshape(count, EXAMPLE, BANDS)


def spectrogram(samples, frames, bands):
    """A log-mel map of fixed size for sound of any length at 16 kHz: (samples,) -> float32 (frames, bands).

    As `log_mel`, with windows spread evenly from the first sample to the last. Where they would be more than 10 ms
    apart, each frame is the mean of as many windows as are needed, so that no sound is left out. The transform grows
    until no band is empty.
    """
    samples = np.pad(samples, (0, max(0, WINDOW - len(samples))))
    last = len(samples) - WINDOW
    times = max(1, math.ceil(last / (frames * HOP)))
    starts = np.linspace(0, last, frames * times).round().astype(int)
    mel = _mel(samples, starts, bands, _fft_for(bands)).reshape(frames, times, bands).mean(1)
    return np.log(mel + OFFSET).astype(np.float32)


def clip(record, indices, *, kind="spectrogram", frames=128, bands=80, examples=1):
    """The sound of a clip's frames `indices`: -> (float32 of `shape(...)`, float32 1 or, without any sound, 0).

    `spectrogram` is the map of exactly the clip's time span; `vggish` takes the examples centred on it, 0.96 s each.
    VideoError where a track is damaged, or a data set of packed frames has none to give.
    """
    options = {"kind": kind, "frames": frames, "bands": bands, "examples": examples}
    absent = np.zeros(shape(**options), np.float32), np.float32(0)
    start, end = clip_span(indices, record["fps"])
    if kind == "vggish":
        half = (examples * EXAMPLE * HOP + WINDOW - HOP) / RATE / 2
        start, end = (start + end) / 2 - half, (start + end) / 2 + half
    try:
        file = records.encoded(record) if "blob" in record else record["path"]
        samples, real = read(file, start, end, name=record["id"] if "blob" in record else "")
    except NoAudio:
        return absent
    if not real:
        return absent
    return (windows(samples) if kind == "vggish" else spectrogram(samples, frames, bands)), np.float32(1)


def shape(*, kind="spectrogram", frames=128, bands=80, examples=1):
    """The shape of `clip`'s array: (frames, bands), or (examples, 96, 64) of kind `vggish`."""
    if kind not in KINDS:
        raise ValueError(f"audio.kind must be one of {', '.join(KINDS)}, not {kind!r}")
    if min(frames, bands, examples) < 1:
        raise ValueError(f"audio needs frames, bands and examples of at least 1, got {frames}, {bands}, {examples}")
    return (examples, EXAMPLE, BANDS) if kind == "vggish" else (frames, bands)


@functools.lru_cache(maxsize=64)
def mel_filters(bands, length):
    """Weights of a magnitude spectrum in each mel band: float64 (length // 2 + 1, bands); DC counts nowhere, as in HTK.

    Triangles over LOW to HIGH with a peak of 1, drawn on the mel scale 1127 ln(1 + f / 700).
    """
    mel = 1127 * np.log1p(np.linspace(0, RATE / 2, length // 2 + 1) / 700)
    edges = np.linspace(*1127 * np.log1p(np.array([LOW, HIGH]) / 700), bands + 2)
    rise = (mel[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - mel[:, None]) / (edges[2:] - edges[1:-1])
    weights = np.maximum(0, np.minimum(rise, fall))
    weights[0] = 0
    weights.setflags(write=False)
    return weights


@functools.lru_cache(maxsize=64)
def _fft_for(bands):
    """The shortest transform, FFT or a multiple of it by a power of two, whose every band has some weight."""
    length = FFT
    while not mel_filters(bands, length).any(0).all():
        length *= 2
    return length


def _mel(samples, starts, bands, length):
    """Mel magnitudes of the windows that begin at `starts`: -> float64 (len(starts), bands)."""
    hann = 0.5 - 0.5 * np.cos(2 * np.pi / WINDOW * np.arange(WINDOW))
    if len(starts) == 0:
        return np.zeros((0, bands))
    framed = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[starts] * hann
    spectra, weights = np.abs(np.fft.rfft(framed, length)), mel_filters(bands, length)
    rows = max(1, ONE_THREAD // weights.size)
    return np.concatenate([spectra[i : i + rows] @ weights for i in range(0, len(spectra), rows)])


def _read(file, start, end, rate, name, seek):
    with _open(file, name) as (container, stream, origin):
        frames = _frames(container, stream, origin, start - REACH, end + REACH, seek)
        return _assemble(frames, round(start * rate), round((end - start) * rate), rate)


@contextlib.contextmanager
def _open(file, name):
    """Opens a file: yields (container, sound stream, the first picture's time in seconds)."""
    options = {"options": video.OPTIONS, "timeout": video.IO_TIMEOUT} | video.METADATA
    try:
        with av.open(_source(file), **options) as container:
            stream = container.streams.best("audio")
            if stream is None:
                raise NoAudio(f"{name}: there is no sound track")
            if stream.codec_context is None:
                raise ValueError("there is no decoder for it")
            stream.codec_context.thread_count = 1
            first = container.streams.best("video") or stream
            yield container, stream, float((first.start_time or 0) * (first.time_base or 0))
    except NoAudio:
        raise
    except video.FAILURES as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise video.VideoError(f"{name}: its sound cannot be read ({reason})") from error


def _source(file):
    """What PyAV opens: a local file, by its content where FFmpeg might not take the name."""
    if isinstance(file, bytes):
        return io.BytesIO(file)
    if not os.path.isfile(file):
        raise FileNotFoundError("there is no such file")
    path = os.path.abspath(file)
    if path.isprintable():
        return f"file:{path}"
    return io.BytesIO(pathlib.Path(path).read_bytes())


def _frames(container, stream, origin, start, end, seek):
    """Decodes from `start` to `end`: -> [(first sample's number, its rate, mono float32 samples)].

    Frames that follow one another are counted where their times, as coarse as the file's clock, allow it; those whose
    times go back are left out.
    """
    if seek:
        container.seek(int((start - PREROLL + origin) / (stream.time_base or 0)), stream=stream)
    found, after, base = [], None, float(stream.time_base or 0)
    for frame in _decoded(container, stream, found):
        rate = frame.sample_rate
        if not 0 < rate <= MAX_RATE or (found and found[0][1] != rate):
            raise ValueError(f"its sample rate changes to {rate} Hz")
        at = after or 0 if frame.pts is None else round((frame.pts * base - origin) * rate)
        if after is not None and abs(at - after) <= 1 + base * rate:
            at = after
        if at >= end * rate:
            break
        if not found or at > found[-1][0]:
            after = at + frame.samples
            if after > start * rate:
                found.append((at, rate, _mono(frame)))
    if seek and not (found and found[0][0] <= start * found[0][1]):
        raise LookupError("a seek leads past it")
    return found


def _decoded(container, stream, found):
    """Yields frames; as long as none is `found`, the decoder may not have caught on yet, and its errors are passed."""
    begin = time.thread_time()
    for packet in container.demux(stream):
        if time.thread_time() - begin > video.TIME_LIMIT:
            raise TimeoutError(f"it takes longer than the limit of {video.TIME_LIMIT:g} s")
        try:
            yield from packet.decode()
        except av.error.FFmpegError:
            if found:
                raise


def _mono(frame):
    """The mean of a frame's channels: -> float32 (samples,), full scale 1."""
    x = frame.to_ndarray()
    if x.shape[1] != frame.samples:  # one channel's sample after the other's
        x = x.reshape(frame.samples, -1).T
    mono = x.mean(0, dtype=np.float32) if len(x) > 1 else x[0].astype(np.float32)
    if x.dtype.kind == "f":
        return mono
    full = np.float32(2 ** (8 * x.itemsize - 1))
    return (mono - full * (x.dtype.kind == "u")) / full


def _assemble(frames, first, count, rate):
    """Lays decoded frames on a line and resamples it: -> (samples `first` to `first + count` at `rate`, how many real).

    The line begins and ends on an instant that is a whole sample at both rates.
    """
    if not frames:
        return np.zeros(count, np.float32), 0
    native = frames[0][1]
    both = math.gcd(native, rate)  # instants per second at which both have a sample
    begin = first * both // rate - math.ceil(REACH * both)
    stop = -(-(first + count) * both // rate) + math.ceil(REACH * both)
    origin, size = begin * native // both, (stop - begin) * native // both
    line, real = np.zeros(size, np.float32), np.zeros(size, bool)
    for at, _, mono in frames:
        low, high = max(at - origin, 0), min(at - origin + len(mono), size)
        if low < high:
            line[low:high], real[low:high] = mono[low - at + origin : high - at + origin], True
    np.nan_to_num(line, copy=False, posinf=0, neginf=0)
    skip = first - begin * rate // both
    inside = real[np.minimum((np.arange(skip, skip + count) * native) // rate, size - 1)]
    return np.clip(_resample(line, native, rate)[skip : skip + count], -1, 1), int(inside.sum())


def _resample(line, native, rate):
    """FFmpeg's polyphase filter, its delay taken off: (n,) -> (n * rate / native,), flat to 0.9 of half the rate."""
    if native == rate:
        return line
    graph, parts = av.filter.Graph(), []
    graph.threads = 1
    tick = fractions.Fraction(1, native)
    source = graph.add_abuffer(sample_rate=native, format="flt", layout="mono", time_base=tick)
    chain = source, graph.add("aresample", f"{rate}:filter_size={TAPS}"), graph.add("abuffersink")
    graph.link_nodes(*chain).configure()
    frame = av.AudioFrame.from_ndarray(line[None], format="flt", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = native, 0, tick
    for item in (frame, None):
        source.push(item)
    with contextlib.suppress(av.error.EOFError):
        while True:
            parts.append(chain[-1].pull().to_ndarray()[0])
    return np.concatenate(parts)
