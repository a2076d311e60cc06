"""Looks for broken, short and odd videos in a folder, a CSV list or a built data set, before a run meets them.

`broken`: it cannot be read, or not to its end. `short`: its header promises more than there is. `odd`: it can be read,
but is not what a data set's other videos are, and each oddness is named. The rest is `ok`.
"""

import collections
import csv
import hashlib
import io
import os
import pathlib
import statistics
import time

import av

from vidjax.data import index, lists, records, video, work

VERDICTS = ("ok", "broken", "short", "odd")
FACTS = ("num_frames", "decoded", "claimed", "fps", "width", "height", "duration", "codec", "pixels", "keyframes")
COLUMNS = ("id", "verdict", "reason", *FACTS, "size", "sha256")
USUAL = {f"yuv{j}{layout}p" for layout in (410, 411, 420, 422, 440, 444) for j in ("", "j")} | {"nv12"}
TINY, HUGE, FAST, LONE = 32, 4096, 120, 64  # pixels, pixels, frames per second, frames with only one keyframe
STRETCH = 1.4  # width of a pixel over its height, or height over width; resized sets are often 1.25
UNEVEN = 0.01  # share of gaps between frames that may be half as long again as the median, or half as short
TIME_LIMIT = 120.0
GRACE = 30.0  # seconds more before the process is ended


def check(path, *, workers=0, deep=True, time_limit=TIME_LIMIT, progress=None):
    """One row of `COLUMNS` for each video of a folder, a CSV list (column `path`) or a built data set.

    Decodes every frame, or with `deep=False` only the first and the packets' headers. With `workers` each file is read
    in a separate process, so that one which crashes the decoder is a broken row. A file that takes longer than
    `time_limit` seconds is broken. Files whose bytes are equal are odd. The index of the folder is kept up to date.
    """
    path = pathlib.Path(path).expanduser()
    built = path.is_dir() and records.is_built(path)
    tasks = stored(path) if built else listed(path)
    how = {"workers": workers, "time_limit": time_limit + GRACE, "progress": progress}
    tasks = [task | {"deep": deep, "time_limit": time_limit} for task in tasks]
    rows = work.run(inspect, tasks, failed=failed, **how)
    if not built:
        remember(path, tasks, rows)
    by_bytes = {}
    for row in rows:
        first = by_bytes.setdefault(row["sha256"] or row["id"], row["id"])
        if first != row["id"]:
            note(row, "odd", f"the same bytes as {first}")
    return [{name: row[name] for name in COLUMNS} for row in rows]


def listed(path):
    """The tasks of a folder or a CSV list: index rows, with what the cached index knows."""
    root, files = lists.files(path)
    root, files = os.path.abspath(root), [os.path.abspath(file) for file in files]
    known = index.load(index.cache_path(root))
    rows = [{"id": index.file_id(file, root), "path": file} | index.stat(file) for file in files]
    return [{"row": row, "known": known[row["id"]] if index.same(row, known.get(row["id"])) else None} for row in rows]


def remember(path, tasks, rows):
    """Keeps what was learnt in the folder's index, for the source that reads it next."""
    cache = index.cache_path(path if path.is_dir() else path.parent)
    entries = {task["row"]["id"]: row["index"] for task, row in zip(tasks, rows, strict=True) if row["index"]}
    known = index.load(cache)
    if any(known.get(key) != entry for key, entry in entries.items()):
        index.save(cache, (known | entries).values())


def stored(path):
    """The tasks of a built data set: every record of every split."""
    path = path.absolute()
    manifest = records.load(path)
    store, pixels = manifest["parameters"]["store"], manifest["parameters"].get("pixels", "")
    rows = [records.record(row, path, store, pixels, manifest["multi_label"]) for row in records.index(path, manifest)]
    return [{"record": {key: row[key] for key in ("id", "blob", "num_frames", "fps")}} for row in rows]


def failed(task, error):
    """The row of a video whose process died or took too long."""
    if not isinstance(error, ChildProcessError | TimeoutError):
        raise error
    row = blank((task.get("row") or task["record"])["id"])
    return note(row, "broken", f"while it was read {error}")


