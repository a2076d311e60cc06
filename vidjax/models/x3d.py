"""X3D: a thin net of depthwise 3-D convolutions, expanded step by step in time, space, width and depth.

Paper: X3D: Expanding Architectures for Efficient Video Recognition (Feichtenhofer, CVPR 2020).
Input: RGB in [0, 1], (B, 16, 224, 224, 3) for M, every fifth frame of a video. Output: logits (B, num_classes).
References: PySlowFast, by the paper's author, and pytorchvideo, which leaves out one batch norm (`first_norm`).
Both apply the head to windows of the size trained on (`window`) of a larger crop. pytorchvideo averages their logits
and so does this; PySlowFast averages their softmaxes when it tests, which is the same where there is one window.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from vidjax import rules
from vidjax.nn import BatchNorm, Conv3D, normalise

PAPER = "Feichtenhofer, CVPR 2020"

_S = {"depths": (3, 5, 11, 7)}  # depth factor 2.2 of (1, 2, 5, 3)
_XL = {"widths": (32, 72, 136, 280), "stem_width": 32}  # width factor 2.9 of (12, 24, 48, 96), multiples of 8
VARIANTS = {  # table 3 of the paper; XS, S and M differ in their clips alone
    "xs": _S,
    "s": _S,
    "m": _S,
    "l": {"depths": (5, 10, 25, 15)},  # depth factor 5
    "xl": _XL | {"depths": (5, 10, 25, 15)},
    "xxl": _XL | {"depths": (11, 21, 51, 31)},  # 10.1
    "small": {  # ours, for clips of about 8x40x40
        "depths": (1, 2, 2),
        "widths": (16, 24, 40),
        "strides": (1, 2, 2),
        "stem_width": 16,
        "features": 128,
    },
}


def _size(params, gmac, frames, size, classes=400, paper=PAPER):
    return {"input": (frames, size, size, 3), "classes": classes, "params": params, "gmac": gmac, "paper": paper}


# [P] published, [C] computed from the definition (tests/models/test_x3d_properties.py); GMAC of one centre view. The
# paper's parameters, 3.76, 6.08, 11.0 and 20.3 M, leave batch norm out. XXL's depth and frames are not published: these
# are those that give its parameters, its 143.5 G and the 194.1 G of views of 356.
SIZES = {
    "xs": _size(3_794_322, 0.605, 4, 160),  # [P] 0.60 G
    "s": _size(3_794_322, 1.963, 13, 160),  # [P] 1.96 G
    "m": _size(3_794_322, 4.732, 16, 224),  # [P] 4.73 G
    "l": _size(6_153_432, 18.368, 16, 312),  # [P] 18.37 G
    "xl": _size(11_095_904, 35.838, 16, 312),  # [P] 35.8 G
    "xxl": _size(20_474_404, 143.542, 32, 312),  # [C]
    "small": _size(50_628, 0.023, 8, 40, 8, "none (small clips)"),  # [C]
}


class Unit(nn.Module):
    """Convolution with zero padding k // 2 and batch norm: (B, T, H, W, C) -> (B, T, H', W', features).

    The norm's scale begins as 0 where `last`, so that a residual block begins as its shortcut.
    """

    features: int
    kernel: tuple
    stride: int
    groups: int
    conv: functools.partial
    norm: functools.partial
    last: bool = False

    @nn.compact
    def __call__(self, x):
        padding, strides = tuple((k // 2, k // 2) for k in self.kernel), (1, self.stride, self.stride)
        x = self.conv(self.features, self.kernel, strides, padding, self.groups, name="conv")(x)
        return self.norm(scale_init=nn.initializers.zeros if self.last else nn.initializers.ones, name="bn")(x)


class SqueezeExcite(nn.Module):
    """Channels weighed by a sigmoid of the clip's mean: (B, T, H, W, C) -> same (Hu et al., CVPR 2018)."""

    reduced: int
    conv: functools.partial

    @nn.compact
    def __call__(self, x):
        pointwise = functools.partial(self.conv, kernel_size=(1, 1, 1), use_bias=True)
        y = x.mean(axis=(1, 2, 3), keepdims=True, dtype=jnp.float32)
        y = nn.relu(pointwise(self.reduced, name="reduce")(y))
        y = nn.sigmoid(pointwise(x.shape[-1], name="expand")(y))
        return x * jnp.broadcast_to(y, x.shape)


