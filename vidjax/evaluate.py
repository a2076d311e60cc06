"""Evaluation: the same compiled step, sums and report inside training and in a job of its own."""

import contextlib
import datetime
import functools
import logging
import os
import time

import jax
import jax.numpy as jnp
import numpy as np

import vidjax
from vidjax import checkpoint, config, data, inputs, logs, models, report, sharding
from vidjax.data import clips, modalities, protocols

log = logging.getLogger("vidjax")
RGB = inputs.preparer(data.options({}))  # clips of pixels alone


class EvaluationError(RuntimeError):
    """An evaluation that cannot give an honest number; the message says why."""


def eval_step(variables, batch, net=None, *, model, average, prepare=RGB, multi_label=False, tasks=(), feature=""):
    """Scores of each video: {inputs {key: (B, V, ...)}, view_mask (B, V), mask (B,)} -> {scores (B, C), mask (B,)}.

    The mean over a video's views, those of `view_mask` 1, is of their probabilities (`average` "prob") or of their
    logits ("logit"). Probabilities are a softmax, of the own classes in a mixture, or of each class if `multi_label`.
    With `feature` the scores are the mean of that activation, flattened.
    """
    b, v = batch["view_mask"].shape
    views = jax.tree.map(lambda x: x.reshape(b * v, *x.shape[2:]), batch["inputs"])
    logits, out = model.apply(variables, prepare(views, net), train=False)
    share = batch["view_mask"] / jnp.maximum(batch["view_mask"].sum(1, keepdims=True), 1)
    mean = lambda x: jnp.sum(jnp.where(share[..., None] > 0, x * share[..., None], 0), 1)  # noqa: E731
    if feature:
        if feature not in out:
            raise EvaluationError(f"the model has no activation {feature!r}; there are {', '.join(out)}.")
        return {"scores": mean(out[feature].astype(jnp.float32).reshape(b, v, -1)), "mask": batch["mask"]}
    logits = logits.reshape(b, v, -1)
    if tasks:
        logits = jnp.where(jnp.array(tasks)[None, None] == batch["task"][:, None, None], logits, -jnp.inf)
    squash = jax.nn.sigmoid if multi_label else jax.nn.softmax
    scores = mean(squash(logits)) if average == "prob" else squash(mean(logits))
    return {"scores": scores, "mask": batch["mask"]}


def make_step(cfg, model, mesh, places, source, feature=""):
    """The compiled evaluation step; every process gets the whole batch's scores."""
    if not feature and cfg.eval.average not in ("prob", "logit"):
        raise ValueError(f"config.eval.average '{cfg.eval.average}' is unknown; choose prob or logit.")
    step = functools.partial(
        eval_step,
        model=model,
        average=cfg.eval.average,
        prepare=inputs.preparer(data.options(cfg.data)),
        multi_label=source.multi_label,
        tasks=source.tasks,
        feature=feature,
    )
    batch, whole = jax.sharding.NamedSharding(mesh, sharding.BATCH), sharding.replicated(mesh)
    step = sharding.for_mesh(step, mesh, cfg.get("sequence", "gather"))
    return jax.jit(step, in_shardings=(places, batch, whole), out_shardings=whole)


def to_devices(batch, mesh, size):
    """What of a batch goes to the devices, as part of the global arrays."""
    arrays = {key: batch[key] for key in ("inputs", "label", "mask", "task", "view_mask") if key in batch}
    return sharding.to_devices(arrays, mesh, size)


def metrics(scores, labels):
    """Top-1, top-5, loss in nats, accuracy per class and confusion from probabilities (N, C) and labels (N,) or (N, C).

    Ties go to the lower class index; top-5 is None for fewer than six classes; rows of `confusion` are true classes.
    Of several labels a video counts as the one of highest score: a hit at k is any true label in the top k.
    """
    n, classes = scores.shape
    labels = counted(scores, labels)
    order = np.argsort(-scores, axis=1, kind="stable")
    hit = order == labels[:, None]
    confusion = np.zeros((classes, classes), int)
    np.add.at(confusion, (labels, order[:, 0]), 1)
    videos, right = confusion.sum(1), confusion.diagonal()
    chosen = scores[np.arange(n), labels].astype(np.float64)
    return {
        "top1": hit[:, 0].sum() / n,
        "top5": hit[:, :5].sum() / n if classes > 5 else None,
        "loss": -np.log(np.maximum(chosen, 1e-12)).sum() / n,
        "mean_class": (right[videos > 0] / videos[videos > 0]).mean(),
        "accuracy": [r / v if v else None for r, v in zip(right.tolist(), videos.tolist(), strict=True)],
        "videos": videos.tolist(),
        "correct": right.tolist(),
        "confusion": confusion.tolist(),
    }


