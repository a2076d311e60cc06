"""Pseudo-3-D residual nets: 1x3x3 and 3x1x1 convolutions in place of 3x3x3, arranged in three kinds of bottleneck.

Paper: Learning Spatio-Temporal Representation with Pseudo-3D Residual Networks (Qiu et al., ICCV 2017).
Input: RGB in [0, 1], (B, 16, 160, 160, 3) cropped from 182x242, or flow in [-1, 1], (B, 16, 160, 160, 2); stage 4 is
2-D and sees one of sixteen frames, so longer clips give several results, which are averaged. Output: logits.
References: ZhaofanQiu/pseudo-3d-residual-networks (Caffe), whose definition the nets here follow, and qijiezhao's
PyTorch port (`*_port`), another net: ReLU after each path, C a plain sum, the first pool padded on both sides.
"""

import functools
import re

import flax.linen as nn
import jax.numpy as jnp

from vidjax import rules
from vidjax.nn import BatchNorm, Conv3D, ceil_pads, max_pool, normalise

PAPER = "Qiu et al., ICCV 2017"

# Caffe's pixels less these means, for pixels in [0, 1]; flow of [-1, 1] becomes [0, 255] less 128.
MEAN, STD = (104 / 255, 117 / 255, 123 / 255), 1 / 255
_FLOW = {"mean": 1 / 255, "std": 2 / 255, "order": "RGB"}

_PORT = {
    "relu_temporal": True,
    "c_weight": 1.0,
    "ceil_pool": False,
    "order": "RGB",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
}
_DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
VARIANTS = {
    "199": {"depths": _DEPTHS[152]},  # the released net: 152 layers and 47 temporal convolutions
    "199_flow": {"depths": _DEPTHS[152]} | _FLOW,
    "50": {"depths": _DEPTHS[50]},  # section 4 of the paper: P3D ResNet and the nets of one kind of block
    **{f"50_{kind}": {"depths": _DEPTHS[50], "kinds": kind} for kind in "ABC"},
    "50_2d": {"depths": _DEPTHS[50], "kinds": "S"},
    "63_port": {"depths": _DEPTHS[50]} | _PORT,
    "131_port": {"depths": _DEPTHS[101]} | _PORT,
    "199_port": {"depths": _DEPTHS[152]} | _PORT,
    "199_flow_port": {"depths": _DEPTHS[152]} | _PORT | {"mean": 0.0, "std": 0.452},
    "small": {  # ours, for clips of about 8x40x40
        "depths": (1, 1, 1, 1),
        "widths": (12, 16, 24, 24),
        "stem_width": 16,
        "stem_kernel": 5,
        "stem_pool": False,
        "dropout": 0.0,
    },
}


def _size(params, gmac, *, frames=16, size=160, channels=3, classes=400, paper=PAPER):
    return {"input": (frames, size, size, channels), "classes": classes, "params": params, "gmac": gmac, "paper": paper}


SIZES = {  # [P] published, [C] computed from the definition (tests/models/test_p3d.py); GMAC per view
    "199": _size(66_492_240, 18.403),  # [C]
    "199_flow": _size(66_489_104, 18.082, channels=2),  # [C]
    "50": _size(25_745_232, 8.442),  # [C], the paper's 98 MB [P] of float32
    **{f"50_{kind}": _size(25_745_232, 8.442) for kind in "ABC"},  # [C]
    "50_2d": _size(24_327_632, 7.419),  # [C]
    "63_port": _size(25_745_232, 8.442),  # [C]
    "131_port": _size(48_088_400, 12.898),  # [C]
    "199_port": _size(66_492_240, 18.403),  # [C]
    "199_flow_port": _size(66_489_104, 18.082, channels=2),  # [C]
    "small": _size(50_736, 0.018, frames=8, size=40, classes=8, paper="none (small clips)"),  # [C]
}


