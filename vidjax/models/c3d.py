"""C3D: 3x3x3 convolutions throughout, and the nets of its study of temporal depth.

Paper: Learning Spatiotemporal Features with 3D Convolutional Networks (Tran et al., ICCV 2015).
Input: RGB in [0, 1], (B, 16, 112, 112, 3) cropped from 128x171. Output: logits (B, num_classes); the descriptor is
`fc6` after its ReLU. Variants: `c3d` (figure 3); `c3d_bn` (facebookresearch/VMZ: batch norm, last pool rounded down);
`study_*` (section 3.2: `dN` has temporal depth N in all five convolutions, `64` and `256` are depth 3 on other sizes).
References: facebookarchive/C3D (Caffe: layers, first values, rounding); DavideA/c3d-pytorch, jfzhang95 and mmaction2,
who pad the last pool on both sides where Caffe rounds its size up; VMZ.
"""

import functools
import re

import flax.linen as nn
import jax.numpy as jnp

from vidjax.nn import BatchNorm, Conv3D, ceil_pads, max_pool, normalise

PAPER = "Tran et al., ICCV 2015"

# Sports-1M's mean by channel (jfzhang95's; the paper subtracts a mean volume), pixels left at 0 to 255.
MEAN, STD = (102 / 255, 98 / 255, 90 / 255), 1 / 255
# Kinetics statistics of VMZ.
KINETICS = {"mean": (0.43216, 0.394666, 0.37645), "std": (0.22803, 0.22145, 0.216989)}

_C3D = {"stages": ((64,), (128,), (256, 256), (512, 512), (512, 512)), "depths": (3,) * 5, "hidden": (4096, 4096)}
_STUDY = {"stages": ((64,), (128,), (256,), (256,), (256,)), "hidden": (2048, 2048)}

VARIANTS = {
    "c3d": _C3D,
    "c3d_bn": _C3D | {"batch_norm": True, "rounding": "floor", "bias": 0.0} | KINETICS,
    **{f"study_d{d}": _STUDY | {"depths": (d,) * 5} for d in (1, 3, 5, 7)},
    "study_increasing": _STUDY | {"depths": (3, 3, 5, 5, 7)},
    "study_decreasing": _STUDY | {"depths": (7, 5, 5, 3, 3)},
    **{f"study_{size}": _STUDY | {"depths": (3,) * 5} for size in (64, 256)},
    "small": {  # ours, for clips of about 8x40x40
        "stages": ((16,), (32,), (64,), (64,)),
        "depths": (3,) * 4,
        "hidden": (128, 128),
        "batch_norm": True,
        "kernel_init": "he",
        "bias": 0.0,
        "dropout": 0.2,
        "mean": 0.45,
        "std": 0.225,
    },
}


def _size(params, gmac, *, frames=16, size=112, classes=101, paper=PAPER):
    return {"input": (frames, size, size, 3), "classes": classes, "params": params, "gmac": gmac, "paper": paper}


SIZES = {  # [P] published, [C] computed from the definition (tests/models/test_c3d.py); GMAC per view
    "c3d": _size(79_991_015, 38.549, classes=487),  # [C], agrees with VMZ's 38.5 G [P]
    "c3d_bn": _size(64_960_016, 38.534, classes=400),  # [C], agrees with VMZ's 64.9 M and 38.5 G [P]
    "study_d1": _size(14_344_933, 6.429),  # [C]
    "study_d3": _size(17_444_965, 19.261),  # [C], agrees with the paper's 17.5 M [P]
    "study_d5": _size(20_544_997, 32.093),  # [C]
    "study_d7": _size(23_645_029, 44.926),  # [C]
    "study_increasing": _size(21_573_733, 24.117),  # [C]
    "study_decreasing": _size(18_189_157, 31.747),  # [C]
    "study_64": _size(11_153_509, 4.832, size=56),  # [C], agrees with the paper's 11.1 M [P]
    "study_256": _size(34_746_469, 77.023, size=224),  # [C], agrees with the paper's 34.8 M [P]
    "small": _size(272_936, 0.089, frames=8, size=40, classes=8, paper="none (small clips)"),  # [C]
}


