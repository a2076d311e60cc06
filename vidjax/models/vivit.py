"""ViViT: a video's tubes as the tokens of a transformer, whose attention is joint or factorised in space and time.

Paper: ViViT: A Video Vision Transformer (Arnab et al., ICCV 2021): model 1 (joint attention of all tokens), 2 (a
spatial encoder of each time step, then a temporal one of its class tokens), 3 (attention in time, then in space, in
every block) and 4 (half of the heads attend in time, half in space).
Input: RGB in [0, 1], (B, 32, 224, 224, 3), every second frame; or any clip that its tubelets divide, for which learnt
positions are interpolated. Output: logits (B, num_classes).
References: google-research/scenic (projects/vivit), whose order of time and space model 3 has; Hugging Face
transformers for model 1 (google/vivit-b-16x2).
"""

import functools
import math
import re

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from vidjax import rules, transformer
from vidjax.attention import attend
from vidjax.nn import normalise
from vidjax.transformer import Dense, DropPath, LayerNorm, Mlp, Patch, SelfAttention

PAPER = "Arnab et al., ICCV 2021"

ATTENTION = ("joint", "encoder", "self_attention", "dot_product")  # models 1 to 4 of the paper
METHODS = ("central_frame", "filter_inflation")

_B = {"width": 768, "depth": 12, "heads": 12, "hidden": 3072}
_L = {"width": 1024, "depth": 24, "heads": 16, "hidden": 4096}
VARIANTS = {  # section 4.1 of the paper
    "b_16x2": _B,
    "b_16x2_encoder": _B | {"attention": "encoder"},
    "b_16x2_self_attention": _B | {"attention": "self_attention"},
    "b_16x2_dot_product": _B | {"attention": "dot_product"},
    "l_16x2": _L,
    "l_16x2_encoder": _L | {"attention": "encoder"},
    "small": {  # ours, for clips of about 8x40x40
        "width": 96,
        "depth": 4,
        "heads": 4,
        "hidden": 384,
        "tubelet": (2, 8, 8),
        "frames": 8,
        "size": 40,
    },
}


def _size(params, gmac, *, frames=32, size=224, classes=400, paper=PAPER):
    return {"input": (frames, size, size, 3), "classes": classes, "params": params, "gmac": gmac, "paper": paper}


# [P] published, [C] computed from the definition (tests/models/test_vivit_properties.py)
SIZES = {
    "b_16x2": _size(88_954_000, 451.525),
    "b_16x2_encoder": _size(115_062_928, 283.342),
    "b_16x2_self_attention": _size(117_319_312, 371.094),
    "b_16x2_dot_product": _size(88_952_464, 276.182),
    "l_16x2": _size(307_508_624, 1435.969),
    "l_16x2_encoder": _size(354_903_440, 988.184),
    "small": _size(495_080, 0.056, frames=8, size=40, classes=8, paper="none (small clips)"),
}


