"""How a 3-D convolution is computed: one function per lowering, all equal to `native`.

XLA's own 3-D convolution is right for GPU and TPU, where the folded form triples the memory traffic. On CPU its
gradient is several times slower than PyTorch's and its depthwise form up to a hundred times, so there dense kernels
become 2-D convolutions or matrix products, grouped ones several of these, and depthwise kernels shifted multiply-adds,
each with its own gradient.
Activations stay (B, ...) with the batch first or merged as the major part of B * T: a sharded batch stays sharded.
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
from jax import lax

DEPTHWISE_LANES = 4  # groups of up to so many channels are sums of depthwise convolutions, wider ones dense
GROUPED_CHANNELS = 32  # per dense convolution of a grouped one
SUMMED_ROWS = 16  # per step of a depthwise kernel's gradient
PATCH_ELEMENTS = 2**20  # per step of a kernel's gradient: 4 MB; smaller measured much the same, 2**23 up to 2.6x slower


def native(x, kernel, strides, pads, groups):
    """XLA's convolution: (B, T, H, W, C), (t, h, w, C / groups, F) -> (B, T', H', W', F)."""
    layout = ("NTHWC", "THWIO", "NTHWC")
    return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=layout, feature_group_count=groups)


def folded(x, kernel, strides, pads, groups):
    """`native` for CPU, without XLA's 3-D convolution."""
    lanes, copies = kernel.shape[3], kernel.shape[4] // groups
    if groups > 1 and lanes <= DEPTHWISE_LANES:
        parts = (jnp.repeat(x[..., i::lanes], copies, axis=-1) for i in range(lanes))
        return sum(_depthwise(part, kernel[:, :, :, i], strides, pads) for i, part in enumerate(parts))
    kernel, pads = _drop_padding_taps(x, kernel, strides, pads)
    x, strides, pads = _slice_pointwise_axes(x, kernel.shape, strides, pads)
    if groups == 1:
        return _dense(x, kernel, strides, pads)
    return _grouped(x, kernel, strides, pads, groups)


def _drop_padding_taps(x, kernel, strides, pads):
    """Removes the taps that only ever meet padding, as two of three temporal taps do on a single frame."""
    pads = list(pads)
    for axis, ((lo, hi), stride) in enumerate(zip(pads, strides, strict=True)):
        size, taps = x.shape[1 + axis], kernel.shape[axis]
        starts = range(-lo, size + hi - taps + 1, stride)
        alive = [i for i in range(taps) if any(0 <= start + i < size for start in starts)] or range(taps)
        kernel = lax.slice_in_dim(kernel, alive[0], alive[-1] + 1, axis=axis)
        pads[axis] = (lo - alive[0], hi - (taps - 1 - alive[-1]))
    return kernel, tuple(pads)


def _slice_pointwise_axes(x, kernel_shape, strides, pads):
    """Replaces stride and padding of every axis whose kernel is 1 by padding and slicing x."""
    pointwise = [size == 1 for size in kernel_shape[:3]]
    x = _pad(x, [pad if one else (0, 0) for one, pad in zip(pointwise, pads, strict=True)])
    x = x[(slice(None), *(slice(None, None, s if one else 1) for one, s in zip(pointwise, strides, strict=True)))]
    strides = tuple(1 if one else s for one, s in zip(pointwise, strides, strict=True))
    return x, strides, tuple((0, 0) if one else tuple(pad) for one, pad in zip(pointwise, pads, strict=True))


def _dense(x, kernel, strides, pads):
    """Dense convolution, pointwise axes already sliced, as a matrix product or a 2-D convolution of B * T frames.

    The product also serves few positions and many channels, where rearranging the kernel costs more than the patches.
    """
    b, t, h, w, c = x.shape
    kt, kh, kw, _, f = kernel.shape
    size = _output_size(x, kernel, strides, pads)
    if kt == kh == kw == 1 or b * math.prod(size) <= f:
        x = _pad(x, pads)
        patches = [_window(x, tap, size, strides) for tap in _taps(kernel.shape[:3])]
        return jnp.dot(jnp.concatenate(patches, axis=-1), kernel.reshape(-1, f))
    if kh == kw == 1:
        y = conv2d(x.reshape(b, t, h * w, c), kernel[:, :, 0], (strides[0], 1), (pads[0], (0, 0)))
        return y.reshape(b, -1, h, w, f)
    if kt == 1:
        y = conv2d(x.reshape(b * t, h, w, c), kernel[0], strides[1:], pads[1:])
        return y.reshape(b, t, *y.shape[1:])
    return _frames_in_channels(x, kernel, strides, pads)


