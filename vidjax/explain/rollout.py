"""Attention followed through a transformer's layers."""

import functools

import jax
import jax.numpy as jnp

from vidjax import attention
from vidjax.explain.maps import on_grid, resized


def rollout(apply, clips, target=None, grid=None):
    """How much of the output comes from each patch, by attention alone: (B, T, H, W, 3) -> (B, T, H, W), the same for
    all classes.

    Abnar & Zuidema, ACL 2020: each layer's attention, mean of its heads, with as much of the identity for the residual;
    the product of all layers, in the row of the class token, or the mean of all rows where there is none. ValueError
    for nets without attention, and where it is not of all tokens with all (divided attention, windows, pooling).
    """
    with attention.recorded() as layers:
        jax.eval_shape(apply, clips)
        shapes = {x.shape for x in layers}
    if len(shapes) != 1 or any(len(s) != 3 or s[1] != s[2] for s in shapes):
        what = f"of shapes {sorted(shapes)}" if shapes else "none"
        raise ValueError(f"rollout needs attention of all tokens with all in each layer; this net's is {what}.")

    def through(x):
        with attention.recorded() as layers:
            apply(x)
        identity = jnp.eye(layers[0].shape[-1])[None]
        return functools.reduce(lambda total, one: (0.5 * one + 0.5 * identity) @ total, layers, identity)

    total, n = jax.jit(through)(clips), next(iter(shapes))[1]
    sides = clips.shape[1:4]
    whole = on_grid(jnp.zeros((len(clips), n, 1)), sides, grid).shape[1:4]
    tokens = whole[0] * whole[1] * whole[2]
    rows = total[:, 0] if tokens < n else total.mean(1)
    return resized(rows[:, n - tokens :].reshape(len(clips), *whole), sides)
