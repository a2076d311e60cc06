"""Channel-separated nets: 3-D residual bottlenecks whose 3x3x3 convolution is depthwise (ir-CSN, ip-CSN) or full.

Paper: Video Classification with Channel-Separated Convolutional Networks (Tran et al., ICCV 2019).
Input: RGB in [0, 1], (B, 32, 224, 224, 3), every second frame of a video. Output: logits (B, num_classes).
References: the Caffe2 definition of facebookresearch/VMZ, whose weights mmaction2 carries under its own names (VMZ
calls its PyTorch port buggy); pytorchvideo's csn_r101 is ir-CSN-101 with another epsilon of batch norm.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from vidjax import rules
from vidjax.models import _vmz as _vmz_names
from vidjax.nn import BatchNorm, Conv3D, max_pool, normalise

PAPER = "Tran et al., ICCV 2019"

# Kinetics statistics of VMZ, divided by 255.
MEAN, STD = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)

_DEPTHS = {26: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_NETS = {"ir": "depthwise", "ip": "pointwise+depthwise", "resnet3d": "full"}  # figure 2 of the paper

# VMZ's 26-layer nets do not widen: their blocks end as wide as they begin inside.
VARIANTS = {
    f"{net}_{n}": {"depths": depths, "core": core, "expansion": 1 if n == 26 else 4}
    for net, core in _NETS.items()
    for n, depths in _DEPTHS.items()
}
VARIANTS["small"] = {  # ours, for clips of about 8x40x40
    "depths": (1, 2, 1),
    "core": "pointwise+depthwise",
    "widths": (32, 48, 64),
    "strides": (1, 2, 2),
    "expansion": 2,
    "stem_width": 16,
    "stem_kernel": (3, 5, 5),
    "stem_pool": False,
    "bn_epsilon": 1e-5,
}


def _size(params, gmac, *, frames=32, size=224, classes=400, paper=PAPER):
    return {"input": (frames, size, size, 3), "classes": classes, "params": params, "gmac": gmac, "paper": paper}


# [P] published, [C] computed from the definition (tests/models/test_csn.py); GMAC per view of 224x224.
# VMZ prints 96.7 G and 108.8 G for ir- and ip-CSN-152 beside "32x224x224"; they are those of 256x256. Its parameters,
# 29.6 M and 32.8 M, leave batch norm out (29,552,144 and 32,841,232 here).
SIZES = {
    "ir_26": _size(1_691_344, 16.132),  # [C]
    "ir_50": _size(13_131_152, 42.309),  # [C], agrees with mmaction2's 13.1 M [P]; its 55.9 G are of 256x256
    "ir_101": _size(22_213_776, 56.468),  # [C], agrees with pytorchvideo's 22.21 M [P]; its 75.62 G are of 256x256
    "ir_152": _size(29_703_568, 74.046),  # [C]
    "ip_26": _size(2_391_504, 20.191),  # [C]
    "ip_50": _size(14_396_176, 47.652),  # [C]
    "ip_101": _size(24_601_616, 63.559),  # [C]
    "ip_152": _size(33_016_592, 83.295),  # [C]
    "resnet3d_26": _size(20_440_144, 57.289),  # [C]
    "resnet3d_50": _size(46_980_944, 117.841),  # [C]
    "resnet3d_101": _size(86_027_088, 178.984),  # [C]
    "resnet3d_152": _size(118_185_808, 254.513),  # [C]
    "small": _size(75_320, 0.061, frames=8, size=40, classes=8, paper="none (small clips)"),  # [C]
}


class Unit(nn.Module):
    """Convolution with zero padding k // 2 and batch norm: (B, T, H, W, C) -> (B, T', H', W', features)."""

    features: int
    kernel: tuple
    strides: tuple
    groups: int
    conv: functools.partial
    norm: functools.partial

    @nn.compact
    def __call__(self, x):
        padding = tuple((k // 2, k // 2) for k in self.kernel)
        x = self.conv(self.features, self.kernel, self.strides, padding, self.groups, name="conv")(x)
        return self.norm(name="bn")(x)


class Block(nn.Module):
    """Bottleneck of width `features`: (B, T, H, W, C) -> (B, T / s, H / s, W / s, features * expansion).

    The core between the two pointwise units is "full" (3x3x3), "depthwise" (interaction-reduced) or
    "pointwise+depthwise" (interaction-preserved), whose pointwise convolution has a norm and no ReLU.
    """

    features: int
    stride: int
    core: str
    expansion: int
    unit: functools.partial

    @nn.compact
    def __call__(self, x):
        one, strides, wide = (1, 1, 1), (self.stride,) * 3, self.features * self.expansion
        y = nn.relu(self.unit(self.features, one, one, 1, name="conv1")(x))
        if self.core == "pointwise+depthwise":
            y = self.unit(self.features, one, one, 1, name="mix")(y)
        groups = 1 if self.core == "full" else self.features
        y = nn.relu(self.unit(self.features, (3, 3, 3), strides, groups, name="conv2")(y))
        y = self.unit(wide, one, one, 1, name="conv3")(y)
        if self.stride != 1 or x.shape[-1] != wide:
            x = self.unit(wide, one, strides, 1, name="downsample")(x)
        return nn.relu(x + y)


class Model(nn.Module):
    """Channel-separated net: float32 RGB (B, T, H, W, 3) in [0, 1] -> float32 logits (B, num_classes), activations."""

    depths: tuple
    core: str
    expansion: int = 4
    widths: tuple = (64, 128, 256, 512)
    strides: tuple = (1, 2, 2, 2)
    stem_width: int = 64
    stem_kernel: tuple = (3, 7, 7)
    stem_pool: bool = True
    num_classes: int = 400
    dropout: float = 0.0
    dtype: str = "float32"
    mean: float | tuple = MEAN
    std: float | tuple = STD
    order: str = "RGB"
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-3

    @nn.compact
    def __call__(self, video, *, train):
        _check(self)
        x = normalise(video, self.mean, self.std, self.order).astype(self.dtype)
        conv = functools.partial(Conv3D, dtype=self.dtype)
        norm = functools.partial(BatchNorm, not train, self.bn_momentum, self.bn_epsilon, self.dtype)
        unit = functools.partial(Unit, conv=conv, norm=norm)
        out = {}
        x = nn.relu(unit(self.stem_width, self.stem_kernel, (1, 2, 2), 1, name="stem")(x))
        if self.stem_pool:
            x = max_pool(x, (1, 3, 3), (1, 2, 2), ((0, 0), (1, 1), (1, 1)))
        out["stem"] = x
        for i, (depth, width, stride) in enumerate(zip(self.depths, self.widths, self.strides, strict=True), 1):
            for j in range(depth):
                block = Block(width, 1 if j else stride, self.core, self.expansion, unit, name=f"layer{i}_{j}")
                x = block(x)
            out[f"layer{i}"] = x
        x = x.astype(jnp.float32).mean(axis=(1, 2, 3))
        x = out["pre_logits"] = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(x)
        if self.num_classes:
            x = nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01), name="head")(x)
        return x, out


