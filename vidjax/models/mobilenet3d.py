"""3-D MobileNet and MobileNetV2: depthwise separable 3x3x3 convolutions for clips in real time.

Papers: Resource Efficient 3D Convolutional Neural Networks (Köpüklü et al., ICCV workshops 2019), table 8; the 2-D
nets are of Howard et al., arXiv:1704.04861, table 1, and Sandler et al., CVPR 2018, table 2.
Input: RGB in [0, 1], (B, 16, 112, 112, 3). Output: logits (B, num_classes).
Reference: okankop/Efficient-3DCNNs. Its weights for Jester and UCF-101 read RGB, those for Kinetics-600 BGR: that
loader takes OpenCV's channels as they come, and subtracts the means of RGB from them.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from vidjax.nn import BatchNorm, Conv3D, normalise

PAPER = "Köpüklü et al., ICCVW 2019"

# ActivityNet's mean pixel; the reference divides by nothing and works on [0, 255].
MEAN, STD = (114.7748 / 255, 107.7354 / 255, 99.4750 / 255), 1 / 255

_DEPTHS = {1: (1, 2, 2, 6, 2), 2: (1, 2, 3, 4, 3, 3, 1)}  # blocks of each stage


def _v1(multiplier):
    """Every width times `multiplier`."""
    widths = (64, 128, 256, 512, 1024)
    net = {"version": 1, "depths": _DEPTHS[1], "strides": (2, 2, 2, 2, 1)}
    return net | {"stem_width": int(32 * multiplier), "widths": tuple(int(n * multiplier) for n in widths)}


def _v2(multiplier):
    """Every width times `multiplier`, but not the last one of 1280."""
    widths = (16, 24, 32, 64, 96, 160, 320)
    net = {"version": 2, "depths": _DEPTHS[2], "strides": (1, 2, 2, 2, 1, 2, 1), "expansions": (1, 6, 6, 6, 6, 6, 6)}
    net |= {"stem_width": int(32 * multiplier), "widths": tuple(int(n * multiplier) for n in widths)}
    return net | {"last_width": 1280}


VARIANTS = {  # table 8
    "v1_x0_5": _v1(0.5),
    "v1_x1_0": _v1(1.0),
    "v1_x1_5": _v1(1.5),
    "v1_x2_0": _v1(2.0),
    "v2_x0_2": _v2(0.2),
    "v2_x0_45": _v2(0.45),
    "v2_x0_7": _v2(0.7),
    "v2_x1_0": _v2(1.0),
    "small": {  # ours, for clips of about 8x40x40
        "version": 2,
        "depths": (1, 2, 2),
        "widths": (16, 24, 48),
        "strides": (1, 2, 2),
        "expansions": (1, 4, 4),
        "stem_width": 16,
        "last_width": 128,
        "dropout": 0.0,
    },
}


def _size(params, gmac, *, frames=16, size=112, classes=600, paper=PAPER):
    return {"input": (frames, size, size, 3), "classes": classes, "params": params, "gmac": gmac, "paper": paper}


# [P] parameters of table 8, and its MFLOPs once norms and ReLUs are counted as its authors' tool does; [C] GMAC of the
# layers alone (tests/models/test_light3d_properties.py counts both).
SIZES = {
    "v1_x0_5": _size(1_171_896, 0.094),
    "v1_x1_0": _size(3_912_984, 0.233),
    "v1_x1_5": _size(8_223_864, 0.417),
    "v1_x2_0": _size(14_104_536, 0.646),
    "v2_x0_2": _size(964_110, 0.055),
    "v2_x0_45": _size(1_399_834, 0.158),
    "v2_x0_7": _size(2_049_942, 0.296),
    "v2_x1_0": _size(3_122_648, 0.519),
    "small": _size(56_200, 0.017, frames=8, size=40, classes=8, paper="none (small clips)"),  # [C]
}


class Unit(nn.Module):
    """Convolution with zero padding k // 2 and batch norm: (B, T, H, W, C) -> (B, T', H', W', features)."""

    features: int
    kernel: int
    strides: tuple
    groups: int
    conv: functools.partial
    norm: functools.partial

    @nn.compact
    def __call__(self, x):
        padding = ((self.kernel // 2,) * 2,) * 3
        x = self.conv(self.features, (self.kernel,) * 3, self.strides, padding, self.groups, name="conv")(x)
        return self.norm(name="bn")(x)


class Separable(nn.Module):
    """Block of MobileNet: depthwise, then pointwise: (B, T, H, W, C) -> (B, T / s, H / s, W / s, features).

    A ReLU follows each of the two.
    """

    features: int
    stride: int
    unit: functools.partial

    @nn.compact
    def __call__(self, x):
        channels = x.shape[-1]
        x = nn.relu(self.unit(channels, 3, (self.stride,) * 3, channels, name="depthwise")(x))
        return nn.relu(self.unit(self.features, 1, (1, 1, 1), 1, name="pointwise")(x))


class Inverted(nn.Module):
    """Block of MobileNetV2, wide inside: (B, T, H, W, C) -> (B, T / s, H / s, W / s, features).

    It widens by `expansion` (unless that is 1), filters depthwise and projects without a ReLU; the sum with its input
    where the shapes agree.
    """

    features: int
    stride: int
    expansion: int
    unit: functools.partial

    @nn.compact
    def __call__(self, x):
        wide, y = x.shape[-1] * self.expansion, x
        if self.expansion > 1:
            y = nn.relu6(self.unit(wide, 1, (1, 1, 1), 1, name="expand")(y))
        y = nn.relu6(self.unit(wide, 3, (self.stride,) * 3, wide, name="depthwise")(y))
        y = self.unit(self.features, 1, (1, 1, 1), 1, name="project")(y)
        return x + y if self.stride == 1 and x.shape[-1] == self.features else y


class Model(nn.Module):
    """3-D MobileNet: float32 RGB (B, T, H, W, 3) in [0, 1] -> float32 logits (B, num_classes), activations.

    `version` 1 has separable blocks, 2 inverted ones of `expansions` and a last pointwise layer of `last_width`.
    """

    version: int
    depths: tuple
    widths: tuple
    strides: tuple
    stem_width: int
    expansions: tuple = ()
    last_width: int = 0
    num_classes: int = 600
    dropout: float = 0.2
    dtype: str = "float32"
    mean: float | tuple = MEAN
    std: float | tuple = STD
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
        relu = nn.relu if self.version == 1 else nn.relu6
        out = {}
        x = out["stem"] = relu(unit(self.stem_width, 3, (1, 2, 2), 1, name="stem")(x))
        for i, (depth, width, stride) in enumerate(zip(self.depths, self.widths, self.strides, strict=True), 1):
            for j in range(depth):
                kind = functools.partial(Inverted, expansion=self.expansions[i - 1]) if self.version == 2 else Separable
                x = kind(features=width, stride=1 if j else stride, unit=unit, name=f"layer{i}_{j}")(x)
            out[f"layer{i}"] = x
        if self.version == 2:
            x = out["last"] = relu(unit(self.last_width, 1, (1, 1, 1), 1, name="last")(x))
        x = x.astype(jnp.float32).mean(axis=(1, 2, 3))
        x = out["pre_logits"] = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(x)
        if self.num_classes:
            x = nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01), name="head")(x)
        return x, out


