"""Optical flow on the device: `estimate(video, method)`, pure, batched and jitted.

One contract: frames (T, H, W, 3) uint8 -> flow (T - 1, H, W, 2) float32 in pixels per frame, (x to the right, y down),
field k from frame k to frame k + 1. All of it works inside another `jit` and under `vmap`.
"""

import functools
import inspect

import jax
import jax.numpy as jnp

from vidjax.flow import farneback, horn_schunck, tvl1
from vidjax.flow.sampling import warp

__all__ = ["METHODS", "estimate", "grey", "options_of", "warp"]

METHODS = {"tvl1": tvl1.flow, "farneback": farneback.flow, "horn_schunck": horn_schunck.flow}


def estimate(video, method="tvl1", **options):
    """Flow between the frames of a video: uint8 RGB (T, H, W, 3) -> float32 (T - 1, H, W, 2); or both with B first.

    `options` are the method's own, see `METHODS[method]`. Raises ValueError for an unknown method or option, for
    another shape and for fewer than two frames. Pixels may be of any real type if they are in 0..255.
    """
    known = options_of(method)
    for name in options:
        if name not in known:
            raise ValueError(f"flow: {method} has no option {name!r}; it has {', '.join(known)}")
    if video.ndim not in (4, 5) or video.shape[-1] != 3:
        raise ValueError(f"flow: a video is (T, H, W, 3) or (B, T, H, W, 3), not {video.shape}")
    if video.shape[-4] < 2:
        raise ValueError(f"flow: a video of {video.shape[-4]} frame has no flow; it needs two")
    if min(video.shape[-3:-1]) < 16:
        raise ValueError(f"flow: frames of {video.shape[-3]} x {video.shape[-2]} pixels are too small; 16 is the least")
    return run(video, method, tuple(sorted(options.items())))


def options_of(method):
    """The options of a method and their defaults: a dict; ValueError for an unknown method."""
    if method not in METHODS:
        raise ValueError(f"flow: no method {method!r}; choose from {', '.join(METHODS)}")
    parameters = inspect.signature(METHODS[method]).parameters.values()
    return {p.name: p.default for p in parameters if p.kind == p.KEYWORD_ONLY}


@functools.partial(jax.jit, static_argnums=(1, 2))
def run(video, method, options):
    """`estimate` after its checks, with `options` as sorted pairs."""
    *lead, t, h, w, _ = video.shape
    frames = grey(video).reshape(-1, t, h, w)
    first, second = (part.reshape(-1, h, w) for part in (frames[:, :-1], frames[:, 1:]))
    return METHODS[method](first, second, **dict(options)).reshape(*lead, t - 1, h, w, 2)


def grey(video):
    """Luma of RGB, rounded as OpenCV's RGB2GRAY rounds uint8: (..., 3) -> float32 (...)."""
    if video.dtype != jnp.uint8:
        red, green, blue = jnp.moveaxis(video.astype(jnp.float32), -1, 0)
        return 0.299 * red + 0.587 * green + 0.114 * blue
    red, green, blue = jnp.moveaxis(video.astype(jnp.int32), -1, 0)
    return ((red * 9798 + green * 19235 + blue * 3735 + 16384) >> 15).astype(jnp.float32)
