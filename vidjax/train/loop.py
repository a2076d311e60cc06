"""A run's steps one after another, with what happens between them: logs, evaluation, checkpoints, rollbacks."""

import contextlib
import itertools
import time

import jax
import numpy as np

from vidjax import averages, data, evaluate, inputs, logs, sharding
from vidjax.evaluate import results
from vidjax.train import ends, finite, preflight
from vidjax.train.state import bundle, restore
from vidjax.train.window import Window

SHOWN = ("loss", "accuracy", "clips_per_second", "input_wait")  # of a window's means, on the progress line


class Feed:
    """Batches of this process and their arrays on the devices, from any step on."""

    def __init__(self, cfg, run):
        self.cfg, self.run, self.open = cfg, run, contextlib.ExitStack()

    def begin(self, step):
        """Opens the pipeline at a step, anew."""
        self.close()
        block, blocks = sharding.batch_block(self.run.mesh, self.cfg.data.batch_size)
        batches = data.train(self.cfg.data, self.run.source, seed=self.cfg.seed, step=step, block=block, blocks=blocks)
        put = lambda batch: evaluate.to_devices(batch, self.run.mesh, len(batch["mask"]) * blocks)  # noqa: E731
        self.open.enter_context(contextlib.closing(batches))
        self.ahead = self.open.enter_context(contextlib.closing(sharding.prefetch(batches, put)))

    def next(self):
        """(batch, its arrays)."""
        return next(self.ahead)

    def close(self):
        self.open.close()


