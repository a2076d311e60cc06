"""What the leaves of a bundle are, and whether they are the right ones: their paths, shapes and checksums."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vidjax.checkpoint.errors import CheckpointError


def flatten(tree):
    """{'variables/params/stem/kernel': leaf, ...} in the tree's order; None and empty nodes have no leaves."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in jax.tree.leaves_with_path(tree)
    }


def nest(leaves):
    """Nested dicts of the leaves of `flatten`: {'a/b': leaf} -> {a: {b: leaf}}."""
    tree = {}
    for path, leaf in leaves.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def signature(leaf):
    """[dtype, shape] of an array or struct as JSON holds it: ['float32', [3, 64]]."""
    return [str(jnp.dtype(leaf.dtype)), list(leaf.shape)]


def compare(folder, wanted, meta):
    """Raises CheckpointError if the checkpoint's leaves are not the ones wanted."""
    items = {path.split("/")[0] for path in wanted}
    stored = {path: there for path, there in meta["shapes"].items() if path.split("/")[0] in items}
    wrong = [f"{path} is missing" for path in wanted if path not in stored]
    wrong += [f"{path} is extra" for path in stored if path not in wanted]
    for path, leaf in wanted.items():
        if path in stored and stored[path] != signature(leaf):
            wrong.append("{} is {}{} instead of {}{}".format(path, *stored[path], *signature(leaf)))
    wrong.sort(key=lambda w: not w.startswith("variables/"))
    if wrong:
        model = (meta.get("config") or {}).get("model") or {}
        name = "/".join(str(model[key]) for key in ("name", "variant") if key in model) or "unnamed"
        what = f"another model ({name})" if wrong[0].startswith("variables/") else "another optimizer's state"
        raise CheckpointError(
            f"checkpoint {meta['step']} in {folder} does not fit: {', '.join(wrong[:3])}{', ...' * (len(wrong) > 3)}; "
            f"this workdir holds {what}; use another --workdir or its own --config"
        )


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
