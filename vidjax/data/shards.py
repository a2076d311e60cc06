"""One shard of a built data set: an ArrayRecord file of encoded videos or of packed frames, and what is in it.

A shard appears whole or not at all: data and `shards/NAME.json`, its manifest, are written beside their names, synced
and renamed, the manifest last. Same rows, files and parameters give the same bytes (re-encoded ones as far as x264
does). Records are tf.Examples; where in a record the pixels or the file lie is kept, so that reading parses nothing.
"""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import tempfile

import av
import numpy as np

from vidjax.data import video

GOP, CRF = 12, 18  # of re-encoded videos: a keyframe every 12 pictures
BFRAMES = 3  # pictures that nothing refers to: a reader skips those it does not want
CHUNK = 2**26  # bytes of pictures decoded at a time
LIMIT = 2**31 - 2**16  # a tf.Example is smaller than 2 GiB
OPTIONS = {"video": "group_size:1,uncompressed", "frames": "group_size:1,uncompressed"}
FOLDER = "shards"  # where the manifests are, in the data set's folder
BASIC = ("id", "label", "num_frames", "fps", "width", "height")


class DiskFull(ValueError):
    """No space is left for a build; one sentence."""


def file_name(dataset, part, number, count):
    """A shard's name as TFDS names them."""
    return f"{dataset}-{part}.array_record-{number:05d}-of-{count:05d}"


def write(task):
    """Writes one shard of `build.plan`'s tasks: -> {file, videos, unreadable}, counts.

    A video that cannot be read is left out and listed with its reason in the shard's manifest. DiskFull.
    """
    out, name = pathlib.Path(task["out"]), task["file"]
    part, journal = out / f"{name}.{os.getpid()}.part", out / FOLDER / f"{name}.at"
    (out / FOLDER).mkdir(parents=True, exist_ok=True)
    try:
        rows, unreadable, records = write_records(task, part, journal)
        manifest = {"file": name, "fingerprint": task["fingerprint"], "records": records} | seal(part)
        os.replace(part, out / name)
        save(out / FOLDER / f"{name}.json", manifest | {"rows": rows, "unreadable": unreadable})
        journal.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:
        if not is_full(error):
            raise
        raise full(out) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
    return {"file": name, "videos": len(rows), "unreadable": len(unreadable)}


def full(out):
    """The sentence for a full disk."""
    return DiskFull(f"{out}: the disk is full: make room and run the same command again, finished shards are kept")


def is_full(error):
    """Whether an error, of whatever library, says that there is no room."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or os.strerror(errno.ENOSPC) in str(error)


def write_records(task, part, journal):
    """Writes a task's records to `part`: (index rows, unreadable ones, number of records)."""
    from array_record.python.array_record_module import ArrayRecordWriter

    add = {"video": add_video, "frames": add_frames}[task["store"]]
    serialize, rows, unreadable, count = serializer(task), [], [], 0
    writer = ArrayRecordWriter(os.fspath(part), OPTIONS[task["store"]])
    try:
        for row in task["rows"]:
            journal.write_text(row["id"], encoding="utf-8", errors="surrogateescape")
            error = task["skip"].get(row["id"])
            found = {"error": error, "passing": False} if error else attempt(add, row, task, writer, serialize)
            if "error" in found:
                unreadable.append({"id": row["id"]} | found)
                continue
            rows.append({"id": row["id"], "label": row["label"]} | found | {"position": count})
            count += found["records"]
    except BaseException:
        with contextlib.suppress(RuntimeError):
            writer.close()
        raise
    writer.close()
    return rows, unreadable, count


def attempt(add, row, task, writer, serialize):
    """The facts of a video whose records were added, or {error, passing}: why it cannot be read, and if that may pass.

    A full disk is not the video's fault and goes through.
    """
    try:
        return add(row, task, writer, serialize)
    except (video.VideoError, av.error.FFmpegError) as error:
        if is_full(error):
            raise
        return {"error": " ".join(str(error).split()), "passing": not os.path.exists(row["path"])}
    except OSError as error:
        if is_full(error):
            raise
        return {"error": f"{row['path']} cannot be opened: {error.strerror}", "passing": True}


