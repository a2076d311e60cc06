"""`vidjax features`: whose features, of which videos, written where."""

import contextlib
import os
import sys

from vidjax import data, features, logs
from vidjax.evaluate import figures
from vidjax.features import store
from vidjax.features.store import FeaturesError
from vidjax.predict import windows

NAME = "videos"  # of the set that videos without a data set make


def of_files(predictor, found, paths, values):
    """Writes the features of the videos `found` {path: name} as OUT/videos.*; -> the manifest."""
    about = {"data": {"name": NAME, "path": [os.path.abspath(path) for path in paths]}, "classes": []}
    videos = [(path, path, features.UNKNOWN) for path in found]
    return of_videos(predictor, videos, NAME, about, values)


def of_data(predictor, cfg, values):
    """Writes the features of the windows of a data set's split as OUT/SPLIT.*; -> the manifest."""
    cfg = cfg.copy_and_resolve_references()
    with cfg.unlocked():
        cfg.data.classes = ()
    source = data.source(cfg.data, values.split)
    records = [source[i] for i in range(len(source))]
    if any("path" not in record for record in records):
        raise FeaturesError(f"{source.name} has no video files of its own: leave --windows out.")
    labels = figures.label_array(records, source)
    videos = [(record["path"], record["id"], label) for record, label in zip(records, labels, strict=True)]
    return of_videos(predictor, videos, values.split, features.of_source(source, cfg, values.split), values)


def of_videos(predictor, videos, name, about, values):
    """Writes the features of `videos` [(path, id, label)] as the command's flags say; -> the manifest."""
    for text, flag in ((values.stride, "stride"), (values.window, "window")):
        windows.frames(text, 25, flag)  # a mistake is told before the first video
    store.writer(values.format)
    mark = features.fingerprint(predictor.meta, predictor.variables)
    weights = values.weights or values.workdir
    about = about | features.of_run(predictor.meta, weights, mark, values["from"].value, values.classes)
    with contextlib.ExitStack() as stack:
        advance = stack.enter_context(logs.counter("features", "windows"))
        how = {"stride": values.stride, "window": values.window, "threads": values.threads, "raw": values.raw}
        how |= {"layers": values.layer, "form": values.format, "progress": advance}
        return features.save_windows(predictor, videos, values.out, name, about, **how)


def tell(manifest, out, name):
    """Prints what was written, and on stderr the videos that were left out; -> how many these are.

    Nothing in the processes of a run that leave the files to the first.
    """
    if "files" not in manifest:
        return len(manifest["unreadable"])
    for why in manifest["unreadable"].values():
        print(f"skipped {why}", file=sys.stderr)
    files = manifest["files"]
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    shapes = [" x ".join(map(str, manifest["columns"][layer]["shape"])) or "1" for layer in manifest["layers"]]
    each = ", ".join(f"{shape} of {layer}" for shape, layer in zip(shapes, manifest["layers"], strict=True))
    print(
        f"wrote    {os.path.join(out, files[0]['file'])}{more}: {manifest['rows']} {manifest['rows_are']}, each {each}"
    )
    print(f"manifest {os.path.join(out, name)}.json")
    return len(manifest["unreadable"])
