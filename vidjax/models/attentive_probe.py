"""A net that rests and an attentive probe that learns to read it: cross-attention to the places of one activation.

Paper: Revisiting Feature Prediction for Learning Visual Representations from Video (V-JEPA; Bardes et al., 2024),
section 4.2, with one cross-attention block; V-JEPA 2 (Assran et al., 2025) has three blocks of self-attention before.
Input: that of `net`, any net of vidjax/models by its name, variant and fields. Output: logits (B, num_classes).
The net evaluates (its batch norms by their running statistics, without dropout) and no gradient reaches it.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vidjax import models
from vidjax.transformer import AttentivePooler, Dense

PAPER = "Bardes et al., 2024"

VARIANTS = {  # on VideoMAE's encoder, or on whatever `net` names
    "cross": {"net": (("name", "videomae"), ("variant", "b"))},
    "deep": {"net": (("name", "videomae"), ("variant", "b")), "depth": 3},
    "small": {"net": (("name", "videomae"), ("variant", "small")), "heads": 4},  # for clips of about 8x40x40
}

_SMALL = {"input": (8, 40, 40, 3), "classes": 8, "params": 587_528, "gmac": 0.058, "paper": "none (small clips)"}
_WIDE = {"input": (16, 224, 224, 3), "classes": 400, "paper": PAPER}
SIZES = {  # [C] by the formula of tests/models/test_attentive_probe.py; the net's head is not there
    "cross": _WIDE | {"params": 93_032_848, "gmac": 182.202},
    "deep": _WIDE | {"params": 114_296_464, "gmac": 226.826},
    "small": _SMALL,
}


class Model(nn.Module):
    """A frozen net and its probe: float32 (B, T, H, W, C) or what `net` takes -> float32 (B, num_classes), activations.

    `net` are (key, value) pairs of a model section. `layer` is the activation that is read, (B, ..., D) with any places
    between, by default `tokens` or the last that has places. `depth` blocks of self-attention with `heads` heads come
    before the cross-attention. Parameters are `net`, `pooler` and `head`; activations of the net begin with `net/`.
    ValueError for a layer that the net does not have.
    """

    net: tuple
    layer: str = ""
    heads: int = 8
    depth: int = 0
    num_classes: int = 400
    dropout: float = 0.0
    dtype: str = "float32"

    mean = property(lambda self: models.build(dict(self.net)).mean)
    std = property(lambda self: models.build(dict(self.net)).std)

    @nn.compact
    def __call__(self, video, *, train):
        net = models.build(dict(self.net), within="net", num_classes=0, dtype=self.dtype)
        _, seen = net(video, train=False)
        x = jax.lax.stop_gradient(seen[self.read(seen)])
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        x = AttentivePooler(self.heads, self.depth, train, self.dtype, name="pooler")(x)
        out = {f"net/{name}": value for name, value in seen.items()} | {"pre_logits": x}
        x = nn.Dropout(self.dropout, deterministic=not train, name="drop")(x)
        return (Dense(self.num_classes, name="head")(x) if self.num_classes else x).astype(jnp.float32), out

    def read(self, seen):
        """The name of the activation that the probe reads."""
        places = [name for name, value in seen.items() if value.ndim > 2 and "/" not in name]
        layer = self.layer or ("tokens" if "tokens" in places else places[-1])
        if layer not in seen:
            raise ValueError(f"The net has no activation {layer!r} for config.model.layer: one of {', '.join(places)}.")
        return layer
