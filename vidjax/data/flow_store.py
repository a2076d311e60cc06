"""Stored flow: the fields of many videos as bytes in ArrayRecord shards, built once, read at random.

A store is a folder: shards `flow-00000.array_record`, `shards/NAME.json` with what is in each, `flow.json` with how the
flow is made, and `manifest.json`, written last, with every count, hash and unreadable video. A shard appears whole or
not at all; a build that was stopped goes on with the videos that no finished shard holds. Fields are stored as grey
pictures, x above y, of `flow.quantise`'s bytes.
"""

import dataclasses
import functools
import inspect
import json
import os
import pathlib
import typing

import cv2
import numpy as np

import vidjax
from vidjax.data import build as builds
from vidjax.data import flow, flow_encodings, shards, video, work
from vidjax.data import records as built

FORMAT = "vidjax flow 1"
SHARD_FIELDS = 4096
LENGTH = 64  # fields computed at a time, and in one record of the encoding "video"
CHUNK = 2**27  # bytes that those may take
AGAIN = "run the same `vidjax data flow` again"


class FlowError(video.VideoError):
    """Flow of one video that is not stored or cannot be read; one sentence that names the video."""


class Place(typing.NamedTuple):
    shard: str
    first: int  # record
    fields: int
    height: int
    width: int
    length: int  # fields in a record


class Store(typing.NamedTuple):
    """An open store, picklable: `manifest`, where each video lies, and why the others are not there."""

    folder: str
    manifest: dict
    videos: dict
    unreadable: dict


def build(
    records,
    out,
    estimate,
    *,
    bound=flow.BOUND,
    encoding="png",
    short_side=0,
    shard_fields=SHARD_FIELDS,
    progress=None,
    **how,
):
    """Stores the flow of the videos of a source in folder `out`, and returns the manifest (a dict).

    `records` is a source or a list of its records (id, path or blob, num_frames, error); `estimate` a picklable
    function of uint8 frames (T, H, W, 3) to flow (T - 1, H, W, 2) in pixels. Its name, a functools.partial's arguments
    and its defaults go into the manifest. `bound` is in pixels of the picture whose shorter side is `short_side`
    (0: the video's own); `encoding` one of flow_encodings.ENCODINGS. `progress` counts shards, `how` goes to
    `work.run`: workers, runner, options. Unreadable videos are listed with their reasons. ValueError, in one sentence,
    for a folder that holds flow made otherwise.
    """
    if encoding not in flow_encodings.ENCODINGS:
        raise ValueError(f"flow is stored as {', '.join(flow_encodings.ENCODINGS)}, not {encoding!r}")
    out = pathlib.Path(out).expanduser().absolute()
    settings = {"format": FORMAT, **name(estimate), "bound": float(bound), "encoding": encoding}
    settings |= {"short_side": int(short_side)} | ({"quality": flow_encodings.QUALITY} if encoding == "jpeg" else {})
    settings = json.loads(json.dumps(settings, default=repr))
    with builds.alone(out):
        agree(out, settings)
        found = finished(out)
        tasks = plan(records, out, found, shard_fields)
        tasks = [task | {"estimate": estimate, "settings": settings} for task in tasks]
        total = len(found) + len(tasks)
        work.run(write, tasks, progress=progress and (lambda done, _: progress(len(found) + done, total)), **how)
        return finish(out, settings)


def name(estimate):
    """What a manifest says of a flow function: {algorithm, parameters}, its dotted name, arguments and defaults.

    A callable dataclass has its fields for parameters.
    """
    arguments = {}
    while isinstance(estimate, functools.partial):
        arguments = estimate.keywords | arguments
        estimate = estimate.func
    signature = inspect.signature(estimate).parameters
    defaults = {key: each.default for key, each in signature.items() if each.default is not inspect.Parameter.empty}
    if dataclasses.is_dataclass(estimate):
        defaults = dataclasses.asdict(estimate)
    kind = estimate if hasattr(estimate, "__qualname__") else type(estimate)
    return {"algorithm": f"{kind.__module__}.{kind.__qualname__}", "parameters": defaults | arguments}


def agree(out, settings):
    """Notes how a new store is made; ValueError where the folder was begun otherwise."""
    foreign = any((out / file).exists() for file in ("flow.json", "build.json", "manifest.json"))
    if foreign and shards.load(out / "flow.json") is None:
        raise ValueError(f"{out} holds something else than stored flow: take another folder")
    shards.agree(out / "flow.json", settings, "holds flow with")


def finished(out):
    """What the finished shards of a folder say of themselves, by file name."""
    found = {}
    for path in sorted((out / shards.FOLDER).glob("flow-*.json")):
        shard = shards.load(path)
        data = out / path.name.removesuffix(".json")
        if shard and data.exists() and data.stat().st_size == shard["bytes"]:
            found[data.name] = shard
    return found


