"""The training loop: a config and a workdir in, checkpoints, reports and logs out."""

import collections
import contextlib
import dataclasses
import functools
import itertools
import logging
import math
import os
import signal
import time

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils

from vidjax import (
    averages,
    checkpoint,
    config,
    data,
    evaluate,
    inputs,
    logs,
    losses,
    mixing,
    models,
    nn,
    optim,
    parallel,
    peers,
    sharding,
    transfer,
)
from vidjax.data.bad import BadVideos

log = logging.getLogger("vidjax")
SHOWN = ("loss", "accuracy", "clips_per_second", "input_wait")  # of a window's means, on the progress line


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and from where to continue."""


@flax.struct.dataclass
class State:
    """What one step changes: the step, the model's collections, the optimizer's state."""

    step: jax.Array
    variables: dict
    opt_state: optax.OptState


def init_state(model, tx, *, seed, example):
    """The state before step 0; `example` has the shapes of the model's input, as `inputs.example` gives them."""
    params, dropout = jax.random.split(jax.random.key(seed))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), example)
    variables = model.init({"params": params, "dropout": dropout}, zeros, train=False)
    return State(jnp.int32(0), variables, tx.init(variables["params"]))


def train_step(state, batch, net=None, *, model, tx, seed, prepare=evaluate.RGB, loss=None, mix=None, tasks=(), **how):
    """One gradient step: (State, {inputs, label (B,) or (B, C), mask (B,)}) -> (State, metrics).

    `prepare` makes the model's input (`net`: see there); `loss` is a function of (logits, targets), by default softmax
    cross-entropy; `mix` are the arguments of `mixing.mix`; `tasks` is the data set of each class of a mixture; `how`
    are `weights` (see `losses.total`), `frozen_norms` (see `nn`), `phases` (see `optim`), `bn` and `policy` (see
    `parallel`) and `places` (where parameters are stored, see `sharding.gather`).
    """
    rng = jax.random.fold_in(jax.random.key(seed), state.step)  # a resumed run draws the same numbers
    params = state.variables["params"]
    rest = {name: tree for name, tree in state.variables.items() if name != "params"}
    seen, targets = prepare(batch["inputs"], net), losses.targets(batch["label"], model.num_classes)
    if mix:
        several = seen if isinstance(seen, dict) else {"one": seen}
        several, mixed = mixing.mix(jax.random.fold_in(rng, 1), several, targets, mask=batch["mask"], **mix)
        seen = several if isinstance(seen, dict) else several["one"]
    options = {"allowed": jnp.array(tasks)[None] == batch["task"][:, None]} if tasks else {}

    def loss_of(params):
        params = sharding.gather(params, how["places"]) if "places" in how else params
        groups = how["bn"](len(batch["mask"])) if "bn" in how else 1
        with nn.frozen_norms(how.get("frozen_norms") or nn.NONE), nn.norm_groups(groups):
            (logits, out), updated = model.apply(
                {"params": params, **rest}, seen, train=True, rngs={"dropout": rng}, mutable=list(rest)
            )
        kind, weights = loss or losses.softmax_cross_entropy, how.get("weights") or {}
        found, parts = losses.total(logits, out, mixed if mix else targets, weights=weights, loss=kind, **options)
        parts = {f"loss_{name}": losses.masked_mean(x, batch["mask"]) for name, x in parts.items() if len(parts) > 1}
        return losses.masked_mean(found, batch["mask"]), (logits, updated, parts)

    if how.get("policy"):
        loss_of = jax.checkpoint(loss_of, policy=how["policy"])
    (value, (logits, updated, parts)), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
    updates, opt_state = tx.update(grads, state.opt_state, params)
    if phases := how.get("phases"):  # what rests keeps its statistics too
        on = {name: optim.trains(tree, state.step, phases) for name, tree in updated.items()}
        kept = {name: rest[name] for name in updated}
        updated = jax.tree.map(lambda keep, new, old: jnp.where(keep, new, old), on, updated, kept)
    variables = {"params": optax.apply_updates(params, updates), **updated}
    logits = jnp.where(options["allowed"], logits, -jnp.inf) if tasks else logits
    metrics = parts | {
        "loss": value,
        "accuracy": losses.masked_mean(losses.correct(logits, targets), batch["mask"]),
        "videos": jnp.sum(batch["mask"]),
        "grad_norm": optax.tree.norm(grads),
        "update_norm": optax.tree.norm(updates),
    }
    return State(state.step + 1, variables, opt_state), metrics


