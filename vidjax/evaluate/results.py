"""What an evaluation leaves behind: the report, its page, the scores of every video."""

import datetime
import os

import jax
import numpy as np

import vidjax
from vidjax import config, report
from vidjax.data import clips, modalities
from vidjax.evaluate.errors import EvaluationError
from vidjax.evaluate.figures import counted, label_array, metrics


def write(cfg, source, workdir, *, step, scores, errors, cost, seconds):
    """Writes `report_<step>.json`, `.html` and `scores_<step>.npz` of scores (N, C); returns the report.

    A named protocol is part of the files' names, and so is `eval.split` where it is not the evaluation's. `errors` are
    {index: why} of videos without a score, `cost` {params, gmac_per_view}. Process 0's has also `page`, the path of the
    page, and `example`, a video's.
    """
    records = [source[i] for i in range(len(source)) if i not in errors]
    if not records:
        raise EvaluationError(f"no video of {source.name} could be read: there is nothing to evaluate.")
    kept = np.delete(scores, list(errors), 0)
    labels = label_array(records, source)
    result = summary(cfg, source, step, kept, labels, records, errors) | {
        "seconds": seconds,
        "videos_per_second": len(records) / max(seconds, 1e-9),
    }
    result["model"] |= cost
    if jax.process_index() == 0:
        name = report.name(step, cfg.eval.get("protocol"), result["data"]["split"])
        save_scores(workdir, name, kept, labels, [record["id"] for record in records])
        page = report.write(workdir, result, strips(result["mistakes"], records))
        result |= {"page": page, "example": records[0].get("path", "MY_VIDEO.mp4")}
    return result


def summary(cfg, source, step, scores, labels, records, errors):
    """The report of `report.write`, from the scores (N, C) of the readable videos."""
    names, found, views = source.classes, metrics(scores, labels), cfg.eval
    predicted = scores.argmax(1)
    labels = counted(scores, labels)
    wrong = np.flatnonzero(predicted != labels)
    wrong = wrong[np.argsort(-scores[wrong, predicted[wrong]], kind="stable")][:12]
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
            "split": views.get("split", "eval"),
            "path": cfg.data.get("path") or cfg.data.get("motion", {}).get("out", ""),
            "videos": len(records),
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
        "chance": 1 / len(names),
        **{key: found[key] for key in ("top1", "top5", "loss", "mean_class", "confusion")},
        "per_class": [
            {"name": name, "videos": v, "correct": c, "accuracy": a}
            for name, v, c, a in zip(names, found["videos"], found["correct"], found["accuracy"], strict=True)
        ],
        "mistakes": [
            {
                "id": records[i]["id"],
                "label": names[labels[i]],
                "predicted": names[predicted[i]],
                "probability": float(scores[i, predicted[i]]),
            }
            for i in wrong
        ],
    }


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
    return f"top-1 {result['top1']:.1%}{top5} of {result['data']['videos']} videos ({shown})"


def strips(mistakes, records):
    """Eight evenly spaced frames of each mistaken video, 96 pixels on the short side: {id: uint8 (8, H, W, 3)}."""
    by_id = {record["id"]: record for record in records}
    wanted = [by_id[mistake["id"]] for mistake in mistakes]
    return {r["id"]: modalities.decode(r, clips.evenly_spaced(r["num_frames"], 8), 96) for r in wanted}
