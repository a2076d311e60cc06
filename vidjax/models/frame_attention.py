"""Attention over the frames of a video and the regions of each frame, soft or hard, its maps among the activations.

Papers: Action Recognition using Visual Attention (Sharma, Kiros & Salakhutdinov, 2015): an LSTM that chooses where to
look by what it has seen (equations 1 to 5); Show, Attend and Tell (Xu et al., ICML 2015), section 4: soft and hard
attention, the latter here with a straight-through gradient (Bengio, Leonard & Courville, 2013) and Gumbel noise in
training instead of REINFORCE.
Input: RGB in [0, 1], (B, T, H, W, 3), or a dict of it and `frame_mask` (B, T). Output: logits (B, num_classes).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vidjax import backbones, recurrent
from vidjax.nn import normalise

PAPER = "Sharma et al., 2015"
_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}

VARIANTS = {
    "pool": {"backbone": "resnet50"} | _IMAGENET,  # regions, then frames, nothing recurrent
    "hard": {"backbone": "resnet50", "kind": "hard"} | _IMAGENET,
    "lstm": {"backbone": "resnet50", "recurrent": "lstm", "hidden": 512} | _IMAGENET,  # Sharma et al. on another CNN
    "small": {  # ours, for clips of about 8x40x40: attends to the states of a convolutional LSTM
        "backbone": "small",
        "backbone_fields": (("widths", (16, 32, 48)), ("strides", (2, 1, 2))),
        "recurrent": "convlstm",
        "hidden": 32,
        "width": 32,
        "mean": 0.5,
        "std": 0.25,
    },
}


def _size(params, gmac, frames=16, size=224, classes=101, paper=PAPER):
    return {"input": (frames, size, size, 3), "classes": classes, "params": params, "gmac": gmac, "paper": paper}


SIZES = {  # [C] computed from the definition (tests/models/test_frame_attention.py); GMAC per view
    "pool": _size(24_764_581, 65.816),
    "hard": _size(24_764_581, 65.816),
    "lstm": _size(29_592_229, 65.895),
    "small": _size(113_784, 0.102, 8, 40, 8, "none (small clips)"),
}


class Attention(nn.Module):
    """Chooses among N things: x (B, N, D), mask (B, N) or None -> (their weighted sum (B, D), weights (B, N)).

    score = v tanh(W x + b); weights are the softmax of scores, or with `kind` "hard" 1 for the best (with `noise` for a
    draw from that softmax) with the softmax's gradient. What is masked weighs nothing.
    """

    width: int
    kind: str = "soft"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x, mask=None, noise=None):
        seen = jnp.tanh(nn.Dense(self.width, dtype=self.dtype, name="key")(x).astype(jnp.float32))
        scores = nn.Dense(1, use_bias=False, name="score")(seen)[..., 0]
        if mask is not None:
            scores = jnp.where(mask > 0, scores, -1e30)
        weights = choose(scores, self.kind, noise)
        return jnp.einsum("bn,bnd->bd", weights, x), weights


def choose(scores, kind, noise=None):
    """Weights that sum to 1: (..., N) -> same. "hard" takes the best of scores plus `noise`, the gradient is soft's."""
    soft = jax.nn.softmax(scores)
    if kind == "soft":
        return soft
    best = jnp.argmax(scores if noise is None else scores + noise, -1)
    return jax.nn.one_hot(best, scores.shape[-1]) + (soft - jax.lax.stop_gradient(soft))


