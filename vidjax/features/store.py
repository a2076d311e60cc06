"""Rows of features on disk: .npz, Parquet or ArrayRecord files, whole or not at all, sealed by a manifest."""

import contextlib
import hashlib
import json
import os
import pathlib

import numpy as np

from vidjax.data import shards

BLOCK, SHARD = 8 << 20, 256 << 20  # bytes of rows written at a time, and of a file after which another begins
AGAIN = "run vidjax features again"
INSTALL = "Parquet files need the package pyarrow, which is not installed: pip install 'vidjax[search]'"


class FeaturesError(RuntimeError):
    """Features that cannot be made, written, read or searched; the message says why."""


def save(folder, name, rows, about, form="npz", journal=None):
    """Writes rows and, last, the manifest FOLDER/NAME.json that names and seals their files; -> the manifest.

    `rows` yields {column: array (n, ...)}, any n at a time; all columns are numbers of one shape or texts. They are
    written as they come: Parquet and ArrayRecord hold some BLOCK bytes in memory and begin a new file after SHARD, an
    .npz holds all until the end. No file has its name before the last row has come. `about` is what else the manifest
    says, read then. With a `journal` of `begun` finished files stay after an error, and count. FeaturesError if there
    are no rows, or no file can be written.
    """
    folder, write, done = pathlib.Path(folder), writer(form), journal or {"sealed": []}
    sealed, part = done["sealed"], None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for blocks in cut(blocked(rows), SHARD if form in SHARDED else float("inf")):
            part = folder / f".{name}.{form}.{len(sealed)}.part"
            columns, count = write(part, blocks)
            sealed.append({"part": part.name, "rows": count, "columns": columns} | shards.seal(part))
            if journal and form in SHARDED:
                shards.save(place(folder, name), journal)
        if not sealed:
            raise FeaturesError(f"no video could be read: there are no features to write to {folder}.")
        manifest = publish(folder, name, sealed, about | {"format": form, "columns": sealed[0]["columns"]})
        place(folder, name).unlink(missing_ok=True)
        return manifest
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not shards.is_full(error):
            raise
        reason = getattr(error, "strerror", None) or error
        raise FeaturesError(f"cannot write features to {folder}: {reason}; free it or take another.") from error
    finally:
        kept = {one["part"] for one in sealed} if journal and form in SHARDED else ()
        for path in folder.glob(f".{name}.{form}.*.part") if part else ():
            if path.name not in kept:
                path.unlink()


def begun(folder, name, key, form):
    """The journal of features that were begun and not finished: {key, done, unreadable, sealed}, for `save`.

    `key` is anything that tells one job from another: where there is no journal of the same, or a file of it was lost,
    nothing is `done`. It counts videos, readable or not, that need not be seen again.
    """
    folder, key = pathlib.Path(folder), hashlib.sha256(json.dumps([key, form]).encode()).hexdigest()
    found = shards.load(place(folder, name)) or {}
    with contextlib.suppress(OSError, KeyError, TypeError):
        if found["key"] == key and all(
            shards.seal(folder / x["part"])["sha256"] == x["sha256"] for x in found["sealed"]
        ):
            return found
    for one in found.get("sealed", ()):
        (folder / pathlib.PurePath(one["part"]).name).unlink(missing_ok=True)
    return {"key": key, "done": 0, "unreadable": {}, "sealed": []}


def place(folder, name):
    """Where the journal of unfinished features lies."""
    return pathlib.Path(folder) / f".{name}.begun"


def publish(folder, name, sealed, manifest):
    """Gives finished files their names, writes the manifest and removes the files of one that was there before."""
    before = shards.load(folder / f"{name}.json") or {}
    form, files = manifest["format"], []
    for number, one in enumerate(sealed):
        place = f"-{number:05d}-of-{len(sealed):05d}" if form in SHARDED else ""
        files.append({"file": f"{name}{place}.{form}", **{key: one[key] for key in ("rows", "bytes", "sha256")}})
        os.replace(folder / one["part"], folder / files[-1]["file"])
    manifest = manifest | {"rows": sum(one["rows"] for one in files), "files": files}
    shards.save(folder / f"{name}.json", manifest)
    for old in {one["file"] for one in before.get("files", ())} - {one["file"] for one in files}:
        (folder / pathlib.PurePath(old).name).unlink(missing_ok=True)
    return manifest


def manifest_of(folder, name):
    """The manifest FOLDER/NAME.json. FeaturesError where there is none."""
    path = pathlib.Path(folder) / f"{name}.json"
    found = shards.load(path)
    if not isinstance(found, dict) or not {"files", "columns", "layers", "format"} <= set(found):
        raise FeaturesError(f"{path} cannot be read as a manifest of features; {AGAIN}.")
    return found


def names(folder):
    """Names of the sets of features in a folder: those of its manifests, sorted."""
    found = sorted(path.stem for path in pathlib.Path(folder).glob("*.json"))
    return [name for name in found if "columns" in (shards.load(pathlib.Path(folder) / f"{name}.json") or {})]


def columns(folder, manifest, wanted):
    """Some columns of all files of a manifest: {name: (N, ...)}. FeaturesError for a lost, cut or changed file."""
    parts = []
    for entry in manifest["files"]:
        path = pathlib.Path(folder) / entry["file"]
        try:
            if shards.seal(path)["sha256"] != entry["sha256"]:
                raise FeaturesError(f"{path} is not the file of its manifest; {AGAIN}.")
            parts.append(READERS[manifest["format"]](path, {name: manifest["columns"][name] for name in wanted}))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FeaturesError(f"{path} cannot be read ({error}); {AGAIN}.") from error
    return {name: np.concatenate([part.pop(name) for part in parts]) for name in wanted}


