"""SlowFast nets: a wide pathway that sees few frames beside a narrow one that sees all, which it takes from.

Paper: SlowFast Networks for Video Recognition (Feichtenhofer et al., ICCV 2019). Blocks are those of slow.py.
Input: RGB in [0, 1], (B, 32, 224, 224, 3), the frames of the fast pathway, every second frame of a video; the slow one
takes every alpha-th of them. Output: logits (B, num_classes).
References: pytorchvideo and PySlowFast. Their nets take both pathways' frames; which of them are slow is the field
`slow_sampling`: "stride" is 0, alpha, 2 alpha, ... (the paper's figure 1); "linspace" is PySlowFast's, T / alpha frames
from the first to the last, rounded down (0, 4, 8, 13, ..., 31 of 32). PySlowFast's nets need "linspace", and so do the
weights of pytorchvideo's zoo, trained by PySlowFast: `vidjax convert` gives them that. A bare net of pytorchvideo's has
"stride". Tests of both average windows of larger crops (`window`), PySlowFast after a softmax; here are logits.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from vidjax import rules
from vidjax.models.slow import Block, NonLocal, Unit, check_nonlocal, window_mean
from vidjax.nn import BatchNorm, Conv3D, normalise

PAPER = "Feichtenhofer et al., ICCV 2019"
PATHS = ("slow", "fast")

# `temporal`: extents of the blocks' first convolutions by pathway and stage, cycled through the stage's blocks.
_R50 = {"depths": (3, 4, 6, 3), "temporal": (((1,), (1,), (3,), (3,)), ((3,), (3,), (3,), (3,)))}
_SIX = (3,) * 6 + (1,) * 17  # of 23 blocks, the first six: res4 of R101 with as many temporal kernels as R50
_R101 = {"depths": (3, 4, 23, 3)}
_R101_50_50 = _R101 | {"temporal": (((1,), (1,), _SIX, (3,)), ((3,), (3,), _SIX, (3,)))}
_R101_50_101 = _R101 | {"temporal": (((1,), (1,), _SIX, (3,)), ((3,), (3,), (3,), (3,)))}
_R101_101_101 = _R101 | {"temporal": _R50["temporal"]}
_NLN = {"nonlocal_after": ((), (1, 3), (1, 3, 5), ())}
VARIANTS = {  # slow frames x their distance in the video; R101_50_101: depth, depth of slow and fast temporal kernels
    "4x16_r50": _R50 | {"alpha": 8, "fusion_kernel": 5},
    "8x8_r50": _R50 | {"alpha": 4, "fusion_kernel": 7},
    "16x8_r50": _R50 | {"alpha": 4, "fusion_kernel": 7},
    "8x8_r101_50_50": _R101_50_50 | {"alpha": 4, "fusion_kernel": 5},
    "8x8_r101_50_101": _R101_50_101 | {"alpha": 4, "fusion_kernel": 5},
    "8x8_r101_101_101": _R101_101_101 | {"alpha": 4, "fusion_kernel": 5},
    "16x8_r101_50_50": _R101_50_50 | {"alpha": 4, "fusion_kernel": 5},
    "nln_4x16_r50": _R50 | _NLN | {"alpha": 8, "fusion_kernel": 5},
    "nln_8x8_r50": _R50 | _NLN | {"alpha": 4, "fusion_kernel": 5},
    "nln_16x8_r101_50_50": _R101_50_50
    | {"alpha": 4, "fusion_kernel": 5, "nonlocal_after": ((), (), (6, 13, 20), ()), "nonlocal_pool": (2, 2, 2)},
    "small": {  # ours, for clips of about 8x40x40
        "depths": (1, 1, 1),
        "temporal": (((1,), (3,), (3,)), ((3,), (3,), (3,))),
        "widths": (16, 32, 48),
        "strides": (1, 2, 2),
        "alpha": 4,
        "beta": 4,
        "fusion_kernel": 5,
        "stem_width": 16,
        "stem_kernels": ((1, 5, 5), (5, 5, 5)),
        "stem_pool": False,
    },
}


def _size(params, gmac, *, frames=32, size=256, classes=400, paper=PAPER):
    return {"input": (frames, size, size, 3), "classes": classes, "params": params, "gmac": gmac, "paper": paper}


# [P] published, [C] computed from the definition (tests/models/test_slowfast_properties.py); GMAC per view of 256x256.
# The paper's table 2 has 36.1, 65.7, 106, 213 and 234 G; pytorchvideo's has 36.69, 127.20 and 215.61 G where the paper
# counts less.
SIZES = {
    "4x16_r50": _size(34_480_216, 36.099),  # [P] 34.48 M, 36.1 G
    "8x8_r50": _size(34_566_488, 65.709),  # [P] 34.57 M, 65.71 G
    "16x8_r50": _size(34_566_488, 131.417, frames=64),  # [C]
    "8x8_r101_50_50": _size(53_774_808, 106.511),  # [P] 106 G
    "8x8_r101_50_101": _size(53_914_072, 107.652),  # [C]
    "8x8_r101_101_101": _size(62_826_968, 125.906),  # [P] 62.83 M
    "16x8_r101_50_50": _size(53_774_808, 213.021, frames=64),  # [P] 53.77 M, 213 G
    "nln_4x16_r50": _size(41_838_680, 47.910),  # [C]
    "nln_8x8_r50": _size(41_838_680, 99.121),  # [C]
    "nln_16x8_r101_50_50": _size(60_080_088, 233.959, frames=64),  # [P] 234 G
    "small": _size(161_372, 0.040, frames=8, size=40, classes=8, paper="none (small clips)"),  # [C]
}


class Model(nn.Module):
    """Two-pathway net: float32 RGB (B, T, H, W, 3) in [0, 1] -> float32 logits (B, num_classes), activations.

    ValueError unless T is a multiple of `alpha` where `slow_sampling` is "linspace".
    """

    depths: tuple
    temporal: tuple
    alpha: int  # frames of the fast pathway for one of the slow
    fusion_kernel: int
    beta: int = 8  # channels of the slow pathway for one of the fast
    fusion_ratio: int = 2  # channels given to the slow pathway for one of the fast
    widths: tuple = (64, 128, 256, 512)
    strides: tuple = (1, 2, 2, 2)
    stem_width: int = 64
    stem_kernels: tuple = ((1, 7, 7), (5, 7, 7))
    stem_pool: bool = True
    nonlocal_after: tuple = ()  # in the slow pathway
    nonlocal_kind: str = "dot_product"
    nonlocal_pool: tuple = (1, 2, 2)
    slow_sampling: str = "stride"
    window: tuple | None = None  # of the fast pathway
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
        video = normalise(video, self.mean, self.std, self.order).astype(self.dtype)
        conv = functools.partial(Conv3D, dtype=self.dtype)
        norm = functools.partial(BatchNorm, not train, self.bn_momentum, self.bn_epsilon, self.dtype)
        unit = functools.partial(Unit, conv=conv, norm=norm)
        out = {}
        slow, fast = video[:, slow_frames(video.shape[1], self.alpha, self.slow_sampling)], video
        slow, fast = (self._stem(path, x, unit) for path, x in zip(PATHS, (slow, fast), strict=True))
        slow = self._fuse(slow, fast, unit, "stem")
        out |= {"stem_slow": slow, "stem_fast": fast}
        for i, depth in enumerate(self.depths, 1):
            for j in range(depth):
                slow = self._block(slow, i, j, "slow", unit)
                fast = self._block(fast, i, j, "fast", unit)
                if self.nonlocal_after and j in self.nonlocal_after[i - 1]:
                    name = f"layer{i}_{j}_nonlocal"
                    slow = NonLocal(self.nonlocal_kind, self.nonlocal_pool, conv, norm, name=name)(slow)
            if i < len(self.depths):
                slow = self._fuse(slow, fast, unit, f"layer{i}")
            out |= {f"layer{i}_slow": slow, f"layer{i}_fast": fast}
        window = self.window and (-(-self.window[0] // self.alpha), *self.window[1:])
        x = jnp.concatenate([window_mean(slow, window), window_mean(fast, self.window)], axis=-1)
        x = out["pre_logits"] = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(x)
        if self.num_classes:
            x = nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01), name="head")(x)
        return x, out

    def _stem(self, path, x, unit):
        """Stem of a pathway: (B, T, H, W, 3) -> (B, T, H / 4, W / 4, width), half as small without the pool."""
        width = self.stem_width if path == "slow" else self.stem_width // self.beta
        x = nn.relu(unit(width, self.stem_kernels[PATHS.index(path)], (1, 2, 2), name=f"stem_{path}")(x))
        return nn.max_pool(x, (1, 3, 3), (1, 2, 2), ((0, 0), (1, 1), (1, 1))) if self.stem_pool else x

    def _block(self, x, i, j, path, unit):
        """Block j of stage i of a pathway."""
        width = self.widths[i - 1] if path == "slow" else self.widths[i - 1] // self.beta
        extents, stride = self.temporal[PATHS.index(path)][i - 1], (1, 1 if j else self.strides[i - 1])
        return Block(width, stride, extents[j % len(extents)], "2d", unit, name=f"layer{i}_{j}_{path}")(x)

    def _fuse(self, slow, fast, unit, name):
        """The slow pathway's channels and the fast one's, convolved over time to its frames (time-strided lateral)."""
        width, kernel = self.fusion_ratio * fast.shape[-1], (self.fusion_kernel, 1, 1)
        lateral = nn.relu(unit(width, kernel, (self.alpha, 1, 1), name=f"{name}_fuse")(fast))
        return jnp.concatenate([slow, lateral], axis=-1)


def slow_frames(frames, alpha, sampling):
    """Indices of the slow pathway's frames among those of the fast one; `sampling` as `slow_sampling`."""
    if sampling == "stride":
        return np.arange(0, frames, alpha)
    if frames % alpha:
        raise ValueError(f"A SlowFast net of alpha {alpha} that samples by linspace cannot split {frames} frames.")
    count = frames // alpha  # as torch.linspace in float32: each half from its own end
    step = np.float32(frames - 1) / np.float32(max(count - 1, 1))
    up = np.arange(count, dtype=np.float32) * step
    return np.where(np.arange(count) < max(count // 2, 1), up, np.float32(frames - 1) - up[::-1]).astype(int)


def _check(model):
    """ValueError unless the fields agree."""
    stages = [len(f) for f in (model.depths, model.widths, model.strides, *model.temporal)]
    if len(set(stages)) > 1 or len(model.temporal) != 2:
        raise ValueError(
            f"slowfast needs depths, widths, strides and two temporals of one length (the stages), not {stages}."
        )
    if model.slow_sampling not in ("stride", "linspace"):
        raise ValueError(f"slowfast's field slow_sampling is 'stride' or 'linspace', not {model.slow_sampling!r}.")
    if model.fusion_kernel % 2 == 0:
        raise ValueError(f"slowfast's field fusion_kernel must be odd, not {model.fusion_kernel}.")
    check_nonlocal("slowfast", model)


def _pytorchvideo():
    """Conversion table of pytorchvideo's create_slowfast, whose stages are blocks 1 to 4."""
    table = rules.unit(
        r"blocks\.0\.multipathway_fusion\.conv_fast_to_slow", r"blocks\.0\.multipathway_fusion\.norm", "stem_fuse"
    )
    fusion = r"blocks\.([1-3])\.multipathway_fusion"
    table += rules.unit(rf"{fusion}\.conv_fast_to_slow", rf"{fusion}\.norm", r"layer\1_fuse")
    for number, path in enumerate(PATHS):
        stem = rf"blocks\.0\.multipathway_blocks\.{number}"
        table += rules.unit(rf"{stem}\.conv", rf"{stem}\.norm", f"stem_{path}")
        block = rf"blocks\.([1-4])\.multipathway_blocks\.{number}\.res_blocks\.(\d+)"
        layer = rf"layer\1_\2_{path}"
        for source, name in (("a", "conv1"), ("b", "conv2"), ("c", "conv3")):
            inner = rf"{block}\.branch2"
            table += rules.unit(rf"{inner}\.conv_{source}", rf"{inner}\.norm_{source}", f"{layer}/{name}")
        table += rules.unit(rf"{block}\.branch1_conv", rf"{block}\.branch1_norm", f"{layer}/downsample")
    return [*table, *rules.dense(r"blocks\.6\.proj", "head"), *rules.COUNTS]


def _pyslowfast():
    """Conversion table of PySlowFast's SlowFast, whose stages are s2 to s5."""
    table = []
    for i, name in enumerate(("stem", "layer1", "layer2", "layer3"), 1):
        table += rules.unit(rf"s{i}_fuse\.conv_f2s", rf"s{i}_fuse\.bn", f"{name}_fuse")
    for number, path in enumerate(PATHS):
        stem = rf"s1\.pathway{number}_stem"
        table += rules.unit(rf"{stem}\.conv", rf"{stem}\.bn", f"stem_{path}")
        for i in range(1, 5):
            block, layer = rf"s{i + 1}\.pathway{number}_res(\d+)", rf"layer{i}_\1_{path}"
            for source, name in (("a", "conv1"), ("b", "conv2"), ("c", "conv3")):
                inner = rf"{block}\.branch2\.{source}"
                table += rules.unit(inner, f"{inner}_bn", f"{layer}/{name}")
            table += rules.unit(rf"{block}\.branch1", rf"{block}\.branch1_bn", f"{layer}/downsample")
    for i in range(1, 5):
        extra, layer = rf"s{i + 1}\.pathway0_nonlocal(\d+)", rf"layer{i}_\1_nonlocal"
        table += rules.conv(rf"{extra}\.conv_(theta|phi|g|out)", rf"{layer}/\2", bias=True)
        table += rules.norm(rf"{extra}\.bn", f"{layer}/bn")
    return [*table, *rules.dense(r"head\.projection", "head"), *rules.COUNTS]


PYTORCHVIDEO, PYSLOWFAST = _pytorchvideo(), _pyslowfast()

# What the weights of a source expect: the model's own first line applies mean and std.
PREPROCESS = {
    "order": "RGB",
    "range": (0.0, 1.0),
    "mean": 0.45,
    "std": 0.225,
    "frames": 32,
    "stride": 2,
    "resize": 256,
    "size": 256,
}


def _pytorchvideo_row(variant, frames=32):
    trained = {"slow_sampling": "linspace"}  # of the published weights; their net takes any frames
    return {
        "variant": variant,
        "table": PYTORCHVIDEO,
        "head": "blocks.6.proj.bias",
        "preprocess": PREPROCESS | {"frames": frames, "model": trained},
        "classes": "kinetics400",
        "fields": {"slow_sampling": "stride", "window": (frames, 7, 7)},
    }


def _pyslowfast_row(variant, frames=32, **fields):
    return {
        "variant": variant,
        "table": PYSLOWFAST,
        "head": "head.projection.bias",
        "preprocess": PREPROCESS | {"frames": frames},
        "classes": "kinetics400",
        "fields": {"slow_sampling": "linspace", "window": (frames, 7, 7)} | fields,
    }


REFERENCES = {  # (source, the source's own name of the net)
    ("pytorchvideo", "slowfast_r50"): _pytorchvideo_row("8x8_r50"),
    ("pytorchvideo", "slowfast_r50_8x8"): _pytorchvideo_row("8x8_r50"),
    ("pytorchvideo", "slowfast_r50_4x16"): _pytorchvideo_row("4x16_r50"),
    ("pytorchvideo", "slowfast_r101"): _pytorchvideo_row("8x8_r101_101_101"),
    ("pytorchvideo", "slowfast_16x8_r101_50_50"): _pytorchvideo_row("16x8_r101_50_50", 64),
    ("pyslowfast", "SLOWFAST_4x16_R50"): _pyslowfast_row("4x16_r50"),
    ("pyslowfast", "SLOWFAST_8x8_R50"): _pyslowfast_row("8x8_r50"),
    ("pyslowfast", "SLOWFAST_16x8_R50"): _pyslowfast_row("16x8_r50", 64) | {"classes": "something_something_v2"},
    ("pyslowfast", "SLOWFAST_8x8_R101_50_50"): _pyslowfast_row("8x8_r101_50_50"),
    ("pyslowfast", "SLOWFAST_8x8_R101_50_101"): _pyslowfast_row("8x8_r101_50_101"),
    ("pyslowfast", "SLOWFAST_8x8_R101_101_101"): _pyslowfast_row("8x8_r101_101_101"),
    ("pyslowfast", "SLOWFAST_16x8_R101_50_50"): _pyslowfast_row("16x8_r101_50_50", 64),
    ("pyslowfast", "SLOWFAST_NLN_4x16_R50"): _pyslowfast_row("nln_4x16_r50"),
    ("pyslowfast", "SLOWFAST_NLN_8x8_R50"): _pyslowfast_row("nln_8x8_r50"),
    ("pyslowfast", "SLOWFAST_NLN_16x8_R101_50_50"): _pyslowfast_row("nln_16x8_r101_50_50", 64, nonlocal_pool=(1, 2, 2)),
}
