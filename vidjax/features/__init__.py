"""A trained net's features of videos: activations of its layers, a row for each video or window of time, on disk."""

import functools
import logging
import os
import pathlib

import jax
import numpy as np

import vidjax
from vidjax import checkpoint, data, evaluate, inputs, models, sharding
from vidjax.data import sources, video
from vidjax.evaluate import figures, jobs
from vidjax.features import store
from vidjax.features.store import FeaturesError
from vidjax.predict.outputs import printable

__all__ = ["FeaturesError", "fingerprint", "of_net", "of_windows", "per_video", "read", "save_windows", "write"]
log = logging.getLogger("vidjax")
COLUMNS = ("id", "path", "label", "window", "start", "end", "first_frame", "end_frame")  # beside the layers'
UNKNOWN = -1  # the label of a video without one


def of_net(cfg, path, source, layers, step=None, raw=False):
    """Activations of the net in a run, the mean over each video's views: ({layer: (N, C)}, {index: error}, meta).

    `cfg` is the net's own config with what is changed of it; rows are in the source's order, those of videos that
    cannot be read are 0. Of layers with places, times or tokens the mean over these is taken, unless `raw`.
    """
    mesh = sharding.make_mesh(**cfg.get("mesh", {"data": -1}))
    places = functools.partial(sharding.shardings, mesh=mesh, rules=sharding.rules("replicate"))
    variables, meta, _ = checkpoint.load_variables(path, step=step, shardings=places)
    net = models.build(cfg.model, num_classes=len(meta["class_names"]))
    flow_net = inputs.load_net(data.options(cfg.data), sharding.replicated(mesh))
    rows = tuple(source[i] | {"label": 0} for i in range(len(source)))  # activations of any data, whatever its labels
    unlabelled = sources.Videos(rows, source.classes, source.name)
    evaluator = evaluate.Evaluator(cfg, net, mesh, places(variables), unlabelled, flow_net, named(layers), raw)
    found, errors = evaluator.outputs(variables)
    return found["features"], errors, meta


def named(layers):
    """Names of layers as a tuple; FeaturesError for one that a column of another meaning is called."""
    layers = (layers,) if isinstance(layers, str) else tuple(dict.fromkeys(layers))
    if taken := [name for name in layers if name in COLUMNS]:
        raise FeaturesError(f"a layer called {taken[0]!r} cannot be written: that is the name of another column.")
    return layers


def write(cfg, workdir, out, layers="pre_logits", split="eval", step=None, form="npz", raw=False):
    """Writes a row for each video of a data set, the mean over its views, as OUT/SPLIT.*; -> the manifest.

    `cfg` is that of the run in `workdir`, with what a user changed; classes are those of the data, whatever the net's.
    Videos that cannot be read are left out and named in the manifest. All rows are held in memory.
    """
    cfg = cfg.copy_and_resolve_references()
    with cfg.unlocked():
        cfg.data.classes, cfg.eval.allow_bad = (), True
    store.writer(form)  # a mistake is told before the first video
    source = data.source(cfg.data, split)
    found, errors, meta = of_net(cfg, workdir, source, layers, step, raw)
    kept = [i for i in range(len(source)) if i not in errors]
    if not kept:
        raise FeaturesError(f"no video of {source.name} could be read: there are no features to write.")
    records = [source[i] for i in kept]
    about = of_run(meta, workdir, fingerprint(meta)) | of_source(source, cfg, split)
    about["views"] |= {key: cfg.eval.get(key) for key in ("protocol", "clips", "crops", "size") if cfg.eval.get(key)}
    about["unreadable"] = {source[i]["id"]: why for i, why in errors.items()}
    about |= {"rows_are": "videos", "raw": raw, "layers": list(named(layers)), "clip": cfg.data.clip.to_dict()}
    ends = [record["num_frames"] for record in records]
    rows = {
        "id": np.array([printable(record["id"]) for record in records]),
        "path": np.array([place(record.get("path")) for record in records]),
        "label": figures.label_array(records, source),
        "window": np.zeros(len(kept), np.int64),
        "start": np.zeros(len(kept), np.float32),
        "end": np.array([n / (r.get("fps") or 25) for n, r in zip(ends, records, strict=True)], np.float32),
        "first_frame": np.zeros(len(kept), np.int64),
        "end_frame": np.array(ends, np.int64),
    }
    rows |= {name: found[name][kept] for name in named(layers)}
    return store.save(out, split, [rows], about, form) if jax.process_index() == 0 else about | {"rows": len(kept)}


def place(path):
    """Where a file lies, for a column: its absolute path; nothing for a video in a shard."""
    return printable(os.path.abspath(path)) if path else ""


