"""Mixup and CutMix inside the train step: soft labels, one mixture for the global batch.

Papers: mixup (arXiv:1710.09412), CutMix (arXiv:1905.04899). As in timm and PySlowFast, row i is mixed with row
B - 1 - i, with one lambda and one box for the whole batch; the box is the same in all frames.
"""

import jax
import jax.numpy as jnp


def mix(rng, inputs, labels, *, mixup=0.0, cutmix=0.0, mask=None, chance=1.0, switch=0.5):
    """Mixes the rows of a batch: (key, {name: (B, ...)}, (B, classes)) -> same, float32.

    `mixup` and `cutmix` are the alphas of Beta(alpha, alpha), 0 for never; where both are given, `switch` is the chance
    of CutMix, and `chance` that of any mixing. Arrays (B, T, H, W, C) are pictures, uint8 or float; others are mixed
    linearly. `labels` are one-hot, multi-hot or soft. A row is mixed where `mask` (B,) is 1 for it and its partner:
    unreadable rows neither give nor take pixels or labels. ValueError for pictures of several sizes in CutMix, and for
    integers that are no pictures, such as text.
    """
    for name, x in inputs.items():
        if x.ndim != 5 and jnp.issubdtype(x.dtype, jnp.integer):
            raise ValueError(f"the integers of input {name!r} cannot be mixed; train such a model without mixing.")
    inputs = {name: x.astype(jnp.float32) for name, x in inputs.items()}
    labels = labels.astype(jnp.float32)
    if not (mixup or cutmix):
        return inputs, labels
    height, width = _size(inputs, cutmix)
    share, box = draw(rng, height, width, mixup=mixup, cutmix=cutmix, chance=chance, switch=switch)
    pixels = _inside(box, height, width, share) if cutmix else share
    alive = jnp.ones(labels.shape[0]) if mask is None else (mask > 0).astype(jnp.float32)
    alive = alive * jnp.flip(alive, 0)
    mixed = {name: _blend(x, alive, pixels if x.ndim == 5 else share) for name, x in inputs.items()}
    return mixed, _blend(labels, alive, share)


def draw(rng, height, width, *, mixup=0.0, cutmix=0.0, chance=1.0, switch=0.5):
    """The partner's share of the batch's mixture and its box (top, bottom, left, right), empty for mixup.

    CutMix's box has the drawn share of the picture about a centre anywhere; what lies outside the picture is cut off,
    and the share that is returned is the area of the rest.
    """
    beta_key, which_key, any_key, row_key, column_key = jax.random.split(rng, 5)
    cut = jax.random.uniform(which_key) < (switch if mixup and cutmix else float(bool(cutmix)))
    alpha = jnp.where(cut, cutmix or 1.0, mixup or 1.0)
    share = 1 - jax.random.beta(beta_key, alpha, alpha)
    share = jnp.where(jax.random.uniform(any_key) < chance, share, 0.0)
    box = []
    for key, size in ((row_key, height), (column_key, width)):
        half = (jnp.where(cut, jnp.sqrt(share), 0.0) * size).astype(jnp.int32) // 2
        centre = jax.random.randint(key, (), 0, size)
        box += [jnp.clip(centre - half, 0, size), jnp.clip(centre + half, 0, size)]
    top, bottom, left, right = box
    area = (bottom - top) * (right - left) / (height * width)
    return jnp.where(cut, area, share), (top, bottom, left, right)


def _inside(box, height, width, share):
    """The partner's share of every pixel: 1 in the box, 0 outside, or `share` everywhere if there is none."""
    top, bottom, left, right = box
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)[None, :]
    inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    boxed = (bottom > top) & (right > left)
    return jnp.where(boxed, inside.astype(jnp.float32), share)[None, None, :, :, None]


def _blend(x, alive, share):
    """(1 - share) x + share x[::-1], in the rows that are alive."""
    alive = alive.reshape(-1, *(1,) * (x.ndim - 1))
    share = alive * jnp.broadcast_to(share, (1,) * x.ndim if jnp.ndim(share) == 0 else jnp.shape(share))
    return x * (1 - share) + jnp.flip(x, 0) * share


def _size(inputs, cutmix):
    """Height and width of the pictures."""
    sizes = {name: x.shape[2:4] for name, x in inputs.items() if x.ndim == 5}
    if len(set(sizes.values())) > 1 and cutmix:
        raise ValueError(f"cutmix needs pictures of one height and width, got {sizes}; use mixup alone.")
    return next(iter(sizes.values()), (1, 1))
