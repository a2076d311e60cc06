"""A 2-D net on every frame, then a recurrent layer over time: LRCN and the small CNN + LSTM nets of tutorials.

Paper: Long-term Recurrent Convolutional Networks for Visual Recognition and Description (Donahue et al., CVPR 2015,
section 4): fc6 of a CaffeNet hybrid on each of 16 frames, LSTM, a class for every step, their softmaxes averaged.
Input: RGB in [0, 1] or a flow image in [-1, 1], (B, T, H, W, C), or a dict of it and `frame_mask` (B, T), 1 where a
frame is real. Output: logits (B, num_classes). References: LisaAnne/lisa-caffe-public; the trained Keras nets
`keras_lrcn` (16-32-64-64, LSTM 32) on classes of UCF50, whose layers are numbered here in their order.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from vidjax import backbones, recurrent
from vidjax.nn import Conv3D, Streaming, fresh_state, max_pool, normalise

PAPER = "Donahue et al., CVPR 2015"
# 0 to 255, BGR; the third mean is the released code's (the prototxt of the single-frame net says 123.68)
MEAN, STD = (103.939 / 255, 116.779 / 255, 128.68 / 255), 1 / 255

_CAFFENET = {"backbone": "caffenet", "backbone_fields": (("dropout", 0.9),), "head": "steps", "dropout": 0.5}
_RGB = {"mean": MEAN, "std": STD, "order": "BGR"}
_FLOW = {"mean": 0.0, "std": 1 / 128}  # x, y and magnitude, 0 to 255 around 128

VARIANTS = {
    "caffenet": _CAFFENET | _RGB | {"hidden": 256},  # section 4.1; more gains nothing on RGB
    "caffenet_flow": _CAFFENET | _FLOW | {"hidden": 1024},  # +1.7 % over 256; the released code has 256
    "resnet50": {"backbone": "resnet50", "hidden": 512, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
    "ucf50": {  # the Keras nets; their weights want BGR, which `vidjax convert` sets
        "convs": ((16, 4), (32, 4), (64, 2), (64, 2)),
        "conv_dropout": 0.25,
        "frame": "flatten",
        "hidden": 32,
    },
    "s0": {  # the founding document S0's net for 5 pictures of 28x28, a class for each; as printed it cannot be built
        "convs": ((32, 2),),
        "padding": "VALID",
        "frame": "flatten",
        "hidden": 128,
        "head": "steps",
    },
    # S3's: its one sigmoid output is the softmax of two classes, whose logits' difference it is
    "s3": {"convs": ((32, 2),), "padding": "VALID", "frame": "mean", "hidden": 128},
    "small": {  # ours, for clips of about 8x40x40: the state of the net keeps its places
        "backbone": "small",
        "backbone_fields": (("widths", (16, 24, 24)), ("strides", (2, 1, 1))),
        "recurrent": "convlstm",
        "hidden": 24,
        "head": "steps",
        "mean": 0.5,
        "std": 0.25,
    },
}


def _size(params, gmac, frames, size, classes, paper=PAPER):
    return {"input": (frames, size, size, 3), "classes": classes, "params": params, "gmac": gmac, "paper": paper}


_TUTORIAL = "none (a tutorial's net)"
SIZES = {  # [P] published, [C] computed from the definition (tests/models/test_lrcn.py); GMAC per view
    "caffenet": _size(65_421_285, 19.110, 16, 227, 101),  # [C]
    "caffenet_flow": _size(82_016_997, 19.376, 16, 227, 101),  # [C]
    "resnet50": _size(28_958_160, 65.478, 16, 224, 400, "ours, on He et al., CVPR 2016"),  # [C]
    "ucf50": _size(73_126, 0.068, 20, 64, 6, _TUTORIAL),  # [P] the files' own count
    "s0": _size(2_837_130, 0.017, 5, 28, 10, _TUTORIAL),  # [C]
    "s3": _size(83_586, 0.683, 16, 224, 2, _TUTORIAL),  # [C]
    "small": _size(50_968, 0.162, 8, 40, 8, "none (small clips)"),  # [C]
}


class FrameNet(nn.Module):
    """3x3 convolutions, each with ReLU and a pool, on every frame: (B, T, H, W, C) -> {name: (B, T, h, w, D)}.

    `convs` are pairs (features, pool): the maximum of pool x pool pixels, the size rounded down. `dropout` follows
    every pool but the last.
    """

    convs: tuple
    padding: str
    dropout: float
    dtype: str

    @nn.compact
    def __call__(self, x, *, train):
        out = {}
        for i, (features, size) in enumerate(self.convs):
            conv = Conv3D(features, (1, 3, 3), padding=self.padding, use_bias=True, dtype=self.dtype, name=f"conv{i}")
            x = max_pool(nn.relu(conv(x)), (1, size, size), (1, size, size))
            if not x.size:
                raise ValueError(f"Frames are too small for lrcn's {len(self.convs)} pools: nothing is left of them.")
            if i < len(self.convs) - 1:
                x = nn.Dropout(self.dropout, deterministic=not train, name=f"dropout{i}")(x)
            out[f"conv{i}"] = x
        return out | {"map": x}


class Model(Streaming):
    """LRCN: float32 frames (B, T, H, W, C) and perhaps a mask -> float32 logits (B, num_classes), activations.

    A frame net is `convs` or a `backbone` by its name in vidjax/backbones. `frame` says what the layer over time sees
    of it: a backbone's "features", its map "flatten"ed, or the map's "mean"; a "convlstm" sees the map itself, and
    its state is averaged over places. `head` "last" classifies the last state, "steps" every state: `logits` then are
    the logarithm of the mean softmax, and `aux_logits/steps` (B, T, num_classes) learn with `loss.weights`
    {"main": 0, "steps": 1}. A video may come in pieces: `stream` gives the logits of all frames so far.
    """

    hidden: int
    backbone: str = ""
    backbone_fields: tuple = ()  # (name, value)
    convs: tuple = ()
    padding: str = "SAME"
    conv_dropout: float = 0.0
    frame: str = "features"
    recurrent: str = "lstm"
    layers: int = 1
    both: bool = False
    options: tuple = ()  # of the recurrent layer: (name, value), such as ("reset", "before") of a gru
    head: str = "last"
    num_classes: int = 101
    dropout: float = 0.0
    dtype: str = "float32"
    mean: float | tuple = 0.0
    std: float | tuple = 1.0
    order: str = "RGB"

    def initial_state(self, batch, height, width, channels=3):
        """The state before the first frame, zeros; ValueError for a net that reads both ways."""
        if self.both:
            raise ValueError("This lrcn reads both ways and needs the whole video; choose one with both=False.")
        return fresh_state(self, (batch, 1, height, width, channels))

    @nn.compact
    def forward(self, video, state, train):
        """Logits, activations and state of a clip: the first where `state` is {}, a whole one where it is None.

        A state has "recurrent", the layers' own, and where every step is classified "total", the sums of what is
        averaged, and "frames", their number.
        """
        _check(self)
        video, mask = masked(video)
        x = normalise(video, self.mean, self.std, self.order).astype(self.dtype)
        if self.backbone:
            net = backbones.build(self.backbone, dtype=self.dtype, name="backbone", **dict(self.backbone_fields))
        else:
            net = FrameNet(self.convs, self.padding, self.conv_dropout, self.dtype, name="frame")
        out = dict(net(x, train=train))
        x = out["frames"] = seen(out, "map" if self.recurrent == "convlstm" else self.frame)
        kind, fields = self.recurrent, {"options": self.options, "dtype": self.dtype}
        stack = recurrent.Stack(kind, self.hidden, self.layers, self.both, **fields, name="recurrent")
        hidden, states = stack(x, mask, (state or {}).get("recurrent"))
        if self.recurrent == "convlstm":
            out["state"] = hidden
            hidden = hidden.mean((2, 3))
        out["hidden"] = hidden
        drop = nn.Dropout(self.dropout, deterministic=not train, name="dropout")
        head = nn.Dense(self.num_classes, name="head") if self.num_classes else lambda x: x
        new = {"recurrent": states}
        if self.head == "steps" and state is None:
            return *per_step(drop(hidden), mask, head, out), new
        if self.head == "steps":
            x = head(hidden)
            frames = state.get("frames", 0) + jnp.int32(x.shape[1])
            total = state.get("total", 0) + (nn.softmax(x) if self.num_classes else x).sum(1)
            mean = total / frames
            return (jnp.log(mean) if self.num_classes else mean), out, new | {"total": total, "frames": frames}
        x = recurrent.final(states)
        x = out["pre_logits"] = drop(x.mean((1, 2)) if self.recurrent == "convlstm" else x)
        return head(x), out, new


def masked(video):
    """(frames, mask or None) of a model's input: an array, or a dict of one modality and perhaps `frame_mask`."""
    if not isinstance(video, dict):
        return video, None
    frames = [key for key in video if key != "frame_mask"]
    if len(frames) != 1:
        raise ValueError(f"lrcn sees one modality and perhaps frame_mask, not {', '.join(sorted(video))}.")
    return video[frames[0]], video.get("frame_mask")


