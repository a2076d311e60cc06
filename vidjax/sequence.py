"""Attention over tokens that are split between devices: long videos whose tokens do not fit one of them.

Each device has the queries, keys and values of N / P of the tokens, whole frames where frames divide. What comes out is
that of dense attention: the devices gather all keys and values, or pass theirs round in a ring and add up as they come
(Liu et al., Ring Attention, 2023, whose blocks these are), which never keeps more than two parts.
"""

import functools

import jax
import jax.numpy as jnp

from vidjax import sharding

LOWEST = -1e30  # a score that no softmax sees; finite, so that a row of them alone gives no NaN


def tokens(x):
    """Tokens (B, N, D) split by batch and, where the mesh says so and it divides, along N; others as they are."""
    return sharding.constrain(x, sharding.BATCH[0], "sequence", None) if x.ndim == 3 else x


def splits(q, bias):
    """Whether attention with queries (B, N, H, D) is split in the net that is being traced."""
    here = sharding.tracing()
    return here is not None and here.mesh.shape["sequence"] > 1 and bias is None and q.ndim == 4 and q.shape[1] > 1


def attend(q, k, v, scale, dense):
    """`dense(q, k, v, None, scale)` of q (B, N, H, D), k and v (B, M, H, D), split over B, N and H: -> (B, N, H, D)."""
    here, m = sharding.tracing(), k.shape[1]
    parts, n = here.mesh.shape["sequence"], q.shape[1]
    here.used |= {"sequence"} if parts > 1 else set()
    q, k, v = (jnp.pad(x, ((0, 0), (0, -x.shape[1] % parts), (0, 0), (0, 0))) for x in (q, k, v))
    place = sharding.split(sharding.BATCH[0], "sequence", "tensor", None)(q.shape, here.mesh)
    way = {"gather": _gathered, "ring": _ring}[here.sequence]
    way = functools.partial(way, scale=scale, dense=dense, parts=parts, keys=m)
    return jax.shard_map(way, mesh=here.mesh, in_specs=(place,) * 3, out_specs=place, check_vma=False)(q, k, v)[:, :n]


def _gathered(q, k, v, *, scale, dense, parts, keys):
    k, v = (jax.lax.all_gather(x, "sequence", axis=1, tiled=True)[:, :keys] for x in (k, v))
    return dense(q, k, v, None, scale)


def _ring(q, k, v, *, scale, dense, parts, keys):
    """Online softmax over the parts of keys and values, which move on by one device at each turn.

    `top` (B, H, n) is the largest score so far, `total` the sum of exponentials and `mixed` (B, n, H, D) of the values.
    """
    b, n, h, d = q.shape
    mine, on = jax.lax.axis_index("sequence"), [(i, (i + 1) % parts) for i in range(parts)]

    @jax.checkpoint
    def turn(carry, i):
        k, v, top, total, mixed = carry
        key = (mine - i) % parts * k.shape[1] + jnp.arange(k.shape[1])
        scores = jnp.einsum("bnhd,bmhd->bhnm", q * jnp.asarray(scale, q.dtype), k, preferred_element_type=jnp.float32)
        scores = jnp.where((key < keys)[None, None, None], scores, LOWEST)
        higher = jnp.maximum(top, scores.max(-1))
        weight, fade = jnp.exp(scores - higher[..., None]), jnp.exp(top - higher)
        total = total * fade + weight.sum(-1)
        values = jnp.einsum("bhnm,bmhd->bnhd", weight.astype(v.dtype), v, preferred_element_type=jnp.float32)
        mixed = mixed * fade.swapaxes(1, 2)[..., None] + values
        k, v = (jax.lax.ppermute(x, "sequence", on) for x in (k, v))
        return (k, v, higher, total, mixed), None

    start = jnp.full((b, h, n), LOWEST), jnp.zeros((b, h, n)), jnp.zeros((b, n, h, v.shape[-1]))
    (_, _, _, total, mixed), _ = jax.lax.scan(turn, (k, v, *start), jnp.arange(parts))
    return (mixed / total.swapaxes(1, 2)[..., None]).astype(v.dtype)
