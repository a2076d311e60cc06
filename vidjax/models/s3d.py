"""S3D and S3D-G: I3D with its 3x3x3 convolutions split into space and time, and gates that weigh the channels.

Paper: Rethinking Spatiotemporal Feature Learning (Xie et al., ECCV 2018), figures 5 and 6. Input: RGB in [0, 1],
(B, T, 224, 224, 3). Output: logits (B, num_classes); of the HowTo100M net an embedding.
References: torchvision.models.video.s3d (symmetric padding, no gates), antoine77340/S3D_HowTo100M (Miech et al., CVPR
2020: gates, space-to-depth stem; its text tower is not built). Weights of a 2-D Inception-v1 (backbones/inception.py)
have the paths of the spatial halves and are copied by vidjax/inflate.py.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from vidjax.nn import BatchNorm, Conv3D, ceil_pads, max_pool, normalise

PAPER = "Xie et al., ECCV 2018"

# Kinetics statistics of torchvision's presets.
MEAN, STD = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)

# Channels of Mixed_3b, 3c | 4b to 4f | 5b, 5c: 1x1x1; reduction, 3x3x3; reduction, second 3x3x3; 1x1x1 after the pool.
BLOCKS = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    (
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
)

_HOWTO100M = {"mean": 0.0, "std": 1.0, "bn_epsilon": 1e-5, "dropout": 0.0, "pool_window": ()}
VARIANTS = {
    "s3d": {"mean": MEAN, "std": STD},
    "s3dg": {"gating": True, "padding": "same"},
    "s3dg_howto100m": _HOWTO100M | {"gating": True, "padding": "fixed", "stem_kind": "depth", "num_classes": 512},
    "small": {  # ours, for clips of about 8x40x40: three mixed blocks, gates
        "stem": (16, 16, 32),
        "stem_kernel": (3, 5, 5),
        "stem_strides": (1, 2, 2),
        "blocks": (((16, 16, 32, 8, 16, 16), (24, 24, 48, 8, 16, 16)), ((32, 32, 64, 8, 24, 24),)),
        "gating": True,
        "bn_momentum": 0.9,
        "dropout": 0.0,
    },
}


def _size(params, gmac, frames, classes=400, size=224, paper=PAPER):
    return {"input": (frames, size, size, 3), "classes": classes, "params": params, "gmac": gmac, "paper": paper}


SIZES = {  # [P] published, [C] computed from the definition; GMAC per view
    "s3d": _size(8_320_048, 17.979, 16),  # [P] torchvision
    "s3dg": _size(9_545_056, 71.915, 64),  # [C]
    "s3dg_howto100m": _size(9_670_800, 36.292, 32, classes=512, paper="Miech et al., CVPR 2020"),  # [C]
    "small": _size(105_888, 0.022, 8, classes=8, size=40, paper="none (small clips)"),  # [C]
}


class Unit(nn.Module):
    """Convolution without bias, norm, ReLU: (B, T, H, W, C) -> (B, T', H', W', features).

    A kernel of several frames is two such, unless `split` is off: space `conv`, `bn`; time `temporal`, `temporal_bn`.
    """

    features: int
    kernel: tuple
    strides: tuple
    pads: tuple
    conv: functools.partial
    norm: functools.partial
    split: bool = True

    @nn.compact
    def __call__(self, x):
        (t, h, w), (st, sh, sw), (time, *space) = self.kernel, self.strides, self.pads
        if t == 1 or not self.split:
            x = self.conv(self.features, self.kernel, self.strides, self.pads, name="conv")(x)
            return nn.relu(self.norm(name="bn")(x))
        x = self.conv(self.features, (1, h, w), (1, sh, sw), ((0, 0), *space), name="conv")(x)
        x = nn.relu(self.norm(name="bn")(x))
        x = self.conv(self.features, (t, 1, 1), (st, 1, 1), (time, (0, 0), (0, 0)), name="temporal")(x)
        return nn.relu(self.norm(name="temporal_bn")(x))


class Gate(nn.Module):
    """Self-gating of S3D-G: channels times a sigmoid of a linear map of their means: (B, T, H, W, C) -> same."""

    @nn.compact
    def __call__(self, x):
        mean = x.astype(jnp.float32).mean(axis=(1, 2, 3), keepdims=True)
        return x * nn.sigmoid(nn.Dense(x.shape[-1], name="fc")(mean)).astype(x.dtype)


class Mixed(nn.Module):
    """Four branches side by side, gated or not: (B, T, H, W, C) -> (B, T, H, W, sum of the branches' last widths)."""

    widths: tuple
    gating: bool
    unit: functools.partial

    @nn.compact
    def __call__(self, x):
        w0, r1, w1, r2, w2, w3 = self.widths
        one = functools.partial(self.unit, kernel=(1, 1, 1), strides=(1, 1, 1), pads=((0, 0),) * 3)
        three = functools.partial(self.unit, kernel=(3, 3, 3), strides=(1, 1, 1), pads=((1, 1),) * 3)
        b0 = one(w0, name="b0")(x)
        b1 = three(w1, name="b1b")(one(r1, name="b1a")(x))
        b2 = three(w2, name="b2b")(one(r2, name="b2a")(x))
        b3 = one(w3, name="b3b")(_pool(x, (3, 3, 3), (1, 1, 1), "symmetric"))
        branches = b0, b1, b2, b3
        if self.gating:
            branches = [Gate(name=f"b{i}_gate")(branch) for i, branch in enumerate(branches)]
        return jnp.concatenate(branches, axis=-1)


class Model(nn.Module):
    """S3D or S3D-G: float32 RGB (B, T, H, W, 3) in [0, 1] -> float32 logits (B, num_classes), activations.

    `padding` of the stem and the pools is "symmetric" (torchvision), "same" (TensorFlow) or "fixed" (HowTo100M).
    """

    stem: tuple = (64, 64, 192)
    stem_kind: str = "separable"
    stem_kernel: tuple = (7, 7, 7)
    stem_strides: tuple = (2, 2, 2)
    blocks: tuple = BLOCKS
    gating: bool = False
    pool_window: tuple = (2, 7, 7)
    padding: str = "symmetric"
    num_classes: int = 400
    dropout: float = 0.2
    dtype: str = "float32"
    mean: float | tuple = 0.5
    std: float | tuple = 0.5
    bn_momentum: float = 0.99
    bn_epsilon: float = 1e-3

    @nn.compact
    def __call__(self, video, *, train):
        _check(self, video.shape)
        init = nn.initializers.variance_scaling(2, "fan_in", "truncated_normal")
        conv = functools.partial(Conv3D, dtype=self.dtype, kernel_init=init)
        norm = functools.partial(BatchNorm, not train, self.bn_momentum, self.bn_epsilon, self.dtype)
        unit = functools.partial(Unit, conv=conv, norm=norm)
        pool = functools.partial(_pool, padding=self.padding)
        ones, none, out = (1, 1, 1), ((0, 0),) * 3, {}
        x = normalise(video, self.mean, self.std)
        kernel, strides = self.stem_kernel, self.stem_strides
        pads = _pads(x.shape[1:4], kernel, strides, self.padding)
        if self.stem_kind == "depth":  # a kernel of 3x7x7 and stride 2, padded as TensorFlow does, in fewer steps
            x, kernel, strides, pads = space_to_depth(x), (2, 4, 4), ones, ((0, 1), (1, 2), (1, 2))
        stem = unit(self.stem[0], kernel, strides, pads, split=self.stem_kind == "separable", name="conv_1a")
        x = out["conv_1a"] = stem(x)
        x = pool(x, (1, 3, 3), (1, 2, 2))
        x = out["conv_2b"] = unit(self.stem[1], ones, ones, none, name="conv_2b")(x)
        x = unit(self.stem[2], (3, 3, 3), ones, ((1, 1),) * 3, name="conv_2c")(x)
        x = out["conv_2c"] = Gate(name="conv_2c_gate")(x) if self.gating else x
        pools = ((1, 3, 3), (1, 2, 2)), ((3, 3, 3), (2, 2, 2)), ((2, 2, 2), (2, 2, 2))
        for i, (stage, (window, strides)) in enumerate(zip(self.blocks, pools, strict=False), 3):
            x = pool(x, window, strides)
            for letter, widths in zip("bcdefgh", stage, strict=False):
                name = f"mixed_{i}{letter}"
                x = out[name] = Mixed(widths, self.gating, unit, name=name)(x)
        x = x.astype(jnp.float32)
        if self.pool_window:
            x = nn.avg_pool(x, tuple(map(min, self.pool_window, x.shape[1:4])), ones, "VALID")
        x = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(x)
        x = out["pre_logits"] = x.mean(axis=(1, 2, 3))  # the head is linear: it may come after the mean over time
        if self.num_classes:
            x = nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01), name="head")(x)
        return x, out


