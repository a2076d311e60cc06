"""The mesh, the rules that place every array on it, and what a net being traced may know of it.

A rule is `(path regex, PartitionSpec or f(shape, mesh) -> PartitionSpec)`; the first that matches a leaf's path wins.
"""

import collections
import concurrent.futures
import contextlib
import contextvars
import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = ("replica", "data", "fsdp", "tensor", "sequence")
BATCH = P(("replica", "data", "fsdp"))  # the batch axis of every array of a batch
DEFAULTS = {"bn": "global", "remat": "none", "sequence": "gather"}  # of a config, beside `mesh` and `sharding`


def make_mesh(devices=None, **sizes):
    """Makes the one mesh of a run, axes `AXES`; sizes not named are 1, -1 takes what is left (one axis at most).

    Over several slices of a TPU, `replica` or `data` is what crosses the slow network between them. Raises ValueError
    if the sizes do not fit the devices, or name no axis.
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
    auto = (AxisType.Auto,) * len(AXES)
    slices = len({getattr(device, "slice_index", 0) for device in devices[:used]})
    if slices == 1:
        return jax.make_mesh(shape, AXES, devices=devices[:used], axis_types=auto)
    outer = next((i for i in (0, 1) if shape[i] % slices == 0), None)
    if outer is None:
        raise ValueError(f"config.mesh {sizes} lies on {slices} slices: replica or data must be a multiple of them.")
    across = [slices if i == outer else 1 for i in range(len(AXES))]
    inside = [n // k for n, k in zip(shape, across, strict=True)]
    return Mesh(mesh_utils.create_hybrid_device_mesh(inside, across, devices[:used]), AXES, axis_types=auto)


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


def split(*axes):
    """Rule: P(*axes), without the axes of the mesh that do not divide their axis of the array."""

    def spec(shape, mesh):
        parts = [math.prod(mesh.shape[name] for name in _names(axis)) for axis in axes]
        return P(*(axis if n % k == 0 else None for axis, n, k in zip(axes, shape, parts, strict=True)))

    return spec


# Norms are small and everywhere: whole. Of a transformer's pairs of linear layers the first is split by columns (heads,
# hidden features), the second by rows, so that one sum over `tensor` ends each pair (Shoeybi et al., Megatron-LM, 2019,
# section 3); a joint qkv is split by heads where it is used.
_NORMS, _REST = (r".*\b(bn|norm)\w*/.*", P()), (".*", fsdp(min_size=2**12))
RULES = {
    "replicate": [(".*", P())],
    "fsdp": [_NORMS, _REST],
    "fsdp_tensor": [
        _NORMS,
        (r".*/(query|key|value|fc1)/kernel", split("fsdp", "tensor")),
        (r".*/(query|key|value|fc1)/bias", split("tensor")),
        (r".*/(attention\w*/proj|fc2)/kernel", split("tensor", "fsdp")),
        (r".*/qkv/kernel", split("fsdp", None)),
        _REST,
    ],
    "optimizer": [_NORMS, (r"opt_state/.*", fsdp(min_size=2**12)), (".*", P())],
}


def rules(preset):
    """The rules of a preset's name; raises ValueError naming the presets if there is none.

    `replicate` keeps everything on every device; `fsdp` splits parameters and the optimizer's state over that axis, and
    gathers each parameter where it is used; `fsdp_tensor` splits attention and MLPs over `tensor` besides; `optimizer`
    splits over `fsdp` what only the optimizer keeps.
    """
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


def check_used(places, mesh, preset):
    """Raises ValueError if the mesh has an axis for parameters over which a preset's rules split nothing."""
    used = {name for place in jax.tree.leaves(places) for axis in place.spec for name in _names(axis)}
    for axis in ("fsdp", "tensor"):
        if mesh.shape[axis] > 1 and axis not in used and (axis, preset) != ("fsdp", "replicate"):
            raise ValueError(
                f"config.mesh.{axis}={mesh.shape[axis]}, but config.sharding '{preset}' splits no parameter of this "
                f"net over it: set config.mesh.{axis}=1, or choose another of {', '.join(RULES)}."
            )


def _names(axis):
    """The mesh's axes in one entry of a PartitionSpec."""
    return () if axis is None else (axis,) if isinstance(axis, str) else tuple(axis)


BLOCKS = re.compile(r"(.*/)?block\d+/.*")