def make_step(cfg, model, tx, mesh, multi_label=False, tasks=()):
    """The compiled step and the abstract state it takes, every leaf with its sharding.

    `multi_label` and `tasks` (the data set of each class of a mixture) are the source's.
    """
    section = data.options(cfg.data)
    example = inputs.example(section, section["clip"]["size"], section["augment"]["size"])
    init = functools.partial(init_state, model, tx, seed=cfg.seed, example=example)
    shapes = jax.eval_shape(init)
    places = sharding.shardings(shapes, mesh, sharding.rules(cfg.sharding))
    sharding.check_used(places, mesh, cfg.sharding)
    model, policy = parallel.remat(model, cfg.get("remat", "none"))
    kind = losses.sigmoid_cross_entropy if multi_label else losses.softmax_cross_entropy
    how = {key: cfg.optim.get(key) for key in ("frozen_norms", "phases")}
    options = cfg.loss.to_dict()
    how["weights"] = options.pop("weights", {})
    how |= {
        "bn": parallel.norm_groups(cfg.get("bn", "global"), mesh),
        "places": places.variables["params"],
        "policy": policy,
    }
    step = functools.partial(
        train_step,
        model=model,
        tx=tx,
        seed=cfg.seed,
        prepare=inputs.preparer(section),
        loss=functools.partial(kind, **options),
        mix=cfg.mix.to_dict() if any(cfg.get("mix", {}).values()) else None,
        tasks=tasks,
        **how,
    )
    step = sharding.for_mesh(step, mesh, cfg.get("sequence", "gather"))
    batch, whole = jax.sharding.NamedSharding(mesh, sharding.BATCH), sharding.replicated(mesh)
    step = jax.jit(step, in_shardings=(places, batch, whole), out_shardings=(places, whole), donate_argnums=0)
    abstract = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, places)
    # it runs once: optimising it would take longer than running it, seconds for every random kernel
    quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return step, abstract, jax.jit(init, out_shardings=places, compiler_options=quick)


@dataclasses.dataclass
class Run:
    """What a training run is made of once its config has been checked against its data and its workdir.

    `net` are the variables of the net that makes its flow, if one does.
    """

    mesh: jax.sharding.Mesh
    source: object
    bad: BadVideos
    step_fn: object
    rate: object
    state: State
    start: int
    evaluator: evaluate.Evaluator
    checkpoints: checkpoint.Checkpoints
    meta: dict
    net: dict | None
    model: object


def prepare(cfg, workdir):
    """Opens the data and the workdir and makes or restores the state, before any step is paid for."""
    os.makedirs(workdir, exist_ok=True)
    peers.wait_at_most(cfg.get("peers", peers.PATIENCE))
    mesh = sharding.make_mesh(**cfg.mesh)
    source, held_out = open_sources(cfg)
    process, net = jax.process_index(), inputs.load_net(data.options(cfg.data), sharding.replicated(mesh))
    bad = BadVideos(os.path.join(workdir, f"bad_videos_{process}.csv" if process else "bad_videos.csv"), source)
    for i in range(len(source)):
        if error := source[i]["error"]:
            bad.add(i, error, cfg.data.max_bad)
    model = models.build(cfg.model, num_classes=len(source.classes))
    grids = data.grids_of(data.options(cfg.data))
    tx, rate = optim.build(cfg.steps, **cfg.optim, times=grids.times)
    step_fn, abstract, init = make_step(cfg, model, tx, mesh, source.multi_label, source.tasks)
    places = jax.tree.map(lambda x: x.sharding, abstract.variables)
    if cfg.eval.get("precise_bn") and "batch_stats" not in abstract.variables:
        raise ValueError(f"{cfg.model.name} has no batch norm: set config.eval.precise_bn=0.")
    evaluator = evaluate.Evaluator(cfg, model, mesh, places, held_out, net)
    checkpoints = checkpoint.Checkpoints(workdir, keep=cfg.keep)
    restored = checkpoints.restore(bundle(abstract))
    if restored:
        variables, rest, saved, start = restored
        evaluate.check_classes(source, saved, workdir)
        variables, opt_state = averages.swap(variables, rest["opt_state"])
        state = State(rest["step"], variables, opt_state)
        log.info("continuing from step %d in %s", start, workdir)
        for change in config.changes(saved["config"], cfg.to_dict()):
            log.info("config changed since that step: %s", change)
    else:
        start, state = 0, init()
        if cfg.get("init", {}).get("path"):
            variables, report = transfer.load(cfg.init, state.variables)
            state = state.replace(variables=variables)
            log.info("%s", "\n".join(report))
    for line in grids.lines(cfg.data.batch_size):
        log.info("%s", line)
    if process == 0:
        config.save(cfg, workdir)
        log.info("%s", logs.overview(abstract.variables["params"]))
    meta = evaluate.meta(cfg, model, source)
    return Run(mesh, source, bad, step_fn, rate, state, start, evaluator, checkpoints, meta, net, model)


