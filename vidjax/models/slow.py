"""Residual nets with little 3-D convolution: Slow (SlowOnly), C2D, I3D-ResNet, R(2+1)D bottlenecks, non-local blocks.

Papers: SlowFast Networks for Video Recognition (Feichtenhofer et al., ICCV 2019), whose slow pathway alone this is;
Non-local Neural Networks (Wang et al., CVPR 2018) for C2D, I3D and non-local blocks; A Closer Look at Spatiotemporal
Convolutions for Action Recognition (Tran et al., CVPR 2018) for R(2+1)D.
Input: RGB in [0, 1], (B, 8, 224, 224, 3), every eighth frame of a video. Output: logits (B, num_classes).
References: pytorchvideo (slow_r50, c2d_r50, i3d_r50, r2plus1d_r50) and PySlowFast, whose test adds a softmax per place
before the mean; here are always logits. The field `window` makes the mean over windows, as theirs over larger crops.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from vidjax import rules
from vidjax.attention import attend
from vidjax.nn import BatchNorm, Conv3D, max_pool, normalise

PAPER, _NONLOCAL = "Feichtenhofer et al., ICCV 2019", "Wang et al., CVPR 2018"

_R50, _R101 = {"depths": (3, 4, 6, 3)}, {"depths": (3, 4, 23, 3)}
_SLOW = {"temporal": ((1,), (1,), (3,), (3,))}  # table 1 of SlowFast
_C2D = {"temporal": ((1,),) * 4, "stage_pool": True}  # table 1 of Non-local
_I3D = {"temporal": ((3,), (3, 1), (3, 1), (1, 3)), "stem_kernel": (5, 7, 7), "stage_pool": True}
_NLN = {"nonlocal_after": ((), (1, 3), (1, 3, 5), ())}  # five blocks, PySlowFast's *_NLN_* configs
VARIANTS = {  # `temporal`: extent of a block's first convolution per stage, its values cycled through the blocks
    "slow_r50": _R50 | _SLOW,
    "slow_r101": _R101 | _SLOW,
    "slow_nln_r50": _R50 | _SLOW | _NLN | {"nonlocal_kind": "dot_product"},
    "c2d_r50": _R50 | _C2D,
    "c2d_nopool_r50": _R50 | _C2D | {"stage_pool": False},
    "c2d_nln_r50": _R50 | _C2D | _NLN,
    "i3d_r50": _R50 | _I3D,
    "i3d_nln_r50": _R50 | _I3D | _NLN,
    "i3d_r101": _R101 | _I3D,
    "i3d_nln_r101": _R101 | _I3D | _NLN,
    "r2plus1d_r50": _R50
    | {"temporal": ((1,),) * 4, "core": "2plus1d", "strides": ((1, 2), (1, 2), (2, 2), (2, 2)), "stem_pool": False},
    "small": {  # ours, for clips of about 8x40x40
        "depths": (1, 1, 1),
        "temporal": ((1,), (3,), (3,)),
        "widths": (16, 32, 48),
        "strides": ((1, 1), (1, 2), (1, 2)),
        "stem_width": 16,
        "stem_kernel": (1, 5, 5),
        "stem_pool": False,
    },
}


def _size(params, gmac, *, frames=8, size=256, classes=400, paper=PAPER):
    return {"input": (frames, size, size, 3), "classes": classes, "params": params, "gmac": gmac, "paper": paper}


# [P] published, [C] computed from the definition (tests/models/test_slow.py); GMAC per view of 256x256, the size that
# pytorchvideo's table is for, whose other GMAC (25.89, 37.53, 76.45) count batch norm too.
SIZES = {
    "slow_r50": _size(32_454_096, 54.518),  # [P] pytorchvideo: 32.45 M, 54.52 G
    "slow_r101": _size(60_359_120, 111.561),  # [C]
    "slow_nln_r50": _size(39_812_560, 88.341),  # [C]
    "c2d_r50": _size(24_327_632, 25.460, paper=_NONLOCAL),  # [P] pytorchvideo: 24.33 M
    "c2d_nopool_r50": _size(24_327_632, 42.707, paper=_NONLOCAL),  # [C]
    "c2d_nln_r50": _size(31_686_096, 37.271, paper=_NONLOCAL),  # [C]
    "i3d_r50": _size(28_043_472, 37.104, paper=_NONLOCAL),  # [P] pytorchvideo: 28.04 M
    "i3d_nln_r50": _size(35_401_936, 48.915, paper=_NONLOCAL),  # [C], agrees with 48.9 G [P]
    "i3d_r101": _size(51_754_192, 61.330, paper=_NONLOCAL),  # [C]
    "i3d_nln_r101": _size(59_112_656, 73.141, paper=_NONLOCAL),  # [C]
    "r2plus1d_r50": _size(28_107_600, 75.146, frames=16, paper="Tran et al., CVPR 2018"),  # [P] pytorchvideo: 28.11 M
    "small": _size(109_912, 0.081, frames=8, size=40, classes=8, paper="none (small clips)"),  # [C]
}


class Unit(nn.Module):
    """Convolution with zero padding k // 2 and batch norm: (B, T, H, W, C) -> (B, T', H', W', features).

    The norm's scale begins as 0 where `last`, so that a residual block begins as its shortcut.
    """

    features: int
    kernel: tuple
    strides: tuple
    conv: functools.partial
    norm: functools.partial
    last: bool = False

    @nn.compact
    def __call__(self, x):
        padding = tuple((k // 2, k // 2) for k in self.kernel)
        x = self.conv(self.features, self.kernel, self.strides, padding, name="conv")(x)
        return self.norm(scale_init=nn.initializers.zeros if self.last else nn.initializers.ones, name="bn")(x)


class Block(nn.Module):
    """Bottleneck of width `features`: (B, T, H, W, C) -> (B, T / s, H / r, W / r, 4 features) for `stride` (s, r).

    A pointwise or 3x1x1 unit (`temporal` 1 or 3), the core, a pointwise unit. The core is "2d" (1x3x3) or "2plus1d":
    3x1x1, norm, ReLU and 1x3x3.
    """

    features: int
    stride: tuple
    temporal: int
    core: str
    unit: functools.partial

    @nn.compact
    def __call__(self, x):
        one, (st, s), wide = (1, 1, 1), self.stride, 4 * self.features
        y = nn.relu(self.unit(self.features, (self.temporal, 1, 1), one, name="conv1")(x))
        if self.core == "2plus1d":
            y = nn.relu(self.unit(self.features, (3, 1, 1), (st, 1, 1), name="conv2_temporal")(y))
            y = nn.relu(self.unit(self.features, (1, 3, 3), (1, s, s), name="conv2")(y))
        else:
            y = nn.relu(self.unit(self.features, (1, 3, 3), (st, s, s), name="conv2")(y))
        y = self.unit(wide, one, one, last=True, name="conv3")(y)
        if self.stride != (1, 1) or x.shape[-1] != wide:
            x = self.unit(wide, one, (st, s, s), name="downsample")(x)
        return nn.relu(x + y)


class NonLocal(nn.Module):
    """Every place takes from all places of a clip what resembles it: (B, T, H, W, C) -> same (Non-local, section 3).

    x + norm(out(y)), y_i = sum_j f(theta(x_i), phi(x_j)) g(x_j) with C / 2 channels. f is the softmax over j of their
    products / sqrt(C / 2), `kind` "softmax" (embedded Gaussian), or the product / number of j, "dot_product". x_j are
    max-pooled by `pool` (t, h, w). The norm's scale begins as 0: the block begins as the identity.
    """

    kind: str
    pool: tuple
    conv: functools.partial
    norm: functools.partial

    @nn.compact
    def __call__(self, x):
        b, _, _, _, c = x.shape
        pointwise = functools.partial(self.conv, c // 2, (1, 1, 1), use_bias=True)
        places = nn.max_pool(x, self.pool, self.pool)
        theta, phi, g = (
            pointwise(name=name)(y).reshape(b, -1, 1, c // 2)  # one head
            for name, y in (("theta", x), ("phi", places), ("g", places))
        )
        if self.kind == "softmax":
            y = attend(theta, phi, g)
        else:
            likeness = jnp.einsum("bnhd,bmhd->bhnm", theta, phi) / phi.shape[1]
            y = jnp.einsum("bhnm,bmhd->bnhd", likeness, g)
        y = self.conv(c, (1, 1, 1), use_bias=True, name="out")(y.reshape(*x.shape[:-1], c // 2))
        return x + self.norm(scale_init=nn.initializers.zeros, name="bn")(y)


def window_mean(x, window=None):
    """Mean over the means of all windows (t, h, w), which end at the map's end: (B, T, H, W, C) -> (B, C) float32."""
    x = x.astype(jnp.float32)
    if window:
        x = nn.avg_pool(x, tuple(map(min, window, x.shape[1:4])))
    return x.mean(axis=(1, 2, 3))


