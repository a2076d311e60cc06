"""Multiscale vision transformers: tokens grow wider and fewer from stage to stage, by pooling inside attention.

Papers: Multiscale Vision Transformers (Fan et al., ICCV 2021), here v1; MViTv2: Improved Multiscale Vision
Transformers for Classification and Detection (Li et al., CVPR 2022); Masked Feature Prediction for Self-Supervised
Visual Pre-Training (Wei et al., CVPR 2022), whose fine-tuned nets differ a little from v2.
Input: RGB in [0, 1], (B, 16, 224, 224, 3), every fourth frame of a video; positions are interpolated for other sizes.
Output: logits (B, num_classes).
References: torchvision mvit_v1_b and mvit_v2_s; pytorchvideo's hub; PySlowFast's and mmaction2's model zoos.
"""

import functools
import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vidjax import transformer
from vidjax.attention import attend
from vidjax.models import _mvit_tables as tables
from vidjax.nn import Conv3D, conv3d, max_pool, normalise

V1, V2, MASKFEAT = "Fan et al., ICCV 2021", "Li et al., CVPR 2022", "Wei et al., CVPR 2022"

_V2 = {"relative": True, "widen": "attention", "residual_pooling": True, "pool_all": True}
_MASKFEAT = _V2 | {"widen": "mlp", "average": True, "dropout": 0.0}
_24 = {"depth": 24, "stages": (2, 5, 21)}
_48 = {"depth": 48, "stages": (2, 8, 44), "width": 144, "heads": 2}
_IMAGE = {"frames": 1, "patch": (1, 7, 7), "stride": (1, 4, 4), "pool": (1, 3, 3), "kv_stride": (1, 4, 4)}  # ImageNet
_SMALL = {"width": 24, "depth": 4, "stages": (1, 3), "kv_stride": (1, 4, 4), "frames": 8, "size": 40, "dropout": 0.0}
VARIANTS = {
    "v1_b": {"drop_path": 0.2},  # table 2 of v1: MViT-B, 16x4
    "v1_b_32x3": {"frames": 32, "drop_path": 0.2},  # pytorchvideo's
    "v1_b24_32x3": _24 | {"frames": 32, "pool": None, "drop_path": 0.3},  # PySlowFast's, of 24 blocks
    "v1_b_image": _IMAGE,
    "v2_s": _V2 | {"drop_path": 0.2},  # table 1 of v2
    "v2_b": _V2 | _24 | {"frames": 32, "drop_path": 0.3},
    "v2_l": _V2 | _48 | {"frames": 40, "size": 312, "drop_path": 0.75},
    "maskfeat_s": _MASKFEAT | {"drop_path": 0.1},
    "maskfeat_l": _MASKFEAT | _48 | {"drop_path": 0.2},
    "tiny": {"depth": 4, "stages": (1, 3), "frames": 8, "size": 112},  # pytorchvideo's class, at a tester's size
    "small": _V2 | _SMALL,  # for clips of about 8x40x40
}


def _size(params, gmac, *, frames=16, size=224, classes=400, paper=V2):
    return {"input": (frames, size, size, 3), "classes": classes, "params": params, "gmac": gmac, "paper": paper}