def blank(name):
    return (
        dict.fromkeys(COLUMNS, 0)
        | dict.fromkeys(("reason", "codec", "pixels", "sha256"), "")
        | {
            "id": name,
            "verdict": "ok",
            "index": None,
        }
    )


def note(row, verdict, reason):
    """Adds a reason to a row; the worst verdict stays."""
    order = ("ok", "odd", "short", "broken")
    row["verdict"] = max(row["verdict"], verdict, key=order.index)
    row["reason"] = "; ".join(filter(None, [row["reason"], " ".join(str(reason).split())]))
    return row


def inspect(task):
    """Reads one video: its row."""
    row = blank((task.get("row") or task["record"])["id"])
    try:
        if "record" in task:
            record = task["record"] | {"blob": records.Blob(*task["record"]["blob"])}
            if record["blob"].frames:
                return packed(row, record)
            file = records.encoded(record)
            facts = video.probe(file)
        else:
            file = task["row"]["path"]
            facts = row["index"] = task["known"] or index.probe(task["row"])
            if facts["error"]:
                return note(row, "broken", facts["error"])
        row |= {key: facts[key] for key in ("num_frames", "fps", "width", "height", "duration")} | digest(file)
        judge(row, measure(file, task["deep"], task["time_limit"]), task["deep"])
    except video.FAILURES as error:
        note(row, "broken", error)
    return row


def packed(row, record):
    """The row of a video of packed frames: all of them are read, and so their checksums compared."""
    blob = record["blob"]
    row |= {"fps": record["fps"], "width": blob.width, "height": blob.height, "num_frames": blob.frames}
    row |= {"claimed": blob.frames, "codec": "packed", "pixels": blob.pixels, "size": blob.size * blob.frames}
    digest = hashlib.sha256()
    for number in range(blob.frames):
        digest.update(records.read(record, [number], pixels=blob.pixels))
    return row | {"decoded": blob.frames, "keyframes": blob.frames, "sha256": digest.hexdigest()}


