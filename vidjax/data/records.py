"""Reads built data sets: `open` is a source of records without pixels, `read` gives a clip's frames from the shards."""

import collections
import dataclasses
import functools
import hashlib
import json
import pathlib
import typing

import av
import numpy as np
from av.video.reformatter import Colorspace, VideoReformatter

from vidjax.data import shards, video, work

AGAIN = "run `vidjax data build` again"
READER = "readahead_buffer_size:0,max_parallelism:0"
OPEN = 256  # shards that a process holds open


class Blob(typing.NamedTuple):
    """Where a video lies: encoded in record `position` of `shard`, or as `frames` > 0 records from there on."""

    shard: str
    position: int
    offset: int  # of the bytes in a record
    size: int
    frames: int
    height: int
    width: int
    pixels: str


@dataclasses.dataclass(frozen=True)
class Records:
    """A source: record i is {id, blob, label, num_frames, fps, error, ...}; labels index `classes`."""

    rows: tuple
    classes: tuple
    name: str
    multi_label: bool
    flip_pairs: tuple
    lost: dict  # {missing, unreadable}: videos of this side that are not in the shards
    expected: int = 0  # videos by the data set's own count, 0 where none is known
    tasks = ()

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return dict(self.rows[i])

    @property
    def counts(self):
        """For reports, as `sources.Videos.counts`; unreadable and missing videos were left out of the shards."""
        labels = ((row["label"],) if not self.multi_label else row["label"] for row in self.rows)
        per_class = collections.Counter(label for each in labels for label in each)
        return {
            "found": len(self.rows) + self.lost["unreadable"],
            "missing": self.lost["missing"],
            "unreadable": self.lost["unreadable"] + self.lost["missing"],
            "classes": {name: per_class[label] for label, name in enumerate(self.classes)},
        }


def open(folder, side="train", split=""):  # noqa: A001
    """The source of one side (train, eval or test) of a built data set; `split` names one where there are several.

    ValueError, in one sentence, for a folder that is no finished data set, a lost or cut shard, a side or split that is
    not there.
    """
    folder = pathlib.Path(folder).expanduser().absolute()
    manifest = load(folder)
    counts = {(row["split"], row["side"]): row for row in manifest["splits"]}
    splits = list(dict.fromkeys(split for split, _ in counts))
    split = splits[0] if len(splits) == 1 and not split else split
    if splits and split not in splits:
        have = "one split, without a name" if splits == [""] else f"splits {', '.join(splits)}"
        raise ValueError(f"{folder} has {have}: there is no split {split!r}")
    rows = [row for row in index(folder, manifest) if row["sides"].get(split) == side]
    if not rows:
        there = ", ".join(f"{name} {row['found']}" for (part, name), row in counts.items() if part == split)
        raise ValueError(f"{folder} has no {side} videos{f' in split {split}' if split else ''}, only {there}")
    count = counts[split, side]
    missing = max(0, (count["listed"] or 0) - count["found"])
    store, pixels = manifest["parameters"]["store"], manifest["parameters"].get("pixels", "")
    return Records(
        tuple(record(row, folder, store, pixels, manifest["multi_label"]) for row in rows),
        tuple(manifest["classes"]),
        manifest["name"],
        manifest["multi_label"],
        tuple(map(tuple, manifest["flip_pairs"])),
        {"missing": missing, "unreadable": count["unreadable"]},
        count["expected"] or 0,
    )


def everything(folder):
    """The records of every video of a built data set, whatever its split."""
    folder = pathlib.Path(folder).expanduser().absolute()
    manifest = load(folder)
    how = manifest["parameters"]["store"], manifest["parameters"].get("pixels", ""), manifest["multi_label"]
    return tuple(record(row, folder, *how) for row in index(folder, manifest))


def is_built(folder):
    """Whether a folder is (or was begun as) a built data set."""
    return pathlib.Path(folder).joinpath("build.json").is_file()


def load(folder):
    """The manifest of a finished data set with all its shards in full size; else ValueError names what is not."""
    manifest = shards.load(folder / "manifest.json")
    if manifest is None:
        begun = is_built(folder)
        raise ValueError(f"{folder} is {f'not finished: {AGAIN}' if begun else 'no built data set: no manifest.json'}")
    for shard in [*manifest["shards"], manifest["index"] | {"file": "index.jsonl"}]:
        path = folder / shard["file"]
        size = path.stat().st_size if path.exists() else None
        if size is None:
            raise ValueError(f"{path} is missing: {AGAIN}")
        if size != shard["bytes"]:
            raise ValueError(f"{path} has {size} bytes instead of {shard['bytes']}: remove it and {AGAIN}")
    return manifest


def index(folder, manifest):
    """The rows of a data set's index."""
    with (folder / "index.jsonl").open(encoding="utf-8", errors="surrogateescape") as file:
        return [json.loads(line) for line in file]