def add_video(row, task, writer, serialize):
    """Adds a video's bytes, re-encoded where the task says so: its facts and where in the record they lie."""
    from vidjax.data.builders import frames, schema

    blob, sound = frames.encoded(row["path"]), False
    source = blob if os.path.isdir(row["path"]) else row["path"]
    facts = video.probe(source)
    if task["short_side"] or task["frame_stride"] > 1:
        sound = has_sound(source)
        with tempfile.TemporaryDirectory(".part", task["file"], task["out"]) as folder:
            path, rate = pathlib.Path(folder, "video.mp4"), facts["fps"] / task["frame_stride"]
            video.write(path, pictures(source, facts, task), fps=rate, crf=CRF, gop=GOP, bframes=BFRAMES)
            blob = path.read_bytes()
        facts = video.probe(blob)
    if len(blob) > LIMIT:
        raise video.VideoError(f"{row['path']}: {len(blob)} bytes are too many for a record: give short_side")
    record = serialize(schema.example(task["listing"], row, blob, facts))
    writer.write(record)
    place = {"records": 1, "offset": record.rindex(blob), "size": len(blob), "sound_lost": sound}
    return {key: facts[key] for key in BASIC[2:]} | place


def add_frames(row, task, writer, serialize):
    """Adds one record for each frame: the facts of what is stored. All frames are decoded before the first is added."""
    from vidjax.data.builders import frames

    source = frames.encoded(row["path"]) if os.path.isdir(row["path"]) else row["path"]
    facts, sound = video.probe(source), has_sound(source)
    with tempfile.TemporaryFile(dir=task["out"]) as spool:
        for count, picture in enumerate(pictures(source, facts, task), 1):  # noqa: B007
            spool.write(picture.data)
        spool.seek(0)
        for _ in range(count):
            pixels = spool.read(picture.nbytes)
            record = serialize({"frame": pixels})
            writer.write(record)
    height = picture.shape[0] if task["pixels"] == "rgb" else picture.shape[0] * 2 // 3
    place = {"records": count, "offset": len(record) - len(pixels), "size": len(pixels), "sound_lost": sound}
    fps = facts["fps"] / task["frame_stride"]
    return {"num_frames": count, "fps": fps, "width": picture.shape[1], "height": height} | place


def pictures(source, facts, task):
    """Yields every `frame_stride`-th frame of a video, never enlarged, decoded some CHUNK bytes at a time."""
    short_side = min(task["short_side"], facts["width"], facts["height"])
    scale = short_side / min(facts["width"], facts["height"]) if short_side else 1
    step = max(1, int(CHUNK / (facts["width"] * facts["height"] * scale**2 * 3)))
    numbers, pixels = range(0, facts["num_frames"], task["frame_stride"]), task.get("pixels", "rgb")
    key = hashlib.sha256(source).digest() if isinstance(source, bytes) else None
    for at in range(0, len(numbers), step):
        yield from video.read(source, numbers[at : at + step], short_side, pixels, key=key)


def has_sound(source):
    """Whether a video file comes with an audio stream."""
    if isinstance(source, bytes):
        return False  # made of pictures
    with av.open(f"file:{os.path.abspath(source)}", options=video.OPTIONS, **video.METADATA) as container:
        return bool(container.streams.audio)


def features(listing, store):
    """The TFDS features of a data set's records."""
    import tensorflow_datasets as tfds

    from vidjax.data.builders import schema

    if store == "frames":
        return tfds.features.FeaturesDict({"frame": tfds.features.Tensor(shape=(), dtype=np.object_)})
    return schema.features(listing)


def serializer(task):
    """A function example -> record bytes, the same in every process."""
    from tensorflow_datasets.core import example_serializer

    kind = features(task["listing"], task["store"])
    proto = example_serializer.ExampleSerializer(kind.get_serialized_info()).get_tf_example
    return lambda example: proto(kind.encode_example(example)).SerializeToString(deterministic=True)


def seal(path):
    """Brings a file safely to disk: {bytes, sha256}."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
        return {"bytes": file.tell(), "sha256": digest}


def agree(path, wanted, said):
    """Notes in `path` how a new folder is made; ValueError where it was begun otherwise (`said` is the verb)."""
    known = load(path)
    for key in wanted:
        if known and known.get(key) != wanted[key]:
            raise ValueError(
                f"{path.parent} {said} {key}={known.get(key)}, not {wanted[key]}: take another folder or remove it"
            )
    if not known:
        save(path, wanted)


def save(path, content):
    """Writes JSON so that `path` is whole at any moment and survives a power cut."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with part.open("w", encoding="utf-8", errors="surrogateescape") as file:
        json.dump(content, file, ensure_ascii=False, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def load(path):
    """What `save` wrote, or None where there is no such file or it is no JSON."""
    try:
        with path.open(encoding="utf-8", errors="surrogateescape") as file:
            return json.load(file)
    except (FileNotFoundError, ValueError):
        return None
