"""Checkpoints of a workdir: `<workdir>/checkpoints/<step>/{variables,train,meta}`, written by Orbax in the background.

A bundle is `{variables: nested dict of arrays, train: any tree of arrays}` and a JSON meta with a checksum per leaf.
A step's folder appears by one rename, so it is there whole or not at all; every array that is read back is verified.
No checkpoint executes code: arrays and JSON are all there is.
"""

import json
import logging
import math
import time

import jax
import jax.numpy as jnp
from jax.experimental import multihost_utils

from vidjax.checkpoint import files
from vidjax.checkpoint.errors import CheckpointError, Damaged, reason
from vidjax.checkpoint.leaves import checksums, flatten, nest, signature
from vidjax.checkpoint.processes import from_main, worst

log = logging.getLogger("vidjax")
TEMPORARY = (".orbax-checkpoint-tmp", ".deleted")


class Checkpoints:
    """The checkpoints of one workdir; every process of a run opens, saves, restores and closes together."""

    def __init__(self, workdir, *, keep=3, write=True):
        """Keeps the newest `keep` steps, the best by `metrics["top1"]` and the one that an evaluation job marked.

        `write=False` changes nothing on disk.
        """
        self.folder, self.keep, self.write = files.folder_of(workdir), keep, write
        self.writer, self.saving = None, None
        if write:
            self._on_main(self._clean)

    def steps(self):
        """Complete steps in ascending order."""
        return [step for step in files.listed(self.folder) if files.complete(self.folder / str(step))]

    def latest_step(self):
        return max(self.steps(), default=None)

    def best_step(self):
        """The step with the highest finite top1 among those kept, the later of equals; None without metrics."""
        scores = []
        for step in self.steps():
            try:
                top1 = (files.read_meta(self.folder, step)["metrics"] or {}).get("top1")
            except CheckpointError:
                continue
            if top1 is not None and math.isfinite(top1):
                scores.append((top1, step))
        return max(scores)[1] if scores else None

    def save(self, step, variables, train, meta, metrics=None, wait=False):
        """Saves a bundle in the background; a step that is there already is left alone.

        `meta` is JSON (config, class names, preprocessing); the arrays may be donated as soon as this returns.
        Raises CheckpointError if this save, or the one before it, cannot be written.
        """
        if not self.write:
            raise CheckpointError(f"cannot write checkpoint {step}: {self.folder} was opened for reading only")
        self.wait()
        try:
            there = step in files.listed(self.folder) and bool(files.read_meta(self.folder, step))
        except Damaged:
            there = False
        if from_main(there):
            return
        self._on_main(self._set_aside, step)
        leaves = flatten({"variables": variables, "train": train})
        meta = dict(meta, step=int(step), metrics=metrics, shapes={k: signature(v) for k, v in leaves.items()})
        meta = json.loads(json.dumps(meta | {"checksums": checksums(leaves)}))
        tree = nest(leaves)
        ocp = files.orbax()
        items = {name: ocp.args.PyTreeSave(tree[name]) for name in tree}
        items["meta"] = ocp.args.JsonSave({"crc32": files.crc(meta), "meta": meta})
        self.saving = int(step)
        self.writer = self.writer or ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
        self._finish(lambda: self.writer.save(self.folder / str(step), args=ocp.args.Composite(**items)))
        if wait:
            self.wait()

    def wait(self):
        """Waits for the save in progress, if any, then deletes what `keep` no longer covers."""
        if self.saving is None:
            return
        self._finish(self.writer.wait_until_finished)
        self.saving = None
        self._on_main(self._prune)

    def restore(self, abstract, step=None):
        """The newest intact bundle: {variables, train} of ShapeDtypeStruct -> (variables, train, meta, step) or None.

        Leaves take the structs' shardings (NumPy arrays where a struct has none). A damaged step is logged, moved to
        `damaged_<step>` and the one before it is taken; a damaged `step` that was asked for raises CheckpointError.
        So does a checkpoint of another model, and a workdir where every checkpoint is damaged.
        """
        self.wait()
        damaged, found = files.newest(self.folder, step, lambda meta: files.load(self.folder, meta, abstract))
        for bad in damaged if self.write else ():
            self._on_main(self._set_aside, bad)
        if found is None:
            return None
        tree, meta = found
        return tree["variables"], tree["train"], meta, meta["step"]

    def close(self):
        """Waits for the save in progress and ends the writer; raises CheckpointError if the save failed."""
        self.wait()
        if self.writer:
            self.writer.close()
            self.writer = None

    def _finish(self, act):
        """Runs one stage of the save on all processes; a failure on any of them removes the save on all."""
        error = None
        try:
            act()
        except Exception as e:  # whatever a file system or Orbax raises becomes the one sentence below
            error = e
        if error and jax.process_count() > 1:
            log.error("cannot write checkpoint %d: %s", self.saving, reason(error))
        if not worst(int(error is not None)):
            return
        step, self.saving, self.writer = self.saving, None, None
        self._on_main(self._clean)
        raise CheckpointError(
            f"cannot write checkpoint {step} in {self.folder}: {reason(error)}; earlier checkpoints are intact"
        ) from error

    def _on_main(self, act, *args):
        if jax.process_index() == 0:
            act(*args)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"vidjax checkpoint {act.__name__}")

    def _clean(self):
        """Removes what failed saves and interrupted deletions left behind."""
        if self.folder.exists():
            for path in self.folder.iterdir():
                if any(mark in path.name for mark in TEMPORARY):
                    files.remove(path)

    def _prune(self):
        kept = {*self.steps()[-self.keep :], self.best_step(), files.marked(self.folder)}
        for step in self.steps():
            if step not in kept:
                gone = self.folder / f"{step}.deleted"
                (self.folder / str(step)).rename(gone)
                files.remove(gone)

    def _set_aside(self, step):
        path, target = self.folder / str(step), self.folder / f"damaged_{step}"
        if path.exists():
            files.remove(target)
            path.rename(target)