# [P] published, [C] computed from the definition (tests/models/test_mvit_properties.py). Products of attention and of
# relative positions count, as in torchvision's figures.
SIZES = {
    "v1_b": _size(36_610_672, 70.599, paper=V1),  # [P] torchvision: 36,610,672, 70.599 G
    "v1_b_32x3": _size(36_611_440, 169.958, frames=32, paper=V1),  # [P] pytorchvideo: 36.61 M; its 170.37 G count more
    "v1_b24_32x3": _size(53_115_280, 235.776, frames=32, paper=V1),  # [C], 53,115,280 in PySlowFast's code
    "v1_b_image": _size(36_982_696, 7.809, frames=1, classes=1000, paper=V1),  # [P] the paper: 37.0 M, 7.8 G
    "v2_s": _size(34_537_744, 64.224),  # [P] torchvision: 34,537,744, 64.224 G
    "v2_b": _size(51_230_128, 224.473, frames=32),  # [P] the paper: 51.2 M, 225 G
    # PySlowFast's configuration; the paper's 217.6 M are those of a net that widens in the MLP, as MaskFeat's below.
    "v2_l": _size(213_390_112, 2823.412, frames=40, size=312),  # [C], 213,390,112 in PySlowFast's code
    "maskfeat_s": _size(36_475_120, 71.162, paper=MASKFEAT),  # [P] MaskFeat: 36 M, 71 G
    "maskfeat_l": _size(217_578_064, 376.822, paper=MASKFEAT),  # [P] MaskFeat: 218 M, 377 G
    "tiny": _size(3_206_416, 2.551, frames=8, size=112, classes=16, paper=V1),  # [C], 3,206,416 in pytorchvideo's code
    "small": _size(186_920, 0.023, frames=8, size=40, classes=8, paper="none (small clips)"),  # [C]
}


