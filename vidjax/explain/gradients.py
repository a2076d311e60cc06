"""Explanations by the gradient of a class's logit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from vidjax.explain import relus
from vidjax.explain.maps import chosen, on_grid, resized


def gradcam(apply, clips, target, layer=None, grid=None):
    """3-D Grad-CAM: a layer's channels, weighted by the logit's mean gradient to them, summed; what is negative is 0.

    Selvaraju et al., ICCV 2017, equations 1 and 2, over space and time. `layer` is a name in `out`, by default the last
    that has places and that the logits depend on; `grid`: see `maps.on_grid`. (B, T, H, W, 3), (B,) -> (B, T, H, W).
    """
    names = [layer] if layer else with_places(apply, clips)
    for name in reversed(names):
        pair = _at_layer(apply, name)(clips, target)
        values, slopes = (on_grid(x.astype(jnp.float32), clips.shape[1:4], grid) for x in pair)
        if jnp.any(slopes):
            break
    else:
        raise ValueError(
            f"The logits do not depend on the places of {' or '.join(names)} as it stands in the net's `out`, a copy, "
            f"or past the last exchange of tokens; take another layer of {', '.join(with_places(apply, clips))}."
        )
    weights = slopes.mean(axis=(1, 2, 3), keepdims=True)
    return resized(jax.nn.relu((weights * values).sum(-1)), clips.shape[1:4])


def with_places(apply, clips):
    """Names of the activations (B, ..., C) that have places, in the order in which the net makes them."""
    names = []

    def noted(x):
        _, out = apply(x)
        names.extend(name for name, value in out.items() if hasattr(value, "ndim") and value.ndim in (3, 4, 5))
        return out

    jax.eval_shape(noted, clips)
    return names


@functools.lru_cache(maxsize=8)
def _at_layer(apply, layer):
    """Compiled: an activation and the gradient of each clip's logit to it, both of its shape."""

    def found(clips, target):
        logits_of, values = relus.from_layer(apply, clips, layer)
        return values, jax.grad(lambda v: chosen(logits_of(v), target).sum())(values)

    return jax.jit(found)


def integrated(apply, clips, target, steps=32, baseline=0.5):
    """Integrated gradients on the straight way from a clip of one grey to the clip, summed over colours.

    Sundararajan et al., ICML 2017, equation 1, by the midpoint rule: the map's sum is the logit's change from
    `baseline` to the clip, up to the steps' error. (B, T, H, W, 3), (B,) -> (B, T, H, W).
    """
    start, total = jnp.full_like(clips, baseline), 0.0
    for share in (np.arange(steps) + 0.5) / steps:
        total = total + _slope(apply)(start + share * (clips - start), target)
    return ((clips - start) * total / steps).sum(-1)


def through_relus(apply, clips, target, rule="guided"):
    """The logit's gradient to the pixels, by a rule of `relus.RULES` at each ReLU; of the colours the strongest.

    (B, T, H, W, 3), (B,) -> (B, T, H, W), never negative.
    """
    return jnp.abs(_slope(apply, rule)(clips, target)).max(-1)


@functools.lru_cache(maxsize=8)
def _slope(apply, rule=""):
    """Compiled: the gradient of each clip's logit to its pixels, by a rule for ReLUs."""

    def found(clips, target):
        logit = lambda x: chosen(apply(x)[0], target).sum()  # noqa: E731
        return jax.grad(relus.with_rule(logit, rule) if rule else logit)(clips)

    return jax.jit(found)
