"""TV-L1 optical flow: total variation of the flow plus the L1 norm of the brightness difference.

Zach, Pock and Bischof, "A Duality Based Approach for Realtime TV-L1 Optical Flow", DAGM 2007, as numbered in Sanchez,
Meinhardt-Llopis and Facciolo, "TV-L1 Optical Flow Estimation", IPOL 2013. The default parameters, the pyramid, the
median filter and the stopping rule are those of OpenCV's DualTVL1OpticalFlow.
"""

import functools

import jax.numpy as jnp
from jax import lax

from vidjax.flow import pyramid, sampling
from vidjax.flow.median import median

TAU = 0.25  # step of the dual ascent, IPOL's tau
CHECK = 5  # iterations between looks at the change; OpenCV looks after every one


def flow(
    first, second, *, weight=0.15, theta=0.3, levels=5, scale=0.8, warps=5, iterations=30, rounds=10, epsilon=0.01
):
    """The flow from grey `first` to `second`, of 0..255: two of (N, H, W) -> float32 (N, H, W, 2), (x, y) in pixels.

    `weight` is lambda, the worth of equal brightness against smoothness; `theta` ties the flow to its smoothed twin.
    Each of `levels` pictures is `scale` times the one below and warped `warps` times. A warp is at most `rounds` of a
    median filter and `iterations` steps; a pair stops once its root mean square change in a step is below `epsilon`
    pixels. With epsilon = 0 nothing stops, and the flow can be differentiated.
    """
    given = {"weight": weight, "theta": theta, "warps": warps, "iterations": iterations, "rounds": rounds}
    level = functools.partial(solve, epsilon=epsilon, **given)
    run = functools.partial(pyramid.coarse_to_fine, solve=level, levels=levels, scale=scale)
    return pyramid.over_pairs(run, first, second)


def solve(pair, u, *, warps, weight, theta, **options):
    """Improves the flow u (2, N, H, W) of one level; the dual variables live on from warp to warp."""
    first, second = pair
    sources = [second, *sampling.gradient(second)]

    def body(_, state):
        u = state[0]
        warped, dx, dy = sampling.warp_cubic(sources, u)
        data = first - warped + dx * u[0] + dy * u[1], jnp.stack([dx, dy])
        return descend(data, *state, limit=weight * theta, theta=theta, **options)

    u, _, _ = lax.fori_loop(0, warps, body, (u, jnp.zeros_like(u), jnp.zeros_like(u)))
    return u


def descend(data, *state, limit, theta, iterations, rounds, epsilon):
    """Iterates (u, px, py) on one linearised problem until every pair has converged or `rounds` are over."""
    one = functools.partial(step, data, limit=limit, theta=theta)
    looks = max(iterations // CHECK, 1)  # in a round

    def some(n, active, old):
        u = lax.cond(n % looks == 0, median, lambda u: u, old[0])
        last = lax.fori_loop(1, iterations // looks, lambda _, state: one(*state), (u, *old[1:]))
        new = one(*last)
        moving = jnp.mean(jnp.sum((new[0] - last[0]) ** 2, 0), (1, 2)) > epsilon**2
        if len(active) > 1:  # one pair alone is not looked at again once it has converged
            new = tuple(jnp.where(active[None, :, None, None], a, b) for a, b in zip(new, old, strict=True))
        return n + 1, active & moving, new

    def going(now):
        n, active, _ = now
        return jnp.any(active) & (n < rounds * looks)

    start = jnp.int32(0), jnp.ones(state[0].shape[1], bool), state
    if epsilon:
        return lax.while_loop(going, lambda now: some(*now), start)[2]
    return lax.fori_loop(0, rounds * looks, lambda _, now: some(now[0], start[1], now[2]), start)[2]


def step(data, u, px, py, *, limit, theta):
    """One step of the flow (IPOL eq. 16 and 14) and of the dual variables px and py (eq. 15), each (2, N, H, W).

    The five kernels of this step are what TV-L1 costs. XLA fuses a value into its users only where it may fuse it
    into all of them, so the norm takes the opposite differences, which are other values to it.
    """
    missing, slope = data
    square = jnp.maximum(slope[0] ** 2 + slope[1] ** 2, 1e-7)
    pull = jnp.clip((missing - slope[0] * u[0] - slope[1] * u[1]) / square, -limit, limit)
    u = u + pull[None] * slope + theta * (px - before(px, 3) + py - before(py, 2))
    rate = TAU / theta
    norm = 1 + rate * jnp.sqrt(back(u, 3) ** 2 + back(u, 2) ** 2 + 1e-12)  # the root has a gradient at 0
    return u, (px + rate * forward(u, 3)) / norm, (py + rate * forward(u, 2)) / norm


def before(x, axis):
    """The neighbour before each element along an axis, zero before the first."""
    return jnp.pad(lax.slice_in_dim(x, 0, -1, axis=axis), widths(x, axis, (1, 0)))


def forward(x, axis):
    """The next element minus this one along an axis, zero at the last."""
    return jnp.pad(lax.slice_in_dim(x, 1, None, axis=axis) - lax.slice_in_dim(x, 0, -1, axis=axis), widths(x, axis))


def back(x, axis):
    """Minus `forward`."""
    return jnp.pad(lax.slice_in_dim(x, 0, -1, axis=axis) - lax.slice_in_dim(x, 1, None, axis=axis), widths(x, axis))


def widths(x, axis, width=(0, 1)):
    """Padding of one axis, by default with one element at its end."""
    return [width if a == axis else (0, 0) for a in range(x.ndim)]
