"""Flash attention on a TPU by JAX's own Pallas kernel, whose scores never leave the chip's fast memory.

Dao et al., FlashAttention, 2022. Tokens are padded to whole blocks, which are told apart from the clip's by a segment.
"""

import jax.numpy as jnp

BLOCKS = 512, 128  # tokens at a time; the smaller where it pads less


def applies(q, k, bias):
    """Whether the kernel can do it and is worth it: many tokens, heads of a width that it takes, no bias.

    What it keeps for the gradient is 128 lanes wide: up to two blocks of tokens the scores themselves are less.
    """
    n, m, d = q.shape[-3], k.shape[-3], q.shape[-1]
    return bias is None and min(n, m) > 2 * BLOCKS[1] and (d <= 128 or d % 128 == 0)


def attend(q, k, v, bias, scale):
    """q (..., N, H, D), k and v (..., M, H, D) -> (..., N, H, D)."""
    from jax.experimental.pallas.ops.tpu import flash_attention as kernel

    *lead, n, h, d = q.shape
    m = k.shape[-3]
    q, k, v = (jnp.moveaxis(x.reshape(-1, *x.shape[-3:]), 1, 2) for x in (q, k, v))
    block = min(BLOCKS, key=lambda size: (-n % size + -m % size, -size))
    q, k, v = (jnp.pad(x, ((0, 0), (0, 0), (0, -x.shape[2] % block), (0, 0))) for x in (q, k, v))
    segments = None
    if k.shape[2] > m:
        is_clip = jnp.broadcast_to(jnp.arange(k.shape[2])[None] < m, (len(k), k.shape[2])).astype(jnp.int32)
        segments = kernel.SegmentIds(jnp.ones((len(q), q.shape[2]), jnp.int32), is_clip)
    sizes = kernel.BlockSizes(*(block,) * 3, 1, *(block,) * 7)
    out = kernel.flash_attention(q, k, v, None, segments, sm_scale=scale, block_sizes=sizes)
    return jnp.moveaxis(out, 1, 2)[:, :n].reshape(*lead, n, h, d)