class Block(nn.Module):
    """Inverted bottleneck: (B, T, H, W, C) -> (B, T, H / stride, W / stride, features).

    A pointwise unit to `inner` channels, a depthwise one, squeeze and excitation (`excite`), Swish, a pointwise unit.
    """

    features: int
    inner: int
    stride: int
    excite: bool
    first_norm: bool
    unit: functools.partial
    conv: functools.partial

    @nn.compact
    def __call__(self, x):
        one = (1, 1, 1)
        y = nn.relu(self.unit(self.inner, one, 1, 1, name="conv1")(x))
        y = self.unit(self.inner, (3, 3, 3), self.stride, self.inner, name="conv2")(y)
        if self.excite:
            y = SqueezeExcite(_rounded(self.inner / 16), self.conv, name="se")(y)
        y = self.unit(self.features, one, 1, 1, last=True, name="conv3")(nn.swish(y))
        if x.shape[-1] != self.features or (self.stride > 1 and self.first_norm):
            x = self.unit(self.features, one, self.stride, 1, name="downsample")(x)
        elif self.stride > 1:
            strides = (1, self.stride, self.stride)
            x = self.conv(self.features, one, strides, "VALID", name="downsample_conv")(x)
        return nn.relu(x + y)


class Model(nn.Module):
    """X3D: float32 RGB (B, T, H, W, 3) in [0, 1] -> float32 logits (B, num_classes), activations."""

    depths: tuple
    widths: tuple = (24, 48, 96, 192)
    strides: tuple = (2, 2, 2, 2)
    stem_width: int = 24
    expansion: float = 2.25
    features: int = 2048  # before the head
    first_norm: bool = True  # of a shortcut that only strides, which the first one is
    window: tuple | None = None
    num_classes: int = 400
    dropout: float = 0.5
    dtype: str = "float32"
    mean: float | tuple = 0.45
    std: float | tuple = 0.225
    order: str = "RGB"
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5

    @nn.compact
    def __call__(self, video, *, train):
        _check(self)
        x = normalise(video, self.mean, self.std, self.order).astype(self.dtype)
        conv = functools.partial(Conv3D, dtype=self.dtype)
        norm = functools.partial(BatchNorm, not train, self.bn_momentum, self.bn_epsilon, self.dtype)
        unit = functools.partial(Unit, conv=conv, norm=norm)
        out = {}
        x = conv(self.stem_width, (1, 3, 3), (1, 2, 2), ((0, 0), (1, 1), (1, 1)), name="stem_conv")(x)
        x = out["stem"] = nn.relu(unit(self.stem_width, (5, 1, 1), 1, self.stem_width, name="stem")(x))
        for i, (depth, width, stride) in enumerate(zip(self.depths, self.widths, self.strides, strict=True), 1):
            inner = int(self.expansion * width)
            for j in range(depth):
                fields = (width, inner, 1 if j else stride, j % 2 == 0, self.first_norm)
                x = Block(*fields, unit, conv, name=f"layer{i}_{j}")(x)
            out[f"layer{i}"] = x
        x = out["conv5"] = nn.relu(unit(inner, (1, 1, 1), 1, 1, name="conv5")(x))
        window = tuple(map(min, self.window, x.shape[1:4])) if self.window else x.shape[1:4]
        x = nn.avg_pool(x.astype(jnp.float32), window)
        x = nn.relu(conv(self.features, (1, 1, 1), name="lin5")(x)).astype(jnp.float32).mean(axis=(1, 2, 3))
        x = out["pre_logits"] = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(x)
        if self.num_classes:
            x = nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01), name="head")(x)
        return x, out


