"""Classifiers without gradient descent: features of every video, made once, then a linear support vector machine.

Features are improved dense trajectories, encoded by words or Fisher vectors (Wang & Schmid 2013), or an activation of a
trained net, averaged over a protocol's clips (C3D's fc6), made here or before by `vidjax features`. Evaluation writes
the reports that nets get.
"""

import hashlib
import json
import logging
import os
import pathlib
import zipfile

import numpy as np

from vidjax import checkpoint, config, data, encoding, logs, report
from vidjax import features as nets
from vidjax.data import flow, handmade, modalities, stacking, work
from vidjax.evaluate import maps, results

log = logging.getLogger("vidjax")
IDT = {
    "short_side": 128,
    "flow": "dis",
    "camera": True,
    "scales": 3,
    "step": 5,
    "length": 15,
    "norm": "root",
    "most": 6000,
}
DEFAULTS = {
    "features": {"kind": "idt", "cache": "", "workers": 0, "path": "", "layer": ""} | IDT,
    "encode": {"kind": "fisher", "words": 64, "pca": 0.5, "samples": 100_000},
    "svm": {"c": 100.0, "pca": ()},
}


class FitError(RuntimeError):
    """Features or a classifier that cannot be made; the message says why."""


def fit(cfg, workdir):
    """Makes the features, fits on the `train` split, evaluates on `eval`; -> the report, with `page` and `example`.

    Writes `config.json`, `classifier.npz` and, with `svm.pca` dimensions, `pca_curve.json`; the report's page has a
    map of the features, and that curve.
    """
    os.makedirs(workdir, exist_ok=True)
    config.save(cfg, workdir)
    train, held_out = data.open_sources(cfg.data)
    x, y = features(cfg, train, workdir), labels(train)
    encoders = fit_encoders(cfg, x) if cfg.features.kind == "idt" else {}
    rows = vectors(encoders, x)
    fitted = {f"svm/{key}": value for key, value in encoding.fit_svm(rows, y, len(train.classes), cfg.svm.c).items()}
    for name, arrays in encoders.items():
        fitted |= {f"{name}/{key}": value for key, value in arrays.items()}
    results.save_arrays(os.path.join(workdir, "classifier.npz"), fitted)
    asked, curve = vectors(encoders, features(cfg, held_out, workdir)), {}
    if cfg.svm.pca:
        curve = pca_curve(rows, y, asked, labels(held_out), cfg.svm.pca, cfg.svm.c)
        report.save_json(pathlib.Path(workdir) / "pca_curve.json", curve)
        for dims, top1 in curve.items():
            log.info("%d principal components: top-1 %.1f %%", dims, 100 * top1)
    return write_report(cfg, workdir, fitted, held_out, asked, curve)


def run(cfg, workdir):
    """Evaluates a workdir's classifier again, on the `eval` split of a config; returns the report."""
    path = os.path.join(workdir, "classifier.npz")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            fitted = dict(arrays)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise FitError(f"{path} cannot be read ({error}); run vidjax fit again.") from None
    held_out, encoders = data.source(cfg.data, "eval"), {}
    for key, value in fitted.items():
        name, _, part = key.rpartition("/")
        if name != "svm":
            encoders.setdefault(name, {})[part] = value
    rows = vectors(encoders, features(cfg, held_out, workdir))
    return write_report(cfg, workdir, fitted, held_out, rows)


def write_report(cfg, workdir, fitted, source, rows, curve=None):
    """Scores a source's vectors (N, D) and writes its report, with a map of them and the curve of `pca_curve`."""
    svm = {key: fitted[f"svm/{key}"] for key in ("coef", "intercept")}
    if rows.shape[1] != svm["coef"].shape[1] or len(source.classes) != len(svm["coef"]):
        raise FitError(
            f"the classifier in {workdir} is for {svm['coef'].shape} classes and features, these are others."
        )
    cost = {"params": sum(value.size for value in fitted.values()), "gmac_per_view": 0.0}
    scores = encoding.softmax(encoding.margins(svm, rows))
    ids = [source[i]["id"] for i in range(len(source))]
    layer = cfg.features.layer or cfg.features.kind
    drawn = maps.feature_map(rows, labels(source), scores.argmax(1), ids, layer)
    how = {"cost": cost, "seconds": 0.0, "extra": {"feature_map": drawn, "pca_curve": curve}}
    return results.write(cfg, source, workdir, step=0, scores=scores, errors={}, **how)


def labels(source):
    """The labels of a source's videos: (N,). FitError where a video has several."""
    if source.multi_label:
        raise FitError(f"{source.name} has several labels a video; vidjax fit separates classes one video belongs to.")
    return np.array([source[i]["label"] for i in range(len(source))])


def features(cfg, source, workdir):
    """Features of every video in order: a list of {descriptor: (N, D)}, or (videos, D), a net's activation."""
    errors = [source[i]["error"] for i in range(len(source)) if source[i]["error"]]
    if errors:
        raise FitError(f"{len(errors)} videos cannot be read (first: {errors[0]}); repair or remove them.")
    if cfg.features.kind == "network":
        return network(cfg, source)
    if cfg.features.kind == "stored":
        return stored(cfg, source)
    if cfg.features.kind != "idt":
        raise FitError(f"config.features.kind is idt, network or stored, not {cfg.features.kind!r}.")
    cache = cfg.features.cache or os.path.join(workdir, "features")
    os.makedirs(cache, exist_ok=True)
    how = {key: cfg.features[key] for key in IDT}
    tag = hashlib.sha256(json.dumps(how, sort_keys=True).encode()).hexdigest()[:8]
    tasks = []
    for i in range(len(source)):
        record = source[i]
        known = f"{cfg.data.path} {record['id']} {record['num_frames']}"  # the same in every split
        stem = hashlib.sha256(known.encode()).hexdigest()[:20]
        tasks.append({"record": record, "out": f"{cache}/{stem}_{tag}.npz", "how": how})
    with logs.counter("dense trajectories") as progress:
        work.run(trajectories, tasks, workers=cfg.features.workers, progress=progress)
    return [dict(np.load(task["out"], allow_pickle=False)) for task in tasks]


