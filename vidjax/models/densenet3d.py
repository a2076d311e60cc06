"""3-D DenseNets-BC of 121 to 264 layers.

Papers: Densely Connected Convolutional Networks (Huang et al., CVPR 2017); Can Spatiotemporal 3D CNNs Retrace the
History of 2D CNNs and ImageNet? (Hara et al., CVPR 2018), table 1.
Input: RGB in [0, 1], (B, 16, 112, 112, 3). Output: logits (B, num_classes).
Reference: kenshohara/3D-ResNets-PyTorch, densenet.py.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from vidjax import rules
from vidjax.nn import BatchNorm, Conv3D, max_pool, normalise

PAPER = "Huang et al., CVPR 2017; Hara et al., CVPR 2018"

# Kinetics statistics of the reference.
MEAN, STD = (0.4345, 0.4051, 0.3775), (0.2768, 0.2713, 0.2737)

VARIANTS = {  # table 1 of Huang et al.
    "densenet121": {"depths": (6, 12, 24, 16)},
    "densenet169": {"depths": (6, 12, 32, 32)},
    "densenet201": {"depths": (6, 12, 48, 32)},
    "densenet264": {"depths": (6, 12, 64, 48)},
    "small": {  # ours, for clips of about 8x40x40
        "depths": (2, 2, 2),
        "growth": 12,
        "stem_width": 16,
        "stem_kernel": (3, 5, 5),
        "pool": False,
    },
}


def _size(params, gmac, *, frames=16, size=112, classes=400, paper=PAPER):
    return {"input": (frames, size, size, 3), "classes": classes, "params": params, "gmac": gmac, "paper": paper}


SIZES = {  # [C] parameters as the reference's own code has them; GMAC by formula (tests/parity/test_resnet3d.py)
    "densenet121": _size(11_696_528, 10.404),
    "densenet169": _size(19_252_624, 10.678),
    "densenet201": _size(26_143_120, 11.243),
    "densenet264": _size(41_365_392, 11.997),
    "small": _size(107_524, 0.136, frames=8, size=40, classes=8, paper="none (small clips)"),
}


class Layer(nn.Module):
    """Norm, ReLU, 1x1x1 to four times `growth`, norm, ReLU, 3x3x3: (B, T, H, W, C) -> (B, T, H, W, C + growth)."""

    growth: int
    conv: functools.partial
    norm: functools.partial

    @nn.compact
    def __call__(self, x):
        y = nn.relu(self.norm(name="bn1")(x))
        y = self.conv(4 * self.growth, (1, 1, 1), name="conv1")(y)
        y = nn.relu(self.norm(name="bn2")(y))
        y = self.conv(self.growth, (3, 3, 3), padding=((1, 1),) * 3, name="conv2")(y)
        return jnp.concatenate([x, y], axis=-1)


class Transition(nn.Module):
    """Norm, ReLU, 1x1x1 to half the channels, mean of 2x2x2: (B, T, H, W, C) -> (B, T / 2, H / 2, W / 2, C / 2)."""

    conv: functools.partial
    norm: functools.partial

    @nn.compact
    def __call__(self, x):
        if min(x.shape[1:4]) < 2:
            raise ValueError(f"densenet3d halves frames, rows and columns and has only {x.shape[1:4]}; give it more.")
        y = nn.relu(self.norm(name="bn")(x))
        y = self.conv(x.shape[-1] // 2, (1, 1, 1), name="conv")(y)
        return nn.avg_pool(y, (2, 2, 2), (2, 2, 2))


class Model(nn.Module):
    """3-D DenseNet: float32 RGB (B, T, H, W, 3) in [0, 1] -> float32 logits (B, num_classes), activations."""

    depths: tuple
    growth: int = 32
    stem_width: int = 64
    stem_kernel: tuple = (7, 7, 7)
    stem_strides: tuple = (1, 2, 2)
    pool: bool = True
    num_classes: int = 400
    dropout: float = 0.0
    dtype: str = "float32"
    mean: float | tuple = MEAN
    std: float | tuple = STD
    order: str = "RGB"
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5

    @nn.compact
    def __call__(self, video, *, train):
        x = normalise(video, self.mean, self.std, self.order).astype(self.dtype)
        init = nn.initializers.variance_scaling(2, "fan_out", "normal")
        conv = functools.partial(Conv3D, dtype=self.dtype, kernel_init=init)
        norm = functools.partial(BatchNorm, not train, self.bn_momentum, self.bn_epsilon, self.dtype)
        padding = tuple((k // 2, k // 2) for k in self.stem_kernel)
        x = conv(self.stem_width, self.stem_kernel, self.stem_strides, padding, name="stem")(x)
        out = {}
        x = out["stem"] = nn.relu(norm(name="stem_bn")(x))
        if self.pool:
            x = max_pool(x, (3, 3, 3), (2, 2, 2), ((1, 1),) * 3)
        for i, depth in enumerate(self.depths, 1):
            x = Transition(conv, norm, name=f"transition{i - 1}")(x) if i > 1 else x
            for j in range(1, depth + 1):
                x = Layer(self.growth, conv, norm, name=f"block{i}_{j}")(x)
            out[f"block{i}"] = x
        x = nn.relu(norm(name="last_bn")(x))
        x = x.astype(jnp.float32).mean(axis=(1, 2, 3))
        x = out["pre_logits"] = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(x)
        if self.num_classes:
            x = nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01), name="head")(x)
        return x, out


_LAYER = r"features\.denseblock(\d)\.denselayer(\d+)"
HARA = [  # (reference name, our path or None to drop it, transform)
    (r"features\.conv1\.weight", "params/stem/kernel", "oithw_to_thwio"),
    *rules.norm(r"features\.norm1", "stem_bn"),
    (rf"{_LAYER}\.conv(\d)\.weight", r"params/block\1_\2/conv\3/kernel", "oithw_to_thwio"),
    *rules.norm(rf"{_LAYER}\.norm(\d)", r"block\1_\2/bn\3"),
    (r"features\.transition(\d)\.conv\.weight", r"params/transition\1/conv/kernel", "oithw_to_thwio"),
    *rules.norm(r"features\.transition(\d)\.norm", r"transition\1/bn"),
    *rules.norm(r"features\.norm5", "last_bn"),
    (r"classifier\.weight", "params/head/kernel", "oi_to_io"),
    (r"classifier\.bias", "params/head/bias", None),
    *rules.COUNTS,
]

# What the weights of a source expect: the model's own first line applies mean and std.
PREPROCESS = {
    "order": "RGB",
    "range": (0.0, 1.0),
    "mean": MEAN,
    "std": STD,
    "frames": 16,
    "stride": 1,
    "resize": 112,
    "size": 112,
}
REFERENCES = {  # (source, the source's own name of the net)
    ("hara", f"densenet{n}"): {
        "variant": f"densenet{n}",
        "table": HARA,
        "head": "classifier.bias",
        "preprocess": PREPROCESS,
    }
    for n in (121, 169, 201, 264)
}