def plan(records, out, found, shard_fields):
    """Tasks of `write` for the videos that no finished shard knows, in order, filled up to `shard_fields` fields.

    A list of records is cut into the tasks; any other source travels whole. ValueError for a video that has another
    number of frames than when its flow was stored.
    """
    stored = {key: entry[1] for shard in found.values() for key, entry in shard["videos"].items()}
    bad = {key: entry for shard in found.values() for key, entry in shard["unreadable"].items()}
    tasks, room = [], 0
    free = (file for i in range(10**5) if (file := f"flow-{i:05d}.array_record") not in found)
    for i in range(len(records)):
        record = records[i]
        key, fields = record["id"], max(0, record["num_frames"] - 1)
        if key in stored and stored[key] != fields:
            raise ValueError(f"{out} holds {stored[key]} flow fields of {key}, which has {fields} now: start anew")
        if key in stored or (key in bad and bad[key]["record"] == [record["num_frames"], record["error"]]):
            continue
        if room <= 0:
            tasks.append({"out": str(out), "file": next(free), "records": [], "indices": []})
            room = shard_fields
        room -= fields
        task = tasks[-1]
        task["indices"].append(i if not isinstance(records, list) else len(task["records"]))
        if isinstance(records, list):
            task["records"].append(record)
        else:
            task["records"] = records
    return tasks


def write(task):
    """Computes and writes one shard: -> {file, videos, unreadable}, counts. shards.DiskFull."""
    out, file = pathlib.Path(task["out"]), task["file"]
    part = out / f"{file}.{os.getpid()}.part"
    try:
        found = write_records(task, part)
        sealed = {"file": file} | shards.seal(part)
        os.replace(part, out / file)
        shards.save(out / shards.FOLDER / f"{file}.json", sealed | found)
    except (OSError, RuntimeError) as error:
        if not shards.is_full(error):
            raise
        raise shards.full(out) from error
    finally:
        part.unlink(missing_ok=True)
    return {"file": file, "videos": len(found["videos"]), "unreadable": len(found["unreadable"])}


def write_records(task, part):
    """Writes a task's fields to `part`: {videos: {id: entry of Place}, unreadable: {id: {error, record}}}."""
    from array_record.python.array_record_module import ArrayRecordWriter

    videos, unreadable, count = {}, {}, 0
    writer = ArrayRecordWriter(os.fspath(part), "group_size:1,uncompressed")

    def save(data):
        nonlocal count
        writer.write(data)
        count += 1

    try:
        for i in task["indices"]:
            record, first = task["records"][i], count
            try:
                videos[record["id"]] = [first, *add(record, task["estimate"], task["settings"], save)]
            except video.VideoError as error:  # what was written of it stays, and nothing refers to it
                reason = " ".join(str(error).split())
                unreadable[record["id"]] = {"error": reason, "record": [record["num_frames"], record["error"]]}
    finally:
        writer.close()
    return {"videos": videos, "unreadable": unreadable}


