"""The mesh and the rules that place every array on it.

A rule is `(path regex, PartitionSpec or f(shape, mesh) -> PartitionSpec)`; the first that matches a leaf's path wins.
"""

import collections
import concurrent.futures
import math
import re

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = ("replica", "data", "fsdp", "tensor", "sequence")
BATCH = P(("replica", "data", "fsdp"))  # the batch axis of every array of a batch


def make_mesh(devices=None, **sizes):
    """Makes the one mesh of a run, axes `AXES`; sizes not named are 1, -1 takes what is left (one axis at most).

    Raises ValueError if the sizes do not fit the devices, or name no axis.
    """
    devices = jax.devices() if devices is None else devices
    if unknown := set(sizes) - set(AXES):
        raise ValueError(f"config.mesh has no axis {sorted(unknown)}; the axes are {', '.join(AXES)}.")
    shape = [sizes.get(axis, 1) for axis in AXES]
    if shape.count(-1) > 1 or any(n < 1 and n != -1 for n in shape):
        raise ValueError(f"config.mesh {sizes} must have positive sizes and at most one -1.")
    fixed = math.prod(n for n in shape if n != -1)
    if -1 in shape:
        shape[shape.index(-1)] = max(len(devices) // fixed, 1)
    used = math.prod(shape)
    if used > len(devices) or (jax.process_count() > 1 and used != len(devices)):
        raise ValueError(f"config.mesh {sizes} takes {used} devices, but {len(devices)} are here.")
    return jax.make_mesh(shape, AXES, devices=devices[:used], axis_types=(AxisType.Auto,) * len(AXES))


def fsdp(min_size):
    """Rule: splits an array's largest dividing axis over `fsdp`; arrays under `min_size` elements are replicated."""

    def spec(shape, mesh):
        parts = mesh.shape["fsdp"]
        axes = [i for i, n in enumerate(shape) if n % parts == 0]
        if math.prod(shape) < min_size or not axes:
            return P()
        largest = max(axes, key=lambda i: shape[i])
        return P(*("fsdp" if i == largest else None for i in range(len(shape))))

    return spec


RULES = {
    "replicate": [(".*", P())],
    "fsdp": [(r".*\b(bn|norm)\w*/.*", P()), (".*", fsdp(min_size=2**12))],
}


def rules(preset):
    """The rules of a preset's name; raises ValueError naming the presets if there is none."""
    if preset not in RULES:
        raise ValueError(f"config.sharding '{preset}' is no preset; choose one of {', '.join(RULES)}.")
    return RULES[preset]


def path_of(key_path):
    """A leaf's path as the rules see it, such as params/stem/conv/kernel."""
    return jax.tree_util.keystr(key_path, simple=True, separator="/")


def shardings(tree, mesh: Mesh, rules):
    """The sharding of every leaf of a tree of arrays or shapes; ValueError if no rule matches a path."""

    def place(key_path, leaf):
        path = path_of(key_path)
        for pattern, spec in rules:
            if re.fullmatch(pattern, path):
                return NamedSharding(mesh, spec(leaf.shape, mesh) if callable(spec) else spec)
        raise ValueError(f"no sharding rule matches {path}; end the rules with ('.*', ...).")

    return jax.tree_util.tree_map_with_path(place, tree)


def replicated(mesh):
    """The sharding of an array that every device holds whole."""
    return NamedSharding(mesh, P())


def batch_block(mesh, batch_size):
    """Which part of the global batch this process feeds: (block, blocks), rows in `blocks` equal runs.

    Taken from the devices, not from the process index: processes that share a model axis feed the same rows.
    """
    parts = math.prod(mesh.shape[axis] for axis in BATCH[0])
    if batch_size % parts:
        raise ValueError(f"a batch of {batch_size} does not divide over the mesh's {parts} data-parallel devices.")
    index = NamedSharding(mesh, BATCH).addressable_devices_indices_map((batch_size,))
    rows = sorted({rows.indices(batch_size)[:2] for (rows,) in index.values()})
    start, size = rows[0][0], rows[-1][1] - rows[0][0]
    if sum(stop - begin for begin, stop in rows) != size or batch_size % size or start % size:
        raise ValueError("this process's devices hold scattered rows of the batch; order the mesh by process.")
    return start // size, batch_size // size


def to_devices(batch, mesh, batch_size):
    """Puts this process's rows of a batch on its devices as part of the global arrays: (b, ...) -> (B, ...)."""
    place = NamedSharding(mesh, BATCH)
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(place, x, (batch_size, *x.shape[1:])),
        batch,
    )


def prefetch(batches, put, depth=2):
    """Yields (batch, put(batch)) with up to `depth` of them made ahead in a thread, so that transfer costs no step."""
    batches, ahead = iter(batches), collections.deque()

    def make():
        batch = next(batches, None)
        return None if batch is None else (batch, put(batch))

    with concurrent.futures.ThreadPoolExecutor(1, "prefetch") as pool:
        try:
            ahead.extend(pool.submit(make) for _ in range(depth))
            while found := ahead.popleft().result():
                ahead.append(pool.submit(make))
                yield found
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
