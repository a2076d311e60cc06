"""Checkpoints of a workdir: `<workdir>/checkpoints/<step>/{variables,train,meta}`, written by Orbax in the background.

A bundle is `{variables: nested dict of arrays, train: any tree of arrays}` and a JSON meta with a checksum per leaf.
A step's folder appears by one rename, so it is there whole or not at all; every array that is read back is verified.
No checkpoint executes code: arrays and JSON are all there is.
"""

import errno
import functools
import json
import logging
import math
import os
import re
import sys
import time
import zlib

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax import lax
from jax.experimental import multihost_utils

log = logging.getLogger("vidjax")
TEMPORARY = (".orbax-checkpoint-tmp", ".deleted")
NOT_DAMAGE = ("RESOURCE_EXHAUSTED", "PERMISSION_DENIED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED")


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written, read or used, in one sentence."""


class Damaged(CheckpointError):
    """A checkpoint whose files do not hold what was saved."""


@functools.cache
def _orbax():
    """Orbax, imported on first use, without its chatter: errors stay, their tracebacks go into our exceptions.

    When one of its reads fails it drops the others half-way, and each would print; the failure itself is raised.
    """
    import orbax.checkpoint as ocp

    def quiet(record):
        if "orbax" not in record.pathname:
            return True
        record.exc_info = None
        return record.levelno >= logging.ERROR

    def ignore(what, other=sys.unraisablehook):
        file = getattr(getattr(what.object, "cr_code", None), "co_filename", "")
        if "orbax" not in file and not (what.object is None and str(what.exc_value) == "Event loop is closed"):
            other(what)

    logging.getLogger("absl").addFilter(quiet)
    logging.getLogger("asyncio").addFilter(
        lambda record: not any(library in record.getMessage() for library in ("orbax", "tensorstore"))
    )
    sys.unraisablehook = ignore
    return ocp


class Checkpoints:
    """The checkpoints of one workdir; every process of a run opens, saves, restores and closes together."""

    def __init__(self, workdir, *, keep=3, write=True):
        """Keeps the newest `keep` steps and the best by `metrics["top1"]`; `write=False` changes nothing on disk."""
        self.folder, self.keep, self.write = _folder(workdir), keep, write
        self.writer, self.saving = None, None
        if write:
            self._on_main(self._clean)

    def steps(self):
        """Complete steps in ascending order."""
        return [step for step in _listed(self.folder) if _complete(self.folder / str(step))]

    def latest_step(self):
        return max(self.steps(), default=None)

    def best_step(self):
        """The step with the highest finite top1 among those kept, the later of equals; None without metrics."""
        scores = []
        for step in self.steps():
            try:
                top1 = (_read_meta(self.folder, step)["metrics"] or {}).get("top1")
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
            there = step in _listed(self.folder) and bool(_read_meta(self.folder, step))
        except Damaged:
            there = False
        if _from_main(there):
            return
        self._on_main(self._set_aside, step)
        leaves = _flatten({"variables": variables, "train": train})
        meta = dict(meta, step=int(step), metrics=metrics, shapes={k: _signature(v) for k, v in leaves.items()})
        meta = json.loads(json.dumps(meta | {"checksums": checksums(leaves)}))
        tree = _nest(leaves)
        ocp = _orbax()
        items = {name: ocp.args.PyTreeSave(tree[name]) for name in tree}
        items["meta"] = ocp.args.JsonSave({"crc32": _crc(meta), "meta": meta})
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
        damaged, found = _newest(self.folder, step, lambda meta: _load(self.folder, meta, abstract))
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
            log.error("cannot write checkpoint %d: %s", self.saving, _reason(error))
        if not _worst(int(error is not None)):
            return
        step, self.saving, self.writer = self.saving, None, None
        self._on_main(self._clean)
        raise CheckpointError(
            f"cannot write checkpoint {step} in {self.folder}: {_reason(error)}; earlier checkpoints are intact"
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
                    _remove(path)

    def _prune(self):
        kept = {*self.steps()[-self.keep :], self.best_step()}
        for step in self.steps():
            if step not in kept:
                gone = self.folder / f"{step}.deleted"
                (self.folder / str(step)).rename(gone)
                _remove(gone)

    def _set_aside(self, step):
        path, target = self.folder / str(step), self.folder / f"damaged_{step}"
        if path.exists():
            _remove(target)
            path.rename(target)


def load_variables(workdir, step=None, shardings=None):
    """The model's variables alone, verified: (nested dict, meta, step) of the newest intact step, or of `step`.

    `shardings`: one sharding for all leaves, a tree of them, or a function of the abstract variables that gives one;
    None gives NumPy arrays. Changes nothing on disk. Raises CheckpointError, also if there is no checkpoint.
    """
    folder = _folder(workdir)

    def load(meta):
        shapes = {k: v for k, v in meta["shapes"].items() if k.startswith("variables/")}
        abstract = _nest({k: jax.ShapeDtypeStruct(shape, jnp.dtype(dtype)) for k, (dtype, shape) in shapes.items()})
        if shardings is not None:
            places = shardings(abstract["variables"]) if callable(shardings) else shardings
            if isinstance(places, jax.sharding.Sharding):
                places = jax.tree.map(lambda _: places, abstract["variables"])
            place = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)  # noqa: E731
            abstract["variables"] = jax.tree.map(place, abstract["variables"], places)
        return _load(folder, meta, abstract)

    tree, meta = _newest(folder, step, load, needed=True)[1]
    return tree["variables"], meta, meta["step"]


def read_meta(workdir, step=None):
    """The meta of the newest step whose meta is intact, or of `step`; raises CheckpointError if there is none."""
    return _newest(_folder(workdir), step, lambda meta: meta, needed=True)[1]


def wait_for_new(workdir, after, timeout, poll=1.0):
    """The first complete step greater than `after` (-1: any), looked for every `poll` s; None after `timeout` s."""
    deadline = time.monotonic() + timeout
    while True:
        new = [s for s in _listed(_folder(workdir)) if s > after and _complete(_folder(workdir) / str(s))]
        new = _from_main(min(new, default=-1))
        late = _from_main(time.monotonic() >= deadline)
        if new >= 0 or late:
            return new if new >= 0 else None
        time.sleep(poll)


def checksums(leaves):
    """A checksum per array, {path: array} -> {path: uint32}: the same for every sharding, mesh and process count."""
    return {path: int(value) for path, value in jax.device_get({k: _checksum(v) for k, v in leaves.items()}).items()}


def _checksum(x):
    if isinstance(x, jax.Array):
        return _sum_of_words(x)
    x = np.asarray(x)
    return _sum_of_words(x[..., None].view(np.uint32) if x.dtype.itemsize == 8 else x)  # jit would narrow 64 bits


@jax.jit
def _sum_of_words(x):
    """Wrapping sum of a bijective hash of each (word, position): any change within one word changes it."""
    if x.dtype == bool:
        x = x.astype(jnp.uint8)
    words = lax.bitcast_convert_type(x, {1: jnp.uint8, 2: jnp.uint16}.get(x.dtype.itemsize, jnp.uint32))
    words, position = words.astype(jnp.uint32), jnp.uint32(0)
    for axis in range(words.ndim):  # no reshape: the leaf may be split over devices along any axis
        stride = jnp.uint32(math.prod(words.shape[axis + 1 :]) % 2**32)
        position += lax.broadcasted_iota(jnp.uint32, words.shape, axis) * stride
    words = (words ^ (words >> 16)) + position * jnp.uint32(0x9E3779B1)
    words = (words ^ (words >> 16)) * jnp.uint32(0x7FEB352D)
    words = (words ^ (words >> 15)) * jnp.uint32(0x846CA68B)
    return jnp.sum(words ^ (words >> 16), dtype=jnp.uint32)


def _folder(workdir):
    return epath.Path(workdir).resolve() / "checkpoints"


def _listed(folder):
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal()) if folder.exists() else []


def _complete(path):
    return (path / "meta" / "metadata").exists() and _orbax().path.step.is_path_finalized(path)


def _read_meta(folder, step):
    path = folder / str(step) / "meta" / "metadata"
    try:
        stored = json.loads(path.read_text())
        meta = stored["meta"]
        whole = stored["crc32"] == _crc(meta) and meta["step"] == step
    except (ValueError, KeyError, TypeError, FileNotFoundError, NotADirectoryError) as e:
        raise Damaged(f"checkpoint {step} in {folder} is damaged: {path} cannot be read") from e
    except OSError as e:
        raise CheckpointError(f"cannot read checkpoint {step} in {folder}: {_reason(e)}") from e
    if not whole:
        raise Damaged(f"checkpoint {step} in {folder} is damaged: {path} does not match its checksum")
    return meta


def _newest(folder, step, load, needed=False):
    """(damaged steps, load(meta)) of the newest step that loads, or of the `step` asked for; ([], None) if none."""
    steps = _listed(folder)
    if step is not None and not _from_main(step in steps):
        raise CheckpointError(f"no checkpoint {step} in {folder}; there are {steps or 'none'}")
    damaged, last = {}, _from_main(max(steps, default=-1)) if step is None else step
    while last >= 0:
        try:
            found = load(_agree(_read_meta, folder, last))
        except Damaged as e:
            if step is not None:
                raise
            damaged[last] = e
        else:
            for error in damaged.values():
                log.warning("%s; continuing from checkpoint %d", error, last)
            return list(damaged), found
        last = _from_main(max((s for s in steps if s < last), default=-1))
    if damaged:
        raise CheckpointError(f"no intact checkpoint: {'; '.join(map(str, damaged.values()))}; use another --workdir")
    if needed:
        raise CheckpointError(f"no checkpoint in {folder}; train first, or give another --workdir")
    return [], None


def _load(folder, meta, abstract):
    """Reads and verifies the items of `abstract`: -> (tree of arrays, meta). Raises Damaged, CheckpointError."""
    wanted, step = _flatten(abstract), meta["step"]
    _compare(folder, wanted, meta)
    leaves = _agree(_read, folder, step, wanted)
    sums = checksums(leaves)
    if bad := [path for path in wanted if sums[path] != meta["checksums"][path]]:
        raise Damaged(
            f"checkpoint {step} in {folder} is damaged: {len(bad)} of {len(wanted)} leaves do not match "
            f"their checksums, the first is {bad[0]}"
        )
    return jax.tree.unflatten(jax.tree.structure(abstract), [leaves[path] for path in wanted]), meta


def _read(folder, step, wanted):
    """The leaves as stored, not verified: {path: array}. Raises Damaged; CheckpointError if it may pass."""
    ocp, leaves = _orbax(), {}

    def how(leaf):
        if leaf.sharding is None:
            return ocp.RestoreArgs(restore_type=np.ndarray, dtype=leaf.dtype)
        return ocp.ArrayRestoreArgs(sharding=leaf.sharding, global_shape=leaf.shape, dtype=leaf.dtype, strict=True)

    try:
        for name, tree in _nest(wanted).items():
            args = ocp.args.PyTreeRestore(item=tree, restore_args=jax.tree.map(how, tree))
            read = ocp.PyTreeCheckpointHandler().restore(folder / str(step) / name, args=args)
            leaves |= {f"{name}/{path}": leaf for path, leaf in _flatten(read).items()}
    except Exception as e:  # TensorStore and Orbax raise a dozen kinds for a damaged file
        if isinstance(e, MemoryError | PermissionError) or any(kind in str(_root(e)) for kind in NOT_DAMAGE):
            raise CheckpointError(f"cannot read checkpoint {step} in {folder}: {_reason(e)}") from None
        text = str(_root(e))
        leaf = re.search(r'"([^"]+)/(?:\.zarray|[\d.]+)"', text)
        what = f"{name}/{leaf[1].replace('.', '/')}" if leaf else f"an index file of {name}"
        raise Damaged(
            f"checkpoint {step} in {folder} is damaged: {what} cannot be read ({text.split(':')[0][:60]})"
        ) from None
    return leaves


def _compare(folder, wanted, meta):
    """Raises CheckpointError if the checkpoint's leaves are not the ones wanted."""
    items = {path.split("/")[0] for path in wanted}
    stored = {path: signature for path, signature in meta["shapes"].items() if path.split("/")[0] in items}
    wrong = [f"{path} is missing" for path in wanted if path not in stored]
    wrong += [f"{path} is extra" for path in stored if path not in wanted]
    for path, leaf in wanted.items():
        if path in stored and stored[path] != _signature(leaf):
            wrong.append("{} is {}{} instead of {}{}".format(path, *stored[path], *_signature(leaf)))
    wrong.sort(key=lambda w: not w.startswith("variables/"))
    if wrong:
        model = (meta.get("config") or {}).get("model") or {}
        name = "/".join(str(model[key]) for key in ("name", "variant") if key in model) or "unnamed"
        what = f"another model ({name})" if wrong[0].startswith("variables/") else "another optimizer's state"
        raise CheckpointError(
            f"checkpoint {meta['step']} in {folder} does not fit: {', '.join(wrong[:3])}{', ...' * (len(wrong) > 3)}; "
            f"this workdir holds {what}; use another --workdir or its own --config"
        )


