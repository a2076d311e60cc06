"""Residual nets with 2-D, 3-D, mixed and (2+1)-D convolutions: R2D, f-R2D, R3D, MCx, rMCx, R(2+1)D of 18 to 152 layers.

Paper: A Closer Look at Spatiotemporal Convolutions for Action Recognition (Tran et al., CVPR 2018).
Input: RGB in [0, 1], (B, 16, 112, 112, 3) cropped from 128x171, or flow in [-1, 1]. Output: logits (B, num_classes).
References: torchvision.models.video (`<net>_<depth>`), facebookresearch/VMZ (`<net>_<depth>_paper`) and
jfzhang95/pytorch-video-recognition (`<net>_18_jfzhang`). They differ in the batch norm's epsilon and in the middle
width of (2+1)D: one per convolution in VMZ, one per block in torchvision; jfzhang's nets normalise twice.
"""

import functools
import re

import flax.linen as nn
import jax.numpy as jnp

from vidjax import rules
from vidjax.models import _vmz as _vmz_names
from vidjax.nn import BatchNorm, Conv3D, normalise

PAPER = "Tran et al., CVPR 2018"

# Kinetics statistics of torchvision's presets; VMZ's are the same times 255.
MEAN, STD = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)


def _mixed(threes, reverse=False):
    """Stem and conv2_x to conv5_x with 3-D convolutions in the first `threes` of the five, or in the others."""
    kinds = ["2d" if (i < threes) == reverse else "3d" for i in range(5)]
    return {"stem": kinds[0], "convs": tuple(kinds[1:])}


_NETS = {  # Table 1 and figure 1 of the paper; `convs` of conv2_x to conv5_x
    "r2d": {"stem": "stacked", "convs": ("2d",) * 4},
    "fr2d": _mixed(0),
    "r3d": _mixed(5),
    "r2plus1d": {"stem": "2plus1d", "convs": ("2plus1d",) * 4},
}
_NETS |= {f"mc{x}": _mixed(x - 1) for x in (2, 3, 4, 5)}  # the groups from conv x on are 2-D
_NETS |= {f"rmc{x}": _mixed(x - 1, reverse=True) for x in (2, 3, 4, 5)}  # the groups before conv x are 2-D
_DEPTHS = {
    18: {"depths": (2, 2, 2, 2)},
    34: {"depths": (3, 4, 6, 3)},
    152: {"depths": (3, 8, 36, 3), "bottleneck": True},
}
_TORCHVISION = {"mid": "block", "bn_epsilon": 1e-5}
_PAPER = {"mid": "conv", "bn_epsilon": 1e-3}
_JFZHANG = {  # made for BGR in [0, 255]: with weights trained so, set the field order to "BGR"
    "mid": "conv",
    "twice": True,
    "mean": (90 / 255, 98 / 255, 102 / 255),
    "std": 1 / 255,
}

VARIANTS = {f"{net}_18": _NETS[net] | _DEPTHS[18] | _TORCHVISION for net in ("r3d", "mc3", "r2plus1d")}
VARIANTS |= {f"{net}_18_paper": row | _DEPTHS[18] | _PAPER for net, row in _NETS.items()}
VARIANTS |= {f"{net}_34_paper": _NETS[net] | _DEPTHS[34] | _PAPER for net in ("r2d", "r3d", "mc3", "r2plus1d")}
VARIANTS |= {f"{net}_152_paper": _NETS[net] | _DEPTHS[152] | _PAPER for net in ("r3d", "r2plus1d")}
VARIANTS |= {f"{net}_18_jfzhang": _NETS[net] | _DEPTHS[18] | _JFZHANG for net in ("r3d", "r2plus1d")}
VARIANTS["small"] = {  # ours, for clips of about 8x40x40
    "stem": "3d",
    "stem_kernel": (3, 5, 5),
    "convs": ("3d",) * 3,
    "depths": (1, 1, 1),
    "widths": (16, 32, 64),
    "strides": (1, 2, 2),
}


def _size(params, gmac, *, frames=16, size=112, classes=400, paper=PAPER):
    return {"input": (frames, size, size, 3), "classes": classes, "params": params, "gmac": gmac, "paper": paper}


