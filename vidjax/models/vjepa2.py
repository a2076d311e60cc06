"""V-JEPA 2: a video transformer that knows where its patches are by rotations alone; and its attentive probe.

Paper: V-JEPA 2: Self-Supervised Video Models Enable Understanding, Prediction and Planning (Assran et al., 2025).
Input: RGB in [0, 1], (B, 64, 256, 256, 3), every fourth frame; or any clip that its tubelets divide. Output: logits
(B, num_classes), or without classes the mean of the tokens or what the attentive pooler makes of them.
models/attentive_probe.py puts the same probe on any net. The predictor of pre-training is not here.
Reference: Hugging Face transformers (facebook/vjepa2-*), whose rotations turn channels 2i and 2i + 1 by the angles of
i and i + 1 modulo half a part, as the original's do.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from vidjax import rules, transformer
from vidjax.attention import attend
from vidjax.nn import normalise
from vidjax.transformer import AttentivePooler, Dense, DropPath, LayerNorm, Mlp, Patch

PAPER = "Assran et al., 2025"

_L = {"width": 1024, "depth": 24, "heads": 16, "hidden": 4096, "num_classes": 0}
_H = {"width": 1280, "depth": 32, "heads": 16, "hidden": 5120, "num_classes": 0}
_G = {"width": 1408, "depth": 40, "heads": 22, "hidden": 6144, "num_classes": 0}
VARIANTS = {  # section 2 of the paper; `pooler`: blocks of self-attention before the pooler's cross-attention
    "l": _L,
    "h": _H,
    "g": _G,
    "l_attentive": _L | {"pooler": 3, "num_classes": 174},
    "g_attentive": _G | {"pooler": 3, "num_classes": 174},
    "small": {  # ours, for clips of about 8x40x40
        "width": 96,
        "depth": 3,
        "heads": 4,
        "hidden": 384,
        "tubelet": (2, 8, 8),
        "pooler": 0,
    },
}


def _size(params, gmac, *, frames=64, size=256, classes=0, paper=PAPER):
    row = {"input": (frames, size, size, 3), "params": params, "gmac": gmac, "paper": paper}
    return row | ({"classes": classes} if classes else {})


# [P] published, [C] computed from the definition (tests/models/test_vjepa2_properties.py)
SIZES = {
    "l": _size(303_885_312, 5785.321),
    "h": _size(631_648_000, 10667.625),
    "g": _size(1_012_173_952, 15844.671),
    "l_attentive": _size(353_399_982, 935.243, frames=16, classes=174),
    "g_attentive": _size(1_105_668_142, 61169.330, size=384, classes=174),
    "small": _size(476_072, 0.045, frames=8, size=40, classes=8, paper="none (small clips)"),
}


def angles(grid, channels):
    """Angles of each patch's rotations in radians: (t h w, channels), a third each for its time, row and column.

    What three equal and even parts leave is not turned.
    """
    part = 2 * (channels // 3 // 2)
    rate = 10000.0 ** -(np.arange(part // 2) / (part / 2))
    places = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), -1).reshape(-1, 3)
    turned = [np.tile(places[:, axis, None] * rate, 2) for axis in range(3)]
    return np.concatenate([*turned, np.zeros((len(places), channels - 3 * part))], axis=1).astype(np.float32)


def rotate(x, by):
    """Turns neighbouring channels in their plane: (..., N, K, D) by (N, D) radians -> same."""
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    across = jnp.stack([-pairs[..., 1], pairs[..., 0]], axis=-1).reshape(x.shape)
    by = jnp.asarray(by)[:, None].reshape((1,) * (x.ndim - 3) + (len(by), 1, x.shape[-1]))
    return (x * jnp.cos(by) + across * jnp.sin(by)).astype(x.dtype)


class RotaryAttention(nn.Module):
    """Self-attention of patches in `grid` (t, h, w), queries and keys turned by their places: (B, N, D) -> same."""

    heads: int
    grid: tuple
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x):
        b, n, d = x.shape
        by = angles(self.grid, d // self.heads)
        q, k, v = (
            Dense(d, dtype=self.dtype, name=name)(x).reshape(b, n, self.heads, d // self.heads)
            for name in ("query", "key", "value")
        )
        return Dense(d, dtype=self.dtype, name="proj")(attend(rotate(q, by), rotate(k, by), v).reshape(b, n, d))


class Block(nn.Module):
    """Pre-norm block with rotary attention: (B, N, D) -> same, float32; `rate` is that of drop path."""

    heads: int
    hidden: int
    grid: tuple
    train: bool
    dtype: str

    @nn.compact
    def __call__(self, x, rate=0.0):
        norm = functools.partial(LayerNorm, dtype=self.dtype)
        drop = functools.partial(DropPath, not self.train)
        y = RotaryAttention(self.heads, self.grid, self.dtype, name="attention")(norm(name="norm1")(x))
        x = x + drop(name="path1")(y.astype(jnp.float32), rate)
        y = Mlp(self.hidden, train=self.train, dtype=self.dtype, name="mlp")(norm(name="norm2")(x))
        return x + drop(name="path2")(y.astype(jnp.float32), rate)


class Model(nn.Module):
    """V-JEPA 2: float32 RGB (B, T, H, W, 3) in [0, 1] -> float32 logits (B, num_classes), activations.

    `pooler` is the depth of an attentive pooler; without one (None) the tokens' mean is what the head sees.
    ValueError for clips that `tubelet` (t, h, w) does not divide.
    """

    width: int
    depth: int
    heads: int
    hidden: int
    tubelet: tuple = (2, 16, 16)
    pooler: int | None = None
    num_classes: int = 400
    dropout: float = 0.0
    drop_path: float = 0.0
    scan: bool = False
    remat: bool = False
    dtype: str = "float32"
    mean: float | tuple = (0.485, 0.456, 0.406)
    std: float | tuple = (0.229, 0.224, 0.225)

    @nn.compact
    def __call__(self, video, *, train):
        x = Patch(self.width, self.tubelet, self.dtype, name="patch")(normalise(video, self.mean, self.std))
        b, *grid, d = x.shape
        x = x.reshape(b, -1, d).astype(jnp.float32)
        out = {"embedding": x}
        fields = {"train": train, "dtype": self.dtype}
        block = functools.partial(Block, self.heads, self.hidden, tuple(grid), **fields)
        ways = {"rate": self.drop_path, "scan": self.scan, "remat": self.remat}
        x, after = transformer.run(self, block, self.depth, x, **ways)
        x = out["tokens"] = LayerNorm(name="norm")(x)
        if self.pooler is None:
            x = x.mean(axis=1)
        else:
            x = AttentivePooler(self.heads, self.pooler, **fields, name="pooler")(x)
        x = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(x)
        out |= after | {"pre_logits": x}
        if self.num_classes:
            x = Dense(self.num_classes, name="head")(x)
        return x, out


def encoder(prefix):
    """Rules of the encoder, whose names begin with `prefix`, and of the predictor, which is dropped."""
    layer = prefix + r"encoder\.layer\.(\d+)\."
    return [
        *rules.conv(prefix + r"encoder\.embeddings\.patch_embeddings\.proj", "patch", bias=True),
        *rules.layer_norm(layer + "(norm[12])", r"block\1/\2"),
        *rules.dense(layer + r"attention\.(query|key|value|proj)", r"block\1/attention/\2"),
        *rules.dense(layer + r"mlp\.(fc[12])", r"block\1/mlp/\2"),
        *rules.layer_norm(prefix + r"encoder\.layernorm", "norm"),
        (prefix + r"predictor\..*", None, None),
    ]


_SELF, _CROSS = r"pooler\.self_attention_layers\.(\d+)\.", r"pooler\.cross_attention_layer\."
HF = encoder("")
HF_ATTENTIVE = [
    *encoder(r"vjepa2\."),
    *rules.layer_norm(_SELF + "layer_(norm[12])", r"pooler/block\1/\2"),
    *rules.dense(_SELF + r"self_attn\.q_proj", r"pooler/block\1/attention/query"),
    *rules.dense(_SELF + r"self_attn\.k_proj", r"pooler/block\1/attention/key"),
    *rules.dense(_SELF + r"self_attn\.v_proj", r"pooler/block\1/attention/value"),
    *rules.dense(_SELF + r"self_attn\.out_proj", r"pooler/block\1/attention/proj"),
    *rules.dense(_SELF + r"mlp\.(fc[12])", r"pooler/block\1/mlp/\2"),
    (r"pooler\.query_tokens", "params/pooler/cls", None),
    *rules.layer_norm(_CROSS + "layer_(norm[12])", r"pooler/\1"),
    *rules.dense(_CROSS + r"cross_attn\.q_proj", "pooler/query"),
    *rules.dense(_CROSS + r"cross_attn\.k_proj", "pooler/key"),
    *rules.dense(_CROSS + r"cross_attn\.v_proj", "pooler/value"),
    *rules.dense(_CROSS + r"mlp\.(fc[12])", r"pooler/mlp/\1"),
    *rules.dense("classifier", "head"),
]

# What the published weights expect: the model's own first line applies mean and std.
PREPROCESS = {
    "order": "RGB",
    "range": (0.0, 1.0),
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "frames": 64,
    "stride": 4,
    "resize": 292,
    "size": 256,
}
_384 = PREPROCESS | {"resize": 438, "size": 384}
_ENCODER = {"table": HF, "preprocess": PREPROCESS}
_TUNED = {"table": HF_ATTENTIVE, "head": "classifier.bias"}
_SSV2, _DIVING = {"classes": "something_something_v2"}, {"classes": "diving48"}
REFERENCES = {  # (source, the source's own name of the net)
    ("hf", "vjepa2_vitl_fpc64_256"): _ENCODER | {"variant": "l"},
    ("hf", "vjepa2_vith_fpc64_256"): _ENCODER | {"variant": "h"},
    ("hf", "vjepa2_vitg_fpc64_256"): _ENCODER | {"variant": "g"},
    ("hf", "vjepa2_vitg_fpc64_384"): _ENCODER | {"variant": "g", "preprocess": _384},
    ("hf", "vjepa2_vitl_fpc16_256_ssv2"): _TUNED
    | _SSV2
    | {"variant": "l_attentive", "preprocess": PREPROCESS | {"frames": 16}},
    ("hf", "vjepa2_vitl_fpc32_256_diving48"): _TUNED
    | _DIVING
    | {"variant": "l_attentive", "preprocess": PREPROCESS | {"frames": 32}},
    ("hf", "vjepa2_vitg_fpc64_384_ssv2"): _TUNED | _SSV2 | {"variant": "g_attentive", "preprocess": _384},
    ("hf", "vjepa2_vitg_fpc32_384_diving48"): _TUNED
    | _DIVING
    | {"variant": "g_attentive", "preprocess": _384 | {"frames": 32}},
}