class Model(nn.Module):
    """Video bottleneck net: float32 RGB (B, T, H, W, 3) in [0, 1] -> float32 logits (B, num_classes), activations."""

    depths: tuple
    temporal: tuple
    core: str = "2d"
    widths: tuple = (64, 128, 256, 512)
    strides: tuple = ((1, 1), (1, 2), (1, 2), (1, 2))
    stem_width: int = 64
    stem_kernel: tuple = (1, 7, 7)
    stem_pool: bool = True
    stage_pool: bool = False
    nonlocal_after: tuple = ()
    nonlocal_kind: str = "softmax"
    nonlocal_pool: tuple = (1, 2, 2)
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
        x = nn.relu(unit(self.stem_width, self.stem_kernel, (1, 2, 2), name="stem")(x))
        if self.stem_pool:
            x = max_pool(x, (1, 3, 3), (1, 2, 2), ((0, 0), (1, 1), (1, 1)))
        out["stem"] = x
        stages = zip(self.depths, self.widths, self.strides, self.temporal, strict=True)
        for i, (depth, width, stride, temporal) in enumerate(stages, 1):
            for j in range(depth):
                extent = temporal[j % len(temporal)]
                x = Block(width, (1, 1) if j else stride, extent, self.core, unit, name=f"layer{i}_{j}")(x)
                if self.nonlocal_after and j in self.nonlocal_after[i - 1]:
                    name = f"layer{i}_{j}_nonlocal"
                    x = NonLocal(self.nonlocal_kind, self.nonlocal_pool, conv, norm, name=name)(x)
            out[f"layer{i}"] = x
            if self.stage_pool and i == 1:
                x = max_pool(x, (2, 1, 1), (2, 1, 1))
        x = window_mean(x, self.window)
        x = out["pre_logits"] = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(x)
        if self.num_classes:
            x = nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01), name="head")(x)
        return x, out


