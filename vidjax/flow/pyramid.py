"""What the flow algorithms share: the coarse-to-fine loop and how a batch of pairs is laid out on a device."""

import jax.numpy as jnp
from jax import lax

from vidjax.flow import sampling


def over_pairs(run, first, second):
    """Applies `run`, (2, N, H, W) -> flow (2, N, H, W), to grey pictures (N, H, W); gives float32 (N, H, W, 2).

    A CPU takes one pair at a time, which stays in its cache and stops iterating by itself; an accelerator takes all.
    """
    pairs = jnp.stack([first, second]).astype(jnp.float32)
    if pairs.shape[1] > 1:
        u = lax.platform_dependent(pairs, cpu=lambda pairs: one_by_one(run, pairs), default=run)
    else:
        u = run(pairs)
    return jnp.moveaxis(u, 0, -1)


def one_by_one(run, pairs):
    """`run` on a batch, one pair after another: (2, N, H, W) -> (2, N, H, W)."""
    return lax.map(lambda pair: run(pair[:, None])[:, 0], pairs.swapaxes(0, 1)).swapaxes(0, 1)


def coarse_to_fine(pair, solve, *, levels, scale, smallest=16):
    """Improves a zero flow by `solve(pair, flow)` from the coarsest level up: (2, N, H, W) -> (2, N, H, W).

    Each level is resized from the one below it, as OpenCV's TV-L1 does, while its short side has `smallest` pixels.
    """
    pyramid = [pair]
    for _ in range(levels - 1):
        h, w = (round(size * scale) for size in pyramid[-1].shape[2:])
        if min(h, w) < smallest:
            break
        pyramid.append(sampling.resize(pyramid[-1], h, w, 1 / scale))
    u = solve(pyramid[-1], jnp.zeros_like(pyramid[-1]))
    for level in pyramid[-2::-1]:
        u = solve(level, sampling.resize(u, *level.shape[2:]) / scale)
    return u
