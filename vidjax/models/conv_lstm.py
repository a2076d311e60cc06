"""Convolutional LSTMs on frames, each with a pool, and one classifier of all steps and places.

Paper: Convolutional LSTM Network (Shi et al., NIPS 2015). Input: RGB in [0, 1], (B, T, H, W, 3); T is fixed by the
weights where the steps are flattened. Output: logits (B, num_classes).
References: the trained Keras nets `keras_lrcn` (4-8-14-16) on classes of UCF50, whose layers are numbered here in their
order; those saved by Keras 2 before 2.4 have its hard sigmoid.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from vidjax import recurrent
from vidjax.models.lrcn import keras_layers
from vidjax.nn import BatchNorm, max_pool, normalise

PAPER = "Shi et al., NIPS 2015"

_UCF50 = {"widths": (4, 8, 14, 16), "padding": "VALID", "layer_dropout": 0.2, "head": "flatten"}
VARIANTS = {
    "ucf50": _UCF50,  # the Keras nets; their weights want BGR, which `vidjax convert` sets
    "ucf50_hard": _UCF50 | {"gate": "hard_sigmoid"},
    "small": {  # ours, for clips of about 8x40x40
        "widths": (8, 16, 32),
        "padding": "SAME",
        "head": "mean",
        "norm": True,
        "mean": 0.5,
        "std": 0.25,
    },
}


def _size(params, gmac, frames, size, classes, paper=PAPER):
    return {"input": (frames, size, size, 3), "classes": classes, "params": params, "gmac": gmac, "paper": paper}


SIZES = {  # [P] published, [C] computed from the definition (tests/models/test_conv_lstm.py); GMAC per view
    "ucf50": _size(122_311, 0.182, 20, 64, 31),  # [P] the file's own count
    "ucf50_hard": _size(44_524, 0.182, 20, 64, 4),  # [P] the file's own count
    "small": _size(72_888, 0.129, 8, 40, 8, "none (small clips)"),  # [C]
}


class Model(nn.Module):
    """Stacked ConvLSTMs: float32 RGB (B, T, H, W, 3) in [0, 1] -> float32 logits (B, num_classes), activations.

    Each 3x3 layer is followed by the maximum of 2x2 places, the size rounded up, and `layer_dropout` but after the
    last. `head` "flatten" classifies all steps and places together, "mean" their mean.
    """

    widths: tuple
    padding: str
    head: str
    gate: str = "sigmoid"
    layer_dropout: float = 0.0
    norm: bool = False
    num_classes: int = 50
    dropout: float = 0.0
    dtype: str = "float32"
    mean: float | tuple = 0.0
    std: float | tuple = 1.0
    order: str = "RGB"

    @nn.compact
    def __call__(self, video, *, train):
        if self.head not in ("flatten", "mean"):
            raise ValueError(f"conv_lstm's field head is 'flatten' or 'mean', not {self.head!r}.")
        out, x = {}, normalise(video, self.mean, self.std, self.order)
        layer = functools.partial(recurrent.ConvLSTM, padding=self.padding, gate=self.gate, dtype=self.dtype)
        for i, width in enumerate(self.widths):
            x, _ = layer(width, name=f"layer{i}")(x)
            if self.norm:
                x = BatchNorm(not train, dtype=self.dtype, name=f"bn{i}")(x)
            x = max_pool(x, (1, 2, 2), (1, 2, 2), "SAME")
            if i < len(self.widths) - 1:
                x = nn.Dropout(self.layer_dropout, deterministic=not train, name=f"dropout{i}")(x)
            out[f"layer{i}"] = x
        x = x.astype(jnp.float32)
        x = x.reshape(x.shape[0], -1) if self.head == "flatten" else x.mean((1, 2, 3))
        x = out["pre_logits"] = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(x)
        if self.num_classes:
            x = nn.Dense(self.num_classes, name="head")(x)
        return x, out


KERAS = [  # (name after `keras_layers`, our path or None to drop it, transform)
    (r"convlstm(\d)/((?:recurrent_)?kernel)", r"params/layer\1/\2", (4, lambda x: x[None], lambda x: x[0])),
    (r"convlstm(\d)/bias", r"params/layer\1/bias", None),
    (r"dense0/(kernel|bias)", r"params/head/\1", None),
]

# What the weights of a source expect: 20 frames of the whole video, squeezed to a square by OpenCV's bilinear resize.
PREPROCESS = {
    "order": "BGR",
    "range": (0.0, 1.0),
    "mean": 0.0,
    "std": 1.0,
    "frames": 20,
    "sampler": "part_starts",
    "resize": (64, 64),
    "interpolation": "linear",
    "size": 64,
}
_UCF50_CLASSES = (
    *("BaseballPitch", "Basketball", "BenchPress", "Billiards", "BreastStroke", "CleanAndJerk", "Diving", "Drumming"),
    *("Fencing", "GolfSwing", "HorseRace", "HulaHoop", "JumpingJack", "JumpRope", "MilitaryParade", "Mixing"),
    *("Nunchucks", "PlayingGuitar", "PlayingTabla", "PommelHorse", "PullUps", "Punch", "PushUps", "Rowing"),
    *("SalsaSpin", "SkateBoarding", "Skiing", "SoccerJuggling", "Swing", "TaiChi", "VolleyballSpiking"),
)


def _trained(arch, variant, classes):
    fields = {"variant": variant, "table": KERAS, "head": "dense0/bias", "preprocess": PREPROCESS}
    return fields | {"prepare": functools.partial(keras_layers, arch=arch), "classes": classes}


REFERENCES = {  # (source, the source's own name of the net)
    ("keras_lrcn", "hac_convlstm31"): _trained("hac_convlstm31", "ucf50", _UCF50_CLASSES),
    ("keras_lrcn", "armel_convlstm4"): _trained(
        "armel_convlstm4", "ucf50_hard", ("WalkingWithDog", "TaiChi", "Swing", "HorseRace")
    ),
}