def seen(out, frame):
    """What the layer over time sees of a frame net's activations, float32."""
    x = out["features" if frame == "features" else "map"].astype(jnp.float32)
    if frame == "flatten":
        return x.reshape(*x.shape[:2], -1)
    return x.mean((2, 3)) if frame == "mean" else x


def per_step(hidden, mask, head, out):
    """Classifies every step: (B, T, D) -> the logarithm of the mean softmax of real steps (B, classes), activations."""
    weight = jnp.ones(hidden.shape[:2]) if mask is None else mask
    weight = weight / jnp.maximum(weight.sum(1, keepdims=True), 1)
    out["pre_logits"] = jnp.einsum("bt,btd->bd", weight, hidden)
    steps = head(hidden)
    if steps is hidden:
        return out["pre_logits"], out
    out["aux_logits/steps"] = steps
    if mask is not None:
        out["aux_mask/steps"] = mask
    return jax.nn.logsumexp(jax.nn.log_softmax(steps), 1, b=weight[..., None]), out


def _check(model):
    """ValueError unless the fields agree."""
    if bool(model.backbone) == bool(model.convs):
        raise ValueError("lrcn needs one of the fields backbone (a name) and convs (pairs of features and pool).")
    frames = ("features", "flatten", "mean") if model.backbone else ("flatten", "mean")
    if model.frame not in frames and model.recurrent != "convlstm":
        raise ValueError(f"lrcn's field frame is one of {', '.join(frames)} here, not {model.frame!r}.")
    if model.head not in ("last", "steps"):
        raise ValueError(f"lrcn's field head is 'last' or 'steps', not {model.head!r}.")


