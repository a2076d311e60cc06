"""Layers that three or more architectures use; the only file beside models/ that imports Flax Linen."""

import contextlib
import contextvars
import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp

from vidjax import conv

_lowering = contextvars.ContextVar("lowering", default=None)
NONE = "(?!)"  # a pattern that matches nothing
_frozen = contextvars.ContextVar("frozen", default=NONE)
_momentum = contextvars.ContextVar("momentum", default=None)
_groups = contextvars.ContextVar("groups", default=1)


@contextlib.contextmanager
def lowering(name):
    """Within it, `conv3d` is traced as "native" or "folded" whatever the backend; what is already jitted stays."""
    if name not in conv.LOWERINGS:
        raise ValueError(f"Unknown lowering {name!r}: choose one of {', '.join(conv.LOWERINGS)}.")
    token = _lowering.set(name)
    try:
        yield
    finally:
        _lowering.reset(token)


@contextlib.contextmanager
def frozen_norms(pattern):
    """Within it, batch norms whose path (`layer1_0/conv1/bn`) fully matches `pattern` use and keep their statistics.

    Partial BN of temporal segment networks (Wang et al., ECCV 2016, section 4.2) freezes all but the first.
    """
    token = _frozen.set(pattern)
    try:
        yield
    finally:
        _frozen.reset(token)


@contextlib.contextmanager
def norm_momentum(momentum):
    """Within it, batch norms in training keep `momentum` of their running statistics; with 0 these are the batch's."""
    token = _momentum.set(momentum)
    try:
        yield
    finally:
        _momentum.reset(token)


@contextlib.contextmanager
def norm_groups(count):
    """Within it, batch norms in training normalise each of `count` equal runs of the batch by its own statistics.

    As the devices of a data-parallel run do for themselves, on any number of devices. What is kept is the mean of the
    groups' statistics. ValueError, where a norm sees it, for a batch that does not divide.
    """
    token = _groups.set(count)
    try:
        yield
    finally:
        _groups.reset(token)


def normalise(video, mean, std, order="RGB"):
    """(video - mean) / std per channel: (B, T, H, W, C) -> same; `order` "BGR" reverses the channels first.

    `mean` and `std` are numbers, or one number per channel in the order that results.
    """
    if order not in ("RGB", "BGR"):
        raise ValueError(f"The field order is 'RGB' or 'BGR', not {order!r}.")
    video = video if order == "RGB" else video[..., ::-1]
    mean, std = (jnp.asarray(v, jnp.float32).reshape(1, 1, 1, 1, -1) for v in (mean, std))
    return (video - mean) / std


def local_response_norm(x, size=5, alpha=1e-4, beta=0.75, k=1.0):
    """Across channels, as Caffe and PyTorch: x / (k + alpha / size * sum of squares of `size` neighbours) ** beta.

    Krizhevsky et al., NIPS 2012, section 3.3, whose alpha is not divided by `size`.
    """
    lo = (size - 1) // 2
    window, pads = (1,) * (x.ndim - 1) + (size,), ((0, 0),) * (x.ndim - 1) + ((lo, size - 1 - lo),)
    total = jax.lax.reduce_window(jnp.square(x), 0.0, jax.lax.add, window, (1,) * x.ndim, pads)
    return x / (k + alpha / size * total) ** beta