class Loop:
    """A run's steps from the first to the last, with what happens between them."""

    def __init__(self, cfg, run, workdir, clock):
        self.cfg, self.run, self.workdir, self.clock = cfg, run, workdir, clock
        self.main, self.step, self.state, self.report = jax.process_index() == 0, run.start, run.state, None
        self.passed, self.feed = finite.Passed(workdir), Feed(cfg, run)
        self.writer = logs.writer(workdir, self.step, main=self.main)
        self.progress = logs.Progress(cfg.steps, start=self.step, log_every=cfg.log_every, main=self.main)
        self.stop, self.watchdog = ends.Stop(), ends.Watchdog(cfg.get("watchdog", ends.WATCHDOG), workdir)
        policy = cfg.get("on_nan", "stop")
        self.window = Window(run.checkpoints, workdir, run.source, policy, self.watchdog.progress)
        self.compiled, run.evaluator.progress = {}, self.watchdog.progress

    def go(self):
        """Takes all steps that are left, or those until a signal; then everything is on disk."""
        closing = map(contextlib.closing, (self.run.checkpoints, self.writer, self.feed))
        with contextlib.ExitStack() as stack:
            for thing in (*closing, self.stop, self.progress, self.watchdog):
                stack.enter_context(thing)
            self.feed.begin(self.step)
            self.clock.switch("other")
            while self.goes_on():
                try:
                    self.take_step()
                except finite.NotFinite as error:
                    self.roll_back(error.step)
            if self.step < self.cfg.steps:
                self.save()
            with self.clock.share("checkpoint"):
                self.run.checkpoints.wait()

    def goes_on(self):
        """Whether a step is to be taken; if not, all those taken are done."""
        if self.step < self.cfg.steps and not self.stop.asked():
            return True
        try:
            with self.clock.share("step"):
                self.window.drain()
        except finite.NotFinite as error:
            self.roll_back(error.step)
            return True
        return False

    def take_step(self):
        """One batch, one step of the devices, and what is due after it."""
        with self.clock.share("input"):
            began = time.perf_counter()
            batch, arrays = self.feed.next()
            waited = time.perf_counter() - began
        note_bad(self.run.bad, batch, self.cfg.data.max_bad, self.progress)
        self.step += 1
        with self.clock.share("step"):
            if self.step in self.passed:
                self.state = self.state.replace(step=self.state.step + 1)
            else:
                step = self.compile(arrays)
                self.state, metrics = step(self.state, arrays, self.run.net)
                self.window.add(self.step, metrics, batch["index"], waited)
            means = self.window.close() if due(self.step, self.cfg.log_every, self.cfg.steps) else {}
        self.log(means)
        if due(self.step, self.cfg.eval.every, self.cfg.steps) or due(
            self.step, self.cfg.checkpoint_every, self.cfg.steps
        ):
            with self.clock.share("step"):
                self.window.drain()
            with self.window.paused():
                self.evaluate_and_save()

    def compile(self, arrays):
        """The step for batches of this shape, compiled ahead of it."""
        shape = tuple((x.shape, x.dtype) for x in jax.tree.leaves(arrays))
        if shape not in self.compiled:
            with self.clock.share("compile"), self.watchdog.patient():
                self.window.drain()
                step = self.run.step_fn.lower(self.state, arrays, self.run.net).compile()
                preflight.check_memory(step, self.run.mesh)
                self.compiled[shape] = step
        return self.compiled[shape]

    def log(self, means):
        if means:
            scalars = {f"train/{k}": v for k, v in means.items()} | {"train/lr": self.run.rate(self.step)}
            scalars |= {f"goodput/{name}": part for name, part in self.clock.shares().items()}
            self.writer.write_scalars(self.step, scalars)
        self.progress.update(self.step, **{name: means[name] for name in SHOWN if means})

    def evaluate_and_save(self):
        top1 = None
        if due(self.step, self.cfg.eval.every, self.cfg.steps):
            with self.clock.share("evaluation"):
                self.state = precise(self.cfg, self.run, self.state, self.step, self.watchdog.progress)
                try:
                    self.report = self.run.evaluator(bundle(self.state)["variables"], self.step, self.workdir)
                except BaseException:
                    self.save()
                    raise
            scalars = {f"eval/{name}": self.report[name] for name in ("top1", "loss", "mean_class")}
            self.writer.write_scalars(self.step, scalars)
            self.progress.message(f"step {self.step}: {results.headline(self.report)}")
            top1 = {"top1": float(self.report["top1"])}
        if due(self.step, self.cfg.checkpoint_every, self.cfg.steps):
            self.save(top1)

    def save(self, metrics=None):
        with self.clock.share("checkpoint"):
            self.run.checkpoints.save(self.step, **bundle(self.state), meta=self.run.meta, metrics=metrics)
            self.watchdog.progress(f"the checkpoint of step {self.step}")

    def roll_back(self, step):
        """Back to the newest checkpoint, or to the beginning; `step` is passed over from now on."""
        self.passed.add(step)
        self.window.forget()
        with self.clock.share("checkpoint"):
            found = restore(self.run.checkpoints, self.run.abstract)
            self.state, self.step = found[:2] if found else (self.run.init(), 0)
        if all(step - i in self.passed for i in range(finite.IN_A_ROW)):
            text = f"the {finite.IN_A_ROW} steps up to {step} were all not finite, whatever their batch"
            self.window.stop(text, "their videos are listed in nan_*.json")
        self.report = None
        self.feed.begin(self.step)


def precise(cfg, run, state, step, progress):
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
        shown = (progress("statistics for an evaluation") or x for x in seen)
        found = averages.precise_norms(variables, (statistics(variables, x, run.net) for x in shown))
    places = jax.tree.map(lambda x: x.sharding, state.variables["batch_stats"])  # as the compiled step expects them
    return state.replace(variables=state.variables | {"batch_stats": jax.device_put(found["batch_stats"], places)})


def due(step, every, last):
    """Whether something that happens every so many steps, and after the last, happens after `step`."""
    return step == last or step % every == 0


def note_bad(bad, batch, max_bad, progress):
    """Names the unreadable videos of a batch, once each."""
    for i in np.flatnonzero(batch["mask"] == 0):
        if bad.add(int(batch["index"][i]), str(batch["error"][i]), max_bad):
            progress.message(f"unreadable, left out of the loss: {batch['error'][i]}")