def open_sources(cfg):
    """The training and evaluation sources; process 0 renders and indexes first, the others then find it done."""
    for turn in (0, 1):
        if (jax.process_index() > 0) == turn:
            with logs.counter("preparing data", main=not turn) as progress:
                opened = data.open_sources(cfg.data, progress=progress)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"vidjax sources {turn}")
    return opened


def bundle(state):
    """A state as a checkpoint holds it: where parameters are averaged, the averages are its variables."""
    variables, opt_state = averages.swap(state.variables, state.opt_state)
    return {"variables": variables, "train": {"step": state.step, "opt_state": opt_state}}


class Stop:
    """Whether a signal asked the run to save and stop; every process of a run answers the same."""

    def __init__(self):
        self.signal, self.before = None, {}

    def __enter__(self):
        if jax.process_count() == 1:  # several processes agree through the notice that jax.distributed listens for
            self.before = {number: signal.signal(number, self.note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def note(self, number, frame):
        if self.signal == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number

    def asked(self, step):
        if jax.process_count() == 1:
            return self.signal is not None
        return multihost_utils.reached_preemption_sync_point(step)


class Window:
    """Means of the steps since the last log line, read from the device one step late."""

    def __init__(self, checkpoints):
        self.checkpoints, self.pending = checkpoints, collections.deque()
        self.reset()

    def reset(self):
        self.sums, self.steps, self.waited, self.began = collections.Counter(), 0, 0.0, time.perf_counter()

    def add(self, step, metrics, waited):
        self.waited += waited
        self.pending.append((step, metrics))
        while len(self.pending) > 1:
            self.read()

    def drain(self):
        """Waits for the steps in flight, so that what follows rests on finite numbers."""
        while self.pending:
            self.read()

    @contextlib.contextmanager
    def paused(self):
        """What is done within it counts neither as training time nor as waiting."""
        self.drain()
        since = time.perf_counter()
        yield
        self.began += time.perf_counter() - since

    def read(self):
        """Reads the oldest step's metrics; raises TrainingError if they are not finite."""
        step, metrics = self.pending.popleft()
        metrics = {name: float(value) for name, value in jax.device_get(metrics).items()}
        if not all(math.isfinite(value) for value in metrics.values()):
            good = self.checkpoints.latest_step()
            last = f"the last good checkpoint is step {good}" if good is not None else "there is no checkpoint yet"
            raise TrainingError(
                f"step {step} gave loss {metrics['loss']} and gradient norm {metrics['grad_norm']}; training stopped, "
                f"{last}. Lower config.optim.lr or set config.optim.clip_norm, then run the same command again."
            )
        self.sums.update(metrics)
        self.steps += 1

    def close(self):
        """The window's means, clips per second and share of time spent waiting for input; starts the next window."""
        self.drain()
        seconds = time.perf_counter() - self.began
        means = {name: total / self.steps for name, total in self.sums.items() if name != "videos"}
        means |= {"clips_per_second": self.sums["videos"] / seconds, "input_wait": self.waited / seconds}
        self.reset()
        return means


def train(cfg, workdir):
    """Trains to `cfg.steps`, continuing from the workdir's newest checkpoint; returns the last report.

    Returns None if a signal stopped the run, after its state was saved. Raises TrainingError if the loss is not
    finite, TooManyBadVideos, EvaluationError, CheckpointError, and ValueError for a config that cannot work.
    """
    run = prepare(cfg, workdir)
    main, step, state, report = jax.process_index() == 0, run.start, run.state, None
    block, blocks = sharding.batch_block(run.mesh, cfg.data.batch_size)
    batches = data.train(cfg.data, run.source, seed=cfg.seed, step=step, block=block, blocks=blocks)
    stop, window, writer = Stop(), Window(run.checkpoints), logs.writer(workdir, step, main=main)
    progress = logs.Progress(cfg.steps, start=step, log_every=cfg.log_every, main=main)
    ahead = sharding.prefetch(batches, lambda batch: evaluate.to_devices(batch, run.mesh, len(batch["mask"]) * blocks))
    closing = map(contextlib.closing, (run.checkpoints, batches, writer, ahead))
    with contextlib.ExitStack() as stack:
        for thing in (*closing, stop, progress):
            stack.enter_context(thing)
        while step < cfg.steps and not stop.asked(step):
            began = time.perf_counter()
            batch, arrays = next(ahead)
            waited = time.perf_counter() - began
            note_bad(run.bad, batch, cfg.data.max_bad, progress)
            state, metrics = run.step_fn(state, arrays, run.net)
            step += 1
            window.add(step, metrics, waited)
            means = window.close() if due(step, cfg.log_every, cfg.steps) else {}
            if means:
                writer.write_scalars(step, {f"train/{k}": v for k, v in means.items()} | {"train/lr": run.rate(step)})
            progress.update(step, **{name: means[name] for name in SHOWN if means})
            with window.paused():
                top1 = None
                if due(step, cfg.eval.every, cfg.steps):
                    state = precise(cfg, run, state, step)
                    try:
                        report = run.evaluator(bundle(state)["variables"], step, workdir)
                    except BaseException:
                        run.checkpoints.save(step, **bundle(state), meta=run.meta)
                        raise
                    writer.write_scalars(
                        step, {f"eval/{name}": report[name] for name in ("top1", "loss", "mean_class")}
                    )
                    progress.message(f"step {step}: {evaluate.headline(report)}")
                    top1 = {"top1": float(report["top1"])}
                if due(step, cfg.checkpoint_every, cfg.steps):
                    run.checkpoints.save(step, **bundle(state), meta=run.meta, metrics=top1)
        if step < cfg.steps:
            window.drain()
            run.checkpoints.save(step, **bundle(state), meta=run.meta)
    if step < cfg.steps:
        log.warning("stopped by a signal; step %d is saved in %s, the same command continues it", step, workdir)
        return None
    return report or run.evaluator(bundle(state)["variables"], step, workdir)


def precise(cfg, run, state, step):
    """The state with batch norms' statistics of the next `eval.precise_bn` batches, by the weights that are evaluated.

    Training goes on with the same batches, which do not depend on the statistics.
    """
    if not cfg.eval.get("precise_bn"):
        return state
    block, blocks = sharding.batch_block(run.mesh, cfg.data.batch_size)
    batches = data.train(cfg.data, run.source, seed=cfg.seed, step=step, block=block, blocks=blocks)
    statistics = averages.norm_statistics(run.model, inputs.preparer(data.options(cfg.data)), cfg.seed)
    variables = bundle(state)["variables"]
    with contextlib.closing(batches):
        several = itertools.islice(iter(batches), cfg.eval.precise_bn)
        sizes = ((batch, len(batch["mask"]) * blocks) for batch in several)
        seen = (evaluate.to_devices(batch, run.mesh, size)["inputs"] for batch, size in sizes)
        found = averages.precise_norms(variables, (statistics(variables, x, run.net) for x in seen))
    return state.replace(variables=state.variables | {"batch_stats": found["batch_stats"]})


def due(step, every, last):
    """Whether something that happens every so many steps, and after the last, happens after `step`."""
    return step == last or step % every == 0


def note_bad(bad, batch, max_bad, progress):
    """Names the unreadable videos of a batch, once each."""
    for i in np.flatnonzero(batch["mask"] == 0):
        if bad.add(int(batch["index"][i]), str(batch["error"][i]), max_bad):
            progress.message(f"unreadable, left out of the loss: {batch['error'][i]}")