SIZES = {  # [P] published, [C] computed from the definition (tests/models/test_r3d_family.py); GMAC per view
    "r3d_18": _size(33_371_472, 40.697),  # [P] torchvision
    "mc3_18": _size(11_695_440, 43.343),  # [P] torchvision
    "r2plus1d_18": _size(31_505_325, 40.519),  # [P] torchvision
    # [C] what follows; agrees with the figures of the paper and of VMZ's c2/tutorials/models.md [P]
    "r2d_18_paper": _size(11_522_832, 2.168),
    "fr2d_18_paper": _size(11_381_712, 27.601),
    "r3d_18_paper": _size(33_371_472, 40.697),
    "r2plus1d_18_paper": _size(33_370_839, 41.496),
    "mc2_18_paper": _size(11_400_528, 28.545),
    "mc3_18_paper": _size(11_695_440, 43.343),
    "mc4_18_paper": _size(12_727_632, 39.952),
    "mc5_18_paper": _size(16_856_400, 39.900),
    "rmc2_18_paper": _size(33_352_656, 39.752),
    "rmc3_18_paper": _size(33_057_744, 24.955),
    "rmc4_18_paper": _size(32_025_552, 29.091),
    "rmc5_18_paper": _size(27_896_784, 30.787),
    "r2d_34_paper": _size(21_781_520, 4.490, frames=32),
    "r3d_34_paper": _size(63_681_104, 150.756, frames=32),
    "mc3_34_paper": _size(21_951_056, 160.673, frames=32),
    "r2plus1d_34_paper": _size(63_697_175, 152.356, frames=32),  # VMZ's 199.0 is a crop of 128
    "r3d_152_paper": _size(118_185_808, 246.016, frames=32, paper="Ghadiyaram et al., CVPR 2019"),
    "r2plus1d_152_paper": _size(118_226_785, 251.997, frames=32, paper="Ghadiyaram et al., CVPR 2019"),  # 329.1 at 128
    "r3d_18_jfzhang": _size(33_227_557, 40.696, classes=101),  # [C]
    "r2plus1d_18_jfzhang": _size(33_226_750, 41.525, classes=101),  # [C]
    "small": _size(228_536, 0.081, frames=8, size=40, classes=8, paper="none (small clips)"),  # [C]
}


class Unit(nn.Module):
    """Convolution of one kind and batch norm: (B, T, H, W, C) -> (B, T', H', W', features).

    `kind` is "3d", "2d" (no extent or stride in time), "2plus1d": space, norm, ReLU, then time, with `mid` channels
    between them, or "stacked": all frames are channels of one picture. `twice` adds a ReLU and a second norm.
    """

    features: int
    kernel: tuple
    strides: tuple
    kind: str
    mid: int
    conv: functools.partial
    norm: functools.partial
    twice: bool = False

    @nn.compact
    def __call__(self, x):
        (t, h, w), (st, sh, sw) = self.kernel, self.strides
        if self.kind == "2plus1d":
            x = self.conv(self.mid, (1, h, w), (1, sh, sw), _symmetric(1, h, w), name="spatial")(x)
            x = nn.relu(self.norm(name="mid_bn")(x))
            x = self.conv(self.features, (t, 1, 1), (st, 1, 1), _symmetric(t, 1, 1), name="temporal")(x)
        else:
            t, st = (t, st) if self.kind == "3d" else (1, 1)
            kernel = (x.shape[1] if self.kind == "stacked" else t, h, w)
            x = self.conv(self.features, kernel, (st, sh, sw), _symmetric(t, h, w), name="conv")(x)
        x = self.norm(name="bn")(x)
        return self.norm(name="second_bn")(nn.relu(x)) if self.twice else x


class Block(nn.Module):
    """Residual block of two 3x3x3 units, or one between two of 1x1x1: (B, T, H, W, C) -> (B, T / s, H / s, W / s, D).

    D is `features`, in a bottleneck four times that.
    """

    features: int
    stride: int
    kind: str
    mid: str
    bottleneck: bool
    twice: bool
    unit: functools.partial

    @nn.compact
    def __call__(self, x):
        channels, n = x.shape[-1], self.features
        one, three, strides = (1, 1, 1), (3, 3, 3), (self.stride,) * 3
        pointwise = "2d" if self.kind == "2d" else "3d"
        first = mid_features(channels, n)
        second = first if self.mid == "block" else mid_features(n, n)
        if self.bottleneck:
            y = nn.relu(self.unit(n, one, one, pointwise, 0, name="conv1")(x))
            y = nn.relu(self.unit(n, three, strides, self.kind, second, name="conv2")(y))
            y = self.unit(4 * n, one, one, pointwise, 0, name="conv3")(y)
        else:
            y = nn.relu(self.unit(n, three, strides, self.kind, first, twice=self.twice, name="conv1")(x))
            y = self.unit(n, three, one, self.kind, second, twice=self.twice, name="conv2")(y)
        if self.stride != 1 or channels != y.shape[-1]:
            kind, middle = (self.kind, mid_features(channels, n, 1, 1)) if self.twice else (pointwise, 0)
            x = self.unit(y.shape[-1], one, strides, kind, middle, twice=self.twice, name="downsample")(x)
        return nn.relu(x + y)


