"""VideoMAE: a plain video transformer, learnt without labels by filling in nine tenths of a video that it does not see.

Papers: VideoMAE (Tong et al., NeurIPS 2022); VideoMAE V2 (Wang et al., CVPR 2023) for the giant encoder.
Input: RGB in [0, 1], (B, 16, 224, 224, 3), every fourth frame; or any clip that its tubelets divide, for which the
fixed positions are interpolated. Output: logits (B, num_classes). The `pretrain_` variants have a decoder; in training
they encode the tubes that a random mask leaves and add `loss/mae` (B,), the mean squared error of what the decoder
makes of the others: `config.loss.weights = {"main": 0.0, "mae": 1.0}`.
References: MCG-NJU/VideoMAE, OpenGVLab/VideoMAEv2; Hugging Face transformers, whose norms have other epsilons.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vidjax import rules, transformer
from vidjax.nn import normalise
from vidjax.transformer import Dense, LayerNorm, Patch

PAPER, _V2 = "Tong et al., NeurIPS 2022", "Wang et al., CVPR 2023"

_S = {"width": 384, "depth": 12, "heads": 6, "hidden": 1536}
_B = {"width": 768, "depth": 12, "heads": 12, "hidden": 3072}
_L = {"width": 1024, "depth": 24, "heads": 16, "hidden": 4096}
_H = {"width": 1280, "depth": 32, "heads": 16, "hidden": 5120}
_SMALL = {"width": 96, "depth": 4, "heads": 4, "hidden": 384, "tubelet": (2, 8, 8), "frames": 8, "size": 40}
VARIANTS = {  # table 7 of the paper's appendix; `decoder`: width, depth and heads
    "s": _S,
    "b": _B,
    "l": _L,
    "h": _H,
    "g": {"width": 1408, "depth": 40, "heads": 16, "hidden": 6144, "tubelet": (2, 14, 14)},
    "pretrain_s": _S | {"decoder": (192, 4, 3), "num_classes": 0},
    "pretrain_b": _B | {"decoder": (384, 4, 6), "num_classes": 0},
    "pretrain_l": _L | {"decoder": (512, 12, 8), "num_classes": 0},
    "pretrain_h": _H | {"decoder": (640, 12, 8), "num_classes": 0},
    "small": _SMALL,  # ours, for clips of about 8x40x40
    "pretrain_small": _SMALL | {"decoder": (64, 2, 4), "mask_ratio": 0.75, "num_classes": 0},
}


def _size(params, gmac, *, frames=16, size=224, classes=400, paper=PAPER):
    row = {"input": (frames, size, size, 3), "params": params, "gmac": gmac, "paper": paper}
    return row | ({"classes": classes} if classes else {})


# [P] published, [C] computed from the definition (tests/models/test_videomae_properties.py); GMAC of the `pretrain_`
# variants are those of their encoder on the whole video, as it is used.
SIZES = {
    "s": _size(22_033_936, 56.878),
    "b": _size(86_534_800, 180.345),
    "l": _size(304_270_736, 596.833),
    "h": _size(632_119_440, 1190.994),
    "g": _size(1_012_174_352, 2542.791, paper=_V2),
    "pretrain_s": _size(24_029_376, 56.878, classes=0),
    "pretrain_b": _size(94_210_944, 180.345, classes=0),
    "pretrain_l": _size(342_996_992, 596.833, classes=0),
    "pretrain_h": _size(692_487_296, 1190.994, classes=0),
    "small": _size(484_904, 0.056, frames=8, size=40, classes=8, paper="none (small clips)"),
    "pretrain_small": _size(615_264, 0.056, frames=8, size=40, classes=0, paper="none (small clips)"),
}


MASKS = {"tube": (False, True), "random": (True, True), "frame": (True, False)}  # drawn by frame, by place; section 3.3


class Decoder(nn.Module):
    """Fills in what is hidden: visible tokens (B, V, D) -> pixels of the hidden patches (B, M, features).

    `order` (B, V + M) are the places of all tokens, the visible ones' first; `positions` (N, width) fixed.
    """

    width: int
    depth: int
    heads: int
    features: int
    epsilon: tuple
    train: bool
    dtype: str

    @nn.compact
    def __call__(self, x, order, positions):
        visible = Dense(self.width, False, self.dtype, name="project")(x).astype(jnp.float32)
        hole = self.param("mask_token", nn.initializers.truncated_normal(0.02), (1, 1, self.width))
        b, seen, _ = visible.shape
        hidden = jnp.broadcast_to(hole, (b, order.shape[1] - seen, self.width))
        x = jnp.concatenate([visible, hidden], axis=1) + positions[order]
        fields = {"attention": ATTENTION, "epsilon": self.epsilon[0], "train": self.train, "dtype": self.dtype}
        block = functools.partial(transformer.Block, self.heads, 4 * self.width, **fields)
        x, _ = transformer.run(self, block, self.depth, x)
        x = LayerNorm(self.epsilon[1], name="norm")(x[:, seen:])
        return Dense(self.features, name="head")(x)


ATTENTION = (("fused", False), ("biases", "qv"))


class Model(nn.Module):
    """VideoMAE: float32 RGB (B, T, H, W, 3) in [0, 1] -> float32 logits (B, num_classes), activations.

    `frames` and `size` are those that positions are made for; `decoder` (width, depth, heads) is what pre-training
    adds. It hides `mask_ratio` of the tubes, or by `masking` (MASKS) of the patches of each frame or of the frames; a
    `mask` bool (B, N) may say which patches instead, as many in each clip. Targets are each patch's pixels of mean 0
    and variance 1 (`normalised`, section 3.3), or those of the net's own input. `epsilon` are those of the blocks' and
    of the other norms. ValueError for clips that `tubelet` (t, h, w) does not divide, and for another `masking`.
    """

    width: int
    depth: int
    heads: int
    hidden: int
    tubelet: tuple = (2, 16, 16)
    frames: int = 16
    size: int = 224
    decoder: tuple = ()
    mask_ratio: float = 0.9
    masking: str = "tube"
    normalised: bool = True
    epsilon: tuple = (1e-6, 1e-6)
    num_classes: int = 400
    dropout: float = 0.0
    drop_path: float = 0.0
    scan: bool = False
    remat: bool = False
    dtype: str = "float32"
    mean: float | tuple = (0.485, 0.456, 0.406)
    std: float | tuple = (0.229, 0.224, 0.225)

    @nn.compact
    def __call__(self, video, *, train, mask=None):
        seen = normalise(video, self.mean, self.std)
        x = Patch(self.width, self.tubelet, self.dtype, name="patch")(seen)
        b, *grid, d = x.shape
        x = x.reshape(b, -1, d).astype(jnp.float32) + positions(self, grid, d)[None]
        out = {"embedding": x}
        learning = bool(self.decoder) and (train or self.is_initializing())
        if learning:
            order, kept = hide(self, grid, b, mask)
            x = jnp.take_along_axis(x, order[:, :kept, None], axis=1)
        fields = {"attention": ATTENTION, "epsilon": self.epsilon[0], "train": train, "dtype": self.dtype}
        block = functools.partial(transformer.Block, self.heads, self.hidden, **fields)
        ways = {"rate": self.drop_path, "scan": self.scan, "remat": self.remat}
        x, after = transformer.run(self, block, self.depth, x, **ways)
        norm = LayerNorm(self.epsilon[0 if self.decoder else 1], name="norm")
        out |= after | {"tokens": norm(x) if self.decoder else x}
        if learning:
            target = pixels(video, self.tubelet) if self.normalised else patches(seen, self.tubelet)
            target = target.reshape(b, order.shape[1], -1)
            target = jnp.take_along_axis(target, order[:, kept:, None], axis=1)
            fields = {"epsilon": self.epsilon, "train": train, "dtype": self.dtype}
            decoder = Decoder(*self.decoder, target.shape[-1], **fields, name="decoder")
            made = out["reconstruction"] = decoder(out["tokens"], order, positions(self, grid, self.decoder[0]))
            out["loss/mae"] = jnp.square(made - jax.lax.stop_gradient(target)).mean(axis=(1, 2))
        x = out["tokens"].mean(axis=1) if self.decoder else norm(x.mean(axis=1))
        x = out["pre_logits"] = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(x)
        if self.num_classes:
            x = Dense(self.num_classes, name="head")(x)
        return x, out


def positions(model, grid, width):
    """Fixed positions of patches in `grid` (t, h, w), those of the model's own grid interpolated: (t h w, width)."""
    t, h, w = model.tubelet
    own = (model.frames // t, model.size // h, model.size // w)
    table = transformer.sincos(own[0] * own[1] * own[2], width).reshape(*own, width)
    return transformer.resize_positions(table, tuple(grid)).reshape(-1, width)


def hide(model, grid, batch, mask=None):
    """(places of all patches (B, N), those that stay visible first, how many do), by one of MASKS or a given mask."""
    t, h, w = grid
    if model.masking not in MASKS:
        raise ValueError(f"config.model.masking is {', '.join(MASKS)}, not {model.masking!r}.")
    frames, places = MASKS[model.masking]
    drawn = (batch, t if frames else 1, h * w if places else 1)
    hidden = int(model.mask_ratio * (h * w if places else t))
    if mask is None:
        noise = jax.random.uniform(model.make_rng("dropout"), drawn)
        axis = 2 if places else 1
        rank = jnp.argsort(jnp.argsort(noise, axis), axis)
        mask = jnp.broadcast_to(rank < hidden, (batch, t, h * w)).reshape(batch, -1)
    visible = t * (h * w - hidden) if places else (t - hidden) * h * w
    return jnp.argsort(mask, axis=1, stable=True), visible


def patches(video, tubelet):
    """The pixels of every patch: (B, T, H, W, C) -> (B, N, t h w, C)."""
    b, *sides, c = video.shape
    (t, h, w), (i, j, k) = tubelet, (side // part for side, part in zip(sides, tubelet, strict=True))
    x = video.reshape(b, i, t, j, h, k, w, c).transpose(0, 1, 3, 5, 2, 4, 6, 7)
    return x.reshape(b, i * j * k, t * h * w, c)


def pixels(video, tubelet):
    """`patches`, each channel of mean 0 and variance 1 in each."""
    x = patches(video, tubelet)
    x = x - x.mean(axis=2, keepdims=True)
    deviation = jnp.sqrt(jnp.square(x).sum(axis=2, keepdims=True) / (x.shape[2] - 1))
    return x / (deviation + 1e-6)


def layers(source, path, attention, mlp, norms):
    """Rules of one net's blocks; `attention` are its names of query, key, value and proj, `path` says which block."""
    query, key, value, proj = attention
    return [
        *rules.dense(f"{source}{query}", f"{path}/attention/query"),
        *rules.dense(f"{source}{key}", f"{path}/attention/key", bias=False),
        *rules.dense(f"{source}{value}", f"{path}/attention/value"),
        *rules.dense(f"{source}{proj}", f"{path}/attention/proj"),
        *rules.dense(f"{source}{mlp[0]}", f"{path}/mlp/fc1"),
        *rules.dense(f"{source}{mlp[1]}", f"{path}/mlp/fc2"),
        *rules.layer_norm(f"{source}{norms[0]}", f"{path}/norm1"),
        *rules.layer_norm(f"{source}{norms[1]}", f"{path}/norm2"),
    ]


_HF_NAMES = (
    [rf"attention\.{name}" for name in (r"attention\.query", r"attention\.key", r"attention\.value", r"output\.dense")],
    (r"intermediate\.dense", r"output\.dense"),
    ("layernorm_before", "layernorm_after"),
)
_HF = [
    *rules.conv(r"videomae\.embeddings\.patch_embeddings\.projection", "patch", bias=True),
    *layers(r"videomae\.encoder\.layer\.(\d+)\.", r"block\1", *_HF_NAMES),
]
HF = [*_HF, *rules.layer_norm("fc_norm", "norm"), *rules.dense("classifier", "head")]
HF_PRETRAIN = [
    *_HF,
    *rules.layer_norm(r"videomae\.layernorm", "norm"),
    *rules.dense("encoder_to_decoder", "decoder/project", bias=False),
    ("mask_token", "params/decoder/mask_token", None),
    *layers(r"decoder\.decoder_layers\.(\d+)\.", r"decoder/block\1", *_HF_NAMES),
    *rules.layer_norm(r"decoder\.norm", "decoder/norm"),
    *rules.dense(r"decoder\.head", "decoder/head"),
]
_OWN_NAMES = (
    (r"attn\.query", r"attn\.key", r"attn\.value", r"attn\.proj"),
    (r"mlp\.fc1", r"mlp\.fc2"),
    ("norm1", "norm2"),
)
ORIGINAL = [
    *rules.conv(r"patch_embed\.proj", "patch", bias=True),
    *layers(r"blocks\.(\d+)\.", r"block\1", *_OWN_NAMES),
    *rules.layer_norm("fc_norm", "norm"),
    *rules.dense("head", "head"),
]
ORIGINAL_PRETRAIN = [
    *rules.conv(r"encoder\.patch_embed\.proj", "patch", bias=True),
    *layers(r"encoder\.blocks\.(\d+)\.", r"block\1", *_OWN_NAMES),
    *rules.layer_norm(r"encoder\.norm", "norm"),
    *rules.dense("encoder_to_decoder", "decoder/project", bias=False),
    ("mask_token", "params/decoder/mask_token", None),
    *layers(r"decoder\.blocks\.(\d+)\.", r"decoder/block\1", *_OWN_NAMES),
    *rules.layer_norm(r"decoder\.norm", "decoder/norm"),
    *rules.dense(r"decoder\.head", "decoder/head"),
]


def current(tensors):
    """Tensors under the names of transformers 5; earlier releases, which wrote the published files, had `q_bias`."""
    renamed = {"attention.q_bias": "attention.query.bias", "attention.v_bias": "attention.value.bias"}
    found = {}
    for name, value in tensors.items():
        for old, new in renamed.items():
            name = name.replace(old, new)
        found[name] = value
    return found


def split(tensors):
    """The original's tensors with query, key and value apart."""
    found = {}
    for name, value in tensors.items():
        if name.endswith("attn.qkv.weight"):
            thirds = np.split(np.asarray(value), 3)
            found |= {name.replace("qkv", part): x for part, x in zip(("query", "key", "value"), thirds, strict=True)}
        else:
            found[name.replace("attn.q_bias", "attn.query.bias").replace("attn.v_bias", "attn.value.bias")] = value
    return found


def joined(tensors):
    """`split`'s inverse."""
    found = {}
    for name, value in tensors.items():
        if name.endswith("attn.query.weight"):
            parts = [tensors[name.replace("query", part)] for part in ("query", "key", "value")]
            found[name.replace("query", "qkv")] = np.concatenate(parts)
        elif not name.endswith(("attn.key.weight", "attn.value.weight")):
            found[name.replace("attn.query.bias", "attn.q_bias").replace("attn.value.bias", "attn.v_bias")] = value
    return found


# What the published weights expect: the model's own first line applies mean and std.
PREPROCESS = {
    "order": "RGB",
    "range": (0.0, 1.0),
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "frames": 16,
    "stride": 4,
    "resize": 224,
    "size": 224,
}
_HF_NET = {"prepare": current, "restore": current, "fields": {"epsilon": (1e-12, 1e-5)}}
_SSV2 = {"preprocess": PREPROCESS | {"sampler": "segments", "stride": 1}, "classes": "something_something_v2"}
_K400 = {"preprocess": PREPROCESS, "classes": "kinetics400"}
_TINY = {"width": 96, "depth": 3, "heads": 4, "hidden": 192, "frames": 8, "size": 112}


def _rows():
    """REFERENCES: (source, the source's own name of the net) -> its row."""
    tuned = _HF_NET | {"table": HF, "head": "classifier.bias"}
    learnt = _HF_NET | {"table": HF_PRETRAIN, "preprocess": PREPROCESS}
    own = {"table": ORIGINAL, "head": "head.bias", "prepare": split, "restore": joined}
    raw = {"table": ORIGINAL_PRETRAIN, "prepare": split, "restore": joined, "preprocess": PREPROCESS}
    tiny = {"fields": _TINY | _HF_NET["fields"], "preprocess": PREPROCESS | {"frames": 8, "size": 112}}
    rows = {("hf", "videomae_tiny"): tuned | tiny | {"variant": "b"}}
    for word, variant in (("small", "s"), ("base", "b"), ("large", "l"), ("huge", "h")):
        rows[("hf", f"videomae_{word}_finetuned_kinetics")] = tuned | _K400 | {"variant": variant}
        rows[("hf", f"videomae_{word}")] = learnt | {"variant": f"pretrain_{variant}"}
        rows[("videomae", f"vit_{word}_k400")] = own | _K400 | {"variant": variant}
        rows[("videomae", f"pretrain_{word}")] = raw | {"variant": f"pretrain_{variant}"}
    for word, variant in (("small", "s"), ("base", "b")):
        rows[("hf", f"videomae_{word}_finetuned_ssv2")] = tuned | _SSV2 | {"variant": variant}
        rows[("videomae", f"vit_{word}_ssv2")] = own | _SSV2 | {"variant": variant}
    for name, seen in (("k400", _K400), ("k710", {"preprocess": PREPROCESS}), ("ssv2", _SSV2)):
        rows[("videomaev2", f"vit_giant_{name}")] = own | seen | {"variant": "g"}
    return rows


REFERENCES = _rows()
