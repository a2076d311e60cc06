"""`vidjax predict --stream`: frames as they come in, what the net makes of them and alarms out, for hours."""

import contextlib
import datetime
import functools
import json
import os
import signal
import sys
import threading
import time
import typing

from vidjax.data import live, video
from vidjax.predict import outputs
from vidjax.predict.live import alarms, latency, nets, rows

WHOLE = ("list", "stride", "window", "protocol", "threshold", "json", "csv", "srt", "video")  # flags of files
PRINTED = 1.0  # seconds of a stream between two lines of classes


class Options(typing.NamedTuple):
    """What a stream may be asked for; 0 and "" are what suits the net and the source."""

    raw: str = ""  # of the standard input: WIDTHxHEIGHT@FPS
    pace: bool = True  # a file comes at its own pace, and frames are dropped where the net is too slow
    rate: float = 0.0  # frames a second that the net sees
    every: int = 0  # frames that it sees between two predictions
    memory: float = 0.0  # seconds after which a net's state is renewed; below 0: never
    alarms: typing.Mapping = {}  # {class: alarms.Policy}
    events: str = ""  # the file that alarms go to; default: standard output
    status: float = 60.0  # seconds between two lines on how it goes
    top: int = 5  # classes in a line


class Seen(typing.NamedTuple):
    """A prediction: probabilities (classes,) of what was seen up to a frame."""

    time: float  # of the frame, seconds of the stream
    end: float  # of the frame, seconds
    scores: typing.Any
    latency: float | None  # seconds since the frame came, where it was not waited for more
    piece: int  # how often the source has been opened anew


def begin(predictor, source, options=None, stop=None, tell=print):
    """(counts, predictions) of a stream: the `rows.Waiting` that counts its frames, and an iterator of `Seen`.

    It ends with the stream or after the counts' `end()`; `stop`, a threading.Event, ends the source. The net sees
    frames by its stride in files and by their times elsewhere (`rows.rate`). A stream that is too short for a window
    gives one prediction, of what there is. VideoError where the source breaks off.
    """
    options = options or Options()
    frames = live.frames(source, options.raw, options.pace, stop, tell)
    return of_frames(predictor, frames, options, live.counted(source))


def of_frames(predictor, frames, options, counted=False, turn=None):
    """`begin` of an iterator of `live.Frame`; their numbers are those of a file where they are `counted`.

    With a lock as `turn` the net computes while it holds it, and waits for frames without it.
    """
    clip, views = predictor.section["clip"], predictor.meta["preprocess"]
    per_second = rows.rate(clip, options.rate)
    with turn or contextlib.nullcontext():
        net = nets.make(predictor, round(options.memory * per_second), options.every)
        warm(net, rows.blank(predictor.section, views))
    if counted and not options.rate and rows.consecutive(clip):
        choice = functools.partial(rows.every, step=rows.stride(clip))
    else:
        choice = functools.partial(rows.at_rate, wanted=per_second)
    waiting = rows.Waiting(net.waiting, drop=options.pace)
    rows.started(waiting, frames, functools.partial(rows.rows, section=predictor.section, views=views, choice=choice))
    taken = rows.in_turn(waiting, turn) if turn else waiting
    return waiting, stepped(net, taken, skip=options.pace and net.recomputes)


def warm(net, row):
    """Compiles the net on a row of zeros, so that the first frames do not wait for it."""
    for _ in range(getattr(net, "size", 1)):
        net.see(row)
    net.scores()
    net.forget()


def stepped(net, waiting, skip):
    """Yields `Seen` of a net and the rows that wait for it; with `skip` none of a row behind which another waits."""
    piece, since, found, row = None, 0, False, None
    for row, more in waiting:
        if row.piece != piece:
            net.forget()
            piece, since = row.piece, net.every
        net.see(row)
        since += 1
        if since <= net.every and found or (skip and more):
            continue
        if (scores := net.scores()) is not None:
            since, found = 1, True
            yield seen(row, scores)
    if row and not found and (scores := net.scores(short=True)) is not None:
        yield seen(row, scores)._replace(latency=None)