def _check(model):
    """ValueError unless the fields agree."""
    stages = [len(f) for f in (model.depths, model.widths, model.strides)]
    if len(set(stages)) > 1:
        raise ValueError(f"csn needs depths, widths and strides of one length (the stages), not {stages}.")
    if model.core not in _NETS.values():
        raise ValueError(f"csn's field core is one of {', '.join(_NETS.values())}, not {model.core!r}.")


def _pytorchvideo():
    """Conversion table of pytorchvideo's create_csn, whose stages are blocks 1 to 4."""
    table = rules.unit(r"blocks\.0\.conv", r"blocks\.0\.norm", "stem")
    for source, path in (("a", "conv1"), ("b", "conv2"), ("c", "conv3")):
        block = r"blocks\.(\d)\.res_blocks\.(\d+)\.branch2"
        table += rules.unit(rf"{block}\.conv_{source}", rf"{block}\.norm_{source}", rf"layer\1_\2/{path}")
    block = r"blocks\.(\d)\.res_blocks\.(\d+)"
    return [
        *table,
        *rules.unit(rf"{block}\.branch1_conv", rf"{block}\.branch1_norm", r"layer\1_\2/downsample"),
        (r"blocks\.5\.proj\.weight", "params/head/kernel", "oi_to_io"),
        (r"blocks\.5\.proj\.bias", "params/head/bias", None),
        *rules.COUNTS,
    ]