def counted(scores, labels):
    """The one label (N,) by which a video counts: of several (N, C), the true one of highest score."""
    return labels if labels.ndim == 1 else np.where(labels > 0, scores, -1).argmax(1)


def label_array(records, source):
    """The labels of records: (N,) ints, or (N, C) zeros and ones where a video has several."""
    if not source.multi_label:
        return np.array([record["label"] for record in records])
    labels = np.zeros((len(records), len(source.classes)), np.int8)
    for row, record in zip(labels, records, strict=True):
        row[list(record["label"])] = 1
    return labels


def check_classes(source, meta, workdir):
    """Raises EvaluationError if a source's classes are not those of a checkpoint's meta, in the same order."""
    known = meta["class_names"]
    if list(source.classes) != known:
        new, gone = sorted(set(source.classes) - set(known))[:5], sorted(set(known) - set(source.classes))[:5]
        raise EvaluationError(
            f"{source.name} has other classes than the checkpoint in {workdir}: only the data have {new}, "
            f"only the checkpoint has {gone}; give the data it was trained on, or another --workdir."
        )


def check_readable(source, allow_bad):
    """Raises EvaluationError if the index found unreadable videos in an evaluation split, unless allowed."""
    records = map(source.__getitem__, range(len(source)))
    refuse([record["error"] for record in records if record["error"]], source, allow_bad)


def refuse(errors, source, allow_bad):
    """Raises EvaluationError if there are reasons why videos of a source cannot be read, unless allowed."""
    if errors and not allow_bad:
        raise EvaluationError(
            f"{len(errors)} of {len(source)} evaluation videos cannot be read (first: {errors[0]}); repair or remove "
            f"them, or leave them out of the figures with --config.eval.allow_bad=True."
        )


def meta(cfg, model, source):
    """What travels with the weights: the config, the class names and how pixels become the model's input."""
    views, clip, section = cfg.eval, cfg.data.clip, data.options(cfg.data)
    return {
        "version": vidjax.__version__,
        "config": cfg.to_dict(),
        "class_names": list(source.classes),
        "multi_label": source.multi_label,
        "preprocess": {key: section[key] for key in modalities.SETTINGS}
        | {
            "frames": clip.size,
            "stride": clip.stride,
            "sampler": clip.sampler,
            "short_side": cfg.data.short_side,
            "resize": views.resize,
            "size": views.size,
            "crops": views.crops,
            "channels": "RGB",
            "range": [0, 1],
            "mean": np.ravel(model.mean).tolist(),
            "std": np.ravel(model.std).tolist(),
        },
    }


def with_protocol(cfg, feature=""):
    """A config whose views are those of its `eval.protocol`, where it names one; what that leaves open stays.

    `feature` is the activation that is averaged instead of scores, if one is.
    """
    if not cfg.eval.get("protocol"):
        return cfg
    protocol, cfg = protocols.find(cfg.eval.protocol), cfg.copy_and_resolve_references()
    if protocol.feature not in ("", feature):
        others = ", ".join(name for name, one in protocols.PROTOCOLS.items() if not one.feature)
        raise EvaluationError(
            f"config.eval.protocol {cfg.eval.protocol} averages the activation {protocol.feature}, as vidjax fit does, "
            f"not scores; choose one of {others}."
        )
    chosen = {"crops": protocol.crops, "resize": protocol.resize, "size": protocol.size, "average": protocol.average}
    with cfg.eval.ignore_type():  # a number may take the place of a pair
        cfg.eval.update({key: value for key, value in chosen.items() if value is not None})
    cfg.data.clip.size = protocol.frames or cfg.data.clip.size
    cfg.data.clip.stride = protocol.stride or cfg.data.clip.stride
    cfg.eval.clips = protocol.clips
    return cfg