class Model(nn.Module):
    """C3D: float32 RGB (B, T, H, W, 3) in [0, 1] -> float32 logits (B, num_classes), activations.

    `stages` are the widths of the convolutions before each pool, `depths` their extents in time. A pool's size is
    rounded by "ceil" (Caffe), "floor", or "symmetric": as "floor", with rows and columns padded by 1 in the last pool.
    `kernel_init` "caffe" draws the paper's Gaussians; `bias` is the first value of biases but the first and the head's.
    """

    stages: tuple
    depths: tuple
    hidden: tuple
    batch_norm: bool = False
    rounding: str = "ceil"
    kernel_init: str = "caffe"
    bias: float = 1.0
    num_classes: int = 487
    dropout: float = 0.5
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
        norm = functools.partial(BatchNorm, not train, self.bn_momentum, self.bn_epsilon, self.dtype)
        conv = functools.partial(Conv3D, use_bias=True, dtype=self.dtype, kernel_init=_gaussian(self.kernel_init, 0.01))
        dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=_gaussian(self.kernel_init, 0.005))
        bias = nn.initializers.constant(self.bias)
        out = {}
        for i, (widths, depth) in enumerate(zip(self.stages, self.depths, strict=True), 1):
            padding = ((depth // 2, depth // 2), (1, 1), (1, 1))
            for letter, width in zip("abcd", widths, strict=False):
                name, first = f"conv{i}{letter}", bias if out else nn.initializers.zeros
                x = conv(width, (depth, 3, 3), padding=padding, bias_init=first, name=name)(x)
                x = norm(name=f"{name}_bn")(x) if self.batch_norm else x
                x = out[name] = nn.relu(x)
            rounding = "floor" if self.rounding == "symmetric" and i < len(self.stages) else self.rounding
            x = out[f"pool{i}"] = _pool(x, 1 if i == 1 else 2, rounding)
        if not x.size:
            t, h, w = video.shape[1:4]
            raise ValueError(f"A clip of {t}x{h}x{w} is too small for this c3d net's pools: set data.clip and augment.")
        x = x.reshape(len(x), -1)
        for name, width in zip(("fc6", "fc7"), self.hidden, strict=True):
            x = out[name] = nn.relu(dense(width, bias_init=bias, name=name)(x)).astype(jnp.float32)
            x = nn.Dropout(self.dropout, deterministic=not train, name=f"{name}_dropout")(x)
        out["pre_logits"] = x
        if self.num_classes:
            x = nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01), name="head")(x)
        return x, out


def _pool(x, frames, rounding):
    """Max pool of `frames` x 2 x 2, as far apart: (B, T, H, W, C) -> (B, T / frames, H / 2, W / 2, C)."""
    window, pads = (frames, 2, 2), ((0, 0),) * 3
    if rounding == "symmetric":
        pads = ((0, 0), (1, 1), (1, 1))
    if rounding == "ceil":
        pads = ceil_pads(x.shape[1:4], window, window)
    return max_pool(x, window, window, pads)


def _gaussian(kind, std):
    """The first values of kernels: Gaussians of one width in Caffe's nets, of He et al.'s otherwise."""
    return nn.initializers.normal(std) if kind == "caffe" else nn.initializers.he_normal()


def _check(model):
    """ValueError unless the fields agree."""
    if len(model.stages) != len(model.depths):
        raise ValueError(
            f"c3d needs one depth for each of its {len(model.stages)} stages, but field depths has {len(model.depths)}."
        )
    for field, known in (("rounding", ("ceil", "floor", "symmetric")), ("kernel_init", ("caffe", "he"))):
        if getattr(model, field) not in known:
            raise ValueError(f"c3d's field {field} is one of {', '.join(known)}, not {getattr(model, field)!r}.")


def flattened(channels):
    """Transform of a Linear that follows a flattened (C, T, H, W): (F, C x T x H x W) -> (T x H x W x C, F)."""

    def forward(x):
        return x.reshape(len(x), channels, -1).transpose(2, 1, 0).reshape(-1, len(x))

    def inverse(x):
        return x.reshape(-1, channels, x.shape[-1]).transpose(2, 1, 0).reshape(x.shape[-1], -1)

    return 2, forward, inverse


def torch_table(channels=512):
    """Rules of DavideA's and jfzhang95's names; `channels` is the width of the last stage."""
    return [  # (reference name, our path or None to drop it, transform)
        (r"conv([12])\.weight", r"params/conv\1a/kernel", "oithw_to_thwio"),
        (r"conv([12])\.bias", r"params/conv\1a/bias", None),
        (r"conv([3-5][ab])\.weight", r"params/conv\1/kernel", "oithw_to_thwio"),
        (r"conv([3-5][ab])\.bias", r"params/conv\1/bias", None),
        (r"fc6\.weight", "params/fc6/kernel", flattened(channels)),
        (r"fc7\.weight", "params/fc7/kernel", "oi_to_io"),
        (r"fc([67])\.bias", r"params/fc\1/bias", None),
        (r"fc8\.weight", "params/head/kernel", "oi_to_io"),
        (r"fc8\.bias", "params/head/bias", None),
    ]