def _check(model):
    """ValueError unless the fields agree."""
    stages = [len(f) for f in (model.depths, model.widths, model.strides, model.temporal)]
    if len(set(stages)) > 1:
        raise ValueError(f"slow needs depths, widths, strides and temporal of one length (the stages), not {stages}.")
    if model.core not in ("2d", "2plus1d"):
        raise ValueError(f"slow's field core is '2d' or '2plus1d', not {model.core!r}.")
    check_nonlocal("slow", model)


def check_nonlocal(name, model):
    """ValueError unless the fields of non-local blocks fit those of the stages."""
    after, depths = model.nonlocal_after, model.depths
    if after and (len(after) != len(depths) or any(j >= n for js, n in zip(after, depths, strict=True) for j in js)):
        raise ValueError(
            f"{name}'s field nonlocal_after needs the blocks of each of {len(depths)} stages, not {after}."
        )
    if model.nonlocal_kind not in ("softmax", "dot_product"):
        raise ValueError(f"{name}'s field nonlocal_kind is 'softmax' or 'dot_product', not {model.nonlocal_kind!r}.")


def stage_table(stages, factored=False):
    """Conversion table of a pytorchvideo net whose residual stages are the blocks `stages`.

    The middle convolution of a `factored` block is a spatial one, a norm and a temporal one.
    """
    table = rules.unit(r"blocks\.0\.conv", r"blocks\.0\.norm", "stem")
    for i, stage in enumerate(stages, 1):
        block, layer = rf"blocks\.{stage}\.res_blocks\.(\d+)", rf"layer{i}_\1"
        for source, path in (("a", "conv1"), ("b", "conv2"), ("c", "conv3")):
            conv = rf"{block}\.branch2\.conv_{source}"
            if factored and source == "b":
                table += rules.unit(rf"{conv}\.conv_t", rf"{conv}\.norm", f"{layer}/conv2_temporal")
                conv += r"\.conv_xy"
            table += rules.unit(conv, rf"{block}\.branch2\.norm_{source}", f"{layer}/{path}")
        table += rules.unit(rf"{block}\.branch1_conv", rf"{block}\.branch1_norm", f"{layer}/downsample")
    return [
        *table,
        (rf"blocks\.{stages[-1] + 1}\.proj\.weight", "params/head/kernel", "oi_to_io"),
        (rf"blocks\.{stages[-1] + 1}\.proj\.bias", "params/head/bias", None),
        *rules.COUNTS,
    ]


