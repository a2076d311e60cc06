"""A trained net's features of whole data sets: one row of an activation per video, with a manifest of where from."""

import functools
import hashlib
import json
import os
import pathlib

import jax
import numpy as np

from vidjax import checkpoint, data, evaluate, inputs, models, report, sharding
from vidjax.evaluate import figures, results


class FeaturesError(RuntimeError):
    """Features that cannot be made or read; the message says why."""


def of_net(cfg, path, source, layer, step=None):
    """An activation of the net in a run, the mean over each video's views: ((N, D) float32, {index: error}, step).

    `cfg` is the net's own config with what is changed of it; rows are in the source's order, those of videos that
    cannot be read are 0.
    """
    mesh = sharding.make_mesh(**cfg.get("mesh", {"data": -1}))
    places = functools.partial(sharding.shardings, mesh=mesh, rules=sharding.rules("replicate"))
    variables, meta, step = checkpoint.load_variables(path, step=step, shardings=places)
    net = models.build(cfg.model, num_classes=len(meta["class_names"]))
    flow_net = inputs.load_net(data.options(cfg.data), sharding.replicated(mesh))
    evaluator = evaluate.Evaluator(cfg, net, mesh, places(variables), source, flow_net, feature=layer)
    found, errors = evaluator.scores(variables)
    return found, errors, step


def write(cfg, workdir, out, layer="pre_logits", split="eval", step=None):
    """Writes `OUT/SPLIT.npz` {features (N, D), labels (N,), ids (N,)} and `OUT/SPLIT.json`, its manifest; -> that.

    `cfg` is that of the run in `workdir`, with what a user changed; classes are those of the data, whatever the net's.
    Videos that cannot be read are left out and named in the manifest.
    """
    cfg = cfg.copy_and_resolve_references()
    with cfg.unlocked():
        cfg.data.classes, cfg.eval.allow_bad = (), True
    source = data.source(cfg.data, split)
    found, errors, step = of_net(cfg, workdir, source, layer, step)
    kept = [i for i in range(len(source)) if i not in errors]
    if not kept:
        raise FeaturesError(f"no video of {source.name} could be read: there are no features to write.")
    records = [source[i] for i in kept]
    manifest = {
        "run": os.fspath(workdir),
        "step": int(step),
        "model": cfg.model.to_dict(),
        "layer": layer,
        "shape": [len(kept), found.shape[1]],
        "data": {"name": source.name, "path": cfg.data.path, "split": split},
        "views": {key: cfg.eval.get(key) for key in ("protocol", "clips", "crops", "size") if cfg.eval.get(key)},
        "clip": cfg.data.clip.to_dict(),
        "classes": list(source.classes),
        "unreadable": {source[i]["id"]: why for i, why in errors.items()},
    }
    if jax.process_index() == 0:
        os.makedirs(out, exist_ok=True)
        arrays = {"features": found[kept], "labels": figures.label_array(records, source)}
        path = pathlib.Path(out) / f"{split}.npz"
        results.save_arrays(path, arrays | {"ids": np.array([record["id"] for record in records])})
        manifest["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        report.save_json(path.with_suffix(".json"), manifest)
    return manifest


def read(folder, split):
    """({features, labels, ids}, manifest) of what `write` wrote; FeaturesError if it is missing, changed or damaged."""
    path = pathlib.Path(folder) / f"{split}.npz"
    try:
        manifest = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        raw = path.read_bytes()
        if hashlib.sha256(raw).hexdigest() != manifest["sha256"]:
            raise FeaturesError(f"{path} is not the file of its manifest; run vidjax features again.")
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays), manifest
    except (OSError, ValueError, KeyError) as error:
        raise FeaturesError(f"{path} cannot be read ({error}); run vidjax features again.") from error
