"""3-D ShuffleNet and ShuffleNetV2: grouped pointwise or halved channels, shuffled, for clips in real time.

Papers: Resource Efficient 3D Convolutional Neural Networks (Köpüklü et al., ICCV workshops 2019), table 8; the 2-D
nets are of Zhang et al., CVPR 2018, table 1, and Ma et al., ECCV 2018, table 5.
Input: RGB in [0, 1], (B, 16, 112, 112, 3). Output: logits (B, num_classes).
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

_DEPTHS = (4, 8, 4)  # blocks of each stage


def _v1(multiplier):
    """Three groups; every width times `multiplier`, the stem's too."""
    widths = tuple(int(n * multiplier) for n in (240, 480, 960))
    return {"version": 1, "groups": 3, "stem_width": int(24 * multiplier), "widths": widths}


def _v2(*widths, last=1024):
    return {"version": 2, "widths": widths, "last_width": last}


VARIANTS = {  # table 8; the widths of version 2 are the reference's, whose 224 is 244 in the 2-D net
    "v1_x0_5": _v1(0.5),
    "v1_x1_0": _v1(1.0),
    "v1_x1_5": _v1(1.5),
    "v1_x2_0": _v1(2.0),
    "v2_x0_25": _v2(32, 64, 128),
    "v2_x0_5": _v2(48, 96, 192),
    "v2_x1_0": _v2(116, 232, 464),
    "v2_x1_5": _v2(176, 352, 704),
    "v2_x2_0": _v2(224, 488, 976, last=2048),
    "small": {  # ours, for clips of about 8x40x40
        "version": 2,
        "depths": (2, 2),
        "widths": (48, 96),
        "pool": False,
        "last_width": 128,
        "dropout": 0.0,
    },
}


def _size(params, gmac, *, frames=16, size=112, classes=600, paper=PAPER):
    return {"input": (frames, size, size, 3), "classes": classes, "params": params, "gmac": gmac, "paper": paper}


# [P] parameters of table 8, and its MFLOPs once norms and ReLUs are counted as its authors' tool does; [C] GMAC of the
# layers alone (tests/models/test_light3d_properties.py counts both).
SIZES = {
    "v1_x0_5": _size(545_772, 0.072),
    "v1_x1_0": _size(1_521_504, 0.188),
    "v1_x1_5": _size(2_924_916, 0.329),
    "v1_x2_0": _size(4_758_888, 0.514),
    "v2_x0_25": _size(829_656, 0.110),
    "v2_x0_5": _size(976_664, 0.120),  # [C] alone: not in the paper
    "v2_x1_0": _size(1_914_180, 0.187),
    "v2_x1_5": _size(3_161_880, 0.281),
    "v2_x2_0": _size(6_639_816, 0.425),
    "small": _size(36_952, 0.012, frames=8, size=40, classes=8, paper="none (small clips)"),  # [C]
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


class Grouped(nn.Module):
    """Block of ShuffleNet, its figure 2 b and c: (B, T, H, W, C) -> (B, T / s, H / s, W / s, features).

    Pointwise convolutions see one group of channels each, and a shuffle between them mixes the groups. With stride 1
    the block is added to its input; with stride 2 it stands beside its input's averages of 2x3x3.
    """

    features: int
    stride: int
    groups: int
    unit: functools.partial

    @nn.compact
    def __call__(self, x):
        channels, middle, one = x.shape[-1], self.features // 4, (1, 1, 1)
        features = self.features - (channels if self.stride > 1 else 0)
        groups = 1 if channels == 24 else self.groups  # the reference's rule: few channels are not split, 12 or 36 are
        y = nn.relu(self.unit(middle, 1, one, groups, name="reduce")(x))
        y = shuffle(y, self.groups)
        y = self.unit(middle, 3, (self.stride,) * 3, middle, name="depthwise")(y)
        y = self.unit(features, 1, one, self.groups, name="expand")(y)
        if self.stride == 1:
            return nn.relu(x + y)
        pads = ((0, x.shape[1] % 2), (1, 1), (1, 1))  # an odd last frame is kept, as the convolutions keep it
        return nn.relu(jnp.concatenate([y, nn.avg_pool(x, (2, 3, 3), (2, 2, 2), pads)], axis=-1))


class Halved(nn.Module):
    """Block of ShuffleNetV2, its figure 3 c and d: (B, T, H, W, C) -> (B, T / s, H / s, W / s, features).

    With stride 1 the first half of the channels passes as it is, with stride 2 both are computed from all of them.
    """

    features: int
    stride: int
    unit: functools.partial

    @nn.compact
    def __call__(self, x):
        channels, half, one, strides = x.shape[-1], self.features // 2, (1, 1, 1), (self.stride,) * 3
        first, second = (x, x) if self.stride > 1 else (x[..., :half], x[..., half:])
        if self.stride > 1:
            first = self.unit(channels, 3, strides, channels, name="first_depthwise")(first)
            first = nn.relu(self.unit(half, 1, one, 1, name="first_pointwise")(first))
        second = nn.relu(self.unit(half, 1, one, 1, name="reduce")(second))
        second = self.unit(half, 3, strides, half, name="depthwise")(second)
        second = nn.relu(self.unit(half, 1, one, 1, name="pointwise")(second))
        return shuffle(jnp.concatenate([first, second], axis=-1), 2)


def shuffle(x, groups):
    """Channels of `groups` groups in turn, the first of each, then the second: (..., C) -> (..., C)."""
    *rest, channels = x.shape
    return x.reshape(*rest, groups, channels // groups).swapaxes(-1, -2).reshape(x.shape)


class Model(nn.Module):
    """3-D ShuffleNet: float32 RGB (B, T, H, W, 3) in [0, 1] -> float32 logits (B, num_classes), activations.

    `version` 1 has grouped blocks of `groups` groups, 2 halved ones and a last pointwise layer of `last_width`.
    """

    version: int
    widths: tuple
    depths: tuple = _DEPTHS
    groups: int = 1
    stem_width: int = 24
    pool: bool = True
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
        block = functools.partial(Grouped, groups=self.groups) if self.version == 1 else Halved
        out = {}
        x = out["stem"] = nn.relu(unit(self.stem_width, 3, (1, 2, 2), 1, name="stem")(x))
        if self.pool:
            x = max_pool(x, (3, 3, 3), (2, 2, 2), ((1, 1),) * 3)
        for i, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True), 1):
            for j in range(depth):
                x = block(features=width, stride=1 if j else 2, unit=unit, name=f"layer{i}_{j}")(x)
            out[f"layer{i}"] = x
        if self.version == 2:
            x = out["last"] = nn.relu(unit(self.last_width, 1, (1, 1, 1), 1, name="last")(x))
        x = x.astype(jnp.float32).mean(axis=(1, 2, 3))
        x = out["pre_logits"] = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(x)
        if self.num_classes:
            x = nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01), name="head")(x)
        return x, out


