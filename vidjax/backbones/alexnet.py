"""AlexNet in one tower without response norms.

Papers: ImageNet Classification with Deep Convolutional Neural Networks (Krizhevsky et al., NIPS 2012); the widths of
One Weird Trick for Parallelizing Convolutional Neural Networks (Krizhevsky, 2014).
Reference: torchvision.models.alexnet.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from vidjax.nn import Conv3D, max_pool

VARIANTS = {"alexnet": {}}


class Backbone(nn.Module):
    """AlexNet on every frame: (B, T, H, W, C) -> activations by layer, `map` the last pool, `features` fc7.

    A layer is its ReLU's output; 224 pixels give 55, 27, 13, 13, 13 and a pool of 6x6x256. Maps of another size are
    averaged to `side` x `side` regions before fc6. `dropout` is before fc6 and before fc7.
    """

    widths: tuple = (64, 192, 384, 256, 256)
    fc: tuple = (4096, 4096)
    side: int = 6
    dropout: float = 0.5
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x, *, train):
        out, kernels, strides, pads = {}, (11, 5, 3, 3, 3), (4, 1, 1, 1, 1), (2, 2, 1, 1, 1)
        for i, (n, k, s, p) in enumerate(zip(self.widths, kernels, strides, pads, strict=True), 1):
            padding = ((0, 0), (p, p), (p, p))
            conv = Conv3D(n, (1, k, k), (1, s, s), padding, use_bias=True, dtype=self.dtype, name=f"conv{i}")
            x = out[f"conv{i}"] = nn.relu(conv(x))
            if i in (1, 2, 5):
                x = out[f"pool{i}"] = max_pool(x, (1, 3, 3), (1, 2, 2))
        out["map"] = x
        x = regions(x, self.side).reshape(*x.shape[:2], -1)
        for i, n in enumerate(self.fc, 6):
            x = nn.Dropout(self.dropout, deterministic=not train, name=f"dropout{i}")(x)
            x = out[f"fc{i}"] = nn.relu(nn.Dense(n, dtype=self.dtype, name=f"fc{i}")(x))
        return out | {"features": x.astype(jnp.float32)}


def regions(x, side):
    """Means over side x side regions that may overlap: (B, T, h, w, C) -> (B, T, side, side, C).

    Region i of n rows is floor(i n / side) to ceil((i + 1) n / side), as PyTorch's adaptive pooling has it.
    """
    for axis in (2, 3):
        n = x.shape[axis]
        if n != side:
            spans = [(i * n // side, -(-(i + 1) * n // side)) for i in range(side)]
            weights = np.array([[(lo <= j < hi) / (hi - lo) for j in range(n)] for lo, hi in spans], np.float32)
            x = jnp.moveaxis(jnp.tensordot(x, weights.astype(x.dtype), [[axis], [1]]), -1, axis)
    return x


def table(source="", path="backbone"):
    """Conversion rules from torchvision's names, each after the regex `source`, to parameters below `path`.

    The last fully connected layer, `classifier.6`, is the family's head.
    """
    flat = (2, lambda x: _flat(x, 6), lambda x: _unflat(x, 6))
    layers = [(f"conv{i}", rf"features\.{n}", "oihw_to_1hwio") for i, n in enumerate((0, 3, 6, 8, 10), 1)]
    layers += [("fc6", r"classifier\.1", flat), ("fc7", r"classifier\.4", "oi_to_io")]
    weights = [(rf"{source}{name}\.weight", f"params/{path}/{ours}/kernel", kind) for ours, name, kind in layers]
    return weights + [(rf"{source}{name}\.bias", f"params/{path}/{ours}/bias", None) for ours, name, _ in layers]


def _flat(x, side):
    """A fully connected kernel over a flattened (C, h, w) map -> over our flattened (h, w, C): (F, N) -> (N, F)."""
    return x.reshape(len(x), -1, side, side).transpose(2, 3, 1, 0).reshape(-1, len(x))


def _unflat(x, side):
    """The inverse of `_flat`."""
    return x.reshape(side, side, -1, x.shape[1]).transpose(3, 2, 0, 1).reshape(x.shape[1], -1)
