"""What an evaluation leaves behind: the report, its page, the scores of every video."""

import datetime
import os

import jax
import numpy as np

import vidjax
from vidjax import config, report
from vidjax.data import clips as sampling
from vidjax.data import modalities
from vidjax.evaluate import intervals, origins
from vidjax.evaluate.errors import EvaluationError
from vidjax.evaluate.figures import counted, further, label_array, metrics

FRAMES, SHORT_SIDE = 32, 160  # of a mistaken video's clip on the page, and its pixels


def write(cfg, source, workdir, *, step, scores, errors, cost, seconds, out="", clips=None, repeated=0, extra=None):
    """Writes `report_<step>.json`, `.html` and `scores_<step>.npz` of scores (N, C) into `out`; returns the report.

    A named protocol, `eval.split` where it is not the evaluation's, and another data set's name are part of the files'
    names; `out` is by default the workdir, whose learning curves and recipe the report has. `errors` are {index: why}
    of videos without a score, `cost` {params, gmac_per_view}, `clips` (N, 3) those of `evaluate.clip_hits`, `repeated`
    the videos that an earlier job scored, `extra` what else the report has: `weights`, the fingerprint of the
    checkpoint, `feature_map`, `pca_curve`. Process 0's report has also
    `page`, the path of the page, and `example`, a video's.
    """
    records = [source[i] for i in range(len(source)) if i not in errors]
    if not records:
        raise EvaluationError(f"no video of {source.name} could be read: there is nothing to evaluate.")
    kept = np.delete(scores, list(errors), 0)
    clips = None if clips is None else np.delete(clips, list(errors), 0)
    labels = label_array(records, source)
    result = summary(cfg, source, step, kept, labels, records, errors, clips)
    result |= {"weights": "", "seconds": seconds} | (extra or {})
    result |= speed(clips, len(records) - repeated, seconds, cfg.eval.crops)
    result["model"] |= cost
    if jax.process_index() == 0:
        result |= {"intervals": intervals.intervals(kept, labels)} | origins.of(workdir, result, cfg)
        out, name = out or workdir, name_of(result)
        save_scores(out, name, kept, labels, [record["id"] for record in records])
        page = report.write(out, result, strips(result["mistakes"], records))
        result |= {"page": page, "example": records[0].get("path", "MY_VIDEO.mp4")}
    return result


def name_of(result):
    """What a report's files are called after `report_` and `scores_`."""
    data = result["data"]
    return report.name(result["step"], result["views"].get("protocol"), data["split"], data.get("set"))


def speed(clips, videos, seconds, crops):
    """{videos_per_second, throughput: {videos_per_second, views_per_second, seconds}}; None where nothing was timed."""
    rate = videos / seconds if seconds > 0 and videos > 0 else None
    views = None if clips is None or rate is None else rate * crops * float(clips[:, 2].mean())
    timed = {"videos_per_second": rate, "views_per_second": views, "seconds": seconds}
    return {"videos_per_second": rate or 0.0, "throughput": timed}


def summary(cfg, source, step, scores, labels, records, errors, clips=None):
    """The report of `report.write`, from the scores (N, C) of the readable videos."""
    names, views = source.classes, cfg.eval
    found = metrics(scores, labels) | further(scores, labels, clips)
    rows = zip(*(found[key] for key in ("videos", "correct", "accuracy", "average_precision")), strict=True)
    return {
        "step": step,
        "version": vidjax.__version__,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "model": {"name": cfg.model.name, "variant": cfg.model.variant},
        "config": cfg.to_dict(),
        "config_hash": config.digest(cfg),
        "class_names": list(names),
        "data": {
            "name": source.name,
            "set": views.get("set", ""),
            "split": views.get("split", "eval"),
            "path": cfg.data.get("path") or cfg.data.get("motion", {}).get("out", ""),
            "videos": len(records),
            "expected": getattr(source, "expected", 0) or None,
            "found": len(source),
            "bad": [{"id": source[i]["id"], "error": error} for i, error in errors.items()],
            "per_class": found["videos"],
        },
        "views": {
            "frames": cfg.data.clip.size,
            "stride": cfg.data.clip.stride,
            "sampler": cfg.data.clip.sampler,
            "protocol": views.get("protocol", ""),
            "clips": views.clips,
            "crops": views.crops,
            "size": views.size,
            "average": views.average,
        },
        "multi_label": source.multi_label,
        "chance": 1 / len(names),
        **{key: found[key] for key in ("top1", "top5", "loss", "mean_class", "map", "auc", "ece")},
        **{key: found[key] for key in ("calibration", "hit", "confusion")},
        "per_class": [
            {"name": name, "videos": v, "correct": c, "accuracy": a, "average_precision": p}
            for name, (v, c, a, p) in zip(names, rows, strict=True)
        ],
        "mistakes": mistakes(scores, counted(scores, labels), names, records),
    }


def mistakes(scores, labels, names, records):
    """The twelve videos that the net was surest of and wrong: [{id, label, predicted, probability}]."""
    predicted = scores.argmax(1)
    wrong = np.flatnonzero(predicted != labels)
    wrong = wrong[np.argsort(-scores[wrong, predicted[wrong]], kind="stable")][:12]
    return [
        {
            "id": records[i]["id"],
            "label": names[labels[i]],
            "predicted": names[predicted[i]],
            "probability": float(scores[i, predicted[i]]),
        }
        for i in wrong
    ]


def save_scores(workdir, name, scores, labels, ids):
    """Writes `scores_<name>.npz` {scores (N, C), labels (N,) or (N, C), ids (N,)}, whole or not at all."""
    path = os.path.join(workdir, f"scores_{name}.npz")
    save_arrays(path, {"scores": scores, "labels": labels, "ids": np.array(ids)})


def save_arrays(path, arrays):
    """Writes arrays by name as a .npz, whole or not at all; EvaluationError names the file that cannot be written."""
    fresh = f"{path}.{os.getpid()}.tmp"
    try:
        with open(fresh, "wb") as file:
            np.savez(file, **arrays)
        os.replace(fresh, path)
    except OSError as error:
        raise EvaluationError(f"cannot write {path}: {error.strerror}; free space there and run again.") from error


def headline(result):
    """A report's figures in one line, with their views."""
    top5 = f", top-5 {result['top5']:.1%}" if result["top5"] is not None else ""
    shown = f"{report.views(result['views'])}; chance {result['chance']:.1%}"
    if result.get("multi_label"):
        return f"mAP {result['map'] or 0:.1%} of {result['data']['videos']} videos ({report.views(result['views'])})"
    return f"top-1 {result['top1']:.1%}{top5} of {result['data']['videos']} videos ({shown})"


def strips(mistakes, records):
    """FRAMES evenly spaced frames of each mistaken video, or all of a shorter one: {id: uint8 (n, H, W, 3)}."""
    by_id = {record["id"]: record for record in records}
    wanted = [by_id[mistake["id"]] for mistake in mistakes]
    taken = {r["id"]: sampling.evenly_spaced(r["num_frames"], min(FRAMES, r["num_frames"])) for r in wanted}
    return {r["id"]: modalities.decode(r, taken[r["id"]], SHORT_SIDE) for r in wanted}
