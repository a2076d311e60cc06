"""Flow Gated Network: an RGB net whose features are multiplied by gates in [0, 1] that a net of optical flow opens.

Paper: RWF-2000: An Open Large Scale Video Database for Violence Detection (Cheng et al., ICPR 2020), table 3.
Input: {rgb (B, 64, 224, 224, 3) in [0, 1], flow (B, 64, 224, 224, 2) in [-1, 1], x and y of the pair that the frame
begins}. Each of the two is standardised over the whole clip, so neither range nor offset matters. Output: logits
(B, num_classes), of two classes in the reference: Fight, NonFight.
Reference: mchengny/RWF2000-Video-Database-for-Violence-Detection (Keras). Its flow is Farneback's, the field's mean
subtracted, then each component of each field stretched to 0 ... 255: `stretch` does the last here; its files of five
channels hold that already.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from vidjax.nn import BatchNorm, Conv3D, max_pool, normalise

PAPER = "Cheng et al., ICPR 2020"

VARIANTS = {
    "rwf": {  # table 3 of the paper
        "widths": (16, 16, 32, 32),
        "pool": 8,
        "merge_widths": (64, 64, 128),
        "merge_pools": ((2, 2, 2), (2, 2, 2), (2, 3, 3)),
        "hidden": (128, 32),
    },
    "small": {  # ours, for clips of about 8x40x40
        "widths": (16, 16, 32),
        "pool": 2,
        "merge_widths": (48, 64),
        "merge_pools": ((2, 2, 2), (2, 2, 2)),
        "hidden": (64, 32),
        "norm": True,
    },
}


def _size(params, gmac, *, frames=64, size=224, classes=2, paper=PAPER):
    shape = {"rgb": (frames, size, size, 3), "flow": (frames, size, size, 2)}
    return {"input": shape, "classes": classes, "params": params, "gmac": gmac, "paper": paper}


SIZES = {  # [C] computed from the definition (tests/models/test_flow_gated.py); GMAC per view
    "rwf": _size(272_690, 16.553),  # [C], as many as the published weights
    "small": _size(92_376, 0.063, frames=8, size=40, classes=8, paper="none (small clips)"),  # [C]
}


class Pair(nn.Module):
    """1x3x3 and 3x1x1 convolutions, each with an activation: (B, T, H, W, C) -> (B, T, H, W, features)."""

    features: int
    act: str
    conv: functools.partial
    norm: functools.partial | None

    @nn.compact
    def __call__(self, x):
        act = {"relu": nn.relu, "sigmoid": nn.sigmoid}[self.act]
        for name, kernel in (("spatial", (1, 3, 3)), ("temporal", (3, 1, 1))):
            x = self.conv(self.features, kernel, name=name)(x)
            x = act(x if self.norm is None else self.norm(name=f"{name}_bn")(x))
        return x


class Model(nn.Module):
    """Flow Gated Network: {rgb (B, T, H, W, 3), flow (B, T, H, W, 2)} -> float32 logits (B, num_classes), activations.

    `widths` are the blocks of both streams, each halving height and width; the last of the flow ends in sigmoids.
    `stretch` first gives every component of every flow field the whole range, as the reference's preprocessing does.
    """

    widths: tuple
    pool: int
    merge_widths: tuple
    merge_pools: tuple
    hidden: tuple
    norm: bool = False
    stretch: bool = False
    num_classes: int = 2
    dropout: float = 0.2
    dtype: str = "float32"
    mean: float | tuple = 0.0
    std: float | tuple = 1.0
    order: str = "RGB"
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5

    @nn.compact
    def __call__(self, video, *, train):
        _check(self, video)
        conv = functools.partial(Conv3D, use_bias=True, dtype=self.dtype)
        norm = functools.partial(BatchNorm, not train, self.bn_momentum, self.bn_epsilon, self.dtype)
        pair = functools.partial(Pair, conv=conv, norm=norm if self.norm else None)
        flow = stretched(video["flow"]) if self.stretch else video["flow"]
        rgb = normalise(video["rgb"], self.mean, self.std, self.order)
        x, gate = (standardised(v).astype(self.dtype) for v in (rgb, flow))
        out = {}
        for i, width in enumerate(self.widths, 1):
            last = i == len(self.widths)
            x = _max_pool(pair(width, "relu", name=f"rgb{i}")(x), (1, 2, 2))
            gate = _max_pool(pair(width, "sigmoid" if last else "relu", name=f"flow{i}")(gate), (1, 2, 2))
            out |= {f"rgb{i}": x, f"flow{i}": gate}
        x = out["gated"] = _max_pool(x * gate, (self.pool, 1, 1))
        for i, (width, window) in enumerate(zip(self.merge_widths, self.merge_pools, strict=True), 1):
            x = out[f"merge{i}"] = _max_pool(pair(width, "relu", name=f"merge{i}")(x), window)
        x = x.reshape(len(x), -1)
        x = out["fc1"] = nn.relu(self._dense(self.hidden[0], "fc1")(x))
        x = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(x)
        x = out["pre_logits"] = nn.relu(self._dense(self.hidden[1], "fc2")(x)).astype(jnp.float32)
        if self.num_classes:
            x = nn.Dense(self.num_classes, name="head")(x)
        return x, out

    def _dense(self, features, name):
        return nn.Dense(features, dtype=self.dtype, kernel_init=nn.initializers.he_normal(), name=name)


def standardised(video):
    """Zero mean and unit variance over all of each clip: (B, T, H, W, C) -> same; a constant clip becomes zeros."""
    centred = video - video.mean(axis=(1, 2, 3, 4), keepdims=True)
    variance = jnp.square(centred).mean(axis=(1, 2, 3, 4), keepdims=True)
    return centred / jnp.sqrt(jnp.where(variance > 1e-12, variance, 1))


def stretched(flow):
    """Every component of every field from 0, its least, to 1, its greatest value: (B, T, H, W, 2) -> same."""
    low, high = (f(flow, axis=(2, 3), keepdims=True) for f in (jnp.min, jnp.max))
    return (flow - low) / jnp.where(high > low, high - low, 1)


def _max_pool(x, window):
    """The largest of each window, windows side by side; what is left over at an end is dropped."""
    return max_pool(x, window, window)


def _check(model, video):
    """ValueError unless both inputs are there and no pool leaves nothing."""
    if not isinstance(video, dict) or not {"rgb", "flow"} <= video.keys():
        raise ValueError("flow_gated needs an rgb and a flow input; set data.modalities to ('rgb', 'flow').")
    halves = 2 ** len(model.widths)
    size = [video["rgb"].shape[1] // model.pool, *(n // halves for n in video["rgb"].shape[2:4])]
    for window in model.merge_pools:
        size = [n // k for n, k in zip(size, window, strict=True)]
    if 0 in size:
        raise ValueError(
            f"flow_gated's pools leave nothing of clips of {video['rgb'].shape[1:4]}: use longer or larger clips, or "
            "other pool and merge_pools."
        )


def _table():
    """Conversion rules: Keras numbers the RGB stream's convolutions first, then the flow's, then the merged ones."""
    blocks = [*(f"rgb{i}" for i in range(1, 5)), *(f"flow{i}" for i in range(1, 5)), *(f"merge{i}" for i in (1, 2, 3))]
    names = [f"{block}/{part}" for block in blocks for part in ("spatial", "temporal")]
    rules = [(rf"conv3d_{i}/(kernel|bias):0", rf"params/{name}/\1", None) for i, name in enumerate(names, 1)]
    dense = enumerate(("fc1", "fc2", "head"), 1)
    return rules + [(rf"dense_{i}/(kernel|bias):0", rf"params/{name}/\1", None) for i, name in dense]


KERAS = _table()

# What the weights expect, beside the standardised clip: 64 frames evenly spaced over a whole video of five seconds.
PREPROCESS = {
    "order": "RGB",
    "range": (0.0, 1.0),
    "mean": 0.0,
    "std": 1.0,
    "frames": 64,
    "resize": (224, 224),
    "size": 224,
    "sampler": "segments",
    "flow": {"method": "farneback", "subtract": "mean"},
    "model": {"stretch": True},
}
_ROW = {
    "variant": "rwf",
    "table": KERAS,
    "head": "dense_3/bias:0",
    "preprocess": PREPROCESS,
    "input": SIZES["rwf"]["input"],
}
REFERENCES = {("rwf2000", "flow_gated"): _ROW, ("rwf", "flow_gated"): _ROW}
