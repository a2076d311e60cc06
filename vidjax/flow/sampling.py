"""Resizing, blurring and warping of pictures and flow fields, as the flow algorithms and OpenCV define them.

Pixel centres lie at whole numbers; a flow is (x, y) = (to the right, down) in pixels.
"""

import jax.numpy as jnp
import numpy as np

BORDER = 3  # zeros around a picture: a cubic patch further out than that sees nothing else


def warp(image, flow):
    """`image` looked up at x + flow, bilinearly, its edge repeated outside: (..., H, W, C), (..., H, W, 2) -> same.

    Backward warping: with the flow from frame 1 to frame 2, the warped frame 2 looks like frame 1. Integer pictures
    give float32.
    """
    *lead, h, w, c = image.shape
    if flow.shape != (*lead, h, w, 2):
        raise ValueError(f"warp: an image of {image.shape} needs a flow of {(*lead, h, w, 2)}, not {flow.shape}")
    image = image.reshape(-1, h, w, c)
    image = image if jnp.issubdtype(image.dtype, jnp.floating) else image.astype(jnp.float32)
    x, y = targets(jnp.moveaxis(flow.reshape(-1, h, w, 2), -1, 0))
    x, y = jnp.clip(x, 0, w - 1), jnp.clip(y, 0, h - 1)
    left, top = jnp.clip(jnp.floor(x), 0, max(w - 2, 0)), jnp.clip(jnp.floor(y), 0, max(h - 2, 0))
    at = corners(len(image), h * w) + top.astype(jnp.int32) * w + left.astype(jnp.int32)
    right, down = min(w - 1, 1), w * min(h - 1, 1)
    x, y = (a.astype(image.dtype)[..., None] for a in (x - left, y - top))
    tap = lookup(image.reshape(-1, c), at)
    upper = (1 - x) * tap(0) + x * tap(right)
    lower = (1 - x) * tap(down) + x * tap(down + right)
    return ((1 - y) * upper + y * lower).reshape(*lead, h, w, c)


def warp_cubic(pictures, flow):
    """Pictures (N, H, W) looked up at x + flow (2, N, H, W) by Keys' cubic with a = -0.75, zeros outside: a list.

    The kernel and the border are those of OpenCV's `remap`, which rounds positions to 1/32 pixel and this does not.
    """
    n, h, w = pictures[0].shape
    high, wide = h + 2 * BORDER, w + 2 * BORDER
    x, y = targets(flow)
    left, top = jnp.floor(x), jnp.floor(y)
    across, along = cubic(x - left), cubic(y - top)
    left = jnp.clip(left, 1 - BORDER, w + BORDER - 3).astype(jnp.int32)
    top = jnp.clip(top, 1 - BORDER, h + BORDER - 3).astype(jnp.int32)
    at = corners(n, high * wide) + (top + (BORDER - 1)) * wide + left + (BORDER - 1)
    found = []
    for picture in pictures:
        tap = lookup(jnp.pad(picture, ((0, 0), (BORDER, BORDER), (BORDER, BORDER))).reshape(-1), at)
        rows = (sum(across[i] * tap(j * wide + i) for i in range(4)) for j in range(4))
        found.append(sum(weight * row for weight, row in zip(along, rows, strict=True)))
    return found


def targets(flow):
    """Where each pixel goes under a flow (2, N, H, W): x and y, each (N, H, W)."""
    _, _, h, w = flow.shape
    y, x = (grid.astype(flow.dtype)[None] for grid in np.mgrid[0:h, 0:w])
    return flow[0] + x, flow[1] + y


def corners(n, size):
    """The flat index of the first pixel of each of `n` pictures of `size` pixels: int32 (n, 1, 1)."""
    return (np.arange(n, dtype=np.int32) * size)[:, None, None]


def lookup(flat, at):
    """A function from an offset to the entries of `flat` at `at` + offset, which the caller keeps inside."""
    flat = jnp.asarray(flat)
    return lambda offset: flat.at[at + offset].get(mode="promise_in_bounds")


def cubic(t, a=-0.75):
    """Weights of Keys' cubic for the samples at -1, 0, 1 and 2 of a position t in [0, 1)."""
    s = 1 - t
    outer = a * t * s * s, a * s * t * t
    inner = ((a + 2) * t - (a + 3)) * t * t + 1, ((a + 2) * s - (a + 3)) * s * s + 1
    return outer[0], *inner, outer[1]


def resize(pictures, height, width, ratio=None):
    """(..., H, W) -> (..., height, width) as OpenCV's INTER_LINEAR: pixel centres aligned, no smoothing.

    `ratio` is the step between samples in source pixels, where it is not the quotient of the sizes.
    """
    *_, h, w = pictures.shape
    if (h, w) == (height, width):
        return pictures
    rows, columns = linear(h, height, ratio), linear(w, width, ratio)
    return separable(pictures, rows, columns)


def separable(pictures, rows, columns):
    """rows @ picture @ columns.T for matrices (H', H) and (W', W) in full float32: (..., H, W) -> (..., H', W')."""
    tall = jnp.einsum("ih,...hw->...iw", rows, pictures, precision="highest")
    return jnp.einsum("...iw,jw->...ij", tall, columns, precision="highest")


def linear(size, target, ratio=None):
    """The matrix of linear interpolation from `size` to `target` samples: float32 (target, size)."""
    place = (np.arange(target) + 0.5) * (ratio or size / target) - 0.5
    before = np.floor(place).astype(int)
    matrix, line = np.zeros((target, size)), np.arange(target)
    np.add.at(matrix, (line, np.clip(before, 0, size - 1)), 1 - (place - before))
    np.add.at(matrix, (line, np.clip(before + 1, 0, size - 1)), place - before)
    return matrix.astype(np.float32)


def gradient(pictures):
    """Central differences along x and y, the edge repeated: (N, H, W) -> two of (N, H, W)."""
    wide = jnp.pad(pictures, ((0, 0), (1, 1), (1, 1)), mode="edge")
    return (wide[:, 1:-1, 2:] - wide[:, 1:-1, :-2]) / 2, (wide[:, 2:, 1:-1] - wide[:, :-2, 1:-1]) / 2