def _flatten(tree):
    """{'variables/params/stem/kernel': leaf, ...} in the tree's order; None and empty nodes have no leaves."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _nest(leaves):
    tree = {}
    for path, leaf in leaves.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def _signature(leaf):
    return [str(jnp.dtype(leaf.dtype)), list(leaf.shape)]


def _crc(meta):
    return zlib.crc32(json.dumps(meta, sort_keys=True).encode())


def _root(error):
    while error.__cause__:
        error = error.__cause__
    return error


def _reason(error):
    """The cause of a failure in a few words; None is a failure elsewhere."""
    if error is None:
        return "another process failed"
    error = _root(error)
    text = " ".join(str(error).split())
    code = getattr(error, "errno", None) or next(map(int, re.findall(r"os_error_code='(\d+)'", text)), None)
    if code in (errno.ENOSPC, errno.EDQUOT):
        return "no space left on the device"
    return os.strerror(code) if code else text[:200] or type(error).__name__


def _remove(path):
    """Deletes a folder tree; a writer that is still ending may add a file meanwhile, so it tries a few times."""
    for pause in (0.1, 0.5, 0):
        try:
            return path.rmtree() if path.exists() else None
        except OSError:
            time.sleep(pause)
    log.warning("cannot delete %s; it is tried again at the next start", path)
    return None


def _worst(code):
    """The greatest of all processes' codes."""
    return code if jax.process_count() == 1 else int(multihost_utils.process_allgather(np.array(code)).max())


def _agree(read, folder, step, *args):
    """read(folder, step, *args), raising on every process if it raises on one: none waits for the others for ever."""
    error, found = None, None
    try:
        found = read(folder, step, *args)
    except CheckpointError as e:
        error = e
    worst = _worst(0 if error is None else 1 if isinstance(error, Damaged) else 2)
    if worst:
        elsewhere = (Damaged, CheckpointError)[worst - 1]
        raise error or elsewhere(f"checkpoint {step} in {folder} cannot be read by another process")
    return found


def _from_main(value):
    """Process 0's value of a bool or int, on every process."""
    return value if jax.process_count() == 1 else type(value)(multihost_utils.broadcast_one_to_all(np.array(value)))
