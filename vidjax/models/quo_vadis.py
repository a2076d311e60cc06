"""The rivals of I3D on one trunk: Inception-v1 with an LSTM, C3D with batch norm, two streams, and their 3-D fusion.

Paper: Quo Vadis, Action Recognition? (Carreira & Zisserman, CVPR 2017), figure 2 and table 1: (a) `lstm`, (b) `c3d`,
(c) `two_stream`, (d) `fused`; (e) is models/i3d.py, `two_stream`. RGB in [0, 1], flow stacks in [-1, 1] (20 pixels is
1; channels x1, y1, x2, y2, ...). Inputs: (a) 25 frames, one in five of 5 s; (b) 16 frames of 112x112; (c) {rgb, flow},
one frame and the 10 fields that follow it, in a test 25 of both; (d) {rgb, flow}, 5 frames 10 apart, 10 fields each.
Output: logits (B, num_classes). The trunk is backbones/inception.py; no weights of these nets are published.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from vidjax import backbones
from vidjax.nn import BatchNorm, Conv3D, max_pool, normalise

PAPER = "Carreira & Zisserman, CVPR 2017"

VARIANTS = {
    "lstm": {"net": "lstm"},
    "c3d": {"net": "c3d"},
    "two_stream": {"net": "two_stream"},
    "fused": {"net": "fused"},
}
_SMALL = {"trunk": "inception_v1_small", "bn_momentum": 0.9, "dropout": 0.0}
VARIANTS |= {  # ours, for clips of about 8x40x40
    "small": _SMALL | {"net": "c3d", "convs": ((16,), (32,), (32, 32), (48, 48)), "fcs": (64,)},
    "small_lstm": _SMALL | {"net": "lstm", "hidden": 64},
    "small_two_stream": _SMALL | {"net": "two_stream"},
    "small_fused": _SMALL | {"net": "fused", "hidden": 48},
}


def _size(params, gmac, shape, classes=400, paper=PAPER):
    return {"input": shape, "classes": classes, "params": params, "gmac": gmac, "paper": paper}


def _pair(frames, size=224, fields=10):
    return {"rgb": (frames, size, size, 3), "flow": (frames, size, size, 2 * fields)}


_OURS = {"classes": 8, "paper": "none (small clips)"}
SIZES = {  # [C] computed from the definition; they round to the paper's 9, 79, 12 and 39 M [P]; GMAC per view
    "lstm": _size(8_954_928, 37.518, (25, 224, 224, 3)),
    "c3d": _size(79_645_520, 19.821, (16, 112, 112, 3)),
    "two_stream": _size(12_073_120, 3.664, _pair(1)),
    "fused": _size(39_770_384, 25.254, _pair(5)),
    "small": _size(202_808, 0.052, (8, 40, 40, 3), **_OURS),
    "small_lstm": _size(83_592, 0.011, (8, 40, 40, 3), **_OURS),
    "small_two_stream": _size(71_680, 0.008, _pair(2, 40, 5), **_OURS),
    "small_fused": _size(401_832, 0.027, _pair(4, 40, 5), **_OURS),
}


class Lstm(nn.Module):
    """LSTM over time whose input projections are batch-normalised: (B, T, C) -> all hidden states (B, T, hidden).

    Gates i, f, g, o; the norm's bias is the gates' bias, and 1 is added to f. Laurent et al., ICASSP 2016: normalising
    the recurrent projections too, each step by its own statistics, would not fit clips of another length.
    """

    hidden: int
    norm: functools.partial

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4 * self.hidden, use_bias=False, name="input")(x)
        x = self.norm(name="input_bn")(x)
        weights = self.param("recurrent", nn.initializers.orthogonal(), (self.hidden, 4 * self.hidden))

        def step(state, x):
            h, c = state
            i, f, g, o = jnp.split(x + h @ weights, 4, axis=-1)
            c = nn.sigmoid(f + 1) * c + nn.sigmoid(i) * jnp.tanh(g)
            h = nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        start = jnp.zeros((x.shape[0], self.hidden), x.dtype)
        _, states = jax.lax.scan(step, (start, start), x.swapaxes(0, 1))
        return states.swapaxes(0, 1)


class Model(nn.Module):
    """One of the four nets: float32 video, or {rgb, flow} -> float32 logits (B, num_classes), activations.

    `hidden` is the width of the LSTM or of the fusing convolution. `mean` and `std` are RGB's.
    """

    net: str
    trunk: str = "inception_v1"
    hidden: int = 512
    convs: tuple = ((64,), (128,), (256, 256), (512, 512), (512, 512))
    fcs: tuple = (4096, 4096)
    num_classes: int = 400
    dropout: float = 0.5
    dtype: str = "float32"
    mean: float | tuple = 0.5
    std: float | tuple = 0.5
    bn_momentum: float = 0.99
    bn_epsilon: float = 1e-3

    @nn.compact
    def __call__(self, video, *, train):
        _check(self, video)
        videos = dict(video) if isinstance(video, dict) else {"rgb": video}
        videos["rgb"] = normalise(videos["rgb"], self.mean, self.std)
        videos = {name: x.astype(self.dtype) for name, x in videos.items()}
        return NETS[self.net](self, videos, train)


def lstm(model, videos, train):
    """(a) Features of every frame, an LSTM over them; `aux_logits/steps` (B, T, C) are trained, the last one scores."""
    out, norm = {}, functools.partial(_norm(model, train), dtype="float32")  # a recurrence needs every bit
    x = out["frames"] = _trunk(model, "rgb", videos["rgb"], train)["features"]
    states = out["states"] = Lstm(model.hidden, norm, name="lstm")(x)
    out["pre_logits"] = states[:, -1]
    if not model.num_classes:
        return out["pre_logits"], out
    states = nn.Dropout(model.dropout, deterministic=not train, name="dropout")(states)
    steps = out["aux_logits/steps"] = _head(model, "head")(states)
    return steps[:, -1], out


def c3d(model, videos, train):
    """(b) C3D with batch norm after every convolution and hidden layer, and the first pool of stride 2 in time."""
    out, norm, x = {}, _norm(model, train), videos["rgb"]
    for i, widths in enumerate(model.convs, 1):
        for letter, width in zip("ab", widths, strict=False):
            name = f"conv{i}{letter}"
            x = Conv3D(width, (3, 3, 3), dtype=model.dtype, name=name)(x)
            x = out[name] = nn.relu(norm(name=f"{name}_bn")(x))
        x = max_pool(x, (2, 2, 2), (2, 2, 2), "SAME")
    x = x.reshape(x.shape[0], -1).astype(jnp.float32)
    for i, width in enumerate(model.fcs, len(model.convs) + 1):
        x = nn.Dense(width, use_bias=False, dtype=model.dtype, name=f"fc{i}")(x)
        x = out[f"fc{i}"] = nn.relu(norm(name=f"fc{i}_bn")(x))
        x = nn.Dropout(model.dropout, deterministic=not train, name=f"dropout{i}")(x)
    x = out["pre_logits"] = x.astype(jnp.float32)
    return (_head(model, "head")(x) if model.num_classes else x), out


def two_stream(model, videos, train):
    """(c) A 2-D net on frames and one on flow stacks; their probabilities are averaged over both and over time.

    Each stream's `aux_logits` (B, T, C) can be trained apart, as the paper does.
    """
    out, scores = {}, []
    for name in ("rgb", "flow"):
        x = out[f"{name}/frames"] = _trunk(model, name, videos[name], train)["features"]
        if model.num_classes:
            x = nn.Dropout(model.dropout, deterministic=not train, name=f"{name}_dropout")(x)
            score = out[f"aux_logits/{name}"] = _head(model, f"{name}_head")(x)
            scores.append(nn.softmax(score).mean(axis=1))
    out["pre_logits"] = jnp.concatenate([out[f"{name}/frames"].mean(axis=1) for name in ("rgb", "flow")], axis=-1)
    return (jnp.log(sum(scores) / 2) if model.num_classes else out["pre_logits"]), out


def fused(model, videos, train):
    """(d) The last maps of both trunks, a 3x3x3 convolution over time and space, a 3x3x3 max pool, their mean, FC."""
    maps = [_trunk(model, name, videos[name], train)["map"] for name in ("rgb", "flow")]
    out = {"rgb/map": maps[0], "flow/map": maps[1]}
    gaussian = nn.initializers.normal(0.01)  # "the weights of these new layers are initialised with Gaussian noise"
    conv = Conv3D(model.hidden, (3, 3, 3), use_bias=True, dtype=model.dtype, kernel_init=gaussian, name="fusion")
    x = out["fusion"] = nn.relu(conv(jnp.concatenate(maps, axis=-1)))
    x = max_pool(x, (3, 3, 3), (2, 2, 2), "SAME").astype(jnp.float32).mean(axis=(1, 2, 3))
    x = out["pre_logits"] = nn.Dropout(model.dropout, deterministic=not train, name="dropout")(x)
    return (_head(model, "head")(x) if model.num_classes else x), out


NETS = {"lstm": lstm, "c3d": c3d, "two_stream": two_stream, "fused": fused}


def _trunk(model, name, x, train):
    """Activations of the frame net `name`."""
    options = {"dtype": model.dtype, "bn_momentum": model.bn_momentum, "bn_epsilon": model.bn_epsilon}
    return backbones.build(model.trunk, name=name, **options)(x, train=train)


def _norm(model, train):
    return functools.partial(BatchNorm, not train, model.bn_momentum, model.bn_epsilon, dtype=model.dtype)


def _head(model, name):
    return nn.Dense(model.num_classes, kernel_init=nn.initializers.normal(0.01), name=name)


def _check(model, video):
    """ValueError unless the fields and the input agree."""
    if model.net not in NETS:
        raise ValueError(f"quo_vadis's field net is one of {', '.join(NETS)}, not {model.net!r}.")
    needed = {"rgb", "flow"} if model.net in ("two_stream", "fused") else {"rgb"}
    given = set(video) if isinstance(video, dict) else {"rgb"}
    if not given >= needed:
        raise ValueError(f"quo_vadis's {model.net!r} needs the inputs rgb and flow by name; there is {sorted(given)}.")
    if model.net == "fused" and video["rgb"].shape[1] != video["flow"].shape[1]:
        frames = video["rgb"].shape[1], video["flow"].shape[1]
        raise ValueError(f"quo_vadis's 'fused' needs a flow stack for each RGB frame, not {frames[1]} for {frames[0]}.")


# What a user's weights expect: the model's own first line applies mean and std; flow is clipped at 20 pixels.
PREPROCESS = {"order": "RGB", "range": (0.0, 1.0), "mean": 0.5, "std": 0.5, "frames": 25, "resize": 256, "size": 224}
