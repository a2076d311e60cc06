"""Maps over a clip, and the grids of the activations that they come from."""

import jax
import jax.numpy as jnp


def chosen(logits, target):
    """Each clip's logit of its class: (B, C), (B,) -> (B,) float32."""
    return jnp.take_along_axis(logits.astype(jnp.float32), target[:, None], 1)[:, 0]


def resized(maps, shape):
    """Maps (B, t, h, w) on a clip's own grid (T, H, W), linear between the middles of their cells."""
    return jax.image.resize(maps.astype(jnp.float32), (len(maps), *shape), "trilinear", antialias=False)


def normalised(maps):
    """Maps (B, T, H, W) divided by the largest size of each clip's: in [-1, 1]; maps of zeros stay."""
    largest = jnp.abs(maps).max(axis=tuple(range(1, maps.ndim)), keepdims=True)
    return jnp.where(largest > 0, maps / jnp.where(largest > 0, largest, 1), 0)


def on_grid(values, clip, grid=None):
    """An activation with its places apart: (B, t, h, w, C) as it is, tokens (B, N, C) without a class token.

    `clip` is (T, H, W). Tokens are in the order time, rows, columns; `grid` (t, h, w) is theirs where `grids` does not
    find it first. A map of one frame (B, h, w, C) has one time. ValueError where no grid fits.
    """
    if values.ndim == 5:
        return values
    if values.ndim == 4:
        return values[:, None]
    if values.ndim != 3:
        raise ValueError(
            f"an activation of shape {values.shape} has no places; take one of (B, t, h, w, C) or (B, N, C)."
        )
    n = values.shape[1]
    found = [grid] if grid else grids(n, clip) or grids(n - 1, clip)
    if not found:
        raise ValueError(
            f"{n} tokens of a clip of {'x'.join(map(str, clip))} fit no grid of patches; give grid=(t, h, w)."
        )
    t, h, w = found[0]
    return values[:, n - t * h * w :].reshape(len(values), t, h, w, values.shape[-1])


def grids(count, clip):
    """Grids (t, h, w) of so many equal patches, square in space, that divide a clip: the shortest in time first."""
    frames, height, width = clip
    found = []
    for t in (t for t in range(frames, 0, -1) if frames % t == 0 and count % t == 0):
        for h in (h for h in range(1, height + 1) if height % h == 0 and (count // t) % h == 0):
            w = count // t // h
            if width % w == 0 and height // h == width // w:
                found.append((t, h, w))
    return found