def keras_layers(tensors, arch=""):
    """Weights of a Keras net under names that say what they are: `conv0/kernel`, `lstm0/bias`, `dense0/kernel`.

    Of each kind the layers are numbered as the net has them, whatever numbers Keras gave them; names are
    `LAYER/kernel` as in .h5 files, or `NN_LAYER/i` with i of kernel, recurrent kernel, bias. A file of several nets
    has each one's names under `arch/`.
    """
    own = {name.removeprefix(f"{arch}/"): x for name, x in tensors.items() if name.startswith(f"{arch}/")}
    layers, found, numbers = {}, {}, {}
    for name, x in (own or tensors).items():
        layer, _, weight = name.partition("/")
        layers.setdefault(layer, {})[weight.rpartition("/")[2]] = x
    for layer in sorted(layers) if all(name[:2].isdigit() for name in layers) else layers:
        kind = next((ours for theirs, ours in _KERAS.items() if theirs in layer), layer)
        number = numbers[kind] = numbers.get(kind, -1) + 1
        parts = ("kernel", "bias") if len(layers[layer]) == 2 else ("kernel", "recurrent_kernel", "bias")
        indexed = {str(i): part for i, part in enumerate(parts)}
        found |= {f"{kind}{number}/{indexed.get(part, part)}": x for part, x in layers[layer].items()}
    return found


_KERAS = {"conv_lstm": "convlstm", "conv2d": "conv", "time_distributed": "conv", "lstm": "lstm", "dense": "dense"}

KERAS = [  # (name after `keras_layers`, our path or None to drop it, transform)
    (r"conv(\d)/kernel", r"params/frame/conv\1/kernel", (4, lambda x: x[None], lambda x: x[0])),
    (r"conv(\d)/bias", r"params/frame/conv\1/bias", None),
    (r"lstm(\d)/(kernel|recurrent_kernel|bias)", r"params/recurrent/layer\1/\2", None),
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


def _trained(arch, classes):
    fields = {"variant": "ucf50", "table": KERAS, "head": "dense0/bias", "preprocess": PREPROCESS}
    return fields | {"prepare": functools.partial(keras_layers, arch=arch), "classes": classes}


REFERENCES = {  # (source, the source's own name of the net)
    ("keras_lrcn", "amine_lrcn6"): _trained(
        "amine_lrcn6", ("PushUps", "PullUps", "TennisSwing", "Basketball", "HighJump", "SoccerJuggling")
    ),
    ("keras_lrcn", "ndanh_lrcn4"): _trained("ndanh_lrcn4", ("WalkingWithDog", "TaiChi", "Swing", "HorseRace")),
}