def _grouped(x, kernel, strides, pads, groups):
    """Grouped convolution as dense ones of about GROUPED_CHANNELS channels: several groups, zeros between them."""
    c, f = kernel.shape[3], kernel.shape[4] // groups
    n = max(m for m in range(1, groups + 1) if groups % m == 0 and (m == 1 or m * c <= GROUPED_CHANNELS))
    own = jnp.eye(n, dtype=bool).reshape(1, 1, 1, n, 1, n, 1)
    parts = []
    for i in range(0, groups, n):
        block = kernel[..., i * f : (i + n) * f].reshape(*kernel.shape[:3], 1, c, n, f)
        block = jnp.where(own, block, 0).reshape(*kernel.shape[:3], n * c, n * f)
        parts.append(_dense(x[..., i * c : (i + n) * c], block, strides, pads))
    return jnp.concatenate(parts, axis=-1)


@functools.partial(jax.checkpoint, static_argnums=(2, 3))
def _frames_in_channels(x, kernel, strides, pads):
    """One 2-D convolution of B * T' images that hold all frames of a window side by side in their channels.

    The images are k times x: the gradient makes them again (`jax.checkpoint`) instead of keeping them.
    """
    kt, kh, kw, c, f = kernel.shape
    x = _pad(x, (pads[0], (0, 0), (0, 0)))
    t = (x.shape[1] - kt) // strides[0] + 1
    x = jnp.concatenate([_window(x, (i,), (t,), strides[:1]) for i in range(kt)], axis=-1)
    kernel = kernel.transpose(1, 2, 0, 3, 4).reshape(kh, kw, kt * c, f)
    y = conv2d(x.reshape(-1, *x.shape[2:]), kernel, strides[1:], pads[1:])
    return y.reshape(-1, t, *y.shape[1:])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv2d(x, kernel, strides, pads):
    """2-D convolution with a gradient that is fast on CPU: (N, H, W, C), (h, w, C, F) -> (N, H', W', F)."""
    return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _conv2d_forward(x, kernel, strides, pads):
    return conv2d(x, kernel, strides, pads), (x, kernel)


def _conv2d_backward(strides, pads, saved, g):
    x, kernel = saved
    dx = _input_gradient(conv2d, g, kernel.swapaxes(2, 3), strides, pads, x.shape)
    return dx, _kernel_gradient(x, g, kernel.shape, strides, pads).astype(kernel.dtype)


