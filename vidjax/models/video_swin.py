"""Video Swin transformer: attention inside windows of space and time that every second block shifts by half.

Paper: Video Swin Transformer (Liu et al., CVPR 2022).
Input: RGB in [0, 1], (B, 32, 224, 224, 3), every second frame of a video; other sizes are padded to whole patches and
windows. Output: logits (B, num_classes).
References: torchvision swin3d_t, swin3d_s, swin3d_b, which are the authors' weights under other names; the authors'
own code (SwinTransformer/Video-Swin-Transformer, mmaction 0.x) and mmaction2.
"""

import functools
import math

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from vidjax import rules, transformer
from vidjax.nn import Conv3D, normalise

PAPER = "Liu et al., CVPR 2022"
MASKED = -100.0  # added to the scores of pairs that a shift brought together; the references' number

# ImageNet statistics.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_S, _B = {"depths": (2, 2, 18, 2), "heads": (3, 6, 12, 24)}, {"depths": (2, 2, 18, 2), "heads": (4, 8, 16, 32)}
VARIANTS = {  # section 3.3 of the paper; drop path of the references' Kinetics-400 recipes
    "swin3d_t": {"width": 96, "depths": (2, 2, 6, 2), "heads": (3, 6, 12, 24), "drop_path": 0.1},
    "swin3d_s": _S | {"width": 96, "drop_path": 0.1},
    "swin3d_b": _B | {"width": 128, "drop_path": 0.3},
    "swin3d_b_ssv2": _B | {"width": 128, "window": (16, 7, 7), "drop_path": 0.4},
    "swin3d_l": {"width": 192, "depths": (2, 2, 18, 2), "heads": (6, 12, 24, 48), "drop_path": 0.4},
    "small": {"width": 32, "depths": (2, 2), "heads": (2, 4), "window": (4, 5, 5)},  # ours, for clips of about 8x40x40
}


def _size(params, gmac, *, frames=32, size=224, classes=400, paper=PAPER):
    return {"input": (frames, size, size, 3), "classes": classes, "params": params, "gmac": gmac, "paper": paper}


# [P] published, [C] computed from the definition (tests/models/test_video_swin_properties.py). Products of attention
# count, padding of windows too, as in torchvision's 43.882, 82.841 and 140.667 G, which are those of 16 frames.
SIZES = {
    "swin3d_t": _size(28_158_070, 87.764),  # [P] torchvision: 28,158,070; the authors' 87.9 G count more
    "swin3d_s": _size(49_816_678, 165.682),  # [P] torchvision: 49,816,678; 165.9 G
    "swin3d_b": _size(88_048_984, 281.333),  # [P] torchvision: 88,048,984; 281.6 G
    "swin3d_b_ssv2": _size(88_834_038, 320.356, classes=174),  # [P] the authors: 89 M, 320.6 G
    "swin3d_l": _size(196_953_916, 603.269),  # [P] mmaction2: 197 M, 604 G
    "small": _size(144_444, 0.029, frames=8, size=40, classes=8, paper="none (small clips)"),  # [C]
}


