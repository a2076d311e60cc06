"""Five 3x3 convolutions with batch norm: ours, for frames of about 40x40 pixels."""

import functools

import flax.linen as nn
import jax.numpy as jnp

from vidjax.nn import BatchNorm, Conv3D

VARIANTS = {"small": {"widths": (16, 32, 32, 64, 64), "strides": (1, 2, 1, 2, 1)}}


class Backbone(nn.Module):
    """Plain net on every frame: (B, T, H, W, C) -> activations, `map` (B, T, H / 4, W / 4, 64), `features` (B, T, 64).

    `features` is the mean of `map`, in float32.
    """

    widths: tuple
    strides: tuple
    dtype: str = "float32"
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x, *, train):
        if len(self.widths) != len(self.strides):
            raise ValueError(f"small needs one of strides {self.strides} for each of widths {self.widths}.")
        init = nn.initializers.variance_scaling(2, "fan_out", "normal")
        conv = functools.partial(Conv3D, dtype=self.dtype, kernel_init=init)
        norm = functools.partial(BatchNorm, not train, self.bn_momentum, self.bn_epsilon, self.dtype)
        out, pads = {}, ((0, 0), (1, 1), (1, 1))
        for i, (width, stride) in enumerate(zip(self.widths, self.strides, strict=True), 1):
            x = conv(width, (1, 3, 3), (1, stride, stride), pads, name=f"conv{i}")(x)
            x = out[f"conv{i}"] = nn.relu(norm(name=f"bn{i}")(x))
        return out | {"map": x, "features": x.astype(jnp.float32).mean(axis=(2, 3))}