class Evaluator:
    """Evaluates a model's variables on a source: compiled once, the same digits in training and in a job.

    `net` are the variables of the net that makes the flow, if one does (`inputs.load_net`); `feature` an activation
    to average instead of scores.
    """

    def __init__(self, cfg, model, mesh, places, source, net=None, feature=""):
        check_readable(source, cfg.eval.allow_bad)
        self.progress = lambda what: None  # called with each batch that is done
        self.cfg, self.model, self.mesh, self.source, self.net = with_protocol(cfg, feature), model, mesh, source, net
        self.step = make_step(self.cfg, model, mesh, places, source, feature)

    @functools.cached_property
    def cost(self):
        """Parameters, and multiply-adds of one view in units of 10^9."""
        example = inputs.example(data.options(self.cfg.data), self.cfg.data.clip.size, self.cfg.eval.size)
        found = models.costs(self.model, example)
        return {"params": found["params"], "gmac_per_view": found["macs"] / 1e9}

    def scores(self, variables):
        """Probabilities (N, C) of every video in the source's order and {index: error} of those unreadable."""
        views, n = self.cfg.eval, len(self.source)
        block, blocks = sharding.batch_block(self.mesh, views.batch_size)
        batches = data.evaluation(self.cfg.data, views, self.source, block=block, blocks=blocks)
        scores, masks, errors = [], [], {}
        shown = {"total": -(-n // views.batch_size), "unit": "batches", "main": jax.process_index() == 0}
        ahead = sharding.prefetch(batches, lambda batch: to_devices(batch, self.mesh, views.batch_size))
        with contextlib.closing(batches), contextlib.closing(ahead):
            for batch, arrays in logs.track(ahead, "evaluating", **shown):
                errors |= {int(i): str(e) for i, e in zip(batch["index"], batch["error"], strict=True) if e and i >= 0}
                out = self.step(variables, arrays, self.net)
                scores.append(out["scores"])
                masks.append(out["mask"])
                jax.block_until_ready(scores[-3:-2])  # no more than two batches wait on the devices
                self.progress(f"evaluation batch {len(scores)}")
        scores, masks = (np.concatenate(jax.device_get(x))[:n] for x in (scores, masks))
        return scores, {int(i): errors.get(int(i), "unreadable on another process") for i in np.flatnonzero(masks == 0)}

    def __call__(self, variables, step, workdir):
        """Writes the report of `write`; returns it. Raises EvaluationError if a video cannot be read and may not be."""
        began = time.perf_counter()
        scores, errors = self.scores(variables)
        seconds = time.perf_counter() - began
        refuse(list(errors.values()), self.source, self.cfg.eval.allow_bad)
        how = {"step": step, "scores": scores, "errors": errors, "cost": self.cost, "seconds": seconds}
        return write(self.cfg, self.source, workdir, **how)


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


def run(cfg, workdir, step=None, split="eval"):
    """Evaluates a checkpoint of a workdir (the newest, or `step`) as training does; returns the report.

    `split` "train" scores the training videos, as a classifier over several models' scores needs (`vidjax fuse --svm`).
    """
    mesh = sharding.make_mesh(**cfg.mesh)
    places = functools.partial(sharding.shardings, mesh=mesh, rules=sharding.rules(cfg.sharding))
    variables, meta, step = checkpoint.load_variables(workdir, step=step, shardings=places)
    source = data.source(cfg.data, split)
    if split != "eval":
        cfg = cfg.copy_and_resolve_references()
        with cfg.unlocked():
            cfg.eval.split = split
    check_classes(source, meta, workdir)
    model = models.build(cfg.model, num_classes=len(source.classes))
    net = inputs.load_net(data.options(cfg.data), sharding.replicated(mesh))
    return Evaluator(cfg, model, mesh, places(variables), source, net)(variables, step, workdir)