def record(row, folder, store, pixels, multi_label):
    """A source's record of one index row."""
    frames = row["num_frames"] if store == "frames" else 0
    where = (str(folder / row["shard"]), row["position"], row["offset"], row["size"])
    label = tuple(row["label"]) if multi_label else row["label"]
    extras = {key: row[key] for key in ("caption", "group", "intervals") if key in row}
    return {
        "id": row["id"],
        "blob": Blob(*where, frames, row["height"], row["width"], pixels),
        "label": label,
        "num_frames": row["num_frames"],
        "fps": row["fps"],
        "error": "",
        **extras,
    }


def read(record, indices, short_side=0, pixels="rgb"):
    """The frames `indices` of a record, as `video.read` gives those of a file: uint8, (len(indices), H, W, 3) for rgb.

    Packed frames are read directly, and converted only where `short_side` or `pixels` differ from what is stored.
    VideoError where a frame cannot be had.
    """
    blob = record["blob"]
    if not blob.frames:
        return video.read(encoded(record), indices, short_side, pixels, key=f"{blob.shard}: {record['id']}")
    indices = np.asarray(indices, np.int64).reshape(-1)
    if indices.size == 0 or indices.min() < 0 or short_side < 0 or pixels not in video.FORMAT:
        raise ValueError(f"read needs frames >= 0, short_side >= 0, pixels rgb or yuv420, not {short_side}, {pixels!r}")
    if indices.max() >= blob.frames:
        raise video.VideoError(f"{record['id']}: there are only {blob.frames} frames, not {indices.max() + 1}")
    wanted, places = np.unique(indices, return_inverse=True)
    shape = (blob.height, blob.width, 3) if blob.pixels == "rgb" else (blob.height * 3 // 2, blob.width)
    frames = np.empty((len(wanted), *shape), np.uint8)
    for out, found in zip(frames, fetch(blob, (blob.position + wanted).tolist()), strict=True):
        out[...] = np.frombuffer(found, np.uint8, blob.size, blob.offset).reshape(shape)
    frames = convert(frames, blob, short_side, pixels)
    return frames if np.array_equal(wanted, indices) else frames[places]


def encoded(record):
    """The bytes of a record's video file; VideoError where the set holds packed frames or the shard cannot be read."""
    blob = record["blob"]
    if blob.frames:
        raise video.VideoError(f"{record['id']}: the data set holds packed frames, not the video file")
    return fetch(blob, [blob.position])[0][blob.offset : blob.offset + blob.size]


def convert(frames, blob, short_side, pixels):
    """Packed frames at another size or in another pixel format, by the same converter as decoded ones."""
    step = video.FORMAT[pixels].multiple
    scale = short_side / min(blob.height, blob.width) if short_side else 1
    height, width = (max(1, round(side * scale / step)) * step for side in (blob.height, blob.width))
    if (height, width, pixels) == (blob.height, blob.width, blob.pixels):
        return frames
    reformatter, goal = VideoReformatter(), video.FORMAT[pixels]
    out = np.empty((len(frames), *goal.shape(height, width)), np.uint8)
    for frame, place in zip(frames, out, strict=True):
        picture = av.VideoFrame.from_ndarray(frame, format=video.FORMAT[blob.pixels].name)
        picture.colorspace = Colorspace.ITU601
        place[...] = reformatter.reformat(picture, width, height, goal.name, **goal.options).to_ndarray()
    return out


def fetch(blob, positions):
    """Records of a shard; VideoError, naming the shard, where it cannot be read."""
    try:
        return reader(blob.shard).read(positions)
    except (OSError, RuntimeError, IndexError, ValueError) as error:
        raise video.VideoError(
            f"{blob.shard}: the shard cannot be read ({' '.join(str(error).split())[:200]})"
        ) from error


@functools.lru_cache(maxsize=OPEN)
def reader(path):
    """A shard's reader, one for all threads of a process."""
    from array_record.python.array_record_module import ArrayRecordReader

    return ArrayRecordReader(path, READER)


def verify(folder, *, workers=0, progress=None):
    """{file: what is wrong} of the files whose bytes are not those that were built; {} where all are."""
    folder = pathlib.Path(folder).expanduser().absolute()
    manifest = shards.load(folder / "manifest.json")
    if manifest is None:
        return {"manifest.json": "is missing"}
    files = [*manifest["shards"], manifest["index"] | {"file": "index.jsonl"}]
    tasks = [{"path": str(folder / entry["file"]), "sha256": entry["sha256"]} for entry in files]
    found = work.run(compare, tasks, workers=workers, progress=progress)
    return {entry["file"]: problem for entry, problem in zip(files, found, strict=True) if problem}


def compare(task):
    """What is wrong with one file, or an empty text."""
    try:
        with pathlib.Path(task["path"]).open("rb") as file:
            same = hashlib.file_digest(file, "sha256").hexdigest() == task["sha256"]
    except OSError as error:
        return error.strerror
    return "" if same else "has other bytes than were built"
