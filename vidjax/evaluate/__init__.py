"""Evaluation: the same compiled step, sums and report inside training and in a job of its own."""

import contextlib
import functools
import logging
import time

import jax
import jax.numpy as jnp
import numpy as np

import vidjax
from vidjax import checkpoint, data, inputs, logs, models, sharding
from vidjax.data import modalities, protocols
from vidjax.evaluate import results
from vidjax.evaluate.errors import EvaluationError

log = logging.getLogger("vidjax")
RGB = inputs.preparer(data.options({}))  # clips of pixels alone


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
        """Writes the report of `results.write`; returns it. Raises EvaluationError for a video that cannot be read."""
        began = time.perf_counter()
        scores, errors = self.scores(variables)
        seconds = time.perf_counter() - began
        refuse(list(errors.values()), self.source, self.cfg.eval.allow_bad)
        how = {"step": step, "scores": scores, "errors": errors, "cost": self.cost, "seconds": seconds}
        return results.write(self.cfg, self.source, workdir, **how)


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
