"""What becomes of results: lines for people, JSON lines, CSV, subtitles, annotated videos."""

import contextlib
import csv
import io
import json
import os

import numpy as np

from vidjax.data import video, written
from vidjax.predict import drawing

COLUMNS = ("file", "kind", "start", "end", "first_frame", "end_frame", "rank", "class", "score", "error")


class OutputError(RuntimeError):
    """A file that cannot be written; the message names it and says what to do."""


def best(scores, names, top):
    """The `top` most probable classes with their shares, in one line."""
    return "  ".join(f"{' '.join(names[i].split())} {scores[i]:.1%}" for i in order(scores, top))


def order(scores, top):
    """The numbers of the `top` highest scores, highest first."""
    return np.argsort(-scores, kind="stable")[:top].tolist()


def printable(path):
    """A path as text: a name that is no UTF-8 shows question marks."""
    return path.encode(errors="replace").decode()


def describe(result, names, top, segments=()):
    """The lines for one file: the whole video, each window, and segments where there is more than one window."""
    lines = [printable(result["path"]), f"  whole video        {best(result['video'], names, top)}"]
    for start, end, scores in zip(result["start"], result["end"], result["scores"], strict=True):
        lines.append(f"  {start:7.2f} - {end:6.2f} s  {best(scores, names, top)}")
    for one in segments if len(result["scores"]) > 1 else ():
        lines.append(f"  segment {one['start']:.2f} - {one['end']:.2f} s: {one['label']} {one['score']:.1%}")
    return "\n".join(lines)


def as_json(result, names, top, segments):
    """The line of one file in JSON: path, facts, `top` of the whole video, `windows` and `segments`."""
    facts = {"path": printable(result["path"])}
    facts |= {key: result[key] for key in ("num_frames", "fps", "width", "height")}
    rows = zip(result["start"], result["end"], result["frames"].tolist(), result["scores"], strict=True)
    windows = [
        {"start": float(start), "end": float(end), "frames": frames, "top": ranked(scores, names, top)}
        for start, end, frames, scores in rows
    ]
    keys = ("start", "end", "frames", "label", "score", "windows")
    cut = [{key: one[key] for key in keys} for one in segments]
    whole = {"duration": float(result["times"][-1]), "top": ranked(result["video"], names, top)}
    return json.dumps(facts | whole | {"windows": windows, "segments": cut}, ensure_ascii=False) + "\n"


def failure_json(path, error):
    """The line of a file that could not be read."""
    return json.dumps({"path": printable(path), "error": str(error)}, ensure_ascii=False) + "\n"


def failure_csv(path, error):
    """The row of a file that could not be read."""
    return comma_separated([(printable(path), "error", *[""] * 7, str(error))])


def ranked(scores, names, top):
    """[{label, score}] of the `top` classes."""
    return [{"label": names[i], "score": float(scores[i])} for i in order(scores, top)]


def as_csv(result, names, top, segments):
    """The rows of one file in CSV, of the COLUMNS: kind is video, window or segment; rank 1 is the best."""
    frames, times, rows = result["frames"].tolist(), result["times"], []
    whole = ("video", 0.0, times[-1], 0, result["num_frames"]), result["video"]
    windows = zip(result["start"], result["end"], frames, result["scores"], strict=True)
    for head, scores in [whole, *((("window", a, b, *span), scores) for a, b, span, scores in windows)]:
        for rank, i in enumerate(order(scores, top), 1):
            rows.append((*head, rank, names[i], float(scores[i]), ""))
    for one in segments:
        rows.append(("segment", one["start"], one["end"], *one["frames"], 1, one["label"], one["score"], ""))
    path = printable(result["path"])
    return comma_separated([(path, kind, float(a), float(b), *rest) for kind, a, b, *rest in rows])


def comma_separated(rows):
    """Rows as CSV (RFC 4180, with plain line ends)."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def as_srt(segments):
    """Segments as SubRip subtitles; what would end a cue or be taken for one's times is taken out of the names."""
    cues = []
    for number, one in enumerate(segments, 1):
        start, end = round(1000 * one["start"]), round(1000 * one["end"])
        label = " ".join(one["label"].split()).replace("-->", "->")
        cues.append(f"{number}\n{clock(start)} --> {clock(max(end, start + 1))}\n{label}  {one['score']:.0%}\n")
    return "\n".join(cues)


def clock(milliseconds):
    """A time of SubRip: 3723004 -> "01:02:03,004"."""
    seconds, milliseconds = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d},{milliseconds:03d}"


@contextlib.contextmanager
def lines(path, head=""):
    """Yields a function that adds text to a new file, which is on disk when it returns; does nothing without a path."""
    if not path:
        yield lambda text: None
        return
    try:
        file = open(path, "w", encoding="utf-8")  # noqa: SIM115, closed below
    except OSError as error:
        raise refusal(path, error) from error

    def add(text):
        try:
            file.write(text)
            file.flush()
        except OSError as error:
            raise refusal(path, error) from error

    with contextlib.closing(file):
        add(head)
        yield add


def refusal(path, error):
    """The OutputError for a file that cannot be written."""
    return OutputError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}; give another place.")


def place(target, name, ending):
    """Where an output of the video called `name` goes: the file `target`, if it ends so, or in that folder."""
    return target if target.endswith(ending) else os.path.join(target, name + ending)


def check(target, ending, found, flag):
    """Raises OutputError where outputs `found` {path: name} would be one file for several videos, or a video itself."""
    if target.endswith(ending) and len(found) > 1:
        raise OutputError(f"--{flag}={target} is one file, but there are {len(found)} videos: give a folder.")
    sources = {os.path.realpath(path): path for path in found}
    for name in found.values():
        if source := sources.get(os.path.realpath(place(target, name, ending))):
            raise OutputError(f"--{flag}={target} would overwrite {source}: give another folder.")


def subtitles(target, segments):
    """Writes segments as a .srt file, whole or not at all."""
    made(target, lambda: save(target, as_srt(segments)))


def annotated(target, result, names, **how):
    """Writes a copy of the result's video with its labels drawn, whole or not at all; see `drawing.annotate`."""
    made(target, lambda: drawing.annotate(result["path"], target, result, names, **how))


def made(target, make):
    """Calls `make` once the folder of a file is there; OutputError for what goes wrong."""
    try:
        os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
        make()
    except video.VideoError as error:
        raise OutputError(f"{error}; {target} is not written.") from error
    except OSError as error:
        raise refusal(target, error) from error


def save(target, text):
    """Writes a text file, whole or not at all."""
    with written.whole(target) as partial, open(partial, "w", encoding="utf-8") as file:
        file.write(text)