class Unit(nn.Module):
    """Convolution with zero padding k // 2 and batch norm: (B, T, H, W, C) -> (B, T', H', W', features)."""

    features: int
    kernel: tuple
    stride: int
    conv: functools.partial
    norm: functools.partial

    @nn.compact
    def __call__(self, x):
        padding = tuple((k // 2, k // 2) for k in self.kernel)
        x = self.conv(self.features, self.kernel, (1, self.stride, self.stride), padding, name="conv")(x)
        return self.norm(name="bn")(x)


class Core(nn.Module):
    """Spatial S and temporal T convolutions of one kind: (B, T, H, W, C) -> same (figure 3 of the paper).

    "A" is T(S(x)), "B" is S(x) + T(x), "C" is c_weight * (S(x) + T(S(x))), "S" is S(x). A ReLU follows S and the
    whole; with `relu_temporal` also T before it is added.
    """

    kind: str
    c_weight: float
    relu_temporal: bool
    unit: functools.partial

    @nn.compact
    def __call__(self, x):
        features = x.shape[-1]
        spatial = nn.relu(self.unit(features, (1, 3, 3), 1, name="spatial")(x))
        if self.kind == "S":
            return spatial
        temporal = self.unit(features, (3, 1, 1), 1, name="temporal")(x if self.kind == "B" else spatial)
        if self.relu_temporal:
            temporal = nn.relu(temporal)
        weight = {"A": 1.0, "B": 1.0, "C": self.c_weight}[self.kind]
        return nn.relu(weight * temporal if self.kind == "A" else weight * (spatial + temporal))


class Block(nn.Module):
    """Bottleneck with its stride on the first unit: (B, T, H, W, C) -> (B, T, H / s, W / s, 4 features)."""

    features: int
    stride: int
    core: functools.partial
    unit: functools.partial

    @nn.compact
    def __call__(self, x):
        one = (1, 1, 1)
        y = nn.relu(self.unit(self.features, one, self.stride, name="reduce")(x))
        y = self.core(unit=self.unit, name="core")(y)
        y = self.unit(4 * self.features, one, 1, name="expand")(y)
        if x.shape != y.shape:
            x = self.unit(4 * self.features, one, self.stride, name="downsample")(x)
        return nn.relu(x + y)


class Model(nn.Module):
    """Pseudo-3-D net: float32 video (B, T, H, W, C) -> float32 logits (B, num_classes), activations.

    The blocks of all stages but the last take their kinds from `kinds` in turn; those of the last are 2-D. Before
    every stage but the first, frames are paired by a maximum.
    """

    depths: tuple
    kinds: str = "ABC"
    widths: tuple = (64, 128, 256, 512)
    stem_width: int = 64
    stem_kernel: int = 7
    stem_pool: bool = True
    ceil_pool: bool = True
    c_weight: float = 0.5
    relu_temporal: bool = False
    num_classes: int = 400
    dropout: float = 0.5
    dtype: str = "float32"
    mean: float | tuple = MEAN
    std: float | tuple = STD
    order: str = "BGR"
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5

    @nn.compact
    def __call__(self, video, *, train):
        _check(self)
        x = normalise(video, self.mean, self.std, self.order).astype(self.dtype)
        conv = functools.partial(Conv3D, dtype=self.dtype)
        norm = functools.partial(BatchNorm, not train, self.bn_momentum, self.bn_epsilon, self.dtype)
        unit = functools.partial(Unit, conv=conv, norm=norm)
        pool = functools.partial(_pool, ceil=self.ceil_pool)
        kinds, last, k, out = self.kinds * sum(self.depths), len(self.depths) - 1, self.stem_kernel, {}
        x = nn.relu(unit(self.stem_width, (1, k, k), 2, name="stem")(x))
        if self.stem_pool:
            x = pool(x, (2, 3, 3), (2, 2, 2))
        out["stem"] = x
        for i, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
            if i:
                x = pool(x, (2, 1, 1), (2, 1, 1))
            for j in range(depth):
                kind = kinds[sum(self.depths[:i]) + j] if i < last else "S"
                core = functools.partial(Core, kind, self.c_weight, self.relu_temporal)
                x = Block(width, 2 if i and not j else 1, core, unit, name=f"layer{i + 1}_{j}")(x)
            out[f"layer{i + 1}"] = x
        x = x.astype(jnp.float32).mean(axis=(1, 2, 3))
        x = out["pre_logits"] = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(x)
        if self.num_classes:
            x = nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01), name="head")(x)
        return x, out


