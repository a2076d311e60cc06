"""Scaled dot-product attention, computed in the way that is fast on the backend it is traced for; `using` overrides it.

All ways give the same numbers. The softmax is float32, products are of the dtype asked for.
"""

import contextlib
import contextvars

import jax
import jax.numpy as jnp

from vidjax import sequence, sharding
from vidjax.attention import flash

_using = contextvars.ContextVar("using", default=None)
_recorded = contextvars.ContextVar("recorded", default=None)
BLOCK = 512  # queries at a time in blocked attention


@contextlib.contextmanager
def using(name):
    """Within it, `attend` is traced as "plain", "blocked", "fused" or "flash" whatever the backend."""
    if name not in ATTENTION:
        raise ValueError(f"Unknown attention {name!r}: choose one of {', '.join(ATTENTION)}.")
    token = _using.set(name)
    try:
        yield
    finally:
        _using.reset(token)


@contextlib.contextmanager
def recorded():
    """Within it, `attend` adds what each query makes of each key, mean of the heads: float32 (..., N, M), to the list.

    They are values of the trace they are made in: return them from the function that is traced.
    """
    token = _recorded.set([])
    try:
        yield _recorded.get()
    finally:
        _recorded.reset(token)


def attend(q, k, v, bias=None, *, scale=None):
    """Scaled dot-product attention: q (..., N, H, D), k and v (..., M, H, D) -> (..., N, H, D) of v's type.

    `bias` is added to the scores before the softmax and broadcasts to (..., H, N, M); `scale` is 1 / sqrt(D) unless
    given. The softmax is float32. Where tokens are split over a mesh (sequence.py), it runs on each device's part.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    name = _using.get() or _choose(q, k, bias)
    if (layers := _recorded.get()) is not None:
        layers.append(_shares(q, k, bias, scale).mean(-3))
    if sequence.splits(q, bias):
        return sequence.attend(q, k, v, scale, ATTENTION[name])
    if name == "flash" and sharding.tracing():  # no compiler splits a kernel over devices
        flat = [x.reshape(-1, *x.shape[-3:]) for x in (q, k, v)]
        return sequence.attend(*flat, scale, ATTENTION[name]).reshape(q.shape)
    return ATTENTION[name](q, k, v, bias, scale)


def _choose(q, k, bias):
    """The way that is fast here: flash attention on a GPU or TPU where it applies, else blocks of queries."""
    if jax.default_backend() == "gpu" and q.dtype != jnp.float32 and bias is None and q.shape[-1] % 8 == 0:
        return "fused"
    if jax.default_backend() == "tpu" and flash.applies(q, k, bias):
        return "flash"
    return "blocked" if q.shape[-3] * k.shape[-3] > BLOCK**2 and q.shape[-3] > BLOCK else "plain"


def _shares(q, k, bias, scale):
    """What each query makes of each key: float32 (..., H, N, M), rows of sum 1."""
    scores = jnp.einsum("...nhd,...mhd->...hnm", q * jnp.asarray(scale, q.dtype), k, preferred_element_type=jnp.float32)
    if bias is not None:
        scores = scores + jnp.broadcast_to(bias.astype(jnp.float32), scores.shape)
    return jax.nn.softmax(scores)


def _plain(q, k, v, bias, scale):
    return jnp.einsum("...hnm,...mhd->...nhd", _shares(q, k, bias, scale).astype(v.dtype), v)


def _blocked(q, k, v, bias, scale):
    """`_plain` for BLOCK queries at a time, whose scores are computed again for the gradient and never all kept."""
    *lead, n, h, d = q.shape
    count = -(-n // BLOCK)
    rows = (_split(q, -3, count),)
    if bias is not None:
        bias = jnp.broadcast_to(bias, (*bias.shape[:-2], n, k.shape[-3]))
        rows += (_split(bias, -2, count),)
    block = jax.checkpoint(lambda at: _plain(at[0], k, v, at[1] if bias is not None else None, scale))
    out = jnp.moveaxis(jax.lax.map(block, rows), 0, -4)
    return out.reshape(*lead, -1, h, d)[..., :n, :, :]


def _split(x, axis, count):
    """An axis padded and cut into `count` equal parts, which come first: (..., N, ...) -> (count, ..., n, ...)."""
    axis %= x.ndim
    size = -(-x.shape[axis] // count)
    x = jnp.pad(x, [(0, count * size - x.shape[axis]) if i == axis else (0, 0) for i in range(x.ndim)])
    return jnp.moveaxis(x.reshape(*x.shape[:axis], count, size, *x.shape[axis + 1 :]), axis, 0)


def _fused(q, k, v, bias, scale):
    """cuDNN's flash attention on an NVIDIA GPU, XLA's own elsewhere.

    cuDNN's has a gradient for even numbers of tokens alone: odd ones, such as ViViT's, get one more that counts not.
    """
    *lead, n, h, d = q.shape
    m, lengths = k.shape[-3], {}
    q, k, v = (_even(x.reshape(-1, *x.shape[-3:])) for x in (q, k, v))
    if bias is not None:
        bias = jnp.broadcast_to(bias, (*lead, h, n, m)).reshape(-1, h, n, m)
        bias = jnp.pad(bias, ((0, 0), (0, 0), (0, n % 2), (0, m % 2)))
    if n % 2 or m % 2:
        lengths = {"query_seq_lengths": n, "key_value_seq_lengths": m}
        lengths = {name: jnp.full(len(q), size, jnp.int32) for name, size in lengths.items()}
    kind = "cudnn" if jax.default_backend() == "gpu" and q.dtype != jnp.float32 else "xla"
    out = jax.nn.dot_product_attention(q, k, v, bias, scale=scale, implementation=kind, **lengths)
    return out[:, :n].reshape(*lead, n, h, d)


def _even(x):
    """(B, N, H, D) with a token of zeros more where N is odd."""
    return jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0)))


ATTENTION = {"plain": _plain, "blocked": _blocked, "fused": _fused, "flash": flash.attend}