def digest(file):
    """{size, sha256} of a file, given by its path or its bytes."""
    with io.BytesIO(file) if isinstance(file, bytes) else open(file, "rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
        return {"size": opened.tell(), "sha256": found}


def measure(file, deep, limit):
    """What a file's packets and pictures are: a dict for `judge`. Raises what PyAV raises; TimeoutError."""
    start = time.monotonic()
    if not isinstance(file, bytes) and file.encode(errors="replace").decode() != file:
        file = pathlib.Path(file).read_bytes()  # PyAV wants names in UTF-8
    source = io.BytesIO(file) if isinstance(file, bytes) else f"file:{file}"
    with av.open(source, options=video.OPTIONS, **video.METADATA) as container:
        stream = container.streams.best("video")
        context = stream.codec_context
        context.thread_type, context.thread_count, context.options = "SLICE", 1, video.LIMIT
        found = {"packets": 0, "decoded": 0, "damaged": 0, "keyframes": 0, "times": [], "sizes": set(), "turn": 0}
        found |= {"claimed": stream.frames, "rate": float(stream.average_rate or 0), "codec": context.name}
        found |= {"pixels": context.pix_fmt or "", "aspect": stream.sample_aspect_ratio or 1}
        alone = len(container.streams) == 1
        length = (stream.duration or 0) * stream.time_base or (container.duration or 0) / 1e6 * alone
        found["promised"] = float(length)
        try:
            for packet in container.demux(stream):
                if time.monotonic() - start > limit:
                    raise TimeoutError(f"reading it takes longer than the limit of {limit:g} s")
                found["packets"] += packet.dts is not None or packet.size > 0
                found["keyframes"] += packet.is_keyframe and packet.size > 0
                if packet.size and packet.pts is not None and not packet.is_discard:
                    found["times"].append(float(packet.pts * packet.time_base))
                if deep or not found["decoded"]:
                    for frame in packet.decode():
                        found["decoded"] += 1
                        found["damaged"] += frame.is_corrupt
                        found["sizes"].add((frame.width, frame.height))
                        found["turn"] = round(frame.rotation) or found["turn"]
        except video.FAILURES as error:
            found["error"] = getattr(error, "strerror", None) or str(error)
    return found


def judge(row, found, deep):
    """Writes what was measured, and what is wrong with it, into a row."""
    row |= {key: found[key] for key in ("claimed", "decoded", "keyframes", "codec", "pixels")}
    if found.get("error"):
        note(row, "broken", f"decoding ends after {found['decoded']} frames ({found['error']})")
    elif deep and not found["decoded"]:
        note(row, "broken", "no frame can be decoded")
    for verdict, reason in (*shortness(row, found, deep), *oddness(row, found)):
        note(row, verdict, reason)


def shortness(row, found, deep):
    """What is there of what the header promises."""
    times, frames = sorted(found["times"]), row["num_frames"]
    lasts = times[-1] - times[0] + (1 / row["fps"] if row["fps"] else 0) if times else 0
    if found["packets"] < found["claimed"] - 1:
        yield "short", f"the header claims {found['claimed']} frames, there are {found['packets']}"
    elif found["promised"] - lasts > max(1, 0.1 * found["promised"]) and times:
        yield "short", f"the header claims {found['promised']:.1f} s, the frames end after {lasts:.1f} s"
    elif lasts - found["promised"] > max(1, 0.1 * lasts) and found["promised"]:
        yield "odd", f"the header claims {found['promised']:.1f} s, the frames last {lasts:.1f} s"
    if deep and not found.get("error") and 0 < found["decoded"] < frames:
        yield "short", f"only {found['decoded']} of {frames} frames can be decoded"
    if found["damaged"]:
        yield "odd", f"{found['damaged']} frames are damaged"


def oddness(row, found):
    """In which ways a video that can be read is unusual."""
    gaps = [b - a for a, b in zip(sorted(found["times"]), sorted(found["times"])[1:], strict=False)]
    middle = statistics.median(gaps) if gaps else 0
    uneven = sum(not 0.5 * middle < gap < 1.5 * middle for gap in gaps)
    if uneven > UNEVEN * len(gaps):
        yield "odd", f"variable frame rate ({1000 * min(gaps):.0f} to {1000 * max(gaps):.0f} ms between frames)"
    if not found["rate"]:
        yield "odd", "no frame rate in the header"
    if max(found["rate"], row["fps"]) > FAST:
        yield "odd", f"{max(found['rate'], row['fps']):g} frames per second"
    if found["turn"] % 360:
        yield "odd", f"rotated by {found['turn'] % 360} degrees"
    if min(row["width"], row["height"]) < TINY or max(row["width"], row["height"]) > HUGE:
        yield "odd", f"pictures of {row['width']}x{row['height']} pixels"
    if len(found["sizes"]) > 1:
        yield "odd", "the pictures' size changes: " + ", ".join(f"{w}x{h}" for w, h in sorted(found["sizes"]))
    if found["pixels"] not in USUAL:
        yield "odd", f"pixel format {found['pixels'] or 'unknown'}"
    if not 1 / STRETCH < found["aspect"] < STRETCH:
        yield "odd", f"pixels that are not square ({found['aspect'].numerator}:{found['aspect'].denominator})"
    if found["keyframes"] == 1 and row["num_frames"] > LONE:
        yield "odd", f"no keyframe but the first in {row['num_frames']} frames: every read decodes from the beginning"


def summary(rows, shown=20):
    """A few lines for people: how many videos of each verdict, and which are not ok and why."""
    counts = collections.Counter(row["verdict"] for row in rows)
    lines = [f"{len(rows)} videos: " + ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS)]
    for verdict in VERDICTS[1:]:
        bad = [row for row in rows if row["verdict"] == verdict]
        lines += [f"{verdict} {row['id']}: {row['reason']}" for row in bad[:shown]]
        lines += [f"and {len(bad) - shown} more {verdict}"] if len(bad) > shown else []
    return "\n".join(lines)


def write_csv(rows, path):
    """Writes the rows as a CSV file, whole at any moment."""
    part = pathlib.Path(f"{os.fspath(path)}.{os.getpid()}.part")
    with part.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(part, path)
