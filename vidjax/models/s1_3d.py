"""A factorised 3-D net: 3x3x3 first, then 1x3x3 and 3x1x1 in turn; features of a video's clips averaged.

Source: the survey's S1-3D (architectures.md, card 12), which names the kernels, the pooling of every clip to one
vector, the mean over N clips that do not overlap, and a softmax layer. It has no weights and no published figure. The
kernels are those of P3D-A and R(2+1)D; batch norm, ReLU, widths and strides are ours.
Input: RGB in [0, 1], (B, clips * T, H, W, 3). Output: logits (B, num_classes).
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from vidjax.nn import BatchNorm, Conv3D, normalise

# ImageNet statistics of torchvision's presets.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

VARIANTS = {
    "base": {
        "stem_width": 64,
        "stem_strides": (1, 2, 2),
        "widths": (64, 128, 256, 512),
        "strides": (1, 2, 2, 2),
    },
    "small": {  # for clips of about 8x40x40
        "stem_width": 16,
        "stem_strides": (1, 2, 2),
        "widths": (32, 64, 128),
        "strides": (1, 2, 2),
    },
}

_PAPER = "none (survey S1, section 3.2.3)"
SIZES = {  # [C] by the formula of tests/models/test_s1_3d.py; GMAC per view
    "base": {"input": (16, 112, 112, 3), "classes": 101, "params": 2_690_597, "gmac": 4.884, "paper": _PAPER},
    "small": {"input": (8, 40, 40, 3), "classes": 8, "params": 164_536, "gmac": 0.058, "paper": _PAPER},
}


class Unit(nn.Module):
    """Convolution without bias, batch norm, ReLU: (B, T, H, W, C) -> (B, T', H', W', features)."""

    features: int
    kernel: tuple
    strides: tuple
    conv: functools.partial
    norm: functools.partial

    @nn.compact
    def __call__(self, x):
        padding = tuple((k // 2, k // 2) for k in self.kernel)
        x = self.conv(self.features, self.kernel, self.strides, padding, name="conv")(x)
        return nn.relu(self.norm(name="bn")(x))


class Model(nn.Module):
    """Factorised 3-D net: float32 RGB (B, clips * T, H, W, 3) in [0, 1] -> float32 logits (B, num_classes), features.

    `widths` are the pairs of 1x3x3 and 3x1x1, the first halving rows and columns where the pair's stride is 2, the
    second frames. `out["clips"]` (B, clips, D) is what the mean over clips is taken of.
    """

    stem_width: int
    stem_strides: tuple
    widths: tuple
    strides: tuple
    clips: int = 1
    num_classes: int = 101
    dropout: float = 0.0
    dtype: str = "float32"
    mean: float | tuple = MEAN
    std: float | tuple = STD
    order: str = "RGB"
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5

    @nn.compact
    def __call__(self, video, *, train):
        _check(self, video)
        b, frames, h, w, c = video.shape
        x = video.reshape(b * self.clips, frames // self.clips, h, w, c)
        x = normalise(x, self.mean, self.std, self.order).astype(self.dtype)
        init = nn.initializers.variance_scaling(2, "fan_out", "normal")
        conv = functools.partial(Conv3D, dtype=self.dtype, kernel_init=init)
        norm = functools.partial(BatchNorm, not train, self.bn_momentum, self.bn_epsilon, self.dtype)
        unit = functools.partial(Unit, conv=conv, norm=norm)
        out = {}
        x = out["stem"] = unit(self.stem_width, (3, 3, 3), self.stem_strides, name="stem")(x)
        for i, (width, s) in enumerate(zip(self.widths, self.strides, strict=True), 1):
            x = unit(width, (1, 3, 3), (1, s, s), name=f"spatial{i}")(x)
            x = out[f"pair{i}"] = unit(width, (3, 1, 1), (s, 1, 1), name=f"temporal{i}")(x)
        x = x.astype(jnp.float32).mean(axis=(1, 2, 3))
        x = out["clips"] = x.reshape(b, self.clips, -1)
        x = x.mean(axis=1)
        x = out["pre_logits"] = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(x)
        if self.num_classes:
            x = nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01), name="head")(x)
        return x, out


def _check(model, video):
    """ValueError unless the fields agree with each other and with the video."""
    if len(model.widths) != len(model.strides):
        stages = [len(model.widths), len(model.strides)]
        raise ValueError(f"s1_3d needs widths and strides of one length (the pairs of convolutions), not {stages}.")
    if model.clips < 1 or video.shape[1] % model.clips:
        raise ValueError(
            f"s1_3d cannot cut {video.shape[1]} frames into {model.clips} clips; set the field clips or data.clip.size."
        )
