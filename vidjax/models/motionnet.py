"""MotionNet: optical flow of stacked frames from an encoder and decoder, learnt without labels.

Paper: Hidden Two-Stream Convolutional Networks for Action Recognition (Zhu et al., ACCV 2018).
Input: RGB in [0, 1], (B, 11, H, W, 3). Output: flow (B, 10, H, W, 2) in pixels per frame of the input, x and y, from
frame k to k + 1; and `flow2` to `flow6`, the same at 1/2 to 1/32 of the size, in pixels of their own grid, which is
what the losses of each scale warp with.
References: bryanyzhu/Hidden-Two-Stream (Caffe, BGR), for `tiny` jbohnslav/deepethogram, whose batch norm is left out.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from vidjax.nn import Conv3D, conv3d

PAPER = "Zhu et al., ACCV 2018"

MEAN = (123 / 255, 117 / 255, 104 / 255)  # of the reference, in RGB
SCALE = 20.0  # pixels of the input for a prediction of 1

VARIANTS = {
    "full": {"widths": (64, 128, 256, 512, 512, 1024), "up": (512, 256, 128, 64)},  # the reference's prototxt
    "tiny": {"widths": (64, 128, 256, 128), "kernels": (7, 5, 3, 3), "up": (128, 64), "twice": False},
    "small": {"widths": (8, 16, 24), "up": (16,), "frames": 3},  # ours, for tests
}


def _size(params, gmac, *, frames=11, size=224, paper=PAPER):
    return {"input": (frames, size, size, 3), "params": params, "gmac": gmac, "paper": paper}


SIZES = {  # [P] published, [C] computed from the definition (tests/test_motionnet.py); GMAC per 10 fields
    "full": _size(42_319_860, 20.054),  # [C] from the prototxt; 169 MB, the paper's 170 MB
    "tiny": _size(1_950_308, 12.785),  # [C]; 7.8 MB, the paper's 8 MB [M]
    "small": _size(26_484, 0.005, frames=3, size=32, paper="none (tests)"),  # [C]
}


class Conv(nn.Module):
    """k x k convolution with bias: (B, H, W, C) -> (B, H / s, W / s, features), leaky ReLU of slope 0.1 or none."""

    features: int
    kernel: int = 3
    stride: int = 1
    leaky: bool = True
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x):
        k, s, half = self.kernel, self.stride, self.kernel // 2
        padding = ((0, 0), (half, half), (half, half))
        conv = Conv3D(self.features, (1, k, k), (1, s, s), padding, dtype=self.dtype, name="conv")
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
    `up` the decoder's, from the last level but one to the second. ValueError for another number of frames.
    """

    widths: tuple
    up: tuple
    kernels: tuple = (3, 3, 3, 3, 3, 3)
    twice: bool = True
    frames: int = 11
    dtype: str = "float32"
    mean: float | tuple = MEAN

    @nn.compact
    def __call__(self, video, *, train):
        b, t, h, w, c = video.shape
        _check(self, t)
        conv, deconv = (functools.partial(layer, dtype=self.dtype) for layer in (Conv, Deconv))
        fields, out = 2 * (t - 1), {}
        x = (video - jnp.asarray(self.mean, jnp.float32).reshape(1, 1, 1, 1, -1)).astype(self.dtype)
        x = jnp.moveaxis(x, 1, 3).reshape(b, h, w, t * c)
        for level, width in enumerate(self.widths, 1):
            x = conv(width, self.kernels[level - 1], 1 if level == 1 else 2, name=f"conv{level}")(x)
            if self.twice:
                x = conv(width, name=f"conv{level}_1")(x)
            out[f"conv{level}"] = x
        flow = conv(fields, leaky=False, name=f"predict{level}")(x)
        out[f"flow{level}"] = _pixels(flow, level)
        for level, width in zip(range(len(self.widths) - 1, 1, -1), self.up, strict=True):
            skip = out[f"conv{level}"]
            x = nn.leaky_relu(deconv(width, name=f"deconv{level}")(x), 0.1)
            flow = deconv(fields, name=f"up{level}")(flow)
            x = jnp.concatenate([skip, *(y[:, : skip.shape[1], : skip.shape[2]] for y in (x, flow))], axis=-1)
            x = conv(width, leaky=False, name=f"smooth{level}")(x)
            flow = conv(fields, leaky=False, name=f"predict{level}")(x)
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
    flow = 2 * flow
    for axis in (2, 3):  # pixel i of the half covers 2 i and 2 i + 1, a quarter from its centre on either side
        before, after = (jnp.roll(flow, shift, axis) for shift in (1, -1))
        place = jnp.arange(flow.shape[axis]).reshape((1,) * axis + (-1,) + (1,) * (4 - axis))
        before = jnp.where(place == 0, flow, before)
        after = jnp.where(place == flow.shape[axis] - 1, flow, after)
        pair = jnp.stack([0.75 * flow + 0.25 * before, 0.75 * flow + 0.25 * after], axis=axis + 1)
        flow = pair.reshape(*(2 * n if i == axis else n for i, n in enumerate(flow.shape)))
    return flow[:, :, :height, :width]


def _check(model, frames):
    """ValueError unless the fields agree with each other and with the clip."""
    if len(model.up) != len(model.widths) - 2 or len(model.kernels) < len(model.widths):
        raise ValueError(
            "motionnet needs two levels less in `up` than in `widths` and a kernel for each level, "
            f"not {len(model.up)} of {len(model.widths)} and {len(model.kernels)} kernels."
        )
    if frames != model.frames:
        raise ValueError(f"motionnet takes clips of {model.frames} frames, not {frames}; use motionnet.estimate.")