class Model(nn.Module):
    """Video residual net: float32 RGB (B, T, H, W, 3) in [0, 1] -> float32 logits (B, num_classes), activations."""

    depths: tuple
    convs: tuple
    stem: str
    widths: tuple = (64, 128, 256, 512)
    strides: tuple = (1, 2, 2, 2)
    bottleneck: bool = False
    mid: str = "block"
    twice: bool = False
    stem_kernel: tuple = (3, 7, 7)
    stem_strides: tuple = (1, 2, 2)
    stem_mid: int = 45
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
        _check(self)
        x = normalise(video, self.mean, self.std, self.order).astype(self.dtype)
        init = nn.initializers.variance_scaling(2, "fan_out", "normal")
        conv = functools.partial(Conv3D, dtype=self.dtype, kernel_init=init)
        norm = functools.partial(BatchNorm, not train, self.bn_momentum, self.bn_epsilon, self.dtype)
        unit = functools.partial(Unit, conv=conv, norm=norm)
        stem = unit(self.widths[0], self.stem_kernel, self.stem_strides, self.stem, self.stem_mid, name="stem")
        out = {}
        x = out["stem"] = nn.relu(stem(x))
        for i, (depth, width, stride, kind) in enumerate(
            zip(self.depths, self.widths, self.strides, self.convs, strict=True), 1
        ):
            for j in range(depth):
                kinds = (kind, self.mid, self.bottleneck, self.twice)
                x = Block(width, 1 if j else stride, *kinds, unit, name=f"layer{i}_{j}")(x)
            out[f"layer{i}"] = x
        x = x.astype(jnp.float32).mean(axis=(1, 2, 3))
        x = out["pre_logits"] = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(x)
        if self.num_classes:
            x = nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01), name="head")(x)
        return x, out


def mid_features(channels, features, t=3, d=3):
    """Middle width M_i that gives (2+1)D the parameters of a t x d x d convolution (section 3.5 of the paper)."""
    return t * d * d * channels * features // (d * d * channels + t * features)


