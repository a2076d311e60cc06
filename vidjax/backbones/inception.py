"""Inception-v1 with batch norm, TensorFlow's SAME padding and 3x3 kernels for the 5x5 ones: the trunk of I3D.

Papers: Going Deeper with Convolutions (Szegedy et al., CVPR 2015), table 1; batch norm after Ioffe & Szegedy (ICML
2015). Reference: TF-slim's inception_v1, whose batch norm has no scale (`use_scale=False`).
Frames of 224x224 in [-1, 1] give a map of 7x7x1024.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from vidjax.nn import BatchNorm, Conv3D, max_pool

# Channels of Mixed_3b, 3c | 4b to 4f | 5b, 5c: 1x1; reduction, 3x3; reduction, second 3x3; 1x1 after the pool.
BLOCKS = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    (
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
)

VARIANTS = {
    "inception_v1": {},
    "inception_v1_small": {  # ours, for frames of about 40x40
        "stem": (16, 16, 32),
        "stem_kernel": 5,
        "blocks": (((16, 16, 32, 8, 16, 16),), ((32, 24, 48, 8, 24, 24),)),
    },
}


class Unit(nn.Module):
    """k x k convolution of every frame without bias, batch norm, ReLU: (B, T, H, W, C) -> (B, T, H / s, W / s, F)."""

    features: int
    kernel: int
    stride: int
    conv: functools.partial
    norm: functools.partial

    @nn.compact
    def __call__(self, x):
        k, s = self.kernel, self.stride
        x = self.conv(self.features, (1, k, k), (1, s, s), "SAME", name="conv")(x)
        return nn.relu(self.norm(name="bn")(x))


class Mixed(nn.Module):
    """Four branches side by side: (B, T, H, W, C) -> (B, T, H, W, sum of the branches' last widths)."""

    widths: tuple
    unit: functools.partial

    @nn.compact
    def __call__(self, x):
        w0, r1, w1, r2, w2, w3 = self.widths
        b0 = self.unit(w0, 1, 1, name="b0")(x)
        b1 = self.unit(w1, 3, 1, name="b1b")(self.unit(r1, 1, 1, name="b1a")(x))
        b2 = self.unit(w2, 3, 1, name="b2b")(self.unit(r2, 1, 1, name="b2a")(x))
        b3 = self.unit(w3, 1, 1, name="b3b")(max_pool(x, (1, 3, 3), (1, 1, 1), "SAME"))
        return jnp.concatenate([b0, b1, b2, b3], axis=-1)


class Backbone(nn.Module):
    """Inception-v1 on every frame: float (B, T, H, W, C) -> activations by name; the last block is `map`."""

    stem: tuple = (64, 64, 192)
    stem_kernel: int = 7
    blocks: tuple = BLOCKS
    use_scale: bool = True
    dtype: str = "float32"
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-3

    @nn.compact
    def __call__(self, x, *, train):
        init = nn.initializers.variance_scaling(2, "fan_in", "truncated_normal")
        conv = functools.partial(Conv3D, dtype=self.dtype, kernel_init=init)
        norm = functools.partial(
            BatchNorm, not train, self.bn_momentum, self.bn_epsilon, self.dtype, use_scale=self.use_scale
        )
        unit = functools.partial(Unit, conv=conv, norm=norm)
        out = {}
        x = out["conv_1a"] = unit(self.stem[0], self.stem_kernel, 2, name="conv_1a")(x)
        x = out["conv_2b"] = unit(self.stem[1], 1, 1, name="conv_2b")(max_pool(x, (1, 3, 3), (1, 2, 2), "SAME"))
        x = out["conv_2c"] = unit(self.stem[2], 3, 1, name="conv_2c")(x)
        for i, stage in enumerate(self.blocks, 3):
            window = (1, 2, 2) if i == 5 else (1, 3, 3)
            x = max_pool(x, window, (1, 2, 2), "SAME")
            for letter, widths in zip("bcdefgh", stage, strict=False):
                name = f"mixed_{i}{letter}"
                x = out[name] = Mixed(widths, unit, name=name)(x)
        out["map"] = x
        out["features"] = x.astype(jnp.float32).mean(axis=(2, 3))
        return out


_HWIO = (4, lambda x: x[None], lambda x: x[0])


def table(source, path):
    """Conversion rules of TF-slim's checkpoint: `InceptionV1/` or `InceptionV1/InceptionV1/` is the usual `source`.

    Mixed_5b's last convolution of branch 2 is named 0a where the others are 0b; slim's norm has no scale.
    """
    units = [  # the reference's layer, ours
        (r"Conv2d_(?P<unit>1a)_7x7", r"conv_\g<unit>"),
        (r"Conv2d_(?P<unit>2b)_1x1", r"conv_\g<unit>"),
        (r"Conv2d_(?P<unit>2c)_3x3", r"conv_\g<unit>"),
        (r"Mixed_(?P<block>\d\w)/Branch_0/Conv2d_0a_1x1", r"mixed_\g<block>/b0"),
        (r"Mixed_(?P<block>\d\w)/Branch_(?P<branch>[12])/Conv2d_0a_1x1", r"mixed_\g<block>/b\g<branch>a"),
        (r"Mixed_(?P<block>\d\w)/Branch_(?P<branch>[12])/Conv2d_0[ab]_3x3", r"mixed_\g<block>/b\g<branch>b"),
        (r"Mixed_(?P<block>\d\w)/Branch_3/Conv2d_0b_1x1", r"mixed_\g<block>/b3b"),
    ]
    rules = []
    for layer, ours in units:
        rules += [
            (rf"{source}{layer}/weights", f"params/{path}/{ours}/conv/kernel", _HWIO),
            (rf"{source}{layer}/BatchNorm/beta", f"params/{path}/{ours}/bn/bias", None),
            (rf"{source}{layer}/BatchNorm/moving_mean", f"batch_stats/{path}/{ours}/bn/mean", None),
            (rf"{source}{layer}/BatchNorm/moving_variance", f"batch_stats/{path}/{ours}/bn/var", None),
        ]
    return rules