def _pyslowfast():
    """Conversion table of PySlowFast's ResNet, whose stages are s2 to s5."""
    table = rules.unit(r"s1\.pathway0_stem\.conv", r"s1\.pathway0_stem\.bn", "stem")
    for i in range(1, 5):
        block, layer = rf"s{i + 1}\.pathway0_res(\d+)", rf"layer{i}_\1"
        for source, path in (("a", "conv1"), ("b", "conv2"), ("c", "conv3")):
            table += rules.unit(rf"{block}\.branch2\.{source}", rf"{block}\.branch2\.{source}_bn", f"{layer}/{path}")
        table += rules.unit(rf"{block}\.branch1", rf"{block}\.branch1_bn", f"{layer}/downsample")
        extra = rf"s{i + 1}\.pathway0_nonlocal(\d+)"
        table += rules.conv(rf"{extra}\.conv_(theta|phi|g|out)", rf"{layer}_nonlocal/\2", bias=True)
        table += rules.norm(rf"{extra}\.bn", f"{layer}_nonlocal/bn")
    return [*table, *rules.dense(r"head\.projection", "head"), *rules.COUNTS]


PYSLOWFAST = _pyslowfast()
TORCH = stage_table((1, 2, 3, 4))
TORCH_POOLED = stage_table((1, 3, 4, 5))  # the temporal pool is a block too

# What the weights of a source expect: the model's own first line applies mean and std.
PREPROCESS = {
    "order": "RGB",
    "range": (0.0, 1.0),
    "mean": 0.45,
    "std": 0.225,
    "frames": 8,
    "stride": 8,
    "resize": 256,
    "size": 224,
}
_ROW = {"table": TORCH, "head": "blocks.5.proj.bias", "preprocess": PREPROCESS, "classes": "kinetics400"}
_POOLED = _ROW | {"table": TORCH_POOLED, "head": "blocks.6.proj.bias", "fields": {"window": (4, 7, 7)}}
_PYSLOWFAST = {  # its own name of a config: variant, frames, stride
    "SLOW_4x16_R50": ("slow_r50", 4, 16),
    "SLOW_8x8_R50": ("slow_r50", 8, 8),
    "SLOW_NLN_4x16_R50": ("slow_nln_r50", 4, 16),
    "SLOW_NLN_8x8_R50": ("slow_nln_r50", 8, 8),
    "C2D_8x8_R50": ("c2d_r50", 8, 8),
    "C2D_NOPOOL_8x8_R50": ("c2d_nopool_r50", 8, 8),
    "C2D_NLN_8x8_R50": ("c2d_nln_r50", 8, 8),
    "I3D_8x8_R50": ("i3d_r50", 8, 8),
    "I3D_NLN_8x8_R50": ("i3d_nln_r50", 8, 8),
    "I3D_8x8_R101": ("i3d_r101", 8, 8),
    "I3D_NLN_8x8_R101": ("i3d_nln_r101", 8, 8),
}


def _pyslowfast_row(variant, frames, stride):
    pooled = VARIANTS[variant].get("stage_pool", False)
    return {
        "variant": variant,
        "table": PYSLOWFAST,
        "head": "head.projection.bias",
        "preprocess": PREPROCESS | {"frames": frames, "stride": stride},
        "classes": "kinetics400",
        "fields": {"window": (frames // 2 if pooled else frames, 7, 7)},
    }


REFERENCES = {  # (source, the source's own name of the net)
    ("pytorchvideo", "slow_r50"): _ROW | {"variant": "slow_r50", "fields": {"window": (8, 7, 7)}},
    ("pytorchvideo", "c2d_r50"): _POOLED | {"variant": "c2d_r50"},
    ("pytorchvideo", "i3d_r50"): _POOLED | {"variant": "i3d_r50"},
    ("pytorchvideo", "r2plus1d_r50"): _ROW
    | {
        "variant": "r2plus1d_r50",
        "table": stage_table((1, 2, 3, 4), factored=True),
        "preprocess": PREPROCESS | {"frames": 16, "stride": 4},
        "fields": {"window": (4, 7, 7)},
    },
    **{("pyslowfast", arch): _pyslowfast_row(*row) for arch, row in _PYSLOWFAST.items()},
}
