"""MoViNets A0 to A5: mobile nets of depthwise 3-D convolutions, whole-clip (base) or causal with a state (stream).

Paper: MoViNets: Mobile Video Networks for Efficient Video Recognition (Kondratyuk et al., CVPR 2021).
Input: RGB in [0, 1], (B, T, H, W, 3), 172 to 320 pixels at 5 to 12 frames a second. Output: logits (B, num_classes).
A stream net's logits are those of all frames so far: `stream` takes them as they come, one or many at a time, and
`initial_state` and its result are a flat dict of arrays under the names of the original's states.
References: tensorflow/models official/projects/movinet (checkpoints and TFLite files), Atze00/MoViNet-pytorch.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from vidjax.models import _movinet_tables as tables
from vidjax.nn import BatchNorm, Conv3D, Streaming, normalise
from vidjax.transformer import Dense, DropPath

PAPER = "Kondratyuk et al., CVPR 2021"


_STREAM = {"causal": True, "conv_type": "2plus1d", "se_type": "2plus3d"}
_STREAM |= {"activation": "hard_swish", "gating": "hard_sigmoid"}
VARIANTS = {  # tables 8 to 13 of the paper's appendix
    **{f"{net}_base": fields for net, fields in tables.NETS.items()},
    **{f"{net}_stream": fields | _STREAM | {"positions": net > "a2"} for net, fields in tables.NETS.items()},
    "small": tables.SMALL | _STREAM | {"strides": (1, 2, 2), "hidden_width": 128},
}

_NATIVE = {"a0": (50, 172), "a1": (50, 172), "a2": (50, 224), "a3": (120, 256), "a4": (80, 290), "a5": (120, 320)}


def _size(net, params, gmac):
    frames, size = _NATIVE[net]
    return {"input": (frames, size, size, 3), "classes": 600, "params": params, "gmac": gmac, "paper": PAPER}


# [P] published, [C] computed from the definition (tests/models/test_movinet_properties.py). The paper's table 1 gives
# 3.1 M parameters and 2.71, 6.02, 10.3, 56.9, 105 and 281 GFLOPs for A0 to A5: multiply-adds, element-wise ones too.
SIZES = {
    "a0_base": _size("a0", 3_111_799, 2.631),
    "a1_base": _size("a1", 4_690_296, 5.866),
    "a2_base": _size("a2", 5_249_562, 11.558),
    "a3_base": _size("a3", 7_397_545, 55.593),
    "a4_base": _size("a4", 11_349_463, 103.339),
    "a5_base": _size("a5", 18_650_523, 276.334),
    "a0_stream": _size("a0", 3_748_031, 2.426),
    "a1_stream": _size("a1", 6_447_352, 5.540),
    "a2_stream": _size("a2", 7_326_962, 10.700),
    "a3_stream": _size("a3", 10_986_618, 52.134),
    "a4_stream": _size("a4", 18_136_182, 96.741),
    "a5_stream": _size("a5", 31_495_934, 261.710),
    "small": {
        "input": (8, 40, 40, 3),
        "classes": 8,
        "params": 245_077,
        "gmac": 0.053,
        "paper": "none (small clips)",
    },  # [C]
}


ACTIVATIONS = {
    "none": lambda x: x,
    "swish": nn.swish,
    "hard_swish": nn.hard_swish,
    "sigmoid": nn.sigmoid,
    "hard_sigmoid": lambda x: nn.relu6(x + 3) * 0.16667,  # five digits of 1 / 6, as the original has them
    "keras_hard_sigmoid": lambda x: jnp.clip(0.2 * x + 0.5, 0, 1),  # that of the PyTorch port
}


CHOICES = {
    "conv_type": ("3d", "2plus1d", "3d_2plus1d"),
    "se_type": ("3d", "2d", "2plus3d"),
    "activation": tuple(ACTIVATIONS),
    "gating": tuple(ACTIVATIONS),
}


class Unit(nn.Module):
    """Convolution, batch norm and activation, SAME in rows and columns: (B, T, H, W, C) -> (B, T', H', W', features).

    `frames` is the padding in time; without `norm` the convolution has a bias.
    """

    features: int
    kernel: tuple
    conv: functools.partial
    norm: functools.partial | None
    stride: int = 1
    groups: int = 1
    frames: tuple = (0, 0)
    activation: str = "none"

    @nn.compact
    def __call__(self, x):
        strides = (1, self.stride, self.stride)
        pads = jax.lax.padtype_to_pads(x.shape[2:4], self.kernel[1:], strides[1:], "SAME")
        conv = functools.partial(self.conv, use_bias=self.norm is None, name="conv")
        x = conv(self.features, self.kernel, strides, (self.frames, *pads), self.groups)(x)
        x = x if self.norm is None else self.norm(name="bn")(x)
        return ACTIVATIONS[self.activation](x)


class Gate(nn.Module):
    """Squeeze and excitation by the means of rows, columns and frames: (B, T, H, W, C), state -> the same gated, state.

    `se_type` "3d": the mean of all frames, of those so far where `causal`; "2d": each frame's own; "2plus3d": both.
    With `positions` the number of the frame is added to the means as sines and cosines, times a learnt scale.
    """

    se_type: str
    causal: bool
    positions: bool
    activations: tuple
    dense: functools.partial

    @nn.compact
    def __call__(self, x, state):
        channels, parts, new = x.shape[-1], [], {}
        frames = x.astype(jnp.float32).mean(axis=(2, 3), keepdims=True)
        if "3d" in self.se_type:
            mean, new = running_mean(frames, state) if self.causal else (frames.mean(axis=1, keepdims=True), {})
            parts.append(jnp.broadcast_to(mean, frames.shape) if self.se_type == "2plus3d" else mean)
        means = jnp.concatenate(parts + ([frames] if "2" in self.se_type else []), axis=-1)
        if self.positions:
            first = state["pos_enc_frame_count"] if state else jnp.zeros(1, jnp.int32)
            scale = self.param("positions", nn.initializers.zeros, ())
            means = means + scale * frame_positions(first, means.shape[1], means.shape[-1])
            new["pos_enc_frame_count"] = first + means.shape[1]
        inner, outer = (ACTIVATIONS[name] for name in self.activations)
        width = squeezed(means.shape[-1])
        gate = outer(self.dense(channels, name="expand")(inner(self.dense(width, name="reduce")(means))))
        return x * gate.astype(x.dtype), new


def running_mean(frames, state):
    """Means of each frame and those before it: float32 (B, T, 1, 1, C), state or None -> the same, state."""
    seen = state["pool_frame_count"] if state else jnp.zeros(1, jnp.int32)
    total = jnp.cumsum(frames, axis=1) + (state["pool_buffer"] if state else 0)
    counts = seen + jnp.arange(1, frames.shape[1] + 1)
    new = {"pool_buffer": total[:, -1:], "pool_frame_count": counts[-1:]}
    return total / counts.astype(jnp.float32).reshape(1, -1, 1, 1, 1), new


def frame_positions(first, frames, channels):
    """Sines and then cosines of frames `first` (1,) and on: (1, frames, 1, 1, channels); Vaswani et al., 2017."""
    numbers = first + jnp.arange(frames)
    pairs = 2 * (jnp.arange(channels) // 2) / channels
    angles = numbers[:, None].astype(jnp.float32) * (1 / 10_000.0**pairs)[None]
    waves = jnp.concatenate([jnp.sin(angles[:, 0::2]), jnp.cos(angles[:, 1::2])], axis=-1)
    return waves.reshape(1, frames, 1, 1, channels)


def squeezed(channels):
    """A quarter of `channels` as a multiple of 8, at least nine tenths of it."""
    quarter = channels / 4
    width = max(8, int(quarter + 4) // 8 * 8)
    return width if width >= 0.9 * quarter else width + 8


class Block(nn.Module):
    """Inverted bottleneck: (B, T, H, W, C), state -> (B, T, H / stride, W / stride, features), state.

    Expansion, depthwise convolution in space and time, gate, projection; their sum is scaled by a learnt number that
    begins at 0, and added to the input or its mean-pooled projection.
    """

    features: int
    expanded: int
    kernel: tuple
    stride: int
    causal: bool
    conv_type: str
    activation: str
    drop_path: float
    gate: functools.partial
    unit: functools.partial

    @nn.compact
    def __call__(self, x, state, train):
        y = self.unit(self.expanded, (1, 1, 1), activation=self.activation, name="expand")(x)
        y, buffer = self.feature(y, state)
        y, new = self.gate(name="se")(y, state)
        y = self.unit(self.features, (1, 1, 1), name="project")(y)
        y = y * self.param("scale", nn.initializers.zeros, ()).astype(y.dtype)
        y = DropPath(not train, name="drop_path")(y, self.drop_path)
        if self.stride > 1:
            x = nn.avg_pool(x, (1, 3, 3), (1, self.stride, self.stride), "SAME", count_include_pad=False)
        if self.stride > 1 or x.shape[-1] != self.features:
            x = self.unit(self.features, (1, 1, 1), name="skip")(x)
        return x + y, new | buffer

    def feature(self, x, state):
        """The depthwise convolution: (B, T, H, W, C), state -> (B, T, H / stride, W / stride, C), its buffer if any.

        As one ("3d"), or of rows and columns and then of frames, each with its norm and activation. The buffer holds
        the frames before the clip that a causal convolution sees; without a state they are zeros.
        """
        (taps, k), stride, name = self.kernel, self.stride, "feature"
        unit = functools.partial(self.unit, self.expanded, groups=self.expanded, activation=self.activation)
        kernel = (taps, k, k)
        if self.conv_type != "3d" and taps > 1:
            x = unit((1, k, k), stride=stride, name=name)(x)
            kernel, stride, name = (taps, 1, 1), 1, "feature_temporal"
        pads, buffer = ((taps - 1, 0) if self.causal else (taps // 2, taps // 2)), {}
        if state and taps > 1:
            x, pads = jnp.concatenate([state["stream_buffer"], x], axis=1), (0, 0)
            buffer = {"stream_buffer": x[:, -(taps - 1) :]}
        return unit(kernel, stride=stride, frames=pads, name=name)(x), buffer


class Model(Streaming):
    """MoViNet: float32 RGB (B, T, H, W, 3) in [0, 1] -> float32 logits (B, num_classes), activations."""

    stem_width: int
    project_width: int
    widths: tuple
    kernels: tuple
    expansions: tuple
    strides: tuple = (2, 2, 2, 1, 2)
    hidden_width: int = 2048
    causal: bool = False
    conv_type: str = "3d"
    se_type: str = "3d"
    activation: str = "swish"
    gating: str = "sigmoid"
    positions: bool = False
    folded: bool = False
    num_classes: int = 600
    dropout: float = 0.5
    drop_path: float = 0.0
    dtype: str = "float32"
    mean: float | tuple = 0.0
    std: float | tuple = 1.0
    bn_momentum: float = 0.99
    bn_epsilon: float = 1e-3

    def initial_state(self, batch, height, width):
        """The state before the first frame, zeros: {name: array}; ValueError for a net that is not causal."""
        if not self.causal:
            raise ValueError("A movinet that is not causal has no state; choose a stream variant such as a0_stream.")
        found, size = {}, (-(-height // 2), -(-width // 2))
        for i, j, _, expanded, (taps, _), stride in self.blocks():
            strided = tuple(-(-n // stride) for n in size)
            state = _pool_state(batch, expanded) if "3d" in self.se_type else {}
            state |= {"pos_enc_frame_count": jnp.zeros(1, jnp.int32)} if self.positions else {}
            if taps > 1:
                shape = (batch, taps - 1, *(size if self.conv_type == "3d" else strided), expanded)
                state |= {"stream_buffer": jnp.zeros(shape, self.dtype)}
            found[f"block{i}_layer{j}"], size = state, strided
        return _flat(found | {"head": _pool_state(batch, self.project_width)})

    def blocks(self):
        """(stage, block, width, expanded width, kernel, stride) of every block."""
        stages = zip(self.widths, self.expansions, self.kernels, self.strides, strict=True)
        for i, (width, expansions, kernels, stride) in enumerate(stages):
            for j, (expanded, kernel) in enumerate(zip(expansions, kernels, strict=True)):
                yield i, j, width, expanded, kernel, 1 if j else stride

    @nn.compact
    def forward(self, video, state, train):
        """Logits, activations and state of a clip; with an empty `state`, or None, the clip is the first."""
        _check(self)
        state = state or {}
        x = normalise(video, self.mean, self.std).astype(self.dtype)
        norm = functools.partial(BatchNorm, not train, self.bn_momentum, self.bn_epsilon, self.dtype)
        conv = functools.partial(Conv3D, dtype=self.dtype)
        dense = functools.partial(Dense, dtype=self.dtype, kernel_init=nn.initializers.he_normal())
        unit = functools.partial(Unit, conv=conv, norm=None if self.folded else norm)
        gate = functools.partial(Gate, self.se_type, self.causal, self.positions, (self.activation, self.gating), dense)
        out, new, blocks = {}, {}, list(self.blocks())
        x = out["stem"] = unit(self.stem_width, (1, 3, 3), stride=2, activation=self.activation, name="stem")(x)
        for number, (i, j, *fields) in enumerate(blocks, 1):
            net = (self.causal, self.conv_type, self.activation, self.drop_path * number / len(blocks))
            block, place = Block(*fields, *net, gate, unit, name=f"stage{i}_block{j}"), f"block{i}_layer{j}"
            x, new[place] = block(x, _part(state, place), train)
            out[block.name] = x
        x = unit(self.project_width, (1, 1, 1), activation=self.activation, name="project")(x)
        frames = x.astype(jnp.float32).mean(axis=(2, 3), keepdims=True)
        means, new["head"] = running_mean(frames, _part(state, "head"))
        x = out["pool"] = means[:, -1, 0, 0]
        x = nn.swish(dense(self.hidden_width, name="hidden")(x)).astype(jnp.float32)
        x = out["pre_logits"] = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(x)
        if self.num_classes:
            x = nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01), name="head")(x)
        return x, out, _flat(new)


def _pool_state(batch, channels):
    """The state of `running_mean` before the first frame."""
    return {"pool_buffer": jnp.zeros((batch, 1, 1, 1, channels)), "pool_frame_count": jnp.zeros(1, jnp.int32)}


def _flat(states):
    """{block: {key: array}} by the names of the original: {"state_BLOCK_KEY": array}."""
    return {f"state_{name}_{key}": value for name, state in states.items() for key, value in state.items()}


def _part(state, name):
    """The state of one block: the inverse of `_flat`."""
    prefix = f"state_{name}_"
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _check(model):
    """ValueError unless the fields agree."""
    stages = [len(f) for f in (model.widths, model.kernels, model.expansions, model.strides)]
    if len(set(stages)) > 1:
        raise ValueError(f"movinet needs widths, kernels, expansions and strides of one length, not {stages}.")
    for field, known in CHOICES.items():
        if getattr(model, field) not in known:
            raise ValueError(f"movinet's field {field} is one of {', '.join(known)}, not {getattr(model, field)!r}.")


def _preprocess(variant):
    """What a net's weights expect: ten seconds of video at its own rate and size, RGB in [0, 1]."""
    frames, size = _NATIVE[variant[:2]]
    seen = {"order": "RGB", "range": (0.0, 1.0), "mean": 0.0, "std": 1.0}
    return seen | {"frames": frames, "stride": 250 // frames, "resize": size, "size": size}  # of 25 frames a second


REFERENCES = {key: row | {"preprocess": _preprocess(row["variant"])} for key, row in tables.references().items()}