def add(record, estimate, settings, save):
    """Saves the records of a video's flow, some fields at a time: -> [fields, height, width, fields in a record]."""
    fields, encoding = record["num_frames"] - 1, flow_encodings.ENCODINGS[settings["encoding"]]
    if record["error"]:
        raise video.VideoError(record["error"])
    if fields < 1:
        raise FlowError(f"{record['id']}: flow needs two frames, there are {record['num_frames']}")
    _, h, w, _ = frames(record, [0], settings["short_side"]).shape
    step = max(1, min(LENGTH, CHUNK // (h * w * 13)))  # a frame, its flow and the bytes of it
    for at in range(0, fields, step):
        clip = frames(record, range(at, min(at + step, fields) + 1), settings["short_side"])
        field = flow.quantise(checked(record["id"], estimate, clip), settings["bound"])
        for data in encoding.encode(np.concatenate([field[..., 0], field[..., 1]], axis=1)):
            save(data)
    return [fields, h, w, step if encoding.joined else 1]


def frames(record, indices, short_side):
    """The frames of a record that names a file or lies in a built data set."""
    if isinstance(record.get("blob"), built.Blob):
        return built.read(record, indices, short_side)
    return video.read(record["path"], indices, short_side)


def checked(key, estimate, clip):
    """The flow of a clip; FlowError where the function refuses the clip or gives no numbers."""
    t, h, w, _ = clip.shape
    try:
        field = np.asarray(estimate(clip), np.float32)
    except (ValueError, cv2.error) as error:
        raise FlowError(f"{key}: there is no flow of it ({error})") from error
    if field.shape != (t - 1, h, w, 2):
        raise TypeError(f"a flow function must give {(t - 1, h, w, 2)} for {clip.shape}, not {field.shape}")
    if not np.isfinite(field).all():
        raise FlowError(f"{key}: its flow is not finite")
    return field


def finish(out, settings):
    """Writes the manifest from what the shards say: -> the manifest. ValueError where no video has flow."""
    found = finished(out)
    videos, unreadable = merge(out, found)
    if not videos:
        reasons = "; ".join(dict.fromkeys(unreadable.values()))[:500]
        raise ValueError(f"{out}: there is no video whose flow could be stored ({reasons or 'there are no videos'})")
    sizes = [f"{place.width}x{place.height}" for place in videos.values()]
    manifest = settings | {"vidjax": vidjax.__version__, "opencv": cv2.__version__, "videos": len(videos)}
    manifest |= {"fields": sum(place.fields for place in videos.values())}
    manifest |= {"sizes": {size: sizes.count(size) for size in sorted(set(sizes))}, "unreadable": unreadable}
    manifest |= {"shards": [{key: shard[key] for key in ("file", "bytes", "sha256")} for shard in found.values()]}
    shards.save(out / "manifest.json", manifest)
    return manifest


def merge(out, found):
    """({id: Place}, {id: reason}) of all shards; a video that became readable is not unreadable any more."""
    videos = {
        key: Place(str(out / file), *entry) for file, shard in found.items() for key, entry in shard["videos"].items()
    }
    bad = {key: entry["error"] for shard in found.values() for key, entry in shard["unreadable"].items()}
    return videos, {key: error for key, error in bad.items() if key not in videos}


def is_store(folder):
    """Whether a folder is (or was begun as) stored flow."""
    return pathlib.Path(folder, "flow.json").is_file()


def open(folder):  # noqa: A001
    """The Store in a folder. ValueError, in one sentence, for one that is not finished or has lost a shard."""
    folder = pathlib.Path(folder).expanduser().absolute()
    manifest, found = shards.load(folder / "manifest.json"), finished(folder)
    if not is_store(folder):
        raise ValueError(f"{folder} is no stored flow: it has no flow.json")
    if manifest is None:
        raise ValueError(f"{folder} is not finished, {len(found)} shards are there: {AGAIN}")
    lost = [shard["file"] for shard in manifest["shards"] if shard["file"] not in found]
    if lost:
        raise ValueError(f"{folder}: {', '.join(lost[:5])} {'are' if lost[1:] else 'is'} missing or cut: {AGAIN}")
    return Store(str(folder), manifest, *merge(folder, found))


def remembered(folder):
    """`open`, once in a process for each manifest that is written there."""
    manifest = pathlib.Path(folder, "manifest.json")
    return opened(str(folder), manifest.stat().st_mtime_ns if manifest.exists() else 0)


@functools.lru_cache(maxsize=16)
def opened(folder, mtime_ns):
    """`open`, remembered until the manifest is written again."""
    return open(folder)


def read(store, key, indices):
    """The stored fields `indices` of video `key`, in any order, with repeats: -> uint8 (len(indices), H, W, 2).

    `store` is a Store or its folder. Safe in threads; files are opened in each process at the first read. FlowError
    for a video or a field that is not there or cannot be read.
    """
    store = store if isinstance(store, Store) else remembered(store)
    indices = np.asarray(indices, np.int64).reshape(-1)
    if indices.size == 0 or indices.min() < 0:
        raise ValueError(f"read needs field numbers >= 0, got {indices.tolist()}")
    place = store.videos.get(key)
    if place is None:
        raise FlowError(f"{key}: {store.folder} has no flow of it ({store.unreadable.get(key, 'it is not listed')})")
    if indices.max() >= place.fields:
        raise FlowError(f"{key}: there are only {place.fields} flow fields, not {indices.max() + 1}")
    wanted, places = np.unique(indices, return_inverse=True)
    try:
        pictures = np.concatenate(list(decode(place, wanted, flow_encodings.ENCODINGS[store.manifest["encoding"]])))
        fields = np.stack(np.split(pictures, [place.height], axis=1), axis=-1)
    except video.FAILURES as error:
        raise FlowError(f"{key}: its flow in {place.shard} cannot be read ({' '.join(str(error).split())})") from error
    return fields if np.array_equal(wanted, indices) else fields[places]


def decode(place, wanted, encoding):
    """Yields the pictures of the fields `wanted`, ascending, record by record."""
    numbers, starts = np.unique(wanted // place.length, return_index=True)
    data = reader(place.shard).read((place.first + numbers).tolist())
    for record, number, inside in zip(data, numbers, np.split(wanted, starts[1:]), strict=True):
        yield encoding.decode(record, inside - number * place.length)


@functools.lru_cache(maxsize=128)
def reader(path):
    """A shard's reader, one for all threads of a process."""
    from array_record.python.array_record_module import ArrayRecordReader

    return ArrayRecordReader(path, built.READER)


def verify(folder, *, workers=0, progress=None):
    """{file: what is wrong} of the shards whose bytes are not those that were built; {} where all are."""
    store = open(folder)
    entries = store.manifest["shards"]
    tasks = [{"path": os.path.join(store.folder, entry["file"]), "sha256": entry["sha256"]} for entry in entries]
    found = work.run(built.compare, tasks, workers=workers, progress=progress)
    return {entry["file"]: problem for entry, problem in zip(entries, found, strict=True) if problem}
