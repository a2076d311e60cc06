"""Layers that three or more video transformers use: attention, MLP, drop path, position tables, runs of equal blocks.

Arrays are tokens (B, N, D), or any (..., N, D). Norms, softmax and residual sums are float32; products are of the dtype
asked for. How attention is computed is `vidjax.attention`'s.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from vidjax import sequence, sharding
from vidjax.attention import attend


class LayerNorm(nn.Module):
    """Layer norm over the last axis with statistics in float32: (..., D) -> same, in `dtype`.

    Params `scale` and `bias` (D,). The variance is the mean of squared distances, as in PyTorch.
    """

    epsilon: float = 1e-6
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        x = x.astype(jnp.float32)
        x = x - x.mean(-1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + self.epsilon)
        scale, bias = (jnp.broadcast_to(p, (1,) * (x.ndim - 1) + p.shape) for p in (scale, bias))
        return (x * scale + bias).astype(self.dtype)


class Patch(nn.Module):
    """Cuts a video in tubes of `size` (t, h, w) and projects each: (B, T, H, W, C) -> (B, T/t, H/h, W/w, features).

    Params `kernel` (t, h, w, C, features), a convolution's, and `bias`. ValueError where a side does not divide.
    """

    features: int
    size: tuple
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x):
        b, *sides, c = x.shape
        if any(side % part for side, part in zip(sides, self.size, strict=True)):
            what = "x".join(map(str, sides))
            raise ValueError(f"A clip of {what} does not divide into patches of {'x'.join(map(str, self.size))}.")
        (t, h, w), (i, j, k) = self.size, (side // part for side, part in zip(sides, self.size, strict=True))
        init = nn.initializers.xavier_uniform((0, 1, 2, 3))
        kernel = self.param("kernel", init, (t, h, w, c, self.features)).astype(self.dtype)
        x = x.astype(self.dtype).reshape(b, i, t, j, h, k, w, c).transpose(0, 1, 3, 5, 2, 4, 6, 7)
        x = jnp.dot(x.reshape(b, i, j, k, t * h * w * c), kernel.reshape(-1, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        return x + jnp.broadcast_to(bias, (1, 1, 1, 1, self.features))


class DropPath(nn.Module):
    """Stochastic depth (Huang et al., ECCV 2016): a row of the batch is 0 with a chance of `rate`, else scaled up.

    `rate` may be traced, so that equal blocks of different rates can be scanned. The rng is `dropout`.
    """

    deterministic: bool

    @nn.compact
    def __call__(self, x, rate):
        if self.deterministic or (isinstance(rate, float | int) and not rate):
            return x
        keep = 1 - jnp.asarray(rate, jnp.float32)
        kept = jax.random.bernoulli(self.make_rng("dropout"), keep, (x.shape[0],) + (1,) * (x.ndim - 1))
        return jnp.where(kept, x / keep.astype(x.dtype), jnp.zeros((), x.dtype))


class Dense(nn.Module):
    """Linear layer of any rank in `dtype`: (..., I) -> (..., features); params `kernel` (I, features), `bias`."""

    features: int
    use_bias: bool = True
    dtype: str = "float32"
    kernel_init: nn.initializers.Initializer = nn.initializers.truncated_normal(0.02)

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,)) if self.use_bias else None
        return _linear(x, kernel, bias, self.dtype)


def _linear(x, kernel, bias, dtype):
    x = jnp.dot(x.astype(dtype), kernel.astype(dtype))
    return x if bias is None else x + jnp.broadcast_to(bias.astype(dtype), (1,) * (x.ndim - 1) + bias.shape)


class Joint(nn.Module):
    """`count` linear layers of one width whose parameters lie side by side: (..., D) -> count of (..., D).

    One product on one device; of several that split heads each has its own columns of every layer.
    """

    count: int
    use_bias: bool = True
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x):
        d, here = x.shape[-1], sharding.tracing()
        kernel = self.param("kernel", nn.initializers.truncated_normal(0.02), (d, self.count * d))
        bias = self.param("bias", nn.initializers.zeros, (self.count * d,)) if self.use_bias else None
        if here is None or here.mesh.shape["tensor"] == 1:
            return jnp.split(_linear(x, kernel, bias, self.dtype), self.count, -1)
        parts = [sharding.columns(p, self.count) if p is not None else [None] * self.count for p in (kernel, bias)]
        return [_linear(x, *part, self.dtype) for part in zip(*parts, strict=True)]


class Mlp(nn.Module):
    """Two linear layers with a GELU between: (..., D) -> same; `fc1` (D, hidden), `fc2` (hidden, D).

    The GELU is exact, or `approximate` by tanh.
    """

    hidden: int
    dropout: float = 0.0
    train: bool = False
    dtype: str = "float32"
    approximate: bool = False

    @nn.compact
    def __call__(self, x):
        drop = functools.partial(nn.Dropout, self.dropout, deterministic=not self.train)
        y = jax.nn.gelu(Dense(self.hidden, dtype=self.dtype, name="fc1")(x), self.approximate)
        y = Dense(x.shape[-1], dtype=self.dtype, name="fc2")(drop(name="drop1")(y))
        return drop(name="drop2")(y)


class SelfAttention(nn.Module):
    """Multi-head self-attention: (..., N, D) -> same, with `qkv` (D, 3 D) for query, key and value, and `proj` (D, D).

    With `fused` off the three have names of their own, and `biases` says which of "qkv" have one.
    """

    heads: int
    fused: bool = True
    biases: str = "qkv"
    dropout: float = 0.0
    train: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x, bias=None):
        *lead, n, d = x.shape
        if d % self.heads:
            raise ValueError(f"The width {d} does not divide by {self.heads} heads.")
        if self.fused:
            parts = Joint(3, bool(self.biases), self.dtype, name="qkv")(x)
        else:
            names = ("query", "key", "value")
            parts = [Dense(d, name[0] in self.biases, self.dtype, name=name)(x) for name in names]
        q, k, v = (part.reshape(*lead, n, self.heads, d // self.heads) for part in parts)
        y = Dense(d, dtype=self.dtype, name="proj")(attend(q, k, v, bias).reshape(*lead, n, d))
        return nn.Dropout(self.dropout, deterministic=not self.train, name="drop")(y)


class Block(nn.Module):
    """Pre-norm transformer block: x + attention(norm1(x)), then x + mlp(norm2(x)): (B, N, D) -> same, float32.

    `attention` are fields of SelfAttention as (name, value), `approximate` is Mlp's; `rate` is that of drop path.
    """

    heads: int
    hidden: int
    attention: tuple = ()
    epsilon: float = 1e-6
    dropout: float = 0.0
    train: bool = False
    dtype: str = "float32"
    approximate: bool = False

    @nn.compact
    def __call__(self, x, rate=0.0):
        fields = {"dropout": self.dropout, "train": self.train, "dtype": self.dtype}
        drop = functools.partial(DropPath, not self.train)
        attention = SelfAttention(self.heads, **dict(self.attention), **fields, name="attention")
        y = attention(LayerNorm(self.epsilon, self.dtype, name="norm1")(x))
        x = x + drop(name="path1")(y.astype(jnp.float32), rate)
        mlp = Mlp(self.hidden, **fields, approximate=self.approximate, name="mlp")
        y = mlp(LayerNorm(self.epsilon, self.dtype, name="norm2")(x))
        return x + drop(name="path2")(y.astype(jnp.float32), rate)


class AttentivePooler(nn.Module):
    """One vector that asks all tokens, after `depth` blocks of self-attention: (B, N, D) -> (B, D), float32.

    Assran et al., V-JEPA 2, 2025, section 4.1; with depth 0 Bardes et al., V-JEPA, 2024, section 4.2. ValueError where
    the width does not divide by `heads`.
    """

    heads: int
    depth: int = 0
    train: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, tokens):
        b, n, d = tokens.shape
        if d % self.heads:
            raise ValueError(f"An attentive pooler of {self.heads} heads needs a width they divide, not {d}.")
        fields = {"attention": (("fused", False),), "train": self.train, "dtype": self.dtype}
        block = functools.partial(Block, self.heads, 4 * d, **fields)
        tokens, _ = run(self, block, self.depth, tokens.astype(jnp.float32))
        tokens = LayerNorm(dtype=self.dtype, name="norm1")(tokens)
        asking = self.param("cls", nn.initializers.truncated_normal(0.02), (1, 1, d))
        asking = jnp.broadcast_to(asking, (b, 1, d))
        dense = functools.partial(Dense, d, dtype=self.dtype)
        split = lambda x: x.reshape(b, -1, self.heads, d // self.heads)  # noqa: E731
        q, k, v = dense(name="query")(asking), dense(name="key")(tokens), dense(name="value")(tokens)
        x = asking + attend(split(q), split(k), split(v)).reshape(b, 1, d).astype(jnp.float32)
        mlp = Mlp(4 * d, train=self.train, dtype=self.dtype, name="mlp")
        x = x + mlp(LayerNorm(dtype=self.dtype, name="norm2")(x)).astype(jnp.float32)
        return x[:, 0]


def run(parent, block, depth, x, *, rate=0.0, scan=False, remat=False, prefix="block", first=0):
    """Applies `depth` equal blocks in a module's `__call__`: -> (x, {"block0": x after it, ...}), from `first` on.

    `block` makes one, `block(name=...)`, called as `(x, rate)`: (B, N, D) -> same; the rate of drop path grows evenly
    from 0 to `rate`, or is a tuple of one for each. `scan` compiles one block and loops over it; `remat` keeps only
    what lies between blocks for the gradient. Parameters are the same tree, `block0`, `block1`, ..., either way.
    """
    names = [f"{prefix}{first + i}" for i in range(depth)]
    rates = rate if isinstance(rate, tuple) else [rate * i / max(depth - 1, 1) for i in range(depth)]
    fresh = parent.is_initializing()
    split = None if fresh or not depth else sharding.stored(parent, names[0])
    if fresh or not (scan or split):
        out = {}
        for name, own in zip(names, rates, strict=True):
            one = block(name=name)
            x = sequence.tokens(x)
            x = out[name] = nn.remat(type(one).__call__)(one, x, own) if remat else one(x, own)
        return x, out
    trees = [parent.variables["params"][name] for name in names]
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
    random = parent.has_rng("dropout")
    keys = jax.random.split(parent.make_rng("dropout"), depth) if random else jnp.zeros(depth)
    one = block(parent=None)

    def step(x, at):
        own, own_rate, key = at
        own = sharding.use(own, split) if split else own
        x = sequence.tokens(x)
        rngs = {"dropout": key} if random else {}
        x = one.apply({"params": own}, x, own_rate if any(rates) else 0.0, rngs=rngs)
        return x, x

    step = jax.checkpoint(step, prevent_cse=False) if remat else step
    x, after = jax.lax.scan(step, x, (params, jnp.array(rates, jnp.float32), keys))
    return x, {name: after[i] for i, name in enumerate(names)}


def sincos(count, width):
    """Fixed positions of Vaswani et al. 2017: float32 (count, width), sines at even, cosines at odd channels."""
    rate = 1 / 10000 ** (2 * (jnp.arange(width) // 2) / width)
    angle = jnp.arange(count)[:, None] * rate[None]
    return jnp.where(jnp.arange(width)[None] % 2 == 0, jnp.sin(angle), jnp.cos(angle)).astype(jnp.float32)


def resize_positions(table, grid, method="trilinear"):
    """A table of positions for another grid: (T, H, W, D) -> (t, h, w, D), bilinear or "cubic" between its points.

    Points lie at the middle of their cells, so that a grid twice as fine covers the same clip; no antialiasing.
    """
    if table.shape[:-1] == tuple(grid):
        return table
    return jax.image.resize(table, (*grid, table.shape[-1]), method, antialias=False)
