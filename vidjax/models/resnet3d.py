"""3-D ResNets of 10 to 200 layers with shortcuts A and B, their wide, grouped and (2+1)-D forms.

Papers: Learning Spatio-Temporal Features with 3D Residual Networks (Hara et al., ICCV workshops 2017); Can
Spatiotemporal 3D CNNs Retrace the History of 2D CNNs and ImageNet? (Hara et al., CVPR 2018), figure 3 and table 1.
Input: RGB in [0, 1], (B, 16, 112, 112, 3). Output: logits (B, num_classes).
Reference: kenshohara/3D-ResNets-PyTorch, release of 2020: stem of 7x7x7, then a 3x3x3 maximum that halves time too.
Its shortcut A stops the gradient, which is not in the papers; here it flows.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from vidjax import rules
from vidjax.nn import BatchNorm, Conv3D, max_pool, normalise

PAPER = "Hara et al., CVPR 2018"

# Kinetics statistics of the reference.
MEAN, STD = (0.4345, 0.4051, 0.3775), (0.2768, 0.2713, 0.2737)

_BOTTLENECK = {"bottleneck": True, "expansion": 4}
_NETS = {  # table 1 of the paper
    10: {"depths": (1, 1, 1, 1)},
    18: {"depths": (2, 2, 2, 2)},
    34: {"depths": (3, 4, 6, 3)},
    50: {"depths": (3, 4, 6, 3)} | _BOTTLENECK,
    101: {"depths": (3, 4, 23, 3)} | _BOTTLENECK,
    152: {"depths": (3, 8, 36, 3)} | _BOTTLENECK,
    200: {"depths": (3, 24, 36, 3)} | _BOTTLENECK,
}
_WIDE = {"widths": (128, 256, 512, 1024), "expansion": 2}

VARIANTS = {f"resnet{n}": row for n, row in _NETS.items()}
VARIANTS |= {f"resnet{n}_shortcutA": _NETS[n] | {"shortcut": "A"} for n in (18, 34, 50, 101, 152)}
VARIANTS |= {f"r2p1d{n}": _NETS[n] | {"kind": "2plus1d"} for n in (18, 34, 50)}
VARIANTS |= {"wide_resnet50": _NETS[50] | _WIDE, "resnext101": _NETS[101] | _WIDE | {"groups": 32}}
VARIANTS["small"] = {  # ours, for clips of about 8x40x40
    "depths": (1, 1, 1),
    "widths": (16, 32, 64),
    "strides": (1, 2, 2),
    "stem_kernel": (3, 5, 5),
    "pool": False,
}


def _size(params, gmac, *, frames=16, size=112, classes=400, paper=PAPER):
    return {"input": (frames, size, size, 3), "classes": classes, "params": params, "gmac": gmac, "paper": paper}


SIZES = {  # [C] parameters as the reference's own code has them; GMAC by formula (tests/parity/test_resnet3d.py)
    "resnet10": _size(14_604_624, 5.654),
    "resnet18": _size(33_409_104, 8.308),
    "resnet34": _size(63_718_736, 12.696),
    "resnet50": _size(47_018_576, 10.069),
    "resnet101": _size(86_064_720, 13.891),
    "resnet152": _size(118_223_440, 18.611),
    "resnet200": _size(127_423_056, 25.805),
    "resnet18_shortcutA": _size(33_235_280, 8.296),
    "resnet34_shortcutA": _size(63_544_912, 12.685),
    "resnet50_shortcutA": _size(44_242_000, 9.779),
    "resnet101_shortcutA": _size(83_288_144, 13.600),
    "resnet152_shortcutA": _size(115_446_864, 18.321),
    "r2p1d18": _size(33_421_164, 8.477),
    "r2p1d34": _size(63_747_500, 12.865),
    "r2p1d50": _size(47_035_382, 10.524),
    "wide_resnet50": _size(158_338_832, 29.698),
    "resnext101": _size(48_431_376, 13.026),
    "small": _size(228_536, 0.081, frames=8, size=40, classes=8, paper="none (small clips)"),
}


class Unit(nn.Module):
    """Convolution and batch norm: (B, T, H, W, C) -> (B, T', H', W', features).

    `kind` is "3d" or "2plus1d": space, norm, ReLU, then time, with `middle` channels between them.
    """

    features: int
    kernel: tuple
    strides: tuple
    kind: str
    middle: int
    groups: int
    conv: functools.partial
    norm: functools.partial

    @nn.compact
    def __call__(self, x):
        (t, h, w), (st, sh, sw) = self.kernel, self.strides
        if self.kind == "2plus1d":
            x = self.conv(self.middle, (1, h, w), (1, sh, sw), _symmetric(1, h, w), name="spatial")(x)
            x = nn.relu(self.norm(name="mid_bn")(x))
            x = self.conv(self.features, (t, 1, 1), (st, 1, 1), _symmetric(t, 1, 1), name="temporal")(x)
        else:
            padding = _symmetric(t, h, w)
            x = self.conv(self.features, self.kernel, self.strides, padding, self.groups, name="conv")(x)
        return self.norm(name="bn")(x)


class Block(nn.Module):
    """Residual block of two 3x3x3 units, or one between two of 1x1x1: (B, T, H, W, C) -> (B, T / s, H / s, W / s, D).

    D is `features` times `expansion`. Shortcut "A" pads channels with zeros, "B" projects where shapes differ.
    """

    features: int
    stride: int
    bottleneck: bool
    expansion: int
    kind: str
    groups: int
    shortcut: str
    unit: functools.partial

    @nn.compact
    def __call__(self, x):
        channels, n, wanted = x.shape[-1], self.features, self.features * self.expansion
        one, three, strides = (1, 1, 1), (3, 3, 3), (self.stride,) * 3
        if self.bottleneck:
            y = nn.relu(self.unit(n, one, one, "3d", 0, 1, name="conv1")(x))
            y = nn.relu(self.unit(n, three, strides, self.kind, _middle(n, n), self.groups, name="conv2")(y))
            y = self.unit(wanted, one, one, "3d", 0, 1, name="conv3")(y)
        else:
            y = nn.relu(self.unit(n, three, strides, self.kind, _middle(channels, n), self.groups, name="conv1")(x))
            y = self.unit(wanted, three, one, self.kind, _middle(n, wanted), self.groups, name="conv2")(y)
        if self.stride != 1 or channels != wanted:
            if self.shortcut == "A":
                x = x[:, :: self.stride, :: self.stride, :: self.stride]
                x = jnp.pad(x, ((0, 0),) * 4 + ((0, wanted - channels),))
            else:
                x = self.unit(wanted, one, strides, "3d", 0, 1, name="downsample")(x)
        return nn.relu(x + y)


class Model(nn.Module):
    """3-D ResNet: float32 RGB (B, T, H, W, 3) in [0, 1] -> float32 logits (B, num_classes), activations."""

    depths: tuple
    widths: tuple = (64, 128, 256, 512)
    strides: tuple = (1, 2, 2, 2)
    bottleneck: bool = False
    expansion: int = 1
    kind: str = "3d"
    groups: int = 1
    shortcut: str = "B"
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
        _check(self)
        x = normalise(video, self.mean, self.std, self.order).astype(self.dtype)
        init = nn.initializers.variance_scaling(2, "fan_out", "normal")
        conv = functools.partial(Conv3D, dtype=self.dtype, kernel_init=init)
        norm = functools.partial(BatchNorm, not train, self.bn_momentum, self.bn_epsilon, self.dtype)
        unit = functools.partial(Unit, conv=conv, norm=norm)
        t, d, _ = self.stem_kernel
        middle = _middle(3, self.widths[0], t, d)  # of three channels whatever the input has, as the reference
        x = unit(self.widths[0], self.stem_kernel, self.stem_strides, self.kind, middle, 1, name="stem")(x)
        out = {}
        x = out["stem"] = nn.relu(x)
        if self.pool:
            x = max_pool(x, (3, 3, 3), (2, 2, 2), ((1, 1),) * 3)
        kinds = (self.bottleneck, self.expansion, self.kind, self.groups, self.shortcut)
        for i, (depth, width, stride) in enumerate(zip(self.depths, self.widths, self.strides, strict=True), 1):
            for j in range(depth):
                x = Block(width, 1 if j else stride, *kinds, unit, name=f"layer{i}_{j}")(x)
            out[f"layer{i}"] = x
        x = x.astype(jnp.float32).mean(axis=(1, 2, 3))
        x = out["pre_logits"] = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(x)
        if self.num_classes:
            x = nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01), name="head")(x)
        return x, out


def _middle(channels, features, t=3, d=3):
    """Middle width that gives (2+1)-D the parameters of a t x d x d convolution (Tran et al., CVPR 2018, 3.5)."""
    return t * d * d * channels * features // (d * d * channels + t * features)


def _symmetric(*kernel):
    """Zero padding k // 2 on both sides of frames, rows and columns."""
    return tuple((k // 2, k // 2) for k in kernel)


def _check(model):
    """ValueError unless the fields agree."""
    stages = [len(f) for f in (model.depths, model.widths, model.strides)]
    if len(set(stages)) > 1:
        raise ValueError(f"resnet3d needs depths, widths and strides of one length (the stages), not {stages}.")
    if model.kind not in ("3d", "2plus1d"):
        raise ValueError(f"resnet3d's field kind is '3d' or '2plus1d', not {model.kind!r}.")
    if model.shortcut not in ("A", "B"):
        raise ValueError(f"resnet3d's field shortcut is 'A' (zeros) or 'B' (a projection), not {model.shortcut!r}.")
    if model.kind == "2plus1d" and model.groups != 1:
        raise ValueError("resnet3d's groups are for 3-D convolutions; set the field kind to '3d' or groups to 1.")


_LAYER = r"layer(\d)\.(\d+)"
_BODY = [  # (reference name, our path or None to drop it, transform)
    (r"conv1\.weight", "params/stem/conv/kernel", "oithw_to_thwio"),
    (r"conv1_s\.weight", "params/stem/spatial/kernel", "oithw_to_thwio"),
    (r"conv1_t\.weight", "params/stem/temporal/kernel", "oithw_to_thwio"),
    *rules.norm(r"bn1_s", "stem/mid_bn"),
    (rf"{_LAYER}\.(conv\d)\.weight", r"params/layer\1_\2/\3/conv/kernel", "oithw_to_thwio"),
    (rf"{_LAYER}\.(conv\d)_s\.weight", r"params/layer\1_\2/\3/spatial/kernel", "oithw_to_thwio"),
    (rf"{_LAYER}\.(conv\d)_t\.weight", r"params/layer\1_\2/\3/temporal/kernel", "oithw_to_thwio"),
    (rf"{_LAYER}\.downsample\.0\.weight", r"params/layer\1_\2/downsample/conv/kernel", "oithw_to_thwio"),
    *rules.norm(rf"{_LAYER}\.bn(\d)_s", r"layer\1_\2/conv\3/mid_bn"),
    *rules.norm(rf"{_LAYER}\.downsample\.1", r"layer\1_\2/downsample/bn"),
    (r"fc\.weight", "params/head/kernel", "oi_to_io"),
    (r"fc\.bias", "params/head/bias", None),
    *rules.COUNTS,
]


def hara(kind="3d", bottleneck=False):
    """Conversion table of a net of those fields: the second norm of (2+1)D says `_t`, those of 1x1x1 nothing."""
    norms = {"": "[13]", "_t": "2"} if bottleneck and kind == "2plus1d" else {"_t" if kind == "2plus1d" else "": r"\d"}
    blocks = [rule for t, n in norms.items() for rule in rules.norm(rf"{_LAYER}\.bn({n}){t}", r"layer\1_\2/conv\3/bn")]
    return [*_BODY, *rules.norm("bn1_t" if kind == "2plus1d" else "bn1", "stem/bn"), *blocks]


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
_ROW = {"head": "fc.bias", "preprocess": PREPROCESS}
_FORMS = {"resnet{}": {}, "resnet{}_shortcutA": {"shortcut": "A"}, "r2p1d{}": {"kind": "2plus1d"}}
REFERENCES = {  # (source, the source's own name of the net)
    ("hara", form.format(n)): _ROW
    | {"variant": f"resnet{n}", "fields": fields, "table": hara(fields.get("kind", "3d"), "bottleneck" in _NETS[n])}
    for form, fields in _FORMS.items()
    for n in _NETS
}
REFERENCES |= {("hara", net): _ROW | {"variant": net, "table": hara()} for net in ("wide_resnet50", "resnext101")}
