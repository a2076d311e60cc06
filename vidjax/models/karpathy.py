"""The first large video CNNs: single frame, early, late and slow fusion, each also as fovea and context streams.

Paper: Large-scale Video Classification with Convolutional Neural Networks (Karpathy et al., CVPR 2014), section 3.
Input: RGB in [0, 1], (B, T, 170, 170, 3), multiresolution (B, T, 178, 178, 3); T is 1 (single), 10 in a row (early,
slow), or 2 frames 15 apart (late). Output: logits (B, num_classes). There are no public weights.
Where the paper is silent: first values, dropout and a response norm after the ReLU are those of Krizhevsky et al. (NIPS
2012), whose net this is; convolutions are SAME in space and VALID in time, pools round down, which gives the stated
7x7x256; the context is the mean of 2x2 pixels; the fovea has 44 rows and columns before it and 45 after.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from vidjax.nn import BatchNorm, Conv3D, local_response_norm, max_pool, normalise

PAPER = "Karpathy et al., CVPR 2014"

# The number the paper's nets subtract from pixels (unverified), which are left at 0 to 255.
MEAN, STD = 117 / 255, 1 / 255

_FUSIONS = {  # extent and stride in time of the five convolutions
    "single": {"frames": 1},
    "early": {"frames": 10, "extents": (10, 1, 1, 1, 1)},
    "late": {"frames": 2},  # the single-frame net on both, concatenated at fc6
    "slow": {"frames": 10, "extents": (4, 2, 2, 1, 1), "time_strides": (2, 2, 2, 1, 1)},  # 10 -> 4 -> 2 -> 1
}

VARIANTS = _FUSIONS | {f"{name}_multires": row | {"multires": True} for name, row in _FUSIONS.items()}
VARIANTS["small"] = {  # ours, for clips of about 8x40x40: slow fusion, 8 -> 3 -> 2 -> 1
    "frames": 8,
    "extents": (4, 2, 2, 1, 1),
    "time_strides": (2, 1, 1, 1, 1),
    "widths": (24, 48, 96, 64, 64),
    "kernels": (5, 3, 3, 3, 3),
    "strides": (1, 1, 1, 1, 1),
    "hidden": (128, 128),
    "norm": "batch",
    "kernel_init": "he",
    "dropout": 0.2,
    "mean": 0.45,
    "std": 0.225,
}


def _size(params, gmac, *, frames, size=170, classes=487, paper=PAPER):
    return {"input": (frames, size, size, 3), "classes": classes, "params": params, "gmac": gmac, "paper": paper}


SIZES = {  # [C] computed from the definition (tests/models/test_karpathy.py); GMAC per view
    "single": _size(73_908_071, 1.272, frames=1),
    "early": _size(74_221_703, 2.291, frames=10),
    "late": _size(125_288_295, 2.525, frames=2),
    "slow": _size(75_511_751, 4.589, frames=10),
    "single_multires": _size(129_035_495, 0.764, frames=1, size=178),
    "early_multires": _size(129_662_759, 1.329, frames=10, size=178),
    "late_multires": _size(231_795_943, 1.51, frames=2, size=178),
    "slow_multires": _size(132_242_855, 2.621, frames=10, size=178),
    "small": _size(426_400, 0.069, frames=8, size=40, classes=8, paper="none (small clips)"),
}


class Stream(nn.Module):
    """The convolutions of section 3.1: (B, T, H, W, 3) -> their activations by name, `features` after the last pool.

    Frames that no convolution merges go through the same filters: these are the towers of late fusion.
    """

    layers: tuple  # (features, kernel, strides) of each convolution
    pools: tuple  # the numbers of those that a 2x2 pool follows
    conv: functools.partial
    norm: functools.partial | None  # batch norm; otherwise a response norm after the first two

    @nn.compact
    def __call__(self, x):
        out = {}
        for i, (features, kernel, strides) in enumerate(self.layers, 1):
            bias = nn.initializers.ones if i in (2, 4, 5) else nn.initializers.zeros
            padding = ((0, 0), *map(_same, x.shape[2:4], kernel[1:], strides[1:]))
            x = self.conv(features, kernel, strides, padding, bias_init=bias, name=f"conv{i}")(x)
            x = nn.relu(self.norm(name=f"bn{i}")(x) if self.norm else x)
            out[f"conv{i}"] = x
            x = _response_norm(x) if i <= 2 and not self.norm else x
            x = max_pool(x, (1, 2, 2), (1, 2, 2)) if i in self.pools else x
        return out | {"features": x}


class Model(nn.Module):
    """Karpathy's nets: float32 RGB (B, T, H, W, 3) in [0, 1] -> float32 logits (B, num_classes), activations.

    `extents` and `time_strides` are those of the five convolutions; `multires` makes the two streams of half the size
    and leaves out the last pool. `norm` is "response" or "batch", `dropped` the layers whose input is dropped out.
    """

    frames: int
    extents: tuple = (1, 1, 1, 1, 1)
    time_strides: tuple = (1, 1, 1, 1, 1)
    multires: bool = False
    widths: tuple = (96, 256, 384, 384, 256)
    kernels: tuple = (11, 5, 3, 3, 3)
    strides: tuple = (3, 1, 1, 1, 1)
    hidden: tuple = (4096, 4096)
    norm: str = "response"
    kernel_init: str = "krizhevsky"
    num_classes: int = 487
    dropout: float = 0.5
    dropped: tuple = ("fc7", "head")
    dtype: str = "float32"
    mean: float | tuple = MEAN
    std: float | tuple = STD
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5

    @nn.compact
    def __call__(self, video, *, train):
        _check(self, video)
        init = nn.initializers.normal(0.01) if self.kernel_init == "krizhevsky" else nn.initializers.he_normal()
        conv = functools.partial(Conv3D, use_bias=True, dtype=self.dtype, kernel_init=init)
        norm = functools.partial(BatchNorm, not train, self.bn_momentum, self.bn_epsilon, self.dtype)
        kernels = [(t, k, k) for t, k in zip(self.extents, self.kernels, strict=True)]
        strides = [(t, s, s) for t, s in zip(self.time_strides, self.strides, strict=True)]
        layers = tuple(zip(self.widths, kernels, strides, strict=True))
        pools, norm = (1, 2) if self.multires else (1, 2, 5), norm if self.norm == "batch" else None
        out, merged = {}, []
        for name, x in _streams(normalise(video, self.mean, self.std), self.multires).items():
            found = Stream(layers, pools, conv, norm, name=name)(x.astype(self.dtype))
            out |= {f"{name}/{key}": value for key, value in found.items()}
            merged.append(found["features"].reshape(len(video), -1))
        x = jnp.concatenate(merged, axis=-1).astype(jnp.float32)
        if not x.size:
            h, w = video.shape[2:4]
            raise ValueError(
                f"A clip of {h}x{w} pixels is too small for this karpathy net's pools: set data.augment.size."
            )
        for name, width in zip(("fc6", "fc7"), self.hidden, strict=True):
            x = nn.Dropout(self.dropout * (name in self.dropped), deterministic=not train, name=f"{name}_dropout")(x)
            dense = nn.Dense(width, dtype=self.dtype, kernel_init=init, bias_init=nn.initializers.ones, name=name)
            x = out[name] = nn.relu(dense(x)).astype(jnp.float32)
        x = nn.Dropout(self.dropout * ("head" in self.dropped), deterministic=not train, name="head_dropout")(x)
        out["pre_logits"] = x
        if self.num_classes:
            x = nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01), name="head")(x)
        return x, out


def _streams(video, multires):
    """The inputs by stream: (B, T, H, W, C) whole, or its mean of 2x2 pixels and its centre of that size."""
    if not multires:
        return {"whole": video}
    b, t, h, w, c = video.shape
    top, left = h // 4, w // 4
    context = video.reshape(b, t, h // 2, 2, w // 2, 2, c).mean((3, 5))
    return {"context": context, "fovea": video[:, :, top : top + h // 2, left : left + w // 2]}


def _response_norm(x):
    """Krizhevsky's norm with section 3.1's constants, alpha not divided by the size: same shape, in float32."""
    return local_response_norm(x.astype(jnp.float32), size=5, alpha=5 * 1e-4, beta=0.5, k=2.0).astype(x.dtype)


def _same(size, kernel, stride):
    """Zero padding with which a stride s gives ceil(size / s) outputs, the odd one at the end."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _check(model, video):
    """ValueError unless the fields agree and the video is one that this net can take."""
    _, t, h, w, _ = video.shape
    if t != model.frames:
        raise ValueError(f"This karpathy net takes clips of {model.frames} frames, not {t}: set data.clip.size.")
    if model.multires and (h % 2 or w % 2):
        raise ValueError(f"A karpathy net with multires needs an even size, not {h}x{w}: set data.augment.size.")
    if {len(f) for f in (model.extents, model.time_strides, model.widths, model.kernels, model.strides)} != {5}:
        raise ValueError("karpathy needs five extents, time_strides, widths, kernels and strides: its convolutions.")
    for field, known in (("norm", ("response", "batch")), ("kernel_init", ("krizhevsky", "he"))):
        if getattr(model, field) not in known:
            raise ValueError(f"karpathy's field {field} is {' or '.join(known)}, not {getattr(model, field)!r}.")
    if unknown := set(model.dropped) - {"fc6", "fc7", "head"}:
        raise ValueError(f"karpathy's field dropped names fc6, fc7 and head, not {', '.join(sorted(unknown))}.")