class SplitAttention(nn.Module):
    """Factorised dot-product attention (model 4): (B, T, N, D) -> same.

    The first half of the heads attends along time, the second along space; parameters are those of self-attention.
    """

    heads: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x):
        b, t, n, d = x.shape
        parts = [Dense(d, dtype=self.dtype, name=name)(x) for name in ("query", "key", "value")]
        parts = [part.reshape(b, t, n, self.heads, d // self.heads) for part in parts]
        time, space = zip(*(jnp.split(part, 2, axis=3) for part in parts), strict=True)
        time = attend(*(part.swapaxes(1, 2) for part in time)).swapaxes(1, 2)
        x = jnp.concatenate([time, attend(*space)], axis=3)
        return Dense(d, dtype=self.dtype, name="proj")(x.reshape(b, t, n, d))


class FactorisedBlock(nn.Module):
    """Pre-norm block of models 3 and 4: (B, T, N, D) -> same, float32; `rate` is that of drop path."""

    heads: int
    hidden: int
    attention: str
    train: bool
    dtype: str

    @nn.compact
    def __call__(self, x, rate=0.0):
        norm = functools.partial(LayerNorm, dtype=self.dtype)
        drop = functools.partial(DropPath, not self.train)
        full = functools.partial(SelfAttention, self.heads, fused=False, train=self.train, dtype=self.dtype)
        if self.attention == "self_attention":
            y = full(name="attention_time")(norm(name="norm_time")(x).swapaxes(1, 2)).swapaxes(1, 2)
            x = x + drop(name="path_time")(y.astype(jnp.float32), rate)
            attention = full(name="attention")
        else:
            attention = SplitAttention(self.heads, self.dtype, name="attention")
        x = x + drop(name="path1")(attention(norm(name="norm1")(x)).astype(jnp.float32), rate)
        mlp = Mlp(self.hidden, train=self.train, dtype=self.dtype, approximate=True, name="mlp")
        return x + drop(name="path2")(mlp(norm(name="norm2")(x)).astype(jnp.float32), rate)


class Model(nn.Module):
    """ViViT: float32 RGB (B, T, H, W, 3) in [0, 1] -> float32 logits (B, num_classes), activations.

    `frames` and `size` are those that the tables of positions are for, `attention` one of ATTENTION, `temporal_depth`
    the temporal encoder's depth. ValueError for clips that `tubelet` (t, h, w) does not divide.
    """

    width: int
    depth: int
    heads: int
    hidden: int
    attention: str = "joint"
    temporal_depth: int = 4
    tubelet: tuple = (2, 16, 16)
    frames: int = 32
    size: int = 224
    num_classes: int = 400
    dropout: float = 0.0
    drop_path: float = 0.0
    scan: bool = False
    remat: bool = False
    dtype: str = "float32"
    mean: float | tuple = 0.5
    std: float | tuple = 0.5

    @nn.compact
    def __call__(self, video, *, train):
        if self.attention not in ATTENTION:
            raise ValueError(f"The field attention of vivit is one of {', '.join(ATTENTION)}, not {self.attention!r}.")
        x = normalise(video, self.mean, self.std)
        x = Patch(self.width, self.tubelet, self.dtype, name="patch")(x).astype(jnp.float32)
        encode = {"joint": joint, "encoder": encoder}.get(self.attention, factorised)
        x, out = encode(self, x, train)
        x = out["pre_logits"] = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(x)
        if self.num_classes:
            x = Dense(self.num_classes, name="head")(x)
        return x, out


def joint(model, x, train):
    """Model 1: patches (B, t, h, w, D) -> the class token (B, D), activations."""
    b, *grid, d = x.shape
    x = with_class(model, "cls", x.reshape(b, -1, d)) + positions(model, "positions", native(model), grid, 1)
    out = {"embedding": x}
    x, after = blocks(model, x, model.depth, train)
    out["tokens"] = LayerNorm(dtype="float32", name="norm")(x)
    return out["tokens"][:, 0], out | after


def encoder(model, x, train):
    """Model 2: each time step by itself, then their class tokens: patches (B, t, h, w, D) -> (B, D), activations."""
    b, t, h, w, d = x.shape
    frames, *sides = native(model)
    x = with_class(model, "cls", x.reshape(b, t, h * w, d))
    x = x + positions(model, "positions", (1, *sides), (1, h, w), 1)[:, None]
    out = {"embedding": x}
    x, after = blocks(model, x, model.depth, train)
    x = out["spatial_tokens"] = LayerNorm(dtype="float32", name="spatial_norm")(x)
    x = with_class(model, "temporal_cls", x[:, :, 0])
    x = x + positions(model, "temporal_positions", (frames, 1, 1), (t, 1, 1), 1)
    x, later = blocks(model, x, model.temporal_depth, train, first=model.depth)
    out["tokens"] = LayerNorm(dtype="float32", name="norm")(x)
    return out["tokens"][:, 0], out | after | later


def factorised(model, x, train):
    """Models 3 and 4: patches (B, t, h, w, D) -> the mean of their tokens (B, D), activations."""
    b, *grid, d = x.shape
    x = x.reshape(b, -1, d) + positions(model, "positions", native(model), grid, 0)
    out = {"embedding": x}
    block = functools.partial(
        FactorisedBlock, model.heads, model.hidden, model.attention, train=train, dtype=model.dtype
    )
    ways = {"rate": model.drop_path, "scan": model.scan, "remat": model.remat}
    x, after = transformer.run(model, block, model.depth, x.reshape(b, grid[0], -1, d), **ways)
    out["tokens"] = LayerNorm(dtype="float32", name="norm")(x.reshape(b, -1, d))
    return out["tokens"].mean(axis=1), out | after


def blocks(model, x, depth, train, first=0):
    """`depth` blocks of joint attention, numbered from `first` on: tokens (..., N, D) -> same, activations."""
    fields = {"attention": (("fused", False),), "train": train, "dtype": model.dtype, "approximate": True}
    block = functools.partial(transformer.Block, model.heads, model.hidden, **fields)
    ways = {"rate": model.drop_path, "scan": model.scan, "remat": model.remat}
    return transformer.run(model, block, depth, x, first=first, **ways)


def with_class(model, name, x):
    """Tokens after a learnt one: (..., N, D) -> (..., 1 + N, D)."""
    token = model.param(name, nn.initializers.zeros, (1, 1, x.shape[-1]))
    token = jnp.broadcast_to(token.reshape((1,) * (x.ndim - 1) + (-1,)), (*x.shape[:-2], 1, x.shape[-1]))
    return jnp.concatenate([token, x], axis=-2)


def positions(model, name, sides, grid, own):
    """Learnt positions for patches in `sides` (t, h, w), interpolated to `grid`: (1, own + t h w, D).

    The first `own` rows are those of class tokens.
    """
    table = model.param(name, nn.initializers.normal(0.02), (1, own + math.prod(sides), model.width))
    return resized(table, sides, grid, own)


def resized(table, sides, grid, own):
    """A table (1, own + t h w, D) for `sides` (t, h, w) as one for `grid`."""
    d = table.shape[-1]
    rest = transformer.resize_positions(table[0, own:].reshape(*sides, d), tuple(grid)).reshape(1, -1, d)
    return jnp.concatenate([table[:, :own], rest], axis=1)


def native(model):
    """The grid (t, h, w) of patches that the model's positions are for."""
    t, h, w = model.tubelet
    return model.frames // t, model.size // h, model.size // w


def init_from_image(tensors, model, variables, method="central_frame"):
    """`variables` of a ViViT with an image ViT's weights in them: a new tree (section 3.4 of the paper).

    `tensors` have timm's names (vit_base_patch16_224). The kernel of patches becomes that of the middle frame, 0 in
    the others, or, by "filter_inflation", an equal share of every frame's; positions are repeated over time and,
    where grids differ, interpolated in space. Attention in time (model 3) starts as a copy whose projection is 0,
    so that it adds nothing. What images do not have (the temporal encoder) and the head stay as they are.
    ValueError for tensors of another size.
    """
    if method not in METHODS:
        raise ValueError(f"Patches of images are inflated by {' or '.join(METHODS)}, not {method!r}.")
    image = image_parameters(tensors, "spatial_norm" if model.attention == "encoder" else "norm")
    image["patch/kernel"] = inflated(image["patch/kernel"], model.tubelet[0], method)
    image["positions"] = repeated(image["positions"], model)
    params = traverse_util.flatten_dict(variables["params"], sep="/")
    for path, leaf in params.items():
        source = path.replace("norm_time", "norm1").replace("attention_time", "attention")
        if source not in image:
            continue
        value = image[source] * (0 if "attention_time/proj" in path else 1)
        if value.shape != leaf.shape:
            raise ValueError(f"The image ViT's {source} is {value.shape}, but this ViViT needs {leaf.shape}.")
        params[path] = jnp.asarray(value, leaf.dtype)
    return {**variables, "params": traverse_util.unflatten_dict(params, sep="/")}


def image_parameters(tensors, norm):
    """{our path: array} of a ViT with timm's names, its fused projections split and its head left out."""
    found = {"cls": tensors["cls_token"], "positions": tensors["pos_embed"]}
    found["patch/kernel"] = np.transpose(tensors["patch_embed.proj.weight"], (2, 3, 1, 0))[None]
    found["patch/bias"] = tensors["patch_embed.proj.bias"]
    for name, value in tensors.items():
        match = re.fullmatch(r"(?:blocks\.(\d+)\.)?([\w.]+)\.(weight|bias)", name)
        if not match or name.startswith(("head", "patch_embed")):
            continue
        block, layer, kind = match.groups()
        layer = layer.replace("attn", "attention").replace(".", "/")
        prefix = f"block{block}/{layer}" if block else norm
        leaf = "bias" if kind == "bias" else "kernel" if value.ndim == 2 else "scale"
        if layer == "attention/qkv":
            for part, third in zip(("query", "key", "value"), np.split(np.asarray(value), 3), strict=True):
                found[prefix.replace("qkv", f"{part}/{leaf}")] = third.T
        else:
            found[f"{prefix}/{leaf}"] = np.asarray(value).T
    return found


def inflated(kernel, frames, method):
    """A kernel of pictures as one of `frames` frames: (1, h, w, C, D) -> (frames, h, w, C, D)."""
    if method == "filter_inflation":
        return np.repeat(kernel, frames, axis=0) / frames
    return np.concatenate([kernel if i == frames // 2 else np.zeros_like(kernel) for i in range(frames)])


def repeated(table, model):
    """A ViT's positions (1, 1 + n, D) for every time step of the model, or once where steps are encoded apart."""
    side = math.isqrt(table.shape[1] - 1)
    t, h, w = native(model)
    own = model.attention in ("joint", "encoder")
    table = resized(jnp.asarray(table), (1, side, side), (1, h, w), 1)
    times = 1 if model.attention == "encoder" else t
    return jnp.concatenate([table[:, :own], *[table[:, 1:]] * times], axis=1)


_LAYER = r"vivit\.layers\.(\d+)\."
HF = [  # names of transformers 5; `current` renames those of files written by earlier releases, the published ones
    (r"vivit\.embeddings\.cls_token", "params/cls", None),
    (r"vivit\.embeddings\.position_embeddings", "params/positions", None),
    *rules.conv(r"vivit\.embeddings\.patch_embeddings\.projection", "patch", bias=True),
    *rules.dense(_LAYER + r"attention\.q_proj", r"block\1/attention/query"),
    *rules.dense(_LAYER + r"attention\.k_proj", r"block\1/attention/key"),
    *rules.dense(_LAYER + r"attention\.v_proj", r"block\1/attention/value"),
    *rules.dense(_LAYER + r"attention\.o_proj", r"block\1/attention/proj"),
    *rules.layer_norm(_LAYER + "layernorm_before", r"block\1/norm1"),
    *rules.layer_norm(_LAYER + "layernorm_after", r"block\1/norm2"),
    *rules.dense(_LAYER + r"mlp\.(fc[12])", r"block\1/mlp/\2"),
    *rules.layer_norm(r"vivit\.layernorm", "norm"),
    *rules.dense("classifier", "head"),
]
_RENAMED = (
    ("encoder.layer.", "layers."),
    ("attention.attention.query", "attention.q_proj"),
    ("attention.attention.key", "attention.k_proj"),
    ("attention.attention.value", "attention.v_proj"),
    ("attention.output.dense", "attention.o_proj"),
    ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
)


def current(tensors):
    """Tensors under the names of transformers 5, whichever release wrote them."""
    found = {}
    for name, value in tensors.items():
        for old, new in _RENAMED:
            name = name.replace(old, new)
        found[name] = value
    return found


# What the published weights expect: Scenic's pixels in [-1, 1].
PREPROCESS = {
    "order": "RGB",
    "range": (0.0, 1.0),
    "mean": 0.5,
    "std": 0.5,
    "frames": 32,
    "stride": 2,
    "resize": 256,
    "size": 224,
}
_ROW = {"variant": "b_16x2", "table": HF, "head": "classifier.bias", "preprocess": PREPROCESS}
_ROW |= {"prepare": current, "restore": current}  # written under the current names, which every release 5 reads
_TINY = {"width": 96, "depth": 3, "heads": 4, "hidden": 192, "frames": 8, "size": 112}
REFERENCES = {  # (source, the source's own name of the net)
    ("hf", "vivit_b_16x2_kinetics400"): _ROW | {"classes": "kinetics400"},
    ("hf", "vivit_b_16x2"): _ROW,
    ("hf", "vivit_tiny"): _ROW | {"fields": _TINY, "preprocess": PREPROCESS | {"frames": 8, "size": 112}},
}