def _pool(x, window, strides, *, ceil):
    """Max pool that halves the axes of stride 2; `ceil` as Caffe, whose last window may hang over, or as the port."""
    pads = ceil_pads(x.shape[1:4], window, strides) if ceil else tuple(((k - 1) // 2,) * 2 for k in window)
    return max_pool(x, window, strides, pads)


def _check(model):
    """ValueError unless the fields agree."""
    if len(model.depths) != len(model.widths):
        stages = [len(model.depths), len(model.widths)]
        raise ValueError(f"p3d needs depths and widths of one length (the stages), not {stages}.")
    if not model.kinds or set(model.kinds) - set("ABCS"):
        raise ValueError(f"p3d's field kinds is a word of the letters A, B, C and S, not {model.kinds!r}.")


def _torch():
    """Conversion table of the PyTorch port, whose last stage is of 2-D layers."""
    table = [(r"conv1_custom\.weight", "params/stem/conv/kernel", "oithw_to_thwio"), *rules.norm("bn1", "stem/bn")]
    units = {"conv1": "reduce", "conv2": "core/spatial", "conv3": "core/temporal", "conv4": "expand"}
    units |= {"conv_normal": "core/spatial", r"downsample\.0": "downsample"}
    stages = {"([123])": "oithw_to_thwio", "(4)": "oihw_to_1hwio"}
    only = {"conv2": "([123])", "conv3": "([123])", "conv_normal": "(4)"}
    for source, path in units.items():
        norm = source.replace("conv", "bn") if "conv" in source else r"downsample\.1"
        for stage, transform in stages.items():
            if only.get(source, stage) != stage:
                continue
            layer, ours = rf"layer{stage}\.(\d+)", rf"layer\1_\2/{path}"
            table += [(rf"{layer}\.{source}\.weight", f"params/{ours}/conv/kernel", transform)]
            table += rules.norm(rf"{layer}\.{norm}", f"{ours}/bn")
    return [
        *table,
        (r"fc\.weight", "params/head/kernel", "oi_to_io"),
        (r"fc\.bias", "params/head/bias", None),
        *rules.COUNTS,
    ]


def caffe_numbers(tensors):
    """The released nets' tensors with blocks numbered as ours: res3b7_branch2a/0 -> res2.7_branch2a/0.

    Caffe's blob i of a layer is the tensor `layer/i`; the blocks of a stage are a, b, c or a, b1, b2, ...
    """
    pattern = r"(res|bn)(\d)([abc])(\d*)_"
    number = lambda m: f"{m[1]}{int(m[2]) - 1}.{m[4] or 'abc'.index(m[3])}_"  # noqa: E731
    return {re.sub(pattern, number, name): tensor for name, tensor in tensors.items()}


def _caffe():
    """Conversion table of the released nets, blocks numbered by `caffe_numbers`; their last stage is 2-D."""
    vector = (2, lambda x: x[0], lambda x: x[None])  # Caffe's batch norm keeps (1, C)
    leaves = ("params/{}/scale", "params/{}/bias", "batch_stats/{}/mean", "batch_stats/{}/var")
    table = [("conv1/0", "params/stem/conv/kernel", "oithw_to_thwio")]
    table += [(f"bn_conv1/{i}", leaf.format("stem/bn"), vector) for i, leaf in enumerate(leaves)]
    units = {"branch1": "downsample", "branch2a": "reduce", "branch2b": "core/spatial"}
    units |= {"branch2b_t": "core/temporal", "branch2c": "expand"}
    for source, unit in units.items():
        path = rf"layer\1_\2/{unit}"
        for stage, transform in (("[123]", "oithw_to_thwio"), ("4", "oihw_to_1hwio")):
            table += [(rf"res({stage})\.(\d+)_{source}/0", f"params/{path}/conv/kernel", transform)]
        for i, leaf in enumerate(leaves):
            table += [(rf"bn(\d)\.(\d+)_{source}/{i}", leaf.format(f"{path}/bn"), vector)]
    return [
        *table,
        (r"fc_\w+/0", "params/head/kernel", "oi_to_io"),
        (r"fc_\w+/1", "params/head/bias", None),
    ]


TORCH = _torch()
CAFFE = _caffe()

# What the weights of a source expect: the model's own first line applies mean and std.
PREPROCESS = {
    "order": "BGR",
    "range": (0.0, 1.0),
    "mean": MEAN,
    "std": STD,
    "frames": 16,
    "resize": (182, 242),
    "size": 160,
}
_CAFFE = {"variant": "199", "table": CAFFE, "prepare": caffe_numbers, "stem": "conv1/0", "preprocess": PREPROCESS}
_TORCH = {"table": TORCH, "head": "fc.bias", "stem": "conv1_custom.weight"}
_PORT_PREPROCESS = {k: _PORT[k] for k in ("order", "mean", "std")} | {"resize": 256}
REFERENCES = {  # (source, the source's own name of the net)
    ("zhaofanqiu", "p3d_resnet_kinetics"): _CAFFE | {"head": "fc_kinetics/0"},
    ("zhaofanqiu", "p3d_resnet_sports1m"): _CAFFE | {"head": "fc_sports1m/0"},
    ("zhaofanqiu", "p3d_resnet_kinetics_flow"): _CAFFE
    | {"variant": "199_flow", "head": "fc_kinetics/0", "preprocess": PREPROCESS | _FLOW | {"range": (-1.0, 1.0)}},
    **{
        ("qijiezhao", f"p3d{n}"): _TORCH | {"variant": f"{n}_port", "preprocess": PREPROCESS | _PORT_PREPROCESS}
        for n in (63, 131, 199)
    },
    ("qijiezhao", "p3d199_flow"): _TORCH
    | {
        "variant": "199_flow_port",
        "preprocess": PREPROCESS | _PORT_PREPROCESS | {"range": (-1.0, 1.0), "mean": 0.0, "std": 0.452},
    },
}