class Pool(nn.Module):
    """Depthwise convolution and norm of all tokens of each head, with the same weights: (B, N, H, D) -> (B, M, H, D).

    Tokens lie on `grid` (T, H, W) but the first, that of the class, which is normed alone.
    """

    grid: tuple
    kernel: tuple
    stride: tuple
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x):
        b, _, heads, d = x.shape
        kernel = self.param("kernel", nn.initializers.truncated_normal(0.02), (*self.kernel, 1, d))
        kernel = jnp.tile(kernel.astype(self.dtype), heads)
        head, body = x[:, :1], x[:, 1:].reshape(b, *self.grid, heads * d)
        pads = tuple((k // 2, k // 2) for k in self.kernel)
        body = conv3d(body.astype(self.dtype), kernel, self.stride, pads, heads * d)
        x = jnp.concatenate([head, body.reshape(b, -1, heads, d)], 1)
        return transformer.LayerNorm(1e-6, self.dtype, name="norm")(x)


class Attention(nn.Module):
    """Multi-head pooling attention: (B, N, C) -> (B, M, features), float32; equations 1 and 4 of v2.

    `q_pool` and `kv_stride` are the strides of pooling queries (None: they are not pooled), keys and values; `native`
    is the number of positions (in time, in rows or columns) that the tables of relative positions are for.
    """

    features: int
    heads: int
    grid: tuple
    pool: tuple | None
    q_stride: tuple | None
    kv_stride: tuple
    native: tuple | None
    residual: bool
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x):
        b, n, _ = x.shape
        d = self.features // self.heads
        qkv = transformer.Dense(3 * self.features, dtype=self.dtype, name="qkv")(x).reshape(b, n, 3, self.heads, d)
        q, k, v = (qkv[:, :, i] for i in range(3))
        q = self.pooling(q, self.q_stride or (1, 1, 1), (1, 1, 1) if not self.q_stride else self.pool, "pool_q")
        k, v = (self.pooling(y, self.kv_stride, self.pool, name) for y, name in ((k, "pool_k"), (v, "pool_v")))
        bias = None
        if self.native:
            bias = self.positions(q[:, 1:], pooled(self.grid, self.q_stride), pooled(self.grid, self.kv_stride))
            bias = jnp.pad(bias, ((0, 0), (0, 0), (1, 0), (1, 0)))
        y = attend(q, k, v, bias)
        if self.residual:
            y = jnp.concatenate([y[:, :1], y[:, 1:] + q[:, 1:]], 1)
        y = transformer.Dense(self.features, dtype=self.dtype, name="proj")(y.reshape(b, -1, self.features))
        return y.astype(jnp.float32)

    def pooling(self, x, stride, kernel, name):
        """Pools tokens (B, N, H, D) unless that would change nothing."""
        kernel = kernel or _wider(stride)
        if math.prod(kernel) == math.prod(stride) == 1:
            return x
        return Pool(self.grid, kernel, stride, self.dtype, name=name)(x)

    def positions(self, q, to, of):
        """What queries (B, N, H, D) on the grid `to` add for keys on the grid `of`: (B, H, N, M), equation 3 of v2."""
        b, _, heads, d = q.shape
        q = q.reshape(b, *to, heads, d)
        parts = []
        for axis, name in enumerate(("time", "height", "width")):
            count = 2 * self.native[min(axis, 1)] - 1
            table = self.param(f"positions_{name}", nn.initializers.truncated_normal(0.02), (count, d))
            table = transformer.resize_positions(table[:, None, None], (2 * max(to[axis], of[axis]) - 1, 1, 1))[:, 0, 0]
            table = table[distances(to[axis], of[axis])].astype(self.dtype)  # (query, key, D)
            letter = "thw"[axis]
            parts.append(jnp.einsum(f"bthwnd,{letter}kd->bnthwk", q, table, preferred_element_type=jnp.float32))
        (t, h, w), shape = parts, (b, heads, *to, *of)
        parts = t[..., None, None], h[..., None, :, None], w[..., None, None, :]
        return sum(jnp.broadcast_to(part, shape) for part in parts).reshape(b, heads, math.prod(to), math.prod(of))


def _wider(stride):
    """The kernel that a stride has of itself: one more, where it is one at all."""
    return tuple(s + 1 if s > 1 else s for s in stride)


def pooled(grid, stride):
    """The grid after pooling with an odd kernel."""
    return tuple(-(-n // s) for n, s in zip(grid, stride or (1, 1, 1), strict=True))


def distances(queries, keys):
    """Row of a table of relative positions for each pair on one axis: int (queries, keys).

    Fractions, where one number does not divide the other, are cut in float32 as in torchvision.
    """
    own, other = max(keys / queries, 1.0), max(queries / keys, 1.0)
    at, of = np.arange(queries, dtype=np.float32), np.arange(keys, dtype=np.float32)
    return (at[:, None] * own - (of[None] + (1.0 - keys)) * other).astype(int)


class Block(nn.Module):
    """Pooling attention and MLP, each after a norm and beside a skip: (B, N, C) -> (B, M, features), float32.

    `widen` is the layer, "attention" or "mlp", that makes tokens of `features` channels, with a linear skip; where
    queries are pooled with strides, the skip is max-pooled. `attention` are further fields of it as (name, value).
    """

    features: int
    grid: tuple
    q_stride: tuple | None
    widen: str
    attention: tuple
    train: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x, rate=0.0):
        dense, d = functools.partial(transformer.Dense, dtype=self.dtype), x.shape[-1]
        drop = functools.partial(transformer.DropPath, not self.train)
        early = self.features if self.widen == "attention" else d
        same = {"grid": self.grid, "q_stride": self.q_stride, "dtype": self.dtype}
        y = transformer.LayerNorm(1e-6, self.dtype, name="norm1")(x)
        if early != d:
            x = dense(early, name="proj")(y).astype(jnp.float32)
        y = Attention(early, **dict(self.attention), **same, name="attention")(y)
        x = self.skip(x) + drop(name="path1")(y, rate)
        y = transformer.LayerNorm(1e-6, self.dtype, name="norm2")(x)
        if self.features != early:
            x = dense(self.features, name="proj")(y).astype(jnp.float32)
        y = jax.nn.gelu(dense(4 * early, name="fc1")(y), approximate=False)
        return x + drop(name="path2")(dense(self.features, name="fc2")(y).astype(jnp.float32), rate)

    def skip(self, x):
        """Max pool as wide as the stride and one more of all tokens but the class."""
        if math.prod(self.q_stride or ()) == 1:
            return x
        b, _, d = x.shape
        kernel = _wider(self.q_stride)
        pads = tuple((k // 2, k // 2) for k in kernel)
        body = max_pool(x[:, 1:].reshape(b, *self.grid, d), kernel, self.q_stride, pads)
        return jnp.concatenate([x[:, :1], body.reshape(b, -1, d)], 1)


class Model(nn.Module):
    """Multiscale transformer: float32 RGB (B, T, H, W, 3) in [0, 1] -> float32 logits (B, num_classes), activations.

    Stages begin at the blocks `stages`: there queries are pooled by 2 in space, heads and width double and the stride
    of keys and values, `kv_stride` at first, halves. Queries of other blocks are not pooled unless `pool_all`.
    The kernel of all pools is `pool`, or None for one more than their strides. Positions are tables in space and time
    for clips of `frames` and `size`, or `relative`, in every attention.
    """

    depth: int = 16
    stages: tuple = (1, 3, 14)
    width: int = 96
    heads: int = 1
    patch: tuple = (3, 7, 7)
    stride: tuple = (2, 4, 4)
    pool: tuple | None = (3, 3, 3)
    kv_stride: tuple = (1, 8, 8)
    relative: bool = False
    widen: str = "mlp"
    residual_pooling: bool = False
    pool_all: bool = False
    average: bool = False
    frames: int = 16
    size: int = 224
    num_classes: int = 400
    dropout: float = 0.5
    drop_path: float = 0.0
    scan: bool = False
    remat: bool = False
    dtype: str = "float32"
    mean: float | tuple = 0.45
    std: float | tuple = 0.225

    @nn.compact
    def __call__(self, video, *, train):
        _check(self, video.shape)
        out, pads = {}, tuple((k // 2, k // 2) for k in self.patch)
        x = normalise(video, self.mean, self.std)
        x = Conv3D(self.width, self.patch, self.stride, pads, use_bias=True, dtype=self.dtype, name="patch")(x)
        grid, x = x.shape[1:4], x.astype(jnp.float32)
        if not self.relative:
            x = x + self.positions(grid)
        x = out["patch"] = self.with_class(x.reshape(x.shape[0], -1, self.width))
        rates, done = [self.drop_path * i / max(self.depth - 1, 1) for i in range(self.depth)], 0
        for fields, equal in itertools.groupby(schedule(self, grid)):
            count = len(list(equal))
            block = functools.partial(Block, **dict(fields), train=train, dtype=self.dtype)
            own = {"rate": tuple(rates[done : done + count]), "scan": self.scan and count > 1, "remat": self.remat}
            x, after = transformer.run(self, block, count, x, **own, first=done)
            out, done = out | after, done + count
        return self.classify(x, out, train)

    def positions(self, grid):
        """Tables in space and in time, added up: (1, T, H, W, D)."""
        native, init = _native(self), nn.initializers.truncated_normal(0.02)
        space = self.param("positions_space", init, (*native[1:], self.width))
        time = self.param("positions_time", init, (native[0], self.width))
        space = transformer.resize_positions(space[None], (1, *grid[1:]))
        time = transformer.resize_positions(time[:, None, None], (grid[0], 1, 1))
        return sum(jnp.broadcast_to(table, (*grid, self.width)) for table in (space, time))[None]

    def with_class(self, x):
        """A learnt token before all others: (B, N, D) -> (B, 1 + N, D)."""
        init = nn.initializers.truncated_normal(0.02)
        token = self.param("cls", init, (self.width,))
        token = token if self.relative else token + self.param("positions_cls", init, (self.width,))
        return jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, self.width)), x], 1)

    def classify(self, x, out, train):
        """(logits, out) of the last tokens."""
        norm = transformer.LayerNorm(1e-6, name="norm")
        out["tokens"] = norm(x)
        x = norm(x[:, 1:].mean(1)) if self.average else out["tokens"][:, 0]
        x = out["pre_logits"] = nn.Dropout(self.dropout, deterministic=not train, name="drop")(x)
        if self.num_classes:
            x = nn.Dense(self.num_classes, kernel_init=nn.initializers.truncated_normal(0.02), name="head")(x)
        return x, out


def schedule(model, grid):
    """Fields of every block, one after the other, for patches on `grid`: [((name, value), ...), ...]."""
    width, heads, kv, native = model.width, model.heads, model.kv_stride, _native(model)
    found = []
    for i in range(model.depth):
        pooling = i in model.stages
        stride = (1, 2, 2) if pooling else (1, 1, 1)
        if pooling:
            heads, kv = 2 * heads, tuple(max(a // b, 1) for a, b in zip(kv, stride, strict=True))
        width *= 2 if (i if model.widen == "attention" else i + 1) in model.stages else 1
        rows = max(native[1] // stride[1], native[1] // kv[1])
        attention = {
            "heads": heads,
            "pool": model.pool,
            "kv_stride": kv,
            "native": (native[0], rows) if model.relative else None,
            "residual": model.residual_pooling,
        }
        fields = {"features": width, "grid": grid, "widen": model.widen}
        fields |= {"q_stride": stride if pooling or model.pool_all else None, "attention": tuple(attention.items())}
        found.append(tuple(fields.items()))
        grid, native = pooled(grid, stride), tuple(n // s for n, s in zip(native, stride, strict=True))
    return found


def _native(model):
    """The grid of patches, (T, H, W), that the tables of positions are for."""
    return tuple(n // s for n, s in zip((model.frames, model.size, model.size), model.stride, strict=True))


def _check(model, shape):
    """ValueError unless the fields agree and the clip divides into patches."""
    if model.widen not in ("attention", "mlp"):
        raise ValueError(f"mvit's field widen is 'attention' or 'mlp', not {model.widen!r}.")
    if any(n % s for n, s in zip(shape[1:4], model.stride, strict=True)):
        sides, parts = ("x".join(map(str, sizes)) for sizes in (shape[1:4], model.stride))
        raise ValueError(f"A clip of {sides} does not divide into steps of {parts}.")


PREPROCESS, _TV, _PV = tables.PREPROCESS, tables.TORCHVISION, tables.PYTORCHVIDEO
_SF, _MM = tables.PYSLOWFAST, tables.MMACTION2
REFERENCES = {  # (source, the source's own name of the net)
    ("torchvision", "mvit_v1_b"): _TV | {"variant": "v1_b"},
    ("torchvision", "mvit_v2_s"): _TV | {"variant": "v2_s"},
    ("pytorchvideo", "mvit_base_16x4"): _PV | {"variant": "v1_b"},
    ("pytorchvideo", "mvit_base_32x3"): _PV | {"variant": "v1_b_32x3", "preprocess": tables.LONG},
    ("pytorchvideo", "mvit_base_16"): tables.PYTORCHVIDEO_IMAGE | {"variant": "v1_b_image"},
    ("pytorchvideo", "mvit_tiny_depth4"): _PV
    | {"variant": "tiny", "preprocess": PREPROCESS | {"frames": 8, "resize": 128, "size": 112}, "classes": ()},
    ("pyslowfast", "mvit_b_16x4"): _SF | {"variant": "v1_b"},
    ("pyslowfast", "mvit_b_32x3"): _SF | {"variant": "v1_b24_32x3", "preprocess": tables.LONG},
    ("pyslowfast", "mvitv2_s_16x4"): _SF | {"variant": "v2_s"},
    ("pyslowfast", "mvitv2_b_32x3"): _SF | {"variant": "v2_b", "preprocess": tables.LONG},
    ("pyslowfast", "mvitv2_l_40x3"): _SF | {"variant": "v2_l", "fields": tables.IMAGENET, "preprocess": tables.LARGE},
    ("pyslowfast", "maskfeat_mvitv2_s_16x4"): _SF | {"variant": "maskfeat_s"},
    ("pyslowfast", "maskfeat_mvitv2_l_16x4"): _SF | {"variant": "maskfeat_l"},
    ("mmaction2", "mvit_small"): _MM | {"variant": "v2_s"},
    ("mmaction2", "mvit_base"): _MM | {"variant": "v2_b", "preprocess": tables.LONG},
    ("mmaction2", "mvit_large"): _MM
    | {"variant": "v2_l", "preprocess": tables.LONG | {"frames": 40, "resize": 312, "size": 312}},
    ("mmaction2", "mvit_small_maskfeat"): _MM | {"variant": "maskfeat_s", "fields": {"average": False}},
}
