"""MotionNet: optical flow of stacked frames from an encoder and decoder, learnt without labels.

Paper: Hidden Two-Stream Convolutional Networks for Action Recognition (Zhu et al., ACCV 2018).
Input: RGB in [0, 1], (B, 11, H, W, 3). Output: flow (B, 10, H, W, 2) in pixels per frame of the input, x and y, from
frame k to k + 1; and `flow2` to `flow6`, the same at 1/2 to 1/32 of the size, in pixels of their own grid, which is
what the losses of each scale warp with (`losses`; models/hidden_two_stream.py trains by them).
References: bryanyzhu/Hidden-Two-Stream (Caffe, BGR), for `tiny` jbohnslav/deepethogram, whose batch norm is left out.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from vidjax.nn import Conv3D, conv3d, local_response_norm, normalise

PAPER = "Zhu et al., ACCV 2018"

MEAN = (123 / 255, 117 / 255, 104 / 255)  # of the reference, in RGB
SCALE = 20.0  # pixels of the input for a prediction of 1
EPSILON = 0.001  # of the Charbonnier function, Caffe's default
BORDER = 0.1  # of the shorter side: what may move out of sight and is left out of the losses
WINDOW, C1, C2 = 8, 1e-4, 1e-3  # of structural similarity: pixels, and the constants that keep quotients finite

VARIANTS = {
    "full": {"widths": (64, 128, 256, 512, 512, 1024), "up": (512, 256, 128, 64)},  # the reference's prototxt
    "tiny": {"widths": (64, 128, 256, 128), "kernels": (7, 5, 3, 3), "up": (128, 64), "twice": False},
    "mini": {"widths": (32, 48, 64), "up": (32,), "frames": 8, "init_gain": 0.1},  # ours, for clips of about 8x40x40
    "small": {"widths": (8, 16, 24), "up": (16,), "frames": 3, "init_gain": 0.1},  # ours, for tests
}


def _size(params, gmac, *, frames=11, size=224, paper=PAPER):
    return {"input": (frames, size, size, 3), "params": params, "gmac": gmac, "paper": paper}


SIZES = {  # [P] published, [C] computed from the definition (tests/test_motionnet.py); GMAC per 10 fields
    "full": _size(42_319_860, 20.054),  # [C] from the prototxt; 169 MB, the paper's 170 MB
    "tiny": _size(1_950_308, 12.785),  # [C]; 7.8 MB, the paper's 8 MB [M]
    "mini": _size(190_666, 0.063, frames=8, size=40, paper="none (small clips)"),  # [C]
    "small": _size(26_484, 0.005, frames=3, size=32, paper="none (tests)"),  # [C]
}


class Conv(nn.Module):
    """k x k convolution with bias: (B, H, W, C) -> (B, H / s, W / s, features), leaky ReLU of slope 0.1 or none."""

    features: int
    kernel: int = 3
    stride: int = 1
    leaky: bool = True
    dtype: str = "float32"
    init_gain: float = 1.0

    @nn.compact
    def __call__(self, x):
        k, s, half = self.kernel, self.stride, self.kernel // 2
        padding = ((0, 0), (half, half), (half, half))
        init = nn.initializers.variance_scaling(2 * self.init_gain**2, "fan_in", "truncated_normal")
        conv = Conv3D(self.features, (1, k, k), (1, s, s), padding, dtype=self.dtype, kernel_init=init, name="conv")
        x = conv(x[:, None])[:, 0] + _bias(self)
        return nn.leaky_relu(x, 0.1) if self.leaky else x


class Deconv(nn.Module):
    """Transposed 4 x 4 convolution of stride 2 with bias: (B, H, W, C) -> (B, 2H, 2W, features).

    Every second row and column of the output is a 2 x 2 convolution of its own: no multiplication with zeros.
    """

    features: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x):
        b, h, w, c = x.shape
        init = nn.initializers.variance_scaling(2 / 4, "fan_in", "normal")  # four of the 16 taps meet an output
        kernel = self.param("kernel", init, (1, 4, 4, c, self.features)).astype(self.dtype)
        x = x[:, None].astype(self.dtype)
        rows = []
        for i in (0, 1):
            row = []
            for j in (0, 1):
                taps = kernel[:, 3 - i :: -2, 3 - j :: -2]
                row.append(conv3d(x, taps, padding=((0, 0), (1 - i, i), (1 - j, j)))[:, 0])
            rows.append(jnp.stack(row, axis=3))
        y = jnp.stack(rows, axis=2).reshape(b, 2 * h, 2 * w, self.features)
        return y + _bias(self)


class Model(nn.Module):
    """MotionNet: float32 RGB (B, frames, H, W, 3) in [0, 1] -> float32 flow (B, frames - 1, H, W, 2), activations.

    `widths` are the encoder's levels, each at half the size of the one before, of one or two (`twice`) convolutions;
    `up` the decoder's, from the last level but one to the second; `init_gain` multiplies the predictions' first
    weights, of the reference's 1 come flows of 20 pixels. ValueError for another number of frames.
    """

    widths: tuple
    up: tuple
    kernels: tuple = (3, 3, 3, 3, 3, 3)
    twice: bool = True
    frames: int = 11
    init_gain: float = 1.0
    dtype: str = "float32"
    mean: float | tuple = MEAN
    std: float | tuple = 1.0

    @nn.compact
    def __call__(self, video, *, train):
        b, t, h, w, c = video.shape
        _check(self, t)
        conv, deconv = (functools.partial(layer, dtype=self.dtype) for layer in (Conv, Deconv))
        fields, out = 2 * (t - 1), {}
        x = jnp.moveaxis(normalise(video, self.mean, self.std).astype(self.dtype), 1, 3).reshape(b, h, w, t * c)
        for level, width in enumerate(self.widths, 1):
            x = conv(width, self.kernels[level - 1], 1 if level == 1 else 2, name=f"conv{level}")(x)
            if self.twice:
                x = conv(width, name=f"conv{level}_1")(x)
            out[f"conv{level}"] = x
        predict = functools.partial(conv, fields, leaky=False, init_gain=self.init_gain)
        flow = predict(name=f"predict{level}")(x)
        out[f"flow{level}"] = _pixels(flow, level)
        for level, width in zip(range(len(self.widths) - 1, 1, -1), self.up, strict=True):
            skip = out[f"conv{level}"]
            x = nn.leaky_relu(deconv(width, name=f"deconv{level}")(x), 0.1)
            flow = deconv(fields, name=f"up{level}")(flow)
            x = jnp.concatenate([skip, *(y[:, : skip.shape[1], : skip.shape[2]] for y in (x, flow))], axis=-1)
            x = conv(width, leaky=False, name=f"smooth{level}")(x)
            flow = predict(name=f"predict{level}")(x)
            out[f"flow{level}"] = _pixels(flow, level)
        return _upsample(out["flow2"], h, w), out


def estimate(model, variables, video):
    """Flow of clips of any length: float32 RGB (B, T, H, W, 3) in [0, 1] -> (B, T - 1, H, W, 2) in pixels per frame.

    Windows of `model.frames` frames that share one frame; the last begins early enough to be whole, and a shorter clip
    is continued by its last frame.
    """
    b, t, h, w, c = video.shape
    n = model.frames
    if t < n:
        video = jnp.concatenate([video, jnp.broadcast_to(video[:, -1:], (b, n - t, h, w, c))], axis=1)
    starts = [min(start, max(t, n) - n) for start in range(0, max(t - 1, 1), n - 1)]
    windows = jnp.stack([video[:, s : s + n] for s in starts], axis=1).reshape(-1, n, h, w, c)
    fields, _ = model.apply(variables, windows, train=False)
    fields = fields.reshape(b, len(starts), n - 1, h, w, 2)
    done, parts = 0, []
    for i, start in enumerate(starts):
        parts.append(fields[:, i, done - start :])
        done = start + n - 1
    return jnp.concatenate(parts, axis=1)[:, : t - 1]


def losses(model, video, out):
    """What teaches the net without labels, from its input and activations: {photometric, ssim, smoothness}, each (B,).

    Sums over the levels of `out` of the released train.prototxt's losses, there divided by the batch size once more
    but for `ssim`. All leave out the border.
    """
    frames = local_response_norm(normalise(video, model.mean, model.std), size=9, alpha=1.0, beta=0.7)
    b, t, h, w, c = frames.shape
    total = {name: jnp.zeros(b) for name in ("photometric", "ssim", "smoothness")}
    for level in range(2, len(model.widths) + 1):
        flow = out[f"flow{level}"]
        n, size = t - 1, flow.shape[2:4]
        small = shrink(frames.reshape(b * t, h, w, c), *size).reshape(b, t, *size, c)
        here, there = small[:, :-1], small[:, 1:]
        warped = warp(there.reshape(b * n, *size, c), flow.reshape(b * n, *size, 2)).reshape(here.shape)
        total["photometric"] += photometric(here, warped)
        total["ssim"] += 0.01 * 2 ** (level - 2) * dissimilarity(here, warped)  # 0.16 at the sixth
        total["smoothness"] += roughness(flow)
    return total


def charbonnier(x, power):
    """(x^2 + epsilon^2)^power, less its value at 0: a robust |x|^(2 power) that costs nothing where there is no error.

    The reference keeps that constant, which has no gradient.
    """
    return (jnp.square(x) + EPSILON**2) ** power - EPSILON ** (2 * power)


def photometric(frames, warped):
    """Mean robust difference of pictures, of 255 levels, inside the border: two of (B, n, H, W, C) -> (B,)."""
    cost = charbonnier(255 * (frames - warped), 0.4)
    return _inside(cost) / frames.shape[-1]


def dissimilarity(frames, warped):
    """1 - SSIM, summed over windows of 8 x 8 side by side, channels and pairs: two of (B, n, H, W, C) -> (B,).

    Wang et al., IEEE TIP 2004, equation 13, with a Gaussian of variance (4 / 3)^2; what is cut off a window is 0.
    """
    x, y, xx, yy, xy = map(_windows, (frames, warped, frames**2, warped**2, frames * warped))
    light = (2 * x * y + C1) / (x**2 + y**2 + C1)
    structure = (2 * (xy - x * y) + C2) / (xx - x**2 + yy - y**2 + C2)
    return jnp.sum(1 - light * structure, axis=(1, 2, 3, 4))


def roughness(flow):
    """Mean robust difference of neighbours' flow inside the border: (B, n, H, W, 2) -> (B,).

    The sum of both components along both axes over 3, as the reference divides by its mask's RGB channels.
    """
    right, down = (charbonnier(jnp.diff(flow, axis=axis), 0.3) for axis in (3, 2))
    cost = jnp.pad(right, ((0, 0),) * 3 + ((0, 1), (0, 0))) + jnp.pad(down, ((0, 0),) * 2 + ((0, 1),) + ((0, 0),) * 2)
    return _inside(cost) / 3


def shrink(pictures, height, width):
    """Pictures averaged by tents one step wide, corner pixels aligned: (N, H, W, C) -> (N, height, width, C)."""
    rows, columns = (_tents(*sizes) for sizes in ((pictures.shape[1], height), (pictures.shape[2], width)))
    return jnp.einsum("ih,nhwc,jw->nijc", rows, pictures, columns, precision="highest")


def warp(pictures, flow):
    """Pictures looked up at x + flow, bilinearly, 0 outside: (N, H, W, C), (N, H, W, 2) in pixels -> (N, H, W, C)."""
    n, h, w, _ = pictures.shape
    y, x = (grid.astype(np.float32)[None] for grid in np.mgrid[:h, :w])
    x, y = jnp.clip(flow[..., 0] + x, -1, w), jnp.clip(flow[..., 1] + y, -1, h)
    left, top = jnp.floor(x), jnp.floor(y)
    across, along = (1 - (x - left), x - left), (1 - (y - top), y - top)
    picture, total = jnp.arange(n)[:, None, None], jnp.zeros_like(pictures)
    for row, high in zip((top, top + 1), along, strict=True):
        for column, wide in zip((left, left + 1), across, strict=True):
            inside = (row >= 0) & (row < h) & (column >= 0) & (column < w)
            at = (jnp.clip(place, 0, size - 1).astype(jnp.int32) for place, size in ((row, h), (column, w)))
            total += (high * wide * inside)[..., None] * pictures[(picture, *at)]
    return total


def _tents(size, target):
    """The matrix of `shrink` along one axis: float32 (target, size), rows of sum 1."""
    step = (size - 1) / max(target - 1, 1)
    place = np.arange(target)[:, None] * step
    weight = np.maximum(0, 1 - np.abs(np.arange(size)[None] - place) / max(step, 1))
    return np.float32(weight / weight.sum(1, keepdims=True))


def _windows(x):
    """Gaussian means of windows of 8 x 8 side by side: (B, n, H, W, C) -> (B, n, ceil(H / 8), ceil(W / 8), C)."""
    b, n, h, w, c = x.shape
    rows, columns = -(-h // WINDOW), -(-w // WINDOW)
    x = jnp.pad(x, ((0, 0), (0, 0), (0, rows * WINDOW - h), (0, columns * WINDOW - w), (0, 0)))
    bell = np.exp(-np.square(np.arange(WINDOW) - WINDOW / 2) / (2 * (WINDOW / 6) ** 2))
    bell = np.float32(bell / bell.sum())
    x = x.reshape(b, n, rows, WINDOW, columns, WINDOW, c)
    return jnp.einsum("bnikjlc,k,l->bnijc", x, bell, bell, precision="highest")


def _inside(cost):
    """The mean inside the border, summed over channels: (B, n, H, W, C) -> (B,)."""
    border = int(BORDER * min(cost.shape[2:4]) + 0.5)
    inner = cost[:, :, border : cost.shape[2] - border, border : cost.shape[3] - border]
    return inner.mean(axis=(1, 2, 3)).sum(-1)


def double(pictures, repeat=True):
    """Twice the rows and columns, bilinearly: (B, n, H, W, C) -> (B, n, 2 H, 2 W, C).

    Pixel i covers 2 i and 2 i + 1, a quarter from its centre on either side. The edge is repeated, or else met by 0.
    """
    x = pictures
    for axis in (2, 3):
        before, after = (jnp.roll(x, shift, axis) for shift in (1, -1))
        place = jnp.arange(x.shape[axis]).reshape((1,) * axis + (-1,) + (1,) * (4 - axis))
        before = jnp.where(place == 0, x if repeat else 0, before)
        after = jnp.where(place == x.shape[axis] - 1, x if repeat else 0, after)
        pair = jnp.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis=axis + 1)
        x = pair.reshape(*(2 * n if i == axis else n for i, n in enumerate(x.shape)))
    return x


def pixels_per_unit(level):
    """Pixels of level `level`'s grid for a prediction of 1: 10, 5, 2.5, 1.25, 0.625 for levels 2 to 6."""
    return SCALE / 2 ** (level - 1)