def _check(model):
    """ValueError unless the fields agree."""
    if model.version not in (1, 2):
        raise ValueError(f"mobilenet3d's field version is 1 or 2, not {model.version!r}.")
    stages = {name: len(getattr(model, name)) for name in ("depths", "widths", "strides")}
    stages |= {"expansions": len(model.expansions)} if model.version == 2 else {}
    if len(set(stages.values())) > 1:
        raise ValueError(f"mobilenet3d needs {', '.join(stages)} of one length (the stages), not {[*stages.values()]}.")
    if model.version == 2 and model.last_width < 1:
        raise ValueError("mobilenet3d of version 2 needs the field last_width, the channels of its last layer.")


def _unit(conv, norm, path):
    """Conversion rules of one PyTorch convolution and its batch norm."""
    return [
        (rf"{conv}\.weight", f"params/{path}/conv/kernel", "oithw_to_thwio"),
        (rf"{norm}\.weight", f"params/{path}/bn/scale", None),
        (rf"{norm}\.bias", f"params/{path}/bn/bias", None),
        (rf"{norm}\.running_(?P<stat>mean|var)", rf"batch_stats/{path}/bn/\g<stat>", None),
    ]


def table(version, depths):
    """Conversion table of the reference's net, which numbers its blocks through from 1; the first expands by 1."""
    rules = _unit(r"features\.0\.0", r"features\.0\.1", "stem")
    blocks = [f"layer{i}_{j}" for i, depth in enumerate(depths, 1) for j in range(depth)]
    for k, path in enumerate(blocks, 1):
        source = rf"features\.{k}"
        if version == 1:
            rules += _unit(rf"{source}\.conv1", rf"{source}\.bn1", f"{path}/depthwise")
            rules += _unit(rf"{source}\.conv2", rf"{source}\.bn2", f"{path}/pointwise")
            continue
        for n, unit in enumerate(("depthwise", "project") if k == 1 else ("expand", "depthwise", "project")):
            rules += _unit(rf"{source}\.conv\.{3 * n}", rf"{source}\.conv\.{3 * n + 1}", f"{path}/{unit}")
    if version == 2:
        last = rf"features\.{len(blocks) + 1}"
        rules += _unit(rf"{last}\.0", rf"{last}\.1", "last")
    return [
        *rules,
        (r"classifier\.1\.weight", "params/head/kernel", "oi_to_io"),
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
    version: {"table": table(version, depths), "head": "classifier.1.bias", "preprocess": PREPROCESS}
    for version, depths in _DEPTHS.items()
}
_KINETICS = {"fields": {"order": "BGR"}, "preprocess": PREPROCESS | {"order": "BGR", "stride": 1}}


def _released(version, net, *widths):
    """Rows of the reference's nets of these widths: RGB for Jester and UCF-101, and kinetics_... for Kinetics-600."""
    found = {}
    for width in widths:
        row = _OKANKOP[version] | {"variant": f"v{version}_x{width.replace('.', '_')}"}
        found |= {("okankop", f"{net}_{width}x"): row, ("okankop", f"kinetics_{net}_{width}x"): row | _KINETICS}
    return found


REFERENCES = {  # (source, the source's own name of the net); without a width, that of the golden data
    ("okankop", "mobilenet"): _OKANKOP[1] | {"variant": "v1_x1_0"},
    ("okankop", "mobilenetv2"): _OKANKOP[2] | {"variant": "v2_x0_45"},
    **_released(1, "mobilenet", "0.5", "1.0", "1.5", "2.0"),
    **_released(2, "mobilenetv2", "0.2", "0.45", "0.7", "1.0"),
}