def ceil_pads(sizes, window, strides, pads=((0, 0),) * 3):
    """Padding that makes a pool round its output size up, as Caffe does: sizes (T, H, W) -> ((lo, hi),) * 3.

    As there, a last window that would begin beyond the input and its low padding is left out.
    """
    found = []
    for n, k, s, (lo, hi) in zip(sizes, window, strides, pads, strict=True):
        out = -(-(n + lo + hi - k) // s) + 1
        out -= (out - 1) * s >= n + lo
        found.append((lo, max(hi, (out - 1) * s + k - n - lo)))
    return tuple(found)


@jax.custom_jvp
def _larger(a, b):
    """The larger of two arrays, element by element; where they are equal, the first has the gradient."""
    return jnp.maximum(a, b)


@_larger.defjvp
def _(primals, tangents):
    (a, b), (da, db) = primals, tangents
    return jnp.maximum(a, b), jnp.where(a >= b, da, db)


def max_pool(x, window, strides, pads=((0, 0),) * 3):
    """Max pool as one of slices per axis: (B, T, H, W, C) -> (B, T', H', W', C); `pads` as `conv3d`'s `padding`.

    Of equal largest elements the first in frames, then rows, then columns has the whole gradient, as in XLA's own
    pool, whose gradient takes 4-30 times as long on a CPU.
    """
    if isinstance(pads, str):
        pads = jax.lax.padtype_to_pads(x.shape[1:4], window, strides, pads)
    size = tuple(n + sum(pad) for n, pad in zip(x.shape[1:4], pads, strict=True))
    out = tuple((n - k) // s + 1 for n, k, s in zip(size, window, strides, strict=True))
    if min(out) < 1:  # no window fits
        return jnp.zeros((x.shape[0], *(max(0, n) for n in out), x.shape[4]), x.dtype)
    lowest = jnp.array(-jnp.inf, x.dtype)
    for axis in (3, 2, 1):  # so that frames decide last, and the first of them wins
        k, s, (lo, hi) = window[axis - 1], strides[axis - 1], pads[axis - 1]
        x = jax.lax.pad(x, lowest, [(int(lo), int(hi), 0) if i == axis else (0, 0, 0) for i in range(5)])
        end = (x.shape[axis] - k) // s * s + 1
        x = functools.reduce(_larger, [jax.lax.slice_in_dim(x, i, i + end, s, axis) for i in range(k)])
    return x


def conv3d(x, kernel, strides=(1, 1, 1), padding="SAME", groups=1):
    """3-D convolution: (B, T, H, W, C), (t, h, w, C / groups, F) -> (B, T', H', W', F).

    `padding` is "SAME", "VALID" or ((lo, hi),) * 3 in frames, rows, columns. How it is computed depends on the
    backend at trace time (conv.py); `lowering` overrides it.
    """
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(x.shape[1:4], kernel.shape[:3], strides, padding)
    pads = tuple((int(lo), int(hi)) for lo, hi in padding)
    name = _lowering.get() or conv.DEFAULTS.get(jax.default_backend(), "native")
    return conv.LOWERINGS[name](x, kernel, tuple(strides), pads, groups)


class Conv3D(nn.Module):
    """`conv3d` with its parameters `kernel` (t, h, w, C / groups, F) and, if asked for, `bias` (F,)."""

    features: int
    kernel_size: tuple = (3, 3, 3)
    strides: tuple = (1, 1, 1)
    padding: str | tuple = "SAME"
    groups: int = 1
    use_bias: bool = False
    dtype: str = "float32"
    kernel_init: nn.initializers.Initializer = nn.initializers.he_normal()
    bias_init: nn.initializers.Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, x):
        shape = (*self.kernel_size, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        x = conv3d(x.astype(self.dtype), kernel.astype(self.dtype), self.strides, self.padding, self.groups)
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,))
            x = x + jnp.broadcast_to(bias.astype(self.dtype), (1,) * (x.ndim - 1) + bias.shape)
        return x


