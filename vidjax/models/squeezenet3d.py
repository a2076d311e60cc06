"""3-D SqueezeNet: fire modules that squeeze to few channels before they look around, for clips in real time.

Papers: Resource Efficient 3D Convolutional Neural Networks (Köpüklü et al., ICCV workshops 2019), table 8; the 2-D net
is of Iandola et al., arXiv:1602.07360 (version 1.0; 1.1 is its authors' later, lighter one).
Input: RGB in [0, 1], (B, 16, 112, 112, 3). Output: logits (B, num_classes), never negative: the classes are scored at
every position, passed through a ReLU and averaged. `pre_logits` is the mean of what they are scored from.
Reference: okankop/Efficient-3DCNNs. Its weights for Jester and UCF-101 read RGB, those for Kinetics-600 BGR: that
loader takes OpenCV's channels as they come, and subtracts the means of RGB from them.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from vidjax.nn import BatchNorm, Conv3D, max_pool, normalise

PAPER = "Köpüklü et al., ICCVW 2019"

# ActivityNet's mean pixel; the reference divides by nothing and works on [0, 255].
MEAN, STD = (114.7748 / 255, 107.7354 / 255, 99.4750 / 255), 1 / 255

# Squeezed channels and channels of each of the two expansions, by stage; a maximum precedes every stage.
_FIRES = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))

VARIANTS = {
    "v1_0": {"stem_width": 96, "stem_kernel": 7, "stages": (_FIRES[:2], _FIRES[2:4], _FIRES[4:7], _FIRES[7:])},
    "v1_1": {"stem_width": 64, "stem_kernel": 3, "stages": (_FIRES[:2], _FIRES[2:4], _FIRES[4:6], _FIRES[6:])},
    "small": {  # ours, for clips of about 8x40x40
        "stem_width": 24,
        "stem_kernel": 3,
        "stages": (((16, 32), (16, 32)), ((24, 48), (24, 48))),
        "dropout": 0.0,
    },
}


def _size(params, gmac, *, frames=16, size=112, classes=600, paper=PAPER):
    return {"input": (frames, size, size, 3), "classes": classes, "params": params, "gmac": gmac, "paper": paper}


SIZES = {
    "v1_0": _size(2_239_768, 5.642),  # [C] as the reference's code has it (tests/models/test_light3d_properties.py)
    # [P] parameters of table 8, and its MFLOPs once norms and ReLUs are counted as its authors' tool does
    "v1_1": _size(2_145_560, 0.903),
    "small": _size(102_424, 0.022, frames=8, size=40, classes=8, paper="none (small clips)"),  # [C]
}


class Unit(nn.Module):
    """Convolution with a bias and zero padding k // 2, and batch norm: (B, T, H, W, C) -> (B, T', H', W', features)."""

    features: int
    kernel: int
    strides: tuple
    conv: functools.partial
    norm: functools.partial

    @nn.compact
    def __call__(self, x):
        padding = ((self.kernel // 2,) * 2,) * 3
        x = self.conv(self.features, (self.kernel,) * 3, self.strides, padding, use_bias=True, name="conv")(x)
        return self.norm(name="bn")(x)


class Fire(nn.Module):
    """Fire module: (B, T, H, W, C) -> (B, T, H, W, 2 * expanded).

    `squeezed` channels are expanded by 1x1x1 and by 3x3x3 convolutions, side by side; the input is added where it has
    as many channels.
    """

    squeezed: int
    expanded: int
    unit: functools.partial

    @nn.compact
    def __call__(self, x):
        y = nn.relu(self.unit(self.squeezed, 1, (1, 1, 1), name="squeeze")(x))
        points = self.unit(self.expanded, 1, (1, 1, 1), name="expand1x1")(y)
        cubes = self.unit(self.expanded, 3, (1, 1, 1), name="expand3x3")(y)
        y = jnp.concatenate([points, cubes], axis=-1)
        return nn.relu(x + y if x.shape[-1] == y.shape[-1] else y)


class Model(nn.Module):
    """3-D SqueezeNet: float32 RGB (B, T, H, W, 3) in [0, 1] -> float32 logits (B, num_classes), activations.

    `stages` has (squeezed, expanded) for every fire module.
    """

    stem_width: int
    stem_kernel: int
    stages: tuple
    num_classes: int = 600
    dropout: float = 0.5
    dtype: str = "float32"
    mean: float | tuple = MEAN
    std: float | tuple = STD
    order: str = "RGB"
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5

    @nn.compact
    def __call__(self, video, *, train):
        x = normalise(video, self.mean, self.std, self.order).astype(self.dtype)
        conv = functools.partial(Conv3D, dtype=self.dtype)
        norm = functools.partial(BatchNorm, not train, self.bn_momentum, self.bn_epsilon, self.dtype)
        unit = functools.partial(Unit, conv=conv, norm=norm)
        out, number = {}, 2
        x = out["stem"] = nn.relu(unit(self.stem_width, self.stem_kernel, (1, 2, 2), name="stem")(x))
        for i, stage in enumerate(self.stages, 1):
            x = max_pool(x, (3, 3, 3), (2, 2, 2), ((1, 1),) * 3)
            for squeezed, expanded in stage:
                x = Fire(squeezed, expanded, unit, name=f"fire{number}")(x)
                number += 1
            out[f"layer{i}"] = x
        x = x.astype(jnp.float32)
        out["pre_logits"] = x.mean(axis=(1, 2, 3))
        if not self.num_classes:
            return out["pre_logits"], out
        x = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(x)
        x = out["scores"] = nn.relu(nn.Dense(self.num_classes, name="head")(x))  # (B, T', H', W', num_classes)
        return x.mean(axis=(1, 2, 3)), out


def _unit(conv, norm, path):
    """Conversion rules of one PyTorch convolution with a bias and its batch norm."""
    return [
        (rf"{conv}\.weight", f"params/{path}/conv/kernel", "oithw_to_thwio"),
        (rf"{conv}\.bias", f"params/{path}/conv/bias", None),
        (rf"{norm}\.weight", f"params/{path}/bn/scale", None),
        (rf"{norm}\.bias", f"params/{path}/bn/bias", None),
        (rf"{norm}\.running_(?P<stat>mean|var)", rf"batch_stats/{path}/bn/\g<stat>", None),
    ]


_POINTWISE = (5, lambda x: x[:, :, 0, 0, 0].T, lambda x: x.T[:, :, None, None, None])  # (O, I, 1, 1, 1) <-> (I, O)


def table(stages):
    """Conversion table of the reference's net, which numbers stem, norm, ReLU, maxima and fire modules through."""
    rules, k, number = _unit(r"features\.0", r"features\.1", "stem"), 3, 2
    for stage in stages:
        for _ in stage:
            k += 1
            fire = rf"features\.{k}\.(squeeze|expand1x1|expand3x3)"
            rules += _unit(fire, f"{fire}_bn", rf"fire{number}/\1")
            number += 1
        k += 1
    return [
        *rules,
        (r"classifier\.1\.weight", "params/head/kernel", _POINTWISE),
        (r"classifier\.1\.bias", "params/head/bias", None),
        (r".*\.num_batches_tracked", None, None),
    ]


# What the weights of a source expect: the model's own first line applies mean and std.
PREPROCESS = {
    "order": "RGB",
    "range": (0.0, 1.0),
    "mean": MEAN,
    "std": STD,
    "frames": 16,
    "stride": 2,
    "resize": 112,
    "size": 112,
}
_OKANKOP = {
    net: {"variant": net, "table": table(VARIANTS[net]["stages"]), "head": "classifier.1.bias"}
    | {"preprocess": PREPROCESS}
    for net in ("v1_0", "v1_1")
}
_KINETICS = {"fields": {"order": "BGR"}, "preprocess": PREPROCESS | {"order": "BGR", "stride": 1}}
REFERENCES = {  # (source, the source's own name of the net); the weights it offers are of 1.1, for Jester and Kinetics
    ("okankop", "squeezenet"): _OKANKOP["v1_1"],
    ("okankop", "squeezenet_1.0"): _OKANKOP["v1_0"],
    ("okankop", "squeezenet_1.1"): _OKANKOP["v1_1"],
    ("okankop", "kinetics_squeezenet"): _OKANKOP["v1_1"] | _KINETICS,
}
