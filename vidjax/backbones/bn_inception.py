"""BN-Inception with Caffe's pools, which round their size up: the net of temporal segment networks.

Papers: Batch Normalization (Ioffe & Szegedy, ICML 2015), figure 5; Temporal Segment Networks (Wang et al., ECCV 2016).
References: yjxiong/tensorflow-model-zoo.torch and mit-han-lab/temporal-shift-module (`inception_3a_1x1.weight`), whose
convolutions have a bias beside their batch norm. Their weights expect BGR of [0, 255] minus (104, 117, 128).
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from vidjax.nn import BatchNorm, Conv3D, ceil_pads, max_pool

# Of each block: 1x1; reduction, 3x3; reduction, two 3x3; 1x1 after the pool. Without the first and last: stride 2.
BLOCKS = {
    "3a": (64, 64, 64, 64, 96, 32),
    "3b": (64, 64, 96, 64, 96, 64),
    "3c": (0, 128, 160, 64, 96, 0),
    "4a": (224, 64, 96, 96, 128, 128),
    "4b": (192, 96, 128, 96, 128, 128),
    "4c": (160, 128, 160, 128, 160, 128),
    "4d": (96, 128, 192, 160, 192, 128),
    "4e": (0, 128, 192, 192, 256, 0),
    "5a": (352, 192, 320, 160, 224, 128),
    "5b": (352, 192, 320, 192, 224, 128),
}

VARIANTS = {"bn_inception": {"blocks": tuple(BLOCKS.items())}}


class Unit(nn.Module):
    """k x k convolution of every frame, batch norm, ReLU: (B, T, H, W, C) -> (B, T, H / s, W / s, features)."""

    features: int
    kernel: int
    stride: int
    conv: functools.partial
    norm: functools.partial

    @nn.compact
    def __call__(self, x):
        k, s, half = self.kernel, self.stride, self.kernel // 2
        x = self.conv(self.features, (1, k, k), (1, s, s), ((0, 0), (half, half), (half, half)), name="conv")(x)
        return nn.relu(self.norm(name="bn")(x))


class Block(nn.Module):
    """Four branches side by side, or three of stride 2: (B, T, H, W, C) -> (B, T, H / s, W / s, sum of widths).

    `pool` of stride 1 is "mean" (zeros of the border count) or "max".
    """

    widths: tuple
    pool: str
    unit: functools.partial

    @nn.compact
    def __call__(self, x):
        first, reduce, single, double_reduce, double, projection = self.widths
        s, edge = 1 if first else 2, ((0, 0), (1, 1), (1, 1))
        branches = [self.unit(first, 1, 1, name="1x1")(x)] if first else []
        branches += [self.unit(single, 3, s, name="3x3")(self.unit(reduce, 1, 1, name="3x3_reduce")(x))]
        y = self.unit(double_reduce, 1, 1, name="double_3x3_reduce")(x)
        y = self.unit(double, 3, 1, name="double_3x3_1")(y)
        branches += [self.unit(double, 3, s, name="double_3x3_2")(y)]
        if not projection:
            branches += [_halved(x)]
        else:
            pool = nn.avg_pool if self.pool == "mean" else max_pool
            branches += [self.unit(projection, 1, 1, name="pool_proj")(pool(x, (1, 3, 3), (1, 1, 1), edge))]
        return jnp.concatenate(branches, axis=-1)


class Backbone(nn.Module):
    """BN-Inception on every frame: (B, T, H, W, C) -> activations by layer.

    224 pixels give 28 in the blocks 3a and 3b, then 14, then 7; `map` is (B, T, 7, 7, 1024), `features` (B, T, 1024)
    its mean in float32.
    """

    blocks: tuple
    stem: tuple = (64, 64, 192)
    dtype: str = "float32"
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x, *, train):
        conv = functools.partial(Conv3D, use_bias=True, dtype=self.dtype)
        norm = functools.partial(BatchNorm, not train, self.bn_momentum, self.bn_epsilon, self.dtype)
        unit = functools.partial(Unit, conv=conv, norm=norm)
        out = {}
        x = out["conv1"] = unit(self.stem[0], 7, 2, name="conv1_7x7_s2")(x)
        x = unit(self.stem[1], 1, 1, name="conv2_3x3_reduce")(_halved(x))
        x = out["conv2"] = unit(self.stem[2], 3, 1, name="conv2_3x3")(x)
        x = _halved(x)
        for name, widths in self.blocks:
            pool = "max" if name == self.blocks[-1][0] else "mean"
            x = out[f"inception_{name}"] = Block(widths, pool, unit, name=f"inception_{name}")(x)
        return out | {"map": x, "features": x.astype(jnp.float32).mean(axis=(2, 3))}


def _halved(x):
    """Max pool 3x3 of stride 2, its size rounded up."""
    window, strides = (1, 3, 3), (1, 2, 2)
    return max_pool(x, window, strides, ceil_pads(x.shape[1:4], window, strides))


def table(source="", path="backbone"):
    """Conversion rules from the references' names, each after the regex `source`, to parameters below `path`.

    The classifier `fc` is the family's.
    """
    stem = r"(?P<unit>conv\d_\dx\d(?:_reduce|_s2)?)"
    block = r"(?P<block>inception_\d\w)_(?P<unit>(?:double_)?\dx\d(?:_reduce|_\d)?|pool_proj)"
    rules = [(rf"{source}\w+_bn\.num_batches_tracked", None, None)]
    for theirs, ours in ((stem, rf"{path}/\g<unit>"), (block, rf"{path}/\g<block>/\g<unit>")):
        rules += [
            (rf"{source}{theirs}\.weight", f"params/{ours}/conv/kernel", "oihw_to_1hwio"),
            (rf"{source}{theirs}\.bias", f"params/{ours}/conv/bias", None),
            (rf"{source}{theirs}_bn\.weight", f"params/{ours}/bn/scale", None),
            (rf"{source}{theirs}_bn\.bias", f"params/{ours}/bn/bias", None),
            (rf"{source}{theirs}_bn\.running_(?P<stat>mean|var)", rf"batch_stats/{ours}/bn/\g<stat>", None),
        ]
    return rules