class BatchNorm(nn.Module):
    """Batch normalisation over every axis but the last, statistics in float32 and over the global batch.

    Or over each of `norm_groups`.
    Params `scale` (unless `use_scale` is off), `bias` (C,); stats `mean`, `var` (C,). As in PyTorch the running
    variance is the unbiased one.
    """

    use_running_average: bool | None = None
    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: str = "float32"
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    use_scale: bool = True

    @nn.compact
    def __call__(self, x, use_running_average=None):
        use_running_average = nn.merge_param("use_running_average", self.use_running_average, use_running_average)
        use_running_average |= bool(re.fullmatch(_frozen.get(), "/".join(self.path)))
        shape = x.shape[-1:]
        scale = self.param("scale", self.scale_init, shape) if self.use_scale else 1.0
        bias = self.param("bias", nn.initializers.zeros, shape)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape)
        if use_running_average:
            mean, var = running_mean.value, running_var.value
        else:
            groups = 1 if self.is_initializing() else _groups.get()
            if x.shape[0] % groups:
                raise ValueError(f"A batch of {x.shape[0]} does not divide into the {groups} groups of config.bn.")
            parts = x.reshape(groups, x.shape[0] // groups, *x.shape[1:]) if groups > 1 else x
            axes, count = tuple(range(int(groups > 1), parts.ndim - 1)), x.size // x.shape[-1] // groups
            mean = jnp.mean(parts, axes, dtype=jnp.float32)
            square = jnp.mean(jnp.square(parts.astype(jnp.float32)), axes)
            var = jnp.maximum(square - jnp.square(mean), 0)
            if not self.is_initializing():
                m = self.momentum if _momentum.get() is None else _momentum.get()
                of_all, unbias = lambda v: v.reshape(groups, -1).mean(0), count / max(count - 1, 1)
                running_mean.value = m * running_mean.value + (1 - m) * of_all(mean)
                running_var.value = m * running_var.value + (1 - m) * of_all(var) * unbias
            if groups > 1:
                scale, bias = (jnp.broadcast_to(v, mean.shape) for v in (scale, bias))
                weight = scale * jax.lax.rsqrt(var + self.epsilon)
                place = lambda v: v.reshape(groups, *(1,) * (x.ndim - 1), *shape)  # noqa: E731
                return (parts * place(weight) + place(bias - mean * weight)).astype(self.dtype).reshape(x.shape)
        weight = scale * jax.lax.rsqrt(var + self.epsilon)
        weight, shift = (jnp.broadcast_to(v, (1,) * (x.ndim - 1) + shape) for v in (weight, bias - mean * weight))
        return (x * weight + shift).astype(self.dtype)


def shifted(x, parts):
    """TSM: the first 1 / parts of the channels from the next frame, the second from the last one: (B, T, ...) -> same.

    Beyond the clip are zeros. Lin et al., ICCV 2019, figure 1 b.
    """
    n = x.shape[-1] // parts
    zeros = jnp.zeros_like(x[:, :1, ..., :n])
    after = jnp.concatenate([x[:, 1:, ..., :n], zeros], axis=1)
    before = jnp.concatenate([zeros, x[:, :-1, ..., n : 2 * n]], axis=1)
    return jnp.concatenate([after, before, x[..., 2 * n :]], axis=-1)


def shifted_online(x, parts, last=None):
    """TSM without the future: the first 1 / parts of the channels from the last frame: (B, T, ...) -> (same, last).

    `last` (B, 1, ..., C // parts) are those channels of the frame before the clip, by default zeros; those of the
    clip's last frame come out. Lin et al., ICCV 2019, figure 1 c and section 4.2.
    """
    n = x.shape[-1] // parts
    last = jnp.zeros_like(x[:, :1, ..., :n]) if last is None else last.astype(x.dtype)
    seen = jnp.concatenate([last, x[..., :n]], axis=1)
    return jnp.concatenate([seen[:, :-1], x[..., n:]], axis=-1), seen[:, -1:]


def shift(x, parts, state, name):
    """x (B, T, ...) shifted by TSM, or as it is where `parts` is 0: both ways, or online where `state` is a dict.

    The dict's entry `name` is what `shifted_online` remembers; it is renewed.
    """
    if not parts:
        return x
    if state is None:
        return shifted(x, parts)
    x, state[name] = shifted_online(x, parts, state.get(name))
    return x


class Streaming(nn.Module):
    """A net whose `forward(video, state, train)` gives logits, activations and state, for whole videos and in pieces.

    `state` is None for a whole video, {} for the first of several pieces and for others what the piece before gave.
    """

    def __call__(self, video, *, train):
        logits, out, _ = self.forward(video, None, train)
        return logits, out

    def stream(self, video, state):
        """Logits of all frames since `state` was new: video (B, t, H, W, C) of any t -> (B, num_classes), state."""
        logits, _, state = self.forward(video, state, False)
        return logits, state


def fresh_state(model, shape):
    """Zeros like the state that `model.forward(video, {}, False)` returns third for a video of `shape`."""
    video = jax.ShapeDtypeStruct(shape, jnp.float32)
    run = functools.partial(model.init_with_output, jax.random.key(0), method="forward")
    (_, _, state), _ = jax.eval_shape(lambda x: run(x, {}, False), video)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state)