def of_windows(predictor, videos, layers="pre_logits", skip=None, **how):
    """Yields {column: array (W, ...)} for each video: its windows in time, with the COLUMNS and one for each layer.

    `videos` are [(path, id, label)]; for one that cannot be read `skip(id, error)` is called, if that is given, or the
    error raised. `how` are the arguments of `vidjax.predict.many.scored`: windows are those of `vidjax predict`.
    """
    found_each = predictor.many([path for path, *_ in videos], layers=named(layers), **how)
    for (path, name, label), (_, found) in zip(videos, found_each, strict=True):
        if isinstance(found, video.VideoError):
            if skip is None:
                raise found
            skip(name, found)
            continue
        count = len(found["start"])
        yield {
            "id": np.array([printable(name)] * count),
            "path": np.array([place(path)] * count),
            "label": np.repeat(np.asarray(label)[None], count, 0),
            "window": np.arange(count),
            "start": found["start"].astype(np.float32),
            "end": found["end"].astype(np.float32),
            "first_frame": found["frames"][:, 0].astype(np.int64),
            "end_frame": found["frames"][:, 1].astype(np.int64),
            **{layer: found["features"][layer] for layer in named(layers)},
        }


def save_windows(predictor, videos, out, name, about, layers="pre_logits", form="npz", **how):
    """Writes the rows of `of_windows` as OUT/NAME.*; -> the manifest. Videos that cannot be read are named in it.

    `about` is what else the manifest says: `of_run`, and which data. What an interrupted call of the same wrote in
    whole files of Parquet or ArrayRecord is not computed again.
    """
    about = about | {"rows_are": "windows", "raw": how.get("raw", False), "layers": list(named(layers))}
    about["windows"] = {key: how.get(key, "") for key in ("stride", "window")}
    about["clip"] = dict(predictor.section["clip"])
    asked = [(path, name, np.asarray(label).tolist()) for path, name, label in videos]
    journal = store.begun(out, name, [about, asked], form)
    about["unreadable"] = journal["unreadable"]
    if journal["done"]:
        log.info("%d of %d videos are done from before; going on after them.", journal["done"], len(videos))

    def skip(name, error):
        journal["unreadable"][name] = str(error)
        journal["done"] += 1

    def rows():
        for piece in of_windows(predictor, videos[journal["done"] :], layers, skip, **how):
            journal["done"] += 1
            yield piece
            del piece

    return store.save(out, name, rows(), about, form, journal)


def of_run(meta, weights, mark, reference="", classes=""):
    """What a manifest says of the net: {run, from, classes_file, step, weights, model, preprocess, version}.

    `mark` is the `fingerprint` of its variables.
    """
    return {
        "run": os.path.abspath(weights),
        "from": reference or "",
        "classes_file": os.path.abspath(classes) if classes else "",
        "step": meta.get("step"),
        "weights": mark,
        "model": meta["config"]["model"],
        "preprocess": meta["preprocess"],
        "version": vidjax.__version__,
    }


def of_source(source, cfg, split):
    """What a manifest says of a data set: {data, classes, views}."""
    where = {"name": source.name, "path": cfg.data.get("path", ""), "split": split}
    return {"data": where, "classes": list(source.classes), "views": {}}


def fingerprint(meta, variables=None):
    """Twelve hexadecimal digits of a net's weights: as checkpoints name them, or of the variables themselves."""
    if "checksums" not in meta:
        meta = {"checksums": checkpoint.checksums(checkpoint.flatten({"variables": variables}))}
    return jobs.fingerprint(meta)


def read(folder, name, layer=""):
    """({features (N, ...), id, path, label, window, start, end, ... (N,)}, manifest) of FOLDER/NAME.*, of any format.

    `features` are those of `layer`, by default the first that was written. FeaturesError if a file is missing, changed
    or damaged, or the layer was not written.
    """
    manifest = store.manifest_of(folder, name)
    layer = layer or manifest["layers"][0]
    if layer not in manifest["layers"]:
        there = ", ".join(manifest["layers"])
        raise FeaturesError(f"{pathlib.Path(folder) / name}.json has no layer {layer!r}, only {there}.")
    found = store.columns(folder, manifest, (*COLUMNS, layer))
    return {"features": found.pop(layer)} | found, manifest


def per_video(ids, features):
    """The mean of the rows (N, ...) of each video: {id: (...)}, in order."""
    names, places = np.unique(ids, return_inverse=True)
    total = np.zeros((len(names), *features.shape[1:]), np.float64)
    np.add.at(total, places, features)
    counts = np.bincount(places).reshape(-1, *[1] * (features.ndim - 1))
    return dict(zip(names.tolist(), (total / counts).astype(features.dtype), strict=True))