def trajectories(task):
    """Writes one video's improved trajectories {trajectory, hog, hof, mbhx, mbhy} as a .npz, if it is not there."""
    if os.path.exists(task["out"]):
        return 0
    how, record = task["how"], task["record"]
    clip = modalities.decode(record, np.arange(record["num_frames"]), how["short_side"])
    fields = flow.estimate(clip, how["flow"])
    residual = stacking.stabilise(fields) if how["camera"] else None
    sampling = {key: how[key] for key in ("length", "step", "scales")}
    tracks = handmade.trajectories(clip, fields, residual, **sampling)
    kept = np.random.RandomState(0).permutation(len(tracks["start"]))[: how["most"]]
    tracks = {key: value[np.sort(kept)] for key, value in tracks.items()}
    found = handmade.describe(clip, fields if residual is None else residual, tracks, how["norm"])
    found = {key: value.astype(np.float16) for key, value in found.items()}
    results.save_arrays(task["out"], found)
    return len(kept)


def network(cfg, source):
    """A net's activation `features.layer`, the mean over its views and places scaled to length 1: (videos, D).

    Clips, modalities and crops are those that the net's own checkpoint names; `eval.protocol`, or the numbers of
    `eval.clips` and `crops`, take their place where the config has them. FitError if a video cannot be read.
    """
    own = config.from_dict(checkpoint.read_meta(cfg.features.path)["config"])
    own.eval.allow_bad = False
    own.eval.update({key: cfg.eval[key] for key in ("clips", "crops") if cfg.eval[key]})
    with own.unlocked():
        own.mesh = cfg.get("mesh", {"data": -1})
        if cfg.eval.get("protocol"):
            own.eval.protocol = cfg.eval.protocol
    found, errors, _ = nets.of_net(own, cfg.features.path, source, cfg.features.layer)
    if errors:
        raise FitError(f"{len(errors)} videos cannot be read (first: {next(iter(errors.values()))}); remove them.")
    return encoding.unit(found[cfg.features.layer])


def stored(cfg, source):
    """Rows of the folder `features.path`, which `vidjax features` wrote, scaled to length 1: (videos, D).

    Of a folder with rows for windows the mean of each video's.
    """
    rows, folder = {}, pathlib.Path(cfg.features.path)
    for split in ("train", "eval"):
        if (folder / f"{split}.json").exists():
            arrays, _ = nets.read(folder, split, cfg.features.layer)
            rows |= nets.per_video(arrays["id"], arrays["features"].reshape(len(arrays["id"]), -1))
    ids = [source[i]["id"] for i in range(len(source))]
    if lost := [name for name in ids if name not in rows]:
        raise FitError(
            f"{folder} has no features of {len(lost)} videos (first: {lost[0]}); run vidjax features with --split=train"
            " and with --split=eval."
        )
    return encoding.unit(np.stack([rows[name] for name in ids]))


def fit_encoders(cfg, videos):
    """For each kind of descriptor its principal components and codebook: {descriptor: {mean, axes, ...}}."""
    rng, encode, fitted = np.random.RandomState(cfg.get("seed", 0)), cfg.encode, {}
    for name in videos[0]:
        share = encode.samples // len(videos) + 1
        drawn = [v[name][rng.permutation(len(v[name]))[:share]] for v in videos]
        x = np.concatenate(drawn).astype(np.float64)
        pca = encoding.fit_pca(x, round(encode.pca * x.shape[1])) if encode.pca else {}
        x = encoding.project(pca, x) if pca else x
        fitted[name] = pca | encoding.fit_codebook(x, encode.kind, encode.words)
        log.info("%s: %s of %d words from %d features", name, encode.kind, encode.words, len(x))
    return fitted


def vectors(encoders, videos):
    """One row per video: the encodings of its descriptors side by side, (N, D); without encoders, rows as they are."""
    if not encoders:
        return np.asarray(videos, np.float64)
    rows = []
    for found in videos:
        parts = []
        for name, arrays in encoders.items():
            x = found[name].astype(np.float64)
            pca = {key: arrays[key] for key in ("mean", "axes") if key in arrays}
            x = encoding.project(pca, x) if pca else x
            parts.append(encoding.encode({key: v for key, v in arrays.items() if key not in pca}, x))
        rows.append(np.concatenate(parts))
    return encoding.unit(np.array(rows))


def pca_curve(x, y, held_out, truth, dims, c):
    """Top-1 of a linear SVM on so many principal components of the training rows: {dims: top1} (C3D, figure 5)."""
    curve = {}
    for d in dims:
        if d > min(x.shape):
            log.warning("%d training videos with %d features have no %d principal components", *x.shape, d)
            continue
        pca = encoding.fit_pca(x, d)
        seen, asked = (encoding.unit(encoding.project(pca, rows)) for rows in (x, held_out))
        svm = encoding.fit_svm(seen, y, int(max(y.max(), truth.max())) + 1, c)
        curve[int(d)] = float((encoding.margins(svm, asked).argmax(1) == truth).mean())
    return curve