def space_to_depth(x):
    """Cubes of 2x2x2 pixels as channels, frame, row, column, colour: (B, T, H, W, C) -> (B, T/2, H/2, W/2, 8 C)."""
    b, t, h, w, c = x.shape
    x = x.reshape(b, t // 2, 2, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 5, 2, 4, 6, 7)
    return x.reshape(b, t // 2, h // 2, w // 2, 8 * c)


def _pads(sizes, window, strides, padding):
    """((lo, hi),) * 3 of a convolution or pool for the field `padding`; "symmetric" pads odd windows only."""
    if padding == "same":
        return tuple(jax.lax.padtype_to_pads(sizes, window, strides, "SAME"))
    if padding == "fixed":  # TensorFlow's, as if every size were a multiple of the stride
        total = [max(k - s, 0) for k, s in zip(window, strides, strict=True)]
        return tuple((n // 2, n - n // 2) for n in total)
    return tuple(((k - 1) // 2, (k - 1) // 2) for k in window)


def _pool(x, window, strides, padding):
    """Max pool with the padding of the field of that name."""
    pads = _pads(x.shape[1:4], window, strides, padding)
    pads = ceil_pads(x.shape[1:4], window, strides, pads) if padding == "fixed" else pads
    return max_pool(x, window, strides, pads)


def _check(model, shape):
    """ValueError unless the fields and the input agree."""
    if model.stem_kind not in ("separable", "depth"):
        raise ValueError(f"s3d's field stem_kind is 'separable' or 'depth', not {model.stem_kind!r}.")
    if model.padding not in ("symmetric", "same", "fixed"):
        raise ValueError(f"s3d's field padding is 'symmetric', 'same' or 'fixed', not {model.padding!r}.")
    if model.stem_kind == "depth" and any(n % 2 for n in shape[1:4]):
        raise ValueError(f"s3d's stem_kind 'depth' needs even numbers of frames, rows and columns, not {shape[1:4]}.")


def _unit(source, path, names):
    """Conversion rules of a unit; `names` are the reference's convolution, norm and, in time, both again."""
    rules = []
    for ours, (conv, norm) in {"": names[:2], "temporal": names[2:]}.items() if len(names) > 2 else [("", names)]:
        kernel, bn = (ours, f"{ours}_bn") if ours else ("conv", "bn")
        rules += [
            (rf"{source}\.{conv}\.weight", f"params/{path}/{kernel}/kernel", "oithw_to_thwio"),
            (rf"{source}\.{norm}\.weight", f"params/{path}/{bn}/scale", None),
            (rf"{source}\.{norm}\.bias", f"params/{path}/{bn}/bias", None),
            (rf"{source}\.{norm}\.running_(?P<stat>mean|var)", rf"batch_stats/{path}/{bn}/\g<stat>", None),
        ]
    return rules


def _torchvision():
    """torchvision numbers its layers, pools included."""
    split = (r"0\.0", r"0\.1", r"1\.0", r"1\.1")
    rules = [
        *_unit(r"features\.0", "conv_1a", split),
        *_unit(r"features\.2", "conv_2b", ("0", "1")),
        *_unit(r"features\.3", "conv_2c", split),
    ]
    layers = {5: "3b", 6: "3c", 8: "4b", 9: "4c", 10: "4d", 11: "4e", 12: "4f", 14: "5b", 15: "5c"}
    for number, block in layers.items():
        source, path = rf"features\.{number}\.branch", f"mixed_{block}"
        rules += [
            *_unit(f"{source}0", f"{path}/b0", ("0", "1")),
            *_unit(rf"{source}(?P<branch>[12])\.0", rf"{path}/b\g<branch>a", ("0", "1")),
            *_unit(rf"{source}(?P<branch>[12])\.1", rf"{path}/b\g<branch>b", split),
            *_unit(rf"{source}3\.1", f"{path}/b3b", ("0", "1")),
        ]
    head = (5, lambda x: x[:, :, 0, 0, 0].T, lambda x: x.T[:, :, None, None, None])
    return [
        *rules,
        (r"classifier\.1\.weight", "params/head/kernel", head),
        (r"classifier\.1\.bias", "params/head/bias", None),
        (r".*\.num_batches_tracked", None, None),
    ]


TORCH = _torchvision()
_BLOCK, _SPLIT = r"mixed_(?P<block>\d\w)", ("conv1", "bn1", "conv2", "bn2")
HOWTO100M = [
    *_unit("conv1", "conv_1a", _SPLIT[:2]),
    *_unit("conv_2b", "conv_2b", _SPLIT[:2]),
    *_unit("conv_2c", "conv_2c", _SPLIT),
    *_unit(rf"{_BLOCK}\.conv_b0", r"mixed_\g<block>/b0", _SPLIT[:2]),
    *_unit(rf"{_BLOCK}\.conv_b(?P<branch>[12])_a", r"mixed_\g<block>/b\g<branch>a", _SPLIT[:2]),
    *_unit(rf"{_BLOCK}\.conv_b(?P<branch>[12])_b", r"mixed_\g<block>/b\g<branch>b", _SPLIT),
    *_unit(rf"{_BLOCK}\.conv_b3_b", r"mixed_\g<block>/b3b", _SPLIT[:2]),
    (r"gating\.fc\.weight", "params/conv_2c_gate/fc/kernel", "oi_to_io"),
    (r"gating\.fc\.bias", "params/conv_2c_gate/fc/bias", None),
    (rf"{_BLOCK}\.gating_(?P<branch>b\d)\.fc\.weight", r"params/mixed_\g<block>/\g<branch>_gate/fc/kernel", "oi_to_io"),
    (rf"{_BLOCK}\.gating_(?P<branch>b\d)\.fc\.bias", r"params/mixed_\g<block>/\g<branch>_gate/fc/bias", None),
    (r"fc\.weight", "params/head/kernel", "oi_to_io"),
    (r"fc\.bias", "params/head/bias", None),
    (r"text_module\..*", None, None),
    (r".*\.num_batches_tracked", None, None),
]

# What the weights of a source expect: the model's own first line applies mean and std.
PREPROCESS = {"order": "RGB", "range": (0.0, 1.0), "mean": MEAN, "std": STD, "frames": 128, "resize": 256, "size": 224}
PREPROCESS_HOWTO100M = PREPROCESS | {"mean": 0.0, "std": 1.0, "frames": 32, "resize": 224}
REFERENCES = {  # (source, the source's own name of the net)
    ("torchvision", "s3d"): {
        "variant": "s3d",
        "table": TORCH,
        "head": "classifier.1.bias",
        "preprocess": PREPROCESS,
        "input": (16, 224, 224, 3),
    },
    ("howto100m", "s3dg"): {
        "variant": "s3dg_howto100m",
        "table": HOWTO100M,
        "head": "fc.bias",
        "preprocess": PREPROCESS_HOWTO100M,
    },
}
