"""Evaluation: the same compiled step, sums and report inside training and in a job of its own."""

import collections
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
from vidjax.evaluate import figures, maps, results
from vidjax.evaluate.checks import check_classes, check_readable, refuse
from vidjax.evaluate.errors import EvaluationError, Stopped

log = logging.getLogger("vidjax")
RGB = inputs.preparer(data.options({}))  # clips of pixels alone


def eval_step(
    variables,
    batch,
    net=None,
    *,
    model,
    average,
    prepare=RGB,
    multi_label=False,
    tasks=(),
    crops=1,
    layers=(),
    raw=False,
):
    """Scores of each video: {inputs {key: (B, V, ...)}, view_mask (B, V), mask (B,)} -> {scores (B, C), mask (B,)}.

    The mean over a video's views, those of `view_mask` 1, is of their probabilities (`average` "prob") or of their
    logits ("logit"). Probabilities are a softmax, of the own classes in a mixture, or of each class if `multi_label`.
    Where the batch has labels there are `clips` too, of `clip_hits`. With `layers` there are means over the views of
    their `activations`: features {layer: (B, ...)}.
    """
    b, v = batch["view_mask"].shape
    views = jax.tree.map(lambda x: x.reshape(b * v, *x.shape[2:]), batch["inputs"])
    logits, out = model.apply(variables, prepare(views, net), train=False)
    share = batch["view_mask"] / jnp.maximum(batch["view_mask"].sum(1, keepdims=True), 1)
    mean = lambda x: jnp.sum(jnp.where(share[..., None] > 0, x * share[..., None], 0), 1)  # noqa: E731
    logits = logits.reshape(b, v, -1)
    if tasks:
        logits = jnp.where(jnp.array(tasks)[None, None] == batch["task"][:, None, None], logits, -jnp.inf)
    squash = jax.nn.sigmoid if multi_label else jax.nn.softmax
    scores = mean(squash(logits)) if average == "prob" else squash(mean(logits))
    found = {"scores": scores, "mask": batch["mask"]}
    if "label" in batch:
        of_clip = lambda x: x.reshape(b, v // crops, crops, -1).mean(2)  # noqa: E731
        clips = of_clip(squash(logits)) if average == "prob" else squash(of_clip(logits))
        found["clips"] = clip_hits(clips, batch["label"], batch["view_mask"][:, ::crops] * batch["mask"][:, None])
    if layers:
        of_view = activations(out, layers, raw)
        found["features"] = {key: mean(x.reshape(b, v, -1)).reshape(b, *x.shape[1:]) for key, x in of_view.items()}
    return found


def activations(out, layers, raw=False):
    """Some of a net's `out`, float32: {layer: (B, C)}, means over times, places or tokens; as they are if `raw`.

    EvaluationError names those that there are where one is not.
    """
    for name in layers:
        if name not in out:
            raise EvaluationError(f"the model has no activation {name!r}; there are {', '.join(out)}.")
    found = {name: out[name].astype(jnp.float32) for name in layers}
    return found if raw else {name: x.mean(tuple(range(1, x.ndim - 1))) for name, x in found.items()}


def clip_hits(scores, label, mask):
    """Clips (B, K, C) of `mask` 1 that have a true label first, among the first five, and all: int32 (B, 3).

    Ties go to the lower class index, as in `figures.metrics`.
    """
    classes = jnp.arange(scores.shape[-1])
    true = label > 0 if label.ndim == 2 else classes[None] == label[:, None]
    best = jnp.where(true[:, None], scores, -1).argmax(-1)[..., None]
    own = jnp.take_along_axis(scores, best, -1)
    rank = ((scores > own) | ((scores == own) & (classes[None, None] < best))).sum(-1)
    counts = [(mask * (rank < k)).sum(1) for k in (1, 5)]
    return jnp.stack([*counts, mask.sum(1)], 1).astype(jnp.int32)


def make_step(cfg, model, mesh, places, source, layers=(), raw=False):
    """The compiled evaluation step; every process gets the whole batch's scores, and `layers` of `eval_step`."""
    of_scores = layers in ((), (cfg.eval.get("features"),))  # a fit's features have no average of scores
    if of_scores and cfg.eval.average not in ("prob", "logit"):
        raise ValueError(f"config.eval.average '{cfg.eval.average}' is unknown; choose prob or logit.")
    step = functools.partial(
        eval_step,
        model=model,
        average=cfg.eval.average,
        prepare=inputs.preparer(data.options(cfg.data)),
        multi_label=source.multi_label,
        tasks=source.tasks,
        crops=cfg.eval.crops,
        layers=layers,
        raw=raw,
    )
    batch, whole = jax.sharding.NamedSharding(mesh, sharding.BATCH), sharding.replicated(mesh)
    step = sharding.for_mesh(step, mesh, cfg.get("sequence", "gather"))
    return jax.jit(step, in_shardings=(places, batch, whole), out_shardings=whole)


def to_devices(batch, mesh, size):
    """What of a batch goes to the devices, as part of the global arrays."""
    arrays = {key: batch[key] for key in ("inputs", "label", "mask", "task", "view_mask") if key in batch}
    return sharding.to_devices(arrays, mesh, size)


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


def with_protocol(cfg, layers=()):
    """A config whose views are those of its `eval.protocol`, where it names one; what that leaves open stays.

    `layers` are the activations that are averaged instead of scores, if any are.
    """
    if not cfg.eval.get("protocol"):
        return cfg
    protocol, cfg = protocols.find(cfg.eval.protocol), cfg.copy_and_resolve_references()
    if protocol.feature not in ("", *layers):
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

    `net` are the variables of the net that makes the flow, if one does (`inputs.load_net`); `layers` activations that
    are averaged too (`raw`: with their places, see `eval_step`), by default the one of `eval.features`, for its map.
    """

    def __init__(self, cfg, model, mesh, places, source, net=None, layers=(), raw=False):
        check_readable(source, cfg.eval.allow_bad)
        self.progress = lambda what: None  # called with each batch that is done
        self.stop = lambda: False  # whether to end after this batch; called by all processes equally often
        self.layers = layers = layers or tuple(filter(None, [cfg.eval.get("features")]))
        self.cfg, self.model = with_protocol(cfg, layers), model
        self.mesh, self.source, self.net = mesh, source, net
        self.step = make_step(self.cfg, model, mesh, places, source, layers, raw)

    @functools.cached_property
    def cost(self):
        """Parameters, and multiply-adds of one view in units of 10^9."""
        example = inputs.example(data.options(self.cfg.data), self.cfg.data.clip.size, self.cfg.eval.size)
        found = models.costs(self.model, example)
        return {"params": found["params"], "gmac_per_view": found["macs"] / 1e9}

    def scores(self, variables):
        """Probabilities (N, C) of every video in the source's order and {index: error} of those unreadable."""
        found, errors = self.outputs(variables)
        return found["scores"], errors

    def outputs(self, variables, kept=None):
        """({scores (N, C), mask (N,), clips (N, 3), features} of every video in the source's order, {index: error}).

        What `kept` (see `partial`) has of an interrupted evaluation is not computed again. Raises Stopped.
        """
        views, n = self.cfg.eval, len(self.source)
        done, errors = kept.read() if kept else ([], {})
        total, waiting, self.repeated = -(-n // views.batch_size), collections.deque(), len(done) * views.batch_size

        def fetch():
            out, bad = waiting.popleft()
            done.append(jax.device_get(out))
            if kept:
                kept.add(len(done) - 1, done[-1], bad)

        with contextlib.closing(self.batches(len(done))) as batches:
            for batch, arrays in batches if len(done) < total else ():
                bad = {int(i): str(e) for i, e in zip(batch["index"], batch["error"], strict=True) if e and i >= 0}
                errors |= bad
                waiting.append((self.step(variables, arrays, self.net), bad))
                if len(waiting) > 2:  # no more than two batches wait on the devices
                    fetch()
                self.progress(f"evaluation batch {len(done) + len(waiting)}")
                if self.stop():
                    break
            while waiting:
                fetch()
        if len(done) < total:
            raise Stopped(f"{min(len(done) * views.batch_size, n)} of {n} videos are done")
        found = jax.tree.map(lambda *x: np.concatenate(x)[:n], *done)
        unread = np.flatnonzero(found["mask"] == 0)
        return found, {int(i): errors.get(int(i), "unreadable on another process") for i in unread}

    def batches(self, start):
        """Yields (batch, its arrays on the devices) from batch `start` on, with a line of how far it is."""
        views = self.cfg.eval
        block, blocks = sharding.batch_block(self.mesh, views.batch_size)
        found = data.evaluation(self.cfg.data, views, self.source, start=start, block=block, blocks=blocks)
        ahead = sharding.prefetch(found, lambda batch: to_devices(batch, self.mesh, views.batch_size))
        left = -(-len(self.source) // views.batch_size) - start
        with contextlib.closing(found), contextlib.closing(ahead):
            yield from logs.track(ahead, "evaluating", left, "batches", main=jax.process_index() == 0)

    def __call__(self, variables, step, workdir, out="", kept=None, weights=""):
        """Writes the report of `results.write`; returns it. Raises EvaluationError for a video that cannot be read.

        `out` is its folder, by default the workdir; `kept` and Stopped are those of `outputs`; `weights` is a
        fingerprint of the variables.
        """
        began = time.perf_counter()
        found, errors = self.outputs(variables, kept)
        seconds = time.perf_counter() - began
        refuse(list(errors.values()), self.source, self.cfg.eval.allow_bad)
        how = {"scores": found["scores"], "clips": found.get("clips"), "errors": errors, "cost": self.cost}
        how |= {"seconds": seconds, "repeated": min(self.repeated, len(self.source)), "extra": {"weights": weights}}
        if self.layers and jax.process_index() == 0:
            how["extra"]["feature_map"] = self.feature_map(found, errors)
        return results.write(self.cfg, self.source, workdir, step=step, out=out, **how)

    def feature_map(self, found, errors):
        """The report's map of the first of `layers`, of the videos that could be read."""
        kept = [i for i in range(len(self.source)) if i not in errors]
        records, scores = [self.source[i] for i in kept], found["scores"][kept]
        labels = figures.counted(scores, figures.label_array(records, self.source))
        rows, ids = found["features"][self.layers[0]][kept], [record["id"] for record in records]
        return maps.feature_map(rows, labels, scores.argmax(1), ids, self.layers[0])


def run(cfg, workdir, step=None, split="eval"):
    """Evaluates a checkpoint of a workdir (the newest, or `step`) as training does; returns the report.

    `split` "train" scores the training videos, as a classifier over several models' scores needs (`vidjax fuse --svm`).
    """
    mesh = mesh_of(cfg)
    variables, meta, step = checkpoint.load_variables(workdir, step=step, shardings=places(cfg, mesh))
    source = data.source(cfg.data, split)
    check_classes(source, meta, workdir)
    return evaluator(with_views(cfg, split=split), mesh, source, variables)(variables, step, workdir)


def with_views(cfg, **values):
    """A config with other values in its section `eval`, such as split="train"; what is so already is not written."""
    usual = {"split": "eval", "protocol": "", "set": ""}
    cfg = cfg.copy_and_resolve_references()
    with cfg.unlocked():
        cfg.eval.update({key: value for key, value in values.items() if cfg.eval.get(key, usual.get(key)) != value})
    return cfg


def mesh_of(cfg):
    """The mesh of a config, or where that does not fit the devices here, as many side by side as divide the batch."""
    try:
        mesh = sharding.make_mesh(**cfg.mesh)
        sharding.batch_block(mesh, cfg.eval.batch_size)
    except ValueError as error:
        devices, size = jax.devices(), cfg.eval.batch_size
        many = next(k for k in range(len(devices), 0, -1) if size % k == 0 or jax.process_count() > 1)
        log.info("%s Evaluating with data=%d.", f"{error}".capitalize(), many)
        mesh = sharding.make_mesh(devices[:many], data=many)
    return mesh


def places(cfg, mesh):
    """A function of variables, or of their shapes, that says where each lies."""
    return functools.partial(sharding.shardings, mesh=mesh, rules=sharding.rules(cfg.sharding))


def evaluator(cfg, mesh, source, variables):
    """The `Evaluator` of a config's net on a source, for variables that lie as these."""
    model = models.build(cfg.model, num_classes=len(source.classes))
    net = inputs.load_net(data.options(cfg.data), sharding.replicated(mesh))
    return Evaluator(cfg, model, mesh, places(cfg, mesh)(variables), source, net)
