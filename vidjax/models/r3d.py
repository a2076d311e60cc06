"""Residual nets with 3-D, mixed and (2+1)-D convolutions: R3D, MC3 and R(2+1)D of 18 and 34 layers.

Paper: A Closer Look at Spatiotemporal Convolutions for Action Recognition (Tran et al., CVPR 2018).
Input: RGB in [0, 1], (B, 16, 112, 112, 3) cropped from 128x171. Output: logits (B, num_classes).
References: torchvision.models.video (`<net>_<depth>`) and facebookresearch/VMZ (`<net>_<depth>_paper`). They differ in
the batch norm's epsilon and in the middle width of (2+1)D: one per convolution in VMZ, one per block in torchvision.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from vidjax.nn import BatchNorm, Conv3D

PAPER = "Tran et al., CVPR 2018"

# Kinetics statistics of torchvision's presets; VMZ's are the same times 255.
MEAN, STD = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)

_NETS = {  # Table 1 and figure 1 of the paper; `convs` of conv2_x to conv5_x
    "r3d": {"stem": "3d", "convs": ("3d",) * 4},
    "mc3": {"stem": "3d", "convs": ("3d", "2d", "2d", "2d")},
    "r2plus1d": {"stem": "2plus1d", "convs": ("2plus1d",) * 4},
}
_DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
_TORCHVISION = {"mid": "block", "bn_epsilon": 1e-5}
_PAPER = {"mid": "conv", "bn_epsilon": 1e-3}

VARIANTS = {f"{net}_18": row | {"depths": _DEPTHS[18]} | _TORCHVISION for net, row in _NETS.items()}
VARIANTS |= {f"{net}_{n}_paper": _NETS[net] | {"depths": d} | _PAPER for n, d in _DEPTHS.items() for net in _NETS}
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


SIZES = {  # [P] published, [C] computed from the definition (tests/test_models.py); GMAC per view
    "r3d_18": _size(33_371_472, 40.697),  # [P] torchvision
    "mc3_18": _size(11_695_440, 43.343),  # [P] torchvision
    "r2plus1d_18": _size(31_505_325, 40.519),  # [P] torchvision
    "r3d_18_paper": _size(33_371_472, 40.697),  # [C], as torchvision's
    "mc3_18_paper": _size(11_695_440, 43.343),  # [C], as torchvision's
    "r2plus1d_18_paper": _size(33_370_839, 41.496),  # [C], agrees with the paper's 33.4 M and 41.5 G [P]
    "r3d_34_paper": _size(63_681_104, 150.756, frames=32),  # [C]
    "mc3_34_paper": _size(21_951_056, 160.673, frames=32),  # [C]
    "r2plus1d_34_paper": _size(63_697_175, 152.356, frames=32),  # [C], agrees with the paper's 63.7 M and 152 G [P]
    "small": _size(228_536, 0.081, frames=8, size=40, classes=8, paper="none (small clips)"),  # [C]
}


class Unit(nn.Module):
    """Convolution of one kind and batch norm: (B, T, H, W, C) -> (B, T', H', W', features).

    `kind` is "3d", "2d" (no extent or stride in time) or "2plus1d": space, norm, ReLU, then time, with `mid` channels
    between them.
    """

    features: int
    kernel: tuple
    strides: tuple
    kind: str
    mid: int
    conv: functools.partial
    norm: functools.partial

    @nn.compact
    def __call__(self, x):
        (t, h, w), (st, sh, sw) = self.kernel, self.strides
        if self.kind == "2plus1d":
            x = self.conv(self.mid, (1, h, w), (1, sh, sw), _symmetric(1, h, w), name="spatial")(x)
            x = nn.relu(self.norm(name="mid_bn")(x))
            x = self.conv(self.features, (t, 1, 1), (st, 1, 1), _symmetric(t, 1, 1), name="temporal")(x)
        else:
            t, st = (1, 1) if self.kind == "2d" else (t, st)
            x = self.conv(self.features, (t, h, w), (st, sh, sw), _symmetric(t, h, w), name="conv")(x)
        return self.norm(name="bn")(x)


class Block(nn.Module):
    """Basic residual block of two 3x3x3 units: (B, T, H, W, C) -> (B, T / s, H / s, W / s, features)."""

    features: int
    stride: int
    kind: str
    mid: str
    unit: functools.partial

    @nn.compact
    def __call__(self, x):
        channels, features = x.shape[-1], self.features
        first = mid_features(channels, features)
        second = first if self.mid == "block" else mid_features(features, features)
        strides = (self.stride,) * 3
        y = self.unit(features, (3, 3, 3), strides, self.kind, first, name="conv1")(x)
        y = self.unit(features, (3, 3, 3), (1, 1, 1), self.kind, second, name="conv2")(nn.relu(y))
        if self.stride != 1 or channels != features:
            kind = "2d" if self.kind == "2d" else "3d"
            x = self.unit(features, (1, 1, 1), strides, kind, 0, name="downsample")(x)
        return nn.relu(x + y)


class Model(nn.Module):
    """Video residual net: float32 RGB (B, T, H, W, 3) in [0, 1] -> float32 logits (B, num_classes), activations."""

    depths: tuple
    convs: tuple
    stem: str
    widths: tuple = (64, 128, 256, 512)
    strides: tuple = (1, 2, 2, 2)
    mid: str = "block"
    stem_kernel: tuple = (3, 7, 7)
    stem_strides: tuple = (1, 2, 2)
    stem_mid: int = 45
    num_classes: int = 400
    dropout: float = 0.0
    dtype: str = "float32"
    mean: float | tuple = MEAN
    std: float | tuple = STD
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5

    @nn.compact
    def __call__(self, video, *, train):
        _check(self)
        x = ((video - _channels(self.mean)) / _channels(self.std)).astype(self.dtype)
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
                block = Block(width, 1 if j else stride, kind, self.mid, unit, name=f"layer{i}_{j}")
                x = block(x)
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


def _channels(value):
    """A number or a tuple of one number per channel, broadcastable to (B, T, H, W, C)."""
    return jnp.asarray(value, jnp.float32).reshape(1, 1, 1, 1, -1)


def _check(model):
    """ValueError unless the fields that describe the stages agree."""
    stages = [len(f) for f in (model.depths, model.widths, model.strides, model.convs)]
    if len(set(stages)) > 1:
        raise ValueError(f"r3d needs depths, widths, strides and convs of one length (the stages), not {stages}.")
    for kind in (model.stem, *model.convs):
        if kind not in ("3d", "2d", "2plus1d"):
            raise ValueError(f"r3d knows the convolutions '3d', '2d' and '2plus1d', not {kind!r}.")
    if model.mid not in ("block", "conv"):
        raise ValueError(f"r3d's field mid is 'block' (torchvision) or 'conv' (the paper), not {model.mid!r}.")


def _norm(source, path):
    """Conversion rules of one PyTorch batch norm."""
    return [
        (rf"{source}\.weight", f"params/{path}/scale", None),
        (rf"{source}\.bias", f"params/{path}/bias", None),
        (rf"{source}\.running_(?P<stat>mean|var)", rf"batch_stats/{path}/\g<stat>", None),
    ]


_BODY = [  # (reference name, our path or None to drop it, transform)
    (r"layer(\d)\.(\d+)\.(conv\d|downsample)\.0\.weight", r"params/layer\1_\2/\3/conv/kernel", "oithw_to_thwio"),
    (r"layer(\d)\.(\d+)\.(conv\d)\.0\.0\.weight", r"params/layer\1_\2/\3/spatial/kernel", "oithw_to_thwio"),
    (r"layer(\d)\.(\d+)\.(conv\d)\.0\.3\.weight", r"params/layer\1_\2/\3/temporal/kernel", "oithw_to_thwio"),
    *_norm(r"layer(\d)\.(\d+)\.(conv\d|downsample)\.1", r"layer\1_\2/\3/bn"),
    *_norm(r"layer(\d)\.(\d+)\.(conv\d)\.0\.1", r"layer\1_\2/\3/mid_bn"),
    (r"fc\.weight", "params/head/kernel", "oi_to_io"),
    (r"fc\.bias", "params/head/bias", None),
    (r".*\.num_batches_tracked", None, None),
]
TORCH = [*_BODY, (r"stem\.0\.weight", "params/stem/conv/kernel", "oithw_to_thwio"), *_norm(r"stem\.1", "stem/bn")]
TORCH_2PLUS1D = [
    *_BODY,
    (r"stem\.0\.weight", "params/stem/spatial/kernel", "oithw_to_thwio"),
    *_norm(r"stem\.1", "stem/mid_bn"),
    (r"stem\.3\.weight", "params/stem/temporal/kernel", "oithw_to_thwio"),
    *_norm(r"stem\.4", "stem/bn"),
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
_ROW = {"head": "fc.bias", "preprocess": PREPROCESS}
REFERENCES = {  # (source, the source's own name of the net); vmz: the PyTorch weights of R(2+1)D-34 (IG65M, Kinetics)
    ("torchvision", "r3d_18"): _ROW | {"variant": "r3d_18", "table": TORCH},
    ("torchvision", "mc3_18"): _ROW | {"variant": "mc3_18", "table": TORCH},
    ("torchvision", "r2plus1d_18"): _ROW | {"variant": "r2plus1d_18", "table": TORCH_2PLUS1D},
    ("vmz", "r2plus1d_34"): {
        "variant": "r2plus1d_34_paper",
        "table": TORCH_2PLUS1D,
        "head": "fc.bias",
        "preprocess": PREPROCESS | {"frames": 32},
    },
}
