"""The files of a checkpoint folder: which steps there are, and reading one back verified. Knows Orbax."""

import functools
import json
import logging
import re
import sys
import time
import zlib

import jax
import numpy as np
from etils import epath

from vidjax.checkpoint.errors import CheckpointError, Damaged, reason, root
from vidjax.checkpoint.leaves import checksums, compare, flatten, nest
from vidjax.checkpoint.processes import agree, from_main

log = logging.getLogger("vidjax")
NOT_DAMAGE = ("RESOURCE_EXHAUSTED", "PERMISSION_DENIED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED")


@functools.cache
def orbax():
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


def folder_of(workdir):
    """The folder of a workdir's checkpoints."""
    return epath.Path(workdir).resolve() / "checkpoints"


def listed(folder):
    """The steps that have a folder, complete or not, in ascending order."""
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal()) if folder.exists() else []


def complete(path):
    """Whether a step's folder is one that a save has finished."""
    return (path / "meta" / "metadata").exists() and orbax().path.step.is_path_finalized(path)


def crc(meta):
    """The checksum of a JSON meta: uint32."""
    return zlib.crc32(json.dumps(meta, sort_keys=True).encode())


def read_meta(folder, step):
    """The meta of `step`, verified. Raises Damaged; CheckpointError if it may pass."""
    path = folder / str(step) / "meta" / "metadata"
    try:
        stored = json.loads(path.read_text())
        meta = stored["meta"]
        whole = stored["crc32"] == crc(meta) and meta["step"] == step
    except (ValueError, KeyError, TypeError, FileNotFoundError, NotADirectoryError) as e:
        raise Damaged(f"checkpoint {step} in {folder} is damaged: {path} cannot be read") from e
    except OSError as e:
        raise CheckpointError(f"cannot read checkpoint {step} in {folder}: {reason(e)}") from e
    if not whole:
        raise Damaged(f"checkpoint {step} in {folder} is damaged: {path} does not match its checksum")
    return meta


def marked(folder):
    """The step that `best.json` beside the folder names, as an evaluation job writes it; None without one."""
    try:
        return int(json.loads((folder.parent / "best.json").read_text())["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def newest(folder, step, load, needed=False):
    """(damaged steps, load(meta)) of the newest step that loads, or of the `step` asked for; ([], None) if none."""
    steps = listed(folder)
    if step is not None and not from_main(step in steps):
        raise CheckpointError(f"no checkpoint {step} in {folder}; there are {steps or 'none'}")
    damaged, last = {}, from_main(max(steps, default=-1)) if step is None else step
    while last >= 0:
        try:
            found = load(agree(read_meta, folder, last))
        except Damaged as e:
            if step is not None:
                raise
            damaged[last] = e
        else:
            for error in damaged.values():
                log.warning("%s; continuing from checkpoint %d", error, last)
            return list(damaged), found
        last = from_main(max((s for s in steps if s < last), default=-1))
    if damaged:
        raise CheckpointError(f"no intact checkpoint: {'; '.join(map(str, damaged.values()))}; use another --workdir")
    if needed:
        raise CheckpointError(f"no checkpoint in {folder}; train first, or give another --workdir")
    return [], None


def load(folder, meta, abstract):
    """Reads and verifies the items of `abstract`: -> (tree of arrays, meta). Raises Damaged, CheckpointError."""
    wanted, step = flatten(abstract), meta["step"]
    compare(folder, wanted, meta)
    leaves = agree(_read, folder, step, wanted)
    sums = checksums(leaves)
    if bad := [path for path in wanted if sums[path] != meta["checksums"][path]]:
        raise Damaged(
            f"checkpoint {step} in {folder} is damaged: {len(bad)} of {len(wanted)} leaves do not match "
            f"their checksums, the first is {bad[0]}"
        )
    return jax.tree.unflatten(jax.tree.structure(abstract), [leaves[path] for path in wanted]), meta


def _read(folder, step, wanted):
    """The leaves as stored, not verified: {path: array}. Raises Damaged; CheckpointError if it may pass."""
    ocp, leaves = orbax(), {}

    def how(leaf):
        if leaf.sharding is None:
            return ocp.RestoreArgs(restore_type=np.ndarray, dtype=leaf.dtype)
        return ocp.ArrayRestoreArgs(sharding=leaf.sharding, global_shape=leaf.shape, dtype=leaf.dtype, strict=True)

    try:
        for name, tree in nest(wanted).items():
            args = ocp.args.PyTreeRestore(item=tree, restore_args=jax.tree.map(how, tree))
            read = ocp.PyTreeCheckpointHandler().restore(folder / str(step) / name, args=args)
            leaves |= {f"{name}/{path}": leaf for path, leaf in flatten(read).items()}
    except Exception as e:  # TensorStore and Orbax raise a dozen kinds for a damaged file
        if isinstance(e, MemoryError | PermissionError) or any(kind in str(root(e)) for kind in NOT_DAMAGE):
            raise CheckpointError(f"cannot read checkpoint {step} in {folder}: {reason(e)}") from None
        text = str(root(e))
        leaf = re.search(r'"([^"]+)/(?:\.zarray|[\d.]+)"', text)
        what = f"{name}/{leaf[1].replace('.', '/')}" if leaf else f"an index file of {name}"
        raise Damaged(
            f"checkpoint {step} in {folder} is damaged: {what} cannot be read ({text.split(':')[0][:60]})"
        ) from None
    return leaves


def remove(path):
    """Deletes a folder tree; a writer that is still ending may add a file meanwhile, so it tries a few times."""
    for pause in (0.1, 0.5, 0):
        try:
            return path.rmtree() if path.exists() else None
        except OSError:
            time.sleep(pause)
    log.warning("cannot delete %s; it is tried again at the next start", path)
    return None