def gather(params, places, later=False):
    """Parameters as a step uses them, whole over `fsdp`; their gradients come back split as `places` store them.

    Left to itself the compiler may keep the weights in parts and add up activations instead, which are larger. With
    `later` those of blocks stay split: each block asks for its own (`stored`), and again for its gradient.
    """
    here, paths = _traced.get(), jax.tree_util.tree_map_with_path(lambda path, _: path_of(path), places)
    split = any(whole(place) != place for place in jax.tree.leaves(places))
    if later and split and here is not None:
        pairs = zip(jax.tree.leaves(paths), jax.tree.leaves(places), strict=True)
        here.stored.update({path: place for path, place in pairs if BLOCKS.fullmatch(path)})
    kept = here.stored if here is not None else {}
    return use(params, places, jax.tree.map(lambda path, place: place if path in kept else whole(place), paths, places))


def stored(module, name):
    """Where the parameters of a Linen module's child are stored, if it has to `use` them itself; else None."""
    here = _traced.get()
    if here is None or not here.stored:
        return None
    path, tree = "/".join((*module.path, name)), module.variables["params"][name]
    return jax.tree_util.tree_map_with_path(lambda at, _: here.stored[f"{path}/{path_of(at)}"], tree)


def whole(place):
    """A sharding without `fsdp`."""
    return NamedSharding(place.mesh, P(*(None if "fsdp" in _names(axis) else axis for axis in place.spec)))


def use(params, places, used=None):
    """Parameters stored at `places` moved to where they are `used`, by default whole; their gradients move back."""
    used = jax.tree.map(whole, places) if used is None else used
    if used == places:
        return params

    @jax.custom_vjp
    def move(x):
        return jax.lax.with_sharding_constraint(x, used)

    move.defvjp(lambda x: (move(x), None), lambda _, g: (jax.lax.with_sharding_constraint(g, places),))
    return move(params)


@dataclasses.dataclass
class Traced:
    """What a net knows of the mesh it is traced for: how tokens are split, what it has split, what it must gather."""

    mesh: Mesh
    sequence: str = "gather"
    used: set = dataclasses.field(default_factory=set)
    stored: dict = dataclasses.field(default_factory=dict)


_traced = contextvars.ContextVar("traced", default=None)


@contextlib.contextmanager
def traced(mesh, sequence="gather"):
    """Within it, nets are traced for a mesh, tokens split over its axis `sequence`; yields the `Traced` of them.

    Attention over split tokens gathers keys and values ("gather"), or passes them round ("ring"). On leaving it raises
    ValueError if the mesh splits tokens and nothing was split.
    """
    if sequence not in ("gather", "ring"):
        raise ValueError(f"config.sequence is gather or ring, not {sequence!r}.")
    here = Traced(mesh, sequence)
    token = _traced.set(here)
    try:
        yield here
    finally:
        _traced.reset(token)
    if mesh.shape["sequence"] > 1 and "sequence" not in here.used:
        raise ValueError(
            f"config.mesh.sequence={mesh.shape['sequence']}, but this net has no attention over all tokens that it "
            "could split: set config.mesh.sequence=1."
        )


def for_mesh(step, mesh, sequence="gather"):
    """`step`, traced within `traced`."""

    @functools.wraps(step)
    def run(*args):
        with traced(mesh, sequence):
            return step(*args)

    return run


def tracing():
    """The `Traced` of the mesh that is being traced for; None outside `traced`."""
    return _traced.get()


def constrain(x, *axes):
    """`x` split over the mesh's axes by `axes`, one entry for each of its own, where they divide it.

    As it is outside `traced`.
    """
    here = _traced.get()
    if here is None:
        return x
    place = NamedSharding(here.mesh, split(*axes)(x.shape, here.mesh))
    return jax.lax.with_sharding_constraint(x, place)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def columns(p, count):
    """`count` equal parts of a kernel or bias (..., count D), each split over `tensor` by its last axis."""
    return [constrain(part, *(None,) * (p.ndim - 1), "tensor") for part in jnp.split(p, count, -1)]


def _joined(count, _, parts):
    """The gradient of `columns`, whole: what lies side by side cannot stay split by columns."""
    return (jnp.concatenate([constrain(part, *(None,) * part.ndim) for part in parts], -1),)


columns.defvjp(lambda p, count: (columns(p, count), None), _joined)


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