def _rounded(width):
    """The multiple of 8 nearest to `width`, at least 8, and one more where that is less than 0.9 of it."""
    near = max(8, int(width + 4) // 8 * 8)
    return near + 8 if near < 0.9 * width else near


def _check(model):
    """ValueError unless the fields agree."""
    stages = [len(f) for f in (model.depths, model.widths, model.strides)]
    if len(set(stages)) > 1:
        raise ValueError(f"x3d needs depths, widths and strides of one length (the stages), not {stages}.")


def _pytorchvideo():
    """Conversion table of pytorchvideo's create_x3d, whose stages are blocks 1 to 4."""
    block, layer = r"blocks\.([1-4])\.res_blocks\.(\d+)", r"layer\1_\2"
    table = rules.conv(r"blocks\.0\.conv\.conv_t", "stem_conv")  # their names of time and space are exchanged
    table += rules.unit(r"blocks\.0\.conv\.conv_xy", r"blocks\.0\.norm", "stem")
    for source, norm, path in (("a", "norm_a", "conv1"), ("b", r"norm_b\.0", "conv2"), ("c", "norm_c", "conv3")):
        table += rules.unit(rf"{block}\.branch2\.conv_{source}", rf"{block}\.branch2\.{norm}", f"{layer}/{path}")
    for number, path in ((0, "reduce"), (2, "expand")):
        table += rules.conv(rf"{block}\.branch2\.norm_b\.1\.block\.{number}", f"{layer}/se/{path}", bias=True)
    first = r"blocks\.1\.res_blocks\.0\.branch1_conv"  # the only shortcut without a norm
    table += rules.conv(first, "layer1_0/downsample_conv")
    shortcut = r"blocks\.([2-4])\.res_blocks\.(\d+)\.branch1"
    table += rules.unit(rf"{shortcut}_conv", rf"{shortcut}_norm", f"{layer}/downsample")
    table += rules.unit(r"blocks\.5\.pool\.pre_conv", r"blocks\.5\.pool\.pre_norm", "conv5")
    table += rules.conv(r"blocks\.5\.pool\.post_conv", "lin5")
    return [*table, *rules.dense(r"blocks\.5\.proj", "head"), *rules.COUNTS]


def _pyslowfast():
    """Conversion table of PySlowFast's X3D, whose stages are s2 to s5."""
    table = rules.conv(r"s1\.pathway0_stem\.conv_xy", "stem_conv")
    table += rules.unit(r"s1\.pathway0_stem\.conv", r"s1\.pathway0_stem\.bn", "stem")
    for i in range(1, 5):
        block, layer = rf"s{i + 1}\.pathway0_res(\d+)", rf"layer{i}_\1"
        for source, path in (("a", "conv1"), ("b", "conv2"), ("c", "conv3")):
            table += rules.unit(rf"{block}\.branch2\.{source}", rf"{block}\.branch2\.{source}_bn", f"{layer}/{path}")
        for source, path in (("fc1", "reduce"), ("fc2", "expand")):
            table += rules.conv(rf"{block}\.branch2\.se\.{source}", f"{layer}/se/{path}", bias=True)
        table += rules.unit(rf"{block}\.branch1", rf"{block}\.branch1_bn", f"{layer}/downsample")
    table += rules.unit(r"head\.conv_5", r"head\.conv_5_bn", "conv5")
    return [*table, *rules.conv(r"head\.lin_5", "lin5"), *rules.dense(r"head\.projection", "head"), *rules.COUNTS]


PYTORCHVIDEO, PYSLOWFAST = _pytorchvideo(), _pyslowfast()

# What the weights of a source expect: the model's own first line applies mean and std.
PREPROCESS = {"order": "RGB", "range": (0.0, 1.0), "mean": 0.45, "std": 0.225}
_CLIPS = {  # frames, stride, test size, places of the map of the size trained on
    "xs": (4, 12, 182, 5),
    "s": (13, 6, 182, 5),
    "m": (16, 5, 256, 7),
    "l": (16, 5, 356, 10),
}


def _row(variant, source):
    frames, stride, size, places = _CLIPS[variant]
    theirs = {"pyslowfast": (PYSLOWFAST, "head.projection.bias"), "pytorchvideo": (PYTORCHVIDEO, "blocks.5.proj.bias")}
    return {
        "variant": variant,
        "table": theirs[source][0],
        "head": theirs[source][1],
        "preprocess": PREPROCESS | {"frames": frames, "stride": stride, "resize": size, "size": size},
        "classes": "kinetics400",
        "fields": {"window": (frames, places, places), "first_norm": source == "pyslowfast"},
    }


REFERENCES = {  # (source, the source's own name of the net)
    **{("pytorchvideo", f"x3d_{variant}"): _row(variant, "pytorchvideo") for variant in _CLIPS},
    **{("pyslowfast", f"X3D_{variant.upper()}"): _row(variant, "pyslowfast") for variant in _CLIPS},
}