def mmaction_table(channels=512):
    """Rules of mmaction2's names."""
    return [
        (r"backbone\.conv(\d[ab])\.conv\.weight", r"params/conv\1/kernel", "oithw_to_thwio"),
        (r"backbone\.conv(\d[ab])\.conv\.bias", r"params/conv\1/bias", None),
        (r"backbone\.fc6\.weight", "params/fc6/kernel", flattened(channels)),
        (r"backbone\.fc7\.weight", "params/fc7/kernel", "oi_to_io"),
        (r"backbone\.fc([67])\.bias", r"params/fc\1/bias", None),
        (r"cls_head\.fc_cls\.weight", "params/head/kernel", "oi_to_io"),
        (r"cls_head\.fc_cls\.bias", "params/head/bias", None),
    ]


def caffe2_table(channels=512):
    """Rules of VMZ's blobs, the head's named `last_out` (`prepare` drops its number of classes)."""
    return [
        (r"(conv\d[ab])_w", r"params/\1/kernel", "oithw_to_thwio"),
        (r"(conv\d[ab])_b", r"params/\1/bias", None),
        (r"(conv\d[ab]_bn)_s", r"params/\1/scale", None),
        (r"(conv\d[ab]_bn)_b", r"params/\1/bias", None),
        (r"(conv\d[ab]_bn)_rm", r"batch_stats/\1/mean", None),
        (r"(conv\d[ab]_bn)_riv", r"batch_stats/\1/var", None),  # its name says inverse, its values do not
        (r"fc6_w", "params/fc6/kernel", flattened(channels)),
        (r"fc7_w", "params/fc7/kernel", "oi_to_io"),
        (r"(fc[67])_b", r"params/\1/bias", None),
        (r"last_out_w", "params/head/kernel", "oi_to_io"),
        (r"last_out_b", "params/head/bias", None),
    ]


def without_class_count(tensors):
    """VMZ's blobs with `last_out_L400_w` as `last_out_w`."""
    return {re.sub(r"last_out_L\d+_", "last_out_", name): tensor for name, tensor in tensors.items()}


def with_class_count(tensors):
    """The inverse of `without_class_count`."""
    count = len(tensors["last_out_b"])
    return {re.sub(r"last_out_", f"last_out_L{count}_", name): tensor for name, tensor in tensors.items()}


# What the weights of a source expect, mean and std in units of the range; the model's own first line applies them.
PREPROCESS = {
    "order": "RGB",
    "range": (0.0, 255.0),
    "mean": (0.0, 0.0, 0.0),
    "std": (1.0, 1.0, 1.0),
    "frames": 16,
    "stride": 1,
    "resize": (128, 171),
    "size": 112,
}
_JFZHANG = {"order": "BGR", "mean": (90.0, 98.0, 102.0)}  # OpenCV's order
_MMACTION = {"mean": (104.0, 117.0, 128.0)}


def _fields(preprocess):
    """Fields of a Model on [0, 1] for weights that expect pixels of 0 to 255."""
    mean = tuple(value / 255 for value in preprocess.get("mean", (0.0,) * 3))
    return {"rounding": "symmetric", "mean": mean, "std": STD, "order": preprocess.get("order", "RGB")}


REFERENCES = {  # (source, the source's own name of the net)
    ("davidea", "c3d_487"): {  # its predict.py subtracts no mean and keeps RGB, though Caffe's weights had both
        "variant": "c3d",
        "table": torch_table(),
        "head": "fc8.bias",
        "preprocess": PREPROCESS,
        "fields": _fields({}),
    },
    ("jfzhang", "c3d"): {
        "variant": "c3d",
        "table": torch_table(),
        "head": "fc8.bias",
        "preprocess": PREPROCESS | _JFZHANG,
        "fields": _fields(_JFZHANG),
    },
    ("mmaction2", "c3d"): {
        "variant": "c3d",
        "table": mmaction_table(),
        "head": "cls_head.fc_cls.bias",
        "preprocess": PREPROCESS | _MMACTION,
        "fields": _fields(_MMACTION),
    },
    ("vmz", "c3d"): {
        "variant": "c3d_bn",
        "table": caffe2_table(),
        "head": "last_out_b",
        "prepare": without_class_count,
        "restore": with_class_count,
        "preprocess": PREPROCESS | {"range": (0.0, 1.0)} | KINETICS,
    },
}