class Block(nn.Module):
    """Attention in windows and MLP, each after a norm and beside a skip: (B, T, H, W, C) -> same, float32.

    `shifted` moves the windows by half their size. A window is no larger than its input, and is then not shifted
    along that axis. Param `positions`: what attention adds for two positions a distance apart, one row a distance.
    """

    heads: int
    window: tuple
    shifted: bool
    dropout: float = 0.0
    train: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x, rate=0.0):
        fields = {"dropout": self.dropout, "train": self.train, "dtype": self.dtype}
        drop = functools.partial(transformer.DropPath, not self.train)
        norm = functools.partial(transformer.LayerNorm, 1e-5, self.dtype)
        rows = math.prod(2 * w - 1 for w in self.window)
        table = self.param("positions", nn.initializers.truncated_normal(0.02), (rows, self.heads))
        size = x.shape[1:4]
        window = tuple(map(min, self.window, size))
        shift = tuple(w // 2 if self.shifted and n > w else 0 for n, w in zip(size, window, strict=True))
        padded = tuple(-(-n // w) * w for n, w in zip(size, window, strict=True))
        bias = relative_bias(table, self.window, window)
        if any(shift):
            bias = bias[None] + jnp.asarray(shift_mask(padded, window, shift))[:, None]
        y = norm(name="norm1")(x)
        y = jnp.pad(y, ((0, 0), *((0, p - n) for p, n in zip(padded, size, strict=True)), (0, 0)))
        y = partition(jnp.roll(y, [-s for s in shift], (1, 2, 3)), window)
        y = transformer.SelfAttention(self.heads, **fields, name="attention")(y, bias)
        y = jnp.roll(merge(y, padded, window), shift, (1, 2, 3))[:, : size[0], : size[1], : size[2]]
        x = x + drop(name="path1")(y.astype(jnp.float32), rate)
        y = transformer.Mlp(4 * x.shape[-1], **fields, name="mlp")(norm(name="norm2")(x))
        return x + drop(name="path2")(y.astype(jnp.float32), rate)


def partition(x, window):
    """Cuts a video into windows: (B, T, H, W, C) -> (B, windows, positions, C)."""
    b, *size, c = x.shape
    counts = [n // w for n, w in zip(size, window, strict=True)]
    x = x.reshape(b, counts[0], window[0], counts[1], window[1], counts[2], window[2], c)
    return x.transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(b, math.prod(counts), math.prod(window), c)


def merge(x, size, window):
    """The inverse of `partition`: (B, windows, positions, C) -> (B, T, H, W, C)."""
    counts = [n // w for n, w in zip(size, window, strict=True)]
    x = x.reshape(x.shape[0], *counts, *window, x.shape[-1])
    return x.transpose(0, 1, 4, 2, 5, 3, 6, 7).reshape(x.shape[0], *size, x.shape[-1])


def relative_index(window):
    """Row of the table for each pair of positions in a window: int (positions, positions)."""
    at = np.indices(window).reshape(3, -1)
    apart = at[:, :, None] - at[:, None] + np.reshape(window, (3, 1, 1)) - 1
    return np.ravel_multi_index(tuple(apart), [2 * w - 1 for w in window])


def relative_bias(table, full, window):
    """The table of a full window, (rows, heads) -> (heads, n, n) for the `n` positions of a smaller one.

    As in the references its positions are taken for the first `n` of the full window, whatever their rows and columns.
    """
    n = math.prod(window)
    return table[relative_index(full)[:n, :n]].transpose(2, 0, 1)


def shift_mask(size, window, shift):
    """MASKED where two positions of a window were apart before the shift, else 0: float32 (windows, n, n)."""
    regions = np.zeros((1, *size, 1), np.int64)
    for axis, (n, w, s) in enumerate(zip(size, window, shift, strict=True), 1):
        at = np.arange(n)
        own = (at >= n - w).astype(int) + (at >= n - s) if s else np.zeros(n, int)
        regions = 3 * regions + own.reshape([-1 if i == axis else 1 for i in range(5)])
    regions = partition(regions, window)[0, :, :, 0]
    return np.where(regions[:, None] != regions[:, :, None], np.float32(MASKED), np.float32(0))


class Merge(nn.Module):
    """Halves rows and columns: (B, T, H, W, C) -> (B, T, H / 2, W / 2, 2 C), odd ones padded with zeros; float32."""

    dtype: str = "float32"

    @nn.compact
    def __call__(self, x):
        b, t, h, w, c = x.shape
        x = jnp.pad(x, ((0, 0), (0, 0), (0, h % 2), (0, w % 2), (0, 0)))
        x = x.reshape(b, t, -(-h // 2), 2, -(-w // 2), 2, c).transpose(0, 1, 2, 4, 5, 3, 6)  # column before row
        x = transformer.LayerNorm(1e-5, self.dtype, name="norm")(x.reshape(*x.shape[:4], 4 * c))
        return transformer.Dense(2 * c, False, self.dtype, name="reduction")(x).astype(jnp.float32)


class Model(nn.Module):
    """Video Swin: float32 RGB (B, T, H, W, 3) in [0, 1] -> float32 logits (B, num_classes), activations."""

    width: int
    depths: tuple
    heads: tuple
    window: tuple = (8, 7, 7)
    patch: tuple = (2, 4, 4)
    num_classes: int = 400
    dropout: float = 0.0
    drop_path: float = 0.0
    remat: bool = False
    dtype: str = "float32"
    mean: float | tuple = MEAN
    std: float | tuple = STD

    @nn.compact
    def __call__(self, video, *, train):
        if len(self.depths) != len(self.heads):
            raise ValueError(f"video_swin needs depths and heads of one length, not {self.depths} and {self.heads}.")
        out = {}
        x = normalise(video, self.mean, self.std)
        x = jnp.pad(x, ((0, 0), *((0, -n % p) for n, p in zip(x.shape[1:4], self.patch, strict=True)), (0, 0)))
        x = Conv3D(self.width, self.patch, self.patch, "VALID", use_bias=True, dtype=self.dtype, name="patch")(x)
        x = out["patch"] = transformer.LayerNorm(1e-5, name="patch_norm")(x)
        block = nn.remat(Block) if self.remat else Block
        done, rates = 0, [self.drop_path * i / max(sum(self.depths) - 1, 1) for i in range(sum(self.depths))]
        for i, (depth, heads) in enumerate(zip(self.depths, self.heads, strict=True), 1):
            if i > 1:
                x = Merge(self.dtype, name=f"stage{i}_merge")(x)
            for j in range(depth):
                fields = {"train": train, "dtype": self.dtype, "name": f"stage{i}_block{j}"}
                x = block(heads, self.window, j % 2 == 1, **fields)(x, rates[done + j])
            out[f"stage{i}"] = x
            done += depth
        x = transformer.LayerNorm(1e-5, name="norm")(x)
        out["tokens"] = x.reshape(x.shape[0], -1, x.shape[-1])
        x = x.mean(axis=(1, 2, 3))
        x = out["pre_logits"] = nn.Dropout(self.dropout, deterministic=not train, name="drop")(x)
        if self.num_classes:
            x = nn.Dense(self.num_classes, kernel_init=nn.initializers.truncated_normal(0.02), name="head")(x)
        return x, out


def _torchvision():
    """Names of torchvision: stages and merges take turns in `features`."""
    table = rules.conv(r"patch_embed\.proj", "patch", bias=True) + rules.layer_norm(r"patch_embed\.norm", "patch_norm")
    for i in range(4):
        block, ours = rf"features\.{2 * i}\.(\d+)", rf"stage{i + 1}_block\1"
        table += _block(block, ours, ("0", "3"))
        table += _merge(rf"features\.{2 * i + 1}", f"stage{i + 2}_merge") if i < 3 else []
    return table + rules.layer_norm("norm", "norm") + rules.dense("head", "head")


def _openmmlab(norm):
    """Names of the authors' code, whose last norm is `norm`, and of mmaction2, where it is norm3."""
    table = rules.conv(r"backbone\.patch_embed\.proj", "patch", bias=True)
    table += rules.layer_norm(r"backbone\.patch_embed\.norm", "patch_norm")
    for i in range(4):
        layer = rf"backbone\.layers\.{i}"
        table += _block(rf"{layer}\.blocks\.(\d+)", rf"stage{i + 1}_block\1", ("fc1", "fc2"))
        table += _merge(rf"{layer}\.downsample", f"stage{i + 2}_merge") if i < 3 else []
    return table + rules.layer_norm(rf"backbone\.{norm}", "norm") + rules.dense(r"cls_head\.fc_cls", "head")


def _block(source, path, mlp):
    """One block; `mlp` are the source's names of its two linear layers."""
    return [
        *rules.layer_norm(rf"{source}\.norm1", f"{path}/norm1"),
        (rf"{source}\.attn\.relative_position_bias_table", f"params/{path}/positions", None),
        (rf"{source}\.attn\.relative_position_index", None, None),
        *rules.dense(rf"{source}\.attn\.qkv", f"{path}/attention/qkv"),
        *rules.dense(rf"{source}\.attn\.proj", f"{path}/attention/proj"),
        *rules.layer_norm(rf"{source}\.norm2", f"{path}/norm2"),
        *rules.dense(rf"{source}\.mlp\.{mlp[0]}", f"{path}/mlp/fc1"),
        *rules.dense(rf"{source}\.mlp\.{mlp[1]}", f"{path}/mlp/fc2"),
    ]


def _merge(source, path):
    return [
        *rules.layer_norm(rf"{source}\.norm", f"{path}/norm"),
        *rules.dense(rf"{source}\.reduction", f"{path}/reduction", bias=False),
    ]


def _constants(name):
    """Function of a model that gives the references' buffers, `name` filled with stage and block."""

    def constants(model):
        at = [(i, j) for i, depth in enumerate(model.depths) for j in range(depth)]
        index = relative_index(model.window)
        return {f"{name(i, j)}.attn.relative_position_index": index for i, j in at}

    return constants


TORCHVISION, AUTHORS, MMACTION2 = _torchvision(), _openmmlab("norm"), _openmmlab("norm3")

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
_ROW = {"preprocess": PREPROCESS, "classes": "kinetics400"}
_TV = _ROW | {
    "table": TORCHVISION,
    "head": "head.bias",
    "constants": _constants(lambda i, j: f"features.{2 * i}.{j}"),
}
_MM = _ROW | {
    "head": "cls_head.fc_cls.bias",
    "constants": _constants(lambda i, j: f"backbone.layers.{i}.blocks.{j}"),
    "preprocess": PREPROCESS | {"resize": 224},
}
_SSV2 = PREPROCESS | {"resize": 224, "sampler": "segments", "stride": 1}
REFERENCES = {  # (source, the source's own name of the net)
    **{("torchvision", f"swin3d_{size}"): _TV | {"variant": f"swin3d_{size}"} for size in "tsb"},
    **{
        (source, f"swin_{name}"): _MM | {"variant": f"swin3d_{name[0]}", "table": table}
        for source, table in (("video_swin", AUTHORS), ("mmaction2", MMACTION2))
        for name in ("tiny", "small", "base", "large")
    },
    ("video_swin", "swin_base_ssv2"): _MM
    | {"variant": "swin3d_b_ssv2", "table": AUTHORS, "preprocess": _SSV2, "classes": ()},
}
