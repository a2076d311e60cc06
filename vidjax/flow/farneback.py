"""Farneback's optical flow: each neighbourhood is a quadratic polynomial, whose displacement has a closed form.

Farneback, "Two-Frame Motion Estimation Based on Polynomial Expansion", SCIA 2003. Parameters, pyramid, borders and
windows are those of OpenCV's calcOpticalFlowFarneback.
"""

import functools

import jax.numpy as jnp
import numpy as np
from jax import lax

from vidjax.flow import pyramid, sampling

SMALLEST = 32  # pixels on the short side of the coarsest level
TRUST = (0.14, 0.14, 0.4472, 0.4472, 0.4472)  # weights of the outermost pixels


def flow(first, second, *, scale=0.5, levels=3, window=15, iterations=3, neighbours=5, sigma=1.2, gaussian=False):
    """The flow from grey `first` to `second`, of 0..255: two of (N, H, W) -> float32 (N, H, W, 2), (x, y) in pixels.

    `levels` pictures above the full one, each `scale` times the one below. Polynomials are fitted to `neighbours`
    pixels to each side under a Gaussian of `sigma`, their displacement over a `window`, flat or `gaussian`.
    """
    taps = tuple(kernel(window // 2, window // 2 * 0.3) if gaussian else np.full(window // 2 * 2 + 1, 1 / window))
    options = {"taps": taps, "iterations": iterations, "neighbours": neighbours, "sigma": sigma}
    run = functools.partial(coarse_to_fine, scale=scale, levels=levels, **options)
    return pyramid.over_pairs(run, first, second)


def coarse_to_fine(pair, *, scale, levels, **options):
    """Solves every level of the pyramid, each smoothed from the full picture: (2, N, H, W) -> (2, N, H, W)."""
    h, w = pair.shape[2:]
    levels = next((k for k in range(levels) if min(h, w) * scale ** (k + 1) < SMALLEST), levels)
    u = None
    for size in (scale**k for k in range(levels, -1, -1)):
        high, wide = round(h * size), round(w * size)
        rows, columns = (shrink(a, b, size) for a, b in ((h, high), (w, wide)))
        level = sampling.separable(pair, rows, columns)
        u = jnp.zeros_like(level) if u is None else sampling.resize(u, high, wide) / scale
        u = solve(level, u, **options)
    return u


def shrink(size, target, scale):
    """Gaussian smoothing for a picture `scale` times as large and its resizing, in one matrix (target, size)."""
    sigma = (1 / scale - 1) / 2
    radius = max(round(sigma * 5) | 1, 3) // 2
    weights = kernel(radius, sigma) if sigma else np.array([0.25, 0.5, 0.25])
    blur, line = np.zeros((size, size)), np.arange(size)
    for offset, weight in zip(range(-radius, radius + 1), weights, strict=True):
        np.add.at(blur, (line, reflect(line + offset, size)), weight)
    return (sampling.linear(size, target) @ blur).astype(np.float32)


def reflect(at, size):
    """Indices mirrored at the first and last one, without repeating them."""
    at = np.abs(at) % max(2 * size - 2, 1)
    return np.minimum(at, 2 * size - 2 - at)


def kernel(radius, sigma):
    """A Gaussian of sum 1 on the whole numbers from -radius to radius."""
    weights = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
    return weights / weights.sum()


def solve(pair, u, *, taps, iterations, neighbours, sigma):
    """Improves the flow u (2, N, H, W) of one level of the pyramid."""
    first, second = jnp.moveaxis(polynomials(pair, neighbours, sigma), 1, 0)

    def body(_, u):
        a, b, c, d, e = smooth(equations(first, second, u), taps)
        scale = 1 / (a * c - b * b + 1e-3)
        return jnp.stack([(a * e - b * d) * scale, (c * d - b * e) * scale])

    return lax.fori_loop(0, iterations, body, u)


def polynomials(pictures, n, sigma):
    """Coefficients of y, x, yy, xx and xy around each pixel: (..., H, W) -> (5, ..., H, W)."""
    line = np.arange(-n, n + 1)
    flat = kernel(n, sigma)
    weights = [flat.astype(np.float32), (flat * line).astype(np.float32), (flat * line**2).astype(np.float32)]
    powers = np.array([(flat * line**k).sum() for k in range(5)])
    gram = np.eye(3) + powers[2]  # of 1, xx and yy
    gram[0, 0], gram[1, 1], gram[2, 2] = 1, powers[4], powers[4]
    gram[1, 2] = gram[2, 1] = powers[2] ** 2
    inverse = np.linalg.inv(gram)
    down = [slide(pictures, w, -2) for w in weights]
    one, x, xx = (slide(down[0], w, -1) for w in weights)
    y, xy = (slide(down[1], w, -1) for w in weights[:2])
    yy = slide(down[2], weights[0], -1)
    yy, xx = (inverse[0, 1] * one + inverse[1, 1] * part for part in (yy, xx))
    return jnp.stack([y / powers[2], x / powers[2], yy, xx, xy / powers[2] ** 2])


def slide(x, weights, axis):
    """Sums of `weights` times a sliding window along an axis, the edge repeated."""
    radius, size = len(weights) // 2, x.shape[axis]
    width = [(radius, radius) if a - x.ndim == axis else (0, 0) for a in range(x.ndim)]
    wide = jnp.pad(x, width, mode="edge")
    parts = (lax.slice_in_dim(wide, i, i + size, axis=axis) * float(w) for i, w in enumerate(weights) if w)
    return functools.reduce(jnp.add, parts)


def smooth(x, taps):
    """The weighted mean over a square window, the edge repeated: (..., H, W) -> same."""
    return slide(slide(x, taps, -2), taps, -1)


def equations(first, second, u):
    """Each pixel's part in the normal equations of the displacement: coefficients (5, N, H, W), u -> (5, N, H, W)."""
    h, w = u.shape[2:]
    second, inside = moved(second, u)
    y, x = (first[:2] - second[:2]) / 2
    yy, xx, xy = jnp.where(inside[None], (first[2:] + second[2:]) / 2, first[2:])
    xy = xy / 2
    y, x = y + yy * u[1] + xy * u[0], x + xy * u[1] + xx * u[0]
    parts = jnp.stack([yy * yy + xy * xy, (yy + xx) * xy, xx * xx + xy * xy, yy * y + xy * x, xy * y + xx * x])
    return parts * jnp.asarray(np.outer(trust(h), trust(w)) ** 2, jnp.float32)[None, None]


def trust(size):
    """Weights in [0, 1] of the pixels of a line, less at both ends: (size,)."""
    weights = np.ones(size)
    for i, weight in enumerate(TRUST[:size]):
        weights[i] *= weight
        weights[size - 1 - i] *= weight
    return weights


def moved(fields, u):
    """Fields (C, N, H, W) looked up bilinearly at x + u, zero where a neighbour is missing; and where none is."""
    c, n, h, w = fields.shape
    x, y = sampling.targets(u)
    left, top = jnp.floor(x), jnp.floor(y)
    inside = (left >= 0) & (left < w - 1) & (top >= 0) & (top < h - 1)
    x, y = x - left, y - top
    left, top = jnp.clip(left, 0, w - 2).astype(jnp.int32), jnp.clip(top, 0, h - 2).astype(jnp.int32)
    at = sampling.corners(n, h * w) + top * w + left
    found = []
    for field in fields:
        tap = sampling.lookup(field.reshape(-1), at)
        upper, lower = (1 - x) * tap(0) + x * tap(1), (1 - x) * tap(w) + x * tap(w + 1)
        found.append((1 - y) * upper + y * lower)
    return jnp.where(inside[None], jnp.stack(found), 0), inside