def _mmaction2(core):
    """Conversion table of mmaction2's ResNet3dCSN; `core` maps its convolutions of conv2 to ours."""
    table = rules.unit(r"backbone\.conv1\.conv", r"backbone\.conv1\.bn", "stem")
    for source, path in ({name: name for name in ("conv1", "conv3", "downsample")} | core).items():
        layer = rf"backbone\.layer(\d)\.(\d+)\.{source}"
        table += rules.unit(rf"{layer}\.conv", rf"{layer}\.bn", rf"layer\1_\2/{path}")
    return [
        *table,
        (r"cls_head\.fc_cls\.weight", "params/head/kernel", "oi_to_io"),
        (r"cls_head\.fc_cls\.bias", "params/head/bias", None),
        *rules.COUNTS,
    ]


def _vmz(core):
    """Conversion table of VMZ's PyTorch nets, torchvision's names; `core` maps what is in conv2 to ours."""
    block = r"layer(\d)\.(\d+)"
    table = rules.unit(r"stem\.0", r"stem\.1", "stem")
    for layer in ("conv1", "conv3", "downsample"):
        table += rules.unit(rf"{block}\.{layer}\.0", rf"{block}\.{layer}\.1", rf"layer\1_\2/{layer}")
    for (conv, norm), path in core.items():
        table += rules.unit(rf"{block}\.conv2\.{conv}", rf"{block}\.conv2\.{norm}", rf"layer\1_\2/{path}")
    return [*table, *rules.dense("fc", "head"), *rules.COUNTS]


PYTORCHVIDEO = _pytorchvideo()
VMZ = {"ir": _vmz({("0", "1"): "conv2"}), "ip": _vmz({(r"0\.0", r"0\.1"): "mix", (r"0\.2", "1"): "conv2"})}
MMACTION2 = {
    "ir": _mmaction2({r"conv2\.0": "conv2"}),
    "ip": _mmaction2({r"conv2\.0": "mix", r"conv2\.1": "conv2"}),
}

# What the weights of a source expect: the model's own first line applies mean and std.
PREPROCESS = {
    "order": "RGB",
    "range": (0.0, 1.0),
    "mean": MEAN,
    "std": STD,
    "frames": 32,
    "stride": 2,
    "resize": 256,
    "size": 224,
}
_PYTORCHVIDEO = {
    "table": PYTORCHVIDEO,
    "head": "blocks.5.proj.bias",
    "preprocess": PREPROCESS | {"mean": 0.45, "std": 0.225, "size": 256},
    "classes": "kinetics400",
    "fields": {"mean": 0.45, "std": 0.225, "bn_epsilon": 1e-5},
}
REFERENCES = {  # (source, the source's own name of the net); mmaction2's weights come from VMZ's Caffe2 files
    **{
        ("vmz", f"{net}_csn_{n}"): {
            "variant": f"{net}_{n}",
            "table": VMZ[net],
            "head": "fc.bias",
            "preprocess": PREPROCESS,
            "prepare": functools.partial(_vmz_names.in_pytorch, depths=VARIANTS[f"{net}_{n}"]["depths"]),
            "restore": dict,
        }
        for net in ("ir", "ip")
        for n in (26, 50, 101, 152)
        if f"{net}_{n}" in VARIANTS
    },
    **{("pytorchvideo", f"csn_r{n}"): _PYTORCHVIDEO | {"variant": f"ir_{n}"} for n in (50, 101, 152)},
    **{
        ("mmaction2", f"{net}csn_r{n}"): {
            "variant": f"{net}_{n}",
            "table": MMACTION2[net],
            "head": "cls_head.fc_cls.bias",
            "preprocess": PREPROCESS,
        }
        for net in ("ir", "ip")
        for n in (50, 101, 152)
    },
}
