"""Late fusion: the score files of several evaluations of the same videos, averaged or given to a linear classifier."""

import json
import logging
import os
import pathlib
import zipfile

import numpy as np

from vidjax import encoding, report
from vidjax.evaluate import figures, results

log = logging.getLogger("vidjax")


class FusionError(ValueError):
    """Scores that cannot be fused; the message names the file."""


def fuse(paths, *, weights=(), svm=False, c=1.0):
    """Scores of several models on the videos that all have: {scores (N, C), labels, ids, each: [top-1]} and metrics.

    A path is a workdir (its newest scores) or a `scores_*.npz`. Each model's rows are made to sum to 1, negatives set
    to 0, and averaged by `weights`, equal by default. With `svm` they are L2-normalised, stacked, and classified by a
    linear support vector machine fitted on the models' training scores (`vidjax eval --split=train`), as two-stream
    nets do (Simonyan & Zisserman 2014, section 5). Raises FusionError.
    """
    found = [load(path) for path in paths]
    if len(found) < 2:
        raise FusionError("fusion needs two models at least; give two workdirs or score files.")
    ids, labels = align(found, paths)
    scores = [shares(one["scores"][one["rows"]]) for one in found]
    if svm:
        train = [load(path, "train") for path in paths]
        _, truth = align(train, paths)
        stack = lambda all_of_them: np.concatenate([encoding.unit(each) for each in all_of_them], 1)  # noqa: E731
        seen = stack([one["scores"][one["rows"]] for one in train])
        fitted = encoding.fit_svm(seen, truth, scores[0].shape[1], c)
        fused = encoding.softmax(encoding.margins(fitted, stack([one["scores"][one["rows"]] for one in found])))
    else:
        weights = list(weights) or [1.0] * len(found)
        if len(weights) != len(found) or min(weights) < 0 or not sum(weights):
            raise FusionError(f"--weights needs {len(found)} numbers, none negative, got {weights}.")
        fused = sum(w * each for w, each in zip(weights, scores, strict=True)) / sum(weights)
    each = [float(figures.metrics(one, labels)["top1"]) for one in scores]
    return {"scores": fused, "labels": labels, "ids": ids, "each": each} | figures.metrics(fused, labels)


def load(path, split="eval"):
    """{scores, labels, ids} of a score file, or of the newest of a split in a workdir."""
    path = pathlib.Path(path)
    if path.is_dir():
        found = [p for p in path.glob("scores_*.npz") if of_split(p, split)]
        if not found:
            how = f"vidjax eval --workdir={path}" + (" --split=train" if split == "train" else "")
            raise FusionError(f"there are no {split} scores in {path}: run {how}.")
        path = max(found, key=lambda p: p.stat().st_mtime)
    elif split == "train":
        raise FusionError(f"{path} has no training scores beside it; give workdirs to fuse by a classifier.")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {key: arrays[key] for key in ("scores", "labels", "ids")}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise FusionError(f"{path} is no score file of vidjax eval: {error}") from None
    return found | {"path": str(path)}


def of_split(path, split):
    """Whether a score file is of a split of the run's own data, by the report beside it, or by its name without one."""
    beside = path.with_name(path.stem.replace("scores_", "report_", 1) + ".json")
    try:
        data = json.loads(beside.read_text(encoding="utf-8"))["data"]
        return data["split"] == split and not data.get("set")
    except (OSError, ValueError, KeyError, TypeError):
        return (path.stem.rpartition("_")[2] == "train") == (split == "train")


def align(found, paths):
    """The videos that every model has, in the first one's order: (ids, labels); adds `rows` to each."""
    common = set.intersection(*({*one["ids"].tolist()} for one in found))
    ids = [name for name in found[0]["ids"].tolist() if name in common]
    if not ids:
        raise FusionError(f"{' and '.join(map(str, paths))} have no video in common.")
    for one in found:
        place = {name: i for i, name in enumerate(one["ids"].tolist())}
        one["rows"] = np.array([place[name] for name in ids])
        if one["scores"].shape[1] != found[0]["scores"].shape[1]:
            raise FusionError(f"{one['path']} has {one['scores'].shape[1]} classes, {found[0]['path']} another number.")
        if not np.array_equal(one["labels"][one["rows"]], found[0]["labels"][found[0]["rows"]]):
            raise FusionError(f"{one['path']} and {found[0]['path']} give other labels to the same videos.")
        if len(ids) < len(one["ids"]):
            log.warning("%s: %d of %d videos are in all files", one["path"], len(ids), len(one["ids"]))
    return np.array(ids), found[0]["labels"][found[0]["rows"]]


def shares(scores):
    """Rows that sum to 1, negatives set to 0: (N, C) -> same."""
    scores = np.maximum(scores.astype(np.float64), 0)
    return scores / np.maximum(scores.sum(1, keepdims=True), 1e-12)


def save(result, out, paths, how):
    """Writes `scores_fused.npz` and `fusion.json` into the folder `out`."""
    os.makedirs(out, exist_ok=True)
    results.save_scores(out, "fused", result["scores"], result["labels"], result["ids"].tolist())
    kept = {key: result[key] for key in ("top1", "top5", "loss", "mean_class", "accuracy", "videos", "confusion")}
    report.save_json(pathlib.Path(out) / "fusion.json", {"models": list(map(str, paths)), "how": how} | kept)


def describe(result, paths):
    """The lines that `vidjax fuse` prints: each model, then all together."""
    lines = [f"  {top1:7.2%}  {path}" for top1, path in zip(result["each"], paths, strict=True)]
    return "\n".join([*lines, f"  {result['top1']:7.2%}  fused, top-1 of {len(result['labels'])} videos"])
