"""TimeSformer: an image transformer whose blocks attend in time, then in space; or in both at once, or in space alone.

Paper: Is Space-Time Attention All You Need for Video Understanding? (Bertasius et al., ICML 2021).
Input: RGB in [0, 1], (B, 8, 224, 224, 3), every 32nd frame; or any clip that its patches divide, for which learnt
positions are taken from the nearest place of their table. Output: logits (B, num_classes).
References: facebookresearch/TimeSformer; Hugging Face transformers, whose space-only net does not average over frames
and has no published weights.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from vidjax import rules, transformer
from vidjax.nn import normalise
from vidjax.transformer import Dense, DropPath, LayerNorm, Mlp, Patch, SelfAttention

PAPER = "Bertasius et al., ICML 2021"

ATTENTION = ("divided", "joint", "space")

_B = {"width": 768, "depth": 12, "heads": 12, "hidden": 3072}
VARIANTS = {  # sections 4.1 and 4.2 of the paper
    "b": _B,
    "b_joint": _B | {"attention": "joint"},
    "b_space": _B | {"attention": "space"},
    "hr": _B | {"frames": 16, "size": 448},
    "l": _B | {"frames": 96},
    "small": {  # ours, for clips of about 8x40x40
        "width": 64,
        "depth": 4,
        "heads": 4,
        "hidden": 256,
        "patch": 8,
        "size": 40,
    },
}


def _size(params, gmac, *, frames=8, size=224, classes=400, paper=PAPER):
    return {"input": (frames, size, size, 3), "classes": classes, "params": params, "gmac": gmac, "paper": paper}


# [P] published, [C] computed from the definition (tests/models/test_timesformer_properties.py)
SIZES = {
    "b": _size(121_566_352, 195.830),
    "b_joint": _size(86_112_400, 179.563),
    "b_space": _size(86_106_256, 140.505),
    "hr": _size(122_024_080, 1702.686, frames=16, size=448),
    "l": _size(121_633_936, 2379.857, frames=96),
    "small": _size(298_888, 0.062, size=40, classes=8, paper="none (small clips)"),
}


class Divided(nn.Module):
    """Block of divided attention: (B, 1 + frames N, D) -> same, float32; `rate` is that of drop path.

    Patches of one place attend to each other over time; then patches of one frame and the class token, whose changes
    by each frame are averaged. Drop path draws for each place and each frame by itself, as the reference's.
    """

    heads: int
    hidden: int
    frames: int
    train: bool
    dtype: str

    @nn.compact
    def __call__(self, x, rate=0.0):
        norm = functools.partial(LayerNorm, dtype=self.dtype)
        drop = functools.partial(DropPath, not self.train)
        attention = functools.partial(SelfAttention, self.heads, train=self.train, dtype=self.dtype)
        (b, n, d), t = x.shape, self.frames
        token, x = x[:, :1], x[:, 1:].reshape(b, t, -1, d)
        y = norm(name="norm_time")(x).swapaxes(1, 2).reshape(-1, t, d)
        y = drop(name="path_time")(attention(name="attention_time")(y), rate)
        y = Dense(d, dtype=self.dtype, kernel_init=nn.initializers.zeros, name="dense_time")(y)
        x = x + y.reshape(b, -1, t, d).swapaxes(1, 2).astype(jnp.float32)
        y = jnp.concatenate([jnp.broadcast_to(token[:, None], (b, t, 1, d)), x], axis=2)
        y = attention(name="attention")(norm(name="norm1")(y).reshape(b * t, -1, d))
        y = drop(name="path1")(y.astype(jnp.float32), rate).reshape(b, t, -1, d)
        x, token = x + y[:, :, 1:], token + y[:, :, 0].mean(1, keepdims=True)
        x = jnp.concatenate([token, x.reshape(b, n - 1, d)], axis=1)
        mlp = Mlp(self.hidden, train=self.train, dtype=self.dtype, name="mlp")
        return x + drop(name="path2")(mlp(norm(name="norm2")(x)).astype(jnp.float32), rate)


class Model(nn.Module):
    """TimeSformer: float32 RGB (B, T, H, W, 3) in [0, 1] -> float32 logits (B, num_classes), activations.

    `frames` and `size` are those that the tables of positions are for, `attention` one of ATTENTION. ValueError for
    clips that `patch` does not divide.
    """

    width: int
    depth: int
    heads: int
    hidden: int
    attention: str = "divided"
    patch: int = 16
    frames: int = 8
    size: int = 224
    num_classes: int = 400
    dropout: float = 0.0
    drop_path: float = 0.1
    scan: bool = False
    remat: bool = False
    dtype: str = "float32"
    mean: float | tuple = 0.45
    std: float | tuple = 0.225

    @nn.compact
    def __call__(self, video, *, train):
        if self.attention not in ATTENTION:
            names = ", ".join(ATTENTION)
            raise ValueError(f"The field attention of timesformer is one of {names}, not {self.attention!r}.")
        x = normalise(video, self.mean, self.std)
        x = Patch(self.width, (1, self.patch, self.patch), self.dtype, name="patch")(x).astype(jnp.float32)
        frames = x.shape[1]
        x = embed(self, x)
        out = {"embedding": x}
        fields = {"train": train, "dtype": self.dtype}
        block = functools.partial(transformer.Block, self.heads, self.hidden, **fields)
        if self.attention == "divided":
            block = functools.partial(Divided, self.heads, self.hidden, frames, **fields)
        ways = {"rate": self.drop_path, "scan": self.scan, "remat": self.remat}
        x, after = transformer.run(self, block, self.depth, x, **ways)
        if self.attention == "space":
            x = x.reshape(-1, frames, *x.shape[1:]).mean(axis=1)
        x = out["tokens"] = LayerNorm(name="norm")(x)
        x = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(x[:, 0])
        out |= after | {"pre_logits": x}
        if self.num_classes:
            x = Dense(self.num_classes, name="head")(x)
        return x, out


def embed(model, x):
    """Patches (B, T, h, w, D) with their positions and the class token: (B, 1 + T h w, D), or (B T, 1 + h w, D).

    The latter where frames are seen apart, without positions in time.
    """
    b, t, *grid, d = x.shape
    side, init = model.size // model.patch, nn.initializers.normal(0.02)
    token = model.param("cls", init, (1, 1, d))
    table = model.param("positions", init, (1, 1 + side * side, d))
    token, table = token + table[:, :1], nearest(table[0, 1:].reshape(side, side, d), grid).reshape(1, 1, -1, d)
    x = x.reshape(b, t, -1, d) + table
    if model.attention == "space":
        x = x.reshape(b * t, -1, d)
    else:
        times = model.param("positions_time", nn.initializers.zeros, (1, model.frames, d))
        x = (x + nearest(times[0], (t,))[None, :, None]).reshape(b, -1, d)
    return jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, d)), x], axis=1)


def nearest(table, grid):
    """A table of positions for another grid, each from the cell it begins in: (..., D) -> (*grid, D)."""
    for axis, size in enumerate(grid):
        table = jnp.take(table, jnp.arange(size) * table.shape[axis] // size, axis=axis)
    return table


def table(embeddings, patch, layer, attention, time, mlp, norm, head):
    """A conversion table from the reference's names of each part, as regexes; `layer` captures the block's number."""
    return [
        (embeddings[0], "params/cls", None),
        (embeddings[1], "params/positions", None),
        (embeddings[2], "params/positions_time", None),
        *rules.conv(patch, "patch", bias=True, transform="oihw_to_1hwio"),
        *rules.dense(rf"{layer}\.{attention[0]}\.qkv", r"block\1/attention/qkv"),
        *rules.dense(rf"{layer}\.{attention[1]}", r"block\1/attention/proj"),
        *rules.layer_norm(rf"{layer}\.{norm[0]}", r"block\1/norm1"),
        *rules.dense(rf"{layer}\.{time[0]}\.qkv", r"block\1/attention_time/qkv"),
        *rules.dense(rf"{layer}\.{time[1]}", r"block\1/attention_time/proj"),
        *rules.layer_norm(rf"{layer}\.{time[2]}", r"block\1/norm_time"),
        *rules.dense(rf"{layer}\.{time[3]}", r"block\1/dense_time"),
        *rules.dense(rf"{layer}\.{mlp[0]}", r"block\1/mlp/fc1"),
        *rules.dense(rf"{layer}\.{mlp[1]}", r"block\1/mlp/fc2"),
        *rules.layer_norm(rf"{layer}\.{norm[1]}", r"block\1/norm2"),
        *rules.layer_norm(norm[2], "norm"),
        *rules.dense(head, "head"),
    ]


HF = table(
    embeddings=(
        r"timesformer\.embeddings\.cls_token",
        r"timesformer\.embeddings\.position_embeddings",
        r"timesformer\.embeddings\.time_embeddings",
    ),
    patch=r"timesformer\.embeddings\.patch_embeddings\.projection",
    layer=r"timesformer\.encoder\.layer\.(\d+)",
    attention=(r"attention\.attention", r"attention\.output\.dense"),
    time=(
        r"temporal_attention\.attention",
        r"temporal_attention\.output\.dense",
        "temporal_layernorm",
        "temporal_dense",
    ),
    mlp=(r"intermediate\.dense", r"output\.dense"),
    norm=("layernorm_before", "layernorm_after", r"timesformer\.layernorm"),
    head="classifier",
)
ORIGINAL = table(
    embeddings=(r"model\.cls_token", r"model\.pos_embed", r"model\.time_embed"),
    patch=r"model\.patch_embed\.proj",
    layer=r"model\.blocks\.(\d+)",
    attention=("attn", r"attn\.proj"),
    time=("temporal_attn", r"temporal_attn\.proj", "temporal_norm1", "temporal_fc"),
    mlp=(r"mlp\.fc1", r"mlp\.fc2"),
    norm=("norm1", "norm2", r"model\.norm"),
    head=r"model\.head",
)

# What the published weights expect: the model's own first line applies mean and std.
PREPROCESS = {
    "order": "RGB",
    "range": (0.0, 1.0),
    "mean": 0.45,
    "std": 0.225,
    "frames": 8,
    "stride": 32,
    "resize": 224,
    "size": 224,
}
_HR = PREPROCESS | {"frames": 16, "stride": 16, "resize": 448, "size": 448}
_L = PREPROCESS | {"frames": 96, "stride": 4}
_SSV2 = {"sampler": "segments", "stride": 1}
_HF = {"table": HF, "head": "classifier.bias"}
_ORIGINAL = {"table": ORIGINAL, "head": "model.head.bias"}
_TINY = {"width": 96, "depth": 3, "heads": 4, "hidden": 192, "size": 112}
_TINY = _HF | {"fields": _TINY, "preprocess": PREPROCESS | {"size": 112}}
_NETS = {  # variant, preprocessing, class names; by Hugging Face's name and by the file's
    ("base_finetuned_k400", "divST_8x32_224_K400"): ("b", PREPROCESS, "kinetics400"),
    ("base_finetuned_k600", "divST_8x32_224_K600"): ("b", PREPROCESS, "kinetics600"),
    ("base_finetuned_ssv2", "divST_8_224_SSv2"): ("b", PREPROCESS | _SSV2, "something_something_v2"),
    ("hr_finetuned_k400", "divST_16x16_448_K400"): ("hr", _HR, "kinetics400"),
    ("hr_finetuned_k600", "divST_16x16_448_K600"): ("hr", _HR, "kinetics600"),
    ("hr_finetuned_ssv2", "divST_16_448_SSv2"): ("hr", _HR | _SSV2, "something_something_v2"),
    ("", "divST_96x4_224_K400"): ("l", _L, "kinetics400"),
    ("", "divST_96x4_224_K600"): ("l", _L, "kinetics600"),
    ("", "jointST_8x32_224"): ("b_joint", PREPROCESS, "kinetics400"),
    ("", "spaceOnly_8x32_224"): ("b_space", PREPROCESS, "kinetics400"),
}


def _rows():
    """REFERENCES: (source, the source's own name of the net) -> its row."""
    rows = {
        ("hf", "timesformer_tiny_divided_space_time"): _TINY | {"variant": "b"},
        ("hf", "timesformer_tiny_joint_space_time"): _TINY | {"variant": "b_joint"},
    }
    for (hub, file), (variant, seen, classes) in _NETS.items():
        row = {"variant": variant, "preprocess": seen, "classes": classes}
        rows[("timesformer", file)] = _ORIGINAL | row
        if hub:
            rows[("hf", f"timesformer_{hub}")] = _HF | row
    return rows


REFERENCES = _rows()
