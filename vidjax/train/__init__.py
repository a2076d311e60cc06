"""The training loop: a config and a workdir in, checkpoints, reports and logs out."""

import dataclasses
import functools
import logging
import os

import jax
import jax.numpy as jnp
import optax
from jax.experimental import multihost_utils

from vidjax import (
    checkpoint,
    config,
    data,
    evaluate,
    goodput,
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
from vidjax.train import finite, preflight
from vidjax.train.loop import Loop
from vidjax.train.state import State, bundle, restore
from vidjax.train.window import TrainingError

__all__ = ["State", "TrainingError", "bundle", "init_state", "make_step", "train", "train_step"]

log = logging.getLogger("vidjax")


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
        if "places" in how:
            params = sharding.gather(params, how["places"], later=getattr(model, "scan", False))
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
    step = finite.guarded(step, cfg)
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
    abstract: State
    init: object
    net: dict | None
    model: object


def prepare(cfg, workdir, recipe=None):
    """Opens the data and the workdir and makes or restores the state, before any step is paid for."""
    preflight.check(cfg)
    os.makedirs(workdir, exist_ok=True)
    peers.wait_at_most(cfg.get("peers", peers.PATIENCE))
    peers.agree("config", preflight.values(cfg))
    mesh = sharding.make_mesh(**cfg.mesh)
    preflight.check_batches(cfg, mesh)
    source, held_out = open_sources(cfg)
    peers.agree("data", preflight.contents(train=source, eval=held_out))
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
    restored = restore(checkpoints, abstract)
    if restored:
        state, start, saved = restored
        evaluate.check_classes(source, saved, workdir)
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
        if recipe:
            config.save(recipe, workdir, "recipe.json")
        log.info("%s", logs.overview(abstract.variables["params"]))
    meta = evaluate.meta(cfg, model, source)
    return Run(mesh, source, bad, step_fn, rate, state, start, evaluator, checkpoints, meta, abstract, init, net, model)


def open_sources(cfg):
    """The training and evaluation sources; process 0 renders and indexes first, the others then find it done."""
    for turn in (0, 1):
        if (jax.process_index() > 0) == turn:
            with logs.counter("preparing data", main=not turn) as progress:
                opened = data.open_sources(cfg.data, progress=progress)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"vidjax sources {turn}")
    return opened


def train(cfg, workdir, began=None, recipe=None):
    """Trains to `cfg.steps`, continuing from the workdir's newest checkpoint; returns the last report.

    Returns None if a signal stopped the run, after its state was saved. `began` is when the run did, on
    `time.perf_counter`, for the account of its time; `recipe` is {recipe: file, config: as the file makes it}, which
    the workdir keeps for reports. Raises TrainingError if the loss is not finite, TooManyBadVideos, EvaluationError,
    CheckpointError, and ValueError for a config that cannot work.
    """
    clock = goodput.Clock(began)
    run = prepare(cfg, workdir, recipe)
    loop = Loop(cfg, run, workdir, clock)
    loop.go()
    if loop.step < cfg.steps:
        text = "stopped by a signal; step %d is saved in %s, the same command continues it"
        log.warning(text, loop.step, workdir)
        report = None
    else:
        with clock.share("evaluation"):
            report = loop.report or run.evaluator(bundle(loop.state)["variables"], loop.step, workdir)
    if loop.main:
        log.info("%s", clock.line())
    return report