def load_variables(workdir, step=None, shardings=None):
    """The model's variables alone, verified: (nested dict, meta, step) of the newest intact step, or of `step`.

    `shardings`: one sharding for all leaves, a tree of them, or a function of the abstract variables that gives one;
    None gives NumPy arrays. Changes nothing on disk. Raises CheckpointError, also if there is no checkpoint.
    """
    folder = files.folder_of(workdir)

    def load(meta):
        shapes = {k: v for k, v in meta["shapes"].items() if k.startswith("variables/")}
        abstract = nest({k: jax.ShapeDtypeStruct(shape, jnp.dtype(dtype)) for k, (dtype, shape) in shapes.items()})
        if shardings is not None:
            places = shardings(abstract["variables"]) if callable(shardings) else shardings
            if isinstance(places, jax.sharding.Sharding):
                places = jax.tree.map(lambda _: places, abstract["variables"])
            place = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)  # noqa: E731
            abstract["variables"] = jax.tree.map(place, abstract["variables"], places)
        return files.load(folder, meta, abstract)

    tree, meta = files.newest(folder, step, load, needed=True)[1]
    return tree["variables"], meta, meta["step"]


def read_meta(workdir, step=None):
    """The meta of the newest step whose meta is intact, or of `step`; raises CheckpointError if there is none."""
    return files.newest(files.folder_of(workdir), step, lambda meta: meta, needed=True)[1]


def wait_for_new(workdir, after, timeout, poll=1.0):
    """The first complete step greater than `after` (-1: any), looked for every `poll` s; None after `timeout` s."""
    deadline = time.monotonic() + timeout
    while True:
        folder = files.folder_of(workdir)
        new = [s for s in files.listed(folder) if s > after and files.complete(folder / str(s))]
        new = from_main(min(new, default=-1))
        late = from_main(time.monotonic() >= deadline)
        if new >= 0 or late:
            return new if new >= 0 else None
        time.sleep(poll)
