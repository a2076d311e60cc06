"""`vidjax predict`: many files in, a few lines each out, and the outputs that were asked for."""

import contextlib
import sys

from vidjax import logs
from vidjax.data import video
from vidjax.predict import outputs, segments, windows


def run(predictor, found, values):
    """Predicts the videos `found` {path: name of its outputs}; -> how many could not be read or written.

    `values` are the command's flags. Each video's outputs are written when it is done, so that what follows, even
    Ctrl-C, leaves them; a file that cannot be read is named on stderr, and in the JSON and CSV files.
    """
    for text, name in ((values.stride, "stride"), (values.window, "window")):
        windows.frames(text, 25, name)  # a mistake is told before the first video
    for target, ending, flag in ((values.srt, ".srt", "srt"), (values.video, ".mp4", "video")):
        if target:
            outputs.check(target, ending, found, flag)
    how = {"stride": values.stride, "window": values.window, "protocol": values.protocol, "threads": values.threads}
    many, failed = len(found) > 1, 0
    with contextlib.ExitStack() as stack:
        add_json = stack.enter_context(outputs.lines(values.json))
        add_csv = stack.enter_context(outputs.lines(values.csv, ",".join(outputs.COLUMNS) + "\n"))
        advance = stack.enter_context(logs.counter("predicting", "videos" if many else "windows"))
        results = predictor.many(found, progress=None if many else advance, **how)
        stack.enter_context(contextlib.closing(results))
        for done, (path, result) in enumerate(results, 1):
            if isinstance(result, video.VideoError):
                failed += 1
                print(f"skipped {result}", file=sys.stderr, flush=True)
                add_json(outputs.failure_json(path, result))
                add_csv(outputs.failure_csv(path, result))
            else:
                failed += write(predictor, result, found[path], values, add_json, add_csv)
            if many:
                advance(done, len(found))
    return failed


def write(predictor, result, name, values, add_json, add_csv):
    """Writes what was asked for of one video; -> 1 if its subtitles or its copy cannot be written, which is told."""
    names, top = predictor.class_names, values.top
    cut = segments.named(result, names, values.threshold, predictor.multi_label)
    print(outputs.describe(result, names, top, cut), flush=True)
    add_json(outputs.as_json(result, names, top, cut))
    add_csv(outputs.as_csv(result, names, top, cut))
    try:
        if values.srt:
            outputs.subtitles(outputs.place(values.srt, name, ".srt"), cut)
        if values.video:
            target = outputs.place(values.video, name, ".mp4")
            outputs.annotated(target, result, names, top=min(top, 3), threshold=values.threshold)
    except outputs.OutputError as error:
        print(f"skipped {error}", file=sys.stderr, flush=True)
        return 1
    return 0