def _symmetric(*kernel):
    """Zero padding k // 2 on both sides of frames, rows and columns."""
    return tuple((k // 2, k // 2) for k in kernel)


def _check(model):
    """ValueError unless the fields that describe the stages agree."""
    stages = [len(f) for f in (model.depths, model.widths, model.strides, model.convs)]
    if len(set(stages)) > 1:
        raise ValueError(f"r3d needs depths, widths, strides and convs of one length (the stages), not {stages}.")
    if model.stem not in ("3d", "2d", "2plus1d", "stacked"):
        raise ValueError(f"r3d's field stem is '3d', '2d', '2plus1d' or 'stacked', not {model.stem!r}.")
    for kind in model.convs:
        if kind not in ("3d", "2d", "2plus1d"):
            raise ValueError(f"r3d's field convs has '3d', '2d' or '2plus1d' for a stage, not {kind!r}.")
    if model.mid not in ("block", "conv"):
        raise ValueError(f"r3d's field mid is 'block' (torchvision) or 'conv' (the paper), not {model.mid!r}.")
    if model.twice and model.bottleneck:
        raise ValueError("r3d's field twice (jfzhang's second norm) is for basic blocks; unset it or bottleneck.")


_BODY = [  # (reference name, our path or None to drop it, transform)
    (r"layer(\d)\.(\d+)\.(conv\d|downsample)\.0\.weight", r"params/layer\1_\2/\3/conv/kernel", "oithw_to_thwio"),
    (r"layer(\d)\.(\d+)\.(conv\d)\.0\.0\.weight", r"params/layer\1_\2/\3/spatial/kernel", "oithw_to_thwio"),
    (r"layer(\d)\.(\d+)\.(conv\d)\.0\.3\.weight", r"params/layer\1_\2/\3/temporal/kernel", "oithw_to_thwio"),
    *rules.norm(r"layer(\d)\.(\d+)\.(conv\d|downsample)\.1", r"layer\1_\2/\3/bn"),
    *rules.norm(r"layer(\d)\.(\d+)\.(conv\d)\.0\.1", r"layer\1_\2/\3/mid_bn"),
    (r"fc\.weight", "params/head/kernel", "oi_to_io"),
    (r"fc\.bias", "params/head/bias", None),
    *rules.COUNTS,
]
TORCH = [*_BODY, (r"stem\.0\.weight", "params/stem/conv/kernel", "oithw_to_thwio"), *rules.norm(r"stem\.1", "stem/bn")]
TORCH_2PLUS1D = [
    *_BODY,
    (r"stem\.0\.weight", "params/stem/spatial/kernel", "oithw_to_thwio"),
    *rules.norm(r"stem\.1", "stem/mid_bn"),
    (r"stem\.3\.weight", "params/stem/temporal/kernel", "oithw_to_thwio"),
    *rules.norm(r"stem\.4", "stem/bn"),
]


def _like_torchvision(tensors):
    """jfzhang's tensors with torchvision's blocks: conv2.block1 is layer1.0, conv2.blocks.0 is layer1.1."""

    def renamed(match):
        stage, _, later = match.groups()
        return f"layer{int(stage) - 1}.{int(later) + 1 if later else 0}"

    pattern = re.compile(r"res(?:3d|2plus1d)\.conv([2-5])\.(block1|blocks\.(\d+))")
    return {pattern.sub(renamed, name): tensor for name, tensor in tensors.items()}


def _like_jfzhang(tensors):
    """The inverse of `_like_torchvision`."""
    net = "res2plus1d" if "res2plus1d.conv1.spatial_conv.weight" in tensors else "res3d"

    def renamed(match):
        stage, block = int(match[1]) + 1, int(match[2])
        return f"{net}.conv{stage}.{f'blocks.{block - 1}' if block else 'block1'}"

    return {re.sub(r"layer(\d)\.(\d+)", renamed, name): tensor for name, tensor in tensors.items()}


def _jfzhang(net):
    """Conversion table of one of its nets, after _like_torchvision."""
    block, plus = r"layer(\d)\.(\d+)", net == "res2plus1d"
    units = {rf"{net}\.conv1": "stem", rf"{block}\.conv(\d)": r"layer\1_\2/conv\3"}
    units |= {rf"{block}\.downsampleconv": r"layer\1_\2/downsample"}
    table = []
    for source, path in units.items():
        parts = {"spatial_conv": "spatial", "temporal_conv": "temporal"} if plus else {"temporal_spatial_conv": "conv"}
        table += [
            rule for theirs, ours in parts.items() for rule in rules.conv(rf"{source}\.{theirs}", f"{path}/{ours}")
        ]
        table += rules.norm(rf"{source}\.bn1", f"{path}/mid_bn") if plus else []
        table += rules.norm(rf"{source}\.bn{2 if plus else ''}", f"{path}/bn")
    return [
        *table,
        *rules.norm(rf"{block}\.bn(\d)", r"layer\1_\2/conv\3/second_bn"),
        *rules.norm(rf"{block}\.downsamplebn", r"layer\1_\2/downsample/second_bn"),
        *rules.dense("linear", "head"),
        *rules.COUNTS,
    ]


# What the weights of a source expect: the model's own first line applies mean and std.
PREPROCESS = {
    "order": "RGB",
    "range": (0.0, 1.0),
    "mean": MEAN,
    "std": STD,
    "frames": 16,
    "resize": (128, 171),
    "size": 112,
}
PREPROCESS_JFZHANG = PREPROCESS | {"order": "BGR", "mean": _JFZHANG["mean"], "std": _JFZHANG["std"]}
_ROW = {"head": "fc.bias", "preprocess": PREPROCESS, "classes": "kinetics400"}


def _vmz(variant):
    """VMZ's weights, from PyTorch or Caffe2 (IG65M, Sports-1M, Kinetics)."""
    prepare = functools.partial(_vmz_names.in_pytorch, depths=VARIANTS[variant]["depths"])
    row = {"variant": variant, "table": TORCH_2PLUS1D, "head": "fc.bias", "preprocess": PREPROCESS | {"frames": 32}}
    return row | {"prepare": prepare, "restore": dict}


_JFZHANG_ROW = {
    "head": "linear.bias",
    "preprocess": PREPROCESS_JFZHANG,
    "prepare": _like_torchvision,
    "restore": _like_jfzhang,
}
REFERENCES = {  # (source, the source's own name of the net)
    ("torchvision", "r3d_18"): _ROW | {"variant": "r3d_18", "table": TORCH},
    ("torchvision", "mc3_18"): _ROW | {"variant": "mc3_18", "table": TORCH},
    ("torchvision", "r2plus1d_18"): _ROW | {"variant": "r2plus1d_18", "table": TORCH_2PLUS1D},
    ("vmz", "r2plus1d_34"): _vmz("r2plus1d_34_paper"),
    ("vmz", "r2plus1d_152"): _vmz("r2plus1d_152_paper"),
    ("jfzhang", "r3d"): _JFZHANG_ROW | {"variant": "r3d_18_jfzhang", "table": _jfzhang("res3d")},
    ("jfzhang", "r2plus1d"): _JFZHANG_ROW | {"variant": "r2plus1d_18_jfzhang", "table": _jfzhang("res2plus1d")},
}