def _bias(layer):
    """A layer's parameter `bias` (features,), broadcastable to (B, H, W, features)."""
    return layer.param("bias", nn.initializers.zeros, (layer.features,)).astype(layer.dtype)[None, None, None]


def _pixels(flow, level):
    """Predictions (B, h, w, 2n), x1, y1, x2, ... -> flow (B, n, h, w, 2) in pixels of its grid."""
    b, h, w, c = flow.shape
    flow = flow.astype(jnp.float32).reshape(b, h, w, c // 2, 2)
    return jnp.moveaxis(flow, 3, 1) * pixels_per_unit(level)


def _upsample(flow, height, width):
    """Flow of half the size, rounded up, bilinearly to pixels of the input: (B, n, h, w, 2) -> (B, n, H, W, 2)."""
    return double(2 * flow)[:, :, :height, :width]


def _check(model, frames):
    """ValueError unless the fields agree with each other and with the clip."""
    if len(model.up) != len(model.widths) - 2 or len(model.kernels) < len(model.widths):
        raise ValueError(
            "motionnet needs two levels less in `up` than in `widths` and a kernel for each level, "
            f"not {len(model.up)} of {len(model.widths)} and {len(model.kernels)} kernels."
        )
    if frames != model.frames:
        raise ValueError(f"motionnet takes clips of {model.frames} frames, not {frames}; use motionnet.estimate.")
