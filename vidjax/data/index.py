"""What is in the files of a data set: frames, fps, size, duration, or why a file cannot be read; cached as CSV.

The cache lies beside the data as `.vidjax_index.csv`, or under `$XDG_CACHE_HOME/vidjax/index` where that folder is
read-only. An entry counts as long as the file's size and modification time do.
"""

import collections
import concurrent.futures
import contextlib
import csv
import hashlib
import io
import logging
import os
import pathlib
import time

from vidjax.data import video

COLUMNS = ("id", "path", "size", "mtime_ns", "num_frames", "fps", "width", "height", "duration", "error")
NUMBERS = {"size": int, "mtime_ns": int, "num_frames": int, "fps": float, "width": int, "height": int}
NUMBERS |= {"duration": float}
FILE = ".vidjax_index.csv"
SAVE_EVERY = 20.0  # seconds of scanning that a kill may cost
LOG = logging.getLogger("vidjax")


def build(paths, root, cache=None, progress=None):
    """Rows of `COLUMNS`, one per path and in their order, probed in threads where the cache has no valid entry.

    `cache` is a CSV file, by default `cache_path(root)`; `progress(done, total)` is called after each probed file. A
    file that is missing or cannot be read gets its reason in `error` and 0 for its numbers.
    """
    root, paths = os.path.abspath(root), [os.path.abspath(path) for path in paths]
    cache = pathlib.Path(cache) if cache else cache_path(root)
    known = load(cache)
    rows = {file_id(path, root): {"id": file_id(path, root), "path": path} | stat(path) for path in paths}
    fresh = [row for row in rows.values() if not same(row, known.get(row["id"]))]
    rows |= {key: known[key] | {"path": row["path"]} for key, row in rows.items() if same(row, known.get(key))}
    saved = time.monotonic()
    for done, row in enumerate(probe_all(fresh), len(rows) - len(fresh) + 1):
        rows[row["id"]] = known[row["id"]] = row
        if time.monotonic() - saved > SAVE_EVERY:
            save(cache, known.values())
            saved = time.monotonic()
        if progress:
            progress(done, len(rows))
    if fresh:
        save(cache, known.values())
    return [rows[file_id(path, root)] for path in paths]


def file_id(path, root):
    """A file's name in its data set: the path below `root` with `/` between folders, or the whole path outside it."""
    path, root = pathlib.Path(path), pathlib.Path(root)
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def cache_path(root):
    """Where the index of the data set at folder `root` is kept."""
    root = pathlib.Path(os.path.abspath(root))
    if os.access(root, os.W_OK) and root.stat().st_mode & 0o222:  # root may write anywhere, yet respects the mode
        return root / FILE
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    return home / "vidjax" / "index" / f"{hashlib.sha256(os.fsencode(root)).hexdigest()[:24]}.csv"


def stat(path):
    """Size and modification time of a file; -1 and 0 where there is none, which no cache entry matches."""
    try:
        there = os.stat(path)
    except OSError:
        return {"size": -1, "mtime_ns": 0}
    return {"size": there.st_size, "mtime_ns": there.st_mtime_ns}


def same(row, entry):
    """Whether a cache entry describes the file as it is now."""
    return entry is not None and row["size"] >= 0 and all(row[key] == entry[key] for key in ("size", "mtime_ns"))


def probe_all(rows):
    """Probes files in threads: completed rows, in the order they finish."""
    with concurrent.futures.ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1))) as pool:
        try:
            for future in concurrent.futures.as_completed([pool.submit(probe, row) for row in rows]):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def probe(row):
    """A row with the file's numbers filled in, or its `error`."""
    found = dict.fromkeys(("num_frames", "fps", "width", "height", "duration"), 0)
    try:
        open(row["path"], "rb").close()
        found |= video.probe(row["path"])
    except FileNotFoundError:
        return row | found | {"error": "no such file"}
    except OSError as error:  # may pass (rights, a share that is away): not kept as the truth about this file
        return row | found | {"size": -1, "error": f"{row['path']} cannot be opened: {error.strerror}"}
    except video.VideoError as error:
        return row | found | {"error": " ".join(str(error).split())}
    return row | found | {"error": "" if found["num_frames"] else f"{row['path']} holds no frames"}


def load(cache):
    """The entries of a cache file by id; none, with a warning, if it is damaged."""
    try:
        text = cache.read_text(encoding="utf-8", errors="surrogateescape")
        lines = csv.reader(io.StringIO(text), strict=True)
        if tuple(next(lines, ())) != COLUMNS or not text.endswith("\n"):
            raise ValueError("its columns are not the expected ones, or its last line is cut")
        rows = [dict(zip(COLUMNS, line, strict=True)) for line in lines]
        return {row["id"]: {key: NUMBERS.get(key, str)(value) for key, value in row.items()} for row in rows}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, csv.Error) as error:
        LOG.warning("The index %s is damaged (%s): ignored and built anew.", cache, error)
        return {}


def save(cache, rows):
    """Writes the index so that the file is whole at any moment; a folder that cannot be written costs a warning."""
    part = cache.with_name(f"{cache.name}.{os.getpid()}.part")
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(row for row in rows if row["size"] >= 0)
        os.replace(part, cache)
    except OSError as error:
        LOG.warning("The index %s cannot be written (%s): the files are probed again next time.", cache, error.strerror)
        with contextlib.suppress(OSError):
            part.unlink()


def summary(rows):
    """A few lines for people: how many videos, frames and hours, sizes and rates, and which files cannot be read."""
    good, bad = [row for row in rows if not row["error"]], [row for row in rows if row["error"]]
    lines = [f"{len(rows)} videos, {len(good)} readable, {len(bad)} not"]
    if good:
        counts, hours = sorted(row["num_frames"] for row in good), sum(row["duration"] for row in good) / 3600
        lines.append(f"frames {counts[0]} to {counts[-1]} (median {counts[len(counts) // 2]}), {hours:.2f} hours")
        sizes = collections.Counter(f"{row['width']}x{row['height']}" for row in good)
        rates = collections.Counter(f"{row['fps']:g}" for row in good)
        for name, counter in (("sizes", sizes), ("fps", rates)):
            shown = ", ".join(f"{key} ({count})" for key, count in counter.most_common(5))
            lines.append(f"{name} {shown}" + (f" and {len(counter) - 5} more" if len(counter) > 5 else ""))
    lines += [f"unreadable {row['id']}: {row['error']}" for row in bad[:20]]
    if len(bad) > 20:
        lines.append(f"and {len(bad) - 20} more unreadable")
    return "\n".join(lines)