def blocked(rows):
    """Joins rows that come in small pieces to blocks of BLOCK bytes."""
    waiting, held = [], 0
    for piece in rows:
        waiting.append(piece)
        held += size(piece)
        del piece
        if held >= BLOCK:
            yield joined(waiting)
            held = 0
    if waiting:
        yield joined(waiting)


def joined(pieces):
    """Pieces {column: (n, ...)} one behind the other; empties their list."""
    found = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    pieces.clear()
    return found


def size(piece):
    """Bytes of a piece."""
    return sum(x.nbytes for x in piece.values())


def cut(blocks, most):
    """Yields iterators over the blocks, each over those of `most` bytes or one more; each is to be used up."""

    def taken(first):
        done = size(first)
        yield first
        del first
        while done < most and (block := next(blocks, None)):
            done += size(block)
            yield block
            del block

    for first in blocks:
        one = taken(first)
        del first
        yield one


def described(block):
    """What the columns of a block are: {name: {dtype, shape}} of a row; texts have dtype str."""
    kind = lambda x: "str" if x.dtype.kind == "U" else str(x.dtype)  # noqa: E731
    return {name: {"dtype": kind(x), "shape": list(x.shape[1:])} for name, x in block.items()}


def write_npz(path, blocks):
    """Writes all blocks as one .npz: -> (columns, rows)."""
    kept = list(blocks)
    about, count = described(kept[0]), sum(len(next(iter(block.values()))) for block in kept)
    with open(path, "wb") as file:
        np.savez(file, **joined(kept))
    return about, count


def read_npz(path, about):
    """Some columns of an .npz."""
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in about}


def arrow():
    """pyarrow and its Parquet module; FeaturesError where they are not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise FeaturesError(f"{INSTALL}.") from error
    return pyarrow, pyarrow.parquet


def write_parquet(path, blocks):
    """Writes blocks as the row groups of a Parquet file: -> (columns, rows). Several numbers are a list, flattened."""
    pa, parquet = arrow()

    def cells(x):
        if x.dtype.kind == "U" or x.ndim == 1:
            return pa.array(x)
        return pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), int(np.prod(x.shape[1:])))

    about, count, file = {}, 0, None
    try:
        for block in blocks:
            about = about or described(block)
            table = pa.table({name: cells(x) for name, x in block.items()})
            texts = [name for name, one in about.items() if one["dtype"] == "str"]
            file = file or parquet.ParquetWriter(path, table.schema, use_dictionary=texts)
            file.write_table(table)
            count += table.num_rows
            del block, table
    finally:
        if file:
            file.close()
    return about, count


def read_parquet(path, about):
    """Some columns of a Parquet file."""
    _, parquet = arrow()
    table, found = parquet.read_table(path, columns=list(about)), {}
    for name, one in about.items():
        cells = table[name].combine_chunks()
        if one["dtype"] == "str":
            found[name] = np.array(cells.to_pylist(), np.str_)
        else:
            flat = (cells.flatten() if one["shape"] else cells).to_numpy()
            found[name] = flat.reshape(len(cells), *one["shape"]).astype(one["dtype"], copy=False)
    return found


def write_records(path, blocks):
    """Writes each row as a tf.Example of an ArrayRecord file: -> (columns, rows). Several numbers are flattened."""
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

    def feature(value):
        match value.dtype.kind:
            case "U":
                return tf_feature_pb2.Feature(bytes_list={"value": [str(value).encode()]})
            case "f":
                return tf_feature_pb2.Feature(float_list={"value": value.reshape(-1)})
        return tf_feature_pb2.Feature(int64_list={"value": value.reshape(-1)})

    about, count, file = {}, 0, ArrayRecordWriter(os.fspath(path), "group_size:1,uncompressed")
    try:
        for block in blocks:
            about = about or described(block)
            for i in range(len(next(iter(block.values())))):
                row = {name: feature(x[i]) for name, x in block.items()}
                example = tf_example_pb2.Example(features=tf_feature_pb2.Features(feature=row))
                file.write(example.SerializeToString(deterministic=True))
                count += 1
            del block
    finally:
        file.close()
    return about, count


def read_records(path, about):
    """Some columns of an ArrayRecord file of tf.Examples."""
    from array_record.python.array_record_module import ArrayRecordReader
    from tensorflow_datasets.proto import tf_example_pb2

    file, found = ArrayRecordReader(os.fspath(path)), {name: [] for name in about}
    for raw in file.read_all():
        row = tf_example_pb2.Example.FromString(raw).features.feature
        for name, one in about.items():
            kind = row[name].WhichOneof("kind")
            value = getattr(row[name], kind).value
            found[name].append(value[0].decode() if kind == "bytes_list" else np.array(value).reshape(one["shape"]))
    file.close()
    dtypes = {name: np.str_ if one["dtype"] == "str" else one["dtype"] for name, one in about.items()}
    return {name: np.array(values, dtypes[name]) for name, values in found.items()}


SHARDED = ("parquet", "array_record")
WRITERS = {"npz": write_npz, "parquet": write_parquet, "array_record": write_records}
READERS = {"npz": read_npz, "parquet": read_parquet, "array_record": read_records}


def writer(form):
    """The function that writes a file of a format; FeaturesError for an unknown one, or where its package lacks."""
    if form not in WRITERS:
        raise FeaturesError(f"there is no format {form!r} of features; take {', '.join(WRITERS)}.")
    if form == "parquet":
        arrow()
    return WRITERS[form]
