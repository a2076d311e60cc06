"""Horn-Schunck optical flow: squared brightness difference plus squared gradient of the flow, on a pyramid.

Horn and Schunck, "Determining Optical Flow", 1981; with warps as in Meinhardt-Llopis, Sanchez and Kondermann,
"Horn-Schunck Optical Flow with a Multi-Scale Strategy", IPOL 2013.
"""

import functools

import jax.numpy as jnp
from jax import lax

from vidjax.flow import pyramid, sampling


def flow(first, second, *, alpha=15.0, levels=5, scale=0.8, warps=5, iterations=50):
    """The flow from grey `first` to `second`, of 0..255: two of (N, H, W) -> float32 (N, H, W, 2), (x, y) in pixels.

    `alpha`, in grey levels per pixel, is the worth of smoothness. Each of `levels` pictures is `scale` times the one
    below and warped `warps` times, with `iterations` Jacobi steps each. The baseline: it smooths over edges of motion.
    """
    level = functools.partial(solve, alpha=alpha, warps=warps, iterations=iterations)
    run = functools.partial(pyramid.coarse_to_fine, solve=level, levels=levels, scale=scale)
    return pyramid.over_pairs(run, first, second)


def solve(pair, u, *, alpha, warps, iterations):
    """Improves the flow u (2, N, H, W) of one level of the pyramid."""
    first, second = pair
    h, w = first.shape[1:]
    sources = jnp.stack([second, *sampling.gradient(second)], -1)

    def body(_, u):
        x, y = sampling.targets(u)
        inside = (x >= 0) & (x <= w - 1) & (y >= 0) & (y <= h - 1)  # elsewhere there is nothing to compare with
        warped, dx, dy = jnp.moveaxis(sampling.warp(sources, jnp.moveaxis(u, 0, -1)), -1, 0)
        slope = jnp.stack([dx, dy])
        rest = warped - first - dx * u[0] - dy * u[1]
        share = jnp.where(inside[None], slope / (alpha**2 + dx**2 + dy**2)[None], 0)

        def step(_, u):
            u = around(u)
            return u - share * (rest + slope[0] * u[0] + slope[1] * u[1])[None]

        return lax.fori_loop(0, iterations, step, u)

    return lax.fori_loop(0, warps, body, u)


def around(u):
    """Mean of the eight neighbours, 1/6 for those beside and 1/12 for the diagonal ones, the edge repeated."""
    h, w = u.shape[2:]
    wide = jnp.pad(u, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    part = [[wide[:, :, y : y + h, x : x + w] for x in range(3)] for y in range(3)]
    beside = part[0][1] + part[2][1] + part[1][0] + part[1][2]
    return beside / 6 + (part[0][0] + part[0][2] + part[2][0] + part[2][2]) / 12