def _check(model):
    """ValueError unless the fields agree."""
    if model.version not in (1, 2):
        raise ValueError(f"shufflenet3d's field version is 1 or 2, not {model.version!r}.")
    if len(model.depths) != len(model.widths):
        stages = [len(model.depths), len(model.widths)]
        raise ValueError(f"shufflenet3d needs depths and widths of one length (the stages), not {stages}.")
    if model.version == 2 and model.last_width < 1:
        raise ValueError("shufflenet3d of version 2 needs the field last_width, the channels of its last layer.")
    if model.version == 2 and any(n % 2 for n in model.widths):
        raise ValueError(f"shufflenet3d of version 2 halves its channels: make the widths even, not {model.widths}.")
    split = [m for n in model.widths for m in (n, n // 4)] + [model.stem_width] * (model.stem_width != 24)
    if model.version == 1 and any(n % model.groups for n in split):
        raise ValueError(f"shufflenet3d's widths and their quarters must divide by groups, {model.groups}.")


def _unit(conv, norm, path):
    """Conversion rules of one PyTorch convolution and its batch norm."""
    return [
        (rf"{conv}\.weight", f"params/{path}/conv/kernel", "oithw_to_thwio"),
        (rf"{norm}\.weight", f"params/{path}/bn/scale", None),
        (rf"{norm}\.bias", f"params/{path}/bn/bias", None),
        (rf"{norm}\.running_(?P<stat>mean|var)", rf"batch_stats/{path}/bn/\g<stat>", None),
    ]


def table(version, depths=_DEPTHS):
    """Conversion table of the reference's net; in version 2 it numbers its blocks through from 0."""
    rules = _unit(r"conv1\.0", r"conv1\.1", "stem")
    if version == 1:
        for n, unit in enumerate(("reduce", "depthwise", "expand"), 1):
            layer = r"layer(\d)\.(\d+)"
            rules += _unit(rf"{layer}\.conv{n}", rf"{layer}\.bn{n}", rf"layer\1_\2/{unit}")
    else:
        for k, path in enumerate(f"layer{i}_{j}" for i, depth in enumerate(depths, 1) for j in range(depth)):
            for unit, conv, norm in (
                ("first_depthwise", "1.0", "1.1"),
                ("first_pointwise", "1.2", "1.3"),
                ("reduce", "2.0", "2.1"),
                ("depthwise", "2.3", "2.4"),
                ("pointwise", "2.5", "2.6"),
            ):
                rules += _unit(rf"features\.{k}\.banch{conv}", rf"features\.{k}\.banch{norm}", f"{path}/{unit}")
        rules += _unit(r"conv_last\.0", r"conv_last\.1", "last")
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
_OKANKOP = {v: {"table": table(v), "head": "classifier.1.bias", "preprocess": PREPROCESS} for v in (1, 2)}
_KINETICS = {"fields": {"order": "BGR"}, "preprocess": PREPROCESS | {"order": "BGR", "stride": 1}}


def _released(version, net, *widths):
    """Rows of the reference's nets of these widths: RGB for Jester and UCF-101, and kinetics_... for Kinetics-600."""
    found = {}
    for width in widths:
        row = _OKANKOP[version] | {"variant": f"v{version}_x{width.replace('.', '_')}"}
        found |= {("okankop", f"{net}_{width}x"): row, ("okankop", f"kinetics_{net}_{width}x"): row | _KINETICS}
    return found


REFERENCES = {  # (source, the source's own name of the net); without a width, that of the golden data
    ("okankop", "shufflenet"): _OKANKOP[1] | {"variant": "v1_x0_5"},
    ("okankop", "shufflenetv2"): _OKANKOP[2] | {"variant": "v2_x0_25"},
    **_released(1, "shufflenet", "0.5", "1.0", "1.5", "2.0"),
    **_released(2, "shufflenetv2", "0.25", "0.5", "1.0", "1.5", "2.0"),
}