def _kernel_gradient(x, g, shape, strides, pads):
    """Gradient of a 2-D convolution's kernel: patches of x times g, a few rows at a time so that both stay in cache."""
    kh, kw, c, f = shape
    if f < c and strides == (1, 1):  # the patches of g are smaller: the same sum, mirrored
        mirrored = [(k - 1 - lo, k - 1 - hi) for k, (lo, hi) in zip(shape, pads, strict=False)]
        return jnp.flip(_kernel_gradient(g, x, (kh, kw, f, c), strides, mirrored), (0, 1)).swapaxes(2, 3)
    n, h, w, _ = g.shape
    rows = max(r for r in range(1, h + 1) if h % r == 0 and (r == 1 or n * r * w * kh * kw * c <= PATCH_ELEMENTS))
    x = _pad(x, pads)

    def add_rows(total, i):
        strip = lax.dynamic_slice_in_dim(x, i * rows * strides[0], (rows - 1) * strides[0] + kh, axis=1)
        patches = jnp.concatenate([_window(strip, tap, (rows, w), strides) for tap in _taps((kh, kw))], axis=-1)
        g_strip = lax.dynamic_slice_in_dim(g, i * rows, rows, axis=1)
        contract = (((0, 1, 2), (0, 1, 2)), ((), ()))
        return total + lax.dot_general(patches, g_strip, contract, preferred_element_type=jnp.float32), None

    total, _ = lax.scan(add_rows, jnp.zeros((kh * kw * c, f), jnp.float32), jnp.arange(h // rows))
    return total.reshape(shape)


conv2d.defvjp(_conv2d_forward, _conv2d_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _depthwise(x, kernel, strides, pads):
    """Depthwise convolution as shifted multiply-adds: (B, T, H, W, C), (t, h, w, C) -> (B, T', H', W', C)."""
    size = _output_size(x, kernel, strides, pads)
    x = _pad(x, pads)
    taps = _taps(kernel.shape[:3])
    return sum(_window(x, tap, size, strides) * lax.expand_dims(kernel[tap], range(4)) for tap in taps)


def _depthwise_forward(x, kernel, strides, pads):
    return _depthwise(x, kernel, strides, pads), (x, kernel)


def _depthwise_backward(strides, pads, saved, g):
    x, kernel = saved
    convolve = _by_frame if strides == (1, 1, 1) else _depthwise
    dx = _input_gradient(convolve, g, kernel, strides, pads, x.shape)
    return dx, _depthwise_kernel_gradient(_pad(x, pads), g, kernel.shape, strides).astype(kernel.dtype)


def _by_frame(x, kernel, strides, pads):
    """`_depthwise`, one frame after another: fused into several users, XLA would compute it for each of them."""
    t, h, w = _output_size(x, kernel, strides, pads)
    x = _pad(x, pads)

    def put_frame(i, y):
        strip = lax.dynamic_slice_in_dim(x, i * strides[0], kernel.shape[0], axis=1)
        frame = _depthwise(strip, kernel, (1, *strides[1:]), ((0, 0),) * 3)
        return lax.dynamic_update_slice_in_dim(y, frame, i, axis=1)

    return lax.fori_loop(0, t, put_frame, jnp.zeros((x.shape[0], t, h, w, x.shape[-1]), x.dtype))


def _depthwise_kernel_gradient(x, g, shape, strides):
    """Gradient of a depthwise kernel (t, h, w, C): products of x and g, a few rows of one frame at a time.

    The sums keep columns and channels until the end, so that every addition is of whole rows: XLA does not vectorise a
    reduction to channels. A step loads the next step's rows, as rows that it loaded for itself would be fused into
    the sums, which then are not vectorised either.
    """
    kt, kh, kw, c = shape
    st, sh, sw = strides
    b, t, h, w, _ = g.shape
    rows = max(r for r in range(1, min(h, SUMMED_ROWS) + 1) if h % r == 0)

    def load(i):
        frame, row = i // (h // rows), i % (h // rows) * rows
        strip = lax.dynamic_slice(x, (0, frame * st, row * sh, 0, 0), (b, kt, (rows - 1) * sh + kh, x.shape[3], c))
        return strip, lax.dynamic_slice(g, (0, frame, row, 0, 0), (b, 1, rows, w, c))

    def add_rows(carry, i):
        totals, strip, g_strip = carry
        strip_sums = []
        for column, total in enumerate(totals):
            for row in range(rows):
                window = _window(strip, (0, row * sh, column), (kt, kh, w), (1, 1, sw)).astype(jnp.float32)
                total = total + window * g_strip[:, :, row : row + 1].astype(jnp.float32)
            strip_sums.append(total)
        return (strip_sums, *load(i)), None

    totals = [jnp.zeros((b, kt, kh, w, c), jnp.float32)] * kw
    (totals, *_), _ = lax.scan(add_rows, (totals, *load(jnp.array(0))), jnp.arange(1, t * (h // rows) + 1))
    return jnp.stack([total.sum((0, 3)) for total in totals], axis=2)


_depthwise.defvjp(_depthwise_forward, _depthwise_backward)


def _input_gradient(convolve, g, kernel, strides, pads, shape):
    """Gradient of a strided convolution's input: one stride-1 convolution of g per phase of the input, interleaved."""
    n = len(strides)
    sizes = [-(-length // s) for length, s in zip(shape[1:], strides, strict=False)]
    phases = []
    for phase in _taps(strides):
        sub, g_pads = kernel, []
        for axis, (r, s, (lo, _), size) in enumerate(zip(phase, strides, pads, sizes, strict=True)):
            sub = sub[(slice(None),) * axis + (slice((r + lo) % s, None, s),)]
            g_lo = sub.shape[axis] - 1 - (r + lo) // s
            g_pads.append((g_lo, size - 1 + sub.shape[axis] - g.shape[1 + axis] - g_lo))
        if 0 in sub.shape:
            phases.append(jnp.zeros((shape[0], *sizes, shape[-1]), g.dtype))
            continue
        cropped = _pad(g, [(min(lo, 0), min(hi, 0)) for lo, hi in g_pads])
        keep = tuple((max(lo, 0), max(hi, 0)) for lo, hi in g_pads)
        flipped = lax.optimization_barrier(jnp.flip(sub, range(n)))
        phases.append(convolve(cropped, flipped, (1,) * n, keep))
    if len(phases) == 1:
        return phases[0]
    dx = jnp.stack(phases, axis=-2).reshape(shape[0], *sizes, *strides, shape[-1])
    order = [0, *itertools.chain(*((1 + i, 1 + n + i) for i in range(n))), 2 * n + 1]
    dx = dx.transpose(order).reshape(shape[0], *(size * s for size, s in zip(sizes, strides, strict=True)), shape[-1])
    return dx[(slice(None), *(slice(length) for length in shape[1:-1]))]


def _output_size(x, kernel, strides, pads):
    """Frames, rows and columns of the result."""
    axes = zip(x.shape[1:4], kernel.shape, strides, pads, strict=False)
    return [(n + lo + hi - k) // s + 1 for n, k, s, (lo, hi) in axes]


def _taps(sizes):
    """All index tuples of an array of these sizes, the last index fastest."""
    return list(itertools.product(*map(range, sizes)))


def _pad(x, pads):
    """Zero padding (or, where negative, cropping) of the axes after the first."""
    if all(lo == hi == 0 for lo, hi in pads):
        return x
    rest = [(0, 0, 0)] * (x.ndim - 1 - len(pads))
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((lo, hi, 0) for lo, hi in pads), *rest])


def _window(x, start, size, strides):
    """Elements start, start + stride, ... of the axes after the first, `size` of each."""
    index = (slice(i, i + (n - 1) * s + 1, s) for i, n, s in zip(start, size, strides, strict=True))
    return x[(slice(None), *index)]


LOWERINGS = {"native": native, "folded": folded}
DEFAULTS = {"cpu": "folded"}
