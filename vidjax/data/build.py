"""Builds a data set: the videos of a listing as ArrayRecord shards that vidjax and TFDS read, resumable at any moment.

In the folder: the shards, named as TFDS names them and described in `dataset_info.json` and `features.json`;
`index.jsonl`, a line per video {id, label, sides, num_frames, fps, width, height, shard, position, ...};
`manifest.json`, written last, with every hash, count, parameter and unreadable file; `shards/`, a manifest per shard.
A data set with one split has a TFDS split for each side; one with several, whose sides overlap, has all its videos once
in the TFDS split `videos` (`rest`: videos in no split), and the index says on which side of which split each one is.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import logging
import os
import pathlib
import shutil

import av

from vidjax.data import index, shards, work

SHARD_VIDEOS = {"video": 256, "frames": 16}  # at most; a small data set has SHARDS, for as many workers
SHARDS, FEW = 64, 8
VERSION = "1.0.0"
LOG = logging.getLogger("vidjax")


def build(
    listing,
    out,
    *,
    short_side=0,
    store="video",
    pixels="rgb",
    shard_videos=0,
    frame_stride=1,
    workers=0,
    progress=None,
    **how,
):
    """Writes the videos of a builders.Listing to folder `out`, and returns its manifest (a dict).

    `store="video"` keeps each file's bytes or, with `short_side` or `frame_stride` > 1, re-encodes it as H.264 with a
    keyframe every 12 frames (never enlarged; sound is lost, and that noted). `store="frames"` packs the decoded frames
    as uint8 `pixels` (`rgb`, or `yuv420`: I420 planes at half the bytes). `shard_videos` per shard; 0: up to 256, or
    16 for frames, by the size of the data set. `workers`, `runner` and `options` as for `work.run`; `progress(done,
    total)` counts videos. The same call after a kill writes only what is missing. ValueError, in one sentence, for
    parameters that differ from the folder's, for a second build at the same time and for a full disk.
    """
    out = pathlib.Path(out).expanduser().absolute()
    parameters = {"store": store, "short_side": short_side, "frame_stride": frame_stride}
    parameters |= {"pixels": pixels} if store == "frames" else {}
    even = max(FEW, -(-(len(listing.rows) + len(listing.missing)) // SHARDS))
    parameters |= {"shard_videos": shard_videos or min(even, SHARD_VIDEOS.get(store, 0))}
    check(listing, pixels, parameters)
    try:
        with alone(out):
            shards.agree(out / "build.json", {"name": listing.name} | parameters, "was built with")
            tasks = plan(listing, out, parameters)
            missing = unfinished(out, tasks)
            fill(missing, listing, progress, workers=workers, **how)
            return finish(listing, out, parameters, tasks)
    except OSError as error:
        if not shards.is_full(error):
            raise
        raise shards.full(out) from error


def check(listing, pixels, parameters):
    """ValueError for a parameter that cannot be meant."""
    if parameters["store"] not in shards.OPTIONS:
        raise ValueError(f"store must be one of {', '.join(shards.OPTIONS)}, not {parameters['store']!r}")
    if pixels not in ("rgb", "yuv420"):
        raise ValueError(f"pixels must be rgb or yuv420, not {pixels!r}")
    for key, least in (("short_side", 0), ("frame_stride", 1), ("shard_videos", 1)):
        if parameters[key] < least:
            raise ValueError(f"{key} must be at least {least}, not {parameters[key]}")
    if not listing.rows:
        raise ValueError(f"{listing.name}: the listing has no videos")
    if parameters["store"] == "video" and pixels != "rgb":
        raise ValueError(f"pixels={pixels} is for packed frames: give store=frames too")


@contextlib.contextmanager
def alone(out):
    """Holds the folder for this build; leftovers of one that was killed are removed."""
    (out / shards.FOLDER).mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{out}: another build is writing to this folder: wait for it or take another") from None
        for path in [*out.glob("*.part"), *(out / shards.FOLDER).glob("*.part")]:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        yield


def plan(listing, out, parameters):
    """The tasks of `shards.write`, one per shard, from the listing, the parameters and the files' sizes and dates."""
    parts, tasks = {}, []
    official = {split for row in listing.rows for split in row["sides"]}
    for row in listing.rows:
        side = row["sides"].get("", "rest") if official <= {""} else "videos" if row["sides"] else "rest"
        parts.setdefault(side, []).append(row)
    slim = dataclasses.replace(listing, rows=(), missing=())
    for part in sorted(parts):
        rows = parts[part]
        count = -(-len(rows) // parameters["shard_videos"])
        for number in range(count):
            mine = rows[number * len(rows) // count : (number + 1) * len(rows) // count]
            task = parameters | {"file": shards.file_name(listing.name, part, number, count), "rows": mine}
            task |= {"fingerprint": fingerprint(listing, parameters, mine), "skip": {}}
            tasks.append(task | {"out": os.fspath(out), "part": part, "listing": slim})
    return tasks


def fingerprint(listing, parameters, rows):
    """What the content of a shard depends on, as a hash: parameters, and each file's id, label, extras, size, date."""
    keys = ("id", "label", *listing.extras)
    facts = [[[row[key] for key in keys], index.stat(row["path"])] for row in rows]
    text = json.dumps([parameters, listing.classes, listing.multi_label, facts])
    return hashlib.sha256(text.encode()).hexdigest()


def unfinished(out, tasks):
    """The tasks whose shard is absent, of other files than those there now, or lacks videos that could not be opened.

    Shards that belong to no task any more are removed, with a warning, and so is a manifest that is no longer true.
    """
    manifests = {path.name.removesuffix(".json"): path for path in (out / shards.FOLDER).glob("*.json")}
    known = {name: shards.load(path) or {} for name, path in manifests.items()}
    left = [task for task in tasks if not whole(out, task, known.get(task["file"], {}))]
    stale = known.keys() - {task["file"] for task in tasks}
    before = {name: manifest.get("fingerprint") for name, manifest in known.items()}
    changed = any(before.get(task["file"], task["fingerprint"]) != task["fingerprint"] for task in left)
    if stale or changed:
        LOG.warning(
            "%s: the listing or its files have changed since it was built: %d of %d shards are built anew.",
            *(out, len(left), len(tasks)),
        )
    if left or stale:
        (out / "manifest.json").unlink(missing_ok=True)
    for name in stale:
        manifests[name].unlink()
        (out / name).unlink(missing_ok=True)
    return left


def whole(out, task, manifest):
    """Whether a finished shard is there and still what the task would write."""
    path = out / task["file"]
    there = path.exists() and path.stat().st_size == manifest.get("bytes")
    passing = any(row["passing"] for row in manifest.get("unreadable", ()))
    return there and manifest.get("fingerprint") == task["fingerprint"] and not passing


def fill(tasks, listing, progress, **how):
    """Writes shards; a video whose reading ends a worker process is noted, and its shard written without it."""
    total, todo = len(listing.rows), sum(len(task["rows"]) for task in tasks)
    crashed = []

    def failed(task, error):
        if not isinstance(error, ChildProcessError):
            raise error
        crashed.append(skipping(task, error))

    def count(done, of):
        progress(total - todo + done * todo // of, total)

    if progress and todo < total:
        progress(total - todo, total)
    work.run(shards.write, tasks, failed=failed, progress=progress and count, **how)
    while crashed:
        again, crashed[:] = list(crashed), []
        work.run(shards.write, again, failed=failed, **how)


def skipping(task, error):
    """The task without the video at which its process ended."""
    journal = pathlib.Path(task["out"], shards.FOLDER, f"{task['file']}.at")
    at = journal.read_text(encoding="utf-8", errors="surrogateescape") if journal.exists() else None
    row = next((row for row in task["rows"] if row["id"] == at and at not in task["skip"]), None)
    if row is None:
        raise error
    return task | {"skip": task["skip"] | {at: f"{row['path']}: while it was read {error}"}}


def finish(listing, out, parameters, tasks):
    """Writes TFDS's files, the index and the manifest from the shards' manifests; -> the manifest."""
    found = [shards.load(out / shards.FOLDER / f"{task['file']}.json") for task in tasks]
    sides = {row["id"]: row for row in listing.rows}
    extras = [name for name in listing.extras if name in ("caption", "group", "intervals")]
    lines, unreadable = [], []
    for shard in found:
        place = {"shard": shard["file"]}
        for row in shard["rows"]:
            more = {name: sides[row["id"]][name] for name in ("sides", *extras)}
            lines.append(json.dumps(row | place | more, ensure_ascii=False))
        unreadable += [row | {"sides": sides[row["id"]]["sides"]} for row in shard["unreadable"]]
    path = out / "index.jsonl.part"
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8", errors="surrogateescape")
    content = {"format": 1, "name": listing.name, "parameters": parameters | encoder(parameters)}
    content |= {"multi_label": listing.multi_label, "flip_pairs": listing.flip_pairs, "classes": listing.classes}
    content |= {"counts": totals(listing, lines, unreadable), "splits": split_counts(listing, unreadable)}
    content |= {"sound_lost": sum(row["sound_lost"] for shard in found for row in shard["rows"])}
    content |= {"unreadable": unreadable, "missing": listing.missing, "index": shards.seal(path)}
    content |= {"shards": [{key: shard[key] for key in ("file", "records", "bytes", "sha256")} for shard in found]}
    os.replace(path, out / "index.jsonl")
    describe(listing, out, parameters, tasks, found)
    shards.save(out / "manifest.json", content)
    return shards.load(out / "manifest.json")


def encoder(parameters):
    """What re-encoding used; its bytes depend on these versions."""
    if parameters["store"] == "frames" or not (parameters["short_side"] or parameters["frame_stride"] > 1):
        return {}
    codec = ".".join(map(str, av.library_versions["libavcodec"]))
    return {"codec": "libx264", "gop": shards.GOP, "crf": shards.CRF, "bframes": shards.BFRAMES, "libavcodec": codec}


def totals(listing, stored, unreadable):
    """{listed, stored, unreadable, missing} of the whole data set."""
    counts = {"listed": len(listing.rows) + len(listing.missing), "stored": len(stored)}
    return counts | {"unreadable": len(unreadable), "missing": len(listing.missing)}


def split_counts(listing, unreadable):
    """[{split, side, expected, listed, found, unreadable}]: `expected` officially, None where that is not known."""
    rows = {}
    for row in listing.rows:
        for key in row["sides"].items():
            rows[key] = rows.get(key, 0) + 1
    return [
        {"split": split, "side": side, "expected": listing.expected.get((split, side))}
        | {"listed": listing.listed.get((split, side)), "found": rows.get((split, side), 0)}
        | {"unreadable": sum(row["sides"].get(split) == side for row in unreadable)}
        for split, side in dict.fromkeys([*listing.expected, *sorted(rows)])
    ]


def describe(listing, out, parameters, tasks, found):
    """Writes `features.json` and `dataset_info.json` with TFDS's own writer."""
    import tensorflow_datasets as tfds

    identity = tfds.core.dataset_info.DatasetIdentity(
        name=listing.name, version=tfds.core.Version(VERSION), data_dir=os.fspath(out), module_name=""
    )
    info = tfds.core.DatasetInfo(builder=identity, features=shards.features(listing, parameters["store"]))
    info.set_file_format("array_record")
    splits = []
    for part in dict.fromkeys(task["part"] for task in tasks):
        mine = [shard for task, shard in zip(tasks, found, strict=True) if task["part"] == part]
        where = tfds.core.ShardedFileTemplate(
            data_dir=out, dataset_name=listing.name, split=part, filetype_suffix="array_record"
        )
        lengths, size = [shard["records"] for shard in mine], sum(shard["bytes"] for shard in mine)
        splits.append(tfds.core.SplitInfo(name=part, shard_lengths=lengths, num_bytes=size, filename_template=where))
    info.set_splits(tfds.core.splits.SplitDict(splits))
    info.write_to_directory(out)