def seen(row, scores):
    """`Seen` of a row and the scores up to it."""
    return Seen(row.time, row.end, scores, time.monotonic() - row.arrived, row.piece)


def run(predictor, sources, values):
    """Follows streams one after another and prints what comes of them; -> the exit code of the command.

    `values` are the flags of `vidjax predict`. Classes go to standard output, or alarms alone where they have no file;
    how it goes, latencies and what broke off go to standard error.
    """
    options, failed = of_flags(values, predictor.class_names), 0
    with contextlib.ExitStack() as stack:
        events = stack.enter_context(open(options.events, "a", encoding="utf-8")) if options.events else sys.stdout
        for source in sources:
            stop = threading.Event()
            try:
                follow(predictor, source, options, events, stop)
            except video.VideoError as error:
                print(f"vidjax predict: {error}", file=sys.stderr)
                failed = 1
            except BrokenPipeError:  # who read the output has gone
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                return failed
            if stop.is_set():
                break
    return failed


def of_flags(values, names):
    """`Options` of the flags' values. AlarmError for alarms of other classes, ValueError for flags of WHOLE files."""
    for flag in WHOLE:
        if values[flag].present:
            raise ValueError(f"--{flag} is for files that are read as a whole: leave it or --stream out.")
    policies = alarms.read(values.alarms, names) if values.alarms else {}
    policies |= alarms.parse(values.alarm, names) if values.alarm else {}
    return Options(
        *(getattr(values, key) for key in Options._fields[:5]),
        alarms=policies,
        **{key: getattr(values, key) for key in ("events", "status", "top")},
    )


def follow(predictor, source, options, events, stop):
    """Prints what comes of one stream until it ends, or SIGINT or SIGTERM sets `stop`. VideoError."""
    names, times = predictor.class_names, latency.Latencies()
    watch, lines = alarms.Alarms(options.alarms, names), events is not sys.stdout or not options.alarms
    if lines:
        print(source, flush=True)
    tell = functools.partial(print, file=sys.stderr, flush=True)
    counts, found = begin(predictor, source, options, stop, tell)
    began = told = time.monotonic()
    last, shown, due = None, None, PRINTED
    try:
        with ended_by_signals(stop, counts):
            for last in found:
                if last.latency is not None:
                    times.add(last.latency)
                write(events, source, watch.see(last.piece, last.time, last.scores))
                if lines and last.time >= due:
                    print(line(last, names, options.top), flush=True)
                    shown, due = last, last.time + PRINTED
                if time.monotonic() - told >= options.status:
                    told = time.monotonic()
                    tell(describe(counts, times, told - began))
    finally:
        if lines and last is not shown:
            print(line(last, names, options.top), flush=True)
        write(events, source, watch.close())
        tell(describe(counts, times, time.monotonic() - began))


@contextlib.contextmanager
def ended_by_signals(stop, counts):
    """Within it, the first SIGINT or SIGTERM ends a stream, and only the next one does what it would do."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number, frame):
        signal.signal(number, kept[number])
        stop.set()
        counts.end(forget=True)

    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in kept:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def line(last, names, top):
    """What is printed of a prediction."""
    return f"  up to {last.end:7.2f} s    {outputs.best(last.scores, names, top)}"


def write(file, source, events):
    """Writes alarms as lines of JSON, with the source and our clock's time."""
    for event in events:
        rounded = {key: round(x, 4) if isinstance(x, float) else x for key, x in event.items()}
        clock = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        print(json.dumps(rounded | {"source": source, "clock": clock}), file=file, flush=True)


def describe(counts, times, seconds):
    """How it goes, in one line: frames that came, that the net was to see, that were dropped; latencies."""
    share = f"{counts.frames} frames in {seconds:.1f} s, {counts.frames / max(seconds, 1e-9):.1f} a second"
    went = f"{share}; the net's {counts.chosen}, dropped {counts.dropped} of them; latency {times.describe()}"
    return f"stream   {went}"
