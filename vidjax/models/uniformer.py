"""UniFormer: blocks of depthwise convolutions in two shallow stages, of attention over all tokens in two deep ones.

Paper: UniFormer: Unified Transformer for Efficient Spatiotemporal Representation Learning (Li et al., ICLR 2022).
Input: RGB in [0, 1], (B, 16, 224, 224, 3), every fourth frame of a video. Output: logits (B, num_classes).
Reference: Sense-X/UniFormer, video_classification/slowfast/models/uniformer.py; mmaction2 carries the same weights.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from vidjax import rules, transformer
from vidjax.nn import BatchNorm, Conv3D, normalise

PAPER = "Li et al., ICLR 2022"

# Those of PySlowFast, which the reference's code is built on.
MEAN, STD = 0.45, 0.225

_S, _B = {"depths": (3, 4, 8, 3), "drop_path": 0.1}, {"depths": (5, 8, 20, 7), "drop_path": 0.3}
VARIANTS = {  # section 3.5 of the paper
    "uniformer_s": _S,
    "uniformer_b": _B,
    "small": {"depths": (1, 1, 1, 1), "widths": (16, 32, 48, 64), "head_width": 16},  # ours, for clips of about 8x40x40
}


def _size(params, gmac, *, frames=16, size=224, classes=400, paper=PAPER):
    return {"input": (frames, size, size, 3), "classes": classes, "params": params, "gmac": gmac, "paper": paper}


# [P] published, [C] computed from the definition (tests/models/test_uniformer_properties.py). The authors' 41.8, 96.7
# and 259 G (32 frames; here 258.251) count norms too.
SIZES = {
    "uniformer_s": _size(21_400_400, 41.663),  # [P] 21.4 M, 41.8 G
    "uniformer_b": _size(49_813_200, 96.554),  # [P] 49.8 M, 96.7 G
    "small": _size(126_024, 0.005, frames=8, size=40, classes=8, paper="none (small clips)"),  # [C]
}


class Depthwise(nn.Module):
    """Depthwise convolution with zero padding: (B, T, H, W, C) -> same."""

    size: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x):
        d, pads = x.shape[-1], ((self.size // 2,) * 2,) * 3
        kernel, init = (self.size,) * 3, nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        conv = Conv3D(d, kernel, (1, 1, 1), pads, d, True, self.dtype, init, name="conv")
        return conv(x).astype(jnp.float32)


class LocalBlock(nn.Module):
    """Local relations: (B, T, H, W, C) -> same, float32; equation 4 of the paper.

    Positions by a depthwise 3x3x3 convolution, pointwise - depthwise 5x5x5 - pointwise ones, an MLP of `hidden`; the
    norms before the latter two are batch norms.
    """

    hidden: int
    train: bool = False
    dtype: str = "float32"
    bn_momentum: float = 0.9

    @nn.compact
    def __call__(self, x, rate=0.0):
        norm = functools.partial(BatchNorm, not self.train, self.bn_momentum, 1e-5, self.dtype)
        dense = functools.partial(transformer.Dense, dtype=self.dtype)
        drop, d = functools.partial(transformer.DropPath, not self.train), x.shape[-1]
        x = x + Depthwise(3, self.dtype, name="positions")(x)
        y = Depthwise(5, self.dtype, name="mix")(dense(d, name="before")(norm(name="norm1")(x)))
        x = x + drop(name="path1")(dense(d, name="after")(y).astype(jnp.float32), rate)
        y = transformer.Mlp(self.hidden, train=self.train, dtype=self.dtype, name="mlp")(norm(name="norm2")(x))
        return x + drop(name="path2")(y.astype(jnp.float32), rate)


class GlobalBlock(nn.Module):
    """Relations of all tokens: (B, T, H, W, C) -> same, float32: positions as in LocalBlock, attention, MLP."""

    heads: int
    hidden: int
    epsilon: float = 1e-6
    train: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x, rate=0.0):
        b, t, h, w, d = x.shape
        x = x + Depthwise(3, self.dtype, name="positions")(x)
        fields = {"epsilon": self.epsilon, "train": self.train, "dtype": self.dtype}
        block = transformer.Block(self.heads, self.hidden, **fields, name="tokens")
        return block(x.reshape(b, -1, d), rate).reshape(b, t, h, w, d)


class Model(nn.Module):
    """UniFormer: float32 RGB (B, T, H, W, 3) in [0, 1] -> float32 logits (B, num_classes), activations.

    Stages of `blocks` "local" or "global" begin with a convolution as large as its stride in space, 4 in the first,
    then 2, and a norm; the first halves time too, with a kernel of 3.
    """

    depths: tuple
    widths: tuple = (64, 128, 320, 512)
    blocks: tuple = ("local", "local", "global", "global")
    head_width: int = 64
    epsilon: float = 1e-6
    num_classes: int = 400
    dropout: float = 0.0
    drop_path: float = 0.0
    scan: bool = False
    remat: bool = False
    dtype: str = "float32"
    mean: float | tuple = MEAN
    std: float | tuple = STD
    bn_momentum: float = 0.9

    @nn.compact
    def __call__(self, video, *, train):
        _check(self, video.shape)
        out, done, x = {}, 0, normalise(video, self.mean, self.std)
        rates = [self.drop_path * i / max(sum(self.depths) - 1, 1) for i in range(sum(self.depths))]
        for i, (depth, width, kind) in enumerate(zip(self.depths, self.widths, self.blocks, strict=True), 1):
            kernel, stride, pads = ((1, 2, 2), (1, 2, 2), (0, 0)) if i > 1 else ((3, 4, 4), (2, 4, 4), (1, 1))
            padding, name = (pads, (0, 0), (0, 0)), "patch" if i == 1 else f"stage{i}_patch"
            x = Conv3D(width, kernel, stride, padding, use_bias=True, dtype=self.dtype, name=name)(x)
            x = transformer.LayerNorm(1e-5, name=f"{name}_norm")(x)
            fields = {"hidden": 4 * width, "train": train, "dtype": self.dtype}
            if kind == "local":
                block = functools.partial(LocalBlock, **fields, bn_momentum=self.bn_momentum)
            else:
                block = functools.partial(GlobalBlock, width // self.head_width, epsilon=self.epsilon, **fields)
            own = {"rate": tuple(rates[done : done + depth]), "scan": self.scan and kind == "global"}
            x, after = transformer.run(self, block, depth, x, **own, remat=self.remat, prefix=f"stage{i}_block")
            out, done = out | after | {f"stage{i}": x}, done + depth
        x = BatchNorm(not train, self.bn_momentum, 1e-5, name="norm")(x)
        out["tokens"] = x.reshape(x.shape[0], -1, x.shape[-1])
        x = x.mean(axis=(1, 2, 3))
        x = out["pre_logits"] = nn.Dropout(self.dropout, deterministic=not train, name="drop")(x)
        if self.num_classes:
            x = nn.Dense(self.num_classes, kernel_init=nn.initializers.truncated_normal(0.02), name="head")(x)
        return x, out


def _check(model, shape):
    """ValueError unless the fields agree and the clip divides into patches."""
    stages = [len(f) for f in (model.depths, model.widths, model.blocks)]
    if len(set(stages)) > 1:
        raise ValueError(f"uniformer needs depths, widths and blocks of one length (the stages), not {stages}.")
    if not set(model.blocks) <= {"local", "global"}:
        raise ValueError(f"uniformer's field blocks has 'local' and 'global', not {model.blocks!r}.")
    if any(n % 4 for n in shape[2:4]) or shape[1] % 2:
        raise ValueError(f"A clip of {'x'.join(map(str, shape[1:4]))} does not divide into patches of 2x4x4.")


def _stage(source, i, kind):
    """Rules of the blocks of stage `i`, called `source` with their number."""
    block, ours = rf"{source}\.(\d+)", rf"stage{i}_block\1"
    inner = ours if kind == "local" else f"{ours}/tokens"
    table = rules.conv(rf"{block}\.pos_embed", f"{ours}/positions/conv", bias=True)
    if kind == "local":
        for name, path in (("conv1", "before"), ("conv2", "after")):
            table += rules.conv(rf"{block}\.{name}", f"{ours}/{path}", bias=True, transform=POINTWISE)
        table += rules.conv(rf"{block}\.attn", f"{ours}/mix/conv", bias=True)
    else:
        for name in ("qkv", "proj"):
            table += rules.dense(rf"{block}\.attn\.{name}", f"{inner}/attention/{name}")
    for name in ("norm1", "norm2"):
        table += (rules.norm if kind == "local" else rules.layer_norm)(rf"{block}\.{name}", f"{inner}/{name}")
    for name in ("fc1", "fc2"):
        transform = POINTWISE if kind == "local" else "oi_to_io"
        table += rules.conv(rf"{block}\.mlp\.{name}", f"{inner}/mlp/{name}", bias=True, transform=transform)
    return table


# A pointwise convolution as a linear layer.
POINTWISE = (5, lambda x: x[:, :, 0, 0, 0].T, lambda x: x.T[:, :, None, None, None])


def _table(backbone, head):
    """Conversion table; `backbone` comes before all names but the `head`'s."""
    table = rules.norm(rf"{backbone}norm", "norm") + rules.dense(head, "head") + rules.COUNTS
    for i, kind in enumerate(("local", "local", "global", "global"), 1):
        path = "patch" if i == 1 else f"stage{i}_patch"
        table += rules.conv(rf"{backbone}patch_embed{i}\.proj", path, bias=True)
        table += rules.layer_norm(rf"{backbone}patch_embed{i}\.norm", f"{path}_norm")
        table += _stage(rf"{backbone}blocks{i}", i, kind)
    return table


SENSE_X, MMACTION2 = _table("", "head"), _table(r"backbone\.", r"cls_head\.fc_cls")

# What the weights of a source expect: the model's own first line applies mean and std.
PREPROCESS = {
    "order": "RGB",
    "range": (0.0, 1.0),
    "mean": MEAN,
    "std": STD,
    "frames": 16,
    "stride": 4,
    "resize": 224,
    "size": 224,
}
_ROW = {"preprocess": PREPROCESS, "classes": "kinetics400"}
_SX = _ROW | {"table": SENSE_X, "head": "head.bias"}
_MM = _ROW | {"table": MMACTION2, "head": "cls_head.fc_cls.bias", "fields": {"epsilon": 1e-5}}
REFERENCES = {  # (source, the source's own name of the net)
    (source, f"uniformer_{name}"): row | {"variant": f"uniformer_{name[0]}"}
    for source, row in (("sense_x", _SX), ("mmaction2", _MM))
    for name in ("small", "base")
}