class AttentiveLSTM(nn.Module):
    """LSTM that looks at a frame's regions by its last state: (B, T, N, D) -> hidden (B, T, H), weights (B, T, N).

    Sharma et al., equations 1 to 5, with the scores v tanh(W x + U h + b); gates lie in the order i, f, g, o.
    """

    features: int
    width: int
    kind: str = "soft"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x, mask=None, noise=None):
        (b, t, n, d), h = x.shape, self.features
        keys = nn.Dense(self.width, dtype=self.dtype, name="key")(x).astype(jnp.float32)
        query = self.param("query", recurrent.glorot, (h, self.width))
        score = self.param("score", recurrent.glorot, (self.width, 1))
        kernel = self.param("kernel", recurrent.glorot, (d + h, 4 * h))
        bias = self.param("bias", recurrent.forget_one, (4 * h,)).reshape(1, -1)

        def step(state, at):
            (last, _), cell = state
            seen = jnp.tanh(at["keys"] + (last @ query)[:, None])
            weights = choose((seen @ score)[..., 0], self.kind, at["noise"])
            looked = jnp.einsum("bn,bnd->bd", weights, at["x"])
            new, cell = recurrent.lstm_step(jnp.concatenate([looked, last], -1) @ kernel + bias, cell)
            return (new, weights), cell

        start = (jnp.zeros((b, h)), jnp.zeros((b, n))), jnp.zeros((b, h))
        noise = jnp.zeros((b, t, n)) if noise is None else noise
        return recurrent.unroll(step, start, {"x": x, "keys": keys, "noise": noise}, mask)[0]


class Model(nn.Module):
    """Attention over regions, then frames: float32 RGB (B, T, H, W, 3) in [0, 1] -> float32 logits, activations.

    `out["attention/regions"]` (B, T, h, w) and `out["attention/frames"]` (B, T) sum to 1 over places and over frames.
    `recurrent` "convlstm" reads the maps before regions are chosen, "lstm" chooses them itself, "" is nothing.
    """

    backbone: str
    backbone_fields: tuple = ()  # (name, value)
    recurrent: str = ""
    hidden: int = 0
    kind: str = "soft"
    width: int = 256
    num_classes: int = 101
    dropout: float = 0.0
    dtype: str = "float32"
    mean: float | tuple = 0.0
    std: float | tuple = 1.0
    order: str = "RGB"

    @nn.compact
    def __call__(self, video, *, train):
        _check(self)
        video, mask = (video["rgb"], video.get("frame_mask")) if isinstance(video, dict) else (video, None)
        x = normalise(video, self.mean, self.std, self.order).astype(self.dtype)
        net = backbones.build(self.backbone, dtype=self.dtype, name="backbone", **dict(self.backbone_fields))
        out = dict(net(x, train=train))
        x = out["map"].astype(jnp.float32)
        if self.recurrent == "convlstm":
            layer = recurrent.ConvLSTM(self.hidden, dtype=self.dtype, name="recurrent")
            x = out["state"] = layer(x, mask)[0]
        b, t, h, w, d = x.shape
        x = x.reshape(b, t, h * w, d)
        noisy = train and self.kind == "hard"
        noise = lambda *shape: jax.random.gumbel(self.make_rng("dropout"), shape) if noisy else None  # noqa: E731
        if self.recurrent == "lstm":
            layer = AttentiveLSTM(self.hidden, self.width, self.kind, self.dtype, name="recurrent")
            x, weights = layer(x, mask, noise(b, t, h * w))
        else:
            choice = Attention(self.width, self.kind, self.dtype, name="over_regions")
            x, weights = choice(x.reshape(b * t, h * w, d), noise=noise(b * t, h * w))
        out["attention/regions"] = weights.reshape(b, t, h, w)
        x = out["frames"] = x.reshape(b, t, -1)
        choice = Attention(self.width, self.kind, self.dtype, name="over_frames")
        x, out["attention/frames"] = choice(x, mask, noise(b, t))
        x = out["pre_logits"] = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(x)
        if self.num_classes:
            x = nn.Dense(self.num_classes, name="head")(x)
        return x, out


def _check(model):
    """ValueError unless the fields agree."""
    if model.kind not in ("soft", "hard"):
        raise ValueError(f"frame_attention's field kind is 'soft' or 'hard', not {model.kind!r}.")
    if model.recurrent not in ("", "convlstm", "lstm"):
        raise ValueError(f"frame_attention's field recurrent is '', 'convlstm' or 'lstm', not {model.recurrent!r}.")
    if bool(model.recurrent) != bool(model.hidden):
        raise ValueError("frame_attention's fields recurrent and hidden go together: set both or neither.")
