"""Temporal convolutional networks over frame features, a class for every step: dilated and encoder-decoder.

Papers: Temporal Convolutional Networks: A Unified Approach to Action Segmentation (Lea et al., ECCV workshops 2016) and
Temporal Convolutional Networks for Action Segmentation and Detection (Lea et al., CVPR 2017): section 3.2, ED-TCN, and
section 3.3, Dilated TCN. Widths and lengths are those papers' from memory, unverified.
Input: RGB in [0, 1], (B, T, H, W, 3), or a dict of it and `frame_mask` (B, T). Output: logits (B, num_classes), the
logarithm of the mean over steps of their softmax.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vidjax import backbones
from vidjax.nn import normalise

PAPER = "Lea et al., CVPR 2017"
_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}

VARIANTS = {
    "dilated": {"backbone": "resnet50", "kind": "dilated", "widths": (128,) * 5, "blocks": 4} | _IMAGENET,
    "dilated_causal": {"backbone": "resnet50", "kind": "dilated", "widths": (128,) * 5, "blocks": 4, "causal": True}
    | _IMAGENET,
    "encoder_decoder": {"backbone": "resnet50", "kind": "encoder_decoder", "widths": (64, 96), "kernel": 25}
    | _IMAGENET,
    "small": {  # ours, for clips of about 8x40x40: frames keep 5x5 places
        "backbone": "small",
        "backbone_fields": (("widths", (16, 32, 16)), ("strides", (2, 2, 2))),
        "frame": "flatten",
        "kind": "dilated",
        "widths": (64, 64, 64),
        "blocks": 1,
        "mean": 0.5,
        "std": 0.25,
    },
}


def _size(params, gmac, frames=32, size=224, classes=101, paper=PAPER):
    return {"input": (frames, size, size, 3), "classes": classes, "params": params, "gmac": gmac, "paper": paper}


SIZES = {  # [C] computed from the definition (tests/models/test_tcn.py); GMAC per view
    "dilated": _size(25_115_685, 130.840),
    "dilated_causal": _size(24_788_005, 130.829),
    "encoder_decoder": _size(27_329_317, 130.904),
    "small": _size(89_656, 0.007, 8, 40, 8, "none (small clips)"),
}


class TemporalConv(nn.Module):
    """Convolution over steps, zero beyond the ends: (B, T, D) -> (B, T, features).

    Taps are `dilation` steps apart, centred on the step or, if `causal`, ending there; `kernel` is (taps * D, F), the
    earliest first.
    """

    features: int
    taps: int
    dilation: int = 1
    causal: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x):
        span = (self.taps - 1) * self.dilation
        before = span if self.causal else span // 2
        padded = jnp.pad(x, ((0, 0), (before, span - before), (0, 0)))
        shifted = [padded[:, i * self.dilation : i * self.dilation + x.shape[1]] for i in range(self.taps)]
        x = jnp.concatenate(shifted, -1)
        return nn.Dense(self.features, dtype=self.dtype, name="dense")(x).astype(jnp.float32)


class Dilated(nn.Module):
    """Blocks of layers l = 0, 1, ... of dilation 2^l with residuals, their ends summed: (B, T, D) -> (B, T, F).

    Each layer: z = relu(conv(s)), s + V z + e (equations 8 and 9); then ReLU, a dense layer, ReLU (10 and 11).
    """

    widths: tuple
    blocks: int
    causal: bool
    dtype: str

    @nn.compact
    def __call__(self, x, mask):
        x, total = nn.Dense(self.widths[0], dtype=self.dtype, name="input")(x).astype(jnp.float32), 0.0
        for b in range(self.blocks):
            for i, width in enumerate(self.widths):
                taps = 2 if self.causal else 3
                conv = TemporalConv(width, taps, 2**i, self.causal, self.dtype, name=f"block{b}_{i}")
                y = nn.relu(conv(x * mask))
                x = x + nn.Dense(x.shape[-1], dtype=self.dtype, name=f"residual{b}_{i}")(y)
            total = total + x
        return nn.relu(nn.Dense(self.widths[-1], name="output")(nn.relu(total)))


class EncoderDecoder(nn.Module):
    """ED-TCN: convolution, normalised ReLU, pool of 2 steps, repeated, then back up: (B, T, D) -> (B, T, F)."""

    widths: tuple
    kernel: int
    causal: bool
    dtype: str

    @nn.compact
    def __call__(self, x, mask):
        steps, multiple = x.shape[1], 2 ** len(self.widths)
        x = jnp.pad(x * mask, ((0, 0), (0, -steps % multiple), (0, 0)))
        for i, width in enumerate(self.widths):
            x = channel_norm(TemporalConv(width, self.kernel, 1, self.causal, self.dtype, name=f"encode{i}")(x))
            x = x.reshape(x.shape[0], -1, 2, width).max(2)
        for i, width in enumerate(reversed(self.widths)):
            x = jnp.repeat(x, 2, axis=1)
            x = channel_norm(TemporalConv(width, self.kernel, 1, self.causal, self.dtype, name=f"decode{i}")(x))
        return x[:, :steps]


def channel_norm(x):
    """ReLU, divided by the largest channel of its step plus 1e-5 (Lea et al., section 3.2)."""
    x = nn.relu(x)
    return x / (x.max(-1, keepdims=True) + 1e-5)


class Model(nn.Module):
    """TCN: float32 RGB (B, T, H, W, 3) in [0, 1] and perhaps a mask -> float32 logits (B, num_classes), activations.

    `frame` says what it sees of each frame: the backbone's "features", or its map "flatten"ed. Every step is
    classified: `aux_logits/steps` (B, T, num_classes) learn with `loss.weights` {"main": 0, "steps": 1}.
    """

    backbone: str
    kind: str
    widths: tuple
    backbone_fields: tuple = ()  # (name, value)
    frame: str = "features"
    blocks: int = 1
    kernel: int = 3
    causal: bool = False
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
        b, t = video.shape[:2]
        x = out["map"].reshape(b, t, -1) if self.frame == "flatten" else out["features"]
        real = jnp.ones((b, t)) if mask is None else mask.astype(jnp.float32)
        if self.kind == "dilated":
            layers = Dilated(self.widths, self.blocks, self.causal, self.dtype, name="tcn")
        else:
            layers = EncoderDecoder(self.widths, self.kernel, self.causal, self.dtype, name="tcn")
        x = out["steps"] = layers(x.astype(jnp.float32), real[..., None])
        x = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(x)
        weight = real / jnp.maximum(real.sum(1, keepdims=True), 1)
        out["pre_logits"] = jnp.einsum("bt,btd->bd", weight, x)
        if not self.num_classes:
            return out["pre_logits"], out
        steps = out["aux_logits/steps"] = nn.Dense(self.num_classes, name="head")(x)
        if mask is not None:
            out["aux_mask/steps"] = real
        return jax.nn.logsumexp(jax.nn.log_softmax(steps), 1, b=weight[..., None]), out


def _check(model):
    """ValueError unless the fields agree."""
    if model.kind not in ("dilated", "encoder_decoder"):
        raise ValueError(f"tcn's field kind is 'dilated' or 'encoder_decoder', not {model.kind!r}.")
    if model.frame not in ("features", "flatten"):
        raise ValueError(f"tcn's field frame is 'features' or 'flatten', not {model.frame!r}.")
    if model.kind == "dilated" and len(set(model.widths)) > 1:
        raise ValueError(f"A dilated tcn adds its layers up: its widths must be equal, not {model.widths}.")
